"""Workloads by name, from a TOML file, or from a Hugging Face config.json."""

import functools
import pathlib
import re
import tomllib

from diffmem import errors
from diffmem.workloads import huggingface, names, specs
from diffmem.workloads import transformer as transformer_lib

_PRESETS = pathlib.Path(__file__).with_name('presets.toml')
# What a preset does not take over from the one that it is `like`.
_OWN = ('aliases', 'published_parameters', 'source')
# Ends of a name that say how a model was tuned, packed or run, not its shape.
_ENDINGS = frozenset(
  [
    *('instruct', 'chat', 'it', 'base', 'hf', 'pt', 'sft', 'lora', 'text'),
    *('thinking', 'preview', 'reasoning', 'original', 'dynamic', 'quantized'),
    *('bf16', 'fp16', 'fp8', 'nvfp4', 'fp4', 'mxfp4', 'awq', 'gptq', 'maxtext'),
    *('w4a16', 'w8a8', 'int4', 'int8', 'v0.1', 'v0.2', 'v0.3', 'v1'),
    *('2407', '2410', '2411', '2501', '2503', '2506', '2507', '2512'),
    *('0324', '0414', '0528', '0905'),
  ]
)
_BEGINNINGS = frozenset({'meta', 'nvidia', 'google', 'openai', 'facebook'})
# Formats by such an end of a name.
_ENDING_FORMATS = {
  'bf16': 'bfloat16', 'fp16': 'float16', 'fp8': 'float8',
  'nvfp4': 'nvfp4', 'fp4': 'nvfp4', 'mxfp4': 'mxfp4',
  'awq': 'int4_wo', 'gptq': 'int4_wo', 'w4a16': 'int4_wo', 'int4': 'int4_wo',
  'w8a8': 'int8', 'int8': 'int8',
}  # fmt: skip
# Families whose own FP8 checkpoints have a scale per block of weights, and
# organisations whose checkpoints of them have one per tensor or channel.
_BLOCK_SCALED = ('qwen', 'deepseek', 'glm', 'minimax', 'kimi')
_REQUANTIZERS = ('nvidia', 'redhatai', 'neuralmagic', 'amd')


@functools.cache
def _tables() -> dict[str, dict]:
  return tomllib.loads(_PRESETS.read_text(encoding='utf-8'))


@functools.cache
def _by_key() -> dict[str, str]:
  """Preset by the key of its name and aliases, with points and without.

  'llama31_405b' is Llama 3.1, but 'opt-13b' is not OPT-1.3B.
  """
  pointed = {}
  for name, table in _tables().items():
    for alias in (name, *table.get('aliases', ())):
      pointed[_key(alias)] = name
  pointless = {key.replace('.', ''): name for key, name in pointed.items()}
  return {**pointless, **pointed}


def _key(name: str) -> str:
  return re.sub(r'[^a-z0-9.]', '', name.lower())


def workload_names() -> tuple[str, ...]:
  """Names of the presets."""
  return tuple(_tables())


def load_workload(
  name_or_path: str | pathlib.Path,
) -> transformer_lib.Transformer:
  """Reads a workload: a preset, a TOML file or a Hugging Face config.json.

  A TOML file holds the fields of `Transformer` at its top level; without
  `name` the file's stem is the name. A folder with a config.json will do.

  Args:
    name_or_path: such as 'llama-3.1-405b', 'deepseek-ai/DeepSeek-R1',
      'my-model.toml' or 'my-model/config.json'.

  Raises:
    SpecError: no such preset (with the nearest), an unreadable file, or a
      field that does not fit, each with its full path.

  Examples:
    >>> round(load_workload('llama-3.1-8b').parameters().total / 1e9, 2)
    8.03
  """
  text, path = str(name_or_path), pathlib.Path(name_or_path)
  if text in _tables():
    return _preset(text)
  if (path / 'config.json').is_file():
    path = path / 'config.json'
  if path.suffix == '.json':
    return _of_config(huggingface.read_config(path))
  if path.suffix == '.toml':
    fields = specs.read_toml(path)
    given = {'name': path.stem, 'source': str(path), **fields}
    return specs.transformer_of(given, str(path))
  return find_workload(text)


def find_workload(name: str) -> transformer_lib.Transformer:
  """The preset that a model's name in the wild stands for.

  Case, punctuation, the organisation and endings such as '-Instruct' or
  '[SFT]' are ignored; an ending such as '-FP8' also sets the weights' format.

  Args:
    name: such as 'nvidia/Llama-3.1-8B-Instruct-FP8' or 'OPT-175B'.

  Raises:
    SpecError: no preset of that name, with the nearest.

  Examples:
    >>> model = find_workload('nvidia/Llama-3.1-8B-Instruct-FP8')
    >>> model.name, model.formats.weights
    ('llama-3.1-8b', 'float8')
  """
  tokens = _tokens(name)
  while tokens:
    for start in (0, 1) if tokens[0] in _BEGINNINGS else (0,):
      found = _by_key().get(_key(''.join(tokens[start:])))
      if found:
        return _with_named_format(_preset(found), name)
    if tokens.pop() not in _ENDINGS:
      break
  last = name.lower().split('/')[-1]
  near = names.nearest(last, [*_tables(), *_aliases()])
  raise errors.SpecError(
    f'no workload {name!r}{near}; give a TOML file, a config.json or one of '
    f'{", ".join(workload_names())}'
  )


def _aliases() -> list[str]:
  return [a for t in _tables().values() for a in t.get('aliases', ())]


def _preset(name: str) -> transformer_lib.Transformer:
  fields = {'name': name, **_fields(name)}
  return specs.transformer_of(fields, _PRESETS.name, name)


def _fields(name: str) -> dict:
  """Fields of a preset with those of the one that it is like."""
  own = dict(_tables()[name])
  own.pop('aliases', None)
  like = own.pop('like', '')
  if not like:
    return own
  return {**{k: v for k, v in _fields(like).items() if k not in _OWN}, **own}


def _tokens(name: str) -> list[str]:
  """Words of a name, without organisation and what is in brackets."""
  bare = re.sub(r'[\[(].*?[\])]', ' ', name.lower())
  return [t for t in re.split(r'[-_\s]+', bare.split('/')[-1]) if t]


def _of_config(
  model: transformer_lib.Transformer,
) -> transformer_lib.Transformer:
  """With the format that the name ends on, where the file has none."""
  if len(set(model.formats.model_dump().values()) - {''}) > 1:
    return model
  return _with_named_format(model, model.name)


def _with_named_format(
  model: transformer_lib.Transformer, name: str
) -> transformer_lib.Transformer:
  """The model with its weights in the format that a name ends on."""
  weights = ''
  for token in reversed(_tokens(name)):
    if token not in _ENDINGS:
      break
    weights = weights or _ENDING_FORMATS.get(token, '')
  if not weights:
    return model
  requantized = name.lower().split('/')[0] in _REQUANTIZERS
  if weights == 'float8' and not requantized:
    blocks = model.name.lower().split('/')[-1].startswith(_BLOCK_SCALED)
    weights = 'fp8_block' if blocks else weights
  # NVIDIA's 4-bit checkpoints of latent attention leave it as it was.
  kept = weights == 'nvfp4' and model.attention.kind == 'mla'
  formats = {
    'weights': weights,
    'experts': '',
    'attention': 'bfloat16' if kept else '',
  }
  return model.model_copy(
    update={'formats': model.formats.model_copy(update=formats)}
  )
