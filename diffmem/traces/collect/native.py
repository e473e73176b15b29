"""Builds `kernels.c` once per machine and loads it."""

import atexit
import ctypes
import hashlib
import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

import numpy as np

from diffmem.traces.collect import machine as machine_lib

_SOURCE = pathlib.Path(__file__).with_name('kernels.c')
_COMMON = ('-std=gnu11', '-fPIC', '-shared', '-pthread', '-fno-builtin')
# Tried in this order: not every compiler knows every flag.
_FLAGS = (
  ('-O3', '-march=native', '-fno-tree-loop-distribute-patterns'),
  ('-O3', '-march=native'),
  ('-O3',),
)
_ABI = 1
_COMPILE_TIMEOUT_S = 60

_Doubles = np.ctypeslib.ndpointer(np.float64, flags='C_CONTIGUOUS')


class BuildError(RuntimeError):
  """The kernels could not be compiled or loaded on this machine."""


def load_library(cache_dir: pathlib.Path | None = None) -> ctypes.CDLL:
  """Compiles `kernels.c`, or finds it in the cache, and loads it.

  Args:
    cache_dir: Where compiled libraries are kept. By default
      `$XDG_CACHE_HOME/diffmem` or `~/.cache/diffmem`, and a private temporary
      folder where that cannot be written.

  Raises:
    BuildError: There is no compiler, or none of its results can be loaded.
  """
  compiler = find_compiler()
  if compiler is None:
    raise BuildError('no C compiler: set $CC or install cc, gcc or clang')
  folder = _usable(cache_dir or _default_cache_dir())
  problems = []
  for flags in _FLAGS:
    path = folder / f'kernels-{_key(compiler, flags)}.so'
    try:
      return _load(path, compiler, flags)
    except BuildError as error:
      problems.append(str(error))
  raise BuildError(f'{shlex.join(compiler)}: {problems[-1]}')


def find_compiler() -> list[str] | None:
  """The command of a C compiler: `$CC`, `cc`, `gcc` or `clang`."""
  chosen = shlex.split(os.environ.get('CC', ''))
  for command in ([chosen] if chosen else []) + [['cc'], ['gcc'], ['clang']]:
    if shutil.which(command[0]):
      return command
  return None


def _key(compiler: Sequence[str], flags: Sequence[str]) -> str:
  parts = [_SOURCE.read_text(), *compiler, *_COMMON, *flags]
  parts.append(machine_lib.describe().cpu_model)
  return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:24]


def _default_cache_dir() -> pathlib.Path:
  base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return pathlib.Path(base) / 'diffmem'


def _usable(folder: pathlib.Path) -> pathlib.Path:
  """The folder, or a private temporary one that goes away at exit."""
  try:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
      return folder
  except OSError:
    pass
  private = tempfile.mkdtemp(prefix='diffmem-')
  atexit.register(shutil.rmtree, private, ignore_errors=True)
  return pathlib.Path(private)


def _load(
  path: pathlib.Path, compiler: Sequence[str], flags: Sequence[str]
) -> ctypes.CDLL:
  """Loads a cached library; compiles it where absent or damaged."""
  if path.exists():
    try:
      return _open(path)
    except BuildError:
      pass
  _compile(path, compiler, flags)
  return _open(path)


def _compile(
  path: pathlib.Path, compiler: Sequence[str], flags: Sequence[str]
) -> None:
  handle, temporary = tempfile.mkstemp(suffix='.so', dir=path.parent)
  os.close(handle)
  command = [*compiler, *_COMMON, *flags, str(_SOURCE), '-o', temporary]
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S
    )
    if done.returncode != 0:
      last = (done.stderr.strip() or 'no message').splitlines()[-1]
      raise BuildError(f'compiler failed ({done.returncode}): {last}')
    os.replace(temporary, path)
  except (OSError, subprocess.SubprocessError) as error:
    raise BuildError(f'compiler did not run: {error}') from error
  finally:
    pathlib.Path(temporary).unlink(missing_ok=True)


def _open(path: pathlib.Path) -> ctypes.CDLL:
  try:
    library = ctypes.CDLL(str(path))
    if library.dm_abi() != _ABI:
      raise BuildError(f'{path}: another version of the kernels')
  except (OSError, AttributeError) as error:
    raise BuildError(f'{path}: cannot be loaded: {error}') from error
  integer, size, long = ctypes.c_int, ctypes.c_size_t, ctypes.c_long
  many, real, word = ctypes.c_void_p, ctypes.c_double, ctypes.c_uint64
  library.dm_alloc.argtypes = [size]
  library.dm_alloc.restype = ctypes.c_void_p
  library.dm_free.argtypes = [ctypes.c_void_p, size]
  library.dm_free.restype = None
  library.dm_run.argtypes = [integer, integer, many, many, many, size]
  library.dm_run.argtypes += [size, size, long, long, integer, word]
  library.dm_run.argtypes += [_Doubles, _Doubles]
  library.dm_loaded.argtypes = [integer, integer, many, many, many, size]
  library.dm_loaded.argtypes += [long, long, long, integer] + 3 * [_Doubles]
  library.dm_disk.argtypes = [integer, integer, size, word, integer, word]
  library.dm_disk.argtypes += [real, long, word, _Doubles]
  return library
