"""Number formats of serving runs, from what their rows name."""

from diffmem.workloads.formats import Formats, value_B
from diffmem.workloads.transformer import Transformer

_ALIASES = {
  'bf16': 'bfloat16', 'fp16': 'bfloat16', 'float16': 'bfloat16',
  'fp8': 'float8', 'fp4': 'nvfp4', 'int4': 'int4_wo',
  'w4a16_mxfp4': 'mxfp4', 'w4a8_mxfp4_mxfp8': 'mxfp4',
}  # fmt: skip
_FOUR_BITS = ('nvfp4', 'mxfp4', 'int4_wo')


def with_formats(
  model: Transformer, gemm: str, moe: str, precision: str
) -> Transformer:
  """A model in the number formats of a run.

  A model that is published in a format of the same width keeps its own:
  'fp8' of one published in blocks means blocks, 'fp4' of gpt-oss means its
  mxfp4 experts. Four-bit checkpoints of models with experts or latent
  attention leave attention in bfloat16 (NVIDIA's NVFP4 checkpoints of
  DeepSeek-R1 and Kimi-K2.5, moonshotai's int4).

  Args:
    model: as published.
    gemm: format of plain matrices, '' for `precision`.
    moe: format of experts, '' for `gemm`.
    precision: of the run, '' for the model's own.

  Raises:
    SpecError: no such format.
  """
  own = model.formats
  plain = _ALIASES.get(gemm or precision, gemm or precision)
  routed = _ALIASES.get(moe or gemm or precision, moe or gemm or precision)
  if not plain:
    return model
  for name in (plain, routed):
    value_B(name)  # refuses what is no format
  is_native = model.experts and own.of('experts') in _FOUR_BITS
  is_recast = own.of('experts') == 'int4_wo' and routed == 'nvfp4'
  if is_native and not is_recast and routed in _FOUR_BITS:
    return model
  if routed == 'float8' and (
    own.of('experts') == 'fp8_block' or plain == 'fp8_block'
  ):
    routed = 'fp8_block'
  if plain == 'float8' and (routed == 'fp8_block' and model.experts):
    plain = 'fp8_block'
  attention = ''
  if plain in _FOUR_BITS and model.experts:
    attention = 'bfloat16'
  if plain == 'int4_wo' and model.experts:
    plain = 'bfloat16'
  formats = Formats(
    weights=plain,
    experts=routed if model.experts else '',
    attention=attention,
    embeddings=own.embeddings,
    activations=own.activations,
    kv_cache=own.kv_cache,
  )
  return model.model_copy(update={'formats': formats})


def with_cache(
  model: Transformer, backend: str, accelerator: str
) -> Transformer:
  """A model with the cache format that stacks choose by themselves.

  Quantised models have a float8 cache on Blackwell, and in TensorRT-LLM
  everywhere: the largest batches that measured runs reach say so (memory of
  twice as many bytes would hold half of them). Others have bfloat16.
  """
  formats = model.formats
  plain = 'bfloat16'
  is_narrow = plain not in (formats.weights, formats.of('experts'))
  is_new = accelerator.lower().lstrip('g').startswith('b')
  chosen = 'float8' if is_narrow and (is_new or backend == 'trtllm') else plain
  formats = formats.model_copy(update={'kv_cache': chosen})
  return model.model_copy(update={'formats': formats})
