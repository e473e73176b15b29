"""KV caches and states of a decode step, counted by hand."""

import numpy as np
import pytest

from diffmem.workloads import (
  AXES,
  SHARDING,
  Choices,
  Decoding,
  Formats,
  Machine,
  load_workload,
  lower_decode,
)
from diffmem.workloads.decode import Idle

MACHINE = Machine(('HBM',), ('',), ('NVLink',), (16,), 'matrix:bfloat16', 0.9)
CONTEXT, BATCH = 10_000, 16
CACHES = ('kv_cache', 'kv_cache_windowed', 'states')


def _choices(**given) -> Choices:
  ones = dict.fromkeys((*AXES, 'interleave', 'micro_batch'), 1.0)
  ones |= dict.fromkeys(('recompute', *SHARDING), 0.0)
  return Choices(
    **{k: np.array([float(v)]) for k, v in {**ones, **given}.items()}
  )


def _cache(model, decoding=None, **given) -> tuple[float, float, float]:
  """Bytes of one sequence that are kept, read and written."""
  decoding = decoding or Decoding(BATCH, CONTEXT)
  lowered = lower_decode(model, decoding, _choices(**given), MACHINE)
  at = [i for i, g in enumerate(lowered.groups) if g in CACHES]
  found = (
    lowered.size_B[0, at],
    lowered.group_read_B[0, 0, at],
    lowered.group_write_B[0, 0, at],
  )
  return tuple(float(f.sum()) / decoding.batch for f in found)


def test_latent_caches_are_whole_on_every_tensor_rank():
  model = load_workload('deepseek-v3')
  token_B = 61 * 2 * (512 + 64)
  for tensor in (1, 8):
    found = _cache(model, tensor=tensor)
    assert found == pytest.approx(
      (token_B * CONTEXT, token_B * CONTEXT, token_B)
    )


def test_an_index_reads_its_keys_and_what_it_chooses():
  kept, read, written = _cache(load_workload('deepseek-v3.2'))
  token_B, index_B = 61 * 2 * (512 + 64), 61 * 128
  assert kept == pytest.approx((token_B + index_B) * CONTEXT)
  assert read == pytest.approx(token_B * 2048 + index_B * CONTEXT)
  assert written == pytest.approx(token_B + index_B)


def test_windowed_layers_keep_their_window():
  model = load_workload('gpt-oss-20b')
  layer_B = 2 * 2 * 8 * 64
  kept, read, written = _cache(model, tensor=4)
  assert kept == pytest.approx((12 * 128 + 12 * CONTEXT) * layer_B / 4)
  assert read == kept
  assert written == pytest.approx(24 * layer_B / 4)


def test_compressed_layers_keep_a_window_and_one_key_of_many_tokens():
  kept, read, written = _cache(load_workload('deepseek-v4-flash'), tensor=8)
  coarse = 22 * (128 + CONTEXT / 128) * 2 * 512
  fine = 21 * (128 + CONTEXT / 4) * 2 * 512
  index = 21 * CONTEXT / 4 * 128
  assert kept == pytest.approx(coarse + fine + index)
  chosen = 21 * (128 + 512) * 2 * 512
  assert read == pytest.approx(coarse + chosen + index)
  assert written == pytest.approx(43 * 2 * 512 + 21 * 128)


def test_layers_without_window_may_have_other_heads():
  kept, _, _ = _cache(load_workload('gemma-4-26b-a4b'), tensor=4)
  windowed = 25 * 1024 * 2 * 2 * 8 * 256 / 4
  full = 5 * CONTEXT * 2 * 2 * 2 * 512 / 2  # two heads on four ranks
  assert kept == pytest.approx(windowed + full)


def test_borrowing_layers_read_what_others_keep():
  model = load_workload('llama-3.1-8b')
  heads = model.attention.model_copy(update={'borrowing_layers': 24})
  model = model.model_copy(update={'attention': heads})
  token_B = 2 * 2 * 8 * 128
  found = _cache(model)
  whole = token_B * CONTEXT
  assert found == pytest.approx((8 * whole, 32 * whole, 8 * token_B))


def test_states_are_read_and_written_whole():
  model = load_workload('qwen3.5-397b-a17b')
  state_B = 45 * 4 * (64 * 128 * 128 + 3 * (2 * 16 * 128 + 64 * 128))
  token_B = 15 * 2 * 2 * 2 * 256
  kept, read, written = _cache(model)
  assert kept == pytest.approx(state_B + token_B * CONTEXT)
  assert (read, written) == pytest.approx((kept, state_B + token_B))


def test_the_caches_format_is_the_models_unless_given():
  model = load_workload('llama-3.1-8b')
  plain, _, _ = _cache(model)
  formats = Formats(kv_cache='float8')
  narrow, _, _ = _cache(model.model_copy(update={'formats': formats}))
  assert narrow == pytest.approx(plain / 2)
  given, _, _ = _cache(model, Decoding(BATCH, CONTEXT, kv_B=1.0))
  assert given == pytest.approx(plain / 2)


