"""Where the cells of a map are, and its axes: for heat maps and regions."""

import dataclasses

import numpy as np

from diffmem.report import scales, svg
from diffmem.report.figure import PHONE, Axis
from diffmem.report.markup import Markup, tag
from diffmem.report.scales import Kind, Scale

_HEIGHTS = {'full': 320, 'half': 270, 'small': 230}
BELOW = 40  # ticks and title under a map, px


def edges(values: np.ndarray, kind: Kind) -> np.ndarray:
  """Borders half-way between grid values [n] -> [n + 1].

  Half-way on the axis: geometric on a logarithmic one. The outer borders lie
  as far out as the inner ones of the same cell; one value alone gets a border
  at half and one at one and a half of it.
  """
  at = np.asarray(values, np.float64)
  if at.size == 1:
    return np.array([0.5, 1.5]) * at
  at = at if kind is Kind.LINEAR else np.log(at)
  inner = (at[1:] + at[:-1]) / 2
  ends = np.concatenate(
    [[2 * at[0] - inner[0]], inner, [2 * at[-1] - inner[-1]]]
  )
  return ends if kind is Kind.LINEAR else np.exp(ends)


@dataclasses.dataclass(frozen=True)
class Grid:
  """Cells in pixels.

  Attributes:
    x: from values to pixels.
    y: from values to pixels, upwards.
    columns: borders from left to right [n + 1].
    rows: borders from bottom to top [m + 1].
    x_values: of the columns [n].
    y_values: of the rows [m].
  """

  x: Scale
  y: Scale
  columns: np.ndarray
  rows: np.ndarray
  x_values: np.ndarray
  y_values: np.ndarray

  def cell(self, row: int, column: int) -> tuple[float, float, float, float]:
    """x, y, width and height of a cell."""
    left, right = self.columns[column : column + 2]
    bottom, top = self.rows[row : row + 2]
    return left, top, right - left, bottom - top

  def cell_at(self, x: float, y: float) -> tuple[int, int] | None:
    """Row and column of the cell that holds a point; None outside."""
    column = int(np.searchsorted(self.columns, self.x(x))) - 1
    row = int(np.searchsorted(-self.rows, -self.y(y))) - 1
    inside = 0 <= row < self.y_values.size and 0 <= column < self.x_values.size
    return (row, column) if inside else None


def layout(
  x_axis: Axis, y_axis: Axis, x_values: np.ndarray, y_values: np.ndarray,
  width: float, top: float,
) -> Grid:  # fmt: skip
  """Cells below `top`, as wide as the drawing allows.

  Args:
    x_axis: horizontal.
    y_axis: vertical.
    x_values: centres of the columns, ascending [n].
    y_values: centres of the rows, ascending [m].
    width: of the drawing, px.
    top: of the cells, px.
  """
  size = 'small' if width <= PHONE else 'full' if width > 700 else 'half'
  x_ends, y_ends = edges(x_values, x_axis.kind), edges(y_values, y_axis.kind)
  bottom = top + _HEIGHTS[size]
  y = Scale(y_axis.kind, y_ends[0], y_ends[-1], bottom, top)
  values = _ticks(y, y_values, np.full(len(y_values), 17.0), 30)
  shown, _ = _labels(values, y_axis)
  left = 12 + max([svg.text_width(s, 11.5) for s in shown] + [30])
  x = Scale(x_axis.kind, x_ends[0], x_ends[-1], left, width - 14)
  return Grid(x, y, x(x_ends), y(y_ends), np.asarray(x_values),
              np.asarray(y_values))  # fmt: skip


def axes(grid: Grid, x_axis: Axis, y_axis: Axis) -> Markup:
  """Ticks at the values that were computed; round ones where they crowd."""
  parts = []
  values = _ticks(grid.y, grid.y_values, np.full(grid.y_values.size, 17.0), 30)
  shown, y_unit = _labels(values, y_axis)
  for value, label in zip(values, shown, strict=True):
    at = float(grid.y(value))
    parts.append(svg.text(grid.x.start - 7, at + 4, label, 'tick', 'end'))
    parts.append(svg.segment(grid.x.start - 4, at, grid.x.start, at, 'axis'))
  every, _ = _labels(list(grid.x_values), x_axis)
  room = np.array([svg.text_width(t, 11.5) + 10 for t in every])
  values = _ticks(grid.x, grid.x_values, room, 62)
  shown, x_unit = _labels(values, x_axis)
  floor = grid.y.start
  for value, label in zip(values, shown, strict=True):
    at = float(grid.x(value))
    parts.append(svg.text(at, floor + 16, label, 'tick', 'middle'))
    parts.append(svg.segment(at, floor, at, floor + 4, 'axis'))
  parts += [
    svg.text(0, grid.y.end - 8, _title(y_axis.label, y_unit), 'name'),
    svg.text(
      grid.x.end, floor + 33, _title(x_axis.label, x_unit), 'name', 'end'
    ),
  ]
  return tag('g', *parts)


def _labels(values: list[float], axis: Axis) -> tuple[list[str], str]:
  """With one unit, in the title, where all values are of one size."""
  near = min(values) > 0 and max(values) < 1000 * min(values)
  return scales.labels(values, axis.unit, Kind.LINEAR if near else axis.kind)


def _ticks(
  scale: Scale, values: np.ndarray, need: np.ndarray, room: float
) -> list[float]:
  """All values where their labels do not touch; round ones otherwise."""
  gaps = np.abs(np.diff(scale(values)))
  if (gaps >= (need[1:] + need[:-1]) / 2).all():
    return [float(v) for v in values]
  return scale.ticks(room)


def _title(label: str, unit: str) -> str:
  return f'{label}, {unit}' if unit else label
