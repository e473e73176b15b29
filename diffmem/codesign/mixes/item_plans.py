"""The plans of one workload that are worth solving on a machine.

Every configuration has a lower bound, everything near; what fits near is as
good as its bound. Others are solved by cutting planes in the order of their
bounds, until none is left that could be better. Values are compared per token,
because a decode step's batch is one of the choices.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from diffmem import errors
from diffmem.codesign.mixes import stationary
from diffmem.codesign.mixes.mix import Item
from diffmem.planning import (
  Objective,
  cutting_planes,
  model,
  search,
  sensitivity,
)
from diffmem.planning import space as space_lib
from diffmem.planning import sweep as sweep_lib
from diffmem.planning.space import Space
from diffmem.system import System
from diffmem.workloads import Choices, Decoding, Lowered, Training

# Above this many configurations a space is left to the planner's search.
_SMALL = 4000
# Meshes of each whole search that are solved again on other machines, how many
# in all, and further ones that look best there by their greedy placement.
_KEPT = 12
_MOST_KEPT = 48
_PROMISING = 8
# What the sweep's float32 may be wrong by, many times over.
_FLOAT32_ERROR = 1e-4
# Gap of a placement above which branch and bound goes on.
_REFINED = 2e-4
# Meshes that are solved where groups must live far away.
_MOST_FAR = 40


class Solved(NamedTuple):
  """The best plan that was found.

  Attributes:
    choices: with a plan axis of one.
    lowered: without plan axis.
    at: its placement.
    bound: no plan that was looked at is below, for as many tokens.
    limits: the memories' rooms.
  """

  choices: Choices
  lowered: Lowered
  at: stationary.Stationary
  bound: float
  limits: cutting_planes.Limits


class _Tried(NamedTuple):
  index: int
  per_token: float
  bound: float
  started: model.Start
  solution: cutting_planes.Solution


class ItemPlans:
  """One workload's configurations, and those that were best so far."""

  def __init__(self, item: Item, job: model.Job):
    """Enumerates the space.

    Args:
      item: the workload.
      job: what is planned; its objective does not matter.

    Raises:
      SpecError: no legal mesh.
    """
    self.item, self.job = item, job
    self._space, self._tokens = _space_of(item, job)
    self._kept: list[int] = []
    self._longest_s = item.tpot_s
    self._groups = model.lower(job, self._space.at(np.array([0]))).groups

  def solve(
    self,
    system: System,
    objective: Objective,
    whole: bool,
    target_gap: float,
    homes: Mapping[str, tuple[str, ...]],
    may_be_late: bool = False,
  ) -> Solved | None:
    """The best plan on a machine; None where none fits.

    Args:
      system: the machine, numpy float64 leaves.
      objective: what is minimised, for each step.
      whole: whether all configurations are searched.
      target_gap: of the placement, relative.
      homes: start of a group's name -> memories where it must live; groups
        without such a name live anywhere.
      may_be_late: whether steps may be longer than `tpot_s`.

    Raises:
      SpecError: a home that the machine lacks.
    """
    self._longest_s = np.inf if may_be_late else self.item.tpot_s
    job = self.job._replace(objective=objective)
    allowed = _allowed(self.item, self._groups, job, homes)
    whole = whole or not self._kept
    if len(self._space) > _SMALL:
      order, bounds = self._searched(system, job) if whole else self._again()
    else:
      order, bounds = self._swept(system, job, whole)
    tried = self._tried(system, job, order, bounds, target_gap, whole, allowed)
    if not tried:
      return None
    tried.sort(key=lambda t: t.per_token)
    if whole and allowed.all():
      best_here = [t.index for t in tried[:_KEPT]]
      kept = dict.fromkeys([*self._kept, *best_here])
      self._kept = list(kept)[:_MOST_KEPT]
    best = tried[0]
    lowered = best.started.lowered
    tokens = float(lowered.tokens)
    seen = {t.index for t in tried}
    unseen = [bounds[i] for i in order if i not in seen]
    least = min(*(t.bound for t in tried), best.per_token, *unseen)
    limits = cutting_planes.limits_of(lowered, best.started.room_B, allowed)
    at = stationary.stationary(
      system, lowered, limits, best.solution.placement, objective
    )
    return Solved(
      self._space.at(np.array([best.index])), lowered, at,
      min(tokens * least, at.value), limits,
    )  # fmt: skip

  def _swept(self, system, job, whole):
    """Configurations in the order of their bounds per token."""
    swept = sweep_lib.sweep(system, job, self._space, len(self._space))
    bounds = swept.bound * (1.0 - _FLOAT32_ERROR) / self._tokens
    greedy = swept.value / self._tokens
    order = np.argsort(bounds, kind='stable')
    order = order[swept.fits[order]]
    if not whole:
      best = np.argsort(greedy, kind='stable')[:_PROMISING]
      few = {*self._kept, *best.tolist()}
      order = np.array([i for i in order if i in few], int)
    # The most promising first: the sooner the others are excluded.
    first = order[np.argsort(greedy[order], kind='stable')[:1]]
    return np.concatenate([first, order[~np.isin(order, first)]]), bounds

  def _searched(self, system, job):
    """As the planner finds them: large spaces have one batch."""
    found = search.search(system, [job], self._space, self.item.chips, 4)
    bounds = found.bounds[0] / self._tokens
    solved = [s.index for s in found.solved]
    rest = np.argsort(bounds, kind='stable')
    rest = rest[np.isfinite(bounds[rest])][: 2 * _KEPT]
    order = [*solved, *(i for i in rest.tolist() if i not in solved)]
    return np.array(order, int), bounds

  def _again(self):
    return np.array(self._kept, int), np.zeros(len(self._space))

  def _tried(
    self, system, job, order, bounds, target_gap, whole, allowed
  ) -> list[_Tried]:
    """Solves in order until no bound is below the best value."""
    tried, best = [], np.inf
    for i in order:
      # Bounds say little of groups that must live far away.
      if len(tried) >= _MOST_FAR and not allowed.all():
        break
      # Those that are kept for other machines are solved in any case.
      if bounds[i] >= best and len(tried) >= _KEPT:
        continue
      one = self._try(system, job, int(i), best, target_gap, allowed)
      if one is None:
        continue
      is_open = one.bound < min(best, one.per_token) * (1.0 - _REFINED)
      if whole and is_open and allowed.all():
        one = self._refined(system, job, one, best)
      tried.append(one)
      best = min(best, one.per_token)
    return tried

  def _try(
    self, system, job, index, best, target_gap, allowed
  ) -> _Tried | None:
    """Solves one placement; None where it does not fit or is too slow."""
    started = model.start(system, job, self._space.at(np.array([index])))
    start = started.greedy.placement
    if not allowed.all():
      start = _moved(start, allowed)
    limits = cutting_planes.limits_of(started.lowered, started.room_B, allowed)
    if started.greedy.overflow_B > 0 or not limits.holds(start):
      return None
    tokens = float(started.lowered.tokens)
    solution = cutting_planes.solve(
      system, started.lowered, limits, start, job.objective,
      give_up_at=best * tokens, target_gap=target_gap,
    )  # fmt: skip
    if np.isfinite(self._longest_s):
      figures = model.figures(
        system, started.lowered, solution.placement[None], job.objective,
        self.item.chips,
      )  # fmt: skip
      if figures.outcome.step_time_s[0] > self._longest_s:
        return None
    return _Tried(
      index, solution.value / tokens, solution.bound / tokens, started,
      solution,
    )  # fmt: skip

  def _refined(self, system, job, tried: _Tried, best: float) -> _Tried:
    """Branch and bound over the mixes, where laws are not convex.

    It stops as soon as nothing below the best of other meshes can be there.
    """
    tokens = float(tried.started.lowered.tokens)
    solution = tried.solution
    cutoff = min(solution.value, best * tokens)
    found = sensitivity.refine_mesh(
      system, job, self._space.at(np.array([tried.index])),
      solution._replace(value=cutoff), target_gap=_REFINED,
    )  # fmt: skip
    if found.value < cutoff:
      solution = found
    bound = max(tried.bound, found.bound / tokens)
    return tried._replace(
      per_token=solution.value / tokens,
      bound=min(bound, solution.value / tokens),
      solution=solution,
    )


