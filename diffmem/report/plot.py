"""Draws a `Plot` at a given width."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from diffmem.report import point_labels, scales, svg
from diffmem.report.figure import PHONE, Band, Key, Line, Plot, Points, Swatch
from diffmem.report.markup import Markup, join, tag
from diffmem.report.scales import Kind, Scale

_HEIGHTS = {'full': 300, 'half': 236, 'small': 210}
_STRIP = 58  # height of the residual strip
_GAP = 30  # between plot and strip, with the strip's title in it


@dataclasses.dataclass(frozen=True)
class _Frame:
  """Where the parts of a plot are, in pixels."""

  x: Scale
  y: Scale
  legend: Markup
  legend_height: float
  mark_rows: int
  strip: Scale | None
  height: float

  @property
  def floor(self) -> float:
    """The lowest edge that carries the x axis."""
    return self.strip.start if self.strip else self.y.start


def draw(plot: Plot, width: float, name: str) -> Markup:
  """Draws a plot.

  Args:
    plot: what to show.
    width: in pixels; below `HALF`, names move from the lines to the legend.
    name: unique prefix of the ids within the drawing.
  """
  frame = _layout(plot, width)
  clip = f'{name}-clip'
  x, y = frame.x, frame.y
  body = [
    tag('clipPath', _rect(x, y), id=clip),
    frame.legend,
    _grid(plot, frame),
    _marks(plot, frame),
    tag(
      'g', *(_layer(la, x, y) for la in plot.layers), clip_path=f'url(#{clip})'
    ),
    tag(
      'g', *(_dots(la, x, y) for la in plot.layers if isinstance(la, Points))
    ),
    _along(plot, frame),
    _point_labels(plot, frame, width),
    _names(plot, frame) if width > PHONE else None,
    _strip(plot, frame) if frame.strip else None,
  ]
  return svg.document(
    name, width, frame.height, plot.title, plot.description, *body
  )


def _rect(x: Scale, y: Scale) -> Markup:
  return tag(
    'rect', x=x.start, y=y.end - 1, width=x.end - x.start,
    height=y.start - y.end + 2,
  )  # fmt: skip


def _layout(plot: Plot, width: float) -> _Frame:
  small = width <= PHONE
  names = [la.name for la in plot.layers if isinstance(la, Line) and la.name]
  right = 14.0 if small or not names else 24 + max(map(svg.text_width, names))
  left = 10 + _label_width(plot)
  right = min(right, 0.3 * width)
  x = _scale(plot, 'x', left, width - right)
  keys = [*_name_keys(plot), *plot.keys] if small else plot.keys
  legend, legend_height = svg.legend(keys, width)
  rows = _mark_rows(plot, x)
  top = legend_height + (8 if legend_height else 2) + 20 + 15 * len(set(rows))
  wide = 'full' if width > 700 else 'half'
  height = plot.height if plot.height and not small else 0
  height = height or _HEIGHTS['small' if small else wide]
  y = _scale(plot, 'y', top + height, top)
  strip, bottom = None, y.start
  if plot.strip:
    bottom = y.start + _GAP + _STRIP
    strip = _strip_scale(plot, bottom)
  return _Frame(x, y, legend, legend_height, len(set(rows)), strip, bottom + 40)


def _label_width(plot: Plot) -> float:
  """Room for the labels of the y axis and of the strip."""
  y = _scale(plot, 'y', 240, 0)
  shown, _ = scales.labels(y.ticks(38), plot.y.unit, y.kind)
  return max([svg.text_width(s, 11.5) for s in shown] + [30])


def _scale(plot: Plot, which: str, start: float, end: float) -> Scale:
  """Holds lines and points; bands may run out of the picture."""
  axis = getattr(plot, which)
  values = [
    getattr(la, which) for la in plot.layers if isinstance(la, (Line, Points))
  ]
  values = np.concatenate([np.ravel(v) for v in values]) if values else []
  pad = 0.02 if which == 'x' else 0.06
  return scales.scale(
    axis.kind, values, start, end, low=axis.low, high=axis.high, pad=pad
  )


def _name_keys(plot: Plot) -> list[Key]:
  """Legend entries in place of names at the lines."""
  dotted = {la.style for la in plot.layers if isinstance(la, Points)}
  keys = []
  for layer in plot.layers:
    if isinstance(layer, Line) and layer.name:
      plain = Swatch.DASHED if layer.dashed else Swatch.LINE
      sign = Swatch.BOTH if layer.style in dotted else plain
      keys.append(Key(layer.name, sign, layer.style))
  return keys


def _grid(plot: Plot, frame: _Frame) -> Markup:
  x, y = frame.x, frame.y
  parts = []
  values = y.ticks(34)
  shown, unit = scales.labels(values, plot.y.unit, y.kind)
  for value, label in zip(values, shown, strict=True):
    at = float(y(value))
    parts.append(svg.segment(x.start, at, x.end, at, 'grid'))
    parts.append(svg.text(x.start - 7, at + 4, label, 'tick', 'end'))
  values = x.ticks(62)
  shown, x_unit = scales.labels(values, plot.x.unit, x.kind)
  for value, label in zip(values, shown, strict=True):
    at = float(x(value))
    parts.append(svg.segment(at, y.end, at, y.start, 'grid'))
    if frame.strip:
      parts.append(
        svg.segment(at, frame.strip.end, at, frame.strip.start, 'grid')
      )
    parts.append(svg.text(at, frame.floor + 16, label, 'tick', 'middle'))
  parts.append(svg.segment(x.start, y.start, x.end, y.start, 'axis'))
  top = y.end - 8 - 15 * frame.mark_rows
  titles = [
    svg.text(0, top, _title(plot.y.label, unit), 'name'),
    svg.text(
      x.end, frame.floor + 33, _title(plot.x.label, x_unit), 'name', 'end'
    ),
  ]
  return tag('g', *parts, *titles)


def _title(label: str, unit: str) -> str:
  return f'{label}, {unit}' if unit else label


def _mark_rows(plot: Plot, x: Scale) -> list[int]:
  """The row above the plot in which each mark's label has room."""
  ends: list[float] = []
  rows = []
  for mark in plot.marks:
    at = float(x(mark.x))
    row = next((i for i, end in enumerate(ends) if end + 6 <= at), len(ends))
    if row == len(ends):
      ends.append(0.0)
    ends[row] = at + svg.text_width(mark.label, 11.5)
    rows.append(row)
  return rows


