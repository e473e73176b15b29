"""Routed experts: bytes and padding by hand and by loops."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from diffmem.cost import kernels
from diffmem.cost.kernels import routing

UNITS = 132


def law(**columns):
  shape = {
    'num_tokens': 64, 'hidden_size': 2048, 'inter_size': 768, 'topk': 8,
    'num_experts': 128, 'tensor_shards': 1, 'expert_shards': 1,
    **columns,
  }  # fmt: skip
  arrays = {name: np.atleast_1d(float(v)) for name, v in shape.items()}
  return kernels.LAWS['moe'].work(arrays, UNITS)


def test_weights_of_active_experts_only():
  expert_B = 3 * 2048 * 768 * 2
  per_row_B = 2048 * 6 + 768 * (4 + 2)
  few = law(num_tokens=4)
  assert few.read_B[0] == pytest.approx(32 * expert_B + 32 * per_row_B)
  many = law(num_tokens=1000)
  assert many.read_B[0] == pytest.approx(128 * expert_B + 8000 * per_row_B)


def test_weights_as_the_trace_counts_them():
  uniform = routing.uniform_active(64.0, 8.0, 128.0, 1.0)
  plain = law()
  assert law(weight_bytes=uniform * 3 * 2048 * 768 * 2).read_B[
    0
  ] == pytest.approx(plain.read_B[0])
  assert law(weight_bytes=0).read_B[0] < plain.read_B[0] / 5


def test_ungated_experts_have_two_matrices():
  gated, plain = law(), law(gated=0)
  assert plain.flops[0] == pytest.approx(gated.flops[0] * 2 / 3, rel=0.1)
  assert plain.read_B[0] < 0.7 * gated.read_B[0]


def test_shards_divide_the_work():
  whole = law(num_tokens=4096)
  assert law(num_tokens=4096, tensor_shards=2).flops[0] == pytest.approx(
    whole.flops[0] / 2, rel=0.1
  )
  assert law(num_tokens=4096, expert_shards=8).flops[0] == pytest.approx(
    whole.flops[0] / 8, rel=0.1
  )


def test_skew_loads_the_busiest_device():
  even = law(num_tokens=4096, expert_shards=16)
  skewed = law(num_tokens=4096, expert_shards=16, routing_skew=1.01)
  assert 1.5 < skewed.flops[0] / even.flops[0] < 6


@given(
  st.integers(1, 20_000),
  st.sampled_from([1, 4, 32]),
  st.sampled_from([1, 8]),
  st.sampled_from([0.0, 1.01]),
)
def test_no_less_than_the_products(tokens, shards, tensor, skew):
  found = law(
    num_tokens=tokens,
    expert_shards=shards,
    tensor_shards=tensor,
    routing_skew=skew,
  )
  rows = max(tokens * 8 / shards, 1)
  assert found.flops[0] >= 2 * rows * 3 * 2048 * 768 / tensor * (1 - 1e-9)
  assert 0 < found.occupancy[0] <= 1
  assert all(np.isfinite(v).all() for v in found.features.values())


@given(
  st.integers(1, 5000),
  st.sampled_from(['num_tokens', 'hidden_size', 'inter_size', 'topk']),
)
def test_more_never_asks_for_less(tokens, name):
  small = {
    'num_tokens': tokens, 'hidden_size': 2048, 'inter_size': 768, 'topk': 8,
  }  # fmt: skip
  less, more = law(**small), law(**{**small, name: small[name] + 1})
  for field in ('flops', 'read_B', 'write_B'):
    assert getattr(more, field)[0] >= getattr(less, field)[0] * (1 - 1e-9)


def test_few_rows_take_small_tiles():
  # 32 experts with one row each: far less than 128 rows of padding.
  padded = 2 * 32 * 128 * 3 * 2048 * 768
  assert law(num_tokens=4).flops[0] < padded / 2
