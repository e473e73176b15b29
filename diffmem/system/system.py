"""A system: tiers, engines and what they share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Float

from diffmem import errors
from diffmem.system import parameters
from diffmem.system.engine import Engine
from diffmem.system.tier import Tier

Scalar = Float[ArrayLike, '...']


@parameters.pytree
class System:
  """One device with the tiers and links that it reaches.

  A pytree: leaves are log-parameters, so a system can be fitted, vmapped over
  an ensemble (a leading axis on every leaf) and differentiated through.

  Attributes:
    name: such as 'h100-sxm'.
    tiers: memories, their caches (inner first) and links.
    engines: one per unit and number format.
    compute_units: SMs, compute units or tensor cores that share the tiles of
      a kernel; 1 where kernels are not tiled over units.
  """

  name: str = parameters.static()
  tiers: tuple[Tier, ...]
  engines: tuple[Engine, ...]
  compute_units: int = parameters.static(1)

  log_launch_s: Scalar = parameters.parameter(
    's', 5e-6, 1.0, 'start of one framework launch'
  )
  log_overlap_p: Scalar = parameters.parameter(
    '1', 4.0, 0.7, 'overlap of engines and memories; 1 is none'
  )
  log_link_overlap_p: Scalar = parameters.parameter(
    '1', 2.0, 0.7, 'overlap of links with all local work; 1 is none'
  )
  log_private_loss: Scalar = parameters.parameter(
    '1', 0.03, 1.0, 'private tiers: n participants are worth n^(1 - loss)'
  )
  log_tlb_reach_B: Scalar = parameters.parameter(
    'B', 256e3, 1.0, 'bytes that the first translation cache of a core covers'
  )
  log_tlb_miss_s: Scalar = parameters.parameter(
    's', 1e-12, 1.0, 'a miss of the first that the second translation serves'
  )
  log_page_reach_B: Scalar = parameters.parameter(
    'B', 64e6, 1.5, 'bytes that all translation caches of a core cover'
  )
  log_page_walk_s: Scalar = parameters.parameter(
    's', 20e-9, 1.0, 'page walk of one translation miss'
  )
  log_static_W: Scalar = parameters.parameter(
    'W', 100.0, 0.5, 'power that flows whatever is done'
  )
  log_power_cap_W: Scalar = parameters.parameter(
    'W', 700.0, 0.05, 'power at which the board slows down'
  )
  log_throttle_share: Scalar = parameters.parameter(
    '1', 1.0, 0.5, 'share of the energy above the cap that becomes time'
  )

  @classmethod
  def of(
    cls,
    name: str,
    tiers: tuple[Tier, ...] | list[Tier],
    engines: tuple[Engine, ...] | list[Engine] = (),
    **physical: Any,
  ) -> 'System':
    """Builds a system from physical values in SI units.

    Raises:
      SpecError: a repeated name, or `home` or `via` that is no tier.
    """
    _check_structure(name, tiers, engines)
    return parameters.build(
      cls,
      name=name,
      tiers=tuple(tiers),
      engines=tuple(engines),
      **physical,
    )

  @property
  def tier_names(self) -> tuple[str, ...]:
    """Names along the `tier` axis of a `Demand`."""
    return tuple(t.name for t in self.tiers)

  @property
  def engine_names(self) -> tuple[str, ...]:
    """Names along the `engine` axis of a `Demand`."""
    return tuple(e.name for e in self.engines)

  def tier(self, name: str) -> Tier:
    """The tier of that name; SpecError when there is none."""
    return self.tiers[index_of(self.tier_names, name, 'tier', self.name)]

  def engine(self, name: str) -> Engine:
    """The engine of that name; SpecError when there is none."""
    names = self.engine_names
    return self.engines[index_of(names, name, 'engine', self.name)]

  def values(self) -> dict[str, Any]:
    """Every parameter's physical value, by full name ('HBM.latency_s')."""
    infos = self.infos()
    return {
      name: parameters.from_leaf(leaf, infos[name])
      for name, leaf in leaves_by_name(self).items()
    }

  def infos(self) -> dict[str, parameters.ParameterInfo]:
    """Every parameter's meaning, by full name, in leaf order."""
    found = {}
    for part in (*self.tiers, *self.engines):
      for name, info in parameters.parameter_infos(type(part)).items():
        found[f'{part.name}.{name}'] = info
    for name, info in parameters.parameter_infos(System).items():
      found[f'system.{name}'] = info
    return found

  def active(self) -> frozenset[str]:
    """Full names of the parameters that the laws of this system read."""
    names = {f'{t.name}.{p}' for t in self.tiers for p in t.active_parameters()}
    names |= {n for n in self.infos() if n.split('.')[0] in self.engine_names}
    names |= {n for n in self.infos() if n.startswith('system.')}
    return frozenset(names)

  def with_values(self, physical: Mapping[str, Any]) -> 'System':
    """A copy with some parameters set, by full name, in SI units.

    Raises:
      SpecError: an unknown name, with the nearest known one.
    """
    infos = self.infos()
    leaves = leaves_by_name(self)
    for name, value in physical.items():
      index_of(tuple(infos), name, 'parameter', self.name)
      leaves[name] = parameters.to_leaf(value, infos[name])
    return from_leaves(self, leaves)


