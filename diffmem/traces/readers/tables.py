"""Tables in Parquet or CSV, as other tools publish them: columns by name."""

import csv
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffmem import errors

SUFFIXES = ('.parquet', '.csv')
# No measured quantity is larger, in whatever unit.
_HIGH = 1e30


class Table:
  """Columns of a file, checked when they are asked for.

  A table remembers which columns were asked for, so that a reader can report
  those that it has no use for.
  """

  def __init__(self, path: pathlib.Path, columns: dict[str, list[Any]]):
    self.path = path
    self._columns = columns
    self._used: set[str] = set()

  def __len__(self) -> int:
    return len(next(iter(self._columns.values()), []))

  def __contains__(self, name: str) -> bool:
    return name in self._columns

  @property
  def names(self) -> tuple[str, ...]:
    """Names of all columns."""
    return tuple(self._columns)

  def unused(self) -> tuple[str, ...]:
    """Names of the columns that were never asked for."""
    return tuple(name for name in self._columns if name not in self._used)

  def texts(self, name: str, default: str | None = None) -> np.ndarray:
    """A column of texts, '' for null; `default` where it is absent.

    Raises:
      TraceError: the column is missing, or holds something else than texts.
    """
    if default is not None and name not in self._columns:
      return np.array([default] * len(self), object)
    values = self._raw(name)
    for i, value in enumerate(values):
      if value is not None and not isinstance(value, str):
        raise self._refuse(name, i, value, 'a text')
    return np.array([value or '' for value in values], object)

  def one_of(self, name: str, allowed: Any) -> np.ndarray:
    """A column of texts out of a few.

    Raises:
      TraceError: any other text.
    """
    values = self.texts(name)
    for i, value in enumerate(values):
      if value not in allowed:
        expected = f'one of {", ".join(map(str, allowed))}'
        raise self._refuse(name, i, value, expected)
    return values

  def numbers(
    self,
    name: str,
    unit: str = '',
    *,
    low: float = 0.0,
    nullable: bool = False,
  ) -> np.ndarray:
    """A column of finite numbers from `low` on, NaN for null.

    Args:
      name: of the column.
      unit: for the message of an error.
      low: smallest number that is allowed.
      nullable: whether values may be missing; the column too.

    Raises:
      TraceError: the column is missing, or holds anything else.
    """
    if nullable and name not in self._columns:
      return np.full(len(self), np.nan)
    values = self._raw(name)
    numbers = self._parsed(name, values, unit)
    null = np.array([v is None or v == '' for v in values], bool)
    wanted = f'a number{unit and " of " + unit} from {low:g} to {_HIGH:g}'
    bad = ~null & ~((numbers >= low) & (numbers <= _HIGH))
    if not nullable:
      bad |= null
    if bad.any():
      i = int(np.argmax(bad))
      raise self._refuse(name, i, values[i], wanted)
    return np.where(null, np.nan, numbers)

  def positive(self, name: str, unit: str = '') -> np.ndarray:
    """A column of numbers above zero."""
    numbers = self.numbers(name, unit)
    if (numbers <= 0).any():
      i = int(np.argmin(numbers))
      raise self._refuse(name, i, self._columns[name][i], 'more than zero')
    return numbers

  def counts(self, name: str, low: int = 1) -> np.ndarray:
    """A column of whole numbers."""
    numbers = self.numbers(name, low=low)
    odd = numbers != np.round(numbers)
    if odd.any():
      i = int(np.argmax(odd))
      raise self._refuse(name, i, self._columns[name][i], 'a whole number')
    return numbers

  def bools(self, name: str) -> np.ndarray:
    """A column of true and false, as booleans, texts or 0 and 1."""
    known = {'true': True, '1': True, 'false': False, '0': False}
    values = self._raw(name)
    for i, value in enumerate(values):
      if str(value).lower() not in known:
        raise self._refuse(name, i, value, 'true or false')
    return np.array([known[str(value).lower()] for value in values])

  def layout(self, layouts: Mapping[str, Any]) -> Any:
    """What belongs to the first of these columns that the file has.

    Args:
      layouts: a column that only this layout has -> what reads it.

    Raises:
      TraceError: none of the columns.
    """
    for column, found in layouts.items():
      if column in self._columns:
        return found
    raise errors.TraceError(
      self.path,
      value=', '.join(self.names)[:80],
      expected=f'one of the columns {", ".join(layouts)}',
    )

  def use(self, *names: str) -> None:
    """Marks columns as known, though nothing is read from them."""
    self._used.update(names)

  def refuse(self, name: str, i: int, expected: str) -> errors.TraceError:
    """The error for the value of a column in row `i` (0-based)."""
    return self._refuse(name, i, self._columns[name][i], expected)

  def _raw(self, name: str) -> list[Any]:
    if name not in self._columns:
      raise errors.TraceError(
        self.path,
        column=name,
        expected=f'this column; the file has {", ".join(self._columns)}',
      )
    self._used.add(name)
    return self._columns[name]

  def _parsed(self, name: str, values: list[Any], unit: str) -> np.ndarray:
    if all(type(value) in (int, float) for value in values):
      return np.array(values, float)
    numbers = np.full(len(values), np.nan)
    for i, value in enumerate(values):
      if value is None or value == '':
        continue
      try:
        numbers[i] = float(value)
      except (TypeError, ValueError):
        wanted = f'a number{unit and " of " + unit}'
        raise self._refuse(name, i, value, wanted) from None
    return numbers

  def _refuse(self, name, i, value, expected) -> errors.TraceError:
    return errors.TraceError(
      self.path, row=i + 1, column=name, value=value, expected=expected
    )