def _marks(plot: Plot, frame: _Frame) -> Markup:
  parts = []
  x = frame.x
  for mark, row in zip(plot.marks, _mark_rows(plot, x), strict=True):
    at = float(x(mark.x))
    if not x.start <= at <= x.end:
      continue
    y = frame.y.end - 5 - 15 * row
    ends = at + svg.text_width(mark.label, 11.5) > x.end + 10
    parts.append(svg.segment(at, y - 8, at, frame.floor, 'mark'))
    parts.append(
      svg.text(at + (-4 if ends else 4), y, mark.label, 'marked',
               'end' if ends else 'start')
    )  # fmt: skip
  return tag('g', *parts)


def _layer(layer: Line | Points | Band, x: Scale, y: Scale) -> Markup:
  """What is clipped to the plot: lines and bands."""
  if isinstance(layer, Line):
    return svg.path(x(layer.x), y(layer.y), layer.style, layer.dashed)
  if isinstance(layer, Band):
    lo = np.where(np.asarray(layer.lo) > 0, layer.lo, y.low)
    lo = lo if y.kind is not Kind.LINEAR else layer.lo
    return svg.area(
      x(layer.x), *np.clip([y(lo), y(layer.hi)], y.end, y.start), layer.style
    )
  return Markup('')


def _dots(points: Points, x: Scale, y: Scale, shift: float = 0.0):
  """Markers and whiskers that can be drawn; far ones sit at the edge."""
  at_x, at_y = x(points.x) + shift, np.clip(y(points.y), y.end, y.start)
  parts = []
  for i in np.flatnonzero(np.isfinite(at_x) & np.isfinite(at_y)):
    if points.spread is not None and np.isfinite(points.spread[i]):
      ends = y(points.y[i] + points.spread[i] * np.array([-1.0, 1.0]))
      ends = np.clip(ends, y.end, y.start)
      look = f'whisker {svg.style_class(points.style)}'
      parts.append(svg.segment(at_x[i], ends[0], at_x[i], ends[1], look))
    hollow = points.hollow is not None and bool(points.hollow[i])
    tip = points.tips[i] if len(points.tips) else ''
    parts.append(svg.marker(at_x[i], at_y[i], points.style, tip, hollow))
  return parts