def index_of(names: tuple[str, ...], name: str, what: str, owner: str) -> int:
  """Position of a name; SpecError with the nearest known one when absent."""
  if name in names:
    return names.index(name)
  import difflib

  near = difflib.get_close_matches(name, names, 1, 0.4)
  hint = f'; did you mean {near[0]!r}?' if near else ''
  raise errors.SpecError(
    f'{owner} has no {what} {name!r}{hint} (it has {", ".join(names)})'
  )


def leaves_by_name(system: System) -> dict[str, Any]:
  """Full parameter name -> leaf (log-parameter), in pytree order."""
  return dict(zip(system.infos(), jax.tree.leaves(system), strict=True))


def from_leaves(system: System, leaves: Mapping[str, Any]) -> System:
  """The same structure with other leaves, by full name."""
  ordered = [leaves[name] for name in system.infos()]
  return jax.tree.unflatten(jax.tree.structure(system), ordered)


def rename(system: System, name: str) -> System:
  """The same system under another name."""
  return dataclasses.replace(system, name=name)


def to_numpy(system: System) -> System:
  """Leaves as numpy float64 arrays, all of them new.

  jax may remember an array that it has met as float32 (`fresh`); it has met
  none of these.
  """
  return jax.tree.map(lambda x: np.array(x, np.float64), system)


def fresh(tree: Any) -> Any:
  """The same values in numpy arrays that jax has not met: views of them.

  jax (0.10.1, `_canonicalize_ndarray_dtype`) remembers by identity what it
  made of a numpy array, for as long as anything holds that, and whatever x64
  says by then. An array that was a constant of a traced function without x64
  would come to a float64 program as float32, which refuses it.
  """
  return jax.tree.map(
    lambda x: x.view() if isinstance(x, np.ndarray) else x, tree
  )


def _check_structure(name, tiers, engines) -> None:
  names = [p.name for p in (*tiers, *engines)]
  repeated = sorted({n for n in names if names.count(n) > 1})
  if repeated:
    raise errors.SpecError(f'{name}: {repeated[0]!r} is there twice')
  by_name = {t.name: t for t in tiers}
  for tier in tiers:
    for role in ('home', 'via'):
      other = getattr(tier, role)
      if other and (other not in by_name or other == tier.name):
        raise errors.SpecError(
          f'{name}: {tier.name}.{role} is {other!r}, which is no other tier'
        )
    if tier.via and not by_name[tier.via].link:
      raise errors.SpecError(
        f'{name}: {tier.name}.via is {tier.via!r}, which is no link'
      )
    if tier.home and by_name[tier.home].is_cache:
      raise errors.SpecError(
        f'{name}: {tier.name}.home must be a memory, not the cache '
        f'{tier.home!r}'
      )