def read(path: pathlib.Path) -> Table:
  """Reads a Parquet or CSV file.

  Raises:
    TraceError: another ending, a damaged or an empty table.
  """
  if path.suffix not in SUFFIXES:
    raise errors.TraceError(path, expected=f'a name ending in {SUFFIXES}')
  found = _read_parquet(path) if path.suffix == '.parquet' else _read_csv(path)
  if len(found) == 0:
    raise errors.TraceError(path, expected='at least one row; it has none')
  return found


def _read_parquet(path: pathlib.Path) -> Table:
  import pyarrow as pa
  import pyarrow.parquet as pq

  try:
    data = pq.ParquetFile(path).read()
    columns = {
      name: column.to_pylist()
      for name, column in zip(data.column_names, data.columns, strict=True)
    }
  except (pa.ArrowException, OSError, ValueError) as error:
    reason = (str(error).splitlines() or [''])[0]
    raise errors.TraceError(
      path, expected=f'a whole Parquet file; it is damaged ({reason})'
    ) from None
  _refuse_repeated(path, data.column_names)
  return Table(path, columns)


def _read_csv(path: pathlib.Path) -> Table:
  try:
    with open(path, newline='', encoding='utf-8-sig') as file:
      header, *rows = [row for row in csv.reader(file, strict=True) if row]
  except ValueError as error:
    if isinstance(error, UnicodeDecodeError):
      raise errors.TraceError(path, expected=f'UTF-8 ({error})') from None
    raise errors.TraceError(path, expected='CSV; it is empty') from None
  except csv.Error as error:
    raise errors.TraceError(path, expected=f'CSV ({error})') from None
  for i, row in enumerate(rows):
    if len(row) != len(header):
      raise errors.TraceError(
        path,
        row=i + 1,
        value=','.join(row)[:80],
        expected=f'{len(header)} cells as in the header; it has {len(row)}',
      )
  _refuse_repeated(path, header)
  return Table(path, {n: [r[j] for r in rows] for j, n in enumerate(header)})


def _refuse_repeated(path: pathlib.Path, names: list[str]) -> None:
  for name in names:
    if names.count(name) > 1:
      raise errors.TraceError(path, column=name, expected='every column once')
