"""Plans as JSON files, and back.

`PlanResult.to_json` writes what a search answered, `plan_to_json` one plan of
it; `result_from_json` and `plan_from_json` read them again, equal to what was
written. A field that is unknown is refused: the file is of another version.
"""

import dataclasses
import enum
import itertools
import json
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any

from diffmem import errors
from diffmem.planning.result import Plan, PlanResult


def plan_to_json(plan: Plan, indent: int | None = 2) -> str:
  """One plan as text."""
  return json.dumps(dataclasses.asdict(plan), indent=indent, allow_nan=False)


def plan_from_json(text: str, source: str = 'JSON') -> Plan:
  """The plan of `plan_to_json`, or the best of `PlanResult.to_json`.

  Args:
    text: of the file.
    source: name of the file, for errors.

  Raises:
    PlanError: no JSON, an unknown or a missing field, or no plan in it.
  """
  document = _read(text, source)
  if 'plans' in document:
    result = _result(document, source)
    if not result.plans:
      raise errors.PlanError(f'{source} has no plan: {result.help}')
    return result.plans[0]
  return _plan(document, source)


def result_from_json(text: str, source: str = 'JSON') -> PlanResult:
  """The result of `PlanResult.to_json`.

  Raises:
    PlanError: no JSON, or an unknown or a missing field.
  """
  return _result(_read(text, source), source)


def load_plan(path: str | pathlib.Path) -> Plan:
  """The plan of a file, see `plan_from_json`.

  Raises:
    PlanError: the file cannot be read, or is not of a plan.
  """
  try:
    text = pathlib.Path(path).read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError) as error:
    raise errors.PlanError(f'{path}: cannot be read ({error})') from None
  return plan_from_json(text, str(path))


def _read(text: str, source: str) -> dict[str, Any]:
  try:
    document = json.loads(text)
  except ValueError as error:
    raise errors.PlanError(f'{source}: not JSON ({error})') from None
  if not isinstance(document, dict):
    raise errors.PlanError(
      f'{source}: expected an object, not {type(document).__name__}'
    )
  return document


def _result(document: Mapping[str, Any], source: str) -> PlanResult:
  return _build(PlanResult, document, source)


def _plan(document: Any, source: str) -> Plan:
  return _build(Plan, document, source)


def _build(kind: type, values: Any, source: str) -> Any:
  """A dataclass of exactly these fields; those with a default may be absent."""
  if not isinstance(values, Mapping):
    raise errors.PlanError(f'{source}: expected an object')
  fields = {f.name: f for f in dataclasses.fields(kind)}
  for name in values:
    if name not in fields:
      raise errors.PlanError(
        f'{source}: unknown field {name!r}; {kind.__name__} has '
        f'{", ".join(fields)}'
      )
  for name, field in fields.items():
    has_default = (
      field.default is not dataclasses.MISSING
      or field.default_factory is not dataclasses.MISSING
    )
    if name not in values and not has_default:
      raise errors.PlanError(f'{source}: the field {name!r} is missing')
  hints = typing.get_type_hints(kind)
  return kind(
    **{
      name: _value(hints[name], value, f'{source}: {name}')
      for name, value in values.items()
    }
  )


def _value(kind: Any, value: Any, source: str) -> Any:
  """What JSON has made of a value of this type, as it was."""
  origin, arms = typing.get_origin(kind), typing.get_args(kind)
  if origin in (typing.Union, types.UnionType):
    if value is None:
      return None
    kind = next(arm for arm in arms if arm is not types.NoneType)
    return _value(kind, value, source)
  if dataclasses.is_dataclass(kind):
    return None if value is None else _build(kind, value, source)
  if isinstance(kind, type) and issubclass(kind, enum.Enum):
    return _member(kind, value, source)
  if isinstance(kind, type) and issubclass(kind, tuple):  # a NamedTuple
    return kind(*value)
  if origin is tuple and isinstance(value, list):
    kinds = itertools.repeat(arms[0]) if arms[-1] is ... else arms
    return tuple(
      _value(k, v, f'{source}[{i}]')
      for i, (k, v) in enumerate(zip(kinds, value, strict=False))
    )
  if isinstance(value, Mapping) and len(arms) == 2:
    return {k: _value(arms[1], v, f'{source}.{k}') for k, v in value.items()}
  return value


def _member(kind: type[enum.Enum], value: Any, source: str) -> enum.Enum:
  names = [member.value for member in kind]
  if value not in names:
    raise errors.PlanError(
      f'{source} = {value!r}; expected one of {", ".join(names)}'
    )
  return kind(value)
