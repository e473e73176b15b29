"""Strokes and letters: what plots and bar charts are drawn from.

Colours come from the page's style sheet: a class `s0`..`s7` sets the colour of
a series, `sn` is neutral ink, so that dark mode and print need no redrawing.
Every series has its own marker and dash as well.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffmem.report import markup
from diffmem.report.figure import Key, Swatch
from diffmem.report.markup import Markup, tag

FONT = 12
LINE = 18  # height of a legend row
STYLES = 8
_RADIUS = 3.7

# Advance widths in thousandths of the font size, as in Helvetica and Arial.
_WIDTHS = {
  **dict.fromkeys("ijl'|.,:;!I ", 265),
  **dict.fromkeys('ftr()[]/-\\"', 330),
  **dict.fromkeys('ABDEFGHKPRSVXYZNUCTLJ&', 690),
  **dict.fromkeys('OQw', 760),
  **dict.fromkeys('mMW%@', 880),
}

_MARKERS = (
  'M-{r} 0a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z',  # circle
  'M-{r} -{r}h{d}v{d}h-{d}z',  # square
  'M0 -{l}L{l} {r}H-{l}z',  # triangle up
  'M0 -{l}L{l} 0L0 {l}L-{l} 0z',  # diamond
  'M0 {l}L{l} -{r}H-{l}z',  # triangle down
  'M-{l} -1.3H-1.3V-{l}H1.3V-1.3H{l}V1.3H1.3V{l}H-1.3V1.3H-{l}z',  # plus
  'M0 -{l}L{l} -1L2.7 {l}H-2.7L-{l} -1z',  # pentagon
  'M-{l} -{l}H{l}L-{l} {l}H{l}z',  # hourglass
)
_SHAPES = tuple(
  m.format(
    r=f'{_RADIUS * 0.88:g}', d=f'{_RADIUS * 1.76:g}', l=f'{_RADIUS * 1.3:.3g}'
  )
  for m in _MARKERS
)


def style_class(style: int) -> str:
  """The class that carries a series' colour."""
  return 'sn' if style < 0 else f's{style % STYLES}'


def text_width(text: str, size: float = FONT) -> float:
  """Estimated width in pixels, a little on the generous side."""
  return sum(_WIDTHS.get(c, 560) for c in text) * size / 1000 * 1.04


def text(
  x: float, y: float, content: Any, class_: str = '', anchor: str = 'start',
  turn: float = 0.0,
) -> Markup:  # fmt: skip
  """A text with its baseline at (x, y), turned by degrees around it."""
  spin = f'rotate({turn:.2f} {x:.2f} {y:.2f})' if turn else None
  return tag(
    'text', content, x=x, y=y, class_=class_ or None, transform=spin,
    text_anchor=None if anchor == 'start' else anchor,
  )  # fmt: skip


def fitted_text(content: str, room: float, size: float = FONT) -> str:
  """The text, cut with an ellipsis where it does not fit."""
  if text_width(content, size) <= room:
    return content
  while content and text_width(content + '…', size) > room:
    content = content[:-1]
  return content.rstrip() + '…'


