"""From the fleets that were found to the plans that are reported."""

import time
from typing import Any

import numpy as np

from diffmem.planning.serving import place as serving_place
from diffmem.planning.serving import search as search_lib
from diffmem.planning.serving import tables as tables_lib
from diffmem.planning.serving.place import Placed
from diffmem.planning.serving.pools import Demand, Mixed, Split
from diffmem.planning.serving.result import Pool, ServingPlan, ServingSearch
from diffmem.planning.serving.search import Candidates, Found, Goal, Outcome
from diffmem.planning.serving.space import Rows, Steps
from diffmem.planning.serving.tables import Tables
from diffmem.workloads import SHARDING

_SECONDS_PER_HOUR = 3600.0


def answer(
  tables: Tables,
  demand: Demand,
  goal: Goal,
  modes: tuple[str, ...],
  outcome: Outcome,
  usd: float | None,
  looser: float,
  began: float,
) -> dict[str, Any]:
  """Plans, what binds, and what was searched."""
  steps = [_steps(tables, found) for found in outcome.found]
  placed = serving_place.place(
    tables, [one for two in steps for one in two], len(steps[0])
  )
  fleets = [
    _fleet(tables, demand, goal, found, tuple(placed[2 * i : 2 * i + 2]))
    for i, found in enumerate(outcome.found)
  ]
  fleets.sort(key=lambda fleet: -fleet[0].value)
  best = fleets[0][0]
  return {
    'plans': tuple(
      _plan(tables, demand, found, made, placed, usd)
      for found, made, placed in fleets
    ),
    'looser': _gains(tables, demand, goal, modes, best, looser),
    'search': ServingSearch(
      workers=len(tables.workers),
      steps=tables.configurations,
      fleets=outcome.looked_at,
      seconds=time.monotonic() - began,
      **_ceiling(goal, best, outcome),
    ),
  }


def _steps(tables: Tables, found: Found) -> list[tuple[Rows, Steps, int]]:
  """The two kinds of steps of a fleet."""
  decode = (tables.decode, tables.decode_steps)
  if found.mode == 'aggregated':
    row = found.rows[0]
    both = (tables.mixed, tables.mixed_steps, row)
    return [(*decode, int(tables.mixed_of[row])), both]
  before, after = found.rows
  return [(tables.prefill, tables.prefill_steps, before), (*decode, after)]


def _fleet(
  tables: Tables,
  demand: Demand,
  goal: Goal,
  found: Found,
  placed: tuple[Placed, Placed],
) -> tuple[Found, Candidates, tuple[Placed, Placed]]:
  """What follows from the final placement of a fleet's steps.

  Whole pieces can be slower than the fractions that the search took; where no
  rate is left with them, its figures stay.
  """
  plain = _candidates(tables, found)
  made = plain._replace(plan=_with_times(tables, plain.plan, placed))
  last = np.array([float(found.last)])
  if goal.rate_per_s is None:
    rate = made.most_rate(last, demand)
  else:
    last = made.least_workers(goal.rate_per_s, demand)
    rate = np.where(last <= made.most, goal.rate_per_s, 0.0)
  if not rate[0] > 0:
    return _trimmed(plain, demand, goal, found), plain, placed
  joules = made.at(last, rate, demand).energy_per_token_J
  value = search_lib.worth(goal, rate, made.chips(last), joules)
  found = found._replace(
    value=float(value[0]), last=int(last[0]), rate_per_s=float(rate[0])
  )
  return _trimmed(made, demand, goal, found), made, placed


def _with_times(
  tables: Tables, plan: Mixed | Split, placed: tuple[Placed, Placed]
) -> Mixed | Split:
  """The plan with the times of placements that differ from the greedy ones."""
  of, given = tables.factors, {}
  names = ('step', 'mixed') if isinstance(plan, Mixed) else ('pass', 'step')
  for name, one in zip(names, placed, strict=True):
    if one.time_s is None:
      continue
    if name == 'mixed':
      step_s = given.get('step_s', plan.step_s)
      added_s = np.maximum(one.time_s - step_s / of.decode, 0.0)
      time_s = step_s + of.prefill * added_s
    else:
      factor = of.decode if name == 'step' else of.prefill
      time_s = np.array([factor * one.time_s])
    given |= {f'{name}_s': time_s, f'{name}_J': np.array([one.energy_J])}
  return plan._replace(**given)


def _trimmed(made, demand: Demand, goal: Goal, found: Found) -> Found:
  """Without decode workers that the highest rate does not need."""
  if goal.rate_per_s is not None or found.mode == 'aggregated':
    return found
  needed = made.least_workers(found.rate_per_s * (1.0 - 1e-5), demand)[0]
  return found._replace(last=int(min(found.last, needed)))


def _candidates(tables: Tables, found: Found) -> Candidates:
  """One fleet, as candidates."""
  rows = tuple(np.array([r]) for r in found.rows)
  made = []
  for least in (False, True):
    if found.mode == 'aggregated':
      made.append(tables_lib.mixed_of(tables, least).select(rows[0]))
    else:
      made.append(tables_lib.split_of(tables, *rows, least))
  return Candidates(
    *made, np.array([float(found.first)]), np.array([float(found.last)]),
    rows, np.zeros(1, int),
  )  # fmt: skip


