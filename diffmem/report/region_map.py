"""Maps of choices: which one is best over two quantities.

Neighbours differ in colour and in the direction of their hatching, borders
are drawn, and every choice is named inside its area, so the map reads in one
colour too.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from diffmem.report import grid_frame, markup, point_labels, svg
from diffmem.report.figure import Axis, Data, Size
from diffmem.report.grid_frame import Grid
from diffmem.report.markup import Markup, tag

# Strokes of a tile of 8 px; the first choice is plain.
_HATCHES = ('', 'M0 8L8 0', 'M0 0L8 8', 'M0 4H8', 'M4 0V8')


@dataclasses.dataclass(frozen=True)
class Pin:
  """A named point on a map."""

  label: str
  x: float
  y: float


@dataclasses.dataclass(frozen=True)
class RegionMap:
  """Areas over a grid of two quantities.

  Attributes:
    id: unique on the page; also the name of the downloaded file.
    title: short.
    description: what a reader who cannot see it should know.
    x: the horizontal axis.
    y: the vertical axis.
    x_values: ascending [n].
    y_values: ascending [m].
    choice: index into `names` [m, n]; below 0 where there is none.
    names: of the choices.
    data: for download.
    pins: named points.
    size: width on a wide page.
  """

  id: str
  title: str
  description: str
  x: Axis
  y: Axis
  x_values: np.ndarray
  y_values: np.ndarray
  choice: np.ndarray
  names: Sequence[str]
  data: Data
  pins: Sequence[Pin] = ()
  size: Size = Size.FULL


def draw(chart: RegionMap, width: float, name: str) -> Markup:
  """Draws a map of choices.

  Args:
    chart: what to show.
    width: in pixels.
    name: unique prefix of the ids within the drawing.
  """
  grid = grid_frame.layout(
    chart.x, chart.y, chart.x_values, chart.y_values, width, 28
  )
  body = [
    tag('defs', *(_pattern(name, k) for k in range(1, len(chart.names)))),
    *(_area(chart, grid, k, name) for k in range(len(chart.names))),
    _borders(chart, grid),
    grid_frame.axes(grid, chart.x, chart.y),
    _labels(chart, grid),
  ]
  return svg.document(
    name, width, grid.y.start + grid_frame.BELOW, chart.title,
    chart.description, *body,
  )  # fmt: skip


def _pattern(name: str, style: int) -> Markup:
  hatch = _HATCHES[1:][(style - 1) % (len(_HATCHES) - 1)]
  stroke = tag('path', d=hatch, class_=f'tile {svg.style_class(style)}')
  return tag(
    'pattern', stroke, id=f'{name}-h{style}', width=8, height=8,
    patternUnits='userSpaceOnUse',
  )  # fmt: skip


def _area(chart: RegionMap, grid: Grid, k: int, name: str) -> Markup | None:
  """All cells of one choice as one shape."""
  if not (chart.choice == k).any():
    return None
  d = ''.join(_runs(chart.choice == k, grid))
  tinted = tag('path', tag('title', chart.names[k]), d=d,
               class_=f'band {svg.style_class(k)}')  # fmt: skip
  if k == 0:
    return tinted
  return markup.join(tinted, tag('path', d=d, fill=f'url(#{name}-h{k})'))


def _runs(own: np.ndarray, grid: Grid) -> list[str]:
  """One rectangle for each run of cells in a row."""
  found = []
  for i, row in enumerate(own):
    steps = np.diff(np.concatenate([[0], row.astype(int), [0]]))
    starts, ends = np.flatnonzero(steps > 0), np.flatnonzero(steps < 0)
    for first, last in zip(starts, ends, strict=True):
      left, right = grid.columns[[first, last]]
      bottom, top = grid.rows[i : i + 2]
      found.append(_rectangle(left, top, right - left, bottom - top))
  return found


def _rectangle(x: float, y: float, wide: float, high: float) -> str:
  n = markup.number
  return f'M{n(x)} {n(y)}h{n(wide)}v{n(high)}h{n(-wide)}z'


def _borders(chart: RegionMap, grid: Grid) -> Markup:
  """Lines between cells of different choices."""
  n, pieces = markup.number, []
  for i, j in np.argwhere(np.diff(chart.choice, axis=1) != 0):
    x = grid.columns[j + 1]
    pieces.append(f'M{n(x)} {n(grid.rows[i])}V{n(grid.rows[i + 1])}')
  for i, j in np.argwhere(np.diff(chart.choice, axis=0) != 0):
    y = grid.rows[i + 1]
    pieces.append(f'M{n(grid.columns[j])} {n(y)}H{n(grid.columns[j + 1])}')
  frame = _rectangle(
    grid.x.start, grid.y.end, grid.x.end - grid.x.start,
    grid.y.start - grid.y.end,
  )  # fmt: skip
  return tag('path', d=''.join([*pieces, frame]), class_='border')


def _labels(chart: RegionMap, grid: Grid) -> Markup:
  """Choices in the middle of their areas, pins with their names."""
  edges = point_labels.Box(grid.x.start, grid.y.end, grid.x.end, grid.y.start)
  parts, taken = [], []
  for k, name in enumerate(chart.names):
    at = _middle(chart, grid, k)
    if at is None:
      continue
    wide = svg.text_width(name) + 10
    left = float(np.clip(at[0] - wide / 2, edges.left, edges.right - wide))
    box = point_labels.Box(left, at[1] - 9, left + wide, at[1] + 9)
    taken.append(box)
    parts += _plated(name, box, 'inside strong')
  points = [(float(grid.x(p.x)), float(grid.y(p.y))) for p in chart.pins]
  placed = point_labels.place(
    points, [p.label for p in chart.pins], edges, taken=taken
  )
  for pin, at, where in zip(chart.pins, points, placed, strict=True):
    inside = point_labels.Box(*at, *at).within(edges)
    if not inside:
      continue
    if where:
      if where.leader:
        parts.append(svg.segment(*at, *where.leader, 'axis'))
      box = point_labels.Box(
        where.x - 3, where.y - 12,
        where.x + svg.text_width(pin.label) + 3, where.y + 4,
      )  # fmt: skip
      parts += _plated(pin.label, box, 'inside')
    parts.append(svg.marker(*at, -1, pin.label))
  return tag('g', *parts)


def _plated(text: str, box: point_labels.Box, look: str) -> list[Markup]:
  """A text on a plate that keeps it legible on hatching."""
  middle = (box.top + box.bottom) / 2
  return [
    tag('rect', x=box.left, y=box.top, width=box.right - box.left,
        height=box.bottom - box.top, rx=2, class_='plate'),
    svg.text((box.left + box.right) / 2, middle + 4, text, look, 'middle'),
  ]  # fmt: skip


def _middle(chart: RegionMap, grid: Grid, k: int) -> tuple[float, float] | None:
  """Centre of the cell that is farthest from other areas and the frame."""
  own = chart.choice == k
  if not own.any():
    return None
  x = (grid.columns[1:] + grid.columns[:-1]) / 2
  y = (grid.rows[1:] + grid.rows[:-1]) / 2
  room = np.minimum.outer(
    np.minimum(y - grid.y.end, grid.y.start - y),
    np.minimum(x - grid.x.start, grid.x.end - x) / 3,
  )
  others = np.argwhere(~own)
  for i, j in np.argwhere(own):
    if len(others):
      # A text is wider than high: distances across count a third.
      far = np.hypot((x[others[:, 1]] - x[j]) / 3, y[others[:, 0]] - y[i])
      room[i, j] = min(room[i, j], far.min())
  i, j = np.unravel_index(np.argmax(np.where(own, room, -1.0)), own.shape)
  return float(x[j]), float(y[i])
