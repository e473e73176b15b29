"""From the best continuous design to one of parts that are sold.

Stacks are whole, rates and sizes are listed, and the channels, drives and
modules of a host are shared by its eight accelerators. The corners of the cell
around the continuous design are ranked by its gradient; the best of them are
evaluated, with plans of their own, and from the best one the search goes on
to neighbours that differ in one part, or exchange two, until none is better.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from diffmem import errors
from diffmem.codesign.designs.budgets import Budget, Feasible, feasible
from diffmem.codesign.designs.design import DesignSpace
from diffmem.codesign.designs.design_value import Evaluate, Evaluation
from diffmem.codesign.designs.search_design import DesignFound, Tried

# Accelerators of a host, as in the servers of the catalog ('its eighth').
_SHARED_BY = 8
_WHOLE = ('stacks', 'hbf_stacks')
# Curvature of ln(value) that ranks corners: a value that is a sum of powers,
# of which a parameter carries a tenth.
_CURVATURE = 0.1
_CORNERS = 8
_KEPT_BY = 1e-6


@dataclasses.dataclass(frozen=True)
class Built:
  """A design of parts that are sold.

  Attributes:
    outcome: 'built', or 'infeasible' where no corner keeps the budgets.
    help: what that means.
    x: the design (logarithms); None where infeasible.
    design: the same by name [SI].
    value: what serving the mix costs on it [USD/s].
    continuous: the same of the continuous design [USD/s].
    used: of the fleet's budgets.
    history: what was evaluated, in order.
    detail: of the evaluation of this design: its best plans.
  """

  outcome: str
  help: str
  x: Float[np.ndarray, ' parameter'] | None
  design: Mapping[str, float]
  value: float
  continuous: float
  used: Mapping[str, float]
  history: tuple[Tried, ...]
  detail: Any = None

  @property
  def loss(self) -> float:
    """What rounding costs, over the continuous design."""
    return self.value / self.continuous - 1.0


def choices_of(space: DesignSpace, name: str) -> np.ndarray:
  """What can be built of one parameter, ascending [SI].

  Raises:
    SpecError: an unknown parameter.
  """
  if name not in space.names:
    raise errors.SpecError(
      f'no parameter {name!r} (there is {", ".join(space.names)})'
    )
  p = space.parameters[space.names.index(name)]
  if p.listed:
    found = np.array(sorted({*p.listed, p.reference}))
  elif name in _WHOLE:
    found = np.arange(np.ceil(p.low), p.high + 0.5)
  else:
    found = np.arange(1, round(p.high * _SHARED_BY) + 1) / _SHARED_BY
  kept = (found >= p.low * (1 - 1e-9)) & (found <= p.high * (1 + 1e-9))
  return found[kept]


def build(
  space: DesignSpace,
  evaluate: Evaluate,
  found: DesignFound,
  limits: Sequence[Budget] = (),
  *,
  evaluations: int = 60,
  certify: Evaluate | None = None,
  on_progress: Callable[[str, int, int], None] | None = None,
) -> Built:
  """Rounds the result of a search to parts that are sold.

  Args:
    space: base machine and kinds of parts.
    evaluate: value and gradient of a design.
    found: the continuous design.
    limits: budgets.
    evaluations: most of them.
    certify: evaluates the design that is chosen once more, such as with plans
      searched anew; `evaluate` where None.
    on_progress: called with a stage's name, how much is done and in all.

  Raises:
    PlanError: the search found no design.
  """
  if found.x is None:
    raise errors.PlanError(f'there is no design to build: {found.help}')
  inside = feasible(space, limits)
  fleet = tuple(b for b in limits if b.is_of_fleet)
  prices = {b.name: found.worth.get(b.name, 0.0) for b in fleet}
  lattice = [np.log(choices_of(space, name)) for name in space.names]
  trier = _Trier(evaluate, prices, fleet, evaluations, on_progress)
  start = min(
    (t for t in found.history if t.kept), key=lambda t: t.value
  )  # The gradient of the best design.
  slope = np.array(start.gradient) / found.value
  corners = _corners(inside, lattice, found.x, slope)
  best = None
  for corner in corners[:_CORNERS]:
    best = trier.better(best, corner)
  if best is None:
    return _none(found, trier, corners)
  best = _improved(inside, lattice, trier, best)
  evaluation = trier.seen[best]
  if certify is not None:
    evaluation = certify(np.array(best), prices)
  return Built(
    'built',
    'the best of the designs of parts that are sold that were evaluated',
    np.array(best),
    {k: float(v) for k, v in space.values(np.array(best)).items()},
    float(evaluation.value),
    found.value,
    dict(evaluation.used),
    tuple(trier.history),
    evaluation.detail,
  )


class _Trier:
  """Evaluates designs, once each, while evaluations last."""

  def __init__(self, evaluate, prices, fleet, evaluations, on_progress):
    self._evaluate, self._prices, self._fleet = evaluate, prices, fleet
    self._left, self._most = evaluations, evaluations
    self._report = on_progress or (lambda *_: None)
    self.seen: dict[tuple[float, ...], Evaluation] = {}
    self.history: list[Tried] = []

  def better(
    self, best: tuple[float, ...] | None, x: np.ndarray
  ) -> tuple[float, ...] | None:
    """The better of two designs; the first where the second is no design."""
    key = tuple(x.tolist())
    if key in self.seen or not self._left:
      return best
    self._left -= 1
    one = self._evaluate(x, self._prices)
    self._report('parts', self._most - self._left, self._most)
    kept = bool(np.isfinite(one.value)) and all(
      one.used[b.name] <= b.limit for b in self._fleet
    )
    self.history.append(
      Tried(
        key, float(one.value), tuple(np.asarray(one.gradient).tolist()),
        dict(one.used), dict(self._prices), kept,
      )
    )  # fmt: skip
    if not kept:
      return best
    self.seen[key] = one
    if best is None or one.value < self.seen[best].value:
      return key
    return best


def _corners(inside: Feasible, lattice, x, slope) -> list[np.ndarray]:
  """Corners of the cell around x within the budgets, most promising first."""
  sides = []
  for values, at in zip(lattice, x, strict=True):
    above = int(np.clip(np.searchsorted(values, at - 1e-9), 0, len(values) - 1))
    below = above if abs(values[above] - at) < 1e-6 else max(above - 1, 0)
    sides.append(sorted({float(values[below]), float(values[above])}))
  every = np.array(list(itertools.product(*sides)))
  moved = every - x
  rank = moved @ slope + 0.5 * _CURVATURE * (moved**2).sum(-1)
  found = []
  for i in np.argsort(rank, kind='stable'):
    if inside.is_kept(every[i], _KEPT_BY):
      found.append(every[i])
    if len(found) >= 4 * _CORNERS:
      break
  return found


def _improved(inside, lattice, trier: _Trier, best) -> tuple[float, ...]:
  """Neighbours that differ in one part or two, until none is better."""
  while True:
    slope = np.array(trier.seen[best].gradient) / trier.seen[best].value
    before = best
    for neighbour in _neighbours(lattice, np.array(best), slope):
      if inside.is_kept(neighbour, _KEPT_BY):
        best = trier.better(best, neighbour)
        if best != before:
          break
    if best == before:
      return best


def _neighbours(lattice, x, slope) -> list[np.ndarray]:
  """One part up or down, or one up for another down, the best guess first.

  Exchanges are tried where the gradient says that they gain: a budget that
  binds leaves no room for one part more.
  """
  one = []
  for i, values in enumerate(lattice):
    at = int(np.argmin(np.abs(values - x[i])))
    for other in (at - 1, at + 1):
      if 0 <= other < len(values):
        one.append((i, float(values[other] - x[i])))
  moves = [[m] for m in one]
  moves += [
    [up, down]
    for up, down in itertools.product(one, one)
    if up[0] != down[0] and up[1] > 0 > down[1]
  ]
  found = []
  for move in moves:
    step = np.zeros_like(x)
    for i, moved in move:
      step[i] = moved
    rank = slope @ step + 0.5 * _CURVATURE * (step**2).sum()
    if len(move) == 1 or rank < 0:
      found.append((rank, x + step))
  return [y for _, y in sorted(found, key=lambda pair: pair[0])]


def _none(found, trier, corners) -> Built:
  help = (
    'no corner of parts that are sold around the continuous design keeps the '
    'budgets: loosen one by the size of a part'
    if not corners
    else 'the corners of parts that are sold cannot serve the mix within the '
    "fleet's budgets: loosen one of them"
  )
  return Built(
    'infeasible', help, None, {}, np.inf, found.value, {}, tuple(trier.history)
  )
