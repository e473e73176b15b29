"""What mixes tokens in a layer: grouped-query and latent attention.

Shapes only: parameters, what a token leaves in the KV cache, and FLOPs per
key. Grouped-query attention is Ainslie et al., "GQA", EMNLP 2023
(arXiv:2305.13245); latent attention DeepSeek-AI, "DeepSeek-V2",
arXiv:2405.04434, section 2.1, with the sparse index of DeepSeek-AI,
"DeepSeek-V3.2", arXiv:2512.02556.
"""

from typing import Annotated, Literal

import pydantic

CONFIG = pydantic.ConfigDict(frozen=True, extra='forbid')
Count = Annotated[int, pydantic.Field(ge=1)]
CountOrNone = Annotated[int, pydantic.Field(ge=0)]


def mean_of_least(seq_len: float, most: float) -> float:
  """Mean of the tokens before, or `most`, over a sequence from its start.

  Half the sequence where `most` is longer; else `w - w^2 / 2 s`.
  """
  most = min(seq_len, most)
  return most - most**2 / (2.0 * seq_len)


class Attention(pydantic.BaseModel):
  """Multi-head or grouped-query attention.

  Attributes:
    kind: the law of its projections and cache.
    heads: query heads.
    kv_heads: key and value heads; as many as `heads` for multi-head.
    head_dim: width of a query or key head.
    v_dim: width of a value head; 0 for `head_dim`.
    bias: whether query, key and value projections have a bias.
    output_bias: whether the output projection has one.
    output_gate: whether the output is gated, by a projection of its own
      (Qwen3-Next, Qwen3.5).
    qk_norm: whether queries and keys are normalised, with a gain per channel.
    shared_kv: whether values are the keys, before the rotary embedding
      (Gemma 4, full layers): no value projection; both are cached.
    window: keys that a windowed layer's token attends to; 0 for none. A chunk
      of chunked attention (Llama 4) is taken as a window.
    windowed_layers: layers with that window.
    borrowing_layers: of the layers with these heads, those that attend to the
      keys and values of an earlier layer (Gemma 4 E2B and E4B): they project
      and cache none.
  """

  model_config = CONFIG

  kind: Literal['gqa'] = 'gqa'
  heads: Count
  kv_heads: Count
  head_dim: Count
  v_dim: CountOrNone = 0
  bias: bool = False
  output_bias: bool = False
  output_gate: bool = False
  qk_norm: bool = False
  shared_kv: bool = False
  window: CountOrNone = 0
  windowed_layers: CountOrNone = 0
  borrowing_layers: CountOrNone = 0

  @pydantic.model_validator(mode='after')
  def _heads_divide(self):
    if self.heads % self.kv_heads:
      legal = [d for d in range(1, self.heads + 1) if not self.heads % d]
      near = min(legal, key=lambda d: abs(d - self.kv_heads))
      raise ValueError(
        f'heads = {self.heads} must be a multiple of kv_heads = '
        f'{self.kv_heads}; the nearest kv_heads that divides is {near}'
      )
    if bool(self.window) != bool(self.windowed_layers):
      raise ValueError(
        f'window = {self.window} and windowed_layers = {self.windowed_layers} '
        'must both be given or both be 0'
      )
    return self

  @property
  def q_dim(self) -> int:
    """Width of all queries."""
    return self.heads * self.head_dim

  @property
  def kv_dim(self) -> int:
    """Width of all keys; the values have the same, unless `v_dim` says."""
    return self.kv_heads * self.head_dim

  @property
  def out_dim(self) -> int:
    """Width of what goes into the output projection."""
    return self.heads * (self.v_dim or self.head_dim)

  @property
  def cache_values(self) -> int:
    """Values that one token of one layer leaves in the KV cache."""
    return self.kv_heads * (self.head_dim + (self.v_dim or self.head_dim))

  @property
  def cache_heads(self) -> int:
    """Tensor ranks that the KV cache can be split over."""
    return self.kv_heads

  @property
  def index_values(self) -> int:
    """Values of a sparse index that one token of one layer leaves: none."""
    return 0

  @property
  def index_flops_per_key(self) -> int:
    """Forward FLOPs of a sparse index for one token and one key: none."""
    return 0

  @property
  def core_flops_per_key(self) -> int:
    """Forward FLOPs of one token's attention to one key."""
    return 2 * (self.q_dim + self.out_dim)

  @property
  def decode_flops_per_key(self) -> int:
    """The same in a decode step."""
    return self.core_flops_per_key

  def keys(self, context: float, window: int = 0) -> float:
    """Keys that the last token of `context` attends to."""
    return min(context, window) if window else context

  def mean_keys(self, seq_len: float, window: int = 0) -> float:
    """Keys that a token of a causal sequence attends to, on average."""
    return mean_of_least(seq_len, window or seq_len)

  def kept_values(self, context: float, window: int = 0) -> float:
    """Values that one sequence keeps in one layer."""
    return self.cache_values * self.keys(context, window)

  def index_keys(self, context: float) -> float:
    """Keys of a sparse index: none."""
    return 0.0

  def key_parameters(self, d_model: int) -> float:
    """Of one layer's parameters, those that give keys and values."""
    projected = self.kv_dim if self.shared_kv else self.cache_values
    return float(projected * (d_model + (1 if self.bias else 0)))

  def parameters(self, d_model: int) -> float:
    """Parameters of one layer."""
    queries = self.q_dim + (self.out_dim if self.output_gate else 0)
    total = d_model * (queries + self.out_dim) + self.key_parameters(d_model)
    total += queries if self.bias else 0
    total += d_model if self.output_bias else 0
    total += 2 * self.head_dim if self.qk_norm else 0
    return float(total)


