"""A transformer from a Hugging Face config.json, without network.

Fields mean the same in most families, under a few synonyms; what a model type
leaves unsaid (an MLP without a gate, biases, tied tables) is in
`families.toml`. A field that looks like a shape and is not known is an
error. A model type that is not known is read like Llama if the file says that
its norm is RMS and its activation SiLU, as in every gated block of that kind;
`source` then says so, and a warning is logged.
"""

import functools
import json
import logging
import pathlib
import tomllib
from typing import Any

from diffmem import errors
from diffmem.workloads import names, specs
from diffmem.workloads.huggingface import blocks, experts, linear
from diffmem.workloads.huggingface import layers as layers_lib
from diffmem.workloads.huggingface.fields import Fields
from diffmem.workloads.huggingface.formats import formats_of
from diffmem.workloads.transformer import Transformer

_FAMILIES = pathlib.Path(__file__).with_name('families.toml')
# Where configurations of several modalities keep the language model.
_NESTED = (
  'text_config', 'llm_config', 'language_config', 'thinker_config',
)  # fmt: skip
# Of the outer fields, those that also hold for the language model.
_OUTER = (
  'tie_word_embeddings', 'quantization_config', 'compression_config',
  'torch_dtype', 'dtype', 'vocab_size',
)  # fmt: skip
# Fields that look like shapes and say nothing that is not said elsewhere.
_REDUNDANT = (
  'use_mamba_kernels', 'num_memory_blocks',
  'max_window_layers', 'num_attention_heads', 'self_attention',
  'use_sliding_window', 'mlp_hidden_act', 'is_encoder_decoder', 'mlp_type',
  'full_attn_mod', 'layer_switch',
)  # fmt: skip
_MOST_LAYERS = 10_000
_log = logging.getLogger(__name__)


@functools.cache
def _families() -> dict[str, dict[str, Any]]:
  return tomllib.loads(_FAMILIES.read_text(encoding='utf-8'))


def model_types() -> tuple[str, ...]:
  """Model types whose blocks are known."""
  return tuple(_families())


def read_config(path: str | pathlib.Path) -> Transformer:
  """Reads a Hugging Face config.json.

  A file hf_quant_config.json beside it (NVIDIA's modelopt) gives the number
  formats if the file itself does not.

  Args:
    path: the file; its folder (or its own name, if it is not 'config.json')
      names the model.

  Raises:
    SpecError: an unreadable file, or a field that is missing, not known or
      does not fit, with what was found and the nearest valid choice.
  """
  path = pathlib.Path(path)
  values = _read_json(path)
  beside = path.with_name('hf_quant_config.json')
  if path.name == 'config.json' and beside.exists():
    values.setdefault('quantization_config', _read_json(beside))
  name = path.stem.replace('--', '/')
  if path.name == 'config.json':
    name = path.absolute().parent.name
  return transformer_of(values, name=name, file=str(path))


def transformer_of(
  config: dict[str, Any], *, name: str = '', file: str = 'config.json'
) -> Transformer:
  """Reads the fields of a config.json.

  Args:
    config: the fields.
    name: of the model.
    file: where they come from, for messages.

  Raises:
    SpecError: as for `read_config`.

  Examples:
    >>> transformer_of(
    ...   {
    ...     'model_type': 'llama',
    ...     'num_hidden_layers': 32,
    ...     'hidden_size': 4096,
    ...     'intermediate_size': 11008,
    ...     'num_attention_heads': 32,
    ...     'vocab_size': 32000,
    ...     'max_position_embeddings': 4096,
    ...   }
    ... ).parameters().total
    6738415616.0
  """
  values = blocks.evened(_language_model(config), file)
  model_type, traits = _traits(values, file)
  defaults = traits.get('fields', {})
  given = {k: v for k, v in values.items() if v is not None}
  fields = Fields({**defaults, **given}, file, _REDUNDANT)
  if fields.get('is_encoder_decoder') is True:
    raise fields.wrong('is_encoder_decoder', 'a decoder-only model')
  spec = _spec(fields, traits)
  fields.nothing_left()
  known = model_type in _families()
  source = f'{file}, model_type {model_type!r}'
  return specs.transformer_of(
    {
      'name': name or str(fields.get('_name_or_path') or model_type),
      'source': source if known else f'{source}, read as a Llama block',
      **spec,
    },
    file,
  )


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    values = json.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise errors.SpecError(f'{path}: {error.strerror or error}') from None
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise errors.SpecError(f'{path}: not JSON: {error}') from None
  if not isinstance(values, dict):
    raise errors.SpecError(f'{path}: expected an object of fields')
  return values


