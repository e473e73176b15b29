"""Fronts of the planner's own answers: two metrics over several chip counts."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffmem import errors
from diffmem.planning import objective as objective_lib
from diffmem.planning.fronts import pareto
from diffmem.planning.plan import (
  BATCH_PER_CHIP,
  GLOBAL_BATCH_TOKENS,
  make_plan,
)
from diffmem.planning.search import Progress
from diffmem.system import FittedSystem, System
from diffmem.workloads import Transformer


def trade_off(
  system: System | FittedSystem,
  workload: Transformer | str,
  metrics: tuple[str, str],
  chips: Sequence[int],
  *,
  tolerance: float = 0.01,
  searches: int = 5,
  on_progress: Progress | None = None,
  **asked: Any,
) -> pareto.Front:
  """The front of two metrics, each point certified.

  The proven lines are those of the minimised sums: where boards are at their
  power cap, these count energy that a lower voltage saves (`objective`).

  Args:
    system: one device with what it reaches.
    workload: a transformer, or what `load_workload` takes.
    metrics: two of `objective.METRICS`.
    chips: numbers of devices.
    tolerance: gaps between points that are smaller are left.
    searches: at most so many plans for each number of chips.
    on_progress: called with a stage's name, how much is done and in all.
    **asked: as `make_plan`.

  Raises:
    PlanError: as `make_plan`; a metric that is not one of the planner's.
  """
  for metric in metrics:
    if metric not in objective_lib.METRICS:
      raise errors.PlanError(
        f'no metric {metric!r} (expected two of '
        f'{", ".join(objective_lib.METRICS)})'
      )

  def make(weights: Mapping[str, float], count: int) -> pareto.Answer | None:
    result = make_plan(
      system, workload, chips=count, objective=_sum_of(weights, asked, count),
      on_progress=on_progress, details=False, **asked,
    )  # fmt: skip
    if not result.plans:
      return None
    plans = [{**p.predicted, 'plan': p} for p in result.plans]
    return pareto.Answer(plans, result.search.bound)

  return pareto.front(
    make, metrics, chips, tolerance=tolerance, searches=searches
  )


def _sum_of(weights, asked, chips) -> dict[str, float]:
  """The weighted sum of costs, as an objective of the planner.

  Seconds for each token, the cost of tokens per second, are seconds of a step
  over its tokens.
  """
  tokens = asked.get('global_batch_tokens', GLOBAL_BATCH_TOKENS)
  if asked.get('phase') == 'decode':
    tokens = asked.get('batch') or BATCH_PER_CHIP * chips
  found: dict[str, float] = {}
  for metric, weight in weights.items():
    if metric == objective_lib.TOKENS:
      metric, weight = objective_lib.TIME, weight / tokens
    if weight:
      found[metric] = found.get(metric, 0.0) + weight
  return found
