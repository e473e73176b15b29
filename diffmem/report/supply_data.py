"""What a report says of parts and when they come: plain data."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Order:
  """Parts that are ordered in one quarter and come in a later one.

  Attributes:
    ordered: index of the quarter; negative before the first one shown.
    delivered: index of the quarter in which they are in service.
    amount: how many.
  """

  ordered: int
  delivered: int
  amount: float


@dataclasses.dataclass(frozen=True)
class PartSupply:
  """One part over the quarters.

  Attributes:
    name: such as 'HBM3E 24 GB'.
    unit: what is counted, such as 'stacks'.
    held: in service from earlier quarters [quarter].
    delivered: new in this quarter [quarter].
    unmet: wanted on top and not there [quarter].
    busy: of those in service, at work [quarter].
    price: USD for one [quarter].
    worth: what one more would save, USD [quarter].
    orders: with their lead times.

  Raises:
    ValueError: lengths differ, or a negative amount.
  """

  name: str
  held: ArrayLike
  delivered: ArrayLike
  unit: str = 'parts'
  unmet: ArrayLike | None = None
  price: ArrayLike | None = None
  worth: ArrayLike | None = None
  orders: Sequence[Order] = ()
  busy: ArrayLike | None = None

  def __post_init__(self):
    for name in ('held', 'delivered', 'unmet', 'busy', 'price', 'worth'):
      value = getattr(self, name)
      if value is None:
        continue
      value = np.asarray(value, np.float64)
      if value.shape != (len(self.held),):
        raise ValueError(
          f'PartSupply.{name} of {self.name} has shape {value.shape}, '
          f'held has {(len(self.held),)}'
        )
      if name in ('held', 'delivered', 'unmet') and not (value >= 0).all():
        raise ValueError(f'PartSupply.{name} of {self.name} is negative')
      object.__setattr__(self, name, value)

  @property
  def need(self) -> np.ndarray:
    """What was wanted: in service, delivered and unmet [quarter]."""
    unmet = 0.0 if self.unmet is None else self.unmet
    return self.held + self.delivered + unmet


@dataclasses.dataclass(frozen=True)
class Service:
  """Where a workload runs, quarter by quarter.

  Attributes:
    workload: its name.
    places: part or tier -> what it serves there, tokens/s [quarter].
    unmet: asked for and not served, tokens/s [quarter].

  Raises:
    ValueError: lengths differ.
  """

  workload: str
  places: Mapping[str, ArrayLike]
  unmet: ArrayLike

  def __post_init__(self):
    unmet = np.asarray(self.unmet, np.float64)
    places = {k: np.asarray(v, np.float64) for k, v in self.places.items()}
    for name, value in places.items():
      if value.shape != unmet.shape:
        raise ValueError(
          f'Service.places of {self.workload} on {name} has shape '
          f'{value.shape}, unmet has {unmet.shape}'
        )
    object.__setattr__(self, 'unmet', unmet)
    object.__setattr__(self, 'places', places)

  @property
  def asked(self) -> np.ndarray:
    """Demand, tokens/s [quarter]."""
    return sum(self.places.values(), self.unmet)


@dataclasses.dataclass(frozen=True)
class Move:
  """A workload that a shortage sends to another tier or part.

  Attributes:
    quarter: as it should be read.
    workload: its name.
    from_part: where it would have run.
    to_part: where it runs; '' where it is not served.
    share: of its traffic, 0 to 1.
    usd: what that costs.
  """

  quarter: str
  workload: str
  from_part: str
  to_part: str
  share: float | None = None
  usd: float | None = None


@dataclasses.dataclass(frozen=True)
class Supply:
  """A fleet's parts over time.

  Attributes:
    quarters: names, such as '2027 Q1'.
    parts: one figure each.
    moves: what shortages do; the largest ones, perhaps.
    scenario: such as 'half the HBM supply'.
    services: where each workload runs.
    base: name of another plan.
    extra_usd: cost of this plan less that of `base`, discounted.

  Raises:
    ValueError: a part or workload with another number of quarters.
  """

  quarters: Sequence[str]
  parts: Sequence[PartSupply]
  moves: Sequence[Move] = ()
  scenario: str = ''
  services: Sequence[Service] = ()
  base: str = ''
  extra_usd: float | None = None

  def __post_init__(self):
    lengths = {p.name: len(p.held) for p in self.parts}
    lengths |= {s.workload: len(s.unmet) for s in self.services}
    for name, length in lengths.items():
      if length != len(self.quarters):
        raise ValueError(
          f'{name} has {length} quarters, the fleet has {len(self.quarters)}'
        )
