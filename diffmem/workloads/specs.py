"""Checks the fields of a description, and says what does not fit."""

import pathlib
import tomllib
from typing import Any

import pydantic

from diffmem import errors
from diffmem.workloads import attention, formats, names, transformer
from diffmem.workloads.experts import Experts
from diffmem.workloads.linear_attention import LinearAttention

# Names of the alternatives of a field, which pydantic puts into its path.
_TAGS = ('gqa', 'mla', 'csa')


def read_toml(path: pathlib.Path) -> dict[str, Any]:
  """Reads a TOML file.

  Raises:
    SpecError: it cannot be read, or is not TOML.
  """
  try:
    return tomllib.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise errors.SpecError(f'{path}: {error.strerror or error}') from None
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise errors.SpecError(f'{path}: not TOML: {error}') from None


def transformer_of(
  fields: dict[str, Any], file: str, table: str = ''
) -> transformer.Transformer:
  """Makes a transformer of its fields.

  Args:
    fields: those of `Transformer`, nested as in a TOML file.
    file: where they come from, for messages.
    table: table of the file, for messages.

  Raises:
    SpecError: one line for every field that does not fit.
  """
  try:
    return transformer.Transformer.model_validate(fields)
  except pydantic.ValidationError as error:
    lines = [_explain(e, table) for e in error.errors()]
    raise errors.SpecError('\n'.join(f'{file}: {l}' for l in lines)) from None


def _explain(error: dict, table: str) -> str:
  path = [str(p) for p in error['loc'] if p not in _TAGS]
  where = '.'.join(([table] if table else []) + path)
  if error['type'] == 'extra_forbidden':
    near = names.nearest(path[-1], _known_fields(path[:-1], error['loc']))
    return f'{where}: unknown field{near}'
  if error['type'] == 'union_tag_invalid':
    found = str(error['ctx']['tag'])
    near = names.nearest(found, _TAGS)
    return f'{where}.kind: expected {", ".join(_TAGS)} (found {found!r}){near}'
  message = error['msg'].removeprefix('Value error, ')
  if error['type'] == 'missing':
    return f'{where}: missing'
  given = error['input']
  shown = '' if isinstance(given, dict) else f' (found {given!r})'
  return f'{where}: {message}{shown}' if where else message


def _known_fields(path: list[str], loc: tuple) -> tuple[str, ...]:
  heads = attention.Attention
  if 'mla' in loc:
    heads = attention.LatentAttention
  if 'csa' in loc:
    heads = transformer.CompressedAttention
  models = {
    (): transformer.Transformer,
    ('attention',): heads,
    ('full_attention',): heads,
    ('linear',): LinearAttention,
    ('experts',): Experts,
    ('formats',): formats.Formats,
  }
  model = models.get(tuple(path))
  return tuple(model.model_fields) if model else ()
