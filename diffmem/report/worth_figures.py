"""What parameters and changes of the hardware are worth."""

import math
from collections.abc import Sequence

from diffmem.report import markup, scales
from diffmem.report.codesign_data import (
  Change,
  Elasticity,
  ParameterKind,
  Tornado,
  WhatIf,
  kind_of,
)
from diffmem.report.figure import (
  Axis,
  Data,
  Key,
  Row,
  RowChart,
  Size,
  Swatch,
)
from diffmem.report.markup import join, tag
from diffmem.report.scales import Kind
from diffmem.report.table import Cell, Column, Table, interval, words

_MOST = 18
_STYLES = {
  ParameterKind.RATE: 0, ParameterKind.SIZE: 1, ParameterKind.LATENCY: 2,
  ParameterKind.ENERGY: 3, ParameterKind.OTHER: 6,
}  # fmt: skip


def tornado(part: Tornado, i: int) -> RowChart | None:
  """Sorted bars with whiskers, coloured by kind of parameter.

  Args:
    part: the elasticities of one objective.
    i: number of the figure, for its id.
  """
  found = sorted(part.rows, key=lambda e: -abs(e.value))
  shown = [e for e in found if abs(e.value) >= 5e-4][:_MOST]
  if not shown:
    return None
  rows = [
    Row(e.parameter, e.value, e.lo, e.hi, _note(e), _tip(e),
        style=_STYLES[_kind(e)])
    for e in shown
  ]  # fmt: skip
  kinds = [k for k in ParameterKind if any(_kind(e) is k for e in shown)]
  left = len(found) - len(shown)
  more = f' ({left} smaller in the CSV)' if left else ''
  return RowChart(
    f'tornado-{i}', f'Elasticity of the {part.objective}{more}',
    f'Percent change of the {part.objective} for one percent more of each '
    'parameter, with 90 % intervals; on the right what one more unit is '
    'worth.',
    Axis(f'Change of the {part.objective} in % for 1 % more'), rows,
    _tornado_data(found),
    keys=[Key(k.value, Swatch.BOX, _STYLES[k]) for k in kinds],
  )  # fmt: skip


def _kind(e: Elasticity) -> ParameterKind:
  return e.kind or kind_of(e.parameter)


def _note(e: Elasticity) -> str:
  said = markup.minus(f'{e.value:+.3f}')
  if e.worth is None or not math.isfinite(e.worth):
    return said
  return f'{said} · {scales.label(e.worth, e.worth_unit, Kind.LINEAR, 3)}'


def _tip(e: Elasticity) -> str:
  lines = [f'{e.parameter}: {_note(e)}']
  if e.lo is not None and e.hi is not None:
    lines.append(f'90 %: {markup.minus(f"{e.lo:+.3f}")} to '
                 f'{markup.minus(f"{e.hi:+.3f}")}')  # fmt: skip
  return '\n'.join([*lines, e.note] if e.note else lines)


def _tornado_data(found: Sequence[Elasticity]) -> Data:
  names = ['parameter', 'value', 'lo', 'hi', 'worth', 'worth_lo', 'worth_hi',
           'worth_unit', 'note']  # fmt: skip
  columns = ['parameter', 'elasticity', 'lo90', 'hi90', *names[4:], 'kind']
  rows = [[*(getattr(e, n) for n in names), _kind(e).value] for e in found]
  return Data(columns, rows)


def worth_table(part: Tornado, i: int) -> Table | None:
  """What one more unit of each parameter is worth, with its interval."""
  found = [e for e in part.rows if e.worth is not None]
  if not found:
    return None
  found = sorted(found, key=lambda e: -abs(e.value))
  rows = [
    [
      words(e.parameter), Cell(markup.minus(f'{e.value:+.4f}'), e.value),
      Cell(_with_range(e), e.worth), words(e.note),
    ]
    for e in found
  ]  # fmt: skip
  basis = f', {part.basis}' if part.basis else ''
  columns = [
    Column('Parameter'), Column('Elasticity', True),
    Column('One more unit is worth', True), Column('Note'),
  ]  # fmt: skip
  return Table(
    f'worth-{i}', f"In engineers' units{basis} ({part.objective})", columns,
    rows, _tornado_data(found), cards=True, folded=True,
  )  # fmt: skip


def _with_range(e: Elasticity):
  said = scales.label(e.worth, e.worth_unit, Kind.LINEAR, 3)
  between = interval(e.worth_lo, e.worth_hi, e.worth_unit)
  return tag(
    'span', said, tag('span', between, class_='range') if between else None
  )


def tornado_lead(part: Tornado) -> str:
  """The strongest parameter, and what the rates add up to."""
  strongest = max(part.rows, key=lambda e: abs(e.value))
  ways = 'lowers' if strongest.value < 0 else 'raises'
  rates = math.fsum(
    e.value for e in part.rows if _kind(e) is ParameterKind.RATE
  )
  basis = f" Engineers' units are {part.basis}." if part.basis else ''
  return (
    f'One percent more of {strongest.parameter} {ways} the {part.objective} '
    f'by {abs(strongest.value):.2g} %, with the plan optimised again. All '
    f'rates together: {markup.minus(f"{rates:+.3f}")}.{basis}'
  )


