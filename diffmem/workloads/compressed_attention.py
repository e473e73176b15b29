"""Attention to a window and to what is compressed of the tokens before.

DeepSeek-V4 (DeepSeek-AI, "DeepSeek-V4", technical report, 2026): one head of
keys that are the values too, for all query heads; every `ratio` tokens leave
one compressed key. Where these are many (a ratio of 4) an index chooses among
them; where they are few (128) all are attended to. The output is projected in
groups of heads, through a lower rank. Shapes are those of its config.json and
of the reference implementation's modules.
"""

from typing import Literal

import pydantic

from diffmem.workloads.attention import (
  CONFIG,
  Count,
  CountOrNone,
  mean_of_least,
)


class CompressedAttention(pydantic.BaseModel):
  """Attention over a window and compressed keys.

  Attributes:
    kind: the law of its projections and cache.
    heads: query heads.
    head_dim: width of a query head, and of the one key.
    q_rank: width that queries are compressed to.
    o_groups: groups of heads that are projected on their own.
    o_rank: width that the output of each group is projected to.
    ratio: tokens of a compressed key.
    window: last tokens that are attended to uncompressed.
    windowed_layers: layers with these heads, if others differ; 0 for all.
    index_heads: heads of the index over compressed keys; 0 for none.
    index_dim: their width.
    index_top_k: compressed keys that the index leaves to attend to.
  """

  model_config = CONFIG

  kind: Literal['csa'] = 'csa'
  heads: Count
  head_dim: Count
  q_rank: Count
  o_groups: Count
  o_rank: Count
  ratio: Count
  window: Count
  windowed_layers: CountOrNone = 0
  index_heads: CountOrNone = 0
  index_dim: CountOrNone = 0
  index_top_k: CountOrNone = 0

  @pydantic.model_validator(mode='after')
  def _groups_divide(self):
    if self.heads % self.o_groups:
      raise ValueError(
        f'heads = {self.heads} must be a multiple of o_groups = {self.o_groups}'
      )
    return self

  @property
  def kv_heads(self) -> int:
    """One key for all query heads."""
    return 1

  @property
  def cache_heads(self) -> int:
    """Tensor ranks that the KV cache can be split over: every rank has all."""
    return 1

  @property
  def q_dim(self) -> int:
    """Width of all queries."""
    return self.heads * self.head_dim

  @property
  def kv_dim(self) -> int:
    """Width of the key, which is the value too."""
    return self.head_dim

  @property
  def out_dim(self) -> int:
    """Width of what goes into the output projection."""
    return self.q_dim

  @property
  def cache_values(self) -> int:
    """Values of one cached key."""
    return self.head_dim

  @property
  def core_flops_per_key(self) -> int:
    """Forward FLOPs of one token's attention to one key."""
    return 4 * self.q_dim

  @property
  def decode_flops_per_key(self) -> int:
    """The same in a decode step."""
    return self.core_flops_per_key

  @property
  def index_values(self) -> int:
    """Values of 8 bits that the index keeps of one compressed key."""
    return self.index_dim

  @property
  def index_flops_per_key(self) -> int:
    """Forward FLOPs of the index for one token and one compressed key."""
    return 2 * self.index_heads * self.index_dim

  def keys(self, context: float, window: int = 0) -> float:
    """Keys that the last token of `context` attends to."""
    compressed = context / self.ratio
    if self.index_top_k:
      compressed = min(compressed, self.index_top_k)
    return min(context, window or self.window) + compressed

  def mean_keys(self, seq_len: float, window: int = 0) -> float:
    """Keys that a token of a causal sequence attends to, on average."""
    reach = self.index_top_k * self.ratio or seq_len
    compressed = mean_of_least(seq_len, reach) / self.ratio
    return mean_of_least(seq_len, window or self.window) + compressed

  def kept_values(self, context: float, window: int = 0) -> float:
    """Values that one sequence keeps in one layer, without the index's."""
    kept = min(context, window or self.window) + context / self.ratio
    return self.cache_values * kept

  def index_keys(self, context: float) -> float:
    """Keys of the index that the last token of `context` is held against."""
    return context / self.ratio if self.index_heads else 0.0

  def parameters(self, d_model: int) -> float:
    """Parameters of one layer."""
    queries = self.q_rank * (d_model + self.q_dim + 1)
    keys = (d_model + 1) * self.head_dim
    out = self.q_dim * self.o_rank + self.o_groups * self.o_rank * d_model
    total = queries + keys + out + self.heads
    total += self._compressor(d_model, self.head_dim)
    if self.index_heads:
      total += self.q_rank * self.index_heads * self.index_dim
      total += d_model * self.index_heads
      total += self._compressor(d_model, self.index_dim)
    return float(total)

  def _compressor(self, d_model: int, width: int) -> int:
    """Weighted sums of `ratio` tokens; those of an index overlap by half."""
    wide = width * (2 if self.index_heads else 1)
    return wide * (2 * d_model + self.ratio) + width
