"""From solved configurations to the plans that are reported."""

import time
from typing import Any, NamedTuple

import numpy as np

from diffmem.planning import cutting_planes, model, rounding, sensitivity
from diffmem.planning import space as space_lib
from diffmem.planning.constraints import Constraints
from diffmem.planning.decisions import robustness
from diffmem.planning.objective import (
  COST,
  METRICS,
  TOKENS,
  cost_per_token_usd,
)
from diffmem.planning.result import Breakdown, Plan, Search
from diffmem.planning.search import Found, Solved
from diffmem.system import System
from diffmem.workloads import RECOMPUTE, Lowered, Training

# Candidates that are rounded for each plan that is wanted, and at least.
_ROUNDED_PER_PLAN = 3
_ROUNDED = 9
_QUANTILES = (0.05, 0.95)


class Prices(NamedTuple):
  """What the cost per token is made from."""

  chips: int
  usd_per_chip_hour: float | None
  usd_per_kWh: float | None


class _Placed(NamedTuple):
  """One configuration with its final placement and figures.

  Attributes:
    solved: the configuration.
    lowered: the same, without plan axis.
    placement: rounded shares [group, memory].
    rounding_loss: None where whole pieces found no room.
    figures: with a leading axis of one.
  """

  solved: Solved
  lowered: Lowered
  placement: np.ndarray
  rounding_loss: float | None
  figures: model.Figures


def request(
  system: System,
  jobs: list[model.Job],
  phase: str,
  chips: int,
  usd: float | None,
  usd_per_kWh: float | None,
  constraints: Constraints,
) -> dict[str, Any]:
  """What was asked, for the record."""
  job = jobs[0]
  return {
    'system': system.name,
    'workload': job.model.name,
    'hypothetical': job.model.hypothetical,
    'parameters': job.model.parameters().total,
    'chips': chips,
    'phase': phase,
    **job.phase._asdict(),
    'objective': job.objective.name,
    'per_s': job.objective.per_s,
    'per_J': job.objective.per_J,
    'engines': [j.machine.engine for j in jobs],
    'engine': job.machine.engine,
    'usable': job.machine.usable,
    'usd_per_chip_hour': usd,
    'usd_per_kWh': usd_per_kWh,
    'constraints': constraints.to_dict(),
  }


def searched(found: Found, began: float) -> Search:
  """What was searched, for the record."""
  return Search(
    configurations=sum(len(b.space) for b in found.branches),
    seconds=time.monotonic() - began,
    feasible=sum(int(b.swept.fits.sum()) for b in found.branches),
    placed=found.placed,
    certified_gap=found.gap,
    bound=_bound(found),
  )


def _bound(found: Found) -> float:
  """The proven bound of the objective, in its own unit."""
  objective = found.branches[0].job.objective
  if objective.name == TOKENS:
    best = found.solved[0]
    started = model.start(found.system, found.job(best), found.choices(best))
    return float(started.lowered.tokens) / found.least
  return objective.scale * found.least


def interrupted_help(found: Found) -> str:
  """What an interrupted search can say."""
  known = sum(
    int(np.isfinite(b.swept.overflow_B).sum()) for b in found.branches
  )
  return (
    f'Interrupted after {known} of {sum(len(b.space) for b in found.branches)} '
    'configurations: these are the best of them, and no configuration is '
    f'better than the first by more than {100 * found.gap:.2g} %. Run it again '
    'for the whole space.'
  )


def answer(
  found: Found,
  ensemble: System | None,
  prices: Prices,
  *,
  details: bool,
  verify: bool,
) -> dict[str, Any]:
  """Plans, elasticities and prices; call it with x64 enabled.

  Args:
    found: what the search found.
    ensemble: the machine with a leading axis of draws, or None.
    prices: chips and what they cost.
    details: whether elasticities, margins and the decision are wanted.
    verify: whether elasticities are checked by solving again.
  """
  placed = _place_best(found, prices.chips)
  draws = _draws(found, ensemble, placed, prices)
  plans = [
    _plan(found, p, d, prices) for p, d in zip(placed, draws, strict=True)
  ]
  best = placed[0]
  job, memories = (
    found.job(best.solved),
    found.job(best.solved).machine.memories,
  )
  gain = job.objective.gain(
    float(best.lowered.tokens), plans[0].predicted['step_time_s']
  )
  used_B = plans[0].predicted['memory_bytes']
  shadow = gain * best.solved.solution.prices
  told = {
    'plans': tuple(plans),
    'shadow_prices': dict(zip(memories, shadow.tolist(), strict=True)),
    'spare_bytes': {
      m: job.machine.usable * float(found.system.tier(m).capacity_B) - used_B[m]
      for m in memories
    },
  }
  return {**told, **(_details(found, ensemble, placed, draws, used_B, verify)
                     if details else {})}  # fmt: skip


def _details(found, ensemble, placed, draws, used_B, verify) -> dict[str, Any]:
  """What moves the answer, and how sure it is."""
  system, best = found.system, placed[0].solved
  elasticities = sensitivity.elasticities(
    system, found.job(best), found.choices(best), verify=verify
  )
  compared = [
    robustness.Compared(
      found.job(p.solved), found.choices(p.solved), p.lowered, p.placement,
      float(p.figures.value[0]), None if d is None else d.value,
    )
    for p, d in zip(placed, draws, strict=True)
  ]  # fmt: skip
  slopes = robustness.slopes_of(system, compared)
  return {
    'elasticities': elasticities.gradient,
    'elasticities_checked': elasticities.checked,
    'decision': robustness.decision_of(system, ensemble, compared, slopes),
    'overtakings': robustness.overtakings_of(
      system, ensemble, compared, slopes
    ),
    'memory_margins': robustness.memory_margins_of(
      system, compared[0], best.solution.prices, np.array(list(used_B.values()))
    ),
  }