def _along(plot: Plot, frame: _Frame) -> Markup:
  """Names that follow the slope of their line, near its lower left end."""
  parts = []
  for layer in plot.layers:
    if not (isinstance(layer, Line) and layer.along):
      continue
    x, y = frame.x(layer.x[:2]), frame.y(layer.y[:2])
    run, rise = x[1] - x[0], y[1] - y[0]
    if not np.isfinite([run, rise]).all() or run == 0:
      continue
    flat = abs(rise) < 1
    turn = 0.0 if flat else float(np.degrees(np.arctan2(rise, run)))
    place = (
      (x[1] - 4, y[1] - 5) if flat else (x[0] + 6, y[0] + 6 * rise / run - 5)
    )
    parts.append(svg.text(
      *place, layer.along, 'along', 'end' if flat else 'start', turn
    ))  # fmt: skip
  return tag('g', *parts)


def _point_labels(plot: Plot, frame: _Frame, width: float) -> Markup:
  """Names beside points."""
  points, names, taken = [], [], []
  for layer in plot.layers:
    if isinstance(layer, Line):
      taken += point_labels.along(frame.x(layer.x), frame.y(layer.y))
    if isinstance(layer, Points):
      x, y = frame.x(layer.x), frame.y(layer.y)
      seen = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
      points += [(float(x[i]), float(y[i])) for i in seen]
      names += [layer.labels[i] if layer.labels else '' for i in seen]
      if layer.spread is not None:
        ends = frame.y(layer.y + np.outer([-1.0, 1.0], layer.spread))
        for i in seen:
          taken += point_labels.along(np.full(2, x[i]), ends[:, i])
  if not any(names):
    return Markup('')
  edges = point_labels.Box(
    frame.x.start, frame.y.end, width - 2, frame.y.start - 2
  )
  parts = []
  places = point_labels.place(points, names, edges, taken=taken)
  for at, name, placed in zip(points, names, places, strict=True):
    if placed is None:
      continue
    if placed.leader:
      parts.append(svg.segment(*at, *placed.leader, 'leader'))
    parts.append(svg.text(placed.x, placed.y, name, 'along'))
  return tag('g', *parts)


def _names(plot: Plot, frame: _Frame) -> Markup:
  """Names at the right ends of their lines, moved apart."""
  found = []
  for line in plot.layers:
    if isinstance(line, Line) and line.name:
      at = frame.y(line.y)
      seen = np.flatnonzero(np.isfinite(at) & np.isfinite(frame.x(line.x)))
      if seen.size:
        last = seen[-1]
        found.append((line, float(frame.x(line.x)[last]), float(at[last])))
  placed = svg.spread([f[2] for f in found], 15, frame.y.end, frame.y.start)
  parts = []
  for (line, x_end, y_end), y in zip(found, placed, strict=True):
    look = svg.style_class(line.style)
    at = frame.x.end + 12
    if abs(y - y_end) > 3 or at - x_end > 24:
      parts.append(svg.segment(x_end + 5, y_end, at - 3, y, 'leader'))
    parts.append(svg.text(at, y + 4, line.name, f'direct {look}'))
  return tag('g', *parts)


def _strip_scale(plot: Plot, bottom: float) -> Scale:
  """Percent, symmetric; a few far points do not flatten the others."""
  errors = _strip_values(plot.strip.points)
  size = np.abs(errors[np.isfinite(errors)])
  reach = 5.0
  if size.size:
    reach = max(reach, min(size.max(), 2.5 * np.quantile(size, 0.9)) * 1.12)
  return Scale(Kind.LINEAR, -reach, reach, bottom, bottom - _STRIP)


def _strip_values(points: Sequence[Points]) -> np.ndarray:
  return np.concatenate([np.asarray(p.y, float) for p in points] or [[]])


def _strip(plot: Plot, frame: _Frame) -> Markup:
  """The residual panel."""
  x, y = frame.x, frame.strip
  parts = []
  reach = y.high
  step = scales.ticks(Kind.LINEAR, 0, reach, 3)[-1]
  for value in (-step, 0.0, step):
    at = float(y(value))
    label = scales.label(value, '%', Kind.LINEAR)
    label = f'+{label}' if value > 0 else label
    parts.append(
      svg.segment(x.start, at, x.end, at, 'axis' if value == 0 else 'grid')
    )
    parts.append(svg.text(x.start - 7, at + 4, label, 'tick', 'end'))
  beyond = int(np.sum(np.abs(_strip_values(plot.strip.points)) > reach))
  said = f' ({beyond} beyond the edge)' if beyond else ''
  title = svg.text(0, y.end - 8, plot.strip.label + said, 'name')
  # Series that share their x stand beside each other.
  many = len(plot.strip.points)
  step = min(3.0, 14 / many)
  dots = [
    _dots(points, x, y, step * (i - (many - 1) / 2))
    for i, points in enumerate(plot.strip.points)
  ]
  return join(tag('g', *parts, title), tag('g', *dots))
