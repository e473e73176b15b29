"""Answers where no fleet keeps the limits: what to relax, and how far."""

from typing import NamedTuple

import numpy as np

from diffmem.planning.serving import pools as pools_lib
from diffmem.planning.serving import search as search_lib
from diffmem.planning.serving import tables as tables_lib
from diffmem.planning.serving.pools import Demand
from diffmem.planning.serving.search import Goal
from diffmem.planning.serving.tables import Tables

_IDLE_PER_S = 1e-9
# How the chips that a rate leaves free are shared between two pools.
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Reachable(NamedTuple):
  """What some fleet of the space reaches.

  Attributes:
    ttft_s: least time to the first token with the limit of the others kept;
      infinite where they cannot be kept.
    tpot_s: least time per further token, likewise.
    least_ttft_s: without the other limit.
    least_tpot_s: without the other limit.
    requests_per_s: highest rate within both limits; 0 where there is none.
  """

  ttft_s: float
  tpot_s: float
  least_ttft_s: float
  least_tpot_s: float
  requests_per_s: float


def reachable(
  tables: Tables, demand: Demand, goal: Goal, modes: tuple[str, ...]
) -> Reachable:
  """What to relax, by how much.

  Args:
    tables: steps, made without limits.
    demand: the limits that cannot be kept.
    goal: what was looked for.
    modes: 'aggregated', 'disaggregated' or both.
  """
  rate = goal.rate_per_s or _IDLE_PER_S
  ttft_s, tpot_s = _all_latencies(tables, demand, goal, modes, rate)
  most = 0.0
  if goal.rate_per_s is not None:
    sought = goal._replace(rate_per_s=None, objective='tokens_per_s', top=1)
    found = search_lib.search(tables, demand, sought, modes).found
    most = found[0].rate_per_s if found else 0.0

  def least(values, kept):
    return float(np.min(values, where=kept, initial=np.inf))

  finite = np.isfinite(ttft_s) & np.isfinite(tpot_s)
  return Reachable(
    least(ttft_s, finite & (tpot_s <= demand.tpot_s)),
    least(tpot_s, finite & (ttft_s <= demand.ttft_s)),
    least(ttft_s, finite),
    least(tpot_s, finite),
    most,
  )


def sentence(
  found: Reachable, demand: Demand, goal: Goal, name: str, system: str
) -> str:
  """What a person should change."""
  start = f'No fleet of {goal.chips} {system} serves {name} within'
  asked = []
  if np.isfinite(demand.ttft_s):
    asked.append(f'a first token in {demand.ttft_s:.3g} s')
  if np.isfinite(demand.tpot_s):
    asked.append(f'{1e3 * demand.tpot_s:.3g} ms per further token')
  at = ''
  if goal.rate_per_s is not None:
    at = f' at {goal.rate_per_s:.4g} requests/s'
  ways = []
  if found.ttft_s > demand.ttft_s and np.isfinite(found.ttft_s):
    ways.append(f'a first token in {_up(found.ttft_s):.3g} s')
  if found.tpot_s > demand.tpot_s and np.isfinite(found.tpot_s):
    ways.append(f'{1e3 * _up(found.tpot_s):.3g} ms per further token')
  if found.requests_per_s > 0:
    needed = goal.chips * goal.rate_per_s / found.requests_per_s
    ways.append(
      f'{found.requests_per_s:.3g} requests/s (or take about '
      f'{int(np.ceil(needed))} chips)'
    )
  if not ways and np.isfinite(found.least_ttft_s):
    ways.append(
      f'both limits relaxed: the least are {_up(found.least_ttft_s):.3g} s '
      f'and {1e3 * _up(found.least_tpot_s):.3g} ms, each alone'
    )
  if not ways:
    ways.append('more chips or fewer requests')
  limits = ' and '.join(asked) or 'what the chips can do'
  return f'{start} {limits}{at}. It could with {", or ".join(ways)}.'


def _up(value: float) -> float:
  """Rounded up, so that the limit that is shown can be kept."""
  digits = 10.0 ** (np.floor(np.log10(value)) - 2.0)
  return float(np.ceil(value / digits) * digits)


def _all_latencies(tables, demand, goal, modes, rate):
  """Latencies of every fleet at its largest, under a rate."""
  ttft_s, tpot_s = [np.zeros(0)], [np.zeros(0)]
  if 'aggregated' in modes and len(tables.mixed.worker):
    plan = tables_lib.mixed_of(tables)
    workers = np.floor(goal.chips / plan.chips)
    point = pools_lib.mixed_point(plan, workers, rate, demand)
    ttft_s.append(point.ttft_s)
    tpot_s.append(point.tpot_s)
  if 'disaggregated' in modes:
    before, after = search_lib.pairs_of(tables, demand, goal)
    plan = tables_lib.split_of(tables, before, after)
    first, last = _least_pools(plan, rate, demand)
    free = goal.chips - first * plan.prefill_chips - last * plan.decode_chips
    for share in _SHARES:
      more = np.floor(share * free / plan.prefill_chips)
      rest = free - more * plan.prefill_chips
      workers = last + np.floor(rest / plan.decode_chips)
      point = pools_lib.split_point(plan, first + more, workers, rate, demand)
      ttft_s.append(np.where(free >= 0, point.ttft_s, np.inf))
      tpot_s.append(np.where(free >= 0, point.tpot_s, np.inf))
  return np.concatenate(ttft_s), np.concatenate(tpot_s)


def _least_pools(plan, rate, demand):
  """Workers without which the queues of two pools would grow."""
  stay_s = demand.further * plan.step_s + plan.transfer_s
  served_s = plan.pass_s / (plan.prompts * plan.ranks)
  return (
    np.floor(rate * served_s) + 1.0,
    np.floor(rate * stay_s / plan.slots) + 1.0,
  )
