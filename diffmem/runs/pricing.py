"""Times of many kernels at once: each different one is priced once."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from diffmem.fitting.kernel_times import kernel_times
from diffmem.system import FittedSystem, System
from diffmem.traces import Traces, schema
from diffmem.workloads.kernels import Kernel, Pass

# Compute units that kernel laws count with where a machine has none: a TPU's
# kernels fill its few matrix units whatever their tiles.
_FEW_UNITS = 8
# Nodes of the collectives that most fits have seen; beyond them the laws speak
# alone, because a learned correction knows nothing there.
_FITTED_NODES = 1.0
# Kernels of one operation that are priced at least: few sizes, few programs.
_LEAST_GROUP = 32


class Prices:
  """Times of kernels on one machine, remembered by shape."""

  def __init__(self, fitted: FittedSystem):
    self.fitted = with_units(fitted)
    self.memory = near_memory(fitted.system)
    self._time_s: dict[tuple, float] = {}

  def learn(self, kernels: Iterable[Kernel]) -> None:
    """Prices all kernels that are not known yet, in one call."""
    new = {_key(k): k for k in kernels}
    new = {key: k for key, k in new.items() if key not in self._time_s}
    if not new:
      return
    rows, keys = _padded(new)
    found = kernel_times(self.fitted, as_traces(rows))
    nodes = np.array(
      [
        k.shape.get('participants', 1.0) / k.shape.get('ranks_per_node', 1.0)
        for k in rows
      ]
    )
    time_s = np.where(nodes > _FITTED_NODES, found.by_laws_s, found.time_s)
    self._time_s |= dict(zip(keys, time_s.tolist(), strict=True))

  def __call__(self, kernel: Kernel) -> float:
    """Time of one such kernel [s]; `learn` must have seen it."""
    return self._time_s[_key(kernel)]

  def total(self, part: Pass, *ops: str) -> float:
    """Time of a pass's kernels of some operations, one after the other [s]."""
    return sum(k.count * self(k) for k in part.kernels if k.op in ops)


def with_units(fitted: FittedSystem) -> FittedSystem:
  """A machine for which kernel laws can count."""
  if fitted.system.compute_units > 1:
    return fitted
  system = dataclasses.replace(fitted.system, compute_units=_FEW_UNITS)
  return dataclasses.replace(fitted, system=system)


def near_memory(system: System) -> str:
  """The memory that a machine's engines compute from."""
  held = [t for t in system.tiers if not (t.is_cache or t.link)]
  return next(t.name for t in held if not t.via)


def _padded(new: Mapping[tuple, Kernel]) -> tuple[list[Kernel], list[tuple]]:
  """Kernels by operation, each a power of two of them, and their keys.

  The last is repeated: few sizes mean few compiled programs.
  """
  by_op: dict[str, list[tuple]] = {}
  for key, kernel in new.items():
    by_op.setdefault(kernel.op, []).append(key)
  keys = []
  for group in by_op.values():
    size = max(_LEAST_GROUP, 1 << (len(group) - 1).bit_length())
    keys += group + [group[-1]] * (size - len(group))
  return [new[key] for key in keys], keys


def as_traces(kernels: Sequence[Kernel]) -> Traces:
  """Kernels as rows of the trace schema; what they observe is a placeholder."""
  n = len(kernels)
  names = dict.fromkeys(name for k in kernels for name in k.shape)
  columns: dict[str, np.ndarray] = {
    'system': np.full(n, 'asked', object),
    'op': np.array([k.op for k in kernels], object),
    'time_s': np.ones(n),
  }
  for name in names:
    is_text = schema.BY_NAME[name].kind is schema.Kind.TEXT
    fill = '' if is_text else np.nan
    values = [k.shape.get(name, fill) for k in kernels]
    columns[name] = np.array(values, object if is_text else float)
  return Traces(columns)


def _key(kernel: Kernel) -> tuple:
  return (kernel.op, *_items(kernel.shape))


def _items(shape: Mapping) -> tuple:
  return tuple(sorted(shape.items()))
