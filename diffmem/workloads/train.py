"""One training step, lowered.

Each device runs `m` micro-batches through its stage, forward and backward,
then synchronises gradients and applies Adam. Five operations:

* `layers`: matrices, attention, weights and activations of all micro-batches,
  with the traffic that real programs hide behind them (weights gathered by
  fully-sharded data parallelism, sends between stages);
* `last_micro_batch`: the share of the last micro-batch, with the gradient
  reduction and weight gather of data parallelism that it hides;
* `tensor_parallel`, `expert_parallel`: collectives inside a layer, on the
  critical path;
* `optimizer`: Adam over the states that the device owns.

The pipeline idles for (p - 1) / (v m) of the micro-batches' time with one
forward and one backward in turn over v interleaved chunks (1F1B; Narayanan et
al., SC 2021, section 2.2). ZeRO stages: Rajbhandari et al., SC 2020. How far
links hide behind local work is the system's `link_overlap_p`. Matrices run at
the engine's sustained rate, whatever their shape; kernels with shapes, skewed
routing and activation kernels that do not overlap come with calibration.
"""

from typing import NamedTuple

import jax.numpy as jnp

from diffmem.cost import collective
from diffmem.workloads import activations as activations_lib
from diffmem.workloads import lowered as lowered_lib
from diffmem.workloads import stage as stage_lib
from diffmem.workloads.choices import Choices, Machine
from diffmem.workloads.lowered import Lowered, Operation
from diffmem.workloads.transformer import Transformer

# A tensor kept for the backward pass is written once and read by the next
# operation and by the backward pass; its gradient is written and read once.
_KEPT_READS, _KEPT_WRITES = 3.0, 2.0
# Weights are read by the forward product and by the data gradient.
_WEIGHT_PASSES = 2.0
# Layers whose gathered or fetched weights are in the near memory at a time:
# the one at work and the next.
BUFFERED_LAYERS = 2.0
_LOGITS_B = 2.0 + 4.0  # bfloat16 logits, float32 softmax and its gradient


class Training(NamedTuple):
  """One training step; hashable.

  Attributes:
    seq_len: tokens of a sequence.
    sequences: sequences of a step, all devices together.
  """

  seq_len: int
  sequences: int

  @property
  def tokens(self) -> float:
    """Tokens of a step."""
    return float(self.seq_len) * self.sequences


class _Step(NamedTuple):
  """What the pieces below share; every array is [plan]."""

  model: Transformer
  training: Training
  choices: Choices
  machine: Machine
  stage: stage_lib.Stage
  micro_batches: jnp.ndarray
  tokens: jnp.ndarray  # of one micro-batch on one data rank
  is_full: jnp.ndarray
  is_none: jnp.ndarray

  def ranks(self, axis):
    return self.choices.ranks(axis, self.machine.spans)


def lower_train(
  model: Transformer, training: Training, choices: Choices, machine: Machine
) -> Lowered:
  """Lowers many plans of a training step.

  Args:
    model: the transformer.
    training: sequence length and batch.
    choices: discrete choices [plan]; taken as legal.
    machine: from `machine_of` for this number of chips.
  """
  c = choices
  sequences = training.sequences / (c.data_ranks * c.micro_batch)
  step = _Step(
    model, training, c, machine, stage_lib.stage_of(model, c),
    micro_batches=sequences,
    tokens=c.micro_batch * float(training.seq_len),
    is_full=jnp.where(c.recompute == 2, 1.0, 0.0),
    is_none=jnp.where(c.recompute == 0, 1.0, 0.0),
  )  # fmt: skip
  sizes = _sizes_B(step)
  kept_B = _kept_B(step)
  layers = _layers(step, sizes, kept_B)
  bubble = (c.pipeline - 1.0) / (c.interleave * step.micro_batches)
  steady = 1.0 - 1.0 / step.micro_batches
  operations = [
    layers._replace(
      time_weight=steady, bubble_weight=bubble, energy_weight=steady
    ),
    _last_micro_batch(step, layers),
    Operation(
      'tensor_parallel', links=_tensor_traffic(step), bubble_weight=bubble
    ),
    _optimizer(step, sizes),
  ]
  if model.experts:
    links = _expert_traffic(step)
    operations.insert(
      3, Operation('expert_parallel', links=links, bubble_weight=bubble)
    )
  weights = step.stage.parameters
  buffered = jnp.minimum(BUFFERED_LAYERS / step.stage.layers, 1.0)
  units = dict.fromkeys(sizes, step.stage.layers)
  return lowered_lib.assemble(
    operations,
    tuple(sizes),
    machine,
    jnp.shape(step.micro_batches),
    size_B=sizes,
    fetch_B={g: buffered * sizes[g] for g in weights},
    units={**units, stage_lib.EMBEDDINGS: jnp.ones_like(step.tokens)},
    fixed_B=_fixed_B(step),
    tokens=training.tokens,
    model_flops=_model_flops(model, training),
  )


