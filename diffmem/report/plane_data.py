"""Fronts, maps and curves of a co-design report: plain data.

Every number is in the unit that stands beside it; `lo` and `hi` are the ends
of a 90 % interval.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike


def _arrays(part, names: Sequence[str], shape: tuple[int, ...]) -> None:
  """Makes float64 arrays of one shape.

  Raises:
    ValueError: shapes differ.
  """
  for name in names:
    if getattr(part, name) is None:
      continue
    value = np.asarray(getattr(part, name), np.float64)
    if value.shape != shape:
      raise ValueError(
        f'{type(part).__name__}.{name} has shape {value.shape}, '
        f'expected {shape}'
      )
    object.__setattr__(part, name, value)


@dataclasses.dataclass(frozen=True)
class Metric:
  """An axis of a front.

  Attributes:
    label: such as 'Energy per token'.
    unit: such as 'J' or 'USD'.
    more_is_better: True for tokens per second.
  """

  label: str
  unit: str
  more_is_better: bool = False


@dataclasses.dataclass(frozen=True)
class Series:
  """A line with its interval, or measured points.

  Attributes:
    label: in the legend.
    x: ascending.
    y: there; NaN is 'not there'.
    lo: lower end of the interval.
    hi: its upper end.
    measured: points instead of a line.
  """

  label: str
  x: ArrayLike
  y: ArrayLike
  lo: ArrayLike | None = None
  hi: ArrayLike | None = None
  measured: bool = False

  def __post_init__(self):
    _arrays(self, ['x', 'y', 'lo', 'hi'], (len(self.x),))


@dataclasses.dataclass(frozen=True)
class Design:
  """A point of a front; the whisker is the 90 % interval of `y`."""

  name: str
  x: float
  y: float
  lo: float | None = None
  hi: float | None = None
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Front:
  """Designs or what-ifs by two metrics."""

  x: Metric
  y: Metric
  designs: Sequence[Design]
  title: str = ''


@dataclasses.dataclass(frozen=True)
class Sensitivity:
  """A metric over two parameters.

  Attributes:
    metric: such as 'Cost per million tokens'.
    unit: of the values, such as 'USD'.
    x_label: such as 'HBM bandwidth'.
    x_unit: SI unit or another one, as it should be read.
    x: ascending [x].
    y_label: of the vertical axis.
    y_unit: its unit.
    y: ascending [y].
    values: of the metric [y, x]; NaN where nothing fits.
    current: (x, y) of today's design.
    more_is_better: which end of the values is the good one.
  """

  metric: str
  unit: str
  x_label: str
  x_unit: str
  x: ArrayLike
  y_label: str
  y_unit: str
  y: ArrayLike
  values: ArrayLike
  current: tuple[float, float] | None = None
  more_is_better: bool = False

  def __post_init__(self):
    shape = len(self.y), len(self.x)
    _arrays(self, ['x'], shape[1:])
    _arrays(self, ['y'], shape[:1])
    _arrays(self, ['values'], shape)
    for name in ('x', 'y'):
      if not (np.diff(getattr(self, name)) > 0).all():
        raise ValueError(f'Sensitivity.{name} has to ascend')


@dataclasses.dataclass(frozen=True)
class Regions:
  """Which choice is best over two quantities.

  Attributes:
    title: such as 'Reload or recompute'.
    x_label: of the horizontal axis.
    x_unit: its unit.
    x: ascending [x].
    y_label: of the vertical axis.
    y_unit: its unit.
    y: ascending [y].
    names: of the choices.
    choice: index into `names` [y, x]; -1 where nothing works.
    marks: label -> (x, y), such as a part that is on sale.
  """

  title: str
  x_label: str
  x_unit: str
  x: ArrayLike
  y_label: str
  y_unit: str
  y: ArrayLike
  names: Sequence[str]
  choice: ArrayLike
  marks: Mapping[str, tuple[float, float]] = dataclasses.field(
    default_factory=dict
  )

  def __post_init__(self):
    shape = len(self.y), len(self.x)
    _arrays(self, ['x'], shape[1:])
    _arrays(self, ['y'], shape[:1])
    _arrays(self, ['choice'], shape)


@dataclasses.dataclass(frozen=True)
class NextGB:
  """What one more GB of a tier saves, beside what it costs (USD per year)."""

  tier: str
  value: float
  lo: float | None = None
  hi: float | None = None
  price: float | None = None


@dataclasses.dataclass(frozen=True)
class KvCapacity:
  """What capacity does for prompts that come again.

  Attributes:
    hit_rates: share of tokens found against capacity in bytes.
    next_gb: value of the next GB, by tier, beside what is bought.
    worth: price below which the next GB of a tier pays, USD/GB against bytes.
    prices: tier -> USD/GB.
    boundary: where reloading beats recomputing.
    trace: which requests were counted.
  """

  hit_rates: Sequence[Series] = ()
  next_gb: Sequence[NextGB] = ()
  worth: Sequence[Series] = ()
  prices: Mapping[str, float] = dataclasses.field(default_factory=dict)
  boundary: Regions | None = None
  trace: str = ''


@dataclasses.dataclass(frozen=True)
class RetrievalRow:
  """One design of a vector index.

  Attributes:
    name: of its layout.
    machines: how many.
    usd_per_Mquery: cost of a million queries, USD.
    joule_per_query: energy, J.
    latency_s: of a query, as the question asks it.
    note: such as 'needs 12 drives each'.
  """

  name: str
  machines: float | None = None
  usd_per_Mquery: float | None = None
  joule_per_query: float | None = None
  latency_s: float | None = None
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Retrieval:
  """Storage for vector search.

  Attributes:
    x: what is asked for: recall, or queries per second.
    y: what it costs: USD, J or s per query.
    curves: one per design; measured ones are points.
    placement: design -> tier -> bytes.
    rows: designs beside each other.
    lead: what was asked, in a sentence.
  """

  x: Metric
  y: Metric
  curves: Sequence[Series]
  placement: Mapping[str, Mapping[str, float]] = dataclasses.field(
    default_factory=dict
  )
  rows: Sequence[RetrievalRow] = ()
  lead: str = ''
