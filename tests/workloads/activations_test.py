"""What each kind of attention keeps for its backward pass, by hand."""

import pytest

from diffmem.workloads import Transformer, activations, load_workload
from diffmem.workloads.transformer import Attention

_LENGTH = 1024
_HEADS = Attention(heads=8, kv_heads=4, head_dim=64)


def test_activations_of_latent_attention_are_counted_tensor_by_tensor():
  """Latents, expanded keys and values with their rotary part, and outputs."""
  model = load_workload('deepseek-v3').model_copy(update={'experts': None})
  model = model.model_copy(update={'d_ff': 1024, 'mtp_layers': 0})
  found = activations.activation_bytes(model, _LENGTH)
  h, ff = model.d_model, 3 * 1024
  latents = 1536 + 512 + 64
  q, k, v = 128 * (128 + 64), 128 * (128 + 64), 128 * 128
  assert found.kept == 2 * (4 * h + latents + q + k + v + v + ff)
  assert found.hidden == 2 * (q + k + v + v + ff)
  assert found.scores == 2 * 128 * _LENGTH
  # Of layers with different heads, the mean.
  plain = _HEADS.model_copy(
    update={'window': 100, 'windowed_layers': model.layers - 1}
  )
  both = {'attention': plain, 'full_attention': model.attention}
  mixed = activations.activation_bytes(model.model_copy(update=both), _LENGTH)
  alone = 2 * (4 * h + 2 * 512 + 2 * 256 + ff)
  expected = ((model.layers - 1) * alone + found.kept) / model.layers
  assert mixed.kept == pytest.approx(expected)


def test_layers_that_borrow_keys_keep_none_of_their_own():
  own = Transformer(
    name='own', source='test', layers=4, d_model=512, d_ff=1024, vocab=4096,
    attention=_HEADS, max_context=8192,
  )  # fmt: skip
  heads = _HEADS.model_copy(update={'borrowing_layers': 3})
  borrowed = own.model_copy(update={'attention': heads})
  more, less = (
    activations.activation_bytes(m, _LENGTH).kept for m in (own, borrowed)
  )
  # Three of four layers have neither keys nor values of 4 heads.
  assert more - less == pytest.approx(2 * 0.75 * 2 * 4 * 64)
