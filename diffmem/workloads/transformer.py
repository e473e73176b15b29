"""A decoder-only transformer: its shape and its exact parameter count.

The block is the one of Vaswani et al. (2017) with the changes that public
large models have made since: grouped-query, latent, windowed and linear
attention (`attention.py`), gated MLP (Shazeer, 2020), top-k experts (Shazeer
et al., 2017; Fedus et al., 2022) with shared ones (DeepSeek-AI, 2024).
"""

from typing import Annotated, Any, NamedTuple

import pydantic

from diffmem import errors
from diffmem.workloads.attention import CONFIG as _CONFIG
from diffmem.workloads.attention import Attention as Attention
from diffmem.workloads.attention import Count, CountOrNone
from diffmem.workloads.attention import LatentAttention as LatentAttention
from diffmem.workloads.compressed_attention import (
  CompressedAttention as CompressedAttention,
)
from diffmem.workloads.experts import Experts as Experts
from diffmem.workloads.formats import Formats, value_B
from diffmem.workloads.linear_attention import (
  LinearAttention as LinearAttention,
)


def _kind_of(value: Any) -> str:
  if isinstance(value, dict):
    return value.get('kind', 'gqa')
  return getattr(value, 'kind', 'gqa')


AnyAttention = Annotated[
  Annotated[Attention, pydantic.Tag('gqa')]
  | Annotated[LatentAttention, pydantic.Tag('mla')]
  | Annotated[CompressedAttention, pydantic.Tag('csa')],
  pydantic.Discriminator(_kind_of),
]


