"""What mixes tokens without a cache: linear attention, state-space mixers.

Gated delta rule: Yang et al., "Gated Delta Networks", arXiv:2412.06464, and
with a decay per channel Kimi Team, "Kimi Linear", arXiv:2510.26692; Mamba-2:
Dao and Gu, "Transformers are SSMs", arXiv:2405.21060; lightning attention:
Qin et al., "Lightning Attention-2", arXiv:2401.04658.
"""

from typing import Literal

import pydantic

from diffmem.workloads.attention import CONFIG, Count, CountOrNone


class LinearAttention(pydantic.BaseModel):
  """Linear attention or a state-space mixer, in place of attention.

  A layer keeps a state of `key_dim` x `value_dim` per value head instead of a
  KV cache.

  Attributes:
    kind: 'delta' (gated delta rule), 'kda' (Kimi delta attention), 'lightning'
      or 'mamba2' (`key_heads` are its groups, `key_dim` its state size,
      `value_heads` its heads).
    layers: layers that have it.
    key_heads: query and key heads.
    value_heads: value heads.
    key_dim: width of a query or key head.
    value_dim: width of a value head.
    conv: taps of the convolution over queries, keys and values; 0 for none.
  """

  model_config = CONFIG

  kind: Literal['delta', 'kda', 'mamba2', 'lightning'] = 'delta'
  layers: Count
  key_heads: Count
  value_heads: Count
  key_dim: Count
  value_dim: Count
  conv: CountOrNone = 0

  @pydantic.model_validator(mode='after')
  def _heads_divide(self):
    if self.value_heads % self.key_heads:
      raise ValueError(
        f'value_heads = {self.value_heads} must be a multiple of key_heads = '
        f'{self.key_heads}'
      )
    return self

  @property
  def key_width(self) -> int:
    """Width of all keys; the queries have the same."""
    return self.key_heads * self.key_dim

  @property
  def value_width(self) -> int:
    """Width of all values; the output gate has the same."""
    return self.value_heads * self.value_dim

  @property
  def conv_width(self) -> int:
    """Channels that are convolved."""
    return 2 * self.key_width + self.value_width if self.conv else 0

  @property
  def state_values(self) -> int:
    """Values that one sequence keeps in one layer, whatever its length."""
    state = self.value_heads * self.key_dim * self.value_dim
    return state + max(self.conv - 1, 0) * self.conv_width

  @property
  def core_flops(self) -> int:
    """Forward FLOPs of one token in one layer, outside of the matrices.

    Token by token: the state times the query, a product that is added to it,
    and for the delta rule the state times the key; and the convolution.
    """
    passes = 3 if self.kind in ('delta', 'kda') else 2
    state = 2 * passes * self.value_heads * self.key_dim * self.value_dim
    return state + 2 * self.conv * self.conv_width

  def parameters(self, d_model: int) -> float:
    """Parameters of one layer."""
    if self.kind == 'kda':
      return self._kda_parameters(d_model)
    # Columns per head that say how fast the state decays and how much is
    # written to it, and constants per head.
    rates, constants = {'delta': (2, 2), 'mamba2': (1, 3)}.get(
      self.kind, (0, 0)
    )
    columns = 2 * self.key_width + 3 * self.value_width
    columns += rates * self.value_heads
    small = constants * self.value_heads + self.value_width
    bias = 1 if self.kind == 'mamba2' else 0
    small += (self.conv + bias) * self.conv_width
    return float(d_model * columns + small)

  def _kda_parameters(self, d_model: int) -> float:
    """Decay per key channel and output gate, both through a head's width."""
    columns = 2 * self.key_width + 2 * self.value_width + self.value_heads
    decay = self.key_dim * (d_model + self.key_width)
    gate = self.value_dim * (d_model + self.value_width)
    small = self.value_heads + self.key_width + self.value_dim
    small += self.conv * self.conv_width
    return float(d_model * columns + decay + gate + small)
