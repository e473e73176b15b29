"""Kinds of layers, and attention, from the fields of a config.json."""

from typing import Any, NamedTuple

from diffmem.workloads.huggingface import compressed
from diffmem.workloads.huggingface.fields import Fields

# Kinds of layers by their words in `layer_types` and `layers_block_type`.
_FULL, _WINDOW, _LINEAR, _MLP = 'full', 'window', 'linear', 'mlp'
_WORDS = {
  'full_attention': _FULL, 'attention': _FULL, 'global_attention': _FULL,
  'sliding_attention': _WINDOW, 'chunked_attention': _WINDOW,
  'local_attention': _WINDOW, 'linear_attention': _LINEAR, 'mamba': _LINEAR,
  'compressed_sparse_attention': _FULL,
  'heavily_compressed_attention': _FULL, 'mlp': _MLP, 'moe': _MLP,
}  # fmt: skip
_WINDOWS = (
  'sliding_window', 'sliding_window_size', 'window_size',
  'attention_chunk_size',
)  # fmt: skip
# Letters of Nemotron's `hybrid_override_pattern`.
_LETTERS = {'M': 'mamba', '*': 'attention', '-': 'mlp', 'E': 'moe'}


class Layers(NamedTuple):
  """Layers of each kind.

  Attributes:
    full: with attention to the whole sequence.
    window: with attention to a window.
    linear: with linear attention or a state-space mixer.
    borrowing: of the first two kinds, with keys of an earlier layer.
    mlp_only: with an MLP or experts alone.
    mixer_only: with neither MLP nor experts.
    expert_only: of `mlp_only`, those with experts; None if it is all.
  """

  full: int
  window: int = 0
  linear: int = 0
  borrowing: tuple[int, int] = (0, 0)
  mlp_only: int = 0
  mixer_only: int = 0
  expert_only: int | None = None


def layers_of(fields: Fields, count: int, traits: dict[str, Any]) -> Layers:
  """Counts the layers of each kind.

  Args:
    fields: of the config.json.
    count: all layers.
    traits: of the model type.

  Raises:
    SpecError: a kind of layer that is not known, or a wrong number of them.
  """
  if 'mlp_only_blocks' in fields:
    mlps = fields.count('mlp_only_blocks')
    mixers = fields.count('mixer_only_blocks')
    return Layers(count - mlps, mlp_only=mlps, mixer_only=mixers)
  single = _single_blocks(fields)
  if single:
    return _counted_blocks(fields, single, count)
  words = fields.words('layer_types')
  if words:
    _check(fields, 'layer_types', words, count)
    kinds = [_WORDS[w] for w in words]
  else:
    kinds = _kinds_by_rule(fields, count, traits)
  # Read, whether or not the list of types made them redundant.
  _kinds_by_rule(fields, count, traits)
  last = kinds[count - fields.count('num_kv_shared_layers') :]
  return Layers(
    *(kinds.count(k) for k in (_FULL, _WINDOW, _LINEAR)),
    borrowing=(last.count(_FULL), last.count(_WINDOW)),
  )


def _single_blocks(fields: Fields) -> list[str]:
  """Words of a model whose layers are one block each; [] for others."""
  pattern = fields.get('hybrid_override_pattern', default='')
  words = fields.words('layers_block_type')
  if words:
    return words
  if not isinstance(pattern, str) or set(pattern) - set(_LETTERS):
    expected = f'letters of {"".join(_LETTERS)}'
    raise fields.wrong('hybrid_override_pattern', expected)
  return [_LETTERS[letter] for letter in pattern]


def _counted_blocks(fields: Fields, words: list[str], count: int) -> Layers:
  _check(fields, 'layers_block_type', words, count)
  kinds = [_WORDS[w] for w in words]
  mlps = kinds.count(_MLP)
  return Layers(
    full=kinds.count(_FULL),
    window=kinds.count(_WINDOW),
    linear=kinds.count(_LINEAR),
    mlp_only=mlps,
    mixer_only=count - mlps,
    expert_only=words.count('moe'),
  )


def _check(fields: Fields, name: str, words: list[str], count: int) -> None:
  for word in words:
    if word not in _WORDS:
      raise fields.wrong(name, f'{", ".join(_WORDS)} in place of {word!r}')
  if len(words) != count:
    raise fields.wrong(name, f'{count} layers in place of {len(words)}')


def _kinds_by_rule(
  fields: Fields, count: int, traits: dict[str, Any]
) -> list[str]:
  """Kinds of layers where the file has no list of them."""
  kinds = [_FULL] * count
  if 'linear_attn_config' in fields:
    chosen = fields.of('linear_attn_config').numbers('kda_layers')
    if chosen is None:
      raise fields.wrong('linear_attn_config', 'a list kda_layers in it')
    return [_LINEAR if i + 1 in chosen else _FULL for i in range(count)]
  marks = fields.numbers('attn_type_list', count)
  if marks is not None:
    return [_FULL if m else _LINEAR for m in marks]
  marks = fields.numbers('hybrid_layer_pattern', count)
  if marks is not None:
    return [_WINDOW if m else _FULL for m in marks]
  every = fields.count('full_attention_interval')
  if every:
    return [_LINEAR if (i + 1) % every else _FULL for i in range(count)]
  if traits.get('llama4'):
    every = fields.count('no_rope_layer_interval', default=4)
    rule = [(i + 1) % every for i in range(count)]
    listed = fields.get('no_rope_layers')
    marks = fields.numbers('no_rope_layers', count) if listed else rule
    return [_WINDOW if m else _FULL for m in marks]
  window = fields.count(*_WINDOWS)
  pattern = fields.get('sliding_window_pattern', '_sliding_window_pattern')
  if not isinstance(pattern, str):
    pattern = fields.count('sliding_window_pattern', '_sliding_window_pattern')
  first = fields.count('max_window_layers')
  qwen2 = 'max_window_layers' in fields
  if not window or not fields.flag('use_sliding_window', default=not qwen2):
    return kinds
  if isinstance(pattern, str):
    marks = [pattern[i % len(pattern)] == 'L' for i in range(count)]
    return [_WINDOW if m else _FULL for m in marks]
  if pattern:
    return [_WINDOW if (i + 1) % pattern else _FULL for i in range(count)]
  return [_FULL if i < first else _WINDOW for i in range(count)]


