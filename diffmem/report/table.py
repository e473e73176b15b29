"""Tables: readable without script, sortable with it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from diffmem.report import markup, scales
from diffmem.report.figure import Data
from diffmem.report.markup import Markup, tag

MISSING = '–'  # noqa: RUF001


@dataclasses.dataclass(frozen=True)
class Cell:
  """What a cell shows and the value that it sorts by.

  Attributes:
    shown: text or markup.
    sort: number or text; None sorts last.
    tone: '', 'good', 'warn' or 'bad'; never the only sign.
  """

  shown: Any
  sort: float | str | None = None
  tone: str = ''


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of a table.

  Attributes:
    label: its heading.
    numeric: aligned right.
    help: what it means, as a tooltip.
  """

  label: str
  numeric: bool = False
  help: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """A table.

  Attributes:
    id: unique on the page; also the name of the downloaded file.
    caption: one line.
    columns: from left to right; the first names the row.
    rows: of cells.
    data: for download; None for no download.
    cards: on a phone every row becomes a card, where a table with texts
      would have to scroll sideways.
    sortable: whether a click on a heading sorts.
    folded: shown only on demand, under the caption.
  """

  id: str
  caption: str
  columns: Sequence[Column]
  rows: Sequence[Sequence[Cell]]
  data: Data | None = None
  cards: bool = False
  sortable: bool = True
  folded: bool = False


def quantity(value: float | None, unit: str, tone: str = '') -> Cell:
  """A quantity for people, sorted by its SI value."""
  if _is_missing(value):
    return Cell(MISSING)
  return Cell(scales.label(value, unit, scales.Kind.LINEAR), value, tone)


def percent(value: float | None, signed: bool = False, tone: str = '') -> Cell:
  """A percentage that is given in percent."""
  if _is_missing(value):
    return Cell(MISSING)
  text = f'{value:+.1f}' if signed else f'{value:.1f}'
  return Cell(markup.minus(text) + ' %', value, tone)


def count(value: float | None) -> Cell:
  """A whole number."""
  if _is_missing(value):
    return Cell(MISSING)
  return Cell(f'{value:,.0f}'.replace(',', '\N{THIN SPACE}'), value)


def words(value: Any, tone: str = '') -> Cell:
  """A text."""
  if value is None or value == '':
    return Cell(MISSING)
  return Cell(value, str(value), tone)


def interval(lo: float | None, hi: float | None, unit: str) -> str:
  """'1.2 to 1.4 ms'; '' where a bound is missing."""
  if _is_missing(lo) or _is_missing(hi):
    return ''
  low, high = (scales.label(v, unit, scales.Kind.LINEAR, 3) for v in (lo, hi))
  low_number, _, low_unit = low.partition(' ')
  high_unit = high.partition(' ')[2]
  return f'{low_number if low_unit == high_unit else low} to {high}'


def _is_missing(value: float | None) -> bool:
  return value is None or not math.isfinite(value)


def draw(table: Table) -> Markup:
  """The table's markup, without caption and download."""
  head = tag('tr', *(_heading(table, c) for c in table.columns))
  body = [
    tag('tr', *(_cell(c, cell, i == 0) for i, (c, cell) in enumerate(
      zip(table.columns, row, strict=True)
    )))
    for row in table.rows
  ]  # fmt: skip
  look = ' '.join(
    name
    for name, on in (('cards', table.cards), ('sortable', table.sortable))
    if on
  )
  inner = tag(
    'table', tag('thead', head), tag('tbody', *body), id=table.id,
    class_=look or None, aria_label=table.caption,
  )  # fmt: skip
  return tag(
    'div', inner, class_='scroll', tabindex='0', role='region',
    aria_label=table.caption,
  )  # fmt: skip


def _heading(table: Table, column: Column) -> Markup:
  return tag(
    'th', column.label, scope='col', title=column.help or None,
    class_='num' if column.numeric else None,
  )  # fmt: skip


def _cell(column: Column, cell: Cell, is_first: bool) -> Markup:
  classes = ['num'] if column.numeric else []
  if cell.tone:
    classes.append(cell.tone)
  sort = repr(float(cell.sort)) if _is_number(cell.sort) else cell.sort
  return tag(
    'th' if is_first else 'td',
    # One child, so that a card can lay it out beside its label.
    tag('div', cell.shown),
    class_=' '.join(classes) or None,
    scope='row' if is_first else None,
    data_sort=sort,
    data_label=column.label,
  )


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)
