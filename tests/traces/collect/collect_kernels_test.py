import ctypes
import os

import numpy as np
import pytest

LINES = 4096


def _view(address, count, kind):
  size = count * np.dtype(kind).itemsize
  raw = (ctypes.c_char * size).from_address(address)
  return np.frombuffer(raw, kind)


def test_the_cycle_visits_every_line_once(kernels):
  kernels.chase(1, LINES * 64, 0, 8, 1)
  base, _ = kernels._buffers[LINES * 64, 0]
  following = _view(base, LINES * 8, np.uint64)[::8].astype(np.int64)
  following = (following - base) // 64
  at, seen = 0, set()
  for _ in range(LINES):
    seen.add(at)
    at = int(following[at])
  assert at == 0 and len(seen) == LINES
  steps = np.abs(following - np.arange(LINES))
  assert np.median(steps) > LINES / 8  # random, not sequential


def test_a_chase_takes_as_many_hops_as_asked(kernels):
  """A whole turn of the cycle ends where it began; half a turn does not."""
  size = LINES * 64
  kernels.chase(1, size, 0, 8, 1)
  start = kernels._at[size, 0]
  kernels.chase(1, size, LINES // 2, LINES // 4, 1)
  assert kernels._at[size, 0] != start
  kernels.chase(1, size, LINES // 8, LINES // 16, 2)
  assert kernels._at[size, 0] == start


def _array(kernels, op, size, number):
  base = kernels._array(0, op, size)
  pitch = -(-size // 4096) * 4096 + 22 * 64
  return _view(base + number * pitch, size // 8, np.float64)


def test_copy_and_triad_compute_what_they_say(kernels):
  size = 64 * 1024
  for op, expected in (('copy', 5.0), ('triad', 5.0 + 3 * 7.0)):
    a, b = (_array(kernels, op, size, i) for i in range(2))
    a[:], b[:] = 0.0, 5.0
    if op == 'triad':
      _array(kernels, op, size, 2)[:] = 7.0
    kernels.sweep(op, 1, size, size, 0, 0, 1, 1)
    assert (a == expected).all()
    assert (b == 5.0).all()


def test_pieces_go_on_from_the_offset_and_wrap(kernels):
  size, window = 64 * 1024, 16 * 1024
  a, b = (_array(kernels, 'copy', size, i) for i in range(2))
  a[:], b[:] = 0.0, 5.0
  kernels.sweep('copy', 1, size, window, 3 * window, 1, 1, 1)
  touched = a.reshape(4, -1).mean(axis=1)
  assert touched.tolist() == [5.0, 0.0, 0.0, 5.0]


def test_times_are_those_of_the_work(kernels):
  """Sixteen times the hops cannot be faster than eight times."""
  size = 16 * 1024
  (short,) = kernels.chase(1, size, 1000, 8_000, 1)
  (long,) = kernels.chase(1, size, 1000, 800_000, 1)
  assert long.wall_s > short.wall_s > 0
  assert long.cpu_s > 800_000 * 1e-10  # no CPU hops in 0.1 ns


def test_memory_is_bounded(kernels):
  kernels._room = 8 * 2**20
  for size in (2**20, 2**20 + 64 * 8, 2**20 + 128 * 8, 2**21, 2**22):
    kernels.chase(1, size, 0, 8, 1)
    held = sum(size for _, size in kernels._buffers.values())
    assert held <= 8 * 2**20


def test_loaded_counts_the_load(kernels, machine):
  if len(machine.cpus) < 2:
    pytest.skip('needs two CPUs')
  size = 2**20
  results = kernels.loaded('stream', 2, size, size, 0, 800, 80_000, 2)
  assert all(moved > 0 for _, moved in results)
  assert all(moved % 1024 == 0 for _, moved in results)


def test_reads_are_counted_and_errors_have_a_name(kernels, tmp_path):
  path = tmp_path / 'data'
  path.write_bytes(b'x' * 65536)
  fd = os.open(path, os.O_RDONLY)
  options = {'first': 3, 'duration_s': 0.0, 'least': 5, 'seed': 1}
  for sequential in (False, True):
    reads = kernels.read_file(fd, 3, 4096, 16, sequential=sequential, **options)
    assert reads.count == 15
    assert reads.busy_s > 0
  with pytest.raises(OSError):  # beyond the end of the file
    kernels.read_file(fd, 1, 65536, 2, sequential=True, **options)
  os.close(fd)
  with pytest.raises(OSError, match='Bad file descriptor'):
    kernels.read_file(fd, 1, 4096, 16, sequential=True, **options)