def _place_best(found: Found, chips: int) -> list[_Placed]:
  """Rounds candidates until no other can be among the best ones.

  Rounding can change the order, but brings nothing below its bound.
  """
  placed = []
  for solved in found.solved[: max(_ROUNDED, _ROUNDED_PER_PLAN * found.top)]:
    values = [float(p.figures.value[0]) for p in placed]
    if len(values) == found.top and solved.solution.bound >= values[-1]:
      continue
    placed.append(_place(found, solved, chips))
    placed.sort(key=lambda p: float(p.figures.value[0]))
    placed = placed[: found.top]
  return placed


def _place(found: Found, solved: Solved, chips: int) -> _Placed:
  """Rounds a plan to whole layers, or keeps its fractions."""
  system, job = found.system, found.job(solved)
  started = model.start(system, job, found.choices(solved))
  limits = cutting_planes.limits_of(
    started.lowered, started.room_B, job.allowed(started.lowered.groups)
  )
  placement, loss = solved.solution.placement, None
  rounded = rounding.round_placement(
    system, started.lowered, limits, solved.solution, job.objective
  )
  if rounded:
    placement, value = rounded
    loss = value / solved.solution.value - 1.0
  figures = model.figures(
    system, started.lowered, placement[None], job.objective, chips
  )
  return _Placed(solved, started.lowered, placement, loss, figures)


def _draws(found, ensemble, placed: list[_Placed], prices: Prices):
  """Figures of every plan under every draw of the fit; None without one."""
  if ensemble is None:
    return [None] * len(placed)
  return [
    model.figures(
      ensemble, p.lowered, p.placement[None], found.job(p.solved).objective,
      prices.chips,
    )
    for p in placed
  ]  # fmt: skip


def _plan(found: Found, placed: _Placed, draws, prices: Prices) -> Plan:
  job, solved = found.job(placed.solved), placed.solved
  space = found.branches[solved.branch].space
  chosen = {k: v[solved.index] for k, v in space.choices.items()}
  is_training = isinstance(job.phase, Training)
  memories = job.machine.memories
  return Plan(
    mesh=space_lib.describe(chosen),
    micro_batch=int(chosen['micro_batch']),
    recompute=RECOMPUTE[int(chosen['recompute'])] if is_training else None,
    sharding=space_lib.describe_sharding(chosen),
    number_format=job.machine.engine.split(':')[1],
    placement={
      group: dict(zip(memories, row.tolist(), strict=True))
      for group, row in zip(
        placed.lowered.groups, placed.placement, strict=True
      )
    },
    predicted=_predicted(found, placed, prices),
    interval90=_interval(draws, prices),
    certified_gap=solved.solution.gap,
    rounding_loss=placed.rounding_loss,
    breakdown=_breakdown(found.system, placed),
  )


def _predicted(found: Found, placed: _Placed, prices: Prices) -> dict:
  outcome = {
    k: float(v[0]) for k, v in placed.figures.outcome._asdict().items()
  }
  lowered, machine = placed.lowered, found.job(placed.solved).machine
  by_group = _group_memory(placed, machine.memories)
  per_chip_FLOPps = (
    float(lowered.model_flops) / outcome['step_time_s'] / prices.chips
  )
  engine = found.system.engine(machine.engine)
  return {
    'step_time_s': outcome['step_time_s'],
    'tokens_per_s': outcome['tokens_per_s'],
    'energy_per_token_J': outcome['energy_per_token_J'],
    'cost_per_token_usd': cost_per_token_usd(outcome, *prices),
    'memory_bytes': {m: sum(by_group[m].values()) for m in by_group},
    'group_memory_bytes': by_group,
    'device_power_W': outcome['device_power_W'],
    'model_FLOPps_per_chip': per_chip_FLOPps,
    'engine_use': per_chip_FLOPps / float(engine.rate_FLOPps),
  }


def _group_memory(
  placed: _Placed, memories: tuple[str, ...]
) -> dict[str, dict[str, float]]:
  """Bytes of a device by memory and tensor group, buffers included.

  `working_buffers` are what cannot be placed elsewhere: one layer's
  activations at work, logits, gathered weights.
  """
  lowered, share = placed.lowered, placed.placement
  table = {
    memory: dict(
      zip(lowered.groups, (lowered.size_B * share[:, i]).tolist(), strict=True)
    )
    for i, memory in enumerate(memories)
  }
  nearest = table[memories[0]]
  nearest['working_buffers'] = float(lowered.fixed_B)
  nearest['fetch_buffers'] = float((lowered.fetch_B * (1 - share[:, 0])).sum())
  return table


def _breakdown(system: System, placed: _Placed) -> Breakdown:
  figures = placed.figures

  def table(names, values):
    return dict(zip(names, values[0].tolist(), strict=True))

  return Breakdown(
    operations_s=table(placed.lowered.operations, figures.busy_s),
    bubble_s=float(figures.bubble_s[0]),
    launch_s=float(figures.launch_s[0]),
    tiers_s=table(system.tier_names, figures.tier_s),
    engines_s=table(system.engine_names, figures.engine_s),
  )


def _interval(draws, prices: Prices) -> dict | None:
  """5 % and 95 % quantiles over the ensemble; None without one."""
  if draws is None:
    return None
  table = draws.outcome._asdict()
  table[COST] = cost_per_token_usd(table, *prices)
  return {
    metric: None
    if table[metric] is None
    else tuple(np.quantile(table[metric], _QUANTILES).tolist())
    for metric in METRICS
  }
