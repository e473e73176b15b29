"""The whole space in batches of one compiled shape.

Every configuration is first valued with everything in the near memory, which
bounds it from below whatever its placement; those that do not fit there are
valued again under the greedy placement, in the order of their bounds, until
the bounds exceed the best ones found. What is left out is therefore no better.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from diffmem.planning import model, programs, spread
from diffmem.planning.space import Space
from diffmem.planning.unrolled import sweep as unrolled_sweep
from diffmem.system import System

# Above this many configurations an optimised program pays for its compilation,
# and larger batches for their memory.
_LARGE = 400_000
# What a large space is worth: further passes take longer and bring nothing.
_SOME = {'xla_backend_optimization_level': 1}
_BATCHES = {False: 2048, True: 16384}
# Batches of the second pass after which it looks whether it is done.
_BLOCK = 4

Progress = Callable[[int, int], None]


class Swept(NamedTuple):
  """Values of a whole space, [plan]; lower is better.

  Attributes:
    bound: with everything near: below every placement.
    value: under the greedy placement; infinite where it was not needed (see
      above) or where the plan does not fit.
    overflow_B: bytes of a device for which there is no room anywhere;
      infinite where an interrupt came first.
  """

  bound: np.ndarray
  value: np.ndarray
  overflow_B: np.ndarray

  @property
  def is_whole(self) -> bool:
    """Whether every configuration was valued."""
    return bool(np.isfinite(self.overflow_B).all())

  @property
  def fits(self) -> np.ndarray:
    """Configurations for which there is room."""
    return self.overflow_B <= 0


def sweep(
  system: System,
  job: model.Job,
  space: Space,
  keep: int,
  on_progress: Progress | None = None,
) -> Swept:
  """Values every configuration, in float32.

  An interrupt (Ctrl-C) ends it with what is known by then.

  Args:
    system: the machine.
    job: what is planned.
    space: the configurations.
    keep: how many of the best must be exact under the greedy placement.
    on_progress: called with configurations done and in all.
  """
  size = len(space)
  swept = nothing(size)
  spilled = np.zeros(size, bool)
  is_large = size >= _LARGE
  near, greedy = _programs(system, job, is_large)
  batch = _BATCHES[is_large]
  with contextlib.suppress(KeyboardInterrupt):
    _fill_near(swept, spilled, near, space, batch, on_progress)
  with contextlib.suppress(KeyboardInterrupt):
    _fill_greedy(swept, spilled, greedy, space, batch, min(keep, size))
  return swept


def nothing(size: int) -> Swept:
  """Of a space of which nothing is known yet."""
  return Swept(np.zeros(size), np.full(size, np.inf), np.full(size, np.inf))


def _fill_near(swept, spilled, near, space, batch, on_progress) -> None:
  """Writes bounds, and values of what fits near, as batches come in."""
  done, everything = 0, np.arange(len(space))
  for index, found in spread.map_batches(near, space, everything, batch):
    swept.bound[index], spilled_B, swept.overflow_B[index] = found
    fits_near = (spilled_B <= 0) & swept.fits[index]
    swept.value[index] = np.where(fits_near, found[0], np.inf)
    spilled[index] = (spilled_B > 0) & swept.fits[index]
    done += len(index)
    if on_progress:
      on_progress(done, len(space))


def _fill_greedy(swept, spilled, greedy, space, batch, keep) -> None:
  """Writes values of the others, until no bound is below the best ones."""
  spilled = np.flatnonzero(spilled)
  spilled = spilled[np.argsort(swept.bound[spilled], kind='stable')]
  for first in range(0, len(spilled), _BLOCK * batch):
    some = spilled[first : first + _BLOCK * batch]
    if swept.bound[some[0]] >= np.partition(swept.value, keep - 1)[keep - 1]:
      break
    for index, found in spread.map_batches(greedy, space, some, batch):
      swept.value[index] = found[0]


def _programs(system: System, job: model.Job, is_large: bool):
  """Everything near, and the greedy placement, for a batch of choices."""
  weights = jax.tree.map(np.float32, job.objective.weights)
  small = jax.tree.map(np.float32, system)

  def run(program, spill):
    def call(choices):
      with jax.enable_x64(False):
        found = program(small, job.shape, weights, choices, *spill)
        return jax.device_get(found)

    return call

  if job.homes or any(t.contended for t in system.tiers):
    size = _BATCHES[is_large]
    return [
      run(model.sweep, [np.full(size, spill, np.float32)])
      for spill in (0.0, 1.0)
    ]
  return [run(program, []) for program in _UNROLLED[is_large]]


def _near(system, job, weights, choices):
  lowered = model.lower(job, choices)
  return unrolled_sweep.swept(system, lowered, weights, None)


def _greedy(system, job, weights, choices):
  lowered = model.lower(job, choices)
  spill = np.ones(1, np.float32)
  return unrolled_sweep.swept(system, lowered, weights, spill)


_UNROLLED = {
  is_large: [programs.Program(fn, (1,), options) for fn in (_near, _greedy)]
  for is_large, options in ((False, model.QUICK), (True, _SOME))
}
