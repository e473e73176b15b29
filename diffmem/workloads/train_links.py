"""What a training step sends over the network, axis by axis.

Bytes and messages of one device and step, per network level; the collectives
are those of `diffmem.cost.collective`. Between layers the residual stream is
split over the tensor ranks by tokens, so that each kind of layer pays for its
own edges: slices of matrices need all tokens of the tensor ranks, whole ones
none of them but the keys of attention, whole experts those that are routed.
"""

import jax.numpy as jnp
from jaxtyping import Array

from diffmem.cost import collective
from diffmem.workloads import shared_keys
from diffmem.workloads import stage as stage_lib
from diffmem.workloads.train_step import KIND_OF, WEIGHT_PASSES, Step


def fsdp_traffic(step: Step) -> collective.Traffic:
  """Weights gathered forward and backward, gradients scattered."""
  ranks = step.ranks('fsdp')
  whole = sum(step.stage.layer_parameters.values())
  gather = collective.all_gather(stage_lib.WEIGHT_B * whole, ranks)
  scatter = collective.reduce_scatter(stage_lib.GRADIENT_B * whole, ranks)
  per_layer = gather.times(WEIGHT_PASSES) + scatter
  return per_layer.times(step.micro_batches * step.stage.layers)


def data_traffic(step: Step) -> collective.Traffic:
  """Once per step, layer by layer: gradients scattered, weights gathered.

  Over the ranks with the same weights (`Step.replicas`), inner axes first:
  each axis scatters what the axes before it have left.
  """
  c, parameters = step.choices, step.stage.parameters
  value_B = (stage_lib.GRADIENT_B + stage_lib.WEIGHT_B) / step.stage.layers
  left_B = {g: value_B * p / c.fsdp for g, p in parameters.items()}
  total = None
  for axis in ('tensor', 'context', 'expert', 'data'):
    # 1 for groups that are the same on the ranks of this axis.
    same = {g: _is_same(step, g, axis) for g in parameters}
    moved_B = sum(same[g] * left_B[g] for g in parameters)
    traffic = collective.all_gather(moved_B, step.ranks(axis))
    # A reduce-scatter and an all-gather of each group.
    rounds = 2.0 * sum(same.values())
    traffic = traffic._replace(messages=traffic.times(rounds).messages)
    total = traffic if total is None else total + traffic
    size = getattr(c, axis)
    for g in parameters:
      left_B[g] = left_B[g] / (1.0 + same[g] * (size - 1.0))
  return total.times(step.stage.layers)


def _is_same(step: Step, group: str, axis: str) -> Array | float:
  """1 where the ranks of an axis have the same weights of a group."""
  if axis == 'tensor':
    if group not in KIND_OF:
      return 0.0
    return 1.0 - step.choices.is_sliced(KIND_OF[group])
  return 0.0 if axis == 'expert' and group == stage_lib.EXPERTS else 1.0


def pipeline_traffic(step: Step) -> collective.Traffic:
  """Activations forward and their gradients backward between stages."""
  c = step.choices
  payload_B = 2.0 * step.tokens * step.model.d_model / c.tensor
  one = collective.send_recv(payload_B, step.ranks('pipeline'))
  return one.times(2.0 * step.micro_batches * c.interleave)


def tensor_traffic(step: Step) -> collective.Traffic:
  """All-gather and reduce-scatter around every pair of sliced matrices.

  Sequence parallelism (Korthikanti et al., 2023, section 4.2.2): one pair of
  collectives each for attention and MLP, forward and backward; tokens of a
  layer of sliced experts come `top_k` times. The second gather of the backward
  pass is hidden behind the data gradient there and is left out here.
  """
  model, c, ranks = step.model, step.choices, step.ranks('tensor')
  payload_B = 2.0 * step.tokens * model.d_model
  pair = collective.reduce_scatter(payload_B, ranks)
  pair = pair + collective.all_gather(payload_B, ranks)
  passes = step.micro_batches * step.stage.layers * (2.0 + step.is_full)
  expert_layers = model.expert_layers / model.layers
  mlps = 1.0 - expert_layers
  routed = 0.0
  if model.experts:
    mlps += expert_layers * (1.0 if model.experts.shared else 0.0)
    routed = expert_layers * model.experts.top_k
  pairs = c.is_sliced('attention_by') + mlps * c.is_sliced('mlp_by')
  if not routed:
    return pair.times(pairs).times(passes)
  routed_pair = collective.reduce_scatter(routed * payload_B, ranks)
  routed_pair = routed_pair + collective.all_gather(routed * payload_B, ranks)
  routed_pair = routed_pair.times(c.is_sliced('experts_by'))
  return (pair.times(pairs) + routed_pair).times(passes)


def context_traffic(step: Step) -> collective.Traffic:
  """Keys gathered before attention, their gradients scattered after it.

  Once each, and again where a layer is recomputed. They are on the critical
  path, as Llama 3 has them (arXiv:2407.21783, section 3.3.2).
  """
  passes = step.micro_batches * step.stage.layers * (2.0 + step.is_full)
  return shared_keys.shared_keys(step).gather.times(passes)


def regather_traffic(step: Step) -> collective.Traffic:
  """Keys gathered for the backward pass; it hides behind the layers.

  Only a rank's own keys are kept. The gather waits for no gradient, so that
  it can start early; a layer that was recomputed has them already.
  """
  passes = step.micro_batches * step.stage.layers * (1.0 - step.is_full)
  return shared_keys.shared_keys(step).gather.times(passes)


def expert_traffic(step: Step) -> collective.Traffic:
  """Tokens to their experts and back, forward and backward.

  Sliced experts have ranks of the expert axis alone; whole ones of the tensor
  axis too (Liu et al., "MoE Parallel Folding", arXiv:2504.14960).
  """
  model, c = step.model, step.choices
  copies = step.tokens * model.experts.top_k / c.tensor
  sliced = c.is_sliced('experts_by')[..., None]
  tensor = jnp.where(sliced > 0, 1.0, step.ranks('tensor'))
  one = collective.all_to_all(
    2.0 * copies * model.expert_width, tensor * step.ranks('expert')
  )
  layers = step.stage.layers * model.expert_layers / model.layers
  return one.times(2.0 * (2.0 + step.is_full) * layers * step.micro_batches)