# Field, heading, whether more is better.
_METRICS = (
  ('tokens_per_s', 'Tokens per second', True),
  ('joule_per_token', 'Energy per token', False),
  ('usd_per_token', 'Cost per token', False),
)
_BETTER, _WORSE, _OPEN = 0, 1, 7
# Percent that do not round to 0.0.
_SHOWN = 0.05


def what_if_charts(found: Sequence[WhatIf]) -> list[RowChart]:
  """Changes with their intervals, one figure per metric."""
  charts = []
  for name, label, more_is_better in _METRICS:
    changes = [(w, getattr(w, name)) for w in found]
    rows = [
      Row(w.name, c.value, c.lo, c.hi, scales.signed(c.value),
          style=_verdict(c, more_is_better))
      for w, c in changes if c is not None
    ]  # fmt: skip
    if not rows:
      continue
    data = Data(
      ['what_if', 'change_percent', 'lo90', 'hi90'],
      [(w.name, c.value, c.lo, c.hi) for w, c in changes if c is not None],
    )
    keys = [
      Key(said, Swatch.POINTS, style)
      for said, style in (
        ('better', _BETTER), ('worse', _WORSE), ('open, or no change', _OPEN)
      )
      if any(row.style == style for row in rows)
    ]  # fmt: skip
    charts.append(RowChart(
      f'what-if-{name}', label,
      f'Change of {label.lower()} with its 90 % interval, plans optimised '
      'again.',
      Axis('Change', '%'), rows, data, dots=True, keys=keys, size=Size.THIRD,
    ))  # fmt: skip
  return charts


def _verdict(change: Change, more_is_better: bool) -> int:
  """Style by sign; open where the interval holds both, or what rounds to 0."""
  lo = change.value if change.lo is None else change.lo
  hi = change.value if change.hi is None else change.hi
  if lo < _SHOWN and hi > -_SHOWN:
    return _OPEN
  return _BETTER if (change.value > 0) == more_is_better else _WORSE


def what_if_table(found: Sequence[WhatIf]) -> Table:
  """Changes, the chance that they pay, and the price up to which they do."""
  metrics = [m for m in _METRICS if any(getattr(w, m[0]) for w in found)]
  has_odds = any(w.pays is not None for w in found)
  has_price = any(w.break_even_usd_per_GB for w in found)
  columns = [
    Column('What if'), *(Column(label, True) for _, label, _ in metrics),
    *([Column('Probably pays', True)] if has_odds else []),
    *([Column('Break-even, $/GB', True)] if has_price else []),
    Column('New plan'),
  ]  # fmt: skip
  rows = [
    [
      words(w.name),
      *(_change_cell(getattr(w, name)) for name, _, _ in metrics),
      *([_odds_cell(w)] if has_odds else []),
      *([_price_cell(w.break_even_usd_per_GB)] if has_price else []),
      words('; '.join(t for t in (w.plan, w.note) if t)),
    ]
    for w in found
  ]
  return Table(
    'what-ifs',
    'Changes, odds and prices',
    columns,
    rows,
    _what_if_data(found),
    cards=True,
  )


def _change_cell(change: Change | None) -> Cell:
  if change is None:
    return words(None)
  between = None
  if change.lo is not None and change.hi is not None:
    low = scales.signed(change.lo).removesuffix(' %')
    said = f'{low} to {scales.signed(change.hi)}'
    between = tag('span', said, class_='range')
  return Cell(join(scales.signed(change.value), between), change.value)


def _odds_cell(what_if: WhatIf) -> Cell:
  if what_if.pays is None:
    return words(None)
  at = tag('span', what_if.price, class_='range') if what_if.price else None
  return Cell(join(f'{100 * what_if.pays:.0f} %', at), what_if.pays)


def _price_cell(price: Change | None) -> Cell:
  if price is None:
    return words(None)
  if price.value <= 0:
    return Cell('at no price', price.value)
  between = None
  if price.lo is not None and price.hi is not None:
    said = f'{scales.money(price.lo, 3)} to {scales.money(price.hi, 3)}'
    between = tag('span', said, class_='range')
  return Cell(join(scales.money(price.value, 3), between), price.value)


def _what_if_data(found: Sequence[WhatIf]) -> Data:
  names = [m[0] for m in _METRICS] + ['break_even_usd_per_GB']
  columns = ['what_if']
  for name in names:
    unit = '' if name.endswith('_GB') else '_change_percent'
    columns += [f'{name}{unit}', f'{name}_lo90', f'{name}_hi90']
  rows = []
  for w in found:
    row = [w.name]
    for name in names:
      c = getattr(w, name)
      row += [None] * 3 if c is None else [c.value, c.lo, c.hi]
    rows.append([*row, w.pays, w.price, w.plan, w.note])
  return Data([*columns, 'pays', 'price', 'plan', 'note'], rows)
