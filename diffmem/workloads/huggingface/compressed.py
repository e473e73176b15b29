"""Compressed attention (DeepSeek-V4) from the fields of a config.json."""

from typing import Any

from diffmem.workloads.huggingface.fields import Fields

# Of the kinds of `layer_types`, tokens of a compressed key: DeepSeek-V4's.
_RATIOS = {
  'sliding_attention': 0, 'compressed_sparse_attention': 4,
  'heavily_compressed_attention': 128,
}  # fmt: skip


def attention_of(fields: Fields, heads: int) -> dict[str, Any]:
  """Fields `attention`, and `full_attention` where layers differ.

  Layers with the smallest ratio have the index. Those of a window alone are
  taken as of the largest ratio: that adds one key for 128 tokens.

  Raises:
    SpecError: a field that is missing or does not fit.
  """
  count = fields.need('num_hidden_layers')
  ratios = _ratios(fields, count)
  least, most = min(r for r in ratios if r), max(ratios)
  plain = {
    'kind': 'csa',
    'heads': heads,
    'head_dim': fields.need('head_dim'),
    'q_rank': fields.need('q_lora_rank'),
    'o_groups': fields.need('o_groups'),
    'o_rank': fields.need('o_lora_rank'),
    'window': fields.need('sliding_window'),
  }
  # Constant, said by others, or of the residual streams, which are few.
  fields.get('num_key_value_heads', 'qk_nope_head_dim', 'v_head_dim')
  fields.get('qk_rope_head_dim', 'num_hash_layers', 'hc_mult', 'kv_lora_rank')
  indexed = plain | {
    'ratio': least,
    'index_heads': fields.need('index_n_heads'),
    'index_dim': fields.need('index_head_dim'),
    'index_top_k': fields.need('index_topk'),
  }
  others = sum(r != least for r in ratios)
  if not others or least == most:
    return {'attention': indexed}
  coarse = plain | {'ratio': most, 'windowed_layers': others}
  return {'attention': coarse, 'full_attention': indexed}


def _ratios(fields: Fields, count: int) -> list[int]:
  """Tokens of a compressed key, layer by layer; 0 for a window alone."""
  fields.get('compress_rates')
  words = fields.words('layer_types')
  ratios = fields.numbers('compress_ratios')
  ratios = ratios or [_RATIOS.get(w, 0) for w in words]
  # Layers of multi-token prediction come behind.
  if len(ratios) < count or max(ratios[:count]) < 1 or min(ratios) < 0:
    raise fields.wrong('compress_ratios', f'a list of {count} ratios')
  return ratios[:count]