def attention_of(
  fields: Fields, layers: Layers, d_model: int, traits: dict[str, Any]
) -> dict[str, Any]:
  """Fields `attention`, and `full_attention` where it differs.

  Raises:
    SpecError: a field that is missing or does not fit.
  """
  heads = fields.need('num_attention_heads', 'n_head', 'n_heads', 'num_heads')
  if 'kv_lora_rank' in fields:
    return {'attention': _latent(fields, heads)}
  if 'o_lora_rank' in fields:
    return compressed.attention_of(fields, heads)
  nested = fields.of('attn_config')
  kv_heads = _kv_heads(fields, nested, heads)
  head_dim = fields.count('head_dim', 'kv_channels', 'attention_head_dim')
  if not head_dim and d_model % heads:
    expected = f'a divisor of hidden_size = {d_model}, or head_dim beside it'
    raise fields.wrong('num_attention_heads', expected)
  # Read, and of no use, where it is latent attention that is turned off.
  fields.get('qk_nope_head_dim', 'qk_rope_head_dim', 'q_lora_rank')
  plain = {
    'heads': heads,
    'kv_heads': kv_heads,
    'head_dim': head_dim or d_model // heads,
    'v_dim': fields.count('v_head_dim'),
    'bias': _bias(fields, traits),
    'output_bias': traits.get('output_bias', False),
    'output_gate': fields.flag(
      'attn_output_gate', default=traits.get('output_gate', False)
    ),
    'qk_norm': fields.flag(
      'use_qk_norm', 'qk_layernorm', default=traits.get('qk_norm', False)
    ),
  }
  nested.get('attn_type', 'qk_ln')
  nested.nothing_left()
  return _with_window(fields, layers, plain)


def _kv_heads(fields: Fields, nested: Fields, heads: int) -> int:
  """Key and value heads, as many as query heads where nothing is said."""
  names = ('num_key_value_heads', 'num_kv_heads', 'n_head_kv', 'n_kv_heads')
  groups = fields.count('multi_query_group_num', default=1)
  # Falcon: new architecture, or one head; its field counts query heads then.
  many = fields.flag('new_decoder_architecture')
  if fields.flag('multi_query') and not many:
    fields.get(*names)
    return 1
  if fields.flag('multi_query_attention'):
    return groups
  nested_heads = nested.count('kv_n_heads', default=heads)
  return fields.count(*names, default=nested_heads) or heads


def _bias(fields: Fields, traits: dict[str, Any]) -> bool:
  """Whether query, key and value projections have a bias."""
  if fields.flag('no_bias'):
    return fields.flag('qkv_bias', default=traits.get('qkv_bias', False))
  names = (
    'attention_bias', 'qkv_bias', 'use_qkv_bias', 'add_qkv_bias',
    'enable_bias', 'use_bias',
  )  # fmt: skip
  return fields.flag(*names, default=traits.get('qkv_bias', False))


def _with_window(
  fields: Fields, layers: Layers, plain: dict[str, Any]
) -> dict[str, Any]:
  """Plain heads, and those of the other layers where they differ."""
  window = fields.count(*_WINDOWS)
  windowed, full = dict(plain), dict(plain)
  # MiMo-V2: fields of windowed layers; Gemma 4: of the others.
  for name, field in (
    ('heads', 'swa_num_attention_heads'),
    ('kv_heads', 'swa_num_key_value_heads'),
    ('head_dim', 'swa_head_dim'),
    ('v_dim', 'swa_v_head_dim'),
  ):
    windowed[name] = fields.count(field, default=plain[name])
  full['head_dim'] = fields.count('global_head_dim', default=plain['head_dim'])
  shared = fields.flag('attention_k_eq_v')
  global_heads = fields.count('num_global_key_value_heads')
  if shared:
    full['shared_kv'] = True
    full['kv_heads'] = global_heads or full['kv_heads']
  full['borrowing_layers'], windowed['borrowing_layers'] = layers.borrowing
  if not layers.window:
    return {'attention': full}
  windowed |= {'window': window, 'windowed_layers': layers.window}
  same = all(windowed[name] == full[name] for name in plain)
  if same and not shared and not any(layers.borrowing):
    return {'attention': windowed}
  return {'attention': windowed, 'full_attention': full}


def _latent(fields: Fields, heads: int) -> dict[str, Any]:
  """Fields of `LatentAttention`."""
  fields.get('num_key_value_heads', 'head_dim', 'qk_head_dim', 'qkv_bias')
  fields.get('attention_bias', 'use_qk_norm', 'use_mla')
  return {
    'kind': 'mla',
    'heads': heads,
    'q_rank': fields.count('q_lora_rank'),
    'kv_rank': fields.need('kv_lora_rank'),
    'nope_dim': fields.need('qk_nope_head_dim'),
    'rope_dim': fields.need('qk_rope_head_dim'),
    'v_dim': fields.need('v_head_dim'),
    'index_heads': fields.count('index_n_heads'),
    'index_dim': fields.count('index_head_dim'),
    'index_top_k': fields.count('index_topk'),
  }
