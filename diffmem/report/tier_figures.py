"""KV capacity and retrieval: what capacity brings, tier by tier."""

from collections.abc import Sequence

import numpy as np

from diffmem.report import scales
from diffmem.report.figure import (
  Axis,
  Data,
  Key,
  Line,
  Row,
  RowChart,
  Size,
  Stack,
  StackChart,
  Swatch,
)
from diffmem.report.page import Figure
from diffmem.report.plane_data import KvCapacity, NextGB, Retrieval, Series
from diffmem.report.plane_figures import (
  axis_kind,
  column,
  region_map,
  series_plot,
)
from diffmem.report.scales import Kind
from diffmem.report.table import Column, Table, quantity, words


def kv_figures(kv: KvCapacity) -> list[Figure]:
  """Hit rates, value of the next GB, and where reloading pays."""
  found: list[Figure] = []
  curves = bool(kv.worth) + (kv.boundary is not None) + bool(kv.hit_rates)
  size = Size.HALF if curves > 1 else Size.FULL
  if kv.hit_rates:
    found.append(_hit_rates(kv.hit_rates, size))
  if kv.worth:
    found.append(_worth(kv, size))
  if kv.boundary is not None:
    found.append(region_map(kv.boundary, 'kv-boundary', size))
  if kv.next_gb:
    found.append(_next_gb(kv.next_gb, Size.HALF if curves % 2 else Size.FULL))
  return found


def _hit_rates(series: Sequence[Series], size: Size):
  percent = [
    Series(
      s.label, s.x, 100 * s.y, None if s.lo is None else 100 * s.lo,
      None if s.hi is None else 100 * s.hi, s.measured,
    )
    for s in series
  ]  # fmt: skip
  x = np.concatenate([s.x for s in series])
  return series_plot(
    'kv-hit-rate', 'Hit rate against capacity',
    'Share of prompt tokens that are found in the cache, against the bytes '
    'that it may hold.',
    Axis('Capacity', 'B', axis_kind(x)), Axis('Tokens found', '%', low=0.0),
    percent, size=size, labels=('capacity_B', 'tokens_found_percent'),
  )  # fmt: skip


def _worth(kv: KvCapacity, size: Size):
  """Falling curves; the price of each tier is a line across."""
  x = np.concatenate([s.x for s in kv.worth])
  y = np.concatenate([s.y for s in kv.worth])
  high = max([y[np.isfinite(y)].max(), *kv.prices.values()])
  low = min([v for v in kv.prices.values() if v > 0] or [high / 1e3])
  ends = np.array([x.min(), x.max()])
  lines, keys = [], []
  for i, s in enumerate(kv.worth):
    price = kv.prices.get(s.label)
    if price:
      lines.append(Line(ends, np.full(2, price), i, True))
      said = f'{s.label} costs {scales.money(price, 3)}'
      keys.append(Key(said, Swatch.DASHED, i))
  return series_plot(
    'kv-worth', 'Price below which the next GB pays',
    'Price in USD per GB below which one more GB of each tier pays, against '
    'the capacity that is there; dashed: what the tier costs.',
    Axis('Capacity', 'B', axis_kind(x)),
    Axis('Next GB is worth', 'USD', Kind.LOG10, low / 30, 2 * high),
    kv.worth, extra=lines, keys=keys, size=size,
    labels=('capacity_B', 'worth_USD_per_GB'),
  )  # fmt: skip


def _next_gb(found: Sequence[NextGB], size: Size) -> RowChart:
  rows = []
  for tier in sorted(found, key=lambda t: -t.value):
    note = scales.money(tier.value, 3)
    if tier.price is not None:
      verb = 'pays' if tier.value > tier.price else 'does not pay'
      note = f'{note}, costs {scales.money(tier.price, 3)}: {verb}'
    rows.append(Row(tier.tier, tier.value, tier.lo, tier.hi, note, style=0))
  return RowChart(
    'kv-next-gb', 'What the next GB saves in a year, by tier',
    'Dollars that one more GB of each tier saves in a year, beside what it '
    'costs.',
    Axis('Saved by the next GB in a year', 'USD'), rows,
    Data(['tier', 'value_USD_per_year', 'lo90', 'hi90', 'price_USD_per_year'],
         [(t.tier, t.value, t.lo, t.hi, t.price) for t in found]),
    size=size,
  )  # fmt: skip


