"""Number formats: the names that tools use, and ours."""

from typing import NamedTuple


class NumberFormat(NamedTuple):
  """How a kernel holds its operands.

  Attributes:
    dtype: what the matrix engine multiplies.
    weight_B: bytes of one weight, scales left out.
    activation_B: bytes of one activation that enters the kernel.
  """

  dtype: str
  weight_B: float
  activation_B: float


# Left: the names of ai-dynamo/aiconfigurator, vLLM and torch. Scales of block
# formats: nvfp4 has one byte for 16 values.
_KNOWN = {
  'bfloat16': NumberFormat('bfloat16', 2, 2),
  'bf16': NumberFormat('bfloat16', 2, 2),
  'half': NumberFormat('float16', 2, 2),
  'float16': NumberFormat('float16', 2, 2),
  'float': NumberFormat('float32', 4, 4),
  'float32': NumberFormat('float32', 4, 4),
  'double': NumberFormat('float64', 8, 8),
  'float64': NumberFormat('float64', 8, 8),
  'fp8': NumberFormat('float8', 1, 1),
  'float8': NumberFormat('float8', 1, 1),
  'fp8_block': NumberFormat('float8', 1, 1),
  'nvfp4': NumberFormat('float4', 0.5625, 0.5625),
  'mxfp4': NumberFormat('float4', 0.53125, 2),
  'int8': NumberFormat('int8', 1, 1),
  'sq': NumberFormat('int8', 1, 1),
  'int8_wo': NumberFormat('bfloat16', 1, 2),
  'int4_wo': NumberFormat('bfloat16', 0.5, 2),
  'w4a16_mxfp4': NumberFormat('bfloat16', 0.53125, 2),
  'w4a8_mxfp4_mxfp8': NumberFormat('float8', 0.53125, 1),
}

_PLAIN = frozenset(
  {'bfloat16', 'bf16', 'half', 'float16', 'float', 'float32', 'double'}
) | {'float64', 'fp8', 'float8', 'int8'}


def number_format(name: str) -> NumberFormat:
  """What a tool's name means; an unknown name is kept as the dtype."""
  return _KNOWN.get(name, NumberFormat(name, 2, 2))


def is_known(name: str) -> bool:
  """Whether `number_format` knows a tool's name."""
  return name in _KNOWN


def dtype(name: str) -> str:
  """Our name of a number format."""
  return number_format(name).dtype


def quantization(name: str) -> str:
  """The tool's name where our `dtype` does not tell all of it, else ''."""
  return '' if name in _PLAIN or name not in _KNOWN else name
