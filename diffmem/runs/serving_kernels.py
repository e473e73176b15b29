"""Which kernel a serving stack runs, in the labels that a fit has seen.

A correction that was learned with kernels by name says nothing useful of a
kernel without one. The names are found among the fitted system's own, so that
another fit with other versions works as well.
"""

import functools

from diffmem.fitting import inputs
from diffmem.system import FittedSystem
from diffmem.workloads.kernels import Kernel

# Largest message that custom all-reduce kernels take before NCCL does (vLLM,
# custom_all_reduce.py, max_size: 8 MiB).
_CUSTOM_MOST_B = 8 * 2**20
# Words that the label of a kernel has, by preference; first found wins.
_WORDS = {
  'gemm': ('torch_flow',),
  'decode_attention': ('torch_flow',),
  'prefill_attention': ('torch_flow',),
  'mla_prefill': ('default',),
  'mla_decode': ('default',),
}
_WORDS_OF_FORMAT = {('gemm', 'fp8_block'): ('deepgemm', 'torch_flow')}
# Kernels for experts that a stack may choose from, by format: (dtype,
# quantization, word of the label). Every stack has more kernels than were
# timed; one for a format of more bytes bounds those for a narrower one.
_FLOAT8 = ('float8', '', 'torch_flow_cutlass')
_EXPERTS = {
  'fp8_block': (
    ('float8', 'fp8_block', 'deepgemm'),
    ('float8', 'fp8_block', 'torch_flow_cutlass'),
    ('float8', 'fp8_block', 'vllm_fused_moe'),
    _FLOAT8,
  ),
  'nvfp4': (
    ('float4', 'nvfp4', 'torch_flow_cutlass'),
    ('float4', 'nvfp4', 'min_latency'),
  ),
  'w4a16_mxfp4': (
    ('bfloat16', 'w4a16_mxfp4', 'torch_flow'),
    ('float8', 'w4a8_mxfp4_mxfp8', 'torch_flow'),
    _FLOAT8,
  ),
  'int4_wo': (
    ('bfloat16', 'int4_wo', 'marlin'),
    _FLOAT8,
  ),
  '': (
    ('', '', 'torch_flow_cutlass'),
    ('', '', 'vllm_fused_moe'),
  ),
}  # fmt: skip
# A bound by bytes says nothing of steps with many tokens, where scales of
# blocks cost time; weights of four bits can be widened before.
_FEW_TOKENS = 1024.0
_EXPERTS_LONG = {'fp8_block': _EXPERTS['fp8_block'][:-1]}


class Namer:
  """Puts the label of the fitted kernel on kernels of a stack."""

  def __init__(self, fitted: FittedSystem, backend: str):
    self._backend = backend or 'trtllm'
    self._labels = {}
    for residual in fitted.residuals.values():
      if residual.observable == 'time_s':
        found = [c.partition('=') for c in residual.categories]
        self._labels[residual.family] = tuple(
          label for column, _, label in found if column == 'variant'
        )

  def __call__(self, kernel: Kernel) -> tuple[Kernel, ...]:
    """The kernel with its 'variant', or those that a stack chooses from."""
    shape = dict(kernel.shape)
    if kernel.op == 'moe':
      return self._of_experts(kernel, shape)
    if kernel.op == 'all_reduce':
      label = self._all_reduce(shape)
    elif 'variant' in shape:
      label = self._first(kernel.op, tuple(shape['variant'].split()[-1:]))
      label = label or shape['variant']
    else:
      label = self._of_product(kernel.op, shape)
    if label:
      shape['variant'] = label
    return (kernel._replace(shape=shape),)

  def _of_experts(self, kernel: Kernel, shape) -> tuple[Kernel, ...]:
    found = []
    choices = _EXPERTS.get(shape.get('quantization', ''), ())
    if shape.get('num_tokens', 0.0) > _FEW_TOKENS:
      choices = _EXPERTS_LONG.get(shape.get('quantization', ''), choices)
    for dtype, quantization, word in choices:
      label = self._first('moe', (word,))
      if label:
        format_columns = {
          'dtype': dtype or shape['dtype'], 'quantization': quantization,
        }  # fmt: skip
        named = shape | format_columns | {'variant': label}
        found.append(kernel._replace(shape=named))
    return tuple(found) or (kernel,)

  def _of_product(self, op: str, shape) -> str:
    if op == 'mla_bmm':
      way = 'pre' if shape['n'] > shape['k'] else 'post'
      return self._first(op, (f'bmm_out mla_gen_{way}',))
    words = _WORDS_OF_FORMAT.get((op, shape.get('quantization', '')))
    return self._first(op, words or _WORDS.get(op, ()))

  def _all_reduce(self, shape) -> str:
    is_custom = (
      shape['message_bytes'] <= _CUSTOM_MOST_B
      and shape['participants'] <= shape['ranks_per_node']
    )
    if is_custom:
      label = self._first('all_reduce', (self._backend,), 'graph')
      if label:
        return label
    return self._first('all_reduce', ('nccl',)) or 'nccl eager'

  def _first(self, op: str, words: tuple[str, ...], also: str = '') -> str:
    return _first(self._labels.get(inputs.family(op), ()), words, also)


@functools.cache
def _first(labels: tuple[str, ...], words: tuple[str, ...], also: str) -> str:
  """The last label with the first of the words that any label has."""
  for word in words:
    fits = [
      label
      for label in labels
      if word.lower() in label.lower() and also in label
    ]
    exact = [label for label in fits if label.split()[-1] == word]
    if exact or fits:
      return sorted(exact or fits)[-1]
  return ''
