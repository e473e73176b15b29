"""The what-if's benchmark: what it asks, pairs and counts, on a toy part."""

import dataclasses

import numpy as np
import pytest

from benchmarks import h200_from_h100, h200_kernels
from diffmem import fitting
from diffmem.traces import Traces

from . import device


@pytest.fixture(scope='module')
def answered():
  """A product of one row, which is all weights, and a square one."""
  old = device.spec()
  sheet = fitting.with_figures(old, {'HBM.read_Bps': 4e12}, 'a data sheet')
  new = fitting.part_swap(old, old, sheet)
  rows, _ = device.products(rows=4)
  size = np.array([1.0, 1.0, 4096.0, 1.0])
  shape = {'m': size, 'n': np.full(4, 16384.0), 'k': np.full(4, 16384.0)}
  weights = np.full(4, 2.0 * 16384.0**2)
  shape |= {
    'bytes_read': weights, 'bytes_written': 2.0 * size * 16384.0,
    'weight_bytes': weights, 'working_set_bytes': 6.0 * weights,
    'flops': 2.0 * size * 16384.0**2,
    'dtype': np.full(4, 'bfloat16', object),
  }  # fmt: skip
  rows = Traces(dict(rows.columns) | shape)
  times_s = np.array([300e-6, 500e-6, 5e-3])
  first = rows.select(np.arange(3))
  before = dataclasses.replace(
    first, columns=dict(first.columns) | {'time_s': times_s}
  )
  return h200_kernels.answered('gemm', rows, before, old, new)


def test_memory_bound_is_told_by_the_time_on_the_old_part(answered):
  bound = answered.share >= h200_kernels.MEMORY_BOUND
  assert bound.tolist() == [True, True, False, True]
  assert answered.share[0] == pytest.approx(
    2.0 * 16384.0**2 / 2e12 / answered.on_old_s[0], rel=1e-3
  )


def test_twice_the_bandwidth_halves_what_the_memory_takes(answered):
  gained_s = answered.on_old_s - answered.what_if_s
  memory_s = answered.share * answered.on_old_s
  # Less a little: what else takes time overlaps with a part of it.
  np.testing.assert_allclose(gained_s[:2], memory_s[:2] / 2, rtol=0.1)
  assert answered.said[2] < 1.1


def test_equal_shapes_are_paired_by_their_median(answered):
  # Rows 0, 1 and 3 are one shape, timed twice on the old part.
  np.testing.assert_allclose(answered.old_s, [4e-4, 4e-4, 5e-3, 4e-4])
  np.testing.assert_allclose(
    answered.speed_up, answered.old_s / answered.observed_s
  )


def test_errors_in_percent():
  found = h200_from_h100.errors_of(np.array([0.1, -0.3, 0.2]))
  assert found['rows'] == 3
  assert found['mape'] == pytest.approx(20.0)
  assert found['median'] == pytest.approx(20.0)
  assert found['bias'] == pytest.approx(10.0)
