"""What so much more near memory would bring: a front against its supply.

A plan that fits into less also fits into more, so values never rise with the
capacity, and a bound that is proven with more memory holds with less. Both
sharpen each other from one capacity to the next.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffmem import errors
from diffmem.planning.fronts import pareto

_GB = 1e9


class Found(NamedTuple):
  """What a search with one capacity finds.

  Attributes:
    value: of the best plan; less is better.
    bound: no plan is below.
    plan: whatever describes it.
  """

  value: float
  bound: float
  plan: Any = None


# From bytes of a device and chips to what is found; None where nothing fits.
Make = Callable[[float, int], Found | None]


@dataclasses.dataclass(frozen=True)
class Supplied:
  """The best plan that so much memory allows.

  Attributes:
    chips: devices.
    capacity_B: near memory of each device [B].
    fleet_B: of all devices [B].
    value: of the best plan that is known; None where nothing fits.
    bound: no plan with so much memory or less is below; None where nothing
      fits into as much or more.
    plan: whatever describes it.
    gain_per_GB: how much less the next larger capacity of as many chips costs,
      per GB of a device; None at the last.
    on_front: whether no smaller or equal fleet is known to do as well.
  """

  chips: int
  capacity_B: float
  fleet_B: float
  value: float | None
  bound: float | None
  plan: Any
  gain_per_GB: float | None
  on_front: bool = False


@dataclasses.dataclass(frozen=True)
class SupplyFront:
  """All capacities, and the one after which more brings least.

  Attributes:
    points: by chips, then by capacity.
    knee: index of the point at the bend of the front; None without one.
    help: one sentence for a person.
  """

  points: tuple[Supplied, ...]
  knee: int | None
  help: str

  def to_dict(self) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers."""
    return dataclasses.asdict(self)


def supply_front(
  make: Make, capacities_B: Sequence[float], chips: Sequence[int]
) -> SupplyFront:
  """The best value for each capacity of the near memory.

  Args:
    make: the search.
    capacities_B: bytes of a device [B].
    chips: numbers of devices.

  Raises:
    PlanError: no capacity or no number of chips, or a capacity below 0.
  """
  if not len(capacities_B) or not len(chips):
    raise errors.PlanError('expected at least one capacity and chip count')
  if min(capacities_B) <= 0:
    raise errors.PlanError(
      f'capacity {min(capacities_B):g} B: expected more than 0'
    )
  points = []
  for count in chips:
    points += _of_chips(make, sorted(map(float, capacities_B)), int(count))
  fits = [i for i, p in enumerate(points) if p.value is not None]
  if not fits:
    return SupplyFront(
      tuple(points), None, 'nothing fits into any of these capacities'
    )
  costs = np.array([[points[i].fleet_B, points[i].value] for i in fits])
  kept = np.flatnonzero(pareto.non_dominated(costs))
  kept = kept[np.argsort(costs[kept, 0])]
  for i in kept:
    points[fits[i]] = dataclasses.replace(points[fits[i]], on_front=True)
  at = pareto.knee(costs[kept])
  bend = None if at is None else fits[kept[at]]
  return SupplyFront(tuple(points), bend, _help(points, fits, bend))


def _of_chips(make: Make, capacities_B, chips: int) -> list[Supplied]:
  found = [make(capacity_B, chips) for capacity_B in capacities_B]
  bounds, bound = [], None
  for one in reversed(found):
    if one:
      bound = one.bound if bound is None else max(bound, one.bound)
    bounds.insert(0, bound)
  best, points = None, []
  for capacity_B, one in zip(capacities_B, found, strict=True):
    if one and (best is None or one.value < best.value):
      best = one
    points.append(
      Supplied(
        chips, capacity_B, chips * capacity_B,
        best.value if best else None, bounds[len(points)],
        best.plan if best else None, None,
      )
    )  # fmt: skip
  for i, (less, more) in enumerate(itertools.pairwise(points)):
    if less.value is not None:
      size_GB = (more.capacity_B - less.capacity_B) / _GB
      gain = (less.value - more.value) / size_GB if size_GB > 0 else None
      points[i] = dataclasses.replace(less, gain_per_GB=gain)
  return points


def _help(points, fits, bend) -> str:
  least = min((points[i] for i in fits), key=lambda p: p.fleet_B)
  said = (
    f'the least that fits is {least.capacity_B / _GB:.0f} GB on each of '
    f'{least.chips} chips'
  )
  if bend is not None:
    at = points[bend]
    said += (
      f'; beyond {at.capacity_B / _GB:.0f} GB on each of {at.chips} chips more '
      'brings less than before'
    )
  return said
