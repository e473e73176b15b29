"""KV caches and states of a decode step, counted by hand."""

import numpy as np
import pytest

from diffmem.workloads import (
  AXES,
  Choices,
  Decoding,
  Formats,
  Machine,
  load_workload,
  lower_decode,
)

MACHINE = Machine(('HBM',), ('',), ('NVLink',), (16,), 'matrix:bfloat16', 0.9)
CONTEXT, BATCH = 10_000, 16


def _choices(**given) -> Choices:
  ones = dict.fromkeys((*AXES, 'interleave', 'micro_batch', 'recompute'), 1.0)
  return Choices(
    **{k: np.array([float(v)]) for k, v in {**ones, **given}.items()}
  )


def _cache(model, decoding=None, **given) -> tuple[float, float, float]:
  """Bytes of one sequence that are kept, read and written."""
  decoding = decoding or Decoding(BATCH, CONTEXT)
  lowered = lower_decode(model, decoding, _choices(**given), MACHINE)
  at = lowered.groups.index('kv_cache')
  found = (
    lowered.size_B[0, at],
    lowered.group_read_B[0, 0, at],
    lowered.group_write_B[0, 0, at],
  )
  return tuple(float(f) / decoding.batch for f in found)


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
