"""The law of matrix products against loops, and what must not fall."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from diffmem.cost import kernels
from diffmem.cost.kernels import gemm, work

sizes = st.integers(1, 40_000)
UNITS = 132


def law(m, n, k, **columns):
  shape = {'m': m, 'n': n, 'k': k, **columns}
  arrays = {name: np.atleast_1d(float(v)) for name, v in shape.items()}
  return kernels.LAWS['gemm'].work(arrays, UNITS)


def best_tile_by_loops(m, n, k, units):
  """Hands tiles out to units one by one."""
  best = np.inf
  for rows, columns in gemm._TILES:
    slowdown = 1 + 8 * (rows + columns) / (rows * columns)
    for splits in (1, 2, 4, 8):
      depth = max(k / splits, min(k, 512))
      load = [0] * units
      parts = -(-m // rows) * -(-n // columns) * splits
      for part in range(parts):
        load[part % units] += 1
      unit_flops = max(load) * 2 * depth * rows * columns
      best = min(best, unit_flops * units * slowdown)
  return best


@pytest.mark.parametrize(
  'm, n, k', [(1, 64, 64), (17, 900, 700), (300, 500, 4000), (512, 512, 512)]
)
def test_padding_against_loops(m, n, k):
  for units in (4, 13):
    found, _ = gemm.best_tile(*np.array([[m], [n], [k]], float), units)
    assert found[0] == pytest.approx(best_tile_by_loops(m, n, k, units))


@given(sizes, sizes, sizes)
def test_no_less_than_the_product(m, n, k):
  assert law(m, n, k).flops[0] >= 2.0 * m * n * k


@given(sizes, sizes, sizes, st.sampled_from('mnk'))
def test_more_never_asks_for_less(m, n, k, name):
  small = {'m': m, 'n': n, 'k': k}
  less, more = law(**small), law(**{**small, name: small[name] + 1})
  for field in ('flops', 'read_B', 'write_B', 'working_set_B'):
    assert getattr(more, field)[0] >= getattr(less, field)[0]


@given(sizes, sizes, sizes)
def test_busy_share(m, n, k):
  assert 0 < law(m, n, k).occupancy[0] <= 1


def test_split_depth_fills_the_device():
  assert law(16, 512, 8192).occupancy[0] > law(16, 512, 512).occupancy[0]


def test_bytes():
  plain = law(3, 5, 7)
  assert plain.read_B[0] == 2 * (3 * 7 + 5 * 7)
  assert plain.write_B[0] == 2 * 3 * 5
  narrow = law(3, 5, 7, element_B=1, weight_bytes=20)
  assert narrow.read_B[0] == 3 * 7 + 20
  assert narrow.working_set_B[0] == 3 * 7 + 20 + 30


def test_the_trace_knows_its_working_set():
  assert law(3, 5, 7, working_set_bytes=1e6).working_set_B[0] == 1e6
  missing = law(3, 5, 7, working_set_bytes=np.nan)
  assert missing.working_set_B[0] == law(3, 5, 7).working_set_B[0]


def test_waves_and_tile_shares():
  full, share = work.waves(np.array([1.0, 132.0, 133.0]), UNITS)
  assert full.tolist() == [1, 1, 2]
  assert share == pytest.approx([1 / 132, 1, 133 / 264])
  assert work.tile_share(np.array([1.0, 64.0, 65.0]), 64) == pytest.approx(
    [1 / 64, 1, 65 / 128]
  )
