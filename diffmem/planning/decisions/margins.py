"""What would bind next, and what would change the answer.

A shadow price holds for the next byte; how many more it holds for is found by
solving again with other capacities. A limit that does not bind has no price;
its margin says how far away it is. A parameter of the machine changes the
answer where it has moved so far that another plan overtakes the first: the
first-order distance comes from the elasticities of the two plans,
ln f = ln(v_2 / v_1) / (e_1 - e_2), and is checked by evaluating both there.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from diffmem import errors

# A price holds where it is within this share of what it is now.
_TOLERANCE = 0.1
# Capacities are tried from 1/4 to 4 times what they are.
_REACH = 4.0
_HALVINGS = 6
# Parameters that would have to move farther are no margin.
_FARTHEST = math.log(10.0)
# Moves of a parameter between none and twice the first-order one.
_MOVES = 32
_CHECKED = 8

# Bytes of a device -> (value, price per byte); None where nothing fits.
Solve = Callable[[float], tuple[float, float] | None]
# Parameter and moves of its leaf [try] -> value of every plan [plan, try].
Evaluate = Callable[[str, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class MemoryMargin:
  """One memory's limit.

  Attributes:
    memory: tier.
    capacity_B: what tensors may fill of it [B].
    spare_B: of that, left free [B].
    price: gain of the objective per byte more; 0 where it does not bind.
    holds_from_B: down to here the price stays within a tenth; where it does
      not bind now, down to here it does not [B].
    holds_to_B: up to here [B].
    below: what is below: 'the price rises', 'it binds', 'nothing fits', or
      'nothing found' down to a quarter of the capacity.
    above: what is above: 'the price falls', 'it no longer binds' or 'nothing
      found' up to four times the capacity.
  """

  memory: str
  capacity_B: float
  spare_B: float
  price: float
  holds_from_B: float
  holds_to_B: float
  below: str
  above: str

  @property
  def nearness(self) -> float:
    """The change of capacity, as a factor's logarithm, that matters next."""
    return min(
      math.log(self.capacity_B / self.holds_from_B),
      math.log(self.holds_to_B / self.capacity_B)
      if self.price > 0
      else math.inf,
    )


@dataclasses.dataclass(frozen=True)
class Overtaking:
  """Where one parameter's move lets another plan overtake the first.

  Attributes:
    parameter: full name.
    plan: index of the plan that overtakes.
    first_order: factor of the parameter (an addition for one without
      logarithm) by the elasticities.
    factor: the same by evaluation; None where it was not checked, or where
      no plan overtakes within twice the first-order move.
    is_checked: whether both plans were evaluated there.
    deviations: the move over the parameter's standard error; None unknown.
  """

  parameter: str
  plan: int
  first_order: float
  factor: float | None
  is_checked: bool
  deviations: float | None


def memory_margin(
  solve: Solve,
  memory: str,
  *,
  capacity_B: float,
  spare_B: float,
  price: float,
) -> MemoryMargin:
  """How far a memory's capacity can move before its price does.

  The optimum of one mesh is convex in the capacity, so its price only falls
  as that grows, and bisection finds where it leaves its range. Over many
  meshes it can come back; what is reported is the first departure on the
  bisection's way.

  Args:
    solve: the optimum at another capacity.
    memory: tier.
    capacity_B: what tensors may fill of it [B].
    spare_B: bytes of it that the plan leaves free [B].
    price: its shadow price now.
  """
  if price > 0:
    low_B, below = _edge(solve, capacity_B, capacity_B / _REACH, price)
    high_B, above = _edge(solve, capacity_B, capacity_B * _REACH, price)
  else:
    low_B, below = _edge(solve, capacity_B, capacity_B / _REACH, 0.0)
    high_B, above = capacity_B * _REACH, 'nothing found'
  return MemoryMargin(
    memory, capacity_B, spare_B, price, low_B, high_B, below, above
  )


def _edge(solve: Solve, inside_B: float, outside_B: float, price: float):
  """Bisection for the capacity at which the price leaves its range."""
  reason = _departure(solve(outside_B), price)
  if not reason:
    return outside_B, 'nothing found'
  for _ in range(_HALVINGS):
    middle_B = math.sqrt(inside_B * outside_B)
    found = _departure(solve(middle_B), price)
    if found:
      outside_B, reason = middle_B, found
    else:
      inside_B = middle_B
  return inside_B, reason


