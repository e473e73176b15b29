"""The kernels without a C compiler: numpy for bandwidth, JAX for latency.

One thread only, and short arrays carry the cost of a Python call: rows from
here name themselves in `source`.
"""

import itertools
import os
import threading
import time
import types
from collections.abc import Mapping

import numpy as np

from diffmem import errors
from diffmem.traces.collect import samples

_LINE = 8  # int64 in 64 bytes
_PAGE = 4096


class NumpyKernels:
  """Measures what it can of `kernels.NativeKernels`, same methods."""

  source = 'diffmem collect (numpy fallback)'
  # numpy has no fused triad: a = s * c, then a = a + b.
  traffic: Mapping[str, tuple[int, int]] = types.MappingProxyType(
    {'stream': (1, 0), 'copy': (1, 1), 'triad': (3, 2)}
  )

  def __init__(self):
    self._chain: tuple[int, object, object] | None = None
    self._arrays: list[np.ndarray] = []

  def chase(
    self, n: int, bytes_: int, warm: int, hops: int, repeats: int
  ) -> list[samples.Timing]:
    """Chases indices in a `lax.fori_loop`, which adds about 2 ns per hop."""
    _one_thread(n)
    if self._chain is None or self._chain[0] != bytes_:
      self._chain = (bytes_, *_jax_chase(bytes_))
    _, walk, start = self._chain
    at = walk(start, max(warm, 1))
    timings = []
    for _ in range(repeats):
      clock = _Clock()
      at = walk(at, hops)
      timings.append(clock.read())
    self._chain = (bytes_, walk, at)
    return timings

  def sweep(
    self, op: str, n: int, bytes_: int, window: int, offset: int, warm: int,
    passes: int, repeats: int,
  ) -> list[samples.Timing]:  # fmt: skip
    """Runs numpy over arrays that exist already (`out=`)."""
    _one_thread(n)
    pieces = itertools.count(offset // window)
    if not self._arrays or self._arrays[0].nbytes < bytes_:
      self._arrays = [np.ones(bytes_ // 8) for _ in range(3)]

    def once():
      start = next(pieces) % (bytes_ // window) * window
      part = slice(start // 8, (start + window) // 8)
      a, b, c = (array[part] for array in self._arrays)
      if op == 'stream':
        np.add.reduce(a)
      elif op == 'copy':
        np.copyto(a, b)
      else:
        np.multiply(c, 3.0, out=a)
        np.add(a, b, out=a)

    for _ in range(warm):
      once()
    timings = []
    for _ in range(repeats):
      clock = _Clock()
      for _ in range(passes):
        once()
      timings.append(clock.read())
    return timings

  def loaded(self, *_: object) -> list[tuple[samples.Timing, float]]:
    """Cannot be measured from Python: the threads hold each other up."""
    raise errors.CollectError('loaded latency needs a C compiler')

  def read_file(
    self, fd: int, depth: int, block: int, blocks: int, *, sequential: bool,
    first: int, duration_s: float, least: int, seed: int,
  ) -> samples.Reads:  # fmt: skip
    """Reads blocks with `depth` Python threads for `duration_s`."""
    results: list[tuple[float, float, int] | OSError] = []
    gate = threading.Barrier(depth)

    def body(thread: int) -> None:
      buffer = _aligned(block)
      at = np.random.default_rng(seed + thread).integers(blocks, size=4096)
      gate.wait()
      clock, count, busy = _Clock(), 0, 0.0
      try:
        while count < least or busy < duration_s:
          number = first + count if sequential else int(at[count % 4096])
          got = os.preadv(fd, [buffer], number % blocks * block)
          if got != block:
            raise OSError(f'read {got} of {block} bytes')
          count += 1
          busy = clock.read().wall_s
        results.append((busy, clock.read().cpu_s, count))
      except OSError as error:
        results.append(error)

    threads = [threading.Thread(target=body, args=(t,)) for t in range(depth)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    for result in results:
      if isinstance(result, OSError):
        raise result
    return samples.Reads(
      *(sum(column) for column in zip(*results, strict=True))
    )

  def close(self) -> None:
    """Gives the memory back."""
    self._chain = None
    self._arrays = []


class _Clock:
  """Wall and thread CPU time since it was made."""

  def __init__(self):
    self._cpu, self._wall = time.thread_time(), time.perf_counter()

  def read(self) -> samples.Timing:
    wall = time.perf_counter() - self._wall
    return samples.Timing(wall, time.thread_time() - self._cpu)


def _one_thread(n: int) -> None:
  if n != 1:
    raise errors.CollectError('several threads need a C compiler')


def _aligned(size: int) -> memoryview:
  """A buffer aligned for O_DIRECT."""
  raw = np.zeros(size + _PAGE, np.uint8)
  start = -raw.ctypes.data % _PAGE
  return memoryview(raw[start : start + size])


def random_cycle(lines: int, seed: int = 0) -> np.ndarray:
  """Successor of each line in one uniformly random cycle, int64."""
  order = np.random.default_rng(seed).permutation(lines)
  following = np.empty(lines, np.int64)
  following[order] = np.roll(order, -1)
  return following


def _jax_chase(bytes_: int):
  """A jitted walk over one int32 index per line, and its first position."""
  import jax

  lines = bytes_ // 64
  table = np.zeros((lines, 2 * _LINE), np.int32)
  table[:, 0] = random_cycle(lines) * 2 * _LINE
  table = jax.device_put(table.reshape(-1))

  @jax.jit
  def walk(table, start, hops):
    return jax.lax.fori_loop(0, hops, lambda _, at: table[at], start)

  def run(start, hops: int):
    return walk(table, start, hops).block_until_ready()

  return run, jax.device_put(np.int32(0))
