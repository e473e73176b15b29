"""What every reader shares: options, and the account of what it left out."""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from diffmem import errors
from diffmem.traces import table


@dataclasses.dataclass(frozen=True)
class Options:
  """What a file does not say of itself.

  Attributes:
    system: name of the machine; overrides the file's own.
    op: operation, where the format leaves it open.
    tier: tier where the data lives; overrides the reader's guess.
    clock_Hz: clock that turns cycles into seconds.
    participants: threads, SMs or ranks at work, where the file is silent.
    only: patterns such as 'system=*Grace*' for the rows that count, by what
      the file itself says (`readers.only`).
  """

  system: str | None = None
  op: str | None = None
  tier: str | None = None
  clock_Hz: float | None = None
  participants: int | None = None
  only: tuple[str, ...] = ()


class Skipped(NamedTuple):
  """A row that gave no observation.

  Attributes:
    file: where it stands.
    row: 1-based data row or line, None for a whole file or test.
    reason: why it cannot be used.
  """

  file: str
  row: int | None
  reason: str


@dataclasses.dataclass(frozen=True)
class Imported:
  """What a reader found.

  Attributes:
    traces: the observations.
    skipped: rows that gave none, each with its reason.
    remarks: what else to know: columns that have no place in the schema,
      values that were left out of rows which count otherwise.
  """

  traces: table.Traces
  skipped: tuple[Skipped, ...] = ()
  remarks: tuple[str, ...] = ()

  def summary(self) -> str:
    """One line for each reason and remark, for people."""
    lines = [f'{len(self.traces)} rows']
    groups = collections.defaultdict(list)
    for skip in self.skipped:
      groups[skip.file, skip.reason].append(skip.row)
    for (file, reason), rows in groups.items():
      name = pathlib.Path(file).name
      lines.append(f'skipped {_rows_text(rows)} of {name}: {reason}')
    return '\n'.join((*lines, *dict.fromkeys(self.remarks)))


def concat(parts: list[Imported]) -> Imported:
  """One import of several files."""
  return Imported(
    traces=table.concat([part.traces for part in parts]),
    skipped=tuple(skip for part in parts for skip in part.skipped),
    remarks=tuple(remark for part in parts for remark in part.remarks),
  )


class Ledger:
  """Gathers observations of one file, and what is left out of it."""

  def __init__(self, path: pathlib.Path, options: Options):
    self.path = path
    self._options = options
    self._rows: list[tuple[int | None, dict[str, Any]]] = []
    self._parts: list[table.Traces] = []
    self._skipped: list[Skipped] = []
    self._remarks: list[str] = []

  def system(self, found: str | None = None) -> str:
    """The machine's name: the option, else what the file says.

    Raises:
      TraceError: neither says it.
    """
    name = self._options.system or found
    if not name or not name.strip():
      raise errors.TraceError(
        self.path,
        column='system',
        expected='the name of the machine, which this file does not tell: '
        'give --system',
      )
    return name

  def tier(self, guess: str | None = None) -> str | None:
    """The tier's name: the option, else the reader's guess."""
    return self._options.tier or guess

  def add(self, row: int | None, **values: Any) -> None:
    """One observation; None where nothing is known."""
    self._rows.append((row, values))

  def add_columns(
    self, columns: Mapping[str, Any], rows: np.ndarray | None = None
  ) -> None:
    """Many observations.

    Args:
      columns: name -> one value for all, or one of each row of the file.
      rows: 0-based rows of the file that count; all of them if not given.
    """
    if rows is None:
      rows = np.arange(max(_length(v) for v in columns.values()))
    if len(rows) == 0:
      return
    values = {
      name: [column] * len(rows)
      if _length(column) < 0
      else np.asarray(column, object)[rows]
      for name, column in columns.items()
      if column is not None
    }
    self._parts.append(self._checked(values, [r + 1 for r in rows]))

  def skip(self, row: int | None, reason: str) -> None:
    """A row (1-based) that gives no observation."""
    self._skipped.append(Skipped(str(self.path), row, reason))

  def keep(self, bad: np.ndarray, reason: str) -> np.ndarray:
    """Skips the rows of a mask; returns the mask of the others."""
    for i in np.flatnonzero(bad):
      self.skip(int(i) + 1, reason)
    return ~np.asarray(bad, bool)

  def remark(self, text: str) -> None:
    """Something to know about the whole file."""
    self._remarks.append(f'{self.path.name}: {text}')

  def done(self) -> Imported:
    """The import.

    Raises:
      TraceError: nothing of the file can be used, or a value is implausible.
    """
    if self._rows:
      names = dict.fromkeys(n for _, values in self._rows for n in values)
      columns = {n: [v.get(n) for _, v in self._rows] for n in names}
      self._parts.append(self._checked(columns, [r for r, _ in self._rows]))
      self._rows = []
    if not self._parts:
      reasons = dict.fromkeys(skip.reason for skip in self._skipped)
      why = f'; skipped: {"; ".join(reasons)}' if reasons else ''
      raise errors.TraceError(
        self.path, expected=f'an observation that can be used{why}'
      )
    return Imported(
      table.concat(self._parts), tuple(self._skipped), tuple(self._remarks)
    )

  def _checked(self, columns, rows) -> table.Traces:
    """Checks against the schema; errors name the row of the file."""
    try:
      return table.from_columns(columns, len(rows), str(self.path))
    except errors.TraceError as error:
      row = None if error.row is None else rows[error.row - 1]
      raise errors.TraceError(
        self.path,
        row=row,
        column=error.column,
        value=error.value,
        expected=error.expected,
      ) from None


def _length(column: Any) -> int:
  """Rows of a column; -1 of a single value."""
  if column is None or isinstance(column, str) or np.ndim(column) == 0:
    return -1
  return len(column)


def _rows_text(rows: list[int | None]) -> str:
  known = [row for row in rows if row is not None]
  if not known:
    return 'a part'
  shown = ', '.join(str(row) for row in known[:3])
  more = ', ...' if len(known) > 3 else ''
  return f'{len(known)} rows ({shown}{more})'
