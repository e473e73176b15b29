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

from diffmem.workloads.transformer import Transformer

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
  """

  kept: float
  scores: float
  input: float
  hidden: float
  products: float

  @property
  def stream(self) -> float:
    """The part of `kept` that is as wide as the residual stream [B]."""
    return self.kept - self.hidden


def activation_bytes(model: Transformer, seq_len: int) -> ActivationBytes:
  """Activations of one token in one layer, before any sharding.

  Args:
    model: the transformer; routing is taken as balanced.
    seq_len: tokens of a sequence.
  """
  h, attention = float(model.d_model), model.attention
  mask = _MASK_B if model.dropout else 0.0
  norms = 2 * _VALUE_B * h
  projections = h + 2 * attention.q_dim + 2 * attention.kv_dim
  kept = norms + _VALUE_B * projections + mask * h
  dense = model.dense_layers / model.layers
  kept += dense * _mlp_bytes(model) + (1.0 - dense) * _experts_bytes(model)
  kept += mask * h
  per_score = 2 * _VALUE_B + _MASK_B if model.dropout else _VALUE_B
  scores = per_score * attention.heads * seq_len
  return ActivationBytes(
    kept,
    scores,
    _VALUE_B * h,
    hidden=_hidden_bytes(model),
    products=_VALUE_B * h + _product_bytes(model),
  )


def _product_bytes(model: Transformer) -> float:
  """Queries, keys, values and what dense MLPs have before the activation.

  Products of routed experts are batched over the experts, and are not kept by
  the policies that keep products.
  """
  dense = model.dense_layers / model.layers
  width = dense * model.d_ff + (1.0 - dense) * model.shared_ff
  attention = model.attention.q_dim + 2 * model.attention.kv_dim
  return _VALUE_B * (attention + (_hidden_tensors(model) - 1) * width)


def _hidden_bytes(model: Transformer) -> float:
  """Queries, keys, values, what attention gives, hidden tensors of MLPs."""
  attention = 2 * model.attention.q_dim + 2 * model.attention.kv_dim
  return _VALUE_B * (attention + _hidden_tensors(model) * _activated(model))


def _activated(model: Transformer) -> float:
  """Hidden width of what one token passes, mean over layers."""
  dense = model.dense_layers / model.layers
  width = dense * model.d_ff
  if model.experts:
    routed = model.experts.top_k * model.experts.d_ff
    width += (1.0 - dense) * (routed + model.shared_ff)
  return width


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