def _departure(found: tuple[float, float] | None, price: float) -> str:
  """How the price has left its range; '' where it has not."""
  if found is None:
    return 'nothing fits'
  now = found[1]
  if price == 0:
    return 'it binds' if now > 0 else ''
  if now > price * (1.0 + _TOLERANCE):
    return 'the price rises'
  if now <= 0:
    return 'it no longer binds'
  return 'the price falls' if now < price * (1.0 - _TOLERANCE) else ''


def overtakings(
  values: Float[np.ndarray, ' plan'],
  slopes: Mapping[str, Float[np.ndarray, ' plan']],
  evaluate: Evaluate | None = None,
  *,
  without_logarithm: Sequence[str] = (),
  stderr: Mapping[str, float] | None = None,
  checked: int = _CHECKED,
) -> tuple[Overtaking, ...]:
  """Parameters by how little they have to move for another plan to be first.

  Args:
    values: objective of every plan, the best first; less is better.
    slopes: d ln(value) / d leaf of every plan, by full parameter name.
    evaluate: value of every plan under moves of one leaf; None for the
      first-order distances alone.
    without_logarithm: parameters whose leaf is the value itself.
    stderr: standard error of the leaf, by full parameter name; where it is
      known, distance is counted in it.
    checked: how many of the nearest are evaluated.

  Returns:
    the nearest first: by standard errors where they are known, else by the
    logarithm of the factor; those that turned out not to let another plan
    overtake last. What would have to move more than tenfold is left out.

  Raises:
    PlanError: fewer than two plans, or values that are not above 0.
  """
  values = np.asarray(values, float)
  if len(values) < 2 or not (values > 0).all():
    raise errors.PlanError(
      'expected the values of two plans at least, all more than 0'
    )
  lead = np.log(values[1:] / values[0])
  found = []
  for name, slope in slopes.items():
    closing = slope[0] - np.asarray(slope[1:], float)
    with np.errstate(divide='ignore'):
      moves = np.where(closing != 0.0, lead / closing, np.inf)
    rival = int(np.argmin(np.abs(moves)))
    if abs(moves[rival]) <= _FARTHEST:
      found.append((name, rival + 1, float(moves[rival])))
  known = stderr or {}

  def distance(name: str, move: float) -> float:
    return abs(move) / known[name] if known.get(name) else abs(move)

  found.sort(key=lambda one: distance(one[0], one[2]))
  told = []
  for i, (name, plan, move) in enumerate(found):
    is_checked = evaluate is not None and i < checked
    exact, by = (
      _crossing(evaluate, name, move, plan) if is_checked else (move, plan)
    )
    physical = (lambda x: x) if name in without_logarithm else math.exp
    one = Overtaking(
      parameter=name,
      plan=by,
      first_order=physical(move),
      factor=physical(exact) if is_checked and exact is not None else None,
      is_checked=is_checked,
      deviations=distance(name, move if exact is None else exact)
      if known.get(name)
      else None,
    )
    told.append((exact is None, distance(name, exact or 0.0), one))
  return tuple(one for *_, one in sorted(told, key=lambda t: t[:2]))


def _crossing(evaluate: Evaluate, name: str, move: float, plan: int):
  """The least move at which any plan overtakes, and which; twice refined."""
  low, high = 0.0, 2.0 * move
  for _ in range(2):
    moves = np.linspace(low, high, _MOVES)
    values = evaluate(name, moves)
    behind = np.log(values[1:] / values[0])  # [rival, try]
    ahead = (behind < 0).any(0)
    if not ahead.any():
      return None, plan
    at = int(np.argmax(ahead))
    if at == 0:
      return float(moves[0]), int(np.argmin(behind[:, 0])) + 1
    rival = int(np.argmin(behind[:, at]))
    low, high = moves[at - 1], moves[at]
    before, after = behind[rival, at - 1], behind[rival, at]
  return float(low + (high - low) * before / (before - after)), rival + 1


def to_dicts(margins: Sequence[Any]) -> list[dict[str, Any]]:
  """Plain dictionaries of margins or overtakings, for JSON."""
  return [dataclasses.asdict(one) for one in margins]
