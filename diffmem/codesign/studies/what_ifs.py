"""Named changes of a machine: `what_ifs.toml`, or a file of your own.

    [[what_if]]
    name = 'kv-on-cxl'
    about = 'one sentence'
    kit = { stack = 'HBM4', cxl = true }   # parts, as in `design.Kit`
    point = { host_Bps = 450e9 }           # sizes and rates of the design
    times = { 'near.capacity_B' = 0.5 }    # further factors on the machine
    homes = { kv = ['CXL'] }               # where groups of tensors must live
    phases = ['decode']                    # for which workloads homes hold

Each change is a design (`design.py`), so that its price follows from its parts
(`parts.toml`); 'near' stands for the memory beside the engines.
"""

import difflib
import functools
import os
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import pydantic

from diffmem import errors

_FILE = pathlib.Path(__file__).with_name('what_ifs.toml')
_CONFIG = pydantic.ConfigDict(frozen=True, extra='forbid')
_Positive = Annotated[float, pydantic.Field(gt=0)]


class Kit(pydantic.BaseModel):
  """Kinds of parts, as `design.Kit`."""

  model_config = _CONFIG

  stack: str | None = None
  channel: str | None = None
  drive: str | None = None
  cxl: bool = False
  hbf: bool = False


class WhatIf(pydantic.BaseModel):
  """One change; see the head of this module.

  Attributes:
    name: for tables.
    about: one sentence.
    kit: kinds of parts.
    point: parameters of the design, by name [SI].
    times: full parameter name -> factor; 'near.' stands for the near memory.
    homes: start of a tensor group's name -> memories where it must live;
      'weights' for the weights of all kinds of layers.
    phases: workloads for which `homes` holds; all where it is empty.
  """

  model_config = _CONFIG

  name: Annotated[str, pydantic.Field(min_length=1)]
  about: Annotated[str, pydantic.Field(min_length=1)]
  kit: Kit = Kit()
  point: Mapping[str, _Positive] = {}
  times: Mapping[str, _Positive] = {}
  homes: Mapping[str, tuple[str, ...]] = {}
  phases: tuple[Literal['train', 'prefill', 'decode'], ...] = ()


class _File(pydantic.BaseModel):
  model_config = _CONFIG

  what_if: Annotated[tuple[WhatIf, ...], pydantic.Field(min_length=1)]


def load_what_ifs(path: str | os.PathLike | None = None) -> tuple[WhatIf, ...]:
  """Reads a file of changes; the shipped one without a path.

  Raises:
    SpecError: unreadable, or a field that does not fit, with its path.
  """
  return _shipped() if path is None else _read(pathlib.Path(path))


def named_what_ifs(asked: Sequence[str]) -> tuple[WhatIf, ...]:
  """Shipped changes by name, 'all' of them, or those of a TOML file.

  Raises:
    SpecError: an unknown name, with the nearest; a file that does not fit.
  """
  if len(asked) == 1 and asked[0].endswith('.toml'):
    return load_what_ifs(asked[0])
  known = {one.name: one for one in load_what_ifs()}
  for name in asked:
    if name not in known and list(asked) != ['all']:
      near = difflib.get_close_matches(name, known, 1, 0.4)
      hint = f'; did you mean {near[0]!r}?' if near else ''
      raise errors.SpecError(
        f'no what-if {name!r}{hint} (there is {", ".join(known)})'
      )
  return tuple(
    known.values() if list(asked) == ['all'] else map(known.get, asked)
  )


@functools.cache
def _shipped() -> tuple[WhatIf, ...]:
  return _read(_FILE)


def _read(path: pathlib.Path) -> tuple[WhatIf, ...]:
  try:
    found = tomllib.loads(path.read_text(encoding='utf-8'))
    return _File.model_validate(found).what_if
  except OSError as error:
    raise errors.SpecError(f'{path}: {error.strerror or error}') from None
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise errors.SpecError(f'{path}: not TOML: {error}') from None
  except pydantic.ValidationError as error:
    lines = [
      f'{path}: {".".join(str(p) for p in e["loc"])}: {e["msg"]}'
      for e in error.errors()
    ]
    raise errors.SpecError('\n'.join(lines)) from None
