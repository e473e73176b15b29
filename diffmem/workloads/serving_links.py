"""What a pass over new tokens sends over the network: decode and prefill.

A kind of layer that is split by 'tensor' has its input gathered, and its
partial sums reduced, over the tensor ranks: an all-reduce, or with a stream
that is split by tokens a reduce-scatter and an all-gather of the same bytes
and messages (Korthikanti et al., MLSys 2023, section 4.2.2). Kinds that each
rank works on alone ('sequence') need neither: where kinds differ the resharding
is what the split ones pay. Experts that tensor ranks join ('expert') get their
tokens by all-to-all over both axes (parallel folding: Liu et al.,
arXiv:2504.14960; data-parallel attention with expert-parallel experts:
DeepSeek-AI, "DeepSeek-V3", arXiv:2412.19437, section 3.4).
"""

import jax.numpy as jnp
from jaxtyping import Array

from diffmem.cost import collective
from diffmem.workloads.choices import SHARDING, Choices, Machine
from diffmem.workloads.transformer import Transformer

_VALUE_B = 2.0  # bfloat16 activations
_BY_EXPERT = SHARDING['experts_by'].index('expert')


def tensor_traffic(
  model: Transformer, tokens: Array, c: Choices, machine: Machine
) -> collective.Traffic:
  """Sums of partial results over the tensor ranks, all layers.

  Args:
    model: the transformer.
    tokens: of one tensor group.
    c: discrete choices [plan].
    machine: memories and levels.
  """
  payload_B = _VALUE_B * tokens * model.d_model
  one = collective.all_reduce(payload_B, c.ranks('tensor', machine.spans))
  attention, mlp, experts = (
    jnp.where(jnp.asarray(getattr(c, kind)) == 0, 1.0, 0.0) for kind in SHARDING
  )
  share = model.expert_layers / model.layers
  shared = mlp if model.shared_ff else 0.0
  in_experts = jnp.maximum(experts, shared) if model.experts else 0.0
  each = attention + (1.0 - share) * mlp + share * in_experts
  return one.times(model.layers * each)


def expert_traffic(
  model: Transformer, tokens: Array, c: Choices, machine: Machine
) -> collective.Traffic:
  """Tokens to their experts and back, all layers with experts.

  Args:
    model: the transformer.
    tokens: of one tensor group, each of whose ranks sends its share.
    c: discrete choices [plan].
    machine: memories and levels.
  """
  copies = tokens * model.experts.top_k * model.expert_width / c.tensor
  joined = expert_ranks(c)
  inside = collective.all_to_all(
    _VALUE_B * copies, c.ranks('expert', machine.spans)
  )
  spans = jnp.asarray(machine.spans, jnp.result_type(float))
  across = collective.all_to_all(
    _VALUE_B * copies,
    collective.ranks_within(joined, jnp.ones_like(joined), spans),
  )
  is_joined = (jnp.asarray(c.experts_by) == _BY_EXPERT)[..., None]
  one = collective.Traffic(
    *(jnp.where(is_joined, a, b) for a, b in zip(across, inside, strict=True))
  )
  busiest = model.experts.imbalance(joined)
  return one.times(2.0 * model.expert_layers * busiest)


def expert_ranks(c: Choices) -> Array:
  """Ranks that share the experts whole."""
  is_joined = jnp.asarray(c.experts_by) == _BY_EXPERT
  ones = jnp.ones_like(jnp.asarray(c.tensor * c.expert, jnp.result_type(float)))
  return c.expert * jnp.where(is_joined, c.tensor, ones)


def gathered_keys(
  model: Transformer, keys_B: Array, c: Choices, machine: Machine
) -> collective.Traffic:
  """New keys and values, gathered by ranks that share a sequence's tokens.

  Context ranks gather in every case, tensor ranks where attention is theirs by
  'sequence' (Llama 3, arXiv:2407.21783, section 3.3.2). States of linear
  layers that are passed on are left out: a few hundred tokens' worth.

  Args:
    model: the transformer.
    keys_B: new keys and values of one tensor group and all its context ranks,
      all layers, as one device holds them [B].
    c: discrete choices [plan].
    machine: memories and levels.
  """
  layers = float(model.layers)

  def gather(payload_B, axis, used):
    ranks = c.ranks(axis, machine.spans)
    one = collective.all_gather(payload_B / layers, ranks).times(layers)
    return one.times(jnp.where(used, 1.0, 0.0))

  by_sequence = jnp.asarray(c.attention_by) > 0
  over_tensor = gather(keys_B / c.context, 'tensor', by_sequence)
  return over_tensor + gather(keys_B, 'context', jnp.asarray(c.context) > 1)
