"""Reads a fleet from its files, and says what does not fit."""

import json
import os
import pathlib
import tomllib
from collections.abc import Mapping

import pydantic

from diffmem import errors
from diffmem.codesign.fleet.schema import Fleet


def load_fleet(path: str | os.PathLike, rates: bool = True) -> Fleet:
  """Reads a fleet; `rates_file` names a JSON file of more rates beside it.

  Args:
    path: TOML file.
    rates: whether `rates_file` is read; it may not be there before it is made.

  Raises:
    SpecError: unreadable, or fields that do not fit, each with its path.
  """
  path = pathlib.Path(path)
  document = _read(path, tomllib.loads, 'TOML')
  named = document.pop('rates_file', None)
  if named is not None and rates:
    beside = path.parent / str(named)
    found = _read(beside, json.loads, 'JSON')
    rates = found.get('rates') if isinstance(found, dict) else None
    if not isinstance(rates, list):
      raise errors.SpecError(f"{beside}: expected a table with a list 'rates'")
    document['rates'] = [*document.get('rates', []), *rates]
  return parse_fleet(document, str(path))


def parse_fleet(document: Mapping, where: str = 'fleet') -> Fleet:
  """A fleet from a dictionary.

  Raises:
    SpecError: fields that do not fit, each with its path and value.
  """
  try:
    return Fleet.model_validate(document)
  except pydantic.ValidationError as error:
    raise errors.SpecError(
      '\n'.join(_line(where, one) for one in error.errors())
    ) from None


def _line(where: str, error: Mapping) -> str:
  path = '.'.join(str(p) for p in error['loc'])
  found = error.get('input')
  shown = f' found {found!r};' if isinstance(found, (str, int, float)) else ''
  text = error['msg'].removeprefix('Value error, ')
  return f'{where}: {path}:{shown} {text}' if path else f'{where}: {text}'


def _read(path: pathlib.Path, parse, what: str):
  try:
    return parse(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise errors.SpecError(f'{path}: {error.strerror or error}') from None
  except (ValueError, UnicodeDecodeError) as error:
    raise errors.SpecError(f'{path}: not {what}: {error}') from None
