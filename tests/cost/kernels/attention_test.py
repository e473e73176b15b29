"""Attention laws against loops over queries, tiles and units."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from diffmem.cost import kernels
from diffmem.cost.kernels import attention

UNITS = 132
lengths = st.integers(1, 3000)
windows = st.sampled_from([0, 1, 5, 128, 1000, 8192])


def law(op, **columns):
  shape = {
    'num_heads': 32, 'num_kv_heads': 8, 'head_dim': 128, 'window_size': 0,
    **columns,
  }  # fmt: skip
  arrays = {name: np.atleast_1d(float(v)) for name, v in shape.items()}
  return kernels.LAWS[op].work(arrays, UNITS)


def prefill(**columns):
  return law('prefill_attention', **{'batch_size': 2, **columns})


def decode(**columns):
  return law('decode_attention', **{'batch_size': 2, 'kv_len': 999, **columns})


class TestPairs:
  @given(lengths, windows)
  def test_pairs_by_query(self, length, window):
    expected = sum(
      min(i + 1, window) if window else i + 1 for i in range(length)
    )
    found = attention.causal_pairs(np.array([length]), np.array([window]))
    assert found[0] == expected

  @given(lengths, windows, st.sampled_from([16, 128]))
  def test_pairs_of_tiles_by_mask(self, length, window, tile):
    tiles = -(-length // tile)
    expected = 0
    for queries in range(tiles):
      # As if the last tile were whole: a tile does all of its work.
      first, last = queries * tile, queries * tile + tile - 1
      oldest = max(0, first - window + 1) if window else 0
      expected += last // tile - oldest // tile + 1
    found = attention.tile_pairs(
      np.array([float(length)]), np.array([float(window)]), tile
    )
    assert found[0] == expected

  def test_makespan_of_ascending_tiles(self):
    # Tiles of 1, 2, ... blocks, several heads, go to the first free unit.
    for heads, tiles, units in ((8, 32, 132), (16, 64, 132), (4, 20, 7)):
      free = np.zeros(units)
      for length in np.repeat(np.arange(1, tiles + 1), heads):
        free[free.argmin()] += length
      blocks = heads * tiles * (tiles + 1) / 2
      found = attention.makespan(np.array(blocks), np.array(tiles), units)
      assert found / units == pytest.approx(free.max(), rel=0.12)


class TestPrefill:
  @given(lengths, windows, st.integers(1, 64), st.sampled_from([64, 192]))
  def test_no_less_than_the_pairs(self, length, window, batch, dim):
    found = prefill(
      batch_size=batch, seq_len=length, window_size=window, head_dim=dim
    )
    pairs = attention.causal_pairs(np.array(length), np.array(window))
    assert found.flops[0] >= 4.0 * dim * batch * 32 * pairs

  @given(lengths, windows, st.sampled_from(['seq_len', 'batch_size']))
  def test_more_never_asks_for_less(self, length, window, name):
    small = {'batch_size': 3, 'seq_len': length, 'window_size': window}
    less, more = prefill(**small), prefill(**{**small, name: small[name] + 1})
    for field in ('flops', 'read_B', 'write_B', 'occupancy'):
      assert getattr(more, field)[0] >= getattr(less, field)[0]

  def test_a_window_saves_work(self):
    whole = prefill(seq_len=16384)
    part = prefill(seq_len=16384, window_size=128)
    assert part.flops[0] < whole.flops[0] / 20
    assert part.read_B[0] == whole.read_B[0]

  def test_a_narrow_cache_saves_bytes_and_time(self):
    wide, narrow = prefill(seq_len=512), prefill(seq_len=512, kv_B=1)
    assert narrow.read_B[0] < wide.read_B[0]
    assert narrow.flops[0] < wide.flops[0]
    both = prefill(seq_len=512, kv_B=1, element_B=1)
    assert both.flops[0] == wide.flops[0]


class TestDecode:
  def test_cache_bytes(self):
    found = decode(batch_size=3, kv_len=100, kv_B=1)
    cache_B = 2 * 3 * 8 * 100 * 128
    assert found.read_B[0] == cache_B + 2 * 3 * 32 * 128
    assert found.write_B[0] == 2 * 3 * 32 * 128

  def test_a_window_bounds_the_cache(self):
    inside = decode(kv_len=128)
    beyond = decode(kv_len=100_000, window_size=128)
    assert beyond.read_B[0] == inside.read_B[0]

  def test_large_groups_read_the_cache_per_head(self):
    own_B = 2 * 2 * 128
    cache_B = 2 * 2 * 999 * 128 * 2
    for heads, reads in ((8, 1), (32, 1), (33, 33), (64, 64)):
      found = decode(num_heads=heads, num_kv_heads=1)
      assert found.read_B[0] == reads * cache_B + own_B * heads
      assert found.working_set_B[0] == cache_B + 2 * own_B * heads

  @given(
    st.integers(1, 5000), st.integers(1, 300), st.sampled_from([1, 4, 8, 64])
  )
  def test_no_less_than_the_pairs(self, length, batch, kv_heads):
    found = decode(
      batch_size=batch, kv_len=length, num_kv_heads=kv_heads, num_heads=64
    )
    assert found.flops[0] >= 4.0 * batch * 64 * length * 128
    assert 0 < found.occupancy[0] <= 1

  @given(st.integers(1, 70), st.sampled_from(['kv_len', 'batch_size']))
  def test_more_never_asks_for_less(self, heads, name):
    small = {'kv_len': 300, 'batch_size': 5, 'num_kv_heads': 1}
    for grown in (name, 'num_heads'):
      start = {**small, 'num_heads': heads}
      less, more = decode(**start), decode(**{**start, grown: start[grown] + 1})
      for field in ('flops', 'read_B', 'write_B', 'occupancy'):
        assert getattr(more, field)[0] >= getattr(less, field)[0]
