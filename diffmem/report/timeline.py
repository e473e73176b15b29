"""Supply over quarters: what is there, what is missing, when it was ordered.

Columns stack what was in service and what arrives; what is wanted and not
there stands hatched on top, below the line of what is needed. Under the
columns every order is an arrow from the quarter of the order to that of
delivery; below, small lines such as the price share the quarters.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from diffmem.report import markup, scales, svg
from diffmem.report.figure import PHONE, Data, Key, Size, Swatch
from diffmem.report.markup import Markup, tag
from diffmem.report.scales import Kind, Scale

_HEIGHTS = {'full': 230, 'half': 200, 'small': 180}
_LANE = 15  # height of a row of arrows
_STRIP = 46
_GAP = 34  # between strips, with the title in it
_MOST_LANES = 8


@dataclasses.dataclass(frozen=True)
class Arrow:
  """From one period to another; a negative start lies before the first."""

  start: int
  end: int
  label: str


@dataclasses.dataclass(frozen=True)
class Layer:
  """One layer of all columns [period]; odd styles are hatched."""

  label: str
  values: np.ndarray
  style: int


@dataclasses.dataclass(frozen=True)
class Strand:
  """A small line below, such as a price [period]."""

  label: str
  unit: str
  values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Timeline:
  """Stacked columns over periods.

  Attributes:
    id: unique on the page; also the name of the downloaded file.
    title: short.
    description: what a reader who cannot see it should know.
    periods: names, in order.
    label: of the vertical axis.
    unit: of the layers.
    layers: from the bottom up.
    data: for download.
    need: a line over the columns [period]; None for none.
    need_label: of that line.
    unmet: hatched on top of the layers [period]; None for none.
    arrows: orders.
    strands: small lines below.
    size: width on a wide page.
  """

  id: str
  title: str
  description: str
  periods: Sequence[str]
  label: str
  unit: str
  layers: Sequence[Layer]
  data: Data
  need: np.ndarray | None = None
  unmet: np.ndarray | None = None
  arrows: Sequence[Arrow] = ()
  strands: Sequence[Strand] = ()
  size: Size = Size.FULL
  need_label: str = 'needed'


@dataclasses.dataclass(frozen=True)
class _Frame:
  """Where the parts of a timeline are, in pixels."""

  left: float
  pitch: float
  y: Scale

  def middle(self, period: float) -> float:
    """Centre of a period's column."""
    return self.left + (period + 0.5) * self.pitch


def draw(chart: Timeline, width: float, name: str) -> Markup:
  """Draws a timeline.

  Args:
    chart: what to show.
    width: in pixels.
    name: unique prefix of the ids within the drawing.
  """
  legend, legend_height = svg.legend(_keys(chart), width)
  small = 'small' if width <= PHONE else 'full' if width > 700 else 'half'
  top = legend_height + 28
  floor = top + _HEIGHTS[small]
  y = scales.scale(
    Kind.LINEAR, [*_tops(chart), *_need(chart), 0.0], floor, top, low=0.0
  )
  left = 10 + _label_width(chart, y)
  end = width - 8
  frame = _Frame(left, (end - left) / len(chart.periods), y)
  lanes, count = _lanes(chart)
  below = floor + 24 + (count * _LANE + 24 if count else 0)
  body = [
    legend,
    _grid(chart, frame, end),
    _columns(chart, frame),
    _need_line(chart, frame),
    _periods(chart, frame, floor + 16),
  ]
  if count:
    body.append(_arrows(chart, frame, lanes, floor + 24, end))
  for strand in chart.strands:
    below += _GAP + _STRIP
    body.append(_strand(chart, strand, frame, below, end))
  return svg.document(
    name, width, below + 8, chart.title, chart.description, *body
  )


def _keys(chart: Timeline) -> list[Key]:
  keys = [Key(la.label, Swatch.BOX, la.style) for la in chart.layers]
  if chart.unmet is not None and (chart.unmet > 0).any():
    keys.append(Key('unmet', Swatch.VOID))
  if chart.need is not None:
    keys.append(Key(chart.need_label, Swatch.LINE, -1))
  return keys


def _tops(chart: Timeline) -> np.ndarray:
  """Height of each column with what is unmet [period]."""
  total = np.sum([la.values for la in chart.layers], axis=0)
  return total if chart.unmet is None else total + chart.unmet


def _need(chart: Timeline) -> np.ndarray:
  return np.zeros(0) if chart.need is None else chart.need


def _label_width(chart: Timeline, y: Scale) -> float:
  shown, _ = scales.labels(y.ticks(34), chart.unit, Kind.LINEAR)
  for strand in chart.strands:
    seen = strand.values[np.isfinite(strand.values)]
    if seen.size:
      shown = [*shown, *(scales.label(v, strand.unit, Kind.LINEAR, 3)
                         for v in (seen.min(), seen.max()))]  # fmt: skip
  return max([svg.text_width(s, 11.5) for s in shown] + [30])


def _grid(chart: Timeline, frame: _Frame, end: float) -> Markup:
  values = frame.y.ticks(34)
  shown, unit = scales.labels(values, chart.unit, Kind.LINEAR)
  parts = []
  for value, label in zip(values, shown, strict=True):
    at = float(frame.y(value))
    look = 'axis' if value == 0 else 'grid'
    parts.append(svg.segment(frame.left, at, end, at, look))
    parts.append(svg.text(frame.left - 7, at + 4, label, 'tick', 'end'))
  title = f'{chart.label}, {unit}' if unit else chart.label
  parts.append(svg.text(0, frame.y.end - 10, title, 'name'))
  return tag('g', *parts)


