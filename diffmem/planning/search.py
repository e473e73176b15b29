"""The search: sweep, placements of the most promising, bounds of all others.

A space is searched once for each number format (a `Branch`). The stages:

* every configuration is valued with everything near, and as far as needed
  under the greedy placement (`diffmem.planning.sweep`);
* the placement of the best is solved (`diffmem.planning.cutting_planes`);
* every other configuration is bounded from below (`diffmem.planning.dual_bank`)
  and those whose bound does not exclude them are solved too, the least bound
  first, until none is left that could be better by more than `TOLERANCE`.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from diffmem.planning import cutting_planes, dual_bank, model, sensitivity
from diffmem.planning import sweep as sweep_lib
from diffmem.planning.space import Space
from diffmem.system import System

# What the search leaves open of the best value.
TOLERANCE = 2e-4
# Meshes whose placement is solved, for each plan that is asked for.
_SOLVED_PER_PLAN = 3
# Survivors of the bounds that are solved one by one, and for how long.
_MOST_SURVIVORS = 400
_SECONDS = 8.0
# What the sweep's float32 may be wrong by, many times over.
_FLOAT32_ERROR = 1e-4

Progress = Callable[[str, int, int], None]


class Branch(NamedTuple):
  """A space under one number format.

  Attributes:
    job: what is planned.
    space: its configurations.
    swept: their values.
  """

  job: model.Job
  space: Space
  swept: sweep_lib.Swept


class Solved(NamedTuple):
  """A configuration with its best placement in fractions."""

  branch: int
  index: int
  solution: cutting_planes.Solution


class Found(NamedTuple):
  """What the search found.

  Attributes:
    system: the machine, numpy float64 leaves.
    branches: one for each number format.
    solved: the best by their fractional optimum first.
    bounds: of every branch's configurations, which none of their placements
      is below; infinite where nothing fits.
    placed: configurations whose placement was solved or bounded by solving.
    is_whole: False where an interrupt came first.
    top: how many plans are wanted.
  """

  system: System
  branches: list[Branch]
  solved: list[Solved]
  bounds: list[np.ndarray]
  placed: int
  is_whole: bool
  top: int

  @property
  def least(self) -> float:
    """No configuration has a placement in fractions below."""
    best = self.solved[0].solution.value
    return float(min(best, *(b.min() for b in self.bounds)))

  @property
  def gap(self) -> float:
    """How far below the best fractional value any placement could be."""
    best = self.solved[0].solution.value
    return (best - self.least) / best

  def choices(self, solved: Solved) -> model.Choices:
    """Of one configuration, with a plan axis of one."""
    return self.branches[solved.branch].space.at(np.array([solved.index]))

  def job(self, solved: Solved) -> model.Job:
    """What a configuration was solved for."""
    return self.branches[solved.branch].job


def search(
  system: System,
  jobs: list[model.Job],
  space: Space,
  chips: int,
  top: int,
  on_progress: Progress | None = None,
) -> Found:
  """Searches a space for each job.

  Args:
    system: the machine, numpy float64 leaves.
    jobs: alike but for the number format.
    space: their configurations.
    chips: devices of the mesh.
    top: how many plans are wanted.
    on_progress: called with a stage's name, how much is done and in all.

  Returns:
    what was found; `solved` is empty where nothing fits.
  """
  report = on_progress or (lambda *_: None)
  keep = min(_SOLVED_PER_PLAN * top, len(space))
  branches = []
  for job in jobs:
    stage = 'configurations' if len(jobs) == 1 else job.machine.engine
    swept = sweep_lib.sweep(
      system, job, space, keep,
      lambda done, total, stage=stage: report(stage, done, total),
    )  # fmt: skip
    branches.append(Branch(job, space, swept))
    if not swept.is_whole:
      break
  is_swept = len(branches) == len(jobs) and branches[-1].swept.is_whole
  unknown = sweep_lib.nothing(len(space))
  branches += [Branch(job, space, unknown) for job in jobs[len(branches) :]]
  bounds = [_first_bounds(system, b, chips) for b in branches]
  found = Found(system, branches, [], bounds, 0, False, top)
  if not any(np.isfinite(b.swept.value).any() for b in branches):
    return found._replace(is_whole=is_swept)
  with jax.enable_x64(True):
    return _place(found, keep, is_swept, report)


def _first_bounds(system: System, branch: Branch, chips: int) -> np.ndarray:
  """Bounds that the sweep gives; where it did not come, the engine's peak."""
  swept = branch.swept
  bounds = np.where(
    swept.fits | bool(branch.job.homes),
    swept.bound * (1.0 - _FLOAT32_ERROR),
    np.inf,
  )
  if swept.is_whole:
    return bounds
  unknown = ~np.isfinite(swept.overflow_B)
  one = jax.tree.map(np.float64, branch.space.at(np.array([0])))
  flops = float(model.lower(branch.job, one).model_flops[0])
  engine = system.engine(branch.job.machine.engine)
  least_s = flops / chips / float(engine.rate_FLOPps)
  return np.where(unknown, branch.job.objective.per_s * least_s, bounds)


