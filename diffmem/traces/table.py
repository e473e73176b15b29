"""A trace in memory: columns of equal length, checked against the schema."""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from diffmem import errors
from diffmem.traces import schema

# Mistakes that people make with units: suffix -> factor of the SI unit.
_FOREIGN_UNITS = {
  'GBps': 'Bps', 'GBs': 'Bps', 'GB/s': 'Bps', 'MBps': 'Bps', 'ns': 's',
  'us': 's', 'ms': 's', 'KiB': 'bytes', 'MiB': 'bytes', 'GiB': 'bytes',
  'mW': 'W', 'mJ': 'J', 'w': 'W',
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Traces:
  """Observations in columns.

  Numbers are float64 with NaN for null, texts are object arrays with '' for
  null. Columns that a file lacks are absent here too; `get` fills them.
  """

  columns: Mapping[str, np.ndarray]
  origin: str = '<memory>'

  def __len__(self) -> int:
    return len(self.columns['op'])

  def __getitem__(self, name: str) -> np.ndarray:
    return self.get(name)

  def get(self, name: str, fill: Any = None) -> np.ndarray:
    """A column, with `fill` where it is null or absent (NaN or '')."""
    column = schema.BY_NAME[name]
    is_text = column.kind is schema.Kind.TEXT
    values = self.columns.get(name)
    if values is None:
      empty = np.array([''] * len(self), object)
      values = empty if is_text else np.full(len(self), np.nan)
    if fill is None:
      return values
    null = values == '' if is_text else np.isnan(values)
    return np.where(null, fill, values)

  def select(self, index: Any) -> 'Traces':
    """The rows of a boolean mask or an index array, in that order."""
    picked = {name: values[index] for name, values in self.columns.items()}
    return Traces(picked, self.origin)

  def rows(self) -> list[dict[str, Any]]:
    """Rows as dicts without nulls, for printing and writing."""
    columns = {name: list(values) for name, values in self.columns.items()}
    return [
      {
        name: _plain(values[i], schema.BY_NAME[name])
        for name, values in columns.items()
        if not _is_null(values[i])
      }
      for i in range(len(self))
    ]


def concat(parts: Sequence[Traces]) -> Traces:
  """One trace of several, absent columns becoming null."""
  names = [
    c.name for c in schema.COLUMNS if any(c.name in p.columns for p in parts)
  ]
  columns = {n: np.concatenate([p.get(n) for p in parts]) for n in names}
  return Traces(columns, ', '.join(dict.fromkeys(p.origin for p in parts)))


def from_rows(
  rows: Iterable[Mapping[str, Any]], origin: str = '<memory>'
) -> Traces:
  """Builds a trace from dicts.

  Raises:
    TraceError: any breach of the schema.
  """
  rows = list(rows)
  names = dict.fromkeys(name for row in rows for name in row)
  values = {name: [row.get(name) for row in rows] for name in names}
  return from_columns(values, len(rows), origin)


def from_columns(
  values: Mapping[str, Sequence[Any]], n: int, origin: str
) -> Traces:
  """Checks raw columns and builds a trace.

  Args:
    values: name -> n raw values, None for null.
    n: number of rows.
    origin: the file's name, for errors.

  Raises:
    TraceError: unknown or missing column, wrong type or unit, a value that is
      not finite, negative or implausible, a row without observation.
  """
  for name in values:
    if name not in schema.BY_NAME:
      raise errors.TraceError(origin, column=name, expected=_known(name))
  for name in schema.REQUIRED:
    if name not in values:
      raise errors.TraceError(
        origin,
        column=name,
        expected=f'this required column; the file has {", ".join(values)}',
      )
  if n == 0:
    raise errors.TraceError(origin, expected='at least one row; it has none')
  columns = {
    column.name: _checked(column, values[column.name], origin)
    for column in schema.COLUMNS
    if column.name in values
  }
  _check_observed(columns, n, origin)
  return Traces(columns, origin)


def _known(name: str) -> str:
  for suffix, si in _FOREIGN_UNITS.items():
    stem = name.removesuffix(suffix)
    if stem != name and stem + si in schema.BY_NAME:
      return f'SI units, in a column {stem + si!r}'
  near = difflib.get_close_matches(name, schema.BY_NAME, 1, 0.5)
  if near:
    return f'a known column; the nearest is {near[0]!r}'
  return f'a known column: {", ".join(schema.BY_NAME)}'


def _checked(column: schema.Column, values: Sequence[Any], origin: str):
  if column.kind is schema.Kind.TEXT:
    return _checked_text(column, values, origin)
  if set(map(type, values)) <= _NUMERIC:
    return _checked_numbers(column, values, origin)
  numbers = np.full(len(values), np.nan)
  for i, value in enumerate(values):
    if not _is_null(value):
      numbers[i] = _number(column, value, i, origin)
  return numbers


_NUMERIC = {int, float, type(None), np.float64, np.int64}


def _checked_numbers(column, values, origin) -> np.ndarray:
  """The same for plain numbers, a whole column at a time."""
  numbers = np.array(values, np.float64)  # None becomes NaN
  known = numbers[~np.isnan(numbers)]
  sound = np.all((column.low <= known) & (known <= column.high))
  if column.kind is schema.Kind.COUNT:
    sound &= np.all(known == np.round(known))
  if not sound:  # name the first offender
    for i, number in enumerate(numbers):
      if not np.isnan(number):
        _number(column, float(number), i, origin)
  return numbers


def _checked_text(column, values, origin):
  texts = np.array([''] * len(values), object)
  for i, value in enumerate(values):
    if value is None or (isinstance(value, float) and math.isnan(value)):
      value = ''
    if not isinstance(value, str):
      raise errors.TraceError(
        origin, row=i + 1, column=column.name, value=value, expected='a text'
      )
    if column.required and not value.strip():
      raise errors.TraceError(
        origin, row=i + 1, column=column.name, value=value,
        expected=f'the {column.help}',
      )  # fmt: skip
    texts[i] = value
  return texts


def _number(column: schema.Column, value: Any, i: int, origin: str) -> float:
  def refuse(expected: str):
    return errors.TraceError(
      origin, row=i + 1, column=column.name, value=value, expected=expected
    )

  unit = '' if column.unit == '1' else f' in {column.unit}'
  if isinstance(value, (bool, list, dict, bytes)):
    raise refuse(f'a {column.kind}{unit}')
  try:
    number = float(value)
  except (TypeError, ValueError):
    raise refuse(f'a {column.kind}{unit}, without unit text') from None
  if not math.isfinite(number):
    raise refuse(f'a finite {column.kind}{unit}; leave unknown values empty')
  if number < 0:
    raise refuse(f'a {column.kind}{unit} that is not negative')
  if column.kind is schema.Kind.COUNT and number != round(number):
    raise refuse('a whole number')
  if not column.low <= number <= column.high:
    raise refuse(
      f'a plausible {column.help}{unit}, from {column.low:g} to {column.high:g}'
    )
  return number


def _check_observed(columns, n, origin) -> None:
  seen = np.zeros(n, bool)
  for name in schema.OBSERVED:
    if name in columns:
      seen |= ~np.isnan(columns[name])
  if not seen.all():
    row = int(np.argmin(seen)) + 1
    raise errors.TraceError(
      origin, row=row, expected=f'one of {", ".join(schema.OBSERVED)} at least'
    )


def _is_null(value: Any) -> bool:
  """Null is None or '' here; a NaN in a file is refused before this."""
  return (
    value is None
    or (isinstance(value, str) and value == '')
    or (isinstance(value, float) and math.isnan(value))
  )


def _plain(value: Any, column: schema.Column) -> Any:
  if column.kind is schema.Kind.TEXT:
    return str(value)
  if column.kind is schema.Kind.COUNT:
    return int(value)
  return float(value)
