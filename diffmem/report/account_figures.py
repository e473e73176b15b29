"""Where money, time and energy of a token go: the mix and its waterfalls."""

from collections.abc import Sequence

from diffmem.report import scales
from diffmem.report.codesign_data import Account, MixRow
from diffmem.report.figure import (
  Axis,
  Data,
  Key,
  Row,
  RowChart,
  Size,
  Swatch,
)
from diffmem.report.scales import Kind
from diffmem.report.table import Cell, Column, Table, quantity, words


def waterfall(account: Account, i: int, size: Size) -> RowChart:
  """Bars that start where the last one ended, the total below.

  Args:
    account: parts and total.
    i: number of the figure, for its id.
    size: width on a wide page.
  """
  kinds = list(dict.fromkeys(part.kind for part in account.parts))
  rows, begin = [], 0.0
  for part in account.parts:
    end = begin + part.value
    rows.append(Row(
      part.name, end, note=_note(part.value, account), start=begin,
      style=kinds.index(part.kind),
    ))  # fmt: skip
    begin = end
  rows.append(Row(
    'Total', account.total, style=-1, strong=True,
    note=scales.label(account.total, account.unit, Kind.LINEAR),
  ))  # fmt: skip
  keys = [Key(k, Swatch.BOX, s) for s, k in enumerate(kinds) if k]
  what = f'{account.quantity}, per {account.per}'
  return RowChart(
    f'account-{i}', what,
    f'{what}: each part from left to right, and their sum.',
    Axis(what, account.unit), rows, _data(account), keys=keys, size=size,
    steps=True,
  )  # fmt: skip


def _note(value: float, account: Account) -> str:
  said = scales.label(value, account.unit, Kind.LINEAR, 3)
  if account.total == 0:
    return said
  return f'{said} · {scales.percent_of(value / account.total)}'


def _data(account: Account) -> Data:
  rows, begin = [], 0.0
  for part in account.parts:
    rows.append((part.name, part.kind, part.value, begin, begin + part.value))
    begin += part.value
  rows.append(('total', '', account.total, 0.0, account.total))
  unit = f'{account.unit}_per_{account.per}'.replace(' ', '_')
  return Data(
    ['part', 'kind', f'value_{unit}', f'from_{unit}', f'to_{unit}'], rows
  )


def account_lead(accounts: Sequence[Account]) -> str:
  """The largest part of every account."""
  said = []
  for account in accounts:
    largest = max(account.parts, key=lambda p: p.value)
    share = (
      scales.percent_of(largest.value / account.total) if account.total else ''
    )
    total = scales.label(account.total, account.unit, Kind.LINEAR, 3)
    said.append(
      f'{account.quantity}: {total} per {account.per}, most of it '
      f'{largest.name} ({share})'
    )
  return (
    '. '.join(said)
    + '. Each bar starts where the last one ended; the parts add up to the '
    'total.'
  )


# Field, heading, unit; a column without values is left out.
_COLUMNS = (
  ('tokens_per_s', 'Tokens/s', 'count'),
  ('accelerators', 'Accelerators', 'count'),
  ('power_W', 'Power', 'W'),
  ('usd_per_Mtoken', '$/Mtoken', 'USD'),
  ('joule_per_token', 'Energy/token', 'J'),
  ('step_time_s', 'Step time', 's'),
)


def mix_table(rows: Sequence[MixRow]) -> Table:
  """Every workload of the mix at its own optimum."""
  shown = [c for c in _COLUMNS if any(getattr(r, c[0]) is not None
                                      for r in rows)]  # fmt: skip
  texts = [
    (f, label)
    for f, label in (
      ('phase', 'Phase'), ('mesh', 'Mesh'), ('placement', 'Placement')
    )
    if any(getattr(r, f) for r in rows)
  ]  # fmt: skip
  columns = [
    Column('Workload'), *(Column(label, True) for _, label, _ in shown),
    *(Column(label) for _, label in texts),
  ]  # fmt: skip
  cells = [
    [
      words(row.name),
      *(_cell(getattr(row, name), unit) for name, _, unit in shown),
      *(words(getattr(row, name)) for name, _ in texts),
    ]
    for row in rows
  ]
  names = ['name', *(c[0] for c in shown), *(t[0] for t in texts)]
  data = Data(names, [[getattr(r, n) for n in names] for r in rows])
  return Table(
    'mix', 'Each at its own best plan', columns, cells, data, cards=True
  )


def _cell(value: float | None, unit: str) -> Cell:
  if value is None or unit != 'count':
    return quantity(value, unit)
  return Cell(scales.compact(value, 3), value)
