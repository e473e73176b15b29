"""Prompts: FLOPs and bytes against kernels and by hand; mixed steps."""

import jax
import numpy as np
import pytest

from diffmem.workloads import (
  Choices,
  Decoding,
  Machine,
  load_workload,
  lower_decode,
)
from diffmem.workloads.kernels import Sequences, Shard, forward
from diffmem.workloads.mixed import lower_mixed
from diffmem.workloads.prefill import (
  Prefilling,
  chunk_of,
  lower_prefill,
  prompt_of,
)

MACHINE = Machine(
  ('HBM',), ('',), ('NVLink', 'IB'), (8, 64), 'matrix:bfloat16', 0.9
)


def _choices(**given) -> Choices:
  return Choices.of(
    **{k: np.array([float(v)]) for k, v in {'tensor': 1, **given}.items()}
  )


def _lower(name, phase, **given):
  return lower_prefill(load_workload(name), phase, _choices(**given), MACHINE)


def _flops(kernels) -> float:
  """FLOPs of products, attention cores and experts of a pass."""
  total = 0.0
  for op, _, count, s in kernels:
    if op == 'gemm':
      total += count * 2 * s['m'] * s['n'] * s['k']
    elif op == 'prefill_attention':
      pairs = s['batch_size'] * s['num_heads'] * s['seq_len'] ** 2 / 2
      total += count * 4 * s['head_dim'] * pairs
    elif op == 'mla_prefill':
      pairs = s['batch_size'] * s['num_heads'] * s['seq_len'] ** 2 / 2
      total += count * 2 * (128 + 64 + 128) * pairs
    elif op == 'moe':
      rows = s['num_tokens'] * s['topk']
      total += count * 6 * rows * s['hidden_size'] * s['inter_size']
  return total


@pytest.mark.parametrize('cached', [0, 3000])
@pytest.mark.parametrize('name', ['llama-3.1-8b', 'deepseek-v3'])
def test_flops_are_those_of_the_kernels(name, cached):
  lowered = _lower(name, Prefilling(3, 2000, cached))
  kernels = forward(
    load_workload(name), Shard(), [Sequences(3, 2000, cached)], head_rows=3
  ).kernels
  found = float(lowered.flops[0, 0])
  assert found == pytest.approx(_flops(kernels), rel=5e-3)
  assert float(lowered.model_flops[0]) == pytest.approx(found, rel=1e-6)


def test_a_prompt_leaves_its_keys_and_reads_those_before_once():
  lowered = _lower('llama-3.1-70b', Prefilling(4, 1000, 500), tensor=8)
  token_B = 80 * 2 * 2 * 8 * 128 / 8  # one of eight key heads
  at = lowered.groups.index('kv_cache')
  assert float(lowered.size_B[0, at]) == pytest.approx(4 * 1500 * token_B)
  assert float(lowered.group_write_B[0, 0, at]) == pytest.approx(
    4 * 1000 * token_B
  )
  assert float(lowered.group_read_B[0, 0, at]) == pytest.approx(
    4 * 500 * token_B
  )
  assert float(lowered.units[0, at]) == np.ceil(1500 / 16)
  at = lowered.groups.index('mlp_weights')
  assert float(lowered.group_read_B[0, 0, at]) == pytest.approx(
    80 * 3 * 8192 * 28672 * 2 / 8
  )


def test_bytes_on_the_links_by_hand():
  tokens, width = 4 * 1000, 8192
  lowered = _lower('llama-3.1-70b', Prefilling(4, 1000), tensor=8)
  sent_B = lowered.sent_B[0].sum(0)
  # Two all-reduces of each of 80 layers, 2 (1 - 1/8) of the payload each.
  one = 2 * 7 / 8 * 2 * tokens * width
  np.testing.assert_allclose(sent_B, [160 * one, 0.0], rtol=1e-5)
  # Whole attention: its keys and values are gathered instead.
  lowered = _lower(
    'llama-3.1-70b', Prefilling(4, 1000), tensor=8, attention_by=1
  )
  keys_B = 80 * tokens * 2 * 2 * 8 * 128 * 7 / 8
  np.testing.assert_allclose(
    lowered.sent_B[0].sum(0), [80 * one + keys_B, 0.0], rtol=1e-5
  )
  # Context ranks beyond the node gather them too, one head each; two halves.
  lowered = _lower('llama-3.1-70b', Prefilling(4, 1000), tensor=8, context=2)
  keys_B = 80 * tokens * 2 * 2 * 128 / 2
  np.testing.assert_allclose(
    lowered.sent_B[0].sum(0), [80 * one, keys_B], rtol=1e-5
  )


