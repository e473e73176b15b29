"""The best memory system within budgets, by Adam along envelope gradients.

Where the best mesh of a workload changes, what the mix costs has a kink, and
different starts end in different valleys: a few walks (`design_walk`) from
different designs come first. The last evaluations polish the best design with
sequential quadratic programs (SLSQP: Kraft, DFVLR-FB 88-28, 1988) at fixed
prices: along several budgets that bind, Adam's last percents are slow. The best
design so far that keeps everything is the answer.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from diffmem.codesign.designs.budgets import Budget, Feasible, feasible
from diffmem.codesign.designs.design import DesignSpace
from diffmem.codesign.designs.design_value import Evaluate
from diffmem.codesign.designs.design_walk import (
  NEARLY,
  SearchOptions,
  Tried,
  Walk,
  best_so_far,
  multipliers,
  normals,
)

SECONDS_PER_YEAR = 8766.0 * 3600.0
# Relative progress that ends polishing; value of a design that cannot serve.
_POLISHED, _UNSERVED = 1e-6, 1e3


@dataclasses.dataclass(frozen=True)
class DesignFound:
  """What a search found.

  Attributes:
    outcome: 'converged', 'evaluations' (all used), 'interrupted', or
      'infeasible' where no design kept the budgets and served the mix.
    help: what that means, and what to do.
    x: the best design (logarithms); None where infeasible.
    value: what serving the mix costs on it [USD/s].
    design: the same by name [SI].
    worth: budget -> what one more unit of it saves [USD/s per unit]; 0 where
      it does not bind.
    at_bounds: parameters at the end of what can be built, with which end.
    used: budget -> what the best design uses of it.
    history: everything that was evaluated, in order.
  """

  outcome: str
  help: str
  x: Float[np.ndarray, ' parameter'] | None
  value: float
  design: Mapping[str, float]
  worth: Mapping[str, float]
  at_bounds: Mapping[str, str]
  used: Mapping[str, float]
  history: tuple[Tried, ...]

  @property
  def best_so_far(self) -> np.ndarray:
    """Lowest value of a kept design after each evaluation [evaluation]."""
    return best_so_far(self.history)

  def worth_per_year(self) -> dict[str, float]:
    """What one more unit of each budget saves in a year [USD/year]."""
    return {name: w * SECONDS_PER_YEAR for name, w in self.worth.items()}


def search_design(
  space: DesignSpace,
  evaluate: Evaluate,
  limits: Sequence[Budget] = (),
  *,
  start: Float[np.ndarray, ' parameter'] | None = None,
  options: SearchOptions | None = None,
  resume_path: str | os.PathLike | None = None,
  on_progress: Callable[[str, int, int], None] | None = None,
) -> DesignFound:
  """Minimises what serving the mix costs, within budgets.

  Ctrl-C ends it with the best so far; with `resume_path` a later call with the
  same space and budgets goes on from there.

  Args:
    space: base machine and kinds of parts.
    evaluate: value and gradient of a design, such as a `DesignValue`.
    limits: budgets.
    start: where to begin (logarithms); the base's configuration.
    options: how to search.
    resume_path: JSON file of the state, written after each evaluation.
    on_progress: called with a stage's name, how much is done and in all.

  Raises:
    PlanError: not even the smallest design keeps a budget.
    SpecError: a state file of another space or other budgets.
  """
  options = options or SearchOptions()
  inside = feasible(space, limits)
  fleet = tuple(b for b in limits if b.is_of_fleet)
  first = space.reference if start is None else np.asarray(start, np.float64)
  walk = Walk(inside, fleet, options, first)
  path = None if resume_path is None else pathlib.Path(resume_path)
  key = _key(space, limits)
  if path is not None and path.exists():
    walk.load(path, key)
  outcome = 'evaluations'
  try:

    def tried(x, prices):
      found = evaluate(x, prices)
      walk.record(x, prices, found)
      if on_progress:
        on_progress('designs', len(walk.history), options.evaluations)
      return found

    while len(walk.history) < options.adam_evaluations:
      walk.begin_leg(first)
      prices = walk.prices()
      walk.move(tried(walk.x, prices))
      if path is not None:
        walk.save(path, key)
    if _polish(inside, walk, tried, options):
      outcome = 'converged'
  except KeyboardInterrupt:
    outcome = 'interrupted'
  return _found(inside, limits, walk.history, outcome)


def _polish(inside: Feasible, walk: Walk, tried, options) -> bool:
  """Sequential quadratic programs from the best design, at fixed prices.

  Returns:
    Whether they ended before the evaluations did.
  """
  import scipy.optimize

  kept = [t for t in walk.history if t.kept]
  if not kept or not options.polish:
    return False
  best = min(kept, key=lambda t: t.value)
  prices = _settled_prices(walk.history, best)

  def value(x):
    if len(walk.history) >= options.evaluations:
      raise StopIteration
    found = tried(inside.project(x), prices)
    if not np.isfinite(found.value):
      return _UNSERVED, np.zeros_like(x)
    priced = sum(prices[name] * found.used[name] for name in prices)
    return (found.value + priced) / best.value, found.gradient / best.value

  limits = {
    'type': 'ineq',
    'fun': lambda x: -inside.overuse(x)[0],
    'jac': lambda x: -inside.overuse(x)[1],
  }
  space = inside.space
  try:
    scipy.optimize.minimize(
      value, np.array(best.x), jac=True, method='SLSQP',
      bounds=list(zip(space.low, space.high, strict=True)),
      constraints=limits if inside.budgets else (),
      options={'ftol': _POLISHED, 'maxiter': options.evaluations},
    )  # fmt: skip
  except StopIteration:
    return False
  return True


def _key(space: DesignSpace, limits: Sequence[Budget]) -> dict[str, Any]:
  return {
    'base': space.base.name,
    'kit': list(space.kit),
    'parameters': list(space.names),
    'budgets': [[b.name, b.limit] for b in limits],
  }


def _found(inside, limits, history, outcome) -> DesignFound:
  kept = [t for t in history if t.kept]
  if not kept:
    return _none_found(history, limits, outcome)
  space = inside.space
  best = min(kept, key=lambda t: t.value)
  x = np.array(best.x)
  worth = {b.name: 0.0 for b in limits}
  at_bounds = {}
  rows, labels = normals(inside, x, NEARLY)
  by_name = {b.name: b for b in limits}
  if len(rows):
    found = multipliers(rows, np.array(best.gradient))
    for (name, end), m in zip(labels, found, strict=True):
      if end:
        at_bounds[name] = end
      else:
        worth[name] = float(m) / by_name[name].limit
  worth |= {n: float(p) for n, p in _settled_prices(history, best).items()}
  over = np.exp(inside.overuse(x)[0]) if inside.budgets else []
  used = {
    b.name: float(o) * b.limit
    for b, o in zip(inside.budgets, over, strict=True)
  }
  return DesignFound(
    outcome=outcome,
    help=_HELP[outcome],
    x=x,
    value=best.value,
    design={k: float(v) for k, v in space.values(x).items()},
    worth=worth,
    at_bounds=at_bounds,
    used=used | dict(best.used),
    history=tuple(history),
  )


def _settled_prices(history, best) -> dict[str, float]:
  """Prices of the fleet's budgets: the mean over the designs near the best."""
  near = [
    t.prices for t in history if np.abs(np.subtract(t.x, best.x)).max() < 0.1
  ]
  return {
    name: float(np.mean([prices[name] for prices in near]))
    for name in best.prices
  }


_HELP = {
  'converged': 'the value has stopped falling',
  'evaluations': 'all evaluations are used: more of them may find better',
  'interrupted': 'interrupted: the best so far; resume it with its state file',
}


def _none_found(history, limits, outcome) -> DesignFound:
  served = [t for t in history if np.isfinite(t.value)]
  if outcome == 'interrupted' and not history:
    help = 'interrupted before the first design was evaluated'
  elif not served:
    help = (
      'no design within the budgets can serve the mix: give the workloads '
      'more chips, or loosen a budget of memory'
    )
  else:
    least = {
      b.name: min(t.used[b.name] for t in served)
      for b in limits
      if b.is_of_fleet
    }
    shown = ', '.join(
      f'{b.name} {b.shown(least[b.name])} for {b.shown(b.limit)}'
      for b in limits
      if b.is_of_fleet and least[b.name] > b.limit
    )
    help = f'the fleet never kept its budgets ({shown or "all at once"})'
  return DesignFound(
    'infeasible', help, None, np.inf, {}, {}, {}, {}, tuple(history)
  )
