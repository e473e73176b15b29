"""Workloads by name or from a TOML file."""

import difflib
import functools
import pathlib
import tomllib

import pydantic

from diffmem import errors
from diffmem.workloads import transformer

_PRESETS = pathlib.Path(__file__).with_name('presets.toml')


@functools.cache
def _tables() -> dict[str, dict]:
  return tomllib.loads(_PRESETS.read_text(encoding='utf-8'))


def workload_names() -> tuple[str, ...]:
  """Names of the presets."""
  return tuple(_tables())


def load_workload(name_or_path: str | pathlib.Path) -> transformer.Transformer:
  """Reads a workload: a preset's name, or the path of a TOML file.

  The file holds the fields of `Transformer` at its top level; without `name`
  the file's stem is the name.

  Args:
    name_or_path: such as 'llama-3.1-405b' or 'my-model.toml'.

  Raises:
    SpecError: no such preset (with the nearest), an unreadable file, or a
      field that does not fit, each with its full path.

  Examples:
    >>> round(load_workload('llama-3.1-8b').parameters().total / 1e9, 2)
    8.03
  """
  text = str(name_or_path)
  if text in _tables():
    return _check(_PRESETS.name, text, {'name': text, **_tables()[text]})
  path = pathlib.Path(name_or_path)
  if path.suffix != '.toml':
    raise errors.SpecError(
      f'no workload {text!r}{_nearest(text, workload_names())}; give a TOML '
      f'file or one of {", ".join(workload_names())}'
    )
  try:
    fields = tomllib.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise errors.SpecError(f'{path}: {error.strerror or error}') from None
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise errors.SpecError(f'{path}: not TOML: {error}') from None
  return _check(str(path), '', {'name': path.stem, 'source': text, **fields})


def _check(file: str, table: str, fields: dict) -> transformer.Transformer:
  try:
    return transformer.Transformer.model_validate(fields)
  except pydantic.ValidationError as error:
    lines = [_explain(e, table) for e in error.errors()]
    raise errors.SpecError('\n'.join(f'{file}: {l}' for l in lines)) from None


def _explain(error: dict, table: str) -> str:
  path = [str(p) for p in error['loc']]
  where = '.'.join(([table] if table else []) + path)
  if error['type'] == 'extra_forbidden':
    near = _nearest(path[-1], _known_fields(path[:-1]))
    return f'{where}: unknown field{near}'
  message = error['msg'].removeprefix('Value error, ')
  if error['type'] == 'missing':
    return f'{where}: missing'
  given = error['input']
  shown = '' if isinstance(given, dict) else f' (found {given!r})'
  return f'{where}: {message}{shown}' if where else message


def _known_fields(path: list[str]) -> tuple[str, ...]:
  models = {
    (): transformer.Transformer,
    ('attention',): transformer.Attention,
    ('experts',): transformer.Experts,
  }
  model = models.get(tuple(path))
  return tuple(model.model_fields) if model else ()


def _nearest(name: str, names: tuple[str, ...]) -> str:
  near = difflib.get_close_matches(name, names, 1, 0.4)
  return f'; did you mean {near[0]!r}?' if near else ''
