"""A decoder-only transformer: its shape and its exact parameter count.

The block is the one of Vaswani et al. (2017) with the changes that every
public large model has made since: grouped-query attention (Ainslie et al.,
2023), gated MLP (Shazeer, 2020), top-k experts (Shazeer et al., 2017; Fedus
et al., 2022) with shared ones (DeepSeek-AI, 2024).
"""

from typing import Annotated, Literal, NamedTuple

import pydantic

_CONFIG = pydantic.ConfigDict(frozen=True, extra='forbid')
Count = Annotated[int, pydantic.Field(ge=1)]
CountOrNone = Annotated[int, pydantic.Field(ge=0)]


class Attention(pydantic.BaseModel):
  """Multi-head or grouped-query attention.

  Attributes:
    kind: the law of its projections and cache.
    heads: query heads.
    kv_heads: key and value heads; as many as `heads` for multi-head.
    head_dim: width of a head.
    bias: whether query, key and value projections have a bias.
  """

  model_config = _CONFIG

  kind: Literal['gqa'] = 'gqa'
  heads: Count
  kv_heads: Count
  head_dim: Count
  bias: bool = False

  @pydantic.model_validator(mode='after')
  def _heads_divide(self):
    if self.heads % self.kv_heads:
      raise ValueError(
        f'heads = {self.heads} must be a multiple of kv_heads = {self.kv_heads}'
      )
    return self

  @property
  def q_dim(self) -> int:
    """Width of all queries."""
    return self.heads * self.head_dim

  @property
  def kv_dim(self) -> int:
    """Width of all keys; the values have the same."""
    return self.kv_heads * self.head_dim

  def parameters(self, d_model: int) -> float:
    """Parameters of one layer."""
    matrices = d_model * (2 * self.q_dim + 2 * self.kv_dim)
    biases = self.q_dim + 2 * self.kv_dim if self.bias else 0
    return float(matrices + biases)


class Experts(pydantic.BaseModel):
  """The routed and shared experts of a mixture-of-experts layer.

  Attributes:
    count: routed experts of one layer.
    top_k: routed experts that each token visits.
    d_ff: hidden width of one routed expert.
    shared: experts that every token visits.
    shared_d_ff: hidden width of one shared expert; 0 for the routed one's.
    dense_layers: first layers that have a plain MLP in their place.
  """

  model_config = _CONFIG

  count: Count
  top_k: Count
  d_ff: Count
  shared: CountOrNone = 0
  shared_d_ff: CountOrNone = 0
  dense_layers: CountOrNone = 0

  @pydantic.model_validator(mode='after')
  def _top_k_exists(self):
    if self.top_k > self.count:
      raise ValueError(f'top_k = {self.top_k} exceeds count = {self.count}')
    return self


class ParameterCount(NamedTuple):
  """Parameters of a whole model, per tensor group.

  Attributes:
    attention: projections of all layers.
    mlp: dense MLPs and shared experts.
    experts: routed experts, all of them.
    router: routing matrices.
    norms: normalisation gains (and biases).
    embeddings: input table, and output table unless tied.
  """

  attention: float
  mlp: float
  experts: float
  router: float
  norms: float
  embeddings: float

  @property
  def total(self) -> float:
    """All of them."""
    return sum(self)


class Transformer(pydantic.BaseModel):
  """Shape of a decoder-only transformer.

  Attributes:
    name: such as 'llama-3.1-405b'.
    source: where the figures come from.
    hypothetical: whether the model is a size study, not a published model.
    layers: decoder layers.
    d_model: width of the residual stream.
    d_ff: hidden width of the dense MLP; 0 where all layers have experts.
    vocab: rows of the embedding table.
    attention: its heads.
    experts: None for a dense model.
    gated: whether MLPs have a gate (three matrices, not two).
    tied_embeddings: whether input and output share one table.
    norm_bias: layer norm (gain and bias) rather than RMS norm (gain).
    dropout: whether dropout masks are kept for the backward pass.
    max_context: tokens that the model was made for.
    published_parameters: total in the source, for a check; None if unknown.
  """

  model_config = _CONFIG

  name: str
  source: str
  hypothetical: bool = False
  layers: Count
  d_model: Count
  d_ff: CountOrNone = 0
  vocab: Count
  attention: Attention
  experts: Experts | None = None
  gated: bool = True
  tied_embeddings: bool = False
  norm_bias: bool = False
  dropout: bool = False
  max_context: Count
  published_parameters: float | None = None

  @pydantic.model_validator(mode='after')
  def _mlp_exists(self):
    if self.dense_layers > self.layers:
      raise ValueError(
        f'experts.dense_layers = {self.dense_layers} exceeds layers = '
        f'{self.layers}'
      )
    if self.dense_layers and not self.d_ff:
      raise ValueError('d_ff must be given: there are layers without experts')
    return self

  @property
  def dense_layers(self) -> int:
    """Layers with a plain MLP."""
    return self.experts.dense_layers if self.experts else self.layers

  @property
  def expert_layers(self) -> int:
    """Layers with experts."""
    return self.layers - self.dense_layers

  @property
  def mlp_matrices(self) -> int:
    """Matrices of one MLP or expert."""
    return 3 if self.gated else 2

  @property
  def shared_ff(self) -> int:
    """Hidden width of all shared experts of a layer together."""
    if not self.experts:
      return 0
    return self.experts.shared * (self.experts.shared_d_ff or self.experts.d_ff)

  def mlp_parameters(self, d_ff: int) -> float:
    """Parameters of one MLP of that hidden width."""
    return float(self.mlp_matrices * self.d_model * d_ff)

  def parameters(self) -> ParameterCount:
    """Exact parameters per tensor group."""
    experts = self.experts
    norm = self.d_model * (2 if self.norm_bias else 1)
    mlp = self.dense_layers * self.mlp_parameters(self.d_ff)
    mlp += self.expert_layers * self.mlp_parameters(self.shared_ff)
    routed = router = 0.0
    if experts:
      one = self.mlp_parameters(experts.d_ff)
      routed = self.expert_layers * experts.count * one
      router = float(self.expert_layers * experts.count * self.d_model)
    tables = 1 if self.tied_embeddings else 2
    return ParameterCount(
      attention=self.layers * self.attention.parameters(self.d_model),
      mlp=mlp,
      experts=routed,
      router=router,
      norms=float(norm * (2 * self.layers + 1)),
      embeddings=float(tables * self.vocab * self.d_model),
    )

  def active_parameters(self) -> float:
    """Parameters that one token passes, embeddings included."""
    count = self.parameters()
    if not self.experts:
      return count.total
    share = self.experts.top_k / self.experts.count
    return count.total - (1.0 - share) * count.experts
