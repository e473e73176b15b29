"""The whole space in batches of one compiled shape.

Every configuration is first valued with everything in the near memory, which
bounds it from below whatever its placement; those that do not fit there are
valued again under the greedy placement, in the order of their bounds, until
the bounds exceed the best ones found. What is left out is therefore no better.
"""

import concurrent.futures
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from diffmem.planning import model
from diffmem.planning.space import Space
from diffmem.system import System

_BATCH = 2048
# A batch keeps one core busy.
_THREADS = os.cpu_count() or 1
# Below this many configurations the program is compiled without optimisation.
_SMALL = 300_000

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
  run = model.sweep_small if len(space) < _SMALL else model.sweep_large

  def value_all(indices, spill, report=None):
    """All batches; the first one compiles, the rest share the cores."""
    batches = _batches(indices, _BATCH)
    found = [_one(run, system, job, space, batches[0], spill)]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      rest = pool.map(
        lambda b: _one(run, system, job, space, b, spill), batches[1:]
      )
      for i in range(len(batches)):
        if i:
          found.append(next(rest))
        if report:
          report(min((i + 1) * _BATCH, len(indices)), len(indices))
    return [np.concatenate(column) for column in zip(*found, strict=True)]

  everything = np.arange(len(space))
  bound, spilled_B, overflow_B = value_all(everything, 0.0, on_progress)
  value = np.where((spilled_B <= 0) & (overflow_B <= 0), bound, np.inf)
  spilled = np.flatnonzero((spilled_B > 0) & (overflow_B <= 0))
  spilled = spilled[np.argsort(bound[spilled], kind='stable')]
  keep = min(keep, len(space)) - 1
  for block in _batches(spilled, _THREADS * _BATCH):
    if bound[block[0]] >= np.partition(value, keep)[keep]:
      break
    value[block] = value_all(block, 1.0)[0]
  return Swept(bound, value, overflow_B)


def _batches(indices: np.ndarray, size: int) -> list[np.ndarray]:
  return [indices[i : i + size] for i in range(0, len(indices), size)]


def _one(run, system, job, space, batch, spill: float) -> tuple:
  """One batch, padded to the compiled shape with its last plan."""
  padded = np.concatenate([batch, np.repeat(batch[-1:], _BATCH - len(batch))])
  choices = jax.tree.map(np.float32, space.at(padded))
  with jax.enable_x64(False):
    found = run(system, job, choices, np.full(_BATCH, spill, np.float32))
    found = jax.device_get(found)
  return tuple(np.asarray(x, np.float64)[: len(batch)] for x in found)
