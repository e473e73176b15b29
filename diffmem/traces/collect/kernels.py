"""The C kernels as Python calls, with the memory they work on."""

import ctypes
import os
import pathlib
import types
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from diffmem.traces.collect import machine as machine_lib
from diffmem.traces.collect import native, samples

_HUGE = 2 * machine_lib.MIB
_PAGE = 4096
_KINDS = {'fill': 0, 'build': 1, 'pointer_chase': 2}
_KINDS |= {'stream': 3, 'copy': 4, 'triad': 5}
_KEPT_SHARE = 1 / 3  # of the available memory, for all buffers


class NativeKernels:
  """The C kernels with the memory they work on. Close it after use.

  Each thread has one buffer for arrays, grown when needed, and one for each
  size of a cycle of pointers: cycles are slow to build and kept as long as
  there is room. A buffer is first touched by the pinned thread that uses it.
  """

  source = 'diffmem collect'
  # Arrays read and written by one pass.
  traffic: Mapping[str, tuple[int, int]] = types.MappingProxyType(
    {'stream': (1, 0), 'copy': (1, 1), 'triad': (2, 1)}
  )

  def __init__(self, library: ctypes.CDLL, machine: machine_lib.Machine):
    self._library = library
    self._cpus = machine.cpus
    self._room = int(machine.available_bytes * _KEPT_SHARE)
    # Address and size by use ('array', or bytes of a cycle) and thread.
    self._buffers: dict[tuple[str | int, int], tuple[int, int]] = {}
    self._at: dict[tuple[int, int], int] = {}  # where each chase stands
    self._chunk_bytes = library.dm_chunk_bytes()

  def chase(
    self, n: int, bytes_: int, warm: int, hops: int, repeats: int
  ) -> list[samples.Timing]:
    """Chases `hops` dependent pointers per thread, `repeats` times."""
    bases = self._cycles(n, bytes_)
    at = _pointers([self._at[bytes_, t] for t in range(n)])
    times = np.zeros((2, repeats))
    _check(
      self._library.dm_run(
        _KINDS['pointer_chase'], n, self._threads(n), _pointers(bases), at,
        bytes_, bytes_, 0, warm, hops, repeats, 0, *times,
      )
    )  # fmt: skip
    for thread in range(n):
      self._at[bytes_, thread] = at[thread]
    return _timings(times)

  def sweep(
    self, op: str, n: int, bytes_: int, window: int, offset: int, warm: int,
    passes: int, repeats: int,
  ) -> list[samples.Timing]:  # fmt: skip
    """Runs passes over arrays of `bytes_` each, `repeats` times.

    One pass covers `window` bytes of each array. Where that is less than the
    array, the first pass starts at `offset` and the next ones go on.
    """
    bases = [self._array(t, op, bytes_) for t in range(n)]
    times = np.zeros((2, repeats))
    _check(
      self._library.dm_run(
        _KINDS[op], n, self._threads(n), _pointers(bases), _pointers([0] * n),
        bytes_, window, offset, warm, passes, repeats, 0, *times,
      )
    )  # fmt: skip
    return _timings(times)

  def loaded(
    self, op: str, n: int, cycle_bytes: int, bytes_: int, delay: int,
    warm: int, hops: int, repeats: int,
  ) -> list[tuple[samples.Timing, float]]:  # fmt: skip
    """Chases beside n - 1 throttled load threads.

    Returns:
      For each repeat the chase's timing and the bytes of every array that
      the load threads have passed meanwhile.
    """
    bases = self._cycles(1, cycle_bytes)
    bases += [self._array(t, op, bytes_) for t in range(1, n)]
    at = _pointers([self._at[cycle_bytes, 0]])
    times, chunks = np.zeros((2, repeats)), np.zeros(repeats)
    _check(
      self._library.dm_loaded(
        _KINDS[op], n, self._threads(n), _pointers(bases), at, bytes_, delay,
        warm, hops, repeats, *times, chunks,
      )
    )  # fmt: skip
    self._at[cycle_bytes, 0] = at[0]
    moved = map(float, chunks * self._chunk_bytes)
    return list(zip(_timings(times), moved, strict=True))

  def read_file(
    self, fd: int, depth: int, block: int, blocks: int, *, sequential: bool,
    first: int, duration_s: float, least: int, seed: int,
  ) -> samples.Reads:  # fmt: skip
    """Reads blocks of a file with `depth` threads for `duration_s`."""
    out = np.zeros(3)
    _check(
      self._library.dm_disk(
        fd, depth, block, blocks, int(sequential), first, duration_s, least,
        seed, out,
      )
    )  # fmt: skip
    return samples.Reads(float(out[0]), float(out[1]), int(out[2]))

  def close(self) -> None:
    """Gives the memory back."""
    for base, size in self._buffers.values():
      self._library.dm_free(base, size)
    self._buffers.clear()
    self._at.clear()

  def _threads(self, n: int):
    return (ctypes.c_int * n)(*self._cpus[:n])

  def _cycles(self, n: int, bytes_: int) -> list[int]:
    """Addresses of random cycles of `bytes_`, one per thread."""
    if any((bytes_, t) not in self._buffers for t in range(n)):
      self._make_room(n * bytes_)
    for thread in range(n):
      if (bytes_, thread) not in self._buffers:
        base, _ = self._new(bytes_, thread, bytes_)
        self._once('build', thread, base, bytes_, seed=bytes_ + thread)
        self._at[bytes_, thread] = base
    return [self._buffers[bytes_, t][0] for t in range(n)]

  def _array(self, thread: int, op: str, bytes_: int) -> int:
    """Address of a thread's buffer for the arrays of an op."""
    need = sum(self.traffic[op]) * (bytes_ + 2 * _PAGE)
    base, size = self._buffers.get(('array', thread), (0, 0))
    if size >= need:
      return base
    self._drop('array', thread)
    base, size = self._new('array', thread, need)
    self._once('fill', thread, base, size)
    return base

  def _make_room(self, bytes_: int) -> None:
    """Drops all cycles where new ones would take too much memory."""
    held = sum(size for _, size in self._buffers.values())
    if held + bytes_ > self._room:
      for use, thread in list(self._buffers):
        if use != 'array':
          self._drop(use, thread)

  def _new(self, use, thread: int, bytes_: int) -> tuple[int, int]:
    size = -(-bytes_ // _HUGE) * _HUGE
    base = self._library.dm_alloc(size)
    if not base:
      raise MemoryError(f'no {size} bytes of memory')
    self._buffers[use, thread] = (base, size)
    return base, size

  def _drop(self, use, thread: int) -> None:
    if (use, thread) in self._buffers:
      self._library.dm_free(*self._buffers.pop((use, thread)))
      self._at.pop((use, thread), None)

  def _once(self, kind, thread, base, bytes_, seed=0) -> None:
    """Runs a preparing kernel once on the thread's own CPU."""
    _check(
      self._library.dm_run(
        _KINDS[kind], 1, (ctypes.c_int * 1)(self._cpus[thread]),
        _pointers([base]), _pointers([0]), bytes_, bytes_, 0, 0, 1, 1, seed,
        *np.zeros((2, 1)),
      )
    )  # fmt: skip


def open_kernels(
  machine: machine_lib.Machine, cache_dir: pathlib.Path | None = None
) -> NativeKernels | None:
  """The C kernels, or None with a warning where they cannot be had."""
  try:
    return NativeKernels(native.load_library(cache_dir), machine)
  except (native.BuildError, OSError) as error:
    warnings.warn(
      f'measuring with numpy instead of C, less precisely: {error}',
      RuntimeWarning,
      stacklevel=2,
    )
    return None


def _pointers(addresses: Sequence[int]):
  return (ctypes.c_void_p * len(addresses))(*addresses)


def _timings(times: np.ndarray) -> list[samples.Timing]:
  return [samples.Timing(float(wall), float(cpu)) for wall, cpu in times.T]


def _check(error: int) -> None:
  if error:
    raise OSError(error, os.strerror(error))
