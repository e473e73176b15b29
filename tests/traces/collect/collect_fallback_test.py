import os

import numpy as np
import pytest

from diffmem import errors
from diffmem.traces.collect import fallback


@pytest.fixture
def kernels():
  made = fallback.NumpyKernels()
  yield made
  made.close()


def test_the_cycle_visits_every_line_once():
  following = fallback.random_cycle(1000, seed=3)
  at, seen = 0, set()
  for _ in range(1000):
    seen.add(at)
    at = following[at]
  assert at == 0 and len(seen) == 1000


def test_the_walk_follows_the_cycle(kernels):
  lines = 512
  timings = kernels.chase(1, lines * 64, lines // 2, lines // 4, 2)
  assert all(timing.wall_s > 0 for timing in timings)
  assert int(kernels._chain[2]) == 0  # one whole turn
  kernels.chase(1, lines * 64, 1, 1, 1)
  assert int(kernels._chain[2]) != 0


@pytest.mark.parametrize('op, expected', [('copy', 5.0), ('triad', 26.0)])
def test_sweeps_compute_what_they_say(kernels, op, expected):
  size, window = 32 * 1024, 8 * 1024
  kernels.sweep('stream', 1, size, size, 0, 0, 1, 1)
  a, b, c = kernels._arrays
  a[:], b[:], c[:] = 0.0, 5.0, 7.0
  kernels.sweep(op, 1, size, window, 3 * window, 1, 1, 1)
  assert a.reshape(4, -1).mean(axis=1).tolist() == [expected, 0, 0, expected]


def test_threads_are_refused_by_name(kernels):
  with pytest.raises(errors.CollectError, match='C compiler'):
    kernels.chase(2, 4096, 0, 8, 1)
  with pytest.raises(errors.CollectError, match='C compiler'):
    kernels.loaded()


def test_file_reads(kernels, tmp_path):
  path = tmp_path / 'data'
  path.write_bytes(np.random.default_rng(0).bytes(65536))
  fd = os.open(path, os.O_RDONLY)
  options = {'first': 1, 'duration_s': 0.0, 'least': 4, 'seed': 1}
  reads = kernels.read_file(fd, 3, 4096, 16, sequential=False, **options)
  assert reads.count == 12
  assert reads.busy_s > 0
  with pytest.raises(OSError):
    kernels.read_file(fd, 2, 65536, 2, sequential=True, **options)
  os.close(fd)
