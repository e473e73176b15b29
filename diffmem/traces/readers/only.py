"""Keeping some rows of an import: one platform of a table, one direction.

A fit takes all rows of its traces as one machine's, and published tables hold
several. A pattern names a column of the trace schema: `system=*Grace*` with
`*` for anything (capitals aside), or a number, `granule_bytes<=4096`,
`participants=1`, `in_flight_bytes>=65536`. A row stays where all patterns
match.
"""

import fnmatch
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from diffmem import errors
from diffmem.traces import schema
from diffmem.traces.readers.ledger import Imported

_PATTERN = re.compile(r'(\w+)(<=|>=|=)(.*)')
_COMPARE: dict[str, Callable] = {
  '=': np.equal,
  '<=': np.less_equal,
  '>=': np.greater_equal,
}


class Pattern(NamedTuple):
  """What rows must look like.

  Attributes:
    column: of the trace schema.
    sign: '=', '<=' or '>='; texts have '=' alone.
    value: a text with `*`, or a number.
  """

  column: str
  sign: str
  value: str


def parse(path: pathlib.Path, pattern: str) -> Pattern:
  """A pattern from its text.

  Raises:
    TraceError: no such column, or a value that does not suit it.
  """
  match = _PATTERN.fullmatch(pattern)
  if match and match[1] in schema.BY_NAME:
    if schema.BY_NAME[match[1]].kind is schema.Kind.TEXT:
      if match[2] == '=':
        return Pattern(*match.groups())
    elif _is_number(match[3]):
      return Pattern(*match.groups())
  raise errors.TraceError(
    path,
    column='only',
    value=pattern,
    expected='COLUMN=TEXT, COLUMN=NUMBER, COLUMN<=NUMBER or COLUMN>=NUMBER '
    f'with a column of the trace: {", ".join(schema.BY_NAME)}',
  )


def select(
  found: Imported, path: pathlib.Path, patterns: Sequence[Pattern]
) -> Imported:
  """The rows that match all patterns.

  Raises:
    TraceError: a pattern that no row matches.
  """
  traces = found.traces
  for pattern in patterns:
    values = traces[pattern.column]
    keep = _matches(values, pattern)
    if not keep.any():
      there = list(dict.fromkeys(map(str, values)))
      raise errors.TraceError(
        path,
        column=pattern.column,
        value=pattern.value,
        expected=f'one of {", ".join(repr(name) for name in there[:12])}',
      )
    traces = traces.select(keep)
  left_out = len(found.traces) - len(traces)
  said = ' and '.join(''.join(pattern) for pattern in patterns)
  remark = f'{path.name}: {left_out} rows left out by {said}'
  return Imported(traces, found.skipped, (*found.remarks, remark))


def _matches(values: np.ndarray, pattern: Pattern) -> np.ndarray:
  if schema.BY_NAME[pattern.column].kind is schema.Kind.TEXT:
    looks = re.compile(fnmatch.translate(pattern.value), re.IGNORECASE)
    return np.array([bool(looks.match(value)) for value in values], bool)
  return _COMPARE[pattern.sign](values, float(pattern.value))


def _is_number(text: str) -> bool:
  try:
    return np.isfinite(float(text))
  except ValueError:
    return False
