"""Number formats of a model's parts, and the bytes of a stored value."""

from typing import Annotated

import pydantic

from diffmem import errors
from diffmem.workloads import names

# Bytes of one stored value with its share of the scales. Names are those of
# the dtype and quantization columns of the kernel tables.
_VALUE_B = {
  'float32': 4.0,
  'bfloat16': 2.0,
  'float16': 2.0,
  # One scale per tensor.
  'float8': 1.0,
  'int8': 1.0,
  # One float32 scale per 128 x 128 weights (DeepSeek-AI, "DeepSeek-V3",
  # arXiv:2412.19437, section 3.3.2).
  'fp8_block': 1.0 + 4.0 / 128**2,
  # One 8-bit scale per 16 values (NVIDIA, "Pretraining Large Language Models
  # with NVFP4", arXiv:2509.25149, section 2).
  'nvfp4': 0.5 + 1.0 / 16,
  # One 8-bit scale per 32 values (Open Compute Project, "OCP Microscaling
  # Formats (MX) Specification", v1.0, section 5.3).
  'mxfp4': 0.5 + 1.0 / 32,
  'mxfp8': 1.0 + 1.0 / 32,
  # One 16-bit scale per 128 weights (Lin et al., "AWQ", MLSys 2024).
  'int4_wo': 0.5 + 2.0 / 128,
}


def format_names() -> tuple[str, ...]:
  """Names of the formats."""
  return tuple(_VALUE_B)


def value_B(name: str) -> float:
  """Bytes of one stored value, with its share of the scales.

  Args:
    name: such as 'bfloat16', 'fp8_block' or 'nvfp4'.

  Raises:
    SpecError: no such format, with the nearest.
  """
  if name in _VALUE_B:
    return _VALUE_B[name]
  raise errors.SpecError(_unknown(name))


def _unknown(name: str) -> str:
  near = names.nearest(name, _VALUE_B)
  return f'no number format {name!r}{near}; one of {", ".join(_VALUE_B)}'


def _known(name: str) -> str:
  if name and name not in _VALUE_B:
    raise ValueError(_unknown(name))
  return name


Name = Annotated[str, pydantic.AfterValidator(_known)]


class Formats(pydantic.BaseModel):
  """Number formats of a model's parts, '' for that of `weights`.

  Attributes:
    weights: matrices of the layers.
    experts: matrices of routed experts.
    attention: matrices of attention and of what stands in its place.
    embeddings: input and output tables.
    activations: residual stream and all else that is not named here.
    kv_cache: keys and values.
  """

  model_config = pydantic.ConfigDict(frozen=True, extra='forbid')

  weights: Name = 'bfloat16'
  experts: Name = ''
  attention: Name = ''
  embeddings: Name = 'bfloat16'
  activations: Name = 'bfloat16'
  kv_cache: Name = 'bfloat16'

  def of(self, part: str) -> str:
    """The format of a part, '' resolved: such as `of('experts')`."""
    return getattr(self, part) or self.weights

  def part_B(self, part: str) -> float:
    """Bytes of one stored value of a part."""
    return value_B(self.of(part))
