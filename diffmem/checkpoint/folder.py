"""A folder that is replaced as a whole, and checked file by file.

A new checkpoint grows in a sibling folder `.NAME.PID.tmp`, is flushed to the
disk, and takes its place in one step: `rename` where nothing was there, an
exchange of the two names (`renameat2`) where an older one is. Killed at any
moment, there is either the old checkpoint or the new one, whole, and at most
a `.tmp` folder that the next save removes. File systems that cannot exchange
names get two renames; between them the old one is `.NAME.old`, where loading
finds it.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from diffmem import errors
from diffmem.checkpoint.card import SCHEMA_VERSION

CHECKSUMS = 'checksums.json'

_MISSING, _AS_SAVED = 'the file is missing', 'all files as saved'

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_CANNOT_EXCHANGE = {
  errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EPERM
}  # fmt: skip


@contextlib.contextmanager
def replacement(target: pathlib.Path) -> Iterator[pathlib.Path]:
  """A new folder that takes the place of `target` if all goes well.

  Args:
    target: absolute path; may be there already.

  Yields:
    The empty folder to write to.
  """
  target.parent.mkdir(parents=True, exist_ok=True)
  with _locked(target.parent) as locked:
    if locked:
      _clean(target)
    scratch = target.with_name(f'.{target.name}.{os.getpid()}.tmp')
    scratch.mkdir()
    try:
      yield scratch
      _flush(scratch)
      _swap(scratch, target)
    finally:
      shutil.rmtree(scratch, ignore_errors=True)


def whole(target: pathlib.Path) -> pathlib.Path:
  """Where the checkpoint really is: a save may have been killed half-way."""
  old = _old(target)
  return old if old.is_dir() and not target.exists() else target


@contextlib.contextmanager
def _locked(parent: pathlib.Path) -> Iterator[bool]:
  """Waits for other savers in the folder; False where nothing can be locked."""
  import fcntl

  handle = os.open(parent, os.O_RDONLY)
  try:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX)
      locked = True
    except OSError:
      locked = False
    yield locked
  finally:
    os.close(handle)


def _old(target: pathlib.Path) -> pathlib.Path:
  return target.with_name(f'.{target.name}.old')


def _clean(target: pathlib.Path) -> None:
  """Removes what killed saves left; nobody else is saving now."""
  stale = re.compile(re.escape(f'.{target.name}.') + r'\d+\.tmp')
  for path in target.parent.iterdir():
    if stale.fullmatch(path.name):
      shutil.rmtree(path, ignore_errors=True)
  old = _old(target)
  if old.is_dir():
    if target.exists():
      shutil.rmtree(old, ignore_errors=True)
    else:
      old.rename(target)


def _flush(folder: pathlib.Path) -> None:
  """Forces every file and folder below to the disk."""
  for root, _, files in os.walk(folder):
    for path in [*(os.path.join(root, name) for name in files), root]:
      _sync(path)


def _sync(path: str | os.PathLike) -> None:
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def _swap(scratch: pathlib.Path, target: pathlib.Path) -> None:
  if not target.exists():
    scratch.rename(target)
  elif not _exchange(scratch, target):
    old = _old(target)
    target.rename(old)
    scratch.rename(target)
    shutil.rmtree(old, ignore_errors=True)
  _sync(target.parent)


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
  """Exchanges two names in one step; False where that cannot be done."""
  libc = ctypes.CDLL(None, use_errno=True)
  if not hasattr(libc, 'renameat2'):
    return False
  failed = libc.renameat2(
    _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
  )
  if not failed:
    return True
  number = ctypes.get_errno()
  if number in _CANNOT_EXCHANGE:
    return False
  raise OSError(number, os.strerror(number), str(other))


def digests(folder: pathlib.Path) -> dict[str, dict[str, int | str]]:
  """Size and SHA-256 of every file below, by relative path, sorted."""
  found = {}
  for path in sorted(folder.rglob('*')):
    name = path.relative_to(folder).as_posix()
    if path.is_file() and name != CHECKSUMS:
      data = path.read_bytes()
      digest = hashlib.sha256(data).hexdigest()
      found[name] = {'bytes': len(data), 'sha256': digest}
  return found


def write_checksums(folder: pathlib.Path) -> None:
  """Writes `checksums.json` over all other files of the folder."""
  text = _checksums_text(SCHEMA_VERSION, digests(folder))
  (folder / CHECKSUMS).write_text(text, encoding='utf-8')


def _checksums_text(version: object, files: dict) -> str:
  """The one text of `checksums.json`; its last entry is over the others."""
  content = {'schema_version': version, 'files': files}
  digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
  return json.dumps(content | {'sha256': digest}, indent=1) + '\n'


def verify(folder: pathlib.Path) -> None:
  """Compares every file of a checkpoint with its checksum.

  Raises:
    CheckpointError: names the file, what was found and what was expected.
  """
  expected = _read_checksums(folder)
  found = digests(folder)
  for name in sorted(expected.keys() | found.keys()):
    if name not in found:
      raise damaged(folder, name, _MISSING, _AS_SAVED)
    if name not in expected:
      raise errors.CheckpointError(
        f'{folder / name}: expected only files that were saved with the '
        'checkpoint; move this one elsewhere'
      )
    if found[name] != expected[name]:
      raise damaged(
        folder, name, *(_shown(table[name]) for table in (found, expected))
      )


def _read_checksums(folder: pathlib.Path) -> dict[str, dict]:
  path = folder / CHECKSUMS
  if not path.is_file():
    raise damaged(folder, CHECKSUMS, _MISSING, _AS_SAVED)
  try:
    text = path.read_text(encoding='utf-8')
    content = json.loads(text)
    version, files = content['schema_version'], content['files']
  except (UnicodeDecodeError, ValueError, KeyError, TypeError):
    raise damaged(folder, CHECKSUMS, 'not its JSON', _AS_SAVED) from None
  check_version(folder, CHECKSUMS, version)
  if text != _checksums_text(version, files):
    raise damaged(folder, CHECKSUMS, 'it was changed', _AS_SAVED)
  return files


def check_version(folder: pathlib.Path, name: str, version: object) -> None:
  """Refuses a file of another schema version."""
  if version != SCHEMA_VERSION:
    raise errors.CheckpointError(
      f'{folder / name}: schema version {version!r}; this code reads '
      f'{SCHEMA_VERSION}. With this diffmem, {_remedy(folder)}; or load it '
      'with the version in its card.json'
    )


def damaged(
  folder: pathlib.Path, name: str, found: str, expected: str
) -> errors.CheckpointError:
  """The error of a file that is not as it was saved."""
  return errors.CheckpointError(
    f'{folder / name}: {found}; expected {expected}. Restore the file, or '
    f'{_remedy(folder)}'
  )


def _remedy(folder: pathlib.Path) -> str:
  return f'refit (python -m experiments.fit --traces TRACES --out {folder})'


def _shown(digest: dict[str, int | str]) -> str:
  return f'{digest["bytes"]} bytes with SHA-256 {digest["sha256"]}'
