"""What a figure shows, apart from how it is drawn.

A spec is plain data: the sections build it, `diffmem.report.plot` and
`diffmem.report.bars` draw it at any width, and its `data` is what a reader
downloads.
"""

import csv
import dataclasses
import enum
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffmem.report.scales import Kind


class Size(enum.IntEnum):
  """Width of a figure on a wide page, in pixels."""

  FULL = 1040
  HALF = 508
  THIRD = 330


PHONE = 350


@dataclasses.dataclass(frozen=True)
class Data:
  """A figure's or table's numbers, for download.

  Attributes:
    columns: names, with SI units in them: 'latency_s'.
    rows: one tuple per row; None and NaN become empty cells.
  """

  columns: Sequence[str]
  rows: Sequence[Sequence[Any]]

  def to_csv(self) -> str:
    """Comma-separated text; floats keep every bit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(self.columns)
    writer.writerows([_cell(v) for v in row] for row in self.rows)
    return text.getvalue()


def _cell(value: Any) -> str:
  if value is None:
    return ''
  if isinstance(value, (bool, np.bool_)):
    return str(int(value))
  if isinstance(value, (float, np.floating)):
    return '' if np.isnan(value) else repr(float(value))
  return str(value)


@dataclasses.dataclass(frozen=True)
class Axis:
  """One axis of a plot.

  Attributes:
    label: what is on it, such as 'Working set'.
    unit: SI unit, '1' or '%'.
    kind: how it is divided.
    low: its low end, when not the data's.
    high: its high end.
  """

  label: str
  unit: str = '1'
  kind: Kind = Kind.LINEAR
  low: float | None = None
  high: float | None = None


@dataclasses.dataclass(frozen=True)
class Line:
  """A line; NaN breaks it.

  Attributes:
    x: values along the x axis.
    y: values along the y axis.
    style: index of colour, dash and marker; -1 is neutral ink.
    dashed: drawn in dashes.
    name: written at its right end on a wide page, in the legend on a phone.
    along: written along the line near its left end, following its slope.
  """

  x: np.ndarray
  y: np.ndarray
  style: int = 0
  dashed: bool = False
  name: str = ''
  along: str = ''


@dataclasses.dataclass(frozen=True)
class Points:
  """Markers.

  Attributes:
    x: values along the x axis.
    y: values along the y axis.
    style: index of colour and marker.
    tips: one text per point for the tooltip.
    hollow: which are drawn hollow (held out); None for none.
    spread: half-length of a vertical whisker, in y units; None for none.
    name: for the legend, when no line carries the name.
    labels: one text per point, written beside it where there is room; ''
      for none.
  """

  x: np.ndarray
  y: np.ndarray
  style: int = 0
  tips: Sequence[str] = ()
  hollow: np.ndarray | None = None
  spread: np.ndarray | None = None
  name: str = ''
  labels: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Band:
  """An interval along a line."""

  x: np.ndarray
  lo: np.ndarray
  hi: np.ndarray
  style: int = 0


@dataclasses.dataclass(frozen=True)
class Mark:
  """A vertical reference line with its label above the plot."""

  x: float
  label: str


class Swatch(enum.StrEnum):
  """What a legend entry looks like."""

  POINTS = 'points'
  HOLLOW = 'hollow'
  LINE = 'line'
  DASHED = 'dashed'
  BAND = 'band'
  BOX = 'box'
  BOTH = 'both'  # a line with its marker
  VOID = 'void'  # what is not there


@dataclasses.dataclass(frozen=True)
class Key:
  """A legend entry."""

  label: str
  swatch: Swatch
  style: int = -1


@dataclasses.dataclass(frozen=True)
class Strip:
  """A low panel under a plot that shares its x axis: residuals in percent."""

  label: str
  points: Sequence[Points]


@dataclasses.dataclass(frozen=True)
class Plot:
  """Lines, points and bands over two axes.

  Attributes:
    id: unique on the page; also the name of the downloaded file.
    title: short.
    description: what a reader who cannot see it should know.
    x: the horizontal axis.
    y: the vertical axis.
    layers: drawn in this order.
    data: for download.
    marks: vertical reference lines.
    keys: legend entries beside the names of the lines.
    strip: residuals below.
    size: width on a wide page.
    height: of the plot area on a wide page; 0 for the usual.
  """

  id: str
  title: str
  description: str
  x: Axis
  y: Axis
  layers: Sequence[Line | Points | Band]
  data: Data
  marks: Sequence[Mark] = ()
  keys: Sequence[Key] = ()
  strip: Strip | None = None
  size: Size = Size.FULL
  height: int = 0


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a row chart.

  Attributes:
    label: on the left.
    value: where the bar or dot ends.
    lo: lower end of its interval, if known.
    hi: upper end.
    note: on the right.
    tip: for the tooltip.
    start: where the bar begins, in place of zero.
    style: index of colour and hatching; None lets the sign decide.
    strong: a total.
  """

  label: str
  value: float
  lo: float | None = None
  hi: float | None = None
  note: str = ''
  tip: str = ''
  start: float | None = None
  style: int | None = None
  strong: bool = False


@dataclasses.dataclass(frozen=True)
class RowChart:
  """Horizontal bars from zero, or dots, one row each.

  Attributes:
    id: unique on the page.
    title: short.
    description: what a reader who cannot see it should know.
    axis: of the values.
    rows: from top to bottom.
    data: for download.
    dots: dots with whiskers instead of bars.
    keys: legend entries.
    size: width on a wide page.
    steps: each bar is joined to the next at its end (a waterfall).
  """

  id: str
  title: str
  description: str
  axis: Axis
  rows: Sequence[Row]
  data: Data
  dots: bool = False
  keys: Sequence[Key] = ()
  size: Size = Size.FULL
  steps: bool = False


@dataclasses.dataclass(frozen=True)
class Stack:
  """One stacked bar: parts of a whole."""

  label: str
  parts: Sequence[tuple[str, float]]
  whole: float | None = None


@dataclasses.dataclass(frozen=True)
class StackChart:
  """Stacked horizontal bars, each against its own whole where it is known.

  Attributes:
    id: unique on the page.
    title: short.
    description: what a reader who cannot see it should know.
    unit: SI unit of the parts.
    stacks: from top to bottom.
    data: for download.
    size: width on a wide page.
  """

  id: str
  title: str
  description: str
  unit: str
  stacks: Sequence[Stack]
  data: Data
  size: Size = Size.FULL
