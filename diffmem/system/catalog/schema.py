"""The shape of a catalog file, checked by pydantic at the file's border.

The fields of a tier, an engine and a system follow from the parameters that
those classes declare, so that a new parameter is a new key without a change
here.
"""

import functools
import pathlib
from typing import Annotated, Any

import pydantic

from diffmem import errors, units
from diffmem.system import parameters
from diffmem.system.engine import Engine
from diffmem.system.system import System
from diffmem.system.tier import Duplex, Tier

# Values beyond these are a unit mistake more often than a fast machine.
_PLAUSIBLE = {
  's': (1e-12, 1e4),
  'B': (1e-3, 1e18),
  'B/s': (1.0, 1e15),
  'J/B': (1e-18, 1e-3),
  'J/FLOP': (1e-18, 1e-6),
  'W': (1e-3, 1e6),
  'FLOP/s': (1e6, 1e18),
}


def _quantity(value: Any) -> Any:
  if isinstance(value, bool) or not isinstance(value, (str, float, int)):
    raise ValueError("expected a number with its unit, such as '3.35 TB/s'")
  return value


class _Strict(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(frozen=True, extra='forbid')


class Figure(_Strict):
  """One figure and where it comes from.

  Attributes:
    value: with its unit, such as '3.35 TB/s'; a bare number is SI.
    source: who published it; 'unverified: ...' or 'assumption: ...' where
      nobody did.
    sd: standard deviation of the prior, in log units; by default it follows
      from the source.
  """

  value: Annotated[Any, pydantic.BeforeValidator(_quantity)]
  source: pydantic.StrictStr = pydantic.Field(min_length=3)
  sd: pydantic.StrictFloat | None = pydantic.Field(None, gt=0, le=5)


class Count(_Strict):
  """How many there are, and who says so."""

  value: pydantic.StrictInt = pydantic.Field(gt=1)
  source: pydantic.StrictStr = pydantic.Field(min_length=3)


def _fits(info: parameters.ParameterInfo):
  """A validator: the figure is a quantity of the parameter's unit."""

  def check(figure: Figure) -> Figure:
    try:
      value = units.parse(figure.value, info.unit)
    except errors.UnitError as error:
      raise ValueError(str(error)) from None
    low, high = _PLAUSIBLE.get(info.unit, (1e-6, 1e6))
    if info.is_log and not low <= value <= high:
      expected = [units.format_si(v, info.unit) for v in (low, high)]
      raise ValueError(
        f'{figure.value!r} is not plausible; expected {expected[0]} to '
        f'{expected[1]} ({info.help})'
      )
    return figure

  return pydantic.AfterValidator(check)


def _model(name: str, cls: type, **others: Any) -> type[pydantic.BaseModel]:
  """A model with one optional figure for each parameter of a class."""
  figures = {
    parameter: (Annotated[Figure, _fits(info)] | None, None)
    for parameter, info in parameters.parameter_infos(cls).items()
  }
  return pydantic.create_model(name, __base__=_Strict, **others, **figures)


_TierFile = _model(
  '_TierFile',
  Tier,
  duplex=(Duplex | None, None),
  home=(pydantic.StrictStr, ''),
  via=(pydantic.StrictStr, ''),
  private=(pydantic.StrictBool, False),
  link=(pydantic.StrictBool, False),
  span=(Count | None, None),
  contended=(pydantic.StrictBool, False),
)
_EngineFile = _model('_EngineFile', Engine)
_SystemFile = _model('_SystemFile', System, compute_units=(Count | None, None))


class MachineFile(_Strict):
  """A machine: the whole of a catalog file."""

  name: pydantic.StrictStr = pydantic.Field(min_length=1)
  about: pydantic.StrictStr = ''
  system: _SystemFile = _SystemFile()
  tiers: dict[str, _TierFile] = pydantic.Field(min_length=1)
  engines: dict[str, _EngineFile] = {}


class AssumptionsFile(_Strict):
  """What stands in for figures that a machine's file does not give."""

  system: _SystemFile
  engines: dict[str, _EngineFile]
  tiers: dict[str, _TierFile]
  links: _TierFile


def read(path: pathlib.Path, model: type[_Strict]) -> Any:
  """Reads a TOML file into a model.

  Raises:
    SpecError: every fault of the file, each with its full path, the value
      found and what was expected.
  """
  import tomllib

  try:
    data = tomllib.loads(path.read_text(encoding='utf-8'))
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise errors.SpecError(f'{path}: expected TOML in UTF-8: {error}') from None
  except OSError as error:
    raise errors.SpecError(
      f'{path}: expected a readable file: {error.strerror}'
    ) from None
  try:
    return model.model_validate(data)
  except pydantic.ValidationError as error:
    faults = [_fault(fault) for fault in error.errors()]
    raise errors.SpecError(
      '\n'.join(f'{path}: {fault}' for fault in dict.fromkeys(faults))
    ) from None


def _fault(fault: Any) -> str:
  """One line about one fault: path, what was found, what was expected."""
  location = [str(key) for key in fault['loc']]
  found, kind = fault['input'], fault['type']
  message = fault['msg'].removeprefix('Value error, ')
  if kind == 'missing':
    return f'{".".join(location)}: expected this key; it is not there'
  if kind == 'extra_forbidden':
    message = f'expected no such key{_hint(location)}'
  elif kind in ('model_type', 'dict_type'):
    message = "expected a table such as { value = '3.35 TB/s', source = '...' }"
  elif kind == 'string_too_short':
    message = "expected some text; for a source who says so, or 'assumption: '"
  elif kind == 'value_error' and isinstance(found, dict):
    location.append('value')
    found = found['value']
  else:
    message = message.replace('Input should be', 'expected')
  return f'{".".join(location)}: found {found!r}; {message}'


def _hint(location: list[str]) -> str:
  """The key that was probably meant, or all that there are."""
  import difflib

  models = {
    1: MachineFile,
    2: _SystemFile,
    3: {'tiers': _TierFile, 'engines': _EngineFile}.get(location[0], Figure),
  }
  known = list(models.get(len(location), Figure).model_fields)
  near = difflib.get_close_matches(location[-1], known, 1, 0.5)
  if near:
    return f'; did you mean {near[0]!r}?'
  return f' (there are {", ".join(known)})'


@functools.cache
def assumptions(path: pathlib.Path) -> AssumptionsFile:
  """The assumptions that ship with the catalog, read once."""
  return read(path, AssumptionsFile)