def segment(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
  """A straight line."""
  return tag('path', d=_move(x1, y1) + 'L' + _pair(x2, y2), class_=class_)


def path(x: np.ndarray, y: np.ndarray, style: int, dashed: bool) -> Markup:
  """A polyline that breaks where a coordinate is not finite."""
  pieces, pen_up = [], True
  for a, b in zip(x, y, strict=True):
    if np.isfinite(a) and np.isfinite(b):
      pieces.append(('M' if pen_up else 'L') + _pair(a, b))
      pen_up = False
    else:
      pen_up = True
  dash = '5 4' if dashed else None
  return tag(
    'path', d=''.join(pieces), stroke_dasharray=dash,
    class_=f'line {style_class(style)}',
  )  # fmt: skip


def area(x: np.ndarray, lo: np.ndarray, hi: np.ndarray, style: int) -> Markup:
  """A filled band between two curves, with gaps where a bound is missing."""
  known = np.isfinite(x) & np.isfinite(lo) & np.isfinite(hi)
  ends = np.flatnonzero(np.diff(np.concatenate([[0], known, [0]])))
  pieces = []
  for first, last in ends.reshape(-1, 2):
    if last - first < 2:
      continue
    upper = zip(x[first:last], hi[first:last], strict=True)
    lower = zip(x[first:last][::-1], lo[first:last][::-1], strict=True)
    around = (_pair(a, b) for a, b in (*upper, *lower))
    pieces.append('M' + 'L'.join(around) + 'z')
  if not pieces:
    return Markup('')
  return tag('path', d=''.join(pieces), class_=f'band {style_class(style)}')


def marker(
  x: float, y: float, style: int, tip: str = '', hollow: bool = False
) -> Markup:
  """A data point; its tip is a title, so it needs no script."""
  kind = 'hollow' if hollow else 'dot'
  return tag(
    'path', tag('title', tip) if tip else None, d=_shape(style),
    transform=f'translate({markup.number(x)} {markup.number(y)})',
    class_=f'{kind} {style_class(style)}',
  )  # fmt: skip


def _shape(style: int) -> str:
  return _SHAPES[max(style, 0) % len(_SHAPES)]


def box(
  x: float, y: float, width: float, height: float, style: int, tip: str = ''
) -> Markup:
  """A filled rectangle; every other style is hatched as well."""
  shape = {'x': x, 'y': y, 'width': max(width, 0.0), 'height': height}
  filled = tag(
    'rect', tag('title', tip) if tip else None, rx=1.5,
    class_=f'fill {style_class(style)}', **shape,
  )  # fmt: skip
  if style < 0 or style % 2 == 0:
    return filled
  return markup.join(filled, _hatch(x, y, width, height))


def void(
  x: float, y: float, width: float, height: float, tip: str = ''
) -> Markup:
  """A hatched rectangle without a fill: what is not there."""
  outline = tag(
    'rect', tag('title', tip) if tip else None, x=x, y=y,
    width=max(width, 0.0), height=height, class_='missing',
  )  # fmt: skip
  return markup.join(outline, _hatch(x, y, width, height, 'void'))


def _hatch(
  x: float, y: float, width: float, height: float, look: str = 'hatch'
) -> Markup:
  """Diagonal strokes clipped to a rectangle by construction."""
  pieces, offset = [], 6.0
  while offset < width + height:
    x1, y1 = (offset, 0.0) if offset <= width else (width, offset - width)
    x2, y2 = (0.0, offset) if offset <= height else (offset - height, height)
    pieces.append(_move(x + x1, y + y1) + 'L' + _pair(x + x2, y + y2))
    offset += 6.0
  return tag('path', d=''.join(pieces), class_=look) if pieces else Markup('')


def swatch(x: float, y: float, key: Key) -> Markup:
  """The sign of a legend entry, 24 px wide, centred on y."""
  look = style_class(key.style)
  if key.swatch is Swatch.BAND:
    return tag(
      'rect', x=x + 2, y=y - 5, width=18, height=10, class_=f'band {look}'
    )
  if key.swatch is Swatch.VOID:
    return void(x + 4, y - 5, 13, 10)
  if key.swatch is Swatch.BOX:
    return box(x + 4, y - 5, 13, 10, key.style)
  parts = []
  if key.swatch in (Swatch.LINE, Swatch.DASHED, Swatch.BOTH):
    ends = np.array([x, x + 20]), np.array([y, y])
    parts.append(path(*ends, key.style, key.swatch is Swatch.DASHED))
  if key.swatch in (Swatch.POINTS, Swatch.HOLLOW, Swatch.BOTH):
    hollow = key.swatch is Swatch.HOLLOW
    parts.append(marker(x + 11, y, key.style, hollow=hollow))
  return markup.join(parts)


def legend(keys: Sequence[Key], width: float) -> tuple[Markup, float]:
  """Entries in rows that wrap at `width`; returns markup and height."""
  if not keys:
    return Markup(''), 0.0
  pieces, x, row = [], 0.0, 0
  for key in keys:
    need = 25 + text_width(key.label)
    if x > 0 and x + need > width:
      x, row = 0.0, row + 1
    y = row * LINE + LINE / 2
    pieces.append(swatch(x, y, key))
    pieces.append(text(x + 25, y + 4, key.label, 'key'))
    x += need + 12
  return markup.join(pieces), (row + 1) * LINE


def spread(
  wanted: Sequence[float], gap: float, low: float, high: float
) -> list[float]:
  """Moves labels apart, in order, as little as a simple sweep allows."""
  order = np.argsort(wanted, kind='stable')
  placed, floor = np.zeros(len(wanted)), low
  for i in order:
    placed[i] = max(wanted[i], floor)
    floor = placed[i] + gap
  ceiling = high
  for i in order[::-1]:
    placed[i] = min(placed[i], ceiling)
    ceiling = placed[i] - gap
  return [float(p) for p in placed]


def document(
  name: str, width: float, height: float, title: str, description: str,
  *body: Any,
) -> Markup:  # fmt: skip
  """A whole drawing with its accessible name and description."""
  return tag(
    'svg',
    tag('title', title, id=f'{name}-title'),
    tag('desc', description, id=f'{name}-desc'),
    *body,
    xmlns='http://www.w3.org/2000/svg',
    viewBox=f'0 0 {markup.number(width)} {markup.number(height)}',
    role='img',
    aria_labelledby=f'{name}-title {name}-desc',
  )


def _pair(x: float, y: float) -> str:
  return f'{markup.number(x)} {markup.number(y)}'


def _move(x: float, y: float) -> str:
  return 'M' + _pair(x, y)