class ParameterCount(NamedTuple):
  """Parameters of a whole model, per tensor group.

  Attributes:
    attention: projections of all layers, those of linear attention too.
    mlp: dense MLPs and shared experts.
    experts: routed experts, all of them.
    router: routing matrices.
    norms: normalisation gains (and biases).
    embeddings: input table, and output table unless tied; learned positions.
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


class AttentionGroup(NamedTuple):
  """Layers that have the same attention.

  Attributes:
    layers: how many.
    attention: its heads.
    window: keys that a token attends to; 0 for the whole sequence.
  """

  layers: int
  attention: Attention | LatentAttention | CompressedAttention
  window: int

  @property
  def caching_layers(self) -> int:
    """Layers that have keys and values of their own."""
    return self.layers - getattr(self.attention, 'borrowing_layers', 0)

  def parameters(self, d_model: int) -> float:
    """Parameters of all of these layers."""
    total = self.layers * self.attention.parameters(d_model)
    borrowing = self.layers - self.caching_layers
    if borrowing:
      total -= borrowing * self.attention.key_parameters(d_model)
    return total

  def keys(self, context: float) -> float:
    """Keys that the last token of `context` attends to."""
    return self.attention.keys(context, self.window)


class Transformer(pydantic.BaseModel):
  """Shape of a decoder-only transformer; hashable.

  Attributes:
    name: such as 'llama-3.1-405b'.
    source: where the figures come from.
    hypothetical: whether the model is a size study, not a published model.
    layers: decoder layers.
    d_model: width of the residual stream.
    d_ff: hidden width of the dense MLP; 0 where all layers have experts.
    vocab: rows of the embedding table.
    attention: its heads.
    full_attention: heads of the layers without window, where they differ.
    linear: linear attention of the layers that have it; None for none.
    mlp_only_layers: layers with neither attention nor linear attention.
    mixer_only_layers: layers with neither MLP nor experts.
    experts: None for a dense model.
    gated: whether MLPs have a gate (three matrices, not two).
    mlp_bias: whether MLPs and experts have biases.
    tied_embeddings: whether input and output share one table.
    positions: rows of a learned position table; 0 for none.
    layer_embedding: width of a table that every layer has of its own, and
      adds to its output by a gate (Gemma 4 E2B and E4B); 0 for none.
    norm_bias: layer norm (gain and bias) rather than RMS norm (gain).
    dropout: whether dropout masks are kept for the backward pass.
    mtp_layers: layers that predict further tokens (multi-token prediction);
      not among `layers`, nor counted in `parameters`.
    max_context: tokens that the model was made for.
    formats: number format of each part.
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
  attention: AnyAttention
  full_attention: AnyAttention | None = None
  linear: LinearAttention | None = None
  mlp_only_layers: CountOrNone = 0
  mixer_only_layers: CountOrNone = 0
  experts: Experts | None = None
  gated: bool = True
  mlp_bias: bool = False
  tied_embeddings: bool = False
  positions: CountOrNone = 0
  layer_embedding: CountOrNone = 0
  norm_bias: bool = False
  dropout: bool = False
  mtp_layers: CountOrNone = 0
  max_context: Count
  formats: Formats = Formats()
  published_parameters: float | None = None

  @pydantic.model_validator(mode='after')
  def _layers_add_up(self):
    windowed = self.attention.windowed_layers
    if self.attention_layers < windowed:
      raise ValueError(
        f'layers = {self.layers} leave {self.attention_layers} with attention, '
        f'fewer than attention.windowed_layers = {windowed}'
      )
    for group in self.attention_groups():
      borrowing = getattr(group.attention, 'borrowing_layers', 0)
      if borrowing >= group.layers:
        raise ValueError(
          f'attention.borrowing_layers = {borrowing} must be fewer than the '
          f'{group.layers} layers with these heads'
        )
    if self.mlp_layers < 0:
      raise ValueError(
        f'mixer_only_layers = {self.mixer_only_layers} exceeds layers = '
        f'{self.layers}'
      )
    if self.experts and self.experts.dense_layers > self.mlp_layers:
      raise ValueError(
        f'experts.dense_layers = {self.experts.dense_layers} exceeds layers = '
        f'{self.mlp_layers}'
      )
    if self.dense_layers and not self.d_ff:
      raise ValueError('d_ff must be given: there are layers without experts')
    return self

  @property
  def linear_layers(self) -> int:
    """Layers with linear attention."""
    return self.linear.layers if self.linear else 0

  @property
  def attention_layers(self) -> int:
    """Layers with attention and a KV cache."""
    return self.layers - self.linear_layers - self.mlp_only_layers

  @property
  def mlp_layers(self) -> int:
    """Layers with an MLP or experts."""
    return self.layers - self.mixer_only_layers

  @property
  def expert_layers(self) -> int:
    """Layers with experts."""
    if not self.experts:
      return 0
    return (self.mlp_layers - self.experts.dense_layers) // self.experts.every

  @property
  def dense_layers(self) -> int:
    """Layers with a plain MLP."""
    return self.mlp_layers - self.expert_layers

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

  @property
  def expert_width(self) -> int:
    """Width of what goes to a routed expert and comes back."""
    latent = self.experts.latent_dim if self.experts else 0
    return latent or self.d_model

  def attention_groups(self) -> tuple[AttentionGroup, ...]:
    """Layers with attention, those with a window first."""
    windowed = self.attention.windowed_layers
    full = self.full_attention or self.attention
    groups = (
      AttentionGroup(windowed, self.attention, self.attention.window),
      AttentionGroup(self.attention_layers - windowed, full, 0),
    )
    return tuple(g for g in groups if g.layers)

  def cache_values(self, context: float) -> float:
    """Values that one sequence keeps for the next token, all layers.

    Args:
      context: tokens of the sequence.

    Returns:
      Keys and values (the last `window` in windowed layers), and the state of
      linear attention, which does not grow.
    """
    kept = 0.0
    for group in self.attention_groups():
      one = group.attention.kept_values(context, group.window)
      kept += group.caching_layers * one
    if self.linear:
      kept += self.linear.layers * self.linear.state_values
    return kept

  def with_weights(self, number_format: str) -> 'Transformer':
    """The same model with all its matrices in one number format.

    Raises:
      SpecError: no such format, with the nearest.
    """
    value_B(number_format)
    parts = {'weights': number_format, 'experts': '', 'attention': ''}
    return self.model_copy(
      update={'formats': self.formats.model_copy(update=parts)}
    )

  def check_context(self, tokens: int) -> None:
    """Refuses sequences that the model was not made for.

    Raises:
      SpecError: more tokens than `max_context`, with that as the nearest.
    """
    if tokens > self.max_context:
      raise errors.SpecError(
        f'{tokens} tokens exceed the context of {self.name!r}; the nearest '
        f'valid length is max_context = {self.max_context}'
      )

  def mlp_parameters(self, d_ff: int, width: int = 0) -> float:
    """Parameters of one MLP of that hidden width, between `width` columns."""
    width = width or self.d_model
    bias = (self.mlp_matrices - 1) * d_ff + width if self.mlp_bias else 0
    return float(self.mlp_matrices * width * d_ff + bias)

  def parameters(self) -> ParameterCount:
    """Exact parameters per tensor group."""
    attention = sum(g.parameters(self.d_model) for g in self.attention_groups())
    if self.linear:
      attention += self.linear.layers * self.linear.parameters(self.d_model)
    mlp = self.dense_layers * self.mlp_parameters(self.d_ff)
    routed = router = 0.0
    if self.experts:
      mlp += self.expert_layers * self._shared_parameters()
      one = self.mlp_parameters(self.experts.d_ff, self.experts.latent_dim)
      routed = self.expert_layers * self.experts.count * one
      router = float(self.expert_layers * self.experts.count * self.d_model)
    norms = 2 * self.layers - self.mlp_only_layers - self.mixer_only_layers + 1
    tables = 1 if self.tied_embeddings else 2
    rows = tables * self.vocab + self.positions
    layered = self.layers * self.layer_embedding
    # A gate, a projection back, and one from the input of the model.
    mlp += 3.0 * layered * self.d_model
    return ParameterCount(
      attention=float(attention),
      mlp=mlp,
      experts=routed,
      router=router,
      norms=float(norms * self.d_model * (2 if self.norm_bias else 1)),
      embeddings=float(rows * self.d_model + layered * self.vocab),
    )

  def _shared_parameters(self) -> float:
    """What every token passes beside the router of an expert layer."""
    shared = self.mlp_parameters(self.shared_ff) if self.shared_ff else 0.0
    return shared + 2.0 * self.experts.latent_dim * self.d_model

  def active_parameters(self) -> float:
    """Parameters that one token passes, embeddings included."""
    count = self.parameters()
    if not self.experts:
      return count.total
    share = self.experts.top_k / self.experts.count
    return count.total - (1.0 - share) * count.experts