def kv_lead(kv: KvCapacity) -> str:
  """What the largest cache finds and which tier's next GB pays most."""
  said = [f'Requests: {kv.trace}.'] if kv.trace else []
  for s in kv.hit_rates:
    at = int(np.nanargmax(s.y))
    said.append(
      f'With {scales.label(s.x[at], "B", Kind.LINEAR, 3)} '
      f'{scales.percent_of(s.y[at])} of the prompt tokens are found'
      + (f' ({s.label}).' if len(kv.hit_rates) > 1 else '.')
    )
  paying = [t for t in kv.next_gb if t.price is not None and t.value > t.price]
  if paying:
    names = ', '.join(t.tier for t in paying)
    said.append(f'Beside what is there, the next GB pays in {names}.')
  elif any(t.price is not None for t in kv.next_gb):
    said.append('Beside what is there, the next GB pays in no tier.')
  return ' '.join(said)


def retrieval_figures(found: Sequence[Retrieval]) -> list[Figure]:
  """Cost against what is asked for, and what lies in which tier."""
  figures: list[Figure] = []
  size = Size.HALF if len(found) > 1 else Size.FULL
  for i, part in enumerate(found, 1):
    if not part.curves:
      continue
    x = np.concatenate([s.x for s in part.curves])
    y = np.concatenate([s.y for s in part.curves])
    labels = tuple(column(m.label, m.unit) for m in (part.x, part.y))
    figures.append(series_plot(
      f'retrieval-{i}', f'{part.y.label} against {part.x.label.lower()}',
      f'{part.y.label} for every {part.x.label.lower()}, one line per design; '
      'points are measured.',
      Axis(part.x.label, part.x.unit, axis_kind(x)),
      Axis(part.y.label, part.y.unit, axis_kind(y)),
      part.curves, size=size, labels=labels,
    ))  # fmt: skip
  for i, part in enumerate(found, 1):
    if part.placement:
      figures.append(_placement(part, i, size))
  return figures


def _placement(part: Retrieval, i: int, size: Size) -> StackChart:
  stacks = [Stack(name, list(t.items())) for name, t in part.placement.items()]
  rows = [(d, t, b) for d, ts in part.placement.items() for t, b in ts.items()]
  return StackChart(
    f'retrieval-tiers-{i}', 'Where the index lies',
    'Bytes of the index in each tier, one bar per design.', 'B', stacks,
    Data(['design', 'tier', 'bytes'], rows), size=size,
  )  # fmt: skip


_COLUMNS = (
  ('machines', 'Machines', '1'),
  ('usd_per_Mquery', '$/M queries', 'USD'),
  ('joule_per_query', 'Energy/query', 'J'),
  ('latency_s', 'Latency', 's'),
)


def retrieval_table(part: Retrieval, i: int) -> Table | None:
  """Designs beside each other."""
  if not part.rows:
    return None
  columns = [Column('Design'), *(Column(c[1], True) for c in _COLUMNS),
             Column('Note')]  # fmt: skip
  rows = [
    [
      words(row.name),
      *(quantity(getattr(row, name), unit) for name, _, unit in _COLUMNS),
      words(row.note),
    ]
    for row in part.rows
  ]
  names = ['name', *(c[0] for c in _COLUMNS), 'note']
  data = Data(names, [[getattr(r, n) for n in names] for r in part.rows])
  return Table(
    f'retrieval-designs-{i}', 'Designs beside each other', columns, rows, data,
    cards=True,
  )  # fmt: skip
