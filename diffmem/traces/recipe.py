"""A recipe: which files of a folder of traces each system is fitted to.

    [[system]]
    name = 'h100-sxm'             # the checkpoint's name
    spec = 'h100-sxm'             # prior: a name of the catalog or a TOML file
    about = 'what was measured'

    [[system.source]]
    format = 'gpu_kernels'        # a format of `readers.FORMATS`, or 'trace'
    path = 'kernels/h100_sxm'     # below the folder of traces
    only = ['system=h100*']       # optional: rows that count, as in import

A system without sources is one that nobody measured.
"""

import hashlib
import os
import pathlib
import tomllib
from typing import NamedTuple

import pydantic

from diffmem import errors
from diffmem.traces import files, readers, table

_TRACE = 'trace'


class _Strict(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(frozen=True, extra='forbid')


class Source(_Strict):
  """A file or folder, and how to read it.

  Attributes:
    format: a name of `readers.FORMATS`, or 'trace' for our own schema.
    path: below the folder of traces.
    only: patterns for the rows that count.
    op: operation, where the file has none.
    tier: tier where the data lives; overrides the reader's.
    participants: threads, SMs or ranks, where the file is silent.
  """

  format: str
  path: str
  only: tuple[str, ...] = ()
  op: str | None = None
  tier: str | None = None
  participants: int | None = None


class Part(NamedTuple):
  """The rows of one source.

  Attributes:
    path: below the folder of traces.
    sha256: of the file, or of the hashes of a folder's files in order.
    traces: its rows.
  """

  path: str
  sha256: str
  traces: table.Traces


class Recipe(_Strict):
  """One system of a recipe.

  Attributes:
    name: of the system and its checkpoint.
    spec: prior: a name of the catalog or a TOML file.
    about: what was measured, for the card.
    source: what it is fitted to; nothing for an unmeasured system.
  """

  name: str
  spec: str
  about: str
  source: tuple[Source, ...] = ()

  def read(self, folder: str | os.PathLike) -> list[Part]:
    """The rows of every source, under the system's own name.

    Raises:
      TraceError: a file that is not there, or a fault in it.
    """
    return [
      Part(
        source.path,
        _sha256(pathlib.Path(folder) / source.path),
        _read(source, pathlib.Path(folder), self),
      )
      for source in self.source
    ]


class _RecipeFile(_Strict):
  system: tuple[Recipe, ...] = pydantic.Field(min_length=1)


def load_recipes(path: str | os.PathLike) -> tuple[Recipe, ...]:
  """Reads the systems of a recipe file.

  Raises:
    SpecError: names the file, the key, the value found and what was expected.
  """
  path = pathlib.Path(path)
  try:
    data = tomllib.loads(path.read_text(encoding='utf-8'))
    return _RecipeFile.model_validate(data).system
  except OSError as error:
    raise errors.SpecError(
      f'{path}: expected a recipe file ({error.strerror})'
    ) from None
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise errors.SpecError(f'{path}: expected TOML in UTF-8: {error}') from None
  except pydantic.ValidationError as error:
    faults = [
      f'{path}: {".".join(map(str, fault["loc"]))}: found '
      f'{fault["input"]!r}; {fault["msg"]}'
      for fault in error.errors()
    ]
    raise errors.SpecError('\n'.join(faults)) from None


def _sha256(path: pathlib.Path) -> str:
  if not path.is_dir():
    return files.sha256(path) if path.exists() else ''
  inside = sorted(p for p in path.rglob('*') if p.is_file())
  hashes = ''.join(files.sha256(p) for p in inside)
  return hashlib.sha256(hashes.encode()).hexdigest()


def _read(source: Source, folder: pathlib.Path, recipe: Recipe) -> table.Traces:
  path = folder / source.path
  if source.format == _TRACE:
    return files.read_traces(path)
  options = readers.Options(
    system=recipe.name,
    op=source.op,
    tier=source.tier,
    participants=source.participants,
    only=source.only,
  )
  return readers.read(path, source.format, options).traces