def _language_model(config: dict[str, Any]) -> dict[str, Any]:
  """Fields of the language model, with the outer ones that hold for it."""
  for name in _NESTED:
    inner = config.get(name)
    if isinstance(inner, dict) and inner:
      outer = {k: config[k] for k in _OUTER if config.get(k) is not None}
      kind = {'model_type': config.get('model_type')}
      inner = {k: v for k, v in inner.items() if v is not None}
      return _language_model({**kind, **outer, **inner})
  return config


def _traits(values: dict[str, Any], file: str) -> tuple[str, dict[str, Any]]:
  """Model type and traits of its blocks."""
  model_type = str(values.get('model_type') or '')
  for name in (model_type, f'{model_type}_text'):
    if name in _families():
      return name, _families()[name]
  activation = str(values.get('hidden_act') or values.get('activation'))
  if values.get('rms_norm_eps') and activation in ('silu', 'swiglu', 'swish'):
    _log.warning('%s: model_type %r is not known; read as a Llama block',
                 file, model_type)  # fmt: skip
    return model_type, {}
  near = names.nearest(model_type, _families())
  raise errors.SpecError(
    f'{file}: model_type: unknown architecture {model_type!r}{near}; known '
    f'are {", ".join(_families())}'
  )


def _spec(fields: Fields, traits: dict[str, Any]) -> dict[str, Any]:
  """Fields of `Transformer`, but for name and source."""
  count = fields.need('num_hidden_layers', 'n_layer', 'n_layers', 'num_layers')
  if count > _MOST_LAYERS:
    raise fields.wrong('num_hidden_layers', f'{_MOST_LAYERS} layers or fewer')
  d_model = fields.need('hidden_size', 'n_embd', 'd_model', 'n_embed')
  fields.get('word_embed_proj_dim')
  if fields.count('word_embed_proj_dim', default=d_model) != d_model:
    raise fields.wrong('word_embed_proj_dim', f'hidden_size = {d_model}')
  layers = layers_lib.layers_of(fields, count, traits)
  context = _context(fields)
  mlps = count - layers.mixer_only
  spec = {
    'layers': count,
    'd_model': d_model,
    'vocab': fields.need('padded_vocab_size', 'vocab_size'),
    'mlp_only_layers': layers.mlp_only,
    'mixer_only_layers': layers.mixer_only,
    'linear': linear.linear_of(fields, layers),
    'gated': not traits.get('plain', False),
    'mlp_bias': _mlp_bias(fields, traits),
    'tied_embeddings': fields.flag(
      'tie_word_embeddings',
      'use_embedding_sharing',
      default=traits.get('tied', False),
    ),
    'norm_bias': traits.get('layer_norm', False),
    'positions': _positions(fields, traits, context),
    'layer_embedding': fields.count('hidden_size_per_layer_input'),
    'max_context': context,
    'mtp_layers': _mtp_layers(fields),
    'formats': formats_of(fields),
  }
  spec |= layers_lib.attention_of(fields, layers, d_model, traits)
  spec |= experts.mlps_of(fields, layers, mlps, d_model, traits)
  return spec


def _context(fields: Fields) -> int:
  return fields.need(
    'max_position_embeddings', 'n_positions', 'max_seq_len', 'seq_length',
    'n_ctx', 'max_sequence_length', 'model_max_length',
  )  # fmt: skip


def _positions(fields: Fields, traits: dict[str, Any], context: int) -> int:
  """Rows of a learned position table."""
  alibi = fields.of('attn_config').flag('alibi')
  learned = traits.get('learned_positions', False)
  if fields.get('model_type') == 'mpt':
    learned = fields.flag('learned_pos_emb', default=True) and not alibi
  return context + traits.get('extra_positions', 0) if learned else 0


def _mlp_bias(fields: Fields, traits: dict[str, Any]) -> bool:
  if fields.flag('no_bias'):
    return False
  names_of_it = ('mlp_bias', 'add_bias_linear', 'enable_bias', 'use_bias')
  return fields.flag(*names_of_it, default=traits.get('mlp_bias', False))


def _mtp_layers(fields: Fields) -> int:
  """Layers that predict further tokens."""
  modules = fields.count(
    'num_nextn_predict_layers', 'mtp_num_hidden_layers', 'num_mtp_modules'
  )
  return modules * fields.count('mtp_transformer_layers', default=1)