def _columns(chart: Timeline, frame: _Frame) -> Markup:
  wide = min(0.72 * frame.pitch, 56.0)
  parts = []
  for i, period in enumerate(chart.periods):
    x, base = frame.middle(i) - wide / 2, 0.0
    for layer in chart.layers:
      value = float(layer.values[i])
      if not value > 0:
        continue
      said = scales.label(value, chart.unit, Kind.LINEAR)
      top, low = float(frame.y(base + value)), float(frame.y(base))
      parts.append(svg.box(
        x, top, wide, low - top, layer.style, f'{period}\n{layer.label}: {said}'
      ))  # fmt: skip
      base += value
    missing = 0.0 if chart.unmet is None else float(chart.unmet[i])
    if missing > 0:
      said = scales.label(missing, chart.unit, Kind.LINEAR)
      top, low = float(frame.y(base + missing)), float(frame.y(base))
      parts.append(
        svg.void(x, top, wide, low - top, f'{period}\nunmet: {said}')
      )
  return tag('g', *parts)


def _need_line(chart: Timeline, frame: _Frame) -> Markup | None:
  """Steps at the level that each period needs."""
  if chart.need is None:
    return None
  x = np.repeat(frame.left + frame.pitch * np.arange(len(chart.periods) + 1), 2)
  y = frame.y(np.repeat(chart.need, 2))
  points = ' '.join(
    f'{markup.number(a)},{markup.number(b)}'
    for a, b in zip(x[1:-1], y, strict=True)
  )
  # The wide one sets the line off from the columns that it crosses.
  return markup.join(
    tag('polyline', points=points, class_='halo'),
    tag('polyline', points=points, class_='need'),
  )


def _periods(chart: Timeline, frame: _Frame, y: float) -> Markup:
  """Names of the periods, every k-th where they crowd."""
  room = max(svg.text_width(p) for p in chart.periods) + 8
  stride = max(1, int(np.ceil(room / frame.pitch)))
  return tag('g', *(
    svg.text(frame.middle(i), y, chart.periods[i], 'tick', 'middle')
    for i in range(0, len(chart.periods), stride)
  ))  # fmt: skip


def _lanes(chart: Timeline) -> tuple[list[int], int]:
  """A row for each arrow in which it meets no other, and how many rows."""
  ends: list[float] = []
  rows = []
  for arrow in chart.arrows:
    start = max(arrow.start, -1)
    row = next((i for i, end in enumerate(ends) if end <= start), len(ends))
    if row == len(ends):
      ends.append(0.0)
    ends[row] = arrow.end
    rows.append(row)
  return rows, min(len(ends), _MOST_LANES)


def _arrows(
  chart: Timeline, frame: _Frame, lanes: list[int], top: float, end: float
) -> Markup:
  parts = [svg.text(0, top + 14, 'Orders until delivery', 'name')]
  hidden = 0
  for arrow, lane in zip(chart.arrows, lanes, strict=True):
    if lane >= _MOST_LANES:
      hidden += 1
      continue
    y = top + 26 + lane * _LANE
    start = frame.middle(arrow.start) if arrow.start >= 0 else frame.left
    stop = min(frame.middle(arrow.end), end)
    parts.append(svg.segment(start, y, stop, y, 'arrow'))
    if arrow.start >= 0:
      parts.append(svg.segment(start, y - 4, start, y + 4, 'arrow'))
    head = f'M{markup.number(stop - 6)} {markup.number(y - 4)}l6 4l-6 4'
    parts.append(tag('path', d=head, class_='arrow'))
    if stop - start > svg.text_width(arrow.label, 11.5) + 20:
      parts.append(svg.text((start + stop) / 2, y + 4, arrow.label, 'along',
                            'middle'))  # fmt: skip
  if hidden:
    parts.append(svg.text(end, top + 14, f'{hidden} more in the CSV', 'name',
                          'end'))  # fmt: skip
  return tag('g', *parts)


def _strand(
  chart: Timeline, strand: Strand, frame: _Frame, bottom: float, end: float
) -> Markup:
  """A line with its least and greatest value on the axis."""
  seen = strand.values[np.isfinite(strand.values)]
  title = svg.text(0, bottom - _STRIP - 12, strand.label, 'name')
  if not seen.size:
    return tag('g', title)
  y = scales.scale(Kind.LINEAR, seen, bottom - 4, bottom - _STRIP + 4, pad=0.0)
  parts = [title]
  for value in dict.fromkeys((float(seen.min()), float(seen.max()))):
    at = float(y(value))
    label = scales.label(value, strand.unit, Kind.LINEAR, 3)
    parts.append(svg.segment(frame.left, at, end, at, 'grid'))
    parts.append(svg.text(frame.left - 7, at + 4, label, 'tick', 'end'))
  x = np.array([frame.middle(i) for i in range(len(chart.periods))])
  at = y(strand.values)
  parts.append(svg.path(x, at, -1, False))
  for i in np.flatnonzero(np.isfinite(at)):
    said = scales.label(float(strand.values[i]), strand.unit, Kind.LINEAR)
    tip = f'{chart.periods[i]}\n{strand.label}: {said}'
    parts.append(svg.marker(x[i], at[i], -1, tip))
  return tag('g', *parts)
