"""Models with a shape of its own for every layer (DeciLM, Nemotron NAS).

`Transformer` has one shape of MLP and one of attention for all layers that
have them: layers without one are counted, widths of MLPs are averaged, which
keeps the parameters; several numbers of key-value heads are refused.
"""

from typing import Any

from diffmem import errors


def evened(values: dict[str, Any], file: str) -> dict[str, Any]:
  """Fields with `block_configs` replaced by those of even layers.

  Args:
    values: fields of a config.json; returned as they are without
      `block_configs`.
    file: where they come from, for messages.

  Raises:
    SpecError: a block that has no plain counterpart.
  """
  blocks = values.get('block_configs')
  if not blocks:
    return values
  try:
    return _evened(values, blocks)
  except (TypeError, KeyError, AttributeError, ValueError) as error:
    raise errors.SpecError(
      f'{file}: block_configs: expected plain attention and MLPs with one '
      f'number of key-value heads ({error})'
    ) from None


def _evened(values: dict[str, Any], blocks: list[dict]) -> dict[str, Any]:
  d_model, heads = values['hidden_size'], values['num_attention_heads']
  groups = [_group(block['attention']) for block in blocks]
  widths = [_width(block['ffn'], d_model) for block in blocks]
  kinds = {group for group in groups if group}
  if len(kinds) != 1:
    raise ValueError(f'found n_heads_in_group of {sorted(kinds)}')
  pairs = list(zip(groups, widths, strict=True))
  kept = [w for w in widths if w]
  rest = {k: v for k, v in values.items() if k != 'block_configs'}
  return {
    **rest,
    'num_hidden_layers': sum(1 for g, w in pairs if g or w),
    'num_key_value_heads': heads // kinds.pop(),
    'intermediate_size': round(sum(kept) / len(kept)),
    'mlp_only_blocks': sum(1 for g, w in pairs if w and not g),
    'mixer_only_blocks': sum(1 for g, w in pairs if g and not w),
  }


def _group(attention: dict[str, Any]) -> int:
  """Query heads of a key-value head; 0 without attention."""
  if attention.get('no_op'):
    return 0
  for name in ('replace_with_linear', 'sparsify', 'window_length'):
    if attention.get(name):
      raise ValueError(f'found {name} = {attention[name]!r}')
  return int(attention['n_heads_in_group'])


def _width(ffn: dict[str, Any], d_model: int) -> int:
  """Hidden width of a block's MLP: a multiple of 256; 0 without one."""
  if ffn.get('no_op'):
    return 0
  if ffn.get('replace_with_linear') or ffn.get('sparsify'):
    raise ValueError('found an MLP that is not plain')
  if ffn.get('intermediate_size'):
    return int(ffn['intermediate_size'])
  width = int(2 * ffn['ffn_mult'] * d_model / 3)
  return -(-width // 256) * 256
