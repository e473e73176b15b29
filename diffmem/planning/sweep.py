"""The whole space in batches of one compiled shape.

Every configuration is first valued with everything in the near memory, which
bounds it from below whatever its placement; those that do not fit there are
valued again under the greedy placement, in the order of their bounds, until
the bounds exceed the best ones found. What is left out is therefore no better.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from diffmem.planning import model
from diffmem.planning.space import Space
from diffmem.system import System

_BATCH = 2048
# Below this many configurations the program is compiled without optimisation.
_SMALL = 60_000

Progress = Callable[[int, int], None]


class Swept(NamedTuple):
  """Values of a whole space, [plan]; lower is better.

  Attributes:
    bound: with everything near: below every placement.
    value: under the greedy placement; infinite where it was not needed (see
      above) or where the plan does not fit.
    overflow_B: bytes of a device for which there is no room anywhere.
  """

  bound: np.ndarray
  value: np.ndarray
  overflow_B: np.ndarray


def sweep(
  system: System,
  job: model.Job,
  space: Space,
  keep: int,
  on_progress: Progress | None = None,
) -> Swept:
  """Values every configuration, in float32.

  Args:
    system: the machine.
    job: what is planned.
    space: the configurations.
    keep: how many of the best must be exact under the greedy placement.
    on_progress: called with configurations done and in all.
  """
  everything = np.arange(len(space))
  run = model.sweep_small if len(space) < _SMALL else model.sweep_large
  batches = []
  for batch in _batches(everything):
    batches.append(_one(run, system, job, space, batch, 0.0))
    if on_progress:
      on_progress(min(len(batches) * _BATCH, len(space)), len(space))
  bound, spilled_B, overflow_B = (
    np.concatenate([np.asarray(b[i], np.float64) for b in batches])
    for i in range(3)
  )
  bound, spilled_B, overflow_B = (
    x[: len(space)] for x in (bound, spilled_B, overflow_B)
  )
  value = np.where((spilled_B <= 0) & (overflow_B <= 0), bound, np.inf)
  spilled = np.flatnonzero((spilled_B > 0) & (overflow_B <= 0))
  spilled = spilled[np.argsort(bound[spilled])]
  for batch in _batches(spilled):
    worst_kept = np.partition(value, min(keep, len(value)) - 1)[
      min(keep, len(value)) - 1
    ]
    if bound[batch[0]] >= worst_kept:
      break
    found = _one(run, system, job, space, batch, 1.0)
    value[batch] = np.asarray(found.value)[: len(batch)]
  return Swept(bound, value, overflow_B)


def _batches(indices: np.ndarray) -> list[np.ndarray]:
  return [indices[i : i + _BATCH] for i in range(0, len(indices), _BATCH)]


def _one(run, system, job, space, batch, spill: float) -> model.Swept:
  """One batch, padded to the compiled shape with its last plan."""
  padded = np.concatenate([batch, np.repeat(batch[-1:], _BATCH - len(batch))])
  choices = jax.tree.map(np.float32, space.at(padded))
  with jax.enable_x64(False):
    return run(system, job, choices, np.full(_BATCH, spill, np.float32))
