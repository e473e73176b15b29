"""Saving and loading a fitted system.

A checkpoint is a folder:

    arrays/         best estimate and ensemble, float64, and the weights of
                    residuals, float32 (Orbax)
    system.json     structure; every parameter with unit, value, standard
                    error, prior, status, source, what to measure
    card.json       traces and their hashes, held-out errors, versions
    checksums.json  size and SHA-256 of every other file, and of itself

Loading needs nothing but the folder, and verifies every byte first: a flipped
bit in an Orbax file otherwise loads without a word.
"""

import dataclasses
import os
import pathlib

import numpy as np
import pydantic

from diffmem import errors
from diffmem.checkpoint import arrays, document, folder
from diffmem.checkpoint import card as card_lib
from diffmem.system import FittedSystem, catalog_names, load_catalog

_ARRAYS = 'arrays'
_SYSTEM = 'system.json'
_CARD = 'card.json'
_OURS = frozenset({_ARRAYS, _SYSTEM, _CARD, folder.CHECKSUMS})


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """What a checkpoint holds.

  Attributes:
    fitted: the system with its ensemble and knowledge; numpy leaves.
    card: what it was made of, and how good it is.
  """

  fitted: FittedSystem
  card: card_lib.Card


def save_checkpoint(
  path: str | os.PathLike, fitted: FittedSystem, card: card_lib.Card
) -> None:
  """Writes a checkpoint; an older one at the same path is replaced at once.

  Killed at any moment, the path holds the old checkpoint or the new one. A
  program of several jax processes loads a checkpoint in each of them; it is
  saved by a program of one.

  Args:
    path: the folder to write, with parents that need not be there.
    fitted: the system, its knowledge and its ensemble.
    card: such as `Card.now(traces=..., held_out=..., seed=...)`.

  Raises:
    CheckpointError: the path holds something else than a checkpoint, or
      cannot be written.
  """
  import jax

  if jax.process_count() > 1:
    raise errors.CheckpointError(
      f'{path}: expected one jax process to save it; there are '
      f'{jax.process_count()}. Save from a program of its own'
    )
  target = _absolute(path)
  _refuse_to_replace_others(target)
  packed = document.pack(fitted)
  texts = {
    _SYSTEM: document.describe(fitted).model_dump_json(indent=1),
    _CARD: card.model_dump_json(indent=1),
  }
  try:
    with folder.replacement(target) as scratch:
      arrays.write(scratch / _ARRAYS, packed)
      for name, text in texts.items():
        (scratch / name).write_text(text + '\n', encoding='utf-8')
      folder.write_checksums(scratch)
  except OSError as error:
    raise errors.CheckpointError(
      f'{target}: cannot be written ({error}); expected a folder with room '
      'that this user may write to'
    ) from error


def load_checkpoint(path: str | os.PathLike) -> Checkpoint:
  """Reads a checkpoint after verifying every file of it.

  Args:
    path: a folder that `save_checkpoint` wrote.

  Returns:
    The fitted system with numpy leaves, on any number of devices, and its
    card.

  Raises:
    CheckpointError: names the file, what is wrong and what to do.
  """
  target = _absolute(path)
  where = folder.whole(target)
  if not where.is_dir():
    raise errors.CheckpointError(
      f'{target}: expected the folder of a checkpoint; there is '
      f'{"a file" if where.exists() else "none"}. Write one with '
      f'python -m experiments.fit --traces TRACES --out {target}'
    )
  if not any((where / name).exists() for name in _OURS):
    raise errors.CheckpointError(
      f'{where}: expected a checkpoint ({", ".join(sorted(_OURS))}); the '
      'folder holds none of these files'
    )
  folder.verify(where)
  read_card = _read(where, _CARD, card_lib.Card)
  described = _read(where, _SYSTEM, document.SystemDocument)
  try:
    fitted = document.rebuild(described, _read_arrays(where, described))
  except ValueError as error:
    raise folder.damaged(
      where, _SYSTEM, str(error), 'what this diffmem builds'
    ) from None
  return Checkpoint(fitted, read_card)


def load_system(name_or_path: str | os.PathLike) -> FittedSystem:
  """A fitted system from a checkpoint, or a published one from the catalog.

  Args:
    name_or_path: a name of `diffmem.system.catalog_names()`, the folder of a
      checkpoint, or a TOML file in the format of the catalog. A catalog name
      comes first; write './NAME' for a folder of that name.

  Raises:
    SpecError: no such name, or a fault in the TOML file.
    CheckpointError: a path that holds no whole checkpoint.

  Examples:
    >>> load_system('h100-sxm').system.name
    'h100-sxm'
  """
  text = os.fspath(name_or_path)
  if text in catalog_names() or text.endswith('.toml'):
    return load_catalog(text)
  if os.sep in text or folder.whole(_absolute(text)).is_dir():
    return load_checkpoint(text).fitted
  try:
    return load_catalog(text)
  except errors.SpecError as error:
    raise errors.SpecError(
      f'{error}; nor is there the folder of a checkpoint {text!r}'
    ) from None


def _absolute(path: str | os.PathLike) -> pathlib.Path:
  return pathlib.Path(path).expanduser().resolve()


def _refuse_to_replace_others(target: pathlib.Path) -> None:
  """Replacing removes the folder: never one that holds somebody's files."""
  if not target.exists():
    return
  names = {p.name for p in target.iterdir()} if target.is_dir() else {'.'}
  if not names <= _OURS:
    raise errors.CheckpointError(
      f'{target}: expected a checkpoint or nothing there; it holds '
      f'{", ".join(sorted(names - _OURS)[:3])}, which saving would remove. '
      'Choose another path'
    )


def _read(
  where: pathlib.Path, name: str, model: type[card_lib.Strict]
) -> card_lib.Strict:
  """Reads one of the JSON files, its schema version first."""
  data = (where / name).read_bytes()
  try:
    content = model.model_validate_json(data)
  except pydantic.ValidationError as error:
    fault = error.errors()[0]
    version = _version_of(data)
    if version is not None:
      folder.check_version(where, name, version)
    at = '.'.join(str(key) for key in fault['loc'])
    raise folder.damaged(
      where, name, f'{at}: {fault["msg"]}', 'the keys of its schema'
    ) from None
  folder.check_version(where, name, content.schema_version)
  return content


def _version_of(data: bytes) -> object:
  import json

  try:
    return json.loads(data).get('schema_version')
  except (ValueError, AttributeError):
    return None


def _read_arrays(
  where: pathlib.Path, described: document.SystemDocument
) -> dict[str, np.ndarray]:
  """The arrays, if they are the ones that `system.json` speaks of."""
  try:
    found = arrays.read(where / _ARRAYS)
  except Exception as error:  # Orbax raises what its file formats raise.
    raise folder.damaged(
      where, _ARRAYS, f'Orbax cannot read it ({error})', 'arrays as saved'
    ) from error
  expected = document.array_types(described)
  there = {name: (a.shape, str(a.dtype)) for name, a in found.items()}
  if there != expected:
    raise folder.damaged(
      where, _ARRAYS, f'it holds {there}', f'{expected}, as {_SYSTEM} says'
    )
  return found