def _place(found: Found, keep: int, is_swept: bool, report) -> Found:
  """Solves and bounds; an interrupt ends it with what is known by then."""
  solved: list[Solved] = []
  is_whole = False
  try:
    branch, index = next(_promising(found, 1))
    job, space, _ = found.branches[branch]
    model.compile_together(found.system, job, space.at(np.array([index])))
    for one in _promising(found, keep):
      _solve(found, solved, *one, give_up_at=_last(solved, found.top))
    if is_swept:
      _bound(found, solved, report)
      is_whole = True
  except KeyboardInterrupt:
    if not solved:
      branch, index = next(_promising(found, 1))
      _solve(found, solved, branch, index)
  for one in solved:
    found.bounds[one.branch][one.index] = one.solution.bound
  solved.sort(key=lambda s: s.solution.value)
  placed = sum(len(s.solution.planes.offsets) > 1 for s in solved)
  return found._replace(solved=solved, placed=placed, is_whole=is_whole)


def _promising(found: Found, keep: int) -> Iterator[tuple[int, int]]:
  """Configurations that are best under the greedy placement."""
  values = [(v, b) for b, branch in enumerate(found.branches)
            for v in np.sort(branch.swept.value)[:keep]]  # fmt: skip
  most = sorted(v for v, _ in values)[:keep][-1]
  order = []
  for b, branch in enumerate(found.branches):
    value = branch.swept.value
    index = np.flatnonzero(np.isfinite(value) & (value <= most))
    order += [(value[i], b, int(i)) for i in index]
  for _, b, i in sorted(order)[:keep]:
    yield b, i


def _last(solved: list[Solved], top: int) -> float:
  """The worst value among the best `top`."""
  values = sorted(s.solution.value for s in solved)
  return values[top - 1] if len(values) >= top else np.inf


def _solve(found, solved, branch, index, give_up_at=np.inf) -> None:
  """Solves a placement; where laws are not convex, branch and bound too."""
  job, space, _ = found.branches[branch]
  choices = space.at(np.array([index]))
  solution = sensitivity.solve_mesh(
    found.system, job, choices, give_up_at=give_up_at
  )
  if solution is None:
    return
  best = min([solution.value, *(s.solution.value for s in solved)])
  if solution.bound < best * (1.0 - TOLERANCE):
    solution = sensitivity.refine_mesh(
      found.system, job, choices, solution, target_gap=TOLERANCE
    )
  solved.append(Solved(branch, index, solution))


def _bound(found: Found, solved: list[Solved], report) -> None:
  """Bounds what is not solved, and solves what the bounds do not exclude."""
  best = min(s.solution.value for s in solved)
  target = best * (1.0 - TOLERANCE)
  survivors = []
  for b, branch in enumerate(found.branches):
    bounds = found.bounds[b]
    done = [s.index for s in solved if s.branch == b]
    is_open = bounds < target
    # Everything near is the best that could be, where there is room for it.
    is_open &= branch.swept.value * (1.0 - _FLOAT32_ERROR) > bounds
    is_open[done] = False
    wanted = np.flatnonzero(is_open)
    if not len(wanted):
      continue
    wanted = wanted[np.argsort(bounds[wanted], kind='stable')]
    started = model.start(found.system, branch.job, branch.space.at(wanted[:1]))
    lower = dual_bank.lower_bounds(
      found.system, branch.job, branch.space, wanted,
      branch.job.allowed(started.lowered.groups), target,
      lambda done, total: report('bounds', done, total),
    )  # fmt: skip
    bounds[wanted] = np.maximum(bounds[wanted], lower)
    survivors += [(bounds[i], b, int(i)) for i in wanted if bounds[i] < target]
  survivors = sorted(survivors)[:_MOST_SURVIVORS]
  until = time.monotonic() + _SECONDS
  for done, (_, b, i) in enumerate(survivors):
    if time.monotonic() > until:
      break
    best = min(s.solution.value for s in solved)
    _solve(found, solved, b, i, give_up_at=best * (1.0 - TOLERANCE))
    report('survivors', done + 1, len(survivors))