@pytest.mark.parametrize('name', ['llama-3.1-70b', 'deepseek-v3'])
def test_ranks_share_the_work(name):
  model, phase = load_workload(name), Prefilling(16, 1024)
  expand = 16 * 1024 * 61 * 2 * 512 * 128 * (128 + 128)
  alone = _lower(name, phase)
  for given in (
    {'tensor': 8}, {'data': 4}, {'context': 4},
    {'tensor': 4, 'data': 2, 'attention_by': 1},
  ):  # fmt: skip
    shared = _lower(name, phase, **given)
    ranks = float(np.prod([v for k, v in given.items() if '_by' not in k]))
    again = 0.0
    if model.attention.kind == 'mla' and len(given) != 1:
      again = (given['tensor'] - 1) * expand  # each rank expands all keys
    elif model.attention.kind == 'mla' and 'context' in given:
      again = (given['context'] - 1) * expand
    assert float(shared.flops[0, 0]) * ranks == pytest.approx(
      float(alone.flops[0, 0]) + again, rel=1e-5
    )
    assert float(shared.tokens[0]) == 16 * 1024


def test_pieces_of_a_prompt_add_up_to_it():
  model = load_workload('llama-3.1-8b')
  whole = prompt_of(model, 4096, 512)
  pieces = [prompt_of(model, 1024, 512 + 1024 * i) for i in range(4)]
  mean = chunk_of(model, 4096, 512, 1024)
  head = 2 * model.vocab * model.d_model
  flops = sum(p.flops for p in pieces) - 3 * head
  assert flops == pytest.approx(whole.flops)
  assert 4 * mean.flops - 3 * head == pytest.approx(whole.flops)
  cache = whole.caches['kv_cache']
  written_B = sum(p.caches['kv_cache'].written_B for p in pieces)
  assert written_B == pytest.approx(cache.written_B)
  # Later pieces read the earlier ones.
  read_B = sum(p.caches['kv_cache'].read_B for p in pieces)
  assert read_B == pytest.approx(4 * mean.caches['kv_cache'].read_B)
  assert read_B > cache.read_B


@pytest.mark.parametrize(
  ('name', 'groups'),
  [
    ('gpt-oss-20b', {'kv_cache', 'kv_cache_windowed'}),
    ('qwen3.5-397b-a17b', {'kv_cache', 'states'}),
  ],
)
def test_kinds_of_layers_have_caches_of_their_own(name, groups):
  lowered = _lower(name, Prefilling(2, 5000))
  found = {g for g in lowered.groups if g.startswith(('kv_', 'states'))}
  assert found == groups
  if 'kv_cache_windowed' in groups:
    sizes = dict(zip(lowered.groups, lowered.size_B[0], strict=True))
    ratio = float(sizes['kv_cache_windowed'] / sizes['kv_cache'])
    assert ratio == pytest.approx(128 / 5000)


def test_mixed_steps_join_both_and_read_weights_once():
  model, decoding = load_workload('llama-3.1-8b'), Decoding(32, 2000)
  prompt, choices = prompt_of(model, 512, 0), _choices(tensor=2)

  def mixed(sequences, prompts):
    one = decoding._replace(batch=sequences)
    return lower_mixed(model, one, prompt, prompts, choices, MACHINE)

  def equal(a, b):
    a, b = (jax.tree.map(np.asarray, x) for x in (a, b))
    for field in (
      'flops',
      'group_read_B',
      'group_write_B',
      'sent_B',
      'messages',
    ):
      np.testing.assert_allclose(
        getattr(a, field), getattr(b, field), rtol=1e-5
      )

  decode = lower_decode(model, decoding, choices, MACHINE)
  equal(mixed(32, 0), decode)
  prefill = lower_prefill(model, Prefilling(2, 512), choices, MACHINE)
  equal(mixed(0, 2), prefill)
  both = mixed(32, 2)
  np.testing.assert_allclose(both.flops, decode.flops + prefill.flops)
  read_B = dict(zip(both.groups, both.group_read_B[0, 0], strict=True))
  alone_B = dict(zip(decode.groups, decode.group_read_B[0, 0], strict=True))
  assert read_B['mlp_weights'] == alone_B['mlp_weights']
  assert float(both.fixed_B[0]) > float(decode.fixed_B[0])