class LatentAttention(pydantic.BaseModel):
  """Multi-head latent attention, with DeepSeek's sparse index or without.

  Attributes:
    kind: the law of its projections and cache.
    heads: query heads.
    q_rank: width that queries are compressed to; 0 for none.
    kv_rank: width that keys and values are compressed to, and cached at.
    nope_dim: width of a head's key without position.
    rope_dim: width of the rotary key, which all heads share.
    v_dim: width of a head's value.
    index_heads: heads of the sparse index; 0 for none.
    index_dim: their width; one key of it is cached per token.
    index_top_k: keys that the index leaves to attend to.
  """

  model_config = CONFIG

  kind: Literal['mla'] = 'mla'
  heads: Count
  q_rank: CountOrNone = 0
  kv_rank: Count
  nope_dim: Count
  rope_dim: Count
  v_dim: Count
  index_heads: CountOrNone = 0
  index_dim: CountOrNone = 0
  index_top_k: CountOrNone = 0

  @pydantic.model_validator(mode='after')
  def _index_is_whole(self):
    index = (self.index_heads, self.index_dim, self.index_top_k)
    if any(index) and not all(index):
      raise ValueError(
        'index_heads, index_dim and index_top_k must all be given or all be '
        f'0 (found {index})'
      )
    return self

  @property
  def kv_heads(self) -> int:
    """Key and value heads, after their expansion."""
    return self.heads

  @property
  def head_dim(self) -> int:
    """Width of a query or key head."""
    return self.nope_dim + self.rope_dim

  @property
  def window(self) -> int:
    """None: every layer attends to the whole sequence, or to `index_top_k`."""
    return 0

  @property
  def windowed_layers(self) -> int:
    """None."""
    return 0

  @property
  def q_dim(self) -> int:
    """Width of all queries."""
    return self.heads * self.head_dim

  @property
  def kv_dim(self) -> int:
    """Mean width of all keys and of all values, expanded."""
    return self.heads * (self.head_dim + self.v_dim) // 2

  @property
  def out_dim(self) -> int:
    """Width of what goes into the output projection."""
    return self.heads * self.v_dim

  @property
  def cache_values(self) -> int:
    """Values that one token of one layer leaves in the KV cache.

    The index's key (`index_values`) is not among them.
    """
    return self.kv_rank + self.rope_dim

  @property
  def cache_heads(self) -> int:
    """Tensor ranks that the KV cache can be split over: every rank has all."""
    return 1

  @property
  def index_values(self) -> int:
    """Values of 8 bits that the index keeps of one token in one layer."""
    return self.index_dim

  @property
  def core_flops_per_key(self) -> int:
    """Forward FLOPs of one token's attention to one key, keys expanded."""
    return 2 * self.heads * (self.nope_dim + self.rope_dim + self.v_dim)

  @property
  def decode_flops_per_key(self) -> int:
    """The same in a decode step, which absorbs the expansion in the query.

    DeepSeek-V2, section 2.1.2: scores against the latent key and the rotary
    one, and a sum of latent values.
    """
    return 2 * self.heads * (2 * self.kv_rank + self.rope_dim)

  @property
  def index_flops_per_key(self) -> int:
    """Forward FLOPs of the index for one token and one key."""
    return 2 * self.index_heads * self.index_dim

  def keys(self, context: float, window: int = 0) -> float:
    """Keys that the last token of `context` attends to."""
    return min(context, self.index_top_k or context)

  def mean_keys(self, seq_len: float, window: int = 0) -> float:
    """Keys that a token of a causal sequence attends to, on average."""
    return mean_of_least(seq_len, self.index_top_k or seq_len)

  def kept_values(self, context: float, window: int = 0) -> float:
    """Values that one sequence keeps in one layer, without the index's."""
    return self.cache_values * context

  def index_keys(self, context: float) -> float:
    """Keys of the index that the last token of `context` is held against."""
    return context if self.index_heads else 0.0

  def parameters(self, d_model: int) -> float:
    """Parameters of one layer."""
    if self.q_rank:
      queries = self.q_rank * (d_model + self.q_dim + 1)
    else:
      queries = d_model * self.q_dim
    keys = d_model * (self.kv_rank + self.rope_dim) + self.kv_rank
    expand = self.kv_rank * self.heads * (self.nope_dim + self.v_dim)
    index = 0
    if self.index_heads:
      index = (self.q_rank or d_model) * self.index_heads * self.index_dim
      index += d_model * (self.index_dim + self.index_heads)
      index += 2 * self.index_dim
    return float(queries + keys + expand + index + self.out_dim * d_model)
