"""Attention cores of every kind of layer, and formats of weight groups."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from diffmem.workloads import Formats, Transformer, load_workload, stage
from diffmem.workloads.linear_attention import LinearAttention
from diffmem.workloads.transformer import (
  Attention,
  CompressedAttention,
  LatentAttention,
)


def model_of(**changes) -> Transformer:
  fields = {
    'name': 'small', 'source': 'test', 'layers': 6, 'd_model': 64,
    'd_ff': 96, 'vocab': 100, 'max_context': 8192,
    'attention': Attention(heads=4, kv_heads=2, head_dim=16), **changes,
  }  # fmt: skip
  return Transformer(**fields)


WINDOWED = Attention(
  heads=4, kv_heads=2, head_dim=16, window=100, windowed_layers=4
)
INDEXED = LatentAttention(
  heads=4, q_rank=48, kv_rank=32, nope_dim=16, rope_dim=8, v_dim=24,
  index_heads=2, index_dim=16, index_top_k=64,
)  # fmt: skip
COMPRESSED = CompressedAttention(
  heads=4, head_dim=16, q_rank=8, o_groups=2, o_rank=8, ratio=4, window=50,
  index_heads=2, index_dim=16, index_top_k=30,
)  # fmt: skip
DELTA = LinearAttention(
  layers=3, key_heads=2, value_heads=4, key_dim=16, value_dim=8, conv=4
)


def _mean_keys(seq_len: int, limit: int) -> float:
  """Keys of a causal token, one by one; half of its own."""
  tokens = np.arange(seq_len) + 0.5
  return float(np.minimum(tokens, limit).mean())


@pytest.mark.parametrize('seq_len', [64, 100, 1000, 4096])
def test_causal_cores_token_by_token(seq_len):
  windowed = model_of(attention=WINDOWED)
  per_key = 4 * 4 * 16
  keys = (4 * _mean_keys(seq_len, 100) + 2 * seq_len / 2) / 6
  found = stage.causal_core_flops(windowed, seq_len)
  assert found == pytest.approx(per_key * keys, rel=1e-3)
  indexed = model_of(attention=INDEXED)
  core = 2 * 4 * (16 + 8 + 24) * _mean_keys(seq_len, 64)
  index = 2 * 2 * 16 * seq_len / 2
  found = stage.causal_core_flops(indexed, seq_len)
  assert found == pytest.approx(core + index, rel=1e-3)
  compressed = model_of(attention=COMPRESSED)
  keys = _mean_keys(seq_len, 50) + _mean_keys(seq_len, 120) / 4
  found = stage.causal_core_flops(compressed, seq_len)
  index = 2 * 2 * 16 * seq_len / 4 / 2
  assert found == pytest.approx(4 * 64 * keys + index, rel=1e-3)


def test_decode_cores():
  windowed = model_of(attention=WINDOWED)
  found = stage.decode_core_flops(windowed, 1000)
  assert found == pytest.approx(256 * (4 * 100 + 2 * 1000) / 6)
  indexed = model_of(attention=INDEXED)
  absorbed = 2 * 4 * (32 + 8 + 32)
  found = stage.decode_core_flops(indexed, 1000)
  assert found == pytest.approx(absorbed * 64 + 2 * 2 * 16 * 1000)


def test_linear_layers_do_not_depend_on_the_context():
  model = model_of(linear=DELTA)
  short, long = (stage.decode_core_flops(model, k) for k in (10, 20))
  assert long - short == pytest.approx(256 * 10 * 3 / 6)
  states = 3 * 2 * 4 * 16 * 8 + 2 * 4 * (2 * 32 + 32)
  assert short == pytest.approx((3 * 256 * 10 + 3 * states) / 6)
  assert stage.causal_core_flops(model, 20) == pytest.approx(short)


@hypothesis.given(
  tokens=st.integers(1, 8000),
  attention=st.sampled_from([WINDOWED, INDEXED, COMPRESSED]),
  linear=st.booleans(),
)
def test_more_tokens_never_cost_less(tokens, attention, linear):
  if attention is WINDOWED and linear:
    attention = WINDOWED.model_copy(update={'windowed_layers': 2})
  model = model_of(attention=attention, linear=DELTA if linear else None)
  for flops in (stage.causal_core_flops, stage.decode_core_flops):
    assert flops(model, tokens + 1) >= flops(model, tokens) > 0


def test_a_window_as_long_as_the_sequence_is_none():
  plain, windowed = model_of(), model_of(attention=WINDOWED)
  for flops in (stage.causal_core_flops, stage.decode_core_flops):
    assert flops(windowed, 100) == flops(plain, 100)


def test_bytes_of_weights_follow_their_part():
  formats = Formats(weights='float8', experts='nvfp4', attention='bfloat16')
  found = stage.value_B(model_of(formats=formats))
  assert found == {
    stage.ATTENTION: 2.0, stage.MLP: 1.0, stage.EXPERTS: 0.5625,
    stage.EMBEDDINGS: 2.0,
  }  # fmt: skip
  assert stage.value_B(load_workload('llama-3.1-8b')) == dict.fromkeys(
    found, 2.0
  )
