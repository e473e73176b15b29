"""MLPs and experts from the fields of a config.json."""

from typing import Any

from diffmem.workloads.huggingface.fields import Fields
from diffmem.workloads.huggingface.layers import Layers

_DENSE_WORDS = {'dense': False, 'sparse': True, 'moe': True, 'hash_moe': True}


def mlps_of(
  fields: Fields,
  layers: Layers,
  count: int,
  d_model: int,
  traits: dict[str, Any],
) -> dict[str, Any]:
  """Fields `d_ff` and `experts`.

  Args:
    fields: of the config.json.
    layers: its layers of each kind.
    count: layers with an MLP or experts.
    d_model: width of the residual stream.
    traits: of the model type.

  Raises:
    SpecError: a field that is missing or does not fit.
  """
  nested = fields.of('ffn_config')
  width = _width(fields, nested, d_model, traits)
  experts = _experts(fields, nested, width, traits)
  nested.get('ffn_type', 'ffn_act_fn')
  nested.nothing_left()
  sparse = _sparse_layers(fields, layers, count) if experts else 0
  every = fields.count('interleave_moe_layer_step', default=1)
  llama4_width = fields.count('intermediate_size_mlp')
  if not sparse:
    return {'d_ff': width or fields.need('intermediate_size')}
  if every > 1 and sparse == count // every:
    experts['every'] = every
  else:
    experts['dense_layers'] = count - sparse
  dense = sparse < count
  return {'d_ff': (llama4_width or width) if dense else 0, 'experts': experts}


def _width(
  fields: Fields, nested: Fields, d_model: int, traits: dict[str, Any]
) -> int:
  """Hidden width of a plain MLP, and of experts where they have none."""
  width = fields.count(
    'intermediate_size', 'ffn_dim', 'n_inner', 'ffn_hidden_size'
  )
  ratio = fields.count('expansion_ratio', default=4)
  if fields.get('model_type') == 'qwen':
    return width // 2  # gate and up together
  if fields.flag('use_double_wide_mlp'):  # of layers that borrow keys: mean
    layers = fields.need('num_hidden_layers')
    return round(width * (1 + fields.count('num_kv_shared_layers') / layers))
  if traits.get('plain'):
    width = width or ratio * d_model
  return nested.count('ffn_hidden_size', default=width)


def _experts(
  fields: Fields, nested: Fields, width: int, traits: dict[str, Any]
) -> dict[str, Any]:
  """Fields of `Experts` without the layers; {} for a dense model."""
  count = fields.count(
    'num_local_experts', 'num_experts', 'n_routed_experts', 'moe_num_experts',
    default=nested.count('moe_num_experts'),
  )  # fmt: skip
  top_k = fields.count(
    'num_experts_per_tok', 'num_experts_per_token', 'experts_per_token',
    'top_k_experts', 'moe_topk', 'moe_top_k', 'moe_k',
    default=nested.count('moe_top_k'),
  )  # fmt: skip
  one = fields.count('moe_intermediate_size', 'expert_ffn_hidden_size')
  shared, shared_width = _shared(fields, traits, one or width)
  latent = fields.count('moe_latent_size')
  beside = fields.flag('enable_moe_block')
  if count <= 1:
    return {}
  if not top_k:
    fields.need('num_experts_per_tok')
  if beside:  # Gemma 4: a plain MLP beside the experts of every layer
    shared, shared_width = 1, width
  return {
    'count': count,
    'top_k': top_k,
    'd_ff': one or width or fields.need('moe_intermediate_size'),
    'shared': shared,
    'shared_d_ff': shared_width,
    'latent_dim': latent,
  }


def _shared(
  fields: Fields, traits: dict[str, Any], one: int
) -> tuple[int, int]:
  """Shared experts and the width of one; 0 for that of a routed one."""
  number = fields.count(
    'n_shared_experts', 'num_shared_experts', 'moe_num_shared_experts',
    'num_shared_expert',
  )  # fmt: skip
  width = fields.count(
    'moe_shared_expert_intermediate_size', 'shared_expert_intermediate_size',
    'shared_intermediate_size',
  )  # fmt: skip
  if traits.get('llama4'):
    return 1, 0
  if width:
    return number or 1, 0 if width == one else width
  return number, 0


def _sparse_layers(fields: Fields, layers: Layers, count: int) -> int:
  """Layers with experts."""
  words = fields.words('mlp_layer_types')
  for word in words:
    if word not in _DENSE_WORDS:
      raise fields.wrong('mlp_layer_types', ', '.join(_DENSE_WORDS))
  first = fields.count('first_k_dense_replace', 'moe_layer_start_index')
  dense = fields.numbers('mlp_only_layers') or []
  freq = fields.get('moe_layer_freq', default=1)
  marks = None
  if isinstance(freq, list):
    marks = fields.numbers('moe_layer_freq', count)
  every = 1 if marks else fields.count('moe_layer_freq', default=1)
  step = fields.count(
    'decoder_sparse_step', 'interleave_moe_layer_step', 'moe_layer_interval',
    default=1,
  )  # fmt: skip
  end = fields.get('moe_layer_end_index', default=-1)
  if end != -1:
    end = fields.count('moe_layer_end_index')
  listed = fields.numbers('moe_layers')
  if layers.expert_only is not None:
    return layers.expert_only
  if words:
    return sum(_DENSE_WORDS[w] for w in words)
  if listed:
    return len(listed)
  if marks:
    return sum(bool(mark) for mark in marks)
  last = count - 1 if end == -1 else end
  return sum(
    first <= i <= last
    and i % max(every, 1) == 0
    and (i + 1) % max(step, 1) == 0
    and i not in dense
    for i in range(count)
  )
