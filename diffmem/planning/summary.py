"""From solved configurations to the plans that are reported."""

from typing import Any, NamedTuple

import numpy as np

from diffmem.planning import cutting_planes, model, rounding, sensitivity
from diffmem.planning import space as space_lib
from diffmem.planning.objective import cost_per_token_usd, gain_per_unit
from diffmem.planning.result import Breakdown, Plan
from diffmem.system import System
from diffmem.workloads import RECOMPUTE, Lowered, Training

# Candidates that are rounded for each plan that is wanted.
_ROUNDED_PER_PLAN = 3
_QUANTILES = (0.05, 0.95)
_METRICS = (
  'step_time_s', 'tokens_per_s', 'energy_per_token_J', 'cost_per_token_usd',
)  # fmt: skip


class Solved(NamedTuple):
  """A configuration with its best placement in fractions."""

  index: int
  solution: cutting_planes.Solution


class Found(NamedTuple):
  """What the search found.

  Attributes:
    system: the machine, numpy float64 leaves.
    ensemble: the same with a leading axis, or None.
    job: what was planned.
    space: all configurations.
    solved: the best by their fractional optimum first.
    top: how many plans are wanted.
  """

  system: System
  ensemble: System | None
  job: model.Job
  space: space_lib.Space
  solved: list[Solved]
  top: int


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
  system: System, job: model.Job, phase: str, chips: int, usd: float | None
) -> dict[str, Any]:
  """What was asked, for the record."""
  return {
    'system': system.name,
    'workload': job.model.name,
    'hypothetical': job.model.hypothetical,
    'parameters': job.model.parameters().total,
    'chips': chips,
    'phase': phase,
    **job.phase._asdict(),
    'objective': job.objective.value,
    'engine': job.machine.engine,
    'usable': job.machine.usable,
    'usd_per_chip_hour': usd,
  }


def answer(
  found: Found, chips: int, usd_per_chip_hour: float | None
) -> dict[str, Any]:
  """Plans, elasticities and prices; call it with x64 enabled."""
  placed = _place_best(found, chips)
  plans = [_plan(found, p, chips, usd_per_chip_hour) for p in placed]
  best, machine = placed[0], found.job.machine
  elasticities = sensitivity.elasticities(
    found.system,
    found.job,
    found.space.at(np.array([best.solved.index])),
    best.placement,
    best.solved.solution,
    chips,
  )
  gain = gain_per_unit(
    found.job.objective,
    step_time_s=plans[0].predicted['step_time_s'],
    tokens=float(best.lowered.tokens),
    chips=chips,
    usd_per_chip_hour=usd_per_chip_hour,
  )
  used_B = plans[0].predicted['memory_bytes']
  prices = gain * best.solved.solution.prices
  return {
    'plans': tuple(plans),
    'elasticities': elasticities.gradient,
    'elasticities_checked': elasticities.checked,
    'shadow_prices': dict(zip(machine.memories, prices.tolist(), strict=True)),
    'spare_bytes': {
      m: machine.usable * float(found.system.tier(m).capacity_B) - used_B[m]
      for m in machine.memories
    },
  }


def _place_best(found: Found, chips: int) -> list[_Placed]:
  """Rounds candidates until no other can be among the best ones.

  Rounding can change the order, but brings nothing below its bound.
  """
  placed = []
  for solved in found.solved[: _ROUNDED_PER_PLAN * found.top]:
    values = [float(p.figures.value[0]) for p in placed]
    if len(values) == found.top and solved.solution.bound >= values[-1]:
      continue
    placed.append(_place(found, solved, chips))
    placed.sort(key=lambda p: float(p.figures.value[0]))
    placed = placed[: found.top]
  return placed


def _place(found: Found, solved: Solved, chips: int) -> _Placed:
  """Rounds a plan to whole layers, or keeps its fractions."""
  system, job = found.system, found.job
  choices = found.space.at(np.array([solved.index]))
  started = model.start(system, job, choices)
  limits = cutting_planes.limits_of(started.lowered, started.room_B)
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


def _plan(found: Found, placed: _Placed, chips: int, usd) -> Plan:
  index, solution = placed.solved
  chosen = {k: v[index] for k, v in found.space.choices.items()}
  is_training = isinstance(found.job.phase, Training)
  memories = found.job.machine.memories
  return Plan(
    mesh=space_lib.describe(chosen),
    micro_batch=int(chosen['micro_batch']),
    recompute=RECOMPUTE[int(chosen['recompute'])] if is_training else None,
    placement={
      group: dict(zip(memories, row.tolist(), strict=True))
      for group, row in zip(
        placed.lowered.groups, placed.placement, strict=True
      )
    },
    predicted=_predicted(found, placed, chips, usd),
    interval90=_interval(found, placed, chips, usd),
    certified_gap=solution.gap,
    rounding_loss=placed.rounding_loss,
    breakdown=_breakdown(found.system, placed),
  )


def _predicted(found: Found, placed: _Placed, chips: int, usd) -> dict:
  outcome = {
    k: float(v[0]) for k, v in placed.figures.outcome._asdict().items()
  }
  lowered = placed.lowered
  by_group = _group_memory(placed, found.job.machine.memories)
  rate_FLOPps = float(lowered.model_flops) / outcome['step_time_s'] / chips
  engine = found.system.engine(found.job.machine.engine)
  return {
    'step_time_s': outcome['step_time_s'],
    'tokens_per_s': outcome['tokens_per_s'],
    'energy_per_token_J': outcome['energy_per_token_J'],
    'cost_per_token_usd': cost_per_token_usd(
      outcome['tokens_per_s'], chips, usd
    ),
    'memory_bytes': {m: sum(by_group[m].values()) for m in by_group},
    'group_memory_bytes': by_group,
    'device_power_W': outcome['device_power_W'],
    'model_FLOPps_per_chip': rate_FLOPps,
    'engine_use': rate_FLOPps / float(engine.rate_FLOPps),
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


def _interval(found: Found, placed: _Placed, chips: int, usd) -> dict | None:
  """5 % and 95 % quantiles over the ensemble; None without one."""
  if found.ensemble is None:
    return None
  draws = model.figures(
    found.ensemble, placed.lowered, placed.placement[None],
    found.job.objective, chips,
  ).outcome._asdict()  # fmt: skip
  draws['cost_per_token_usd'] = cost_per_token_usd(
    draws['tokens_per_s'], chips, usd
  )
  interval = dict.fromkeys(_METRICS)
  for metric in _METRICS:
    if draws[metric] is not None:
      interval[metric] = tuple(np.quantile(draws[metric], _QUANTILES).tolist())
  return interval
