"""Heat maps: a value over two quantities, in shades that also print.

Shades change at round values and get steadily darker (on paper), so the map
reads without colour. Where cells have room, each names its value; elsewhere
lines of equal value do, drawn by marching squares through the cells' centres.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from diffmem.report import contours, grid_frame, markup, scales, svg
from diffmem.report.figure import Axis, Data, Size
from diffmem.report.grid_frame import Grid
from diffmem.report.markup import Markup, tag
from diffmem.report.point_labels import Box
from diffmem.report.scales import Kind

SHADES = 8
_DARK = 5  # from this shade on letters are light
_LEVELS = 7  # round values at which the shade changes, at most
_RAMP = 12  # height of the legend's boxes


@dataclasses.dataclass(frozen=True)
class Framed:
  """A cell with a border and its name in the legend."""

  label: str
  x: float
  y: float
  dashed: bool = False


@dataclasses.dataclass(frozen=True)
class HeatMap:
  """A value over a grid of two quantities.

  Attributes:
    id: unique on the page; also the name of the downloaded file.
    title: short.
    description: what a reader who cannot see it should know.
    x: the horizontal axis.
    y: the vertical axis.
    x_values: ascending [n].
    y_values: ascending [m].
    values: [m, n]; NaN where there is none.
    label: what the values are.
    unit: of the values.
    data: for download.
    framed: cells with a border.
    void: what NaN means.
    size: width on a wide page.
  """

  id: str
  title: str
  description: str
  x: Axis
  y: Axis
  x_values: np.ndarray
  y_values: np.ndarray
  values: np.ndarray
  label: str
  unit: str
  data: Data
  framed: Sequence[Framed] = ()
  void: str = 'nothing fits'
  size: Size = Size.FULL


def levels(values: np.ndarray) -> np.ndarray:
  """Round values between which one shade stays."""
  seen = values[np.isfinite(values)]
  if seen.size == 0 or seen.min() == seen.max():
    return np.zeros(0)
  wide = seen.min() > 0 and seen.max() > 30 * seen.min()
  kind = Kind.LOG10 if wide else Kind.LINEAR
  found = scales.ticks(kind, seen.min(), seen.max(), _LEVELS)
  return np.array([v for v in found if seen.min() < v < seen.max()])


def draw(chart: HeatMap, width: float, name: str) -> Markup:
  """Draws a heat map.

  Args:
    chart: what to show.
    width: in pixels.
    name: unique prefix of the ids within the drawing.
  """
  steps = levels(chart.values)
  keys, top = _legend(chart, steps, width, name)
  grid = grid_frame.layout(
    chart.x, chart.y, chart.x_values, chart.y_values, width, top + 26
  )
  shown = _cell_texts(chart, grid)
  body = [
    _void_pattern(name),
    keys,
    grid_frame.axes(grid, chart.x, chart.y),
    _cells(chart, grid, steps, name),
    _texts(chart, grid, steps, shown) if shown else _lines(chart, grid, steps),
    _frames(chart, grid),
  ]
  return svg.document(
    name, width, grid.y.start + grid_frame.BELOW, chart.title,
    chart.description, *body,
  )  # fmt: skip


def shade(value: float, steps: np.ndarray) -> int:
  """Index of the shade of a value, spread over all shades."""
  at = int(np.searchsorted(steps, value, side='right'))
  return round(at * (SHADES - 1) / max(len(steps), 1))


def _legend(
  chart: HeatMap, steps: np.ndarray, width: float, name: str
) -> tuple[Markup, float]:
  """Boxes in the order of their values, with the values between them."""
  parts = [svg.text(0, 12, chart.label, 'label strong')]
  wide = min(72.0, (width - 8) / (len(steps) + 1))
  shown, unit = scales.labels(list(steps), chart.unit, Kind.LINEAR)
  if unit:
    parts[0] = svg.text(0, 12, f'{chart.label}, {unit}', 'label strong')
  for i in range(len(steps) + 1):
    look = f'h{round(i * (SHADES - 1) / max(len(steps), 1))}'
    parts.append(tag(
      'rect', x=i * wide, y=20, width=wide, height=_RAMP,
      class_=f'shade ramp {look}',
    ))  # fmt: skip
  for i, text in enumerate(shown, 1):
    parts.append(svg.text(i * wide, 46, text, 'tick', 'middle'))
  x, y = 0.0, 62.0
  entries = [(f.label, 'framed dashed' if f.dashed else 'framed', None)
             for f in chart.framed]  # fmt: skip
  if np.isnan(chart.values).any():
    entries.append((chart.void, 'shade', f'url(#{name}-void)'))
  for label, look, fill in entries:
    need = 25 + svg.text_width(label)
    if x > 0 and x + need > width:
      x, y = 0.0, y + svg.LINE
    parts.append(tag(
      'rect', x=x + 2, y=y - 6, width=16, height=12, class_=look, fill=fill
    ))  # fmt: skip
    parts.append(svg.text(x + 25, y + 4, label, 'key'))
    x += need + 12
  return tag('g', *parts), y + 10 if entries else 50.0


def _void_pattern(name: str) -> Markup:
  stroke = tag('path', d='M0 6L6 0M-1 1L1 -1M5 7L7 5', class_='void')
  pattern = tag(
    'pattern', stroke, id=f'{name}-void', width=6, height=6,
    patternUnits='userSpaceOnUse',
  )  # fmt: skip
  return tag('defs', pattern)


def _cells(chart: HeatMap, grid: Grid, steps: np.ndarray, name: str) -> Markup:
  parts = []
  for (i, j), value in np.ndenumerate(chart.values):
    x, y, wide, high = grid.cell(i, j)
    known = bool(np.isfinite(value))
    look = f'shade h{shade(value, steps)}' if known else 'shade'
    parts.append(tag(
      'rect', tag('title', _tip(chart, i, j)), x=x, y=y, width=wide,
      height=high, class_=look, fill=None if known else f'url(#{name}-void)',
    ))  # fmt: skip
  return tag('g', *parts)


def _tip(chart: HeatMap, i: int, j: int) -> str:
  value = chart.values[i, j]
  said = chart.void
  if np.isfinite(value):
    said = scales.label(value, chart.unit, Kind.LINEAR)
  x = scales.label(chart.x_values[j], chart.x.unit, Kind.LINEAR)
  y = scales.label(chart.y_values[i], chart.y.unit, Kind.LINEAR)
  return f'{chart.label}: {said}\n{chart.x.label}: {x}\n{chart.y.label}: {y}'


def _cell_texts(chart: HeatMap, grid: Grid) -> list[str]:
  """What each cell says, row by row; empty where the widest has no room."""
  known = np.where(np.isfinite(chart.values), chart.values, 0.0)
  texts, _ = scales.labels(list(known.flat), chart.unit, Kind.LINEAR, 3)
  need = max(svg.text_width(t) for t in texts) + 8
  wide, high = np.diff(grid.columns).min(), -np.diff(grid.rows).max()
  if wide < need or high < 17:
    return []
  return np.where(np.isfinite(chart.values).flat, texts, '').tolist()


def _texts(
  chart: HeatMap, grid: Grid, steps: np.ndarray, texts: Sequence[str]
) -> Markup:
  parts = []
  for k, ((i, j), value) in enumerate(np.ndenumerate(chart.values)):
    if not texts[k]:
      continue
    x, y, wide, high = grid.cell(i, j)
    look = 'over-dark' if shade(value, steps) >= _DARK else 'over-light'
    parts.append(
      svg.text(x + wide / 2, y + high / 2 + 4, texts[k], look, 'middle')
    )
  return tag('g', *parts)


def _lines(chart: HeatMap, grid: Grid, steps: np.ndarray) -> Markup:
  """Lines of equal value with their value, away from each other."""
  x, y = grid.x(chart.x_values), grid.y(chart.y_values)
  parts, labels = [], []
  framed = [grid.cell_at(f.x, f.y) for f in chart.framed]
  cells = [grid.cell(*at) for at in framed if at is not None]
  taken = [Box(x, y, x + wide, y + high) for x, y, wide, high in cells]
  shown, _ = scales.labels(list(steps), chart.unit, Kind.LINEAR)
  for level, text in zip(steps, shown, strict=True):
    found = contours.segments(x, y, chart.values, level)
    if not found:
      continue
    d = ''.join(f'M{_pair(a, b)}L{_pair(c, e)}' for a, b, c, e in found)
    parts.append(tag('path', d=d, class_='contour'))
    box = _free_place(found, svg.text_width(text) + 6, taken, grid)
    if box is None:
      continue
    taken.append(box)
    labels += [
      tag('rect', x=box.left, y=box.top, width=box.right - box.left,
          height=box.bottom - box.top, rx=2, class_='plate'),
      svg.text((box.left + box.right) / 2, box.top + 12, text, 'inside',
               'middle'),
    ]  # fmt: skip
  return tag('g', *parts, *labels)


def _free_place(
  found: Sequence[contours.Segment], wide: float, taken: Sequence[Box],
  grid: Grid,
) -> Box | None:  # fmt: skip
  """Room for a label on its line, within the frame and on no other label.

  Of the places that are free, the one farthest from other labels, so that
  labels do not bunch where lines meet.
  """
  edges = Box(grid.x.start, grid.y.end, grid.x.end, grid.y.start)
  best, most = None, -1.0
  for a, b, c, d in found:
    x, y = (a + c) / 2, (b + d) / 2
    box = Box(x - wide / 2, y - 8, x + wide / 2, y + 8)
    if not box.within(edges) or any(map(box.hits, taken)):
      continue
    room = min(
      [abs(x - (t.left + t.right) / 2) + abs(y - (t.top + t.bottom) / 2)
       for t in taken] + [40.0 + min(x - edges.left, edges.right - x, 20.0)]
    )  # fmt: skip
    if room > most:
      best, most = box, room
  return best


def _frames(chart: HeatMap, grid: Grid) -> Markup:
  parts = []
  for framed in chart.framed:
    at = grid.cell_at(framed.x, framed.y)
    if at is None:
      continue
    x, y, wide, high = grid.cell(*at)
    look = 'framed dashed' if framed.dashed else 'framed'
    parts.append(tag(
      'rect', x=x + 1, y=y + 1, width=wide - 2, height=high - 2, class_=look
    ))  # fmt: skip
  return tag('g', *parts)


def _pair(x: float, y: float) -> str:
  return f'{markup.number(x)} {markup.number(y)}'