def _space_of(item: Item, job: model.Job) -> tuple[Space, np.ndarray]:
  """All configurations, and the tokens of each one's step."""
  if not item.batches:
    space = space_lib.space_of(item.model, item.phase, item.chips, job.machine)
    phase = item.phase
    tokens = (
      phase.tokens
      if isinstance(phase, Training)
      else float(phase.batch * phase.seq_len)
    )
    spaces, counts = [space], [tokens]
  else:
    spaces = [
      space_lib.space_of(
        item.model, Decoding(b, item.phase.context), item.chips, job.machine
      )
      for b in item.batches
    ]
    counts = [float(b) for b in item.batches]
  if not sum(len(s) for s in spaces):
    raise errors.SpecError(
      f'{item.name}: {item.chips} chips have no legal mesh for '
      f'{item.model.name}; try a power of two, or a batch that they divide'
    )
  choices = {
    name: np.concatenate([s.choices[name] for s in spaces])
    for name in spaces[0].choices
  }
  tokens = np.concatenate(
    [np.full(len(s), n) for s, n in zip(spaces, counts, strict=True)]
  )
  return Space(choices, spaces[0].refused), tokens


def _allowed(item, groups, job, homes) -> np.ndarray:
  """Whether each group may live in each memory [group, memory]."""
  memories = job.machine.memories
  allowed = np.ones((len(groups), len(memories)), bool)
  for start, names in homes.items():
    for name in names:
      if name not in memories:
        raise errors.SpecError(
          f'{item.name}: the machine has no memory {name!r} (it has '
          f'{", ".join(memories)})'
        )
    for i, group in enumerate(groups):
      if group.startswith(start):
        allowed[i] = [m in names for m in memories]
  return allowed


def _moved(placement: np.ndarray, allowed: np.ndarray) -> np.ndarray:
  """Groups that may not live where they are, in their first allowed memory."""
  moved = placement.copy()
  for i, may in enumerate(allowed):
    if (placement[i] > 0)[~may].any():
      moved[i] = np.eye(len(may))[int(np.argmax(may))]
  return moved