def _plan(
  tables: Tables, demand: Demand, found: Found, made: Candidates,
  placed: tuple[Placed, ...], usd: float | None,
) -> ServingPlan:  # fmt: skip
  last = np.array([float(found.last)])
  point = made.at(last, np.array([found.rate_per_s]), demand)
  chips = float(made.chips(last)[0])
  tokens_per_s = found.rate_per_s * demand.output_len
  plan, transfer_s = made.plan, 0.0
  if isinstance(plan, Mixed):
    pools = {'serve': _mixed_pool(tables, found, plan, placed)}
  else:
    pools = _split_pools(tables, found, plan, placed)
    transfer_s = float(plan.transfer_s[0])
  return ServingPlan(
    mode=found.mode,
    pools=pools,
    predicted={
      'requests_per_s': found.rate_per_s,
      'tokens_per_s': tokens_per_s,
      'ttft_s': float(point.ttft_s[0]),
      'tpot_s': float(point.tpot_s[0]),
      'queue_s': float(point.queue_s[0]),
      'transfer_s': transfer_s,
      'energy_per_token_J': float(point.energy_per_token_J[0]),
      'cost_per_token_usd': None
      if usd is None
      else chips * usd / _SECONDS_PER_HOUR / tokens_per_s,
      'chips': chips,
      'prefill_use': float(point.prefill_use[0]),
      'decode_use': float(point.decode_use[0]),
    },
  )


def _mixed_pool(tables: Tables, found: Found, plan: Mixed, placed) -> Pool:
  row = found.rows[0]
  rows = tables.mixed
  return Pool(
    workers=found.last,
    **_worker(tables, int(rows.worker[row])),
    sequences=int(rows.sequences[row]),
    prompts=int(rows.prompts[row]),
    piece_tokens=tables.pieces[int(rows.piece[row])][0],
    step_time_s=float(plan.step_s[0]),
    mixed_step_time_s=float(plan.mixed_s[0]),
    **_memory(placed[1], max(p.certified_gap for p in placed)),
  )


def _split_pools(
  tables: Tables, found: Found, plan: Split, placed
) -> dict[str, Pool]:
  before, after = found.rows
  prefill, decode = tables.prefill, tables.decode
  return {
    'prefill': Pool(
      workers=found.first,
      **_worker(tables, int(prefill.worker[before])),
      sequences=0,
      prompts=int(prefill.prompts[before]),
      piece_tokens=tables.job.new,
      step_time_s=float(plan.pass_s[0]),
      mixed_step_time_s=None,
      **_memory(placed[0], placed[0].certified_gap),
    ),
    'decode': Pool(
      workers=found.last,
      **_worker(tables, int(decode.worker[after])),
      sequences=int(decode.sequences[after]),
      prompts=0,
      piece_tokens=0,
      step_time_s=float(plan.step_s[0]),
      mixed_step_time_s=None,
      **_memory(placed[1], placed[1].certified_gap),
    ),
  }


def _worker(tables: Tables, index: int) -> dict[str, Any]:
  """Mesh and sharding of a worker."""
  chosen = {n: int(v[index]) for n, v in tables.workers.choices.items()}
  model = tables.job.model
  kinds = {'attention_by': True, 'experts_by': model.experts is not None}
  kinds['mlp_by'] = bool(model.dense_layers or model.shared_ff)
  return {
    'chips': chosen['tensor'] * chosen['expert'],
    'mesh': {'tensor': chosen['tensor'], 'expert': chosen['expert']},
    'sharding': {
      kind.removesuffix('_by'): ways[chosen[kind]]
      for kind, ways in SHARDING.items()
      if kinds[kind]
    },
  }


def _memory(placed: Placed, gap: float) -> dict[str, Any]:
  return {
    'placement': placed.placement,
    'memory_bytes': placed.memory_bytes,
    'certified_gap': gap,
  }


def _gains(
  tables: Tables, demand: Demand, goal: Goal, modes, best: Found, looser: float
) -> dict[str, float]:
  """What the best fleet would gain by each limit a tenth looser."""
  gains = {}
  moved = {'ttft_s': demand._replace(ttft_s=looser * demand.ttft_s)}
  moved['tpot_s'] = demand._replace(tpot_s=looser * demand.tpot_s)
  for name, one in moved.items():
    if np.isfinite(getattr(demand, name)):
      again = search_lib.search(tables, one, goal._replace(top=1), modes)
      gains[name] = _gain(goal, best.value, again.found[0].value)
  return gains


def _gain(goal: Goal, before: float, after: float) -> float:
  """Share by which the objective is better."""
  if goal.objective == 'energy_per_token_J' or goal.rate_per_s is not None:
    if goal.objective != 'energy_per_token_J':
      # Whole chips: the part behind the point is the energy's.
      before, after = np.ceil(before), np.ceil(after)
    return max(float(1.0 - after / before), 0.0)
  return max(float(after / before - 1.0), 0.0)


def _ceiling(goal: Goal, best: Found, outcome: Outcome) -> dict[str, Any]:
  """The ceiling in its unit, and how far the best one is from it."""
  ceiling, value = outcome.ceiling, best.value
  if goal.objective == 'energy_per_token_J':
    unit, gap = 'J/token', 1.0 - ceiling / value
    ceiling = -ceiling
  elif goal.rate_per_s is not None:
    least, used = float(np.floor(-ceiling)), float(np.floor(-value))
    unit, ceiling, gap = 'chips', least, 1.0 - least / used
  else:
    per_chip = goal.objective == 'cost_per_token_usd'
    unit = 'requests/s/chip' if per_chip else 'requests/s'
    gap = 1.0 - value / ceiling
  return {
    'ceiling': float(ceiling),
    'ceiling_unit': unit,
    'gap': max(float(gap), 0.0),
  }
