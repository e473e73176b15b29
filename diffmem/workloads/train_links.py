"""What a training step sends over the network, axis by axis.

Bytes and messages of one device and step, per network level; the collectives
are those of `diffmem.cost.collective`.
"""

from jaxtyping import Array

from diffmem.cost import collective
from diffmem.workloads import stage as stage_lib
from diffmem.workloads.train_step import WEIGHT_PASSES, Step


def fsdp_traffic(step: Step) -> collective.Traffic:
  """Weights gathered forward and backward, gradients scattered."""
  ranks = step.ranks('fsdp')
  whole = sum(step.stage.layer_parameters.values())
  gather = collective.all_gather(stage_lib.WEIGHT_B * whole, ranks)
  scatter = collective.reduce_scatter(stage_lib.GRADIENT_B * whole, ranks)
  per_layer = gather.times(WEIGHT_PASSES) + scatter
  return per_layer.times(step.micro_batches * step.stage.layers)


def data_traffic(step: Step) -> collective.Traffic:
  """Once per step, layer by layer: gradients scattered, weights gathered."""
  total, expert_ranks = None, step.ranks('expert')
  data_ranks = step.ranks('data')
  for group, parameters in step.stage.parameters.items():
    share = parameters / step.choices.fsdp / step.stage.layers
    moved_B = (stage_lib.GRADIENT_B + stage_lib.WEIGHT_B) * share
    if group == stage_lib.EXPERTS:
      traffic = _scatter_and_gather(moved_B, data_ranks)
    else:
      traffic = _scatter_and_gather(moved_B, expert_ranks)
      inner = _scatter_and_gather(moved_B / step.choices.expert, data_ranks)
      traffic = traffic + inner
    total = traffic if total is None else total + traffic
  return total.times(step.stage.layers)


def _scatter_and_gather(moved_B: Array, ranks: Array) -> collective.Traffic:
  """A reduce-scatter and an all-gather that move `moved_B` together."""
  traffic = collective.all_gather(moved_B, ranks)
  return traffic._replace(messages=2.0 * traffic.messages)


def pipeline_traffic(step: Step) -> collective.Traffic:
  """Activations forward and their gradients backward between stages."""
  c = step.choices
  payload_B = 2.0 * step.tokens * step.model.d_model / c.tensor
  one = collective.send_recv(payload_B, step.ranks('pipeline'))
  return one.times(2.0 * step.micro_batches * c.interleave)


def tensor_traffic(step: Step) -> collective.Traffic:
  """All-gather and reduce-scatter around every matrix pair.

  Sequence parallelism (Korthikanti et al., 2023, section 4.2.2): one pair of
  collectives each for attention and MLP, forward and backward; tokens of an
  expert layer come `top_k` times. The second gather of the backward pass is
  hidden behind the data gradient there and is left out here.
  """
  model, ranks = step.model, step.ranks('tensor')
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
  routed_pair = collective.reduce_scatter(routed * payload_B, ranks)
  routed_pair = routed_pair + collective.all_gather(routed * payload_B, ranks)
  used = 1.0 if routed else 0.0
  return (pair.times(1.0 + mlps) + routed_pair.times(used)).times(passes)


def expert_traffic(step: Step) -> collective.Traffic:
  """Tokens to their experts and back, forward and backward."""
  model, c = step.model, step.choices
  copies = step.tokens * model.experts.top_k / c.tensor
  one = collective.all_to_all(
    2.0 * copies * model.expert_width, step.ranks('expert')
  )
  layers = step.stage.layers * model.expert_layers / model.layers
  return one.times(2.0 * (2.0 + step.is_full) * layers * step.micro_batches)
