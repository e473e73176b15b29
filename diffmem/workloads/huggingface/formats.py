"""Number formats from a config.json's dtype and quantization_config."""

import re
from typing import Any

from diffmem.workloads import names
from diffmem.workloads.formats import Formats
from diffmem.workloads.huggingface.fields import Fields

_DTYPES = {
  'auto': 'bfloat16', 'bfloat16': 'bfloat16', 'float16': 'float16',
  'half': 'float16', 'float32': 'float32', 'float': 'float32',
}  # fmt: skip
# Methods whose packing is in the fields beside them.
_GROUPED = ('compressed-tensors', 'quark', 'modelopt', 'modelopt_fp4')
_INTEGER = ('awq', 'gptq', 'auto-round', 'bitsandbytes')
_METHODS = ('fp8', 'fbgemm_fp8', 'mxfp4', *_INTEGER, *_GROUPED)
# `quant_algo` of NVIDIA's modelopt.
_ALGORITHMS = {
  'FP8': 'float8', 'FP8_PB_WO': 'fp8_block', 'FP8_PER_CHANNEL': 'float8',
  'NVFP4': 'nvfp4', 'W4A16_AWQ': 'int4_wo', 'W4A8_AWQ': 'int4_wo',
  'INT8_SQ': 'int8', 'W8A16': 'int8', 'MXFP8': 'mxfp8', 'MXFP4': 'mxfp4',
}  # fmt: skip
# All of attention, or its queries: not its output or latent alone.
_ATTENTION = re.compile(r'attn(\W*$|\W*\*|.*q_\w*proj|.*qkv)')
_EXCLUDED = (
  'modules_to_not_convert', 'ignore', 'ignored_layers', 'exclude_modules',
  'exclude',
)  # fmt: skip


def formats_of(fields: Fields) -> Formats:
  """Number formats of a model's parts.

  Embeddings, output table and router stay as they are; attention and what is
  not an expert do where the list of excluded modules names them.

  Raises:
    SpecError: a dtype or quantization that is not known, with the nearest.
  """
  dtype = str(fields.get('torch_dtype', 'dtype', default='auto'))
  base = _DTYPES.get(dtype.removeprefix('torch.'))
  if not base:
    key = 'torch_dtype' if 'torch_dtype' in fields else 'dtype'
    raise fields.wrong(key, f'one of {", ".join(_DTYPES)}')
  plain = {'embeddings': base, 'activations': base, 'kv_cache': base}
  quant = fields.get('quantization_config', 'compression_config', default={})
  if not isinstance(quant, dict):
    raise fields.wrong('quantization_config', 'an object')
  # What modelopt writes to a file beside config.json.
  quant = quant.get('quantization', quant)
  weights = _weights_format(quant, fields)
  if not weights:
    return Formats(weights=base, **plain)
  if _cache_is_8_bits(quant):
    plain['kv_cache'] = 'float8'
  excluded = _excluded(quant)
  attention = any(_ATTENTION.search(m) for m in excluded)
  shared = any('shared_expert' in m for m in excluded)
  if weights == 'mxfp4' or (attention and shared):
    return Formats(weights=base, experts=weights, **plain)
  kept = base if attention else ''
  return Formats(weights=weights, attention=kept, **plain)


def _weights_format(quant: dict[str, Any], fields: Fields) -> str:
  """The format of quantized weights; '' for none."""
  method = str(quant.get('quant_method', '')).lower()
  if not quant or quant.get('quant_algo', '') is None:
    return ''
  if quant.get('quant_algo'):
    return _named(_ALGORITHMS, str(quant['quant_algo']), fields)
  if method == 'mxfp4':
    return 'mxfp4'
  if method in ('fp8', 'fbgemm_fp8'):
    return 'fp8_block' if quant.get('weight_block_size') else 'float8'
  if method in _INTEGER:
    bits = quant.get('bits') or (8 if quant.get('load_in_8bit') else 4)
    return {4: 'int4_wo', 8: 'int8'}.get(bits) or _refuse(
      fields, f'4 or 8 bits (found {bits!r})'
    )
  if method in _GROUPED and quant.get('config_groups'):
    return _group_format(next(iter(quant['config_groups'].values())), fields)
  near = names.nearest(method, _METHODS)
  return _refuse(
    fields, f'quant_method {", ".join(_METHODS)} (found {method!r}){near}'
  )


def _group_format(group: dict[str, Any], fields: Fields) -> str:
  """The format of a group's weights by bits, type and strategy."""
  weights = group.get('weights') or {}
  bits, kind = weights.get('num_bits'), weights.get('type', 'int')
  size = weights.get('group_size')
  if (bits, kind) == (4, 'float'):
    return 'mxfp4' if size == 32 else 'nvfp4'
  if (bits, kind) == (8, 'float'):
    return 'fp8_block' if weights.get('strategy') == 'block' else 'float8'
  if kind == 'int' and bits in (4, 8):
    return {4: 'int4_wo', 8: 'int8'}[bits]
  return _refuse(fields, f'weights of 4 or 8 bits (found {weights!r:.60})')


def _named(table: dict[str, str], name: str, fields: Fields) -> str:
  if name.upper() in table:
    return table[name.upper()]
  near = names.nearest(name, table)
  return _refuse(
    fields, f'quant_algo {", ".join(table)} (found {name!r}){near}'
  )


def _refuse(fields: Fields, expected: str) -> str:
  raise fields.wrong('quantization_config', expected)


def _cache_is_8_bits(quant: dict[str, Any]) -> bool:
  scheme = quant.get('kv_cache_scheme') or {}
  algorithm = str(quant.get('kv_cache_quant_algo') or '')
  return scheme.get('num_bits') == 8 or algorithm.upper() == 'FP8'


def _excluded(quant: dict[str, Any]) -> list[str]:
  """Excluded modules other than norms and gates."""
  found = []
  for field in _EXCLUDED:
    modules = quant.get(field) or []
    if not isinstance(modules, list):
      modules = [modules]
    found += [str(m) for m in modules]
  return [m for m in found if not re.search(r'norm|gate$|indexer', m)]