def test_weights_are_stored_in_their_formats():
  model = load_workload('gpt-oss-120b')
  lowered = lower_decode(model, Decoding(BATCH, CONTEXT), _choices(), MACHINE)
  sizes = dict(zip(lowered.groups, np.asarray(lowered.size_B)[0], strict=True))
  count = model.parameters()
  assert sizes['expert_weights'] == pytest.approx(count.experts * 17 / 32)
  attention = count.attention + count.norms + count.router
  assert sizes['attention_weights'] == pytest.approx(2 * attention)


def _lowered(name, decoding, **given):
  return lower_decode(load_workload(name), decoding, _choices(**given), MACHINE)


def _group(lowered, table, group) -> float:
  return float(table[0, lowered.groups.index(group)])


def test_each_rank_may_decode_sequences_of_its_own():
  decoding = Decoding(64, CONTEXT)
  shared, own = (
    _lowered('deepseek-v3', decoding, tensor=8, attention_by=by)
    for by in (0, 1)
  )
  # Latent caches are whole on every rank, unless each has its own sequences.
  sizes = [_group(x, x.size_B, 'kv_cache') for x in (shared, own)]
  assert sizes[0] == pytest.approx(8 * sizes[1])
  weights = [_group(x, x.size_B, 'attention_weights') for x in (shared, own)]
  assert weights[1] > 7 * weights[0]
  assert float(own.flops[0, 0]) == pytest.approx(float(shared.flops[0, 0]))
  # One all-reduce a layer instead of two: before and after what is split.
  sent_B = [x.sent_B[0, 1].sum() for x in (shared, own)]
  assert float(sent_B[1]) == pytest.approx(float(sent_B[0]) / 2)
  all_reduce_B = 2 * 7 / 8 * 2 * 64 * 7168
  assert float(sent_B[0]) == pytest.approx(2 * 61 * all_reduce_B, rel=1e-5)


def test_tensor_ranks_may_join_the_expert_ranks():
  decoding = Decoding(64, CONTEXT)
  sliced, joined = (
    _lowered(
      'deepseek-v3', decoding, tensor=4, expert=2, attention_by=1, mlp_by=1,
      experts_by=by,
    )
    for by in (0, 1)
  )  # fmt: skip
  for table in ('size_B', 'flops'):
    np.testing.assert_allclose(getattr(joined, table), getattr(sliced, table))
  # Nothing but the tokens' way to their experts and back, over eight ranks.
  assert float(joined.sent_B[0, 1].sum()) == 0.0
  copies_B = 2 * (64 / 2 / 4) * 8 * 7168
  assert float(joined.sent_B[0, 2].sum()) == pytest.approx(
    2 * 58 * copies_B * 7 / 8, rel=1e-5
  )
  all_reduce_B = 2 * 3 / 4 * 2 * 32 * 7168
  assert float(sliced.sent_B[0, 1].sum()) == pytest.approx(
    58 * all_reduce_B, rel=1e-5
  )
  # The same as eight expert ranks with attention of their own each.
  plain = _lowered('deepseek-v3', decoding, expert=8)
  for table in ('group_read_B', 'flops', 'sent_B', 'messages'):
    found, expected = getattr(joined, table), getattr(plain, table)
    if table == 'group_read_B':  # but for the tables of the vocabulary
      keep = [i for i, g in enumerate(plain.groups) if g != 'embeddings']
      found, expected = (
        found[0, 0][np.array(keep)],
        expected[0, 0][np.array(keep)],
      )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_silent_sessions_are_kept_and_read_as_they_come_back():
  token_B = 2 * 32 * 2 * 8 * 128
  idle = (Idle(1e6, 0.01), Idle(3e6))
  lowered = _lowered('llama-3.1-8b', Decoding(BATCH, CONTEXT, idle=idle))
  plain = _lowered('llama-3.1-8b', Decoding(BATCH, CONTEXT))
  assert set(lowered.groups) - set(plain.groups) == {'kv_idle_0', 'kv_idle_1'}
  size_B = [_group(lowered, lowered.size_B, f'kv_idle_{i}') for i in (0, 1)]
  assert size_B == pytest.approx([1e6 * token_B, 3e6 * token_B])
  reads_B = [
    _group(lowered, lowered.group_read_B[:, 0], f'kv_idle_{i}') for i in (0, 1)
  ]
  assert reads_B == pytest.approx([1e4 * token_B, 0.0])
  assert float(lowered.flops[0, 0]) == float(plain.flops[0, 0])


def test_caches_fall_into_pages_and_states_into_layers():
  lowered = _lowered('gpt-oss-20b', Decoding(BATCH, CONTEXT))
  assert _group(lowered, lowered.units, 'kv_cache') == CONTEXT / 16
  assert _group(lowered, lowered.units, 'kv_cache_windowed') == 8
  assert _group(lowered, lowered.units, 'attention_weights') == 24
  lowered = _lowered('qwen3.5-397b-a17b', Decoding(BATCH, CONTEXT))
  assert _group(lowered, lowered.units, 'states') == 45