def _replicas(step: _Step, group: str):
  """Ranks with the same weights, which share the optimizer (ZeRO-1)."""
  if group == stage_lib.EXPERTS:
    return step.choices.data
  return step.choices.data * step.choices.expert


def _sizes_B(step: _Step) -> dict:
  """Bytes of each group on one device."""
  owned = {g: p / step.choices.fsdp for g, p in step.stage.parameters.items()}
  sizes = {g: stage_lib.WEIGHT_B * p for g, p in owned.items()}
  sizes[stage_lib.GRADIENTS] = stage_lib.GRADIENT_B * sum(owned.values())
  sizes[stage_lib.OPTIMIZER] = stage_lib.OPTIMIZER_B * sum(
    p / _replicas(step, g) for g, p in owned.items()
  )
  p, v = step.choices.pipeline, step.choices.interleave
  in_flight = jnp.minimum(step.micro_batches, p) / p
  chunked = 1.0 + jnp.where(v > 1, (p - 1.0) / (p * v), 0.0)
  layers = step.stage.layers * p * in_flight * chunked
  sizes[stage_lib.ACTIVATIONS] = layers * _kept_B(step)
  return sizes


def _kept_B(step: _Step):
  """Bytes kept per layer and micro-batch on one device."""
  a = activations_lib.activation_bytes(step.model, step.training.seq_len)
  kept = jnp.where(step.is_full > 0, a.input, a.kept + step.is_none * a.scores)
  return kept * step.tokens / step.choices.tensor


def _fixed_B(step: _Step):
  """Buffers that stay in the near memory."""
  c = step.choices
  gathered = sum(step.stage.layer_parameters.values())
  per_parameter = stage_lib.WEIGHT_B + stage_lib.GRADIENT_B
  gathered_B = jnp.where(
    c.fsdp > 1, BUFFERED_LAYERS * per_parameter * gathered, 0.0
  )
  a = activations_lib.activation_bytes(step.model, step.training.seq_len)
  working_B = (a.kept + step.is_none * a.scores) * step.tokens / c.tensor
  logits_B = _LOGITS_B * step.model.vocab * step.tokens / c.tensor
  return gathered_B + working_B + logits_B


def _layers(step: _Step, sizes: dict, kept_B) -> Operation:
  """All micro-batches of the stage."""
  c, m, stage = step.choices, step.micro_batches, step.stage
  seq_len = step.training.seq_len
  a = activations_lib.activation_bytes(step.model, seq_len)
  core = stage_lib.core_flops(step.model, seq_len / 2)
  per_layer = stage_lib.layer_matmul_flops(step.model) + core
  forward = stage_lib.fullest_stage_flops(
    step.model, stage, c.pipeline, per_layer
  )
  is_selective = 1.0 - step.is_none - step.is_full
  again = stage.layers * (is_selective * core + step.is_full * per_layer)
  flops = m * step.tokens * (3.0 * forward + again) / c.tensor

  layer_B = (a.kept + step.is_none * a.scores) * step.tokens / c.tensor
  reads, writes = _KEPT_READS + step.is_full, _KEPT_WRITES + step.is_full
  moves = m * stage.layers
  stored_B = moves * kept_B
  passes = m * (_WEIGHT_PASSES + step.is_full)
  # With fully-sharded data parallelism the gathered copy is what is computed
  # with, and its gradient is written before it is scattered.
  gathered = jnp.where(c.fsdp > 1, 1.0, 0.0) * sum(stage.parameters.values())
  copy_B = passes * stage_lib.WEIGHT_B * gathered
  copy_B += m * stage_lib.GRADIENT_B * gathered
  weights_B = {g: passes * sizes[g] for g in stage.parameters}
  both = {
    stage_lib.GRADIENTS: m * sizes[stage_lib.GRADIENTS],
    stage_lib.ACTIVATIONS: stored_B,
  }
  return Operation(
    'layers',
    flops=flops,
    row_flops=m * 2.0 * sum(stage.parameters.values()) * (3.0 + step.is_full),
    near_read_B=moves * reads * layer_B - stored_B + copy_B,
    near_write_B=moves * writes * layer_B - stored_B + copy_B,
    group_read_B={**weights_B, **both},
    group_write_B=both,
    phases=moves * stage_lib.LAYER_KERNELS * (3.0 + step.is_full),
    links=_fsdp_traffic(step) + _pipeline_traffic(step),
    launches=2.0 * m * c.interleave,
  )


