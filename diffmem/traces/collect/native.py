"""Builds `kernels.c` once per machine and calls it through ctypes."""

import atexit
import ctypes
import hashlib
import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence

import numpy as np

from diffmem.traces.collect import machine as machine_lib
from diffmem.traces.collect import samples

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
_HUGE = 2 * machine_lib.MIB
_KINDS = {'fill': 0, 'build': 1, 'pointer_chase': 2}
_KINDS |= {'stream': 3, 'copy': 4, 'triad': 5}

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
  library.dm_run.argtypes += [long, long, integer, word, _Doubles, _Doubles]
  library.dm_loaded.argtypes = [integer, integer, many, many, many, size]
  library.dm_loaded.argtypes += [long, long, long, integer] + 3 * [_Doubles]
  library.dm_disk.argtypes = [integer, integer, size, word, integer, word]
  library.dm_disk.argtypes += [real, long, word, _Doubles]
  return library


class NativeKernels:
  """The C kernels with the memory they work on. Close it after use.

  Each thread has one buffer for its cycle of pointers and one for arrays,
  first touched by the pinned thread itself (NUMA) and grown when needed.
  """

  source = 'diffmem collect'
  # Arrays read and written by one pass.
  traffic = {'stream': (1, 0), 'copy': (1, 1), 'triad': (2, 1)}

  def __init__(self, library: ctypes.CDLL, cpus: Sequence[int]):
    self._library = library
    self._cpus = tuple(cpus)
    self._buffers: dict[tuple[str, int], tuple[int, int]] = {}
    self._chains: dict[int, tuple[int, int]] = {}  # bytes, current address
    self._built = 0
    self.chunk_bytes = library.dm_chunk_bytes()

  def chase(
    self, n: int, bytes_: int, warm: int, hops: int, repeats: int
  ) -> list[samples.Timing]:
    """Chases `hops` dependent pointers per thread, `repeats` times."""
    self._build(range(n), bytes_)
    at = self._positions(range(n))
    timings = self._run('pointer_chase', n, 'chain', at, bytes_, warm, hops,
                        repeats)  # fmt: skip
    self._moved(range(n), at)
    return timings

  def sweep(
    self, op: str, n: int, bytes_: int, warm: int, passes: int, repeats: int
  ) -> list[samples.Timing]:
    """Runs `passes` over arrays of `bytes_` each, `repeats` times."""
    arrays = sum(self.traffic[op])
    need = arrays * (bytes_ + 2 * 4096)
    for thread in range(n):
      self._buffer('array', thread, need)
    at = (ctypes.c_void_p * n)()
    return self._run(op, n, 'array', at, bytes_, warm, passes, repeats)

  def loaded(
    self, op: str, n: int, chain_bytes: int, bytes_: int, delay: int,
    warm: int, hops: int, repeats: int,
  ) -> list[tuple[samples.Timing, float]]:  # fmt: skip
    """Chases beside n - 1 throttled load threads.

    Returns:
      For each repeat the chase's timing and the bytes of every array that
      the load threads have passed meanwhile.
    """
    self._build([0], chain_bytes)
    need = sum(self.traffic[op]) * (bytes_ + 2 * 4096)
    for thread in range(1, n):
      self._buffer('array', thread, need)
    bases = [0] + [self._buffers['array', t][0] for t in range(1, n)]
    at = self._positions([0])
    wall, cpu, chunks = (np.zeros(repeats) for _ in range(3))
    error = self._library.dm_loaded(
      _KINDS[op], n, self._cpu_array(n), (ctypes.c_void_p * n)(*bases), at,
      bytes_, delay, warm, hops, repeats, wall, cpu, chunks,
    )  # fmt: skip
    _check(error)
    self._moved([0], at)
    moved = chunks * self.chunk_bytes
    return [
      (samples.Timing(float(w), float(c)), float(m))
      for w, c, m in zip(wall, cpu, moved, strict=True)
    ]

  def read_file(
    self, fd: int, depth: int, block: int, blocks: int, *, sequential: bool,
    first: int, duration_s: float, least: int, seed: int,
  ) -> samples.Reads:  # fmt: skip
    """Reads blocks of a file with `depth` threads for `duration_s`."""
    out = np.zeros(3)
    error = self._library.dm_disk(
      fd, depth, block, blocks, int(sequential), first, duration_s, least,
      seed, out,
    )  # fmt: skip
    _check(error)
    return samples.Reads(float(out[0]), float(out[1]), int(out[2]))

  def close(self) -> None:
    """Gives the memory back."""
    for base, size in self._buffers.values():
      self._library.dm_free(base, size)
    self._buffers.clear()
    self._chains.clear()

  def _run(self, op, n, buffer, at, bytes_, warm, work, repeats):
    bases = [self._buffers[buffer, thread][0] for thread in range(n)]
    wall, cpu = np.zeros(repeats), np.zeros(repeats)
    error = self._library.dm_run(
      _KINDS[op], n, self._cpu_array(n), (ctypes.c_void_p * n)(*bases), at,
      bytes_, warm, work, repeats, 0, wall, cpu,
    )  # fmt: skip
    _check(error)
    return [
      samples.Timing(float(w), float(c)) for w, c in zip(wall, cpu, strict=True)
    ]

  def _cpu_array(self, n: int):
    return (ctypes.c_int * n)(*self._cpus[:n])

  def _positions(self, threads):
    chains = [self._chains[thread][1] for thread in threads]
    return (ctypes.c_void_p * len(chains))(*chains)

  def _moved(self, threads, at) -> None:
    for thread, address in zip(threads, at, strict=True):
      self._chains[thread] = (self._chains[thread][0], address)

  def _build(self, threads, bytes_: int) -> None:
    """Puts a random cycle of `bytes_` in the threads' chain buffers."""
    for thread in threads:
      if self._chains.get(thread, (0, 0))[0] == bytes_:
        continue
      base = self._buffer('chain', thread, bytes_)
      self._built += 1
      self._once('build', thread, base, bytes_, seed=self._built)
      self._chains[thread] = (bytes_, base)

  def _buffer(self, name: str, thread: int, bytes_: int) -> int:
    """Address of a buffer of at least `bytes_`, touched by its thread."""
    base, size = self._buffers.get((name, thread), (0, 0))
    if size >= bytes_:
      return base
    if base:
      del self._buffers[name, thread]
      self._library.dm_free(base, size)
      self._chains.pop(thread, None)
    size = -(-max(bytes_, 2 * size) // _HUGE) * _HUGE
    base = self._library.dm_alloc(size)
    if not base:
      raise MemoryError(f'no {size} bytes for a {name} buffer')
    self._buffers[name, thread] = (base, size)
    self._once('fill', thread, base, size)
    return base

  def _once(self, kind, thread, base, bytes_, seed=0) -> None:
    """Runs a preparing kernel once on the thread's own CPU."""
    times = np.zeros(1), np.zeros(1)
    _check(
      self._library.dm_run(
        _KINDS[kind], 1, (ctypes.c_int * 1)(self._cpus[thread]),
        (ctypes.c_void_p * 1)(base), (ctypes.c_void_p * 1)(), bytes_, 0, 1, 1,
        seed, *times,
      )
    )  # fmt: skip


def _check(error: int) -> None:
  if error:
    raise OSError(error, os.strerror(error))


def open_kernels(
  cpus: Sequence[int], cache_dir: pathlib.Path | None = None
) -> NativeKernels | None:
  """The C kernels, or None with a warning where they cannot be had."""
  try:
    return NativeKernels(load_library(cache_dir), cpus)
  except (BuildError, OSError) as error:
    warnings.warn(
      f'measuring with numpy instead of C, less precisely: {error}',
      RuntimeWarning,
      stacklevel=2,
    )
    return None
