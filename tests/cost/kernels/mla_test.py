"""Latent attention: bytes by hand, work against loops."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from diffmem.cost import kernels
from diffmem.cost.kernels import gemm

UNITS = 132


def law(op, **columns):
  arrays = {name: np.atleast_1d(float(v)) for name, v in columns.items()}
  return kernels.LAWS[op].work(arrays, UNITS)


@given(st.integers(1, 2000), st.integers(1, 64), st.integers(1, 128))
def test_prefill_does_every_pair(length, batch, heads):
  found = law('mla_prefill', batch_size=batch, seq_len=length, num_heads=heads)
  pairs = sum(i + 1 for i in range(length))
  assert found.flops[0] >= 2 * (192 + 128) * batch * heads * pairs
  assert found.write_B[0] == 2 * 128 * batch * length * heads


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 128))
def test_decode_does_every_pair(length, batch, heads):
  found = law('mla_decode', batch_size=batch, kv_len=length, num_heads=heads)
  assert found.flops[0] >= 2.0 * (576 + 512) * batch * heads * length
  assert 0 < found.occupancy[0] <= 1


def test_decode_reads_one_latent_for_64_heads():
  cache_B = 4 * 1000 * 576
  for heads, reads in ((1, 1), (64, 1), (128, 2)):
    found = law(
      'mla_decode', batch_size=4, kv_len=1000, num_heads=heads, kv_B=1
    )
    assert found.read_B[0] == reads * cache_B + 2 * 4 * heads * 576
    assert found.write_B[0] == 2 * 4 * heads * 512


@given(
  st.integers(1, 3000),
  st.integers(1, 100),
  st.integers(1, 128),
  st.integers(0, 2),
)
def test_more_never_asks_for_less(length, batch, heads, grown):
  for op, name in (('mla_prefill', 'seq_len'), ('mla_decode', 'kv_len')):
    sizes = [length, batch, heads]
    names = [name, 'batch_size', 'num_heads']
    less = law(op, **dict(zip(names, sizes, strict=True)))
    sizes[grown] += 1
    more = law(op, **dict(zip(names, sizes, strict=True)))
    for field in ('flops', 'read_B', 'write_B', 'occupancy'):
      assert getattr(more, field)[0] >= getattr(less, field)[0]


def test_products_of_all_heads_are_one_launch():
  found = law('mla_bmm', m=100, n=512, k=128, num_heads=16)
  alone, _ = gemm.best_tile(*np.array([[100], [512], [128]], float), UNITS)
  assert found.flops[0] < 16 * alone[0]
  assert found.flops[0] >= 2 * 16 * 100 * 512 * 128
  assert found.read_B[0] == 2 * 16 * (100 * 128 + 128 * 512)
  assert found.write_B[0] == 2 * 16 * 100 * 512


def test_narrow_products_make_their_operand():
  narrow = law('mla_bmm', m=10, n=512, k=128, num_heads=2, element_B=1)
  assert narrow.read_B[0] == 2 * (10 * 128 * 3 + 128 * 512)
  assert narrow.write_B[0] == 2 * 10 * (2 * 512 + 128)


@pytest.mark.parametrize('op', ['mla_prefill', 'mla_decode', 'mla_bmm'])
def test_features_are_finite(op):
  found = law(
    op, batch_size=1, seq_len=1, kv_len=0, num_heads=1, m=1, n=512, k=128
  )
  assert all(np.isfinite(v).all() for v in found.features.values())
