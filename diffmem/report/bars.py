"""Draws row charts (bars, dots with whiskers) and stacked bars."""

import dataclasses
import math

import numpy as np

from diffmem.report import scales, svg
from diffmem.report.figure import (
  PHONE,
  Key,
  Row,
  RowChart,
  Stack,
  StackChart,
  Swatch,
)
from diffmem.report.markup import Markup, join, tag
from diffmem.report.scales import Kind, Scale

_BAR = 13
_STACK_BAR = 26


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Where the parts of a row chart are, in pixels."""

  x: Scale
  top: float
  pitch: float
  small: bool

  def middle(self, i: int) -> float:
    """The centre line of a row's bar."""
    extra = 16 if self.small else 0
    return self.top + i * self.pitch + extra + (self.pitch - extra) / 2


def draw_rows(chart: RowChart, width: float, name: str) -> Markup:
  """Draws a row chart; on a phone the labels stand above their bars."""
  small = width <= PHONE
  left, right = _columns(chart, width, small)
  legend, legend_height = svg.legend(chart.keys, width)
  top = legend_height + (6 if legend_height else 2)
  rows = _Rows(_row_scale(chart, left, width - right), top, 40 if small else 24,
               small)  # fmt: skip
  bottom = top + len(chart.rows) * rows.pitch + 4
  body = [
    legend,
    _row_grid(chart, rows, bottom),
    _connectors(chart, rows) if chart.steps else None,
    *(_row(chart, rows, i, row, width) for i, row in enumerate(chart.rows)),
  ]
  return svg.document(
    name, width, bottom + 40, chart.title, chart.description, *body
  )


def _columns(chart: RowChart, width: float, small: bool) -> tuple[float, float]:
  """Widths of the label column and of the note column."""
  if small:
    return 8.0, 14.0
  left = max(svg.text_width(row.label) for row in chart.rows) + 12
  right = max(svg.text_width(row.note) for row in chart.rows) + 16
  return min(left, 0.36 * width), min(right, 0.34 * width)


def _row_scale(chart: RowChart, start: float, end: float) -> Scale:
  values = [
    v
    for r in chart.rows
    for v in (r.value, r.lo, r.hi, r.start)
    if v is not None
  ]
  zero = [0.0] if chart.axis.kind is Kind.LINEAR else []
  axis = chart.axis
  low = axis.low
  if low is None and zero and min([*values, 0.0]) >= 0:
    low = 0.0
  return scales.scale(
    axis.kind, [*values, *zero], start, end, low=low, high=axis.high
  )


def _row_grid(chart: RowChart, rows: _Rows, bottom: float) -> Markup:
  x, axis = rows.x, chart.axis
  values = x.ticks(58)
  shown, unit = scales.labels(values, axis.unit, axis.kind)
  parts = []
  for value, label in zip(values, shown, strict=True):
    at = float(x(value))
    look = 'axis' if value == 0 else 'grid'
    parts.append(svg.segment(at, rows.top, at, bottom, look))
    parts.append(svg.text(at, bottom + 15, label, 'tick', 'middle'))
  title = f'{axis.label}, {unit}' if unit else axis.label
  parts.append(svg.text(x.end, bottom + 33, title, 'name', 'end'))
  return tag('g', *parts)


def _connectors(chart: RowChart, rows: _Rows) -> Markup:
  """From the end of each bar down to the next."""
  parts = []
  for i, row in enumerate(chart.rows[:-1]):
    at = float(rows.x(row.value))
    top, bottom = rows.middle(i) + _BAR / 2, rows.middle(i + 1) - _BAR / 2
    parts.append(svg.segment(at, top, at, bottom, 'axis'))
  return tag('g', *parts)


def _row(
  chart: RowChart, rows: _Rows, i: int, row: Row, width: float
) -> Markup:
  x, middle = rows.x, rows.middle(i)
  parts = []
  strong = ' strong' if row.strong else ''
  if rows.small:
    top = rows.top + i * rows.pitch + 14
    room = width - svg.text_width(row.note) - 24
    parts.append(
      svg.text(0, top, svg.fitted_text(row.label, room), f'label{strong}')
    )
    parts.append(svg.text(width - 2, top, row.note, f'value{strong}', 'end'))
  else:
    label = svg.fitted_text(row.label, x.start - 10)
    parts.append(
      svg.text(x.start - 10, middle + 4, label, f'label{strong}', 'end')
    )
    parts.append(
      svg.text(width - 2, middle + 4, row.note, f'value{strong}', 'end')
    )
  if math.isfinite(row.value):
    parts.append(_mark(chart, rows, row, middle))
  return tag('g', *parts)


