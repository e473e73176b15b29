"""The best pools of all workers and batches: exhaustive, by bounds.

Candidates are taken in the order of what they could do without any queue and
with everything in the near memory, which no placement and no queue betters.
The search ends where that is no better than the best found: it is exhaustive
over the stated space, and the highest of these ceilings bounds every plan in
it, whatever its placement. Pairs of a prefill and a decode worker are looked at
only where neither is dominated by another of the same size: at least as fast,
with as many places, and no slower to hand over or take over a cache.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffmem.planning.serving import pools as pools_lib
from diffmem.planning.serving import tables as tables_lib
from diffmem.planning.serving.pools import Demand, Mixed, Point, Split
from diffmem.planning.serving.tables import Tables

_BLOCK = 4096
# Pairs of workers, and fleets of them, that are looked at together.
_PAIRS, _FLEETS = 512, 2**18
_LITTLE = 1e-9  # requests per second of an idle fleet


class Goal(NamedTuple):
  """What is looked for.

  Attributes:
    objective: 'tokens_per_s', 'cost_per_token_usd' or 'energy_per_token_J'.
    rate_per_s: requests to be served; None for the highest rate.
    chips: that there are.
    top: plans that are wanted, of different workers.
  """

  objective: str
  rate_per_s: float | None
  chips: int
  top: int


class Candidates(NamedTuple):
  """Pools whose last one may have any number of workers, arrays [plan].

  Attributes:
    plan: the workers.
    least: the same with times that no placement can better.
    first: workers of the prefill pool; 0 where there is none.
    most: workers that the last pool can have.
    rows: of the tables: (mixed,) or (prefill, decode).
    kind: a number for each combination of workers.
  """

  plan: Mixed | Split
  least: Mixed | Split
  first: np.ndarray
  most: np.ndarray
  rows: tuple[np.ndarray, ...]
  kind: np.ndarray

  def select(self, index) -> 'Candidates':
    """Some of them."""
    return Candidates(
      self.plan.select(index), self.least.select(index), self.first[index],
      self.most[index], tuple(r[index] for r in self.rows), self.kind[index],
    )  # fmt: skip

  def chips(self, last: np.ndarray) -> np.ndarray:
    """Devices with so many workers in the last pool."""
    if isinstance(self.plan, Mixed):
      return last * self.plan.chips
    used = self.first * self.plan.prefill_chips
    return used + last * self.plan.decode_chips

  def at(self, last, rate_per_s, demand: Demand, waits: bool = True) -> Point:
    """Under a rate; without waits also with the least times."""
    if isinstance(self.plan, Mixed):
      plan = self.plan if waits else self.least
      return pools_lib.mixed_point(plan, last, rate_per_s, demand, waits)
    plan = self.plan if waits else self.least
    return pools_lib.split_point(
      plan, self.first, last, rate_per_s, demand, waits
    )

  def most_rate(self, last, demand: Demand, waits: bool = True) -> np.ndarray:
    """The highest rate within the limits [1/s]."""
    plan = self.plan if waits else self.least
    if isinstance(plan, Mixed):
      ceiling = pools_lib.mixed_ceiling_per_s(plan, last)
    else:
      ceiling = pools_lib.split_ceiling_per_s(plan, self.first, last, demand)
    return pools_lib.most_rate(
      lambda rate: self.at(last, rate, demand, waits), ceiling, demand
    )

  def least_workers(
    self, rate_per_s, demand: Demand, waits: bool = True
  ) -> np.ndarray:
    """Fewest workers of the last pool that serve a rate; `most` + 1 if none."""
    low, high = np.zeros_like(self.most), self.most + 1.0
    while np.any(high - low > 1.0):
      middle = np.floor(0.5 * (low + high))
      looked = np.maximum(middle, 1.0)
      good = pools_lib.keeps(
        self.at(looked, rate_per_s, demand, waits), demand
      ) & (middle > 0)  # fmt: skip
      open_ = high - low > 1.0
      high = np.where(open_ & good, middle, high)
      low = np.where(open_ & ~good, middle, low)
    return high


class Found(NamedTuple):
  """One fleet.

  Attributes:
    value: what it is worth; more is better.
    kind: of its combination of workers.
    mode: 'aggregated' or 'disaggregated'.
    rows: of the tables.
    first: workers of the prefill pool; 0 where there is none.
    last: workers of the other one.
    rate_per_s: that it serves [1/s].
  """

  value: float
  kind: tuple
  mode: str
  rows: tuple[int, ...]
  first: int
  last: int
  rate_per_s: float


class Outcome(NamedTuple):
  """What a search found.

  Attributes:
    found: the best fleets, best first.
    ceiling: worth that no fleet of the space can exceed.
    looked_at: fleets that were valued with their queues.
  """

  found: list[Found]
  ceiling: float
  looked_at: int


def search(
  tables: Tables, demand: Demand, goal: Goal, modes: tuple[str, ...]
) -> Outcome:
  """The best fleets.

  Args:
    tables: steps of all workers.
    demand: lengths and limits.
    goal: what is looked for.
    modes: 'aggregated', 'disaggregated' or both.
  """
  best: dict[tuple, Found] = {}
  ceiling, looked_at = -np.inf, 0
  groups = []
  if 'aggregated' in modes and len(tables.mixed.worker):
    groups.append(('aggregated', _mixed_groups(tables, goal)))
  if 'disaggregated' in modes:
    groups.append(('disaggregated', _split_groups(tables, demand, goal)))
  for mode, found in groups:
    for bound, make in found:
      if bound <= _worst(best, goal.top):
        ceiling = max(ceiling, bound)
        break
      seen = _best_first(make(), demand, goal, mode, best)
      ceiling, looked_at = max(ceiling, seen[0]), looked_at + seen[1]
  ranked = sorted(best.values(), key=lambda f: -f.value)
  return Outcome(ranked[: goal.top], float(ceiling), looked_at)


def worth(goal: Goal, rate_per_s, chips, energy_J) -> np.ndarray:
  """What fleets are worth; more is better, -inf for none."""
  if goal.objective == 'energy_per_token_J':
    value = -np.asarray(energy_J)
  elif goal.rate_per_s is not None:
    # Fewest chips; of these the least energy.
    value = -(chips + energy_J / (1.0 + energy_J))
  elif goal.objective == 'cost_per_token_usd':
    value = rate_per_s / chips
  else:
    value = np.asarray(rate_per_s, float)
  return np.where(rate_per_s > 0, value, -np.inf)


def _worst(best: dict, top: int) -> float:
  """Worth of the last of the best ones."""
  values = sorted((f.value for f in best.values()), reverse=True)
  return values[top - 1] if len(values) >= top else -np.inf


def _best_first(
  candidates: Candidates, demand: Demand, goal: Goal, mode: str, best: dict
) -> tuple[float, int]:
  """Adds to the best ones; the highest ceiling, and how many were looked at."""
  if not len(candidates.most):
    return -np.inf, 0
  bound, last = _ceilings(candidates, demand, goal)
  order = np.argsort(-bound, kind='stable')
  order = order[np.isfinite(bound[order])]
  looked_at = 0
  for first in range(0, len(order), _BLOCK):
    block = order[first : first + _BLOCK]
    if bound[block[0]] <= _worst(best, goal.top):
      break
    chosen = candidates.select(block)
    rate, workers = _solve(chosen, last[block], demand, goal)
    point = chosen.at(workers, np.maximum(rate, _LITTLE), demand)
    value = worth(
      goal, rate, chosen.chips(workers), point.energy_per_token_J
    )  # fmt: skip
    looked_at += len(block)
    for i in np.argsort(-value, kind='stable'):
      if not value[i] > _worst(best, goal.top):
        break
      kind = (mode, int(chosen.kind[i]))
      if kind in best and best[kind].value >= value[i]:
        continue
      best[kind] = Found(
        float(value[i]), kind, mode, tuple(int(r[i]) for r in chosen.rows),
        int(chosen.first[i]), int(workers[i]), float(rate[i]),
      )  # fmt: skip
  return (float(bound[order[0]]) if len(order) else -np.inf), looked_at


def _ceilings(
  candidates: Candidates, demand: Demand, goal: Goal
) -> tuple[np.ndarray, np.ndarray]:
  """Worth that cannot be exceeded, and workers that are needed for it."""
  if goal.rate_per_s is None:
    last = candidates.most
    rate = candidates.most_rate(last, demand, waits=False)
  else:
    last = candidates.least_workers(goal.rate_per_s, demand, waits=False)
    rate = np.where(last <= candidates.most, goal.rate_per_s, 0.0)
  point = candidates.at(last, np.maximum(rate, _LITTLE), demand, waits=False)
  energy_J = point.energy_per_token_J
  if goal.objective != 'energy_per_token_J':
    energy_J = np.zeros_like(energy_J)
  return worth(goal, rate, candidates.chips(last), energy_J), last


def _solve(chosen: Candidates, last, demand: Demand, goal: Goal):
  """Rate and workers of the last pool, with queues."""
  if goal.rate_per_s is None:
    return chosen.most_rate(last, demand), last
  workers = chosen.least_workers(goal.rate_per_s, demand)
  served = workers <= chosen.most
  return np.where(served, goal.rate_per_s, 0.0), np.where(served, workers, 1.0)


_Group = tuple[float, Callable[[], Candidates]]


def _mixed_groups(tables: Tables, goal: Goal) -> list[_Group]:
  """All aggregated fleets, as one group."""
  plan = tables_lib.mixed_of(tables)
  most = np.floor(goal.chips / plan.chips)

  def make() -> Candidates:
    rows = np.arange(len(most))
    least = tables_lib.mixed_of(tables, least=True)
    worker = tables.mixed.worker
    made = Candidates(plan, least, 0.0 * most, most, (rows,), worker)
    return made.select(np.flatnonzero(most >= 1))

  return [(np.inf, make)]


def pairs_of(
  tables: Tables, demand: Demand, goal: Goal
) -> tuple[np.ndarray, np.ndarray]:
  """Rows of prefill and of decode workers that could be a fleet."""
  prefill, decode = _undominated(tables, demand, goal)
  before, after = (
    x.ravel() for x in np.meshgrid(prefill, decode, indexing='ij')
  )
  least = tables_lib.split_of(tables, before, after, least=True)
  fits = least.prefill_chips + least.decode_chips <= goal.chips
  fits &= np.isfinite(least.transfer_s)
  return before[fits], after[fits]


def _split_groups(tables: Tables, demand: Demand, goal: Goal) -> list[_Group]:
  """Pairs of workers, the most promising first."""
  before, after = pairs_of(tables, demand, goal)
  least = tables_lib.split_of(tables, before, after, least=True)
  fits = least.pass_s + least.transfer_s <= demand.ttft_s
  fits &= least.step_s <= demand.tpot_s
  before, after = before[fits], after[fits]
  bound = _fluid(least.select(fits), demand, goal)
  order = np.argsort(-bound, kind='stable')
  order = order[np.isfinite(bound[order])]
  sizes = goal.chips**2 if _sizes_both(goal) else goal.chips
  pairs = max(min(_FLEETS // sizes, _PAIRS), 1)
  return [
    (
      float(bound[order[i]]),
      functools.partial(
        _expand, tables, goal,
        before[order[i : i + pairs]], after[order[i : i + pairs]],
      ),
    )
    for i in range(0, len(order), pairs)
  ]  # fmt: skip


def _sizes_both(goal: Goal) -> bool:
  """Whether a smaller decode pool may be better: per token it may."""
  return goal.rate_per_s is None and goal.objective != 'tokens_per_s'


def _fluid(least: Split, demand: Demand, goal: Goal) -> np.ndarray:
  """Worth of a pair if pools need not have whole workers, without queues."""
  stay_s = demand.further * least.step_s + least.transfer_s
  prefill_s = least.pass_s / (least.ranks * least.prompts)
  decode_s = stay_s / least.slots
  # Chips for one request per second.
  chips = prefill_s * least.prefill_chips + decode_s * least.decode_chips
  energy_J = least.pass_J / (least.ranks * least.prompts)
  energy_J = energy_J + demand.further * least.step_J / least.slots
  energy_J = energy_J + chips * least.rest_W
  rate = goal.chips / chips
  if goal.rate_per_s is None:
    used = goal.chips + 0.0 * chips
  else:
    enough = rate >= goal.rate_per_s
    rate = np.where(enough, goal.rate_per_s, 0.0)
    used = np.floor(chips * goal.rate_per_s)
  if goal.objective != 'energy_per_token_J':
    energy_J = 0.0 * energy_J
  return worth(goal, rate, used, energy_J / demand.output_len)


def _expand(tables: Tables, goal: Goal, before, after) -> Candidates:
  """Every size of the prefill pool of some pairs."""
  plan = tables_lib.split_of(tables, before, after)
  least = tables_lib.split_of(tables, before, after, least=True)
  room = np.floor((goal.chips - plan.decode_chips) / plan.prefill_chips)
  pair = np.repeat(np.arange(len(before)), room.astype(int))
  ends = np.cumsum(room.astype(int))
  first = np.arange(len(pair)) - (ends - room.astype(int))[pair] + 1.0
  left = goal.chips - first * plan.prefill_chips[pair]
  most = np.floor(left / plan.decode_chips[pair])
  count = len(tables.workers)
  kind = tables.prefill.worker[before] * count + tables.decode.worker[after]
  made = Candidates(
    plan.select(pair), least.select(pair), first, most,
    (before[pair], after[pair]), kind[pair],
  )  # fmt: skip
  if not _sizes_both(goal):
    return made
  each = np.repeat(np.arange(len(most)), most.astype(int))
  ends = np.cumsum(most.astype(int))
  size = np.arange(len(each)) - (ends - most.astype(int))[each] + 1.0
  return made.select(each)._replace(most=size)


def _undominated(
  tables: Tables, demand: Demand, goal: Goal
) -> tuple[np.ndarray, np.ndarray]:
  """Rows of prefill and of decode workers that no other betters."""
  t, workers = tables, tables.workers
  energies = goal.objective == 'energy_per_token_J'

  def spent(steps, each):
    if not energies:
      return []
    return [-steps.energy_J / each, -steps.least_J / each]

  steps, worker = t.prefill_steps, t.prefill.worker
  tensor = workers.choices['tensor']
  prefill = _front(
    workers.chips[worker],
    [t.prefill.prompts / steps.time_s, t.prefill.prompts / steps.least_s,
     -steps.time_s, -steps.least_s, workers.ranks[worker], tensor[worker],
     *spent(steps, t.prefill.prompts)],
  )  # fmt: skip
  steps, worker = t.decode_steps, t.decode.worker
  slots = t.decode.sequences
  keeps = np.where(steps.time_s <= demand.tpot_s, 1.0, 0.0)
  narrow, wide = (
    np.full_like(worker, f(tensor)) for f in (np.argmin, np.argmax)
  )
  decode = _front(
    workers.chips[worker],
    [keeps * slots / steps.time_s, slots / steps.least_s, keeps * slots, slots,
     workers.attention_ranks[worker],
     -tables_lib.transfer_s(tables, narrow, worker),
     -tables_lib.transfer_s(tables, wide, worker), *spent(steps, slots)],
  )  # fmt: skip
  return prefill, decode


def _front(size: np.ndarray, better: list[np.ndarray]) -> np.ndarray:
  """Rows that no other of the same size betters in everything."""
  points = np.stack(better, -1)
  kept = []
  for one in np.unique(size):
    rows = np.flatnonzero(size == one)
    # By the first figure, so that what dominates comes first.
    rows = rows[np.lexsort(tuple(-points[rows].T[::-1]))]
    front, count = np.empty((len(rows), points.shape[1])), 0
    for row in rows:
      if not (front[:count] >= points[row]).all(1).any():
        front[count] = points[row]
        count += 1
        kept.append(row)
  return np.array(kept, int)
