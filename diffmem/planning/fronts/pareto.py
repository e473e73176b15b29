"""Fronts of two metrics, with how far below them any plan could be.

A weighted sum of two costs finds points of the lower convex hull of all plans;
weights normal to the segment between two points find the one between them, if
there is any (non-inferior set estimation: Cohon, Church and Sheer, Water
Resources Research 15(5), 1979). A proven bound of a weighted sum is a straight
line below which no plan lies; together these lines certify the front. Plans
that are better than both neighbours in nothing but lie above the segment
between them can exist and are not looked for: the certificate covers them.

Rates enter as their reciprocals, so that less of every cost is better and the
sums stay linear in the step time.
"""

import dataclasses
import enum
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from diffmem import errors

# Whether more is better.
METRICS = {
  'step_time_s': False,
  'tokens_per_s': True,
  'energy_per_token_J': False,
  'cost_per_token_usd': False,
  'near_memory_B': False,
}
_SAME = 1e-9


class Answer(NamedTuple):
  """What one search for a weighted sum finds.

  Attributes:
    plans: metrics of some plans, the best of the sum among them; they may
      hold more than the two metrics of the front.
    bound: no plan of so many chips has a weighted sum of costs below.
  """

  plans: Sequence[Mapping[str, Any]]
  bound: float


# From metric -> weight and chips to an answer; None where nothing fits.
Make = Callable[[Mapping[str, float], int], Answer | None]


class Line(NamedTuple):
  """No plan of `chips` chips has weights . costs below `bound`."""

  chips: int
  weights: tuple[float, float]
  bound: float


class FrontOutcome(enum.StrEnum):
  """What the front looks like."""

  FRONT = 'front'
  ONE_POINT = 'one_point'  # one plan is best in both
  NOTHING = 'nothing'  # nothing fits on any number of chips


@dataclasses.dataclass(frozen=True)
class Point:
  """One plan on the front.

  Attributes:
    metrics: everything that the search told of it.
    chips: devices.
    slack: no plan on any of the chip counts is better in both metrics by more
      than this share of its costs.
  """

  metrics: Mapping[str, Any]
  chips: int
  slack: float