def _mark(chart: RowChart, rows: _Rows, row: Row, middle: float) -> Markup:
  """The bar or dot with its whisker."""
  x = rows.x
  at = float(x(row.value))
  signed = not chart.dots and any(r.value < 0 for r in chart.rows)
  style = 1 if signed and row.value > 0 else 0
  style = style if row.style is None else row.style
  tip = row.tip or f'{row.label}: {row.note}'
  parts = []
  if not chart.dots:
    begin = 0.0 if row.start is None else row.start
    zero = float(x(begin)) if x.kind is Kind.LINEAR else x.start
    parts.append(svg.box(
      min(zero, at), middle - _BAR / 2, abs(at - zero), _BAR, style, tip
    ))  # fmt: skip
  if row.lo is not None and row.hi is not None:
    ends = np.clip(x([row.lo, row.hi]), x.start, x.end)
    if np.isfinite(ends).all():
      look = f'whisker {svg.style_class(style if chart.dots else -1)}'
      parts.append(svg.segment(ends[0], middle, ends[1], middle, look))
      for end in ends:
        parts.append(svg.segment(end, middle - 3.5, end, middle + 3.5, look))
  if chart.dots:
    parts.append(svg.marker(at, middle, style, tip))
  return join(*parts)


def draw_stacks(chart: StackChart, width: float, name: str) -> Markup:
  """Draws stacked bars; each bar's full width is its own whole."""
  styles = _part_styles(chart)
  keys = [Key(part, Swatch.BOX, style) for part, style in styles.items()]
  legend, legend_height = svg.legend(keys, width)
  top, pitch = legend_height + 8, _STACK_BAR + 36
  common = max(sum(v for _, v in s.parts) for s in chart.stacks) or 1.0
  body = [legend]
  for i, stack in enumerate(chart.stacks):
    y = top + i * pitch
    body.append(_stack(chart, stack, styles, y, width, common))
  height = top + len(chart.stacks) * pitch
  return svg.document(
    name, width, height, chart.title, chart.description, *body
  )


def _part_styles(chart: StackChart) -> dict[str, int]:
  """One style per part, the same in every stack, largest first."""
  total: dict[str, float] = {}
  for stack in chart.stacks:
    for part, value in stack.parts:
      total[part] = total.get(part, 0.0) + value
  ordered = sorted((p for p in total if total[p] > 0), key=lambda p: -total[p])
  return {part: i for i, part in enumerate(ordered)}


def _stack(
  chart: StackChart, stack: Stack, styles: dict[str, int], y: float,
  width: float, common: float,
) -> Markup:  # fmt: skip
  used = sum(v for _, v in stack.parts)
  full = max(stack.whole, used) if stack.whole else common
  said = scales.label(used, chart.unit, Kind.LINEAR)
  if stack.whole:
    whole = scales.label(stack.whole, chart.unit, Kind.LINEAR)
    said = f'{said} of {whole} ({100 * used / stack.whole:.3g} %)'
  parts = [
    svg.text(0, y + 14, stack.label, 'label strong'),
    svg.text(width, y + 14, said, 'value', 'end'),
    tag('rect', x=0, y=y + 20, width=width, height=_STACK_BAR, rx=2,
        class_='trough'),
  ]  # fmt: skip
  x = 0.0
  for part, value in sorted(stack.parts, key=lambda p: styles.get(p[0], 99)):
    if not value > 0:
      continue
    wide = width * value / full
    parts.append(
      _part(chart, stack, part, value, styles[part], x, y + 20, wide)
    )
    x += wide
  if stack.whole and used > stack.whole:
    at = width * stack.whole / used
    parts.append(svg.segment(at, y + 16, at, y + 24 + _STACK_BAR, 'limit'))
  return tag('g', *parts)


def _part(chart, stack, part, value, style, x, y, wide) -> Markup:
  """One part, named inside where its name fits."""
  said = scales.label(value, chart.unit, Kind.LINEAR)
  tip = f'{stack.label}: {part} {said}'
  drawn = svg.box(x, y, max(wide - 1.0, 0.6), _STACK_BAR, style, tip)
  label = next(
    (t for t in (f'{part} {said}', part) if svg.text_width(t) + 12 < wide), ''
  )
  if not label:
    return drawn
  # A plate keeps the name legible on hatching.
  plate = tag(
    'rect', x=x + 4, y=y + 5, width=svg.text_width(label) + 4, height=16,
    rx=2, class_='plate',
  )  # fmt: skip
  return join(drawn, plate, svg.text(x + 6, y + 17, label, 'inside'))
