"""Linear attention from the fields of a config.json."""

from typing import Any

from diffmem.workloads.huggingface.fields import Fields
from diffmem.workloads.huggingface.layers import Layers


def linear_of(fields: Fields, layers: Layers) -> dict[str, Any] | None:
  """Fields of `LinearAttention`, None where no layer has it.

  Raises:
    SpecError: a field that is missing or does not fit.
  """
  if not layers.linear:
    return None
  if 'linear_num_value_heads' in fields:
    return {
      'layers': layers.linear,
      'key_heads': fields.need('linear_num_key_heads'),
      'value_heads': fields.need('linear_num_value_heads'),
      'key_dim': fields.need('linear_key_head_dim'),
      'value_dim': fields.need('linear_value_head_dim'),
      'conv': fields.count('linear_conv_kernel_dim'),
    }
  if 'linear_attn_config' in fields:
    return _kimi_delta(fields.of('linear_attn_config'), layers)
  if 'mamba_num_heads' in fields or 'mamba_n_heads' in fields:
    fields.get('expand', 'mamba_expand')
    return {
      'kind': 'mamba2',
      'layers': layers.linear,
      'key_heads': fields.need('n_groups', 'mamba_n_groups'),
      'value_heads': fields.need('mamba_num_heads', 'mamba_n_heads'),
      'key_dim': fields.need('ssm_state_size', 'mamba_d_state'),
      'value_dim': fields.need('mamba_head_dim', 'mamba_d_head'),
      'conv': fields.need('conv_kernel', 'mamba_d_conv'),
    }
  # MiniMax: as many heads as attention has, of the same width.
  heads = fields.need('num_attention_heads')
  width = fields.need('head_dim')
  return {
    'kind': 'lightning',
    'layers': layers.linear,
    'key_heads': heads,
    'value_heads': heads,
    'key_dim': width,
    'value_dim': width,
  }


def _kimi_delta(nested: Fields, layers: Layers) -> dict[str, Any]:
  """Fields of Kimi Linear's layers."""
  heads, width = nested.need('num_heads'), nested.need('head_dim')
  nested.get('kda_layers', 'full_attn_layers')
  conv = nested.count('short_conv_kernel_size')
  nested.nothing_left()
  return {
    'kind': 'kda',
    'layers': layers.linear,
    'key_heads': heads,
    'value_heads': heads,
    'key_dim': width,
    'value_dim': width,
    'conv': conv,
  }