@dataclasses.dataclass(frozen=True)
class Front:
  """Plans of which none is worse than another in both metrics.

  Attributes:
    outcome: what the front looks like.
    help: one sentence for a person.
    metrics: the two.
    points: by the first metric's cost, the least first.
    knee: the point farthest below the chord of the ends; None of fewer than
      three points.
    lines: the proven ones.
    searched: how many searches were made.
  """

  outcome: FrontOutcome
  help: str
  metrics: tuple[str, str]
  points: tuple[Point, ...]
  knee: int | None
  lines: tuple[Line, ...]
  searched: int

  def least(self, cost: float) -> float:
    """Proven lower bound of the second cost, where the first is `cost`.

    Infinite where no plan has so little of the first.
    """
    bounds = [
      max(_second(line, cost) for line in lines)
      for lines in _by_chips(self.lines).values()
    ]
    return min(bounds, default=np.inf)

  def to_dict(self) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers."""
    return dataclasses.asdict(self)


def cost_of(metric: str, value: float) -> float:
  """A metric as a cost: less is better.

  Raises:
    PlanError: an unknown metric.
  """
  return 1.0 / value if _more_is_better(metric) else value


def front(
  make: Make,
  metrics: tuple[str, str],
  chips: Sequence[int],
  *,
  tolerance: float = 0.01,
  searches: int = 9,
  on_progress: Callable[[int, int], None] | None = None,
) -> Front:
  """Traces the front of two metrics over some chip counts.

  Args:
    make: the search; weights are of costs (see `cost_of`).
    metrics: two of `METRICS`.
    chips: numbers of devices.
    tolerance: a gap between points that is smaller, as a share of the
      weighted sum, is not searched any further.
    searches: at most so many for each number of chips.
    on_progress: called with chip counts done and in all.

  Raises:
    PlanError: not two different known metrics, or no chip count.
  """
  if len(set(metrics)) != 2 or len(metrics) != 2:
    raise errors.PlanError(
      f'metrics = {metrics!r}: expected two different ones'
    )
  if not chips:
    raise errors.PlanError('chips is empty: expected at least one number')
  for metric in metrics:
    _more_is_better(metric)
  found, lines, searched = [], [], 0
  for i, count in enumerate(chips):
    traced = _Trace(make, tuple(metrics), int(count))
    traced.run(tolerance, searches)
    found += [(plan, int(count)) for plan in traced.plans]
    lines += traced.lines
    searched += traced.searched
    if on_progress:
      on_progress(i + 1, len(chips))
  return _assembled(tuple(metrics), found, tuple(lines), searched)


class _Trace:
  """The search on one number of chips."""

  def __init__(self, make: Make, metrics: tuple[str, str], chips: int):
    self.make, self.metrics, self.chips = make, metrics, chips
    self.plans: list[Mapping] = []
    self.lines: list[Line] = []
    self.searched = 0

  def run(self, tolerance: float, searches: int) -> None:
    """Ends first, then where the certificate is widest."""
    if not self.search((1.0, 0.0)) or searches < 2:
      return
    self.search((0.0, 1.0))
    done = set()
    while self.searched < searches:
      open_ = [
        (gap, pair, weights)
        for gap, pair, weights in self.segments()
        if gap > tolerance and pair not in done
      ]
      if not open_:
        return
      _, pair, weights = max(open_)
      done.add(pair)
      self.search(weights)

  def search(self, weights: tuple[float, float]) -> bool:
    """One search; whether it found a plan."""
    asked = dict(zip(self.metrics, weights, strict=True))
    answer = self.make(asked, self.chips)
    self.searched += 1
    if answer is None or not answer.plans:
      return False
    self.plans += answer.plans
    self.lines.append(Line(self.chips, weights, float(answer.bound)))
    return True

  def segments(self):
    """(gap, pair, weights) of neighbours on the hull of what was found."""
    hull = _hull(_costs(self.plans, self.metrics))
    for (x0, y0), (x1, y1) in itertools.pairwise(hull):
      weights = np.array([y0 - y1, x1 - x0])
      weights = weights / (weights @ (x0, y0))  # the segment's sum is one
      gap = 1.0 - _least_sum(self.lines, weights)
      yield gap, (x0, x1), tuple(weights.tolist())


def _assembled(metrics, found, lines, searched) -> Front:
  if not found:
    return Front(
      FrontOutcome.NOTHING, 'nothing fits on any of these numbers of chips',
      metrics, (), None, (), searched,
    )  # fmt: skip
  costs = _costs([plan for plan, _ in found], metrics)
  kept = np.flatnonzero(non_dominated(costs))
  kept = kept[np.argsort(costs[kept, 0])]
  groups = _by_chips(lines)
  points = tuple(
    Point(dict(found[i][0]), found[i][1], _slack(groups, costs[i]))
    for i in kept
  )
  at = knee(costs[kept])
  if len(points) == 1:
    said = f'one plan, on {points[0].chips} chips, is the best in both'
    outcome = FrontOutcome.ONE_POINT
  else:
    said = f'{len(points)} plans; none is better in both metrics by more than '
    said += f'{max(p.slack for p in points):.2%}'
    outcome = FrontOutcome.FRONT
  return Front(outcome, said, metrics, points, at, lines, searched)


def non_dominated(
  costs: Float[np.ndarray, 'point metric'],
) -> Bool[np.ndarray, ' point']:
  """Points that no other one beats or equals in all costs; ties keep one."""
  kept = np.ones(len(costs), bool)
  for i in np.lexsort(costs.T[::-1]):
    if kept[i]:
      worse = (costs >= costs[i]).all(1)
      worse[i] = False
      kept &= ~worse
  return kept


def knee(costs: Float[np.ndarray, 'point 2']) -> int | None:
  """The point farthest below the chord of the ends, each cost over its range.

  Das, Structural Optimization 18(2), 1999. None of fewer than three points,
  or where none lies below.
  """
  if len(costs) < 3:
    return None
  low, high = costs.min(0), costs.max(0)
  scaled = (costs - low) / np.maximum(high - low, 1e-300)
  below = 1.0 - scaled.sum(1)
  best = int(np.argmax(below))
  return best if below[best] > _SAME else None


def _more_is_better(metric: str) -> bool:
  if metric not in METRICS:
    raise errors.PlanError(
      f'no metric {metric!r} (expected one of {", ".join(METRICS)})'
    )
  return METRICS[metric]


def _costs(plans, metrics) -> Float[np.ndarray, 'point 2']:
  return np.array([[cost_of(m, plan[m]) for m in metrics] for plan in plans])


def _hull(costs) -> list[tuple[float, float]]:
  """Lower left convex hull, by the first cost (Andrew's monotone chain)."""
  kept = costs[non_dominated(costs)]
  hull: list[tuple[float, float]] = []
  for x, y in sorted(map(tuple, kept.tolist())):
    while len(hull) > 1:
      (x0, y0), (x1, y1) = hull[-2:]
      if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0:
        break
      hull.pop()
    hull.append((x, y))
  return hull


def _least_sum(lines: Sequence[Line], weights) -> float:
  """The least weighted sum that the lines allow.

  The dual of a linear program in two costs: the largest bound that one line,
  or two with weights on either side, give when scaled to add up to no more
  than the weights asked for.
  """
  rows = np.array([line.weights for line in lines])
  bounds = np.array([line.bound for line in lines])
  with np.errstate(divide='ignore', invalid='ignore'):
    alone = np.where(rows > 0, weights / rows, np.inf).min(1) * bounds
    (a, b), (c, d) = weights, rows.T
    # Shares of line i and line j [i, j] by Cramer's rule.
    area = c[:, None] * d - d[:, None] * c
    share = (a * d - b * c)[None, :] / area
    other = (b * c - a * d)[:, None] / area
    both = share * bounds[:, None] + other * bounds
  both = both[(share >= 0) & (other >= 0) & np.isfinite(both)]
  return float(max(alone.max(), both.max(initial=0.0), 0.0))


def _by_chips(lines: Sequence[Line]) -> dict[int, list[Line]]:
  groups: dict[int, list[Line]] = {}
  for line in lines:
    groups.setdefault(line.chips, []).append(line)
  return groups


def _slack(groups: Mapping[int, list[Line]], costs) -> float:
  """Share by which both costs could shrink before some line is met."""
  shares = [
    min(1.0 - line.bound / float(np.dot(line.weights, costs)) for line in lines)
    for lines in groups.values()
  ]
  return max(*shares, 0.0)


def _second(line: Line, cost: float) -> float:
  """The least second cost over a line at a first cost."""
  left = line.bound - line.weights[0] * cost
  if line.weights[1] > 0:
    return max(left / line.weights[1], 0.0)
  return np.inf if left > _SAME * line.bound else 0.0
