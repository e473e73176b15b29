"""Kernels of a forward pass against operations counted by hand."""

import numpy as np
import pytest

from diffmem.workloads import load_workload, workload_names
from diffmem.workloads.kernels import Kernel, Pass, Sequences, Shard, forward

_ROWS = 512


def _gemm_flops(found: Pass) -> float:
  products = [k for k in found.kernels if k.op == 'gemm']
  shapes = [(k.count, k.shape) for k in products]
  return sum(2.0 * n * s['m'] * s['n'] * s['k'] for n, s in shapes)


def test_dense_products_are_two_operations_per_parameter_and_token():
  model = load_workload('llama-3.1-8b')
  count = model.parameters()
  found = forward(model, Shard(), [Sequences(1, _ROWS)])
  table = model.vocab * model.d_model  # the input table is looked up
  matrices = count.attention + count.mlp + table
  assert _gemm_flops(found) == pytest.approx(2.0 * _ROWS * matrices)


@pytest.mark.parametrize('name', ['llama-3.1-8b', 'mixtral-8x7b'])
def test_tensor_ranks_share_the_products(name):
  model = load_workload(name)
  whole = forward(model, Shard(), [Sequences(2, 256)])
  shared = forward(model, Shard(tensor=8, expert_tensor=8), [Sequences(2, 256)])
  # The router is not shared.
  router = 2.0 * 512 * model.parameters().router
  alone = _gemm_flops(whole) - router
  assert _gemm_flops(shared) - router == pytest.approx(alone / 8)


def test_sums_over_ranks_only_where_there_are_ranks():
  model = load_workload('llama-3.1-8b')
  assert not forward(model, Shard(), [Sequences(1, 8)]).of('all_reduce')
  sums = forward(model, Shard(tensor=4), [Sequences(1, 8)]).of('all_reduce')
  assert sum(k.count for k in sums) == 2 * model.layers
  assert {k.shape['message_bytes'] for k in sums} == {2.0 * 8 * model.d_model}
  split = forward(model, Shard(tensor=4, sequence=True), [Sequences(1, 8)])
  assert not split.of('all_reduce')
  scatters = split.of('reduce_scatter', 'all_gather')
  assert sum(k.count for k in scatters) == 4 * model.layers


def test_new_tokens_read_their_cache_and_prompts_do_not():
  model = load_workload('llama-3.1-8b')
  decode = forward(model, Shard(), [Sequences(16, 1, 999)])
  (core,) = decode.of('decode_attention')
  assert core.count == model.layers
  assert core.shape['kv_len'] == 1000 and core.shape['batch_size'] == 16
  (core,) = forward(model, Shard(), [Sequences(2, 64)]).of('prefill_attention')
  assert core.shape['seq_len'] == 64


def test_a_later_piece_of_a_prompt_costs_the_difference_of_two_prompts():
  model = load_workload('llama-3.1-8b')
  later = forward(model, Shard(), [Sequences(1, 100, 300)])
  lengths = {k.shape['seq_len']: k.count for k in later.of('prefill_attention')}
  assert lengths == {400: model.layers, 300: -model.layers}


def test_latent_attention_projects_to_its_cache():
  model = load_workload('deepseek-v3')
  a = model.attention
  found = forward(model, Shard(), [Sequences(1, _ROWS)])
  attention = [k for k in found.kernels if k.part == 'attention']
  products = Pass(tuple(k for k in attention if k.op == 'gemm'))
  # All of attention's parameters but the norms of the compressed queries and
  # keys are in products that a prompt makes.
  parameters = a.parameters(model.d_model) - a.q_rank - a.kv_rank
  expected = 2.0 * _ROWS * model.layers * parameters
  assert _gemm_flops(products) == pytest.approx(expected)
  assert {k.op for k in attention} == {'gemm', 'mla_prefill'}
  decode = forward(model, Shard(), [Sequences(4, 1, 99)])
  assert len(decode.of('mla_bmm')) == 2 and len(decode.of('mla_decode')) == 1


def test_experts_with_their_own_tokens_exchange_them():
  model = load_workload('deepseek-v3')
  shard = Shard(expert=16, data=16)
  found = forward(model, shard, [Sequences(1, 128)])
  (routed,) = found.of('moe')
  assert routed.count == model.expert_layers
  assert routed.shape['num_tokens'] == 16 * 128
  exchanged = found.of('expert_dispatch', 'expert_combine')
  assert sum(k.count for k in exchanged) == 2 * model.expert_layers
  alone = forward(model, Shard(), [Sequences(1, 128)])
  assert not alone.of('expert_dispatch', 'expert_combine')


def test_windows_shorten_the_core():
  model = load_workload('gpt-oss-120b')
  cores = forward(model, Shard(), [Sequences(1, 4096)]).of('prefill_attention')
  by_window = {k.shape['window_size']: k.count for k in cores}
  assert by_window[0] + by_window[model.attention.window] == model.layers
  assert by_window[model.attention.window] == model.attention.windowed_layers


def test_linear_layers_keep_no_cache():
  model = load_workload('qwen3.5-397b-a17b')
  found = forward(model, Shard(), [Sequences(8, 1, 5000)])
  cores = sum(k.count for k in found.of('decode_attention'))
  assert cores == model.layers - model.linear.layers


def test_a_stage_has_its_share_and_no_output_layer():
  model = load_workload('llama-3.1-8b')
  part = forward(model, Shard(), [Sequences(1, 64)], layers=8, head_rows=0)
  assert not [k for k in part.kernels if k.part == 'head']
  whole = forward(model, Shard(), [Sequences(1, 64)], head_rows=0)
  np.testing.assert_allclose(4 * _gemm_flops(part), _gemm_flops(whole))
  np.testing.assert_allclose(4 * part.streamed_B, whole.streamed_B)


def test_passes_add_and_multiply():
  one = Pass((Kernel('gemm', 'mlp', 2.0, {'m': 1}),), 10.0, 1.0)
  both = one.times(3.0) + one
  assert [k.count for k in both.kernels] == [6.0, 2.0]
  assert (both.streamed_B, both.small) == (40.0, 4.0)


@pytest.mark.parametrize('name', workload_names())
def test_operations_agree_with_the_parameters_of_every_preset(name):
  model = load_workload(name)
  found = forward(model, Shard(), [Sequences(1, 512)])
  routed = sum(
    2.0 * k.count * k.shape['num_tokens'] * k.shape['topk']
    * k.shape['hidden_size'] * k.shape['inter_size'] * model.mlp_matrices
    for k in found.of('moe')
  )  # fmt: skip
  count = model.parameters()
  active = model.active_parameters() - count.norms - count.embeddings
  expected = 2.0 * 512 * (active + model.vocab * model.d_model)
  assert _gemm_flops(found) + routed == pytest.approx(expected, rel=0.06)


def test_drafted_tokens_share_one_read_of_the_cache():
  model = load_workload('llama-3.1-8b')
  found = forward(model, Shard(), [Sequences(4, 3, 500)])
  (core,) = found.of('decode_attention')
  assert core.shape['num_heads'] == 3 * model.attention.heads
  assert core.shape['kv_len'] == 503 and not found.of('prefill_attention')
