"""How design searches came down, and what to measure next."""

from collections.abc import Sequence

import numpy as np

from diffmem.report import scales
from diffmem.report.codesign_data import Measurement, Search
from diffmem.report.figure import (
  Axis,
  Data,
  Key,
  Line,
  Plot,
  Row,
  RowChart,
  Swatch,
)
from diffmem.report.markup import tag
from diffmem.report.plane_data import Series
from diffmem.report.plane_figures import series_plot
from diffmem.report.scales import Kind
from diffmem.report.table import Cell, Column, Table, count, percent, words

# A search that found the best itself stands here on a logarithmic axis.
_FLOOR = 0.01


def search_plot(search: Search) -> Plot:
  """Best value so far against evaluations, from all methods.

  With a best design known, the axis is the excess over it in percent;
  0.01 % stands for everything below.
  """
  x = Axis('Evaluations', '1', Kind.LOG10)
  if search.best_known is None:
    return series_plot(
      'search', f'{search.objective}: best design so far',
      f'Best {search.objective} found after so many evaluations.',
      x, Axis(search.objective, search.unit), [_stairs(s) for s in
      search.methods], labels=('evaluations', 'best_so_far'),
    )  # fmt: skip
  excess = [_excess(search, s) for s in search.methods]
  ends = np.array([
    min(s.x.min() for s in excess), max(s.x.max() for s in excess)
  ])  # fmt: skip
  target = 100 * search.within
  line = Line(ends, np.full(2, target), -1, True)
  key = Key(f'{target:g} % above the best known', Swatch.DASHED)
  return series_plot(
    'search', f'{search.objective}: above the best design known',
    'Excess of the best design so far over the best known, in percent, '
    'against evaluations.',
    x, Axis('Above the best known', '%', Kind.LOG10),
    [_stairs(s) for s in excess], extra=[line], keys=[key],
    labels=('evaluations', 'above_best_known_percent'),
  )  # fmt: skip


def _excess(search: Search, s: Series) -> Series:
  def over(values):
    if values is None:
      return None
    return np.maximum(100 * (values / search.best_known - 1), _FLOOR)

  return Series(s.label, s.x, over(s.y), over(s.lo), over(s.hi))


def _stairs(s: Series) -> Series:
  """A value holds until the next evaluation betters it."""
  x = np.repeat(s.x, 2)[1:]
  parts = (None if v is None else np.repeat(v, 2)[:-1]
           for v in (s.y, s.lo, s.hi))  # fmt: skip
  return Series(s.label, x, *parts)


def search_table(search: Search) -> Table:
  """What each method found and how soon it was close."""
  target = 100 * search.within
  columns = [Column('Method'), Column('Best found', True)]
  known = search.best_known is not None
  if known:
    columns += [
      Column('Above the best known', True),
      Column(f'Evaluations to within {target:g} %', True),
    ]
  rows, data = [], []
  for s in search.methods:
    best = float(np.nanmin(s.y))
    cells = [words(s.label), Cell(
      scales.label(best, search.unit, Kind.LINEAR), best
    )]  # fmt: skip
    row = [s.label, best]
    if known:
      over = 100 * (best / search.best_known - 1)
      needed = evaluations_needed(search, s)
      never = Cell(f'more than {s.x[-1]:.0f}', np.inf)
      cells += [percent(over), never if needed is None else count(needed)]
      row += [over, needed]
    rows.append(cells)
    data.append(row)
  names = ['method', 'best', 'above_best_known_percent', 'evaluations']
  return Table(
    'search-methods', 'Methods beside each other', columns, rows,
    Data(names[: len(columns)], data), cards=True,
  )  # fmt: skip


def evaluations_needed(search: Search, method: Series) -> float | None:
  """Evaluations until a method was close to the best known; None if never."""
  close = method.y <= search.best_known * (1 + search.within)
  return float(method.x[np.argmax(close)]) if close.any() else None


def text_tables(search: Search) -> list[Table]:
  """The design that was found beside today's, its budgets."""
  return [
    Table(
      f'design-{i}', part.title,
      [Column(head, numeric=k > 0) for k, head in enumerate(part.head)],
      [[words(text) for text in row] for row in part.rows],
      Data(list(part.head), part.rows), cards=True, sortable=False,
    )
    for i, part in enumerate(search.tables, 1)
    if part.rows
  ]  # fmt: skip


def measurement_chart(found: Sequence[Measurement]) -> RowChart:
  """Ranked bars of what each measurement would tell.

  Measurements that are taken one after the other keep their order, and a bar
  is what each adds; otherwise each stands alone, the best first.
  """
  in_order = all(m.after is not None for m in found)
  ranked = _ranked(found)
  rows = [
    Row(m.name, shown, None if in_order else m.lo, None if in_order else m.hi,
        _note(m, in_order), m.tells or m.name, style=0)
    for m in ranked
    for shown in [m.after if in_order else m.reduction]
  ]  # fmt: skip
  said = 'each after those above' if in_order else 'each alone'
  return RowChart(
    'measure-next', f'Expected drop of the uncertainty, {said}',
    f'Percent by which each measurement would narrow the decision, {said}.',
    Axis('Expected drop of the uncertainty', '%'), rows,
    Data(['measurement', 'reduction_percent', 'lo90', 'hi90', 'after_percent',
          'tells', 'command'],
         [(m.name, m.reduction, m.lo, m.hi, m.after, m.tells, m.command)
          for m in ranked]),
  )  # fmt: skip


def _ranked(found: Sequence[Measurement]) -> list[Measurement]:
  if all(m.after is not None for m in found):
    return list(found)
  return sorted(found, key=lambda m: -m.reduction)


def _note(m: Measurement, in_order: bool) -> str:
  alone = scales.percent_of(m.reduction / 100)
  if not in_order:
    return alone
  return f'{scales.percent_of(m.after / 100)} (alone {alone})'


def measurement_table(found: Sequence[Measurement]) -> Table | None:
  """What each tells, and how it is taken."""
  ranked = [m for m in _ranked(found) if m.command or m.tells]
  if not ranked:
    return None
  has_command = any(m.command for m in ranked)
  rows = [
    [
      words(m.name), words(m.tells),
      *([Cell(tag('code', m.command))] if has_command else []),
    ]
    for m in ranked
  ]  # fmt: skip
  columns = [Column('Measurement'), Column('Tells')]
  columns += [Column('How')] if has_command else []
  return Table(
    'measure-how', 'What each measurement tells', columns, rows, cards=True,
    sortable=False,
  )  # fmt: skip
