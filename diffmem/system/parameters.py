"""Parameters of a machine: what they are called, their units, their priors.

A parameter is a scalar leaf of a frozen pytree dataclass. Rates, times, sizes
and energies are positive, so the leaf is the natural logarithm: the field
`log_latency_s` holds log(seconds), the property `latency_s` gives seconds. A
fit moves the logarithm, a prior is a normal distribution on it, and a standard
error of 0.02 reads as "2 %". The few that may have either sign (`bend_...`)
are plain leaves.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_PREFIX = 'log_'


class ParameterInfo(NamedTuple):
  """What a parameter means.

  Attributes:
    unit: SI unit of the physical value.
    default: physical value where nothing is known.
    prior_sd: standard deviation of the prior, in log units (plain units for
      a parameter without logarithm), around whatever value the system has.
    help: one line.
    is_log: whether the leaf holds the logarithm.
  """

  unit: str
  default: float
  prior_sd: float
  help: str
  is_log: bool


def static(default: Any = dataclasses.MISSING) -> Any:
  """A field that is part of the pytree's structure, not a leaf."""
  return dataclasses.field(default=default, metadata={'static': True})


def parameter(unit: str, default: float, prior_sd: float, help: str) -> Any:
  """Declares a parameter field; `log_` in its name decides the logarithm."""
  return dataclasses.field(
    metadata={'parameter': (unit, default, prior_sd, help)}
  )


def parameter_infos(cls: type) -> dict[str, ParameterInfo]:
  """Physical name -> what it means, in declaration order."""
  infos = {}
  for field in dataclasses.fields(cls):
    if 'parameter' in field.metadata:
      is_log = field.name.startswith(_PREFIX)
      infos[field.name.removeprefix(_PREFIX)] = ParameterInfo(
        *field.metadata['parameter'], is_log
      )
  return infos


def field_name(name: str, info: ParameterInfo) -> str:
  """The dataclass field that holds a parameter."""
  return _PREFIX + name if info.is_log else name


def to_leaf(value: Any, info: ParameterInfo) -> Any:
  """Physical value -> leaf."""
  if isinstance(value, jax.Array):
    return jnp.log(value) if info.is_log else value
  value = np.asarray(value, np.float64)
  return np.log(value) if info.is_log else value


def from_leaf(leaf: Any, info: ParameterInfo) -> Any:
  """Leaf -> physical value; numpy in, numpy out."""
  if not info.is_log:
    return leaf
  return jnp.exp(leaf) if isinstance(leaf, jax.Array) else np.exp(leaf)


def pytree(cls: type) -> type:
  """Class decorator: frozen pytree dataclass with physical properties.

  For every field `log_x` the class gets a read-only property `x` that is
  `exp(log_x)`, and `of(**physical)` builds an instance from physical values,
  defaults filling what is not given.
  """
  cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
  for name, info in parameter_infos(cls).items():
    if info.is_log:
      setattr(cls, name, _physical_property(name, info))
  return jax.tree_util.register_dataclass(cls)


def _physical_property(name: str, info: ParameterInfo) -> property:
  def get(self):
    return from_leaf(getattr(self, _PREFIX + name), info)

  get.__doc__ = f'{info.help} [{info.unit}]'
  return property(get)


def build(cls: type, **physical: Any) -> Any:
  """Builds a parameter pytree from physical values.

  Raises:
    TypeError: a name that the class does not have.
  """
  infos = parameter_infos(cls)
  kwargs = {}
  for name, info in infos.items():
    value = physical.pop(name, info.default)
    kwargs[field_name(name, info)] = to_leaf(value, info)
  return cls(**kwargs, **physical)
