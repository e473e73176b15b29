"""One training step, lowered.

Each device runs `m` micro-batches through its stage, forward and backward,
then synchronises gradients and applies Adam. Six operations:

* `layers`: matrices, attention, weights and activations of all micro-batches,
  with the traffic that real programs hide behind them (weights gathered by
  fully-sharded data parallelism, sends between stages);
* `last_micro_batch`: the share of the last micro-batch, with the gradient
  reduction and weight gather of data parallelism that it hides;
* `tensor_parallel`, `context_parallel`, `expert_parallel`: collectives inside a
  layer, on the critical path;
* `optimizer`: Adam over the states that the device owns.

The pipeline idles for (p - 1) / (v m) of the micro-batches' time with one
forward and one backward in turn over v interleaved chunks (1F1B; Narayanan et
al., SC 2021, section 2.2). ZeRO stages: Rajbhandari et al., SC 2020. How far
links hide behind local work is the system's `link_overlap_p`. Matrices run at
the engine's sustained rate, whatever their shape; kernels with shapes, skewed
routing and activation kernels that do not overlap come with calibration.
"""

import jax.numpy as jnp
from jaxtyping import Array

from diffmem.cost import collective
from diffmem.workloads import activations as activations_lib
from diffmem.workloads import lowered as lowered_lib
from diffmem.workloads import shared_keys, train_links
from diffmem.workloads import stage as stage_lib
from diffmem.workloads import working_set as working_lib
from diffmem.workloads.choices import Choices, Machine
from diffmem.workloads.lowered import Lowered, Operation
from diffmem.workloads.train_step import WEIGHT_PASSES, Step, Training, step_of
from diffmem.workloads.transformer import Transformer
from diffmem.workloads.working_set import MIXED_PRECISION

# A tensor kept for the backward pass is written once and read by the next
# operation and by the backward pass; its gradient is written and read once.
_KEPT_READS, _KEPT_WRITES = 3.0, 2.0
# Layers whose gathered or fetched weights are in the near memory at a time:
# the one at work and the next.
BUFFERED_LAYERS = 2.0


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
  step = step_of(model, training, c, machine)
  sizes = working_lib.sizes_B(step, MIXED_PRECISION)
  kept_B = working_lib.kept_B(step, MIXED_PRECISION)
  layers = _layers(step, sizes, kept_B)
  bubble = (c.pipeline - 1.0) / (c.interleave * step.micro_batches)
  steady = 1.0 - 1.0 / step.micro_batches
  operations = [
    layers._replace(
      time_weight=steady, bubble_weight=bubble, energy_weight=steady
    ),
    _last_micro_batch(step, layers),
    *_exchanges(step, bubble),
    _optimizer(step, sizes),
  ]
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
    fixed_B=working_lib.working_set(step, MIXED_PRECISION).largest,
    tokens=training.tokens,
    model_flops=_model_flops(model, training),
  )


def _exchanges(step: Step, bubble: Array) -> list[Operation]:
  """Collectives that the next product waits for, one after the other."""
  links = {
    'tensor_parallel': train_links.tensor_traffic(step),
    'context_parallel': train_links.context_traffic(step),
  }
  if step.model.experts:
    links['expert_parallel'] = train_links.expert_traffic(step)
  return [
    Operation(name, links=traffic, bubble_weight=bubble)
    for name, traffic in links.items()
  ]


def _layers(step: Step, sizes: dict[str, Array], kept_B: Array) -> Operation:
  """All micro-batches of the stage."""
  c, m, stage = step.choices, step.micro_batches, step.stage
  seq_len = step.training.seq_len
  a = activations_lib.activation_bytes(step.model, seq_len)
  core = stage_lib.causal_core_flops(step.model, seq_len)
  per_layer = stage_lib.layer_matmul_flops(step.model) + core
  per_layer = per_layer + _expanded_again(step)
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
  passes = m * (WEIGHT_PASSES + step.is_full)
  # Keys are gathered twice, and their gradients written before a scatter.
  keys_B = 3.0 * moves * shared_keys.shared_keys(step).held_B
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
    near_read_B=moves * reads * layer_B - stored_B + copy_B + keys_B,
    near_write_B=moves * writes * layer_B - stored_B + copy_B + keys_B,
    group_read_B={**weights_B, **both},
    group_write_B=both,
    phases=moves * stage_lib.LAYER_KERNELS * (3.0 + step.is_full),
    links=_hidden_traffic(step),
    launches=2.0 * m * c.interleave,
  )


def _expanded_again(step: Step) -> Array | float:
  """FLOPs of a token for latent keys of ranks that share its sequence."""
  expand = stage_lib.expansion_flops(step.model)
  if not expand:
    return 0.0
  return expand * (shared_keys.sharing_ranks(step.choices) - 1.0)


def _hidden_traffic(step: Step) -> collective.Traffic:
  """What is sent while the layers compute."""
  traffic = train_links.fsdp_traffic(step) + train_links.pipeline_traffic(step)
  return traffic + train_links.regather_traffic(step)


def _last_micro_batch(step: Step, layers: Operation) -> Operation:
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
    links=layers.links.times(share) + train_links.data_traffic(step),
    launches=layers.launches * share,
  )


def _optimizer(step: Step, sizes: dict[str, Array]) -> Operation:
  """Adam: states and gradients read, states and weights written."""
  owned = {
    g: p / step.choices.fsdp / step.replicas(g)
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
  core = stage_lib.causal_core_flops(model, training.seq_len)
  per_layer = stage_lib.layer_matmul_flops(model) + core
  forward = model.layers * per_layer + stage_lib.head_flops(model)
  return 3.0 * forward * training.tokens
