"""Activations that a layer keeps for its backward pass.

Counted tensor by tensor as Korthikanti et al., "Reducing Activation
Recomputation in Large Transformer Models", MLSys 2023 (arXiv:2205.05198),
section 4: for multi-head attention, a plain MLP of width 4 h and dropout the
sum is their

    s b h (34 + 5 a s / h)  bytes per layer,

of which 34 s b h are left under selective recomputation (the attention core
is computed again, which is what FlashAttention does) and 2 s b h under full
recomputation. Sequence parallelism divides all of it by the tensor ranks.
"""

from typing import NamedTuple

from diffmem.workloads.transformer import AttentionGroup, Transformer

_VALUE_B = 2.0  # bfloat16
_MASK_B = 1.0  # one byte per element of a dropout mask


class ActivationBytes(NamedTuple):
  """Bytes per token and layer, the mean over layer kinds.

  Attributes:
    kept: all but the attention core's own [B].
    scores: the attention core's: softmax and dropout [B].
    input: the layer's input, what full recomputation keeps [B].
    hidden: the part of `kept` that tensor ranks share without sequence
      parallelism too: queries, keys, values, hidden tensors [B].
    products: what products with weights give, but for the layer's own
      output and routed experts [B].
    largest_scores: as `scores`, of the layers that have most [B].
  """

  kept: float
  scores: float
  input: float
  hidden: float
  products: float
  largest_scores: float

  @property
  def stream(self) -> float:
    """The part of `kept` that is as wide as the residual stream [B]."""
    return self.kept - self.hidden


class _Mixer(NamedTuple):
  """Values of one token in what mixes tokens.

  Attributes:
    layers: layers with these values.
    projected: what products with weights give, split over the heads.
    given: what goes into the output product, and copies on the way there.
    scores: heads times the keys that a token attends to.
    latent: what further products give, of all heads together.
  """

  layers: int
  projected: float
  given: float
  scores: float
  latent: float = 0.0


def activation_bytes(model: Transformer, seq_len: int) -> ActivationBytes:
  """Activations of one token in one layer, before any sharding.

  Args:
    model: the transformer; routing is taken as balanced.
    seq_len: tokens of a sequence.
  """
  h, layers = float(model.d_model), model.layers
  mixers = _mixers(model, seq_len)
  mixing = (layers - model.mlp_only_layers) / layers
  mask = _MASK_B * h if model.dropout else 0.0
  per_score = 2 * _VALUE_B + _MASK_B if model.dropout else _VALUE_B
  kept = (mixing + model.mlp_layers / layers) * (_VALUE_B * h + mask)
  latent = sum(m.layers * m.latent for m in mixers) / layers
  kept += _VALUE_B * (mixing * h + _mixed(model, mixers) + latent)
  kept += model.dense_layers / layers * _mlp_bytes(model)
  kept += model.expert_layers / layers * _experts_bytes(model)
  scores = sum(m.layers * m.scores for m in mixers) / layers
  return ActivationBytes(
    kept,
    per_score * scores,
    _VALUE_B * h,
    hidden=_VALUE_B * (_mixed(model, mixers) + _mlp_values(model)),
    products=_VALUE_B * h + _product_bytes(model, mixers),
    largest_scores=per_score * max(m.scores for m in mixers),
  )


def _mixers(model: Transformer, seq_len: int) -> list[_Mixer]:
  """Every kind of attention, and linear attention.

  The latter keeps queries, keys, values, its gate and what it gives, and a
  copy of what is convolved; its states are computed again (Yang et al.,
  arXiv:2406.06484, section 3.2).
  """
  found = []
  for group in model.attention_groups():
    scores = group.attention.heads * group.keys(seq_len)
    projected, given = _attention(group)
    latent = _latent(group.attention)
    found.append(_Mixer(group.layers, projected, given, scores, latent))
  if model.linear:
    a = model.linear
    projected = 2 * a.key_width + 2 * a.value_width
    given = a.value_width + a.conv_width
    found.append(_Mixer(a.layers, projected, given, 0.0))
  return found


def _attention(group: AttentionGroup) -> tuple[float, float]:
  """Values of an attention layer's products, and of what it gives.

  Latent attention expands keys and values of every head, whose rotary part is
  a copy of the shared one (arXiv:2405.04434, section 2.1.3).
  """
  a = group.attention
  if a.kind == 'mla':
    expanded = a.heads * (a.nope_dim + a.v_dim)
    return a.q_dim + expanded, a.out_dim + a.heads * a.rope_dim
  if a.kind == 'csa':
    return a.q_dim, a.out_dim
  keys = a.kv_dim if a.shared_kv else a.cache_values
  keys *= group.caching_layers / group.layers
  gate = a.out_dim if a.output_gate else 0
  return a.q_dim + gate + keys, a.out_dim


def _latent(a) -> float:
  """Values that all heads share: compressed queries, keys and outputs."""
  if a.kind == 'mla':
    return a.q_rank + a.kv_rank + a.rope_dim + a.index_dim
  if a.kind == 'csa':
    return a.q_rank + a.kv_dim + a.o_groups * a.o_rank + a.index_dim
  return 0.0


def _mixed(model: Transformer, mixers: list[_Mixer]) -> float:
  """Values of the mixers that tensor ranks share, mean over layers."""
  total = sum(m.layers * (m.projected + m.given) for m in mixers)
  return total / model.layers


def _product_bytes(model: Transformer, mixers: list[_Mixer]) -> float:
  """Queries, keys, values and what dense MLPs have before the activation.

  Products of routed experts are batched over the experts, and are not kept by
  the policies that keep products.
  """
  width = model.dense_layers * model.d_ff
  width += model.expert_layers * model.shared_ff
  total = sum(m.layers * (m.projected + m.latent) for m in mixers)
  total += (_hidden_tensors(model) - 1) * width
  return _VALUE_B * total / model.layers


def _mlp_values(model: Transformer) -> float:
  """Values of hidden tensors of what one token passes, mean over layers."""
  width = model.dense_layers * model.d_ff
  if model.experts:
    routed = model.experts.top_k * model.experts.d_ff
    width += model.expert_layers * (routed + model.shared_ff)
  return _hidden_tensors(model) * width / model.layers


def _mlp_bytes(model: Transformer) -> float:
  """Input and hidden tensors of a dense MLP."""
  hidden = _hidden_tensors(model) * model.d_ff
  return _VALUE_B * (model.d_model + hidden)


def _experts_bytes(model: Transformer) -> float:
  """Router, dispatched inputs, hidden tensors and outputs of the experts."""
  experts = model.experts
  if experts is None:
    return 0.0
  hidden = _hidden_tensors(model)
  routed = experts.top_k * (2 * model.d_model + hidden * experts.d_ff)
  shared = hidden * model.shared_ff
  router = 2 * 4.0 * experts.count  # logits and probabilities in float32
  return _VALUE_B * (model.d_model + routed + shared) + router


def _hidden_tensors(model: Transformer) -> int:
  """Before and after the activation; with a gate also the gate."""
  return 3 if model.gated else 2
