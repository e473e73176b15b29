"""Text and JSON files: reading them whole, and numbers out of their lines."""

import json
import math
import pathlib
from typing import Any

from diffmem import errors

# No measured quantity is larger, in whatever unit.
_HIGH = 1e30


def read(path: pathlib.Path) -> str:
  """The whole file.

  Raises:
    TraceError: it is not text.
  """
  try:
    return path.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as error:
    raise errors.TraceError(path, expected=f'text in UTF-8 ({error})') from None


def lines(path: pathlib.Path) -> list[tuple[int, str]]:
  """Lines that are not blank, each with its 1-based number."""
  found = enumerate(read(path).splitlines(), 1)
  return [(i, line) for i, line in found if line.strip()]


def number(
  path: pathlib.Path, line: int, name: str, value: Any, low: float = 0.0
) -> float:
  """A finite number of at least `low`.

  Raises:
    TraceError: anything else, with file, line, name and value.
  """
  try:
    found = math.nan if isinstance(value, bool) else float(value)
  except (TypeError, ValueError, OverflowError):
    found = math.nan
  if not low <= found <= _HIGH:
    raise errors.TraceError(
      path,
      row=line,
      column=name,
      value=value,
      expected=f'a number from {low:g} to {_HIGH:g}',
    )
  return found


def is_number(value: str) -> bool:
  """Whether a text is a number."""
  try:
    return math.isfinite(float(value))
  except ValueError:
    return False


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The JSON object of a file; lines before its first brace are ignored.

  Tools print warnings before their JSON when both go to one file.

  Raises:
    TraceError: there is no JSON object.
  """
  found = read(path)
  start = found.find('{')
  if start < 0:
    raise errors.TraceError(
      path, value=found[:60], expected='a JSON object, from { to }'
    )
  try:
    value, _ = json.JSONDecoder().raw_decode(found, start)
  except (ValueError, RecursionError) as error:
    reason = getattr(error, 'msg', 'too deep, or too long a number')
    raise errors.TraceError(
      path, row=getattr(error, 'lineno', None), expected=f'JSON ({reason})'
    ) from None
  return value