def _last_micro_batch(step: _Step, layers: Operation) -> Operation:
  """One micro-batch's share of `layers`, with the gradients' reduction."""
  share = 1.0 / step.micro_batches
  return layers._replace(
    name='last_micro_batch',
    flops=layers.flops * share,
    row_flops=layers.row_flops * share,
    near_read_B=layers.near_read_B * share,
    near_write_B=layers.near_write_B * share,
    group_read_B={g: b * share for g, b in layers.group_read_B.items()},
    group_write_B={g: b * share for g, b in layers.group_write_B.items()},
    phases=layers.phases * share,
    links=layers.links.times(share) + _data_traffic(step),
    launches=layers.launches * share,
  )


def _fsdp_traffic(step: _Step) -> collective.Traffic:
  """Weights gathered forward and backward, gradients scattered."""
  ranks = step.ranks('fsdp')
  whole = sum(step.stage.layer_parameters.values())
  gather = collective.all_gather(stage_lib.WEIGHT_B * whole, ranks)
  scatter = collective.reduce_scatter(stage_lib.GRADIENT_B * whole, ranks)
  per_layer = gather.times(_WEIGHT_PASSES) + scatter
  return per_layer.times(step.micro_batches * step.stage.layers)


def _data_traffic(step: _Step) -> collective.Traffic:
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


def _scatter_and_gather(moved_B, ranks) -> collective.Traffic:
  """A reduce-scatter and an all-gather that move `moved_B` together."""
  traffic = collective.all_gather(moved_B, ranks)
  return traffic._replace(messages=2.0 * traffic.messages)


def _pipeline_traffic(step: _Step) -> collective.Traffic:
  """Activations forward and their gradients backward between stages."""
  c = step.choices
  payload_B = 2.0 * step.tokens * step.model.d_model / c.tensor
  one = collective.send_recv(payload_B, step.ranks('pipeline'))
  return one.times(2.0 * step.micro_batches * c.interleave)


def _tensor_traffic(step: _Step) -> collective.Traffic:
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


def _expert_traffic(step: _Step) -> collective.Traffic:
  """Tokens to their experts and back, forward and backward."""
  model, c = step.model, step.choices
  copies = step.tokens * model.experts.top_k / c.tensor
  one = collective.all_to_all(
    2.0 * copies * model.d_model, step.ranks('expert')
  )
  layers = step.stage.layers * model.expert_layers / model.layers
  return one.times(2.0 * (2.0 + step.is_full) * layers * step.micro_batches)


def _optimizer(step: _Step, sizes: dict) -> Operation:
  """Adam: states and gradients read, states and weights written."""
  owned = {
    g: p / step.choices.fsdp / _replicas(step, g)
    for g, p in step.stage.parameters.items()
  }
  states_B = sizes[stage_lib.OPTIMIZER]
  gradients_B = stage_lib.GRADIENT_B * sum(owned.values())
  return Operation(
    'optimizer',
    group_read_B={
      stage_lib.OPTIMIZER: states_B,
      stage_lib.GRADIENTS: gradients_B,
    },
    group_write_B={
      stage_lib.OPTIMIZER: states_B,
      **{g: stage_lib.WEIGHT_B * p for g, p in owned.items()},
    },
    launches=1.0,
  )


def _model_flops(model: Transformer, training: Training) -> float:
  """FLOPs of a step without recompute: 6 N D and the attention core."""
  core = stage_lib.core_flops(model, training.seq_len / 2)
  per_layer = stage_lib.layer_matmul_flops(model) + core
  forward = model.layers * per_layer + stage_lib.head_flops(model)
  return 3.0 * forward * training.tokens
