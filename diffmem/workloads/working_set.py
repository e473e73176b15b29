"""What a program holds while it works, beside its tensors at rest.

A training step is at its fullest in one of three moments:

* `layer`: the backward pass of one layer: gathered weights, attention scores,
  gradients of its activations;
* `head`: logits and their gradient, with the gathered output table;
* `update`: the gradient of the embedding tables, before it is scattered.

Each is a sum of sizes that the program dictates, times how many copies of them
a compiler keeps at once. The copies are measured: robust least squares over
programs that XLA compiled ahead of time for TPU and H100, 114 of random design
(`benchmarks/xla_truth.py`) and 66 public ones of models of 1, 8 and 71 billion
parameters. Peaks within 10 %: 64 of the 66 (of their training programs 44 of
48 when the row's model was left out of the fit), 96 of the 114, and 21 of 23
programs that were compiled after the fit. What the sizes cannot tell is which
mask or loss a compiler fuses: the same program needs 7.2 GiB on one TPU and
5.6 GiB on another.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from diffmem.workloads import activations as activations_lib
from diffmem.workloads import shared_keys
from diffmem.workloads import stage as stage_lib
from diffmem.workloads.choices import Choices
from diffmem.workloads.train_step import Step
from diffmem.workloads.transformer import Transformer

_VALUE_B = 2.0  # bfloat16
_SCORE_B = 4.0  # float32
_LOGIT_B = 4.0  # float32
# Under sequence parallelism a rank has the whole input of a matrix while it
# multiplies, and in the backward pass the gradient of it.
_GATHERED_INPUTS = 2.0
# Keys and values that were gathered, and their gradient before its scatter.
_GATHERED_KEYS = 2.0
# Input of the output layer, its norm in float32, and the gradient of it.
_HEAD_INPUTS = 4.0


class Copies(NamedTuple):
  """How many copies of each tensor a compiler keeps at once; hashable.

  Attributes:
    scores: of the attention scores of one layer in float32; 0 where they are
      never in memory.
    stream: of the residual stream (bfloat16) in a layer at work.
    hidden: of the hidden tensors of a layer at work.
    gathered: of one layer's weights that data ranks share.
    logits: of the logits in float32.
    table: of the output table that data ranks share.
    table_gradient: of a table's gradient before it is scattered.
    dispatch: of the one-hot matrix that sends tokens to experts, float32.
    kept_scores: of the scores that a layer keeps when it recomputes nothing.
    kept_stream: of the rest that is as wide as the stream.
    kept_hidden: of the hidden tensors.
    kept_dispatch: of the one-hot matrix.
    doubtful_scores: further copies of the scores of one layer in the worst of
      the measured programs, where the compiler did not fuse mask and softmax.
  """

  scores: float
  stream: float
  hidden: float
  gathered: float
  logits: float
  table: float
  table_gradient: float
  dispatch: float = 0.0
  kept_scores: float = 0.0
  kept_stream: float = 1.0
  kept_hidden: float = 1.0
  kept_dispatch: float = 0.0
  doubtful_scores: float = 0.0


class CacheCopies(NamedTuple):
  """Copies of the KV cache that a decode step makes; hashable.

  A scan that carries the stacked cache copies keys or values, or both (1),
  where a product wants another order of the dimensions. None by default: paged
  caches are updated in place.

  Attributes:
    grouped: where several query heads share a key head.
    ungrouped: where each has its own.
    gathered: where weights are gathered meanwhile (`fsdp`).
    gathered_single: the same with one key head on the device.
  """

  grouped: float = 0.0
  ungrouped: float = 0.0
  gathered: float = 0.0
  gathered_single: float = 0.0


class Program(NamedTuple):
  """How a training or decode program is written and compiled; hashable.

  Attributes:
    copies: what its compiler keeps.
    weight_B: bytes of a weight.
    gradient_B: bytes of a gradient.
    optimizer_B: bytes of the optimizer's states of one weight.
    shares_optimizer: whether data ranks share the states (ZeRO stage 1).
    sequence_parallel: whether tensor ranks share the residual stream.
    stores_scores: whether attention scores are in memory.
    holds_gradients: whether gradients have a buffer of their own all the time.
    one_hot: whether tokens go to experts by products with one-hot matrices.
    capacity_factor: places of an expert over its tokens when balanced.
    cache_copies: copies of the KV cache that a decode step makes.
  """

  copies: Copies
  weight_B: float = stage_lib.WEIGHT_B
  gradient_B: float = stage_lib.GRADIENT_B
  optimizer_B: float = stage_lib.OPTIMIZER_B
  shares_optimizer: bool = True
  sequence_parallel: bool = True
  stores_scores: bool = False
  holds_gradients: bool = True
  one_hot: bool = False
  capacity_factor: float = 1.0
  cache_copies: CacheCopies = CacheCopies()


class WorkingSet(NamedTuple):
  """Bytes of the moments at which a step may be fullest [plan].

  Attributes:
    layer: backward pass of a layer [B].
    head: output layer and loss [B].
    update: gradients of the tables [B].
    layer_buffers: of `layer`, weights and keys gathered from other ranks [B].
    head_buffers: of `head`, the same [B].
    doubt: what a layer may need beyond that, by the compiler's choice [B].
  """

  layer: Array
  head: Array
  update: Array
  layer_buffers: Array
  head_buffers: Array
  doubt: Array

  @property
  def largest(self) -> Array:
    """The largest moment [B]."""
    return jnp.maximum(jnp.maximum(self.layer, self.head), self.update)


def sizes_B(step: Step, program: Program) -> dict[str, Array]:
  """Bytes at rest of each tensor group on one device [plan]."""
  owned = {g: p / step.choices.fsdp for g, p in step.stage.parameters.items()}
  sizes = {g: program.weight_B * p for g, p in owned.items()}
  sizes[stage_lib.GRADIENTS] = program.gradient_B * sum(owned.values())
  shared = program.shares_optimizer
  sizes[stage_lib.OPTIMIZER] = program.optimizer_B * sum(
    p / (step.replicas(g) if shared else 1.0) for g, p in owned.items()
  )
  p, v = step.choices.pipeline, step.choices.interleave
  in_flight = jnp.minimum(step.micro_batches, p) / p
  chunked = 1.0 + jnp.where(v > 1, (p - 1.0) / (p * v), 0.0)
  layers = step.stage.layers * p * in_flight * chunked
  sizes[stage_lib.ACTIVATIONS] = layers * kept_B(step, program)
  return sizes


def kept_B(step: Step, program: Program) -> Array:
  """Bytes kept per layer and micro-batch for the backward pass [plan].

  Selective recomputation keeps all but the scores; where scores are in memory
  it keeps the products with weights, as XLA programs do (the policy
  `dots_with_no_batch_dims_saveable`).
  """
  if not program.stores_scores:
    a = activations_lib.activation_bytes(step.model, step.training.seq_len)
    kept = jnp.where(
      step.is_full > 0, a.input, a.kept + step.is_none * a.scores
    )
    return kept * step.tokens / step.choices.tensor
  sizes, copies = _layer_sizes_B(step, program), program.copies
  everything = sizes['input'] + copies.kept_scores * sizes['scores']
  everything += copies.kept_stream * sizes['stream']
  everything += copies.kept_hidden * sizes['hidden']
  everything += copies.kept_dispatch * sizes['dispatch']
  products = sizes['input'] + sizes['products']
  kept = jnp.where(step.is_none > 0, everything, products)
  return jnp.where(step.is_full > 0, sizes['input'], kept)


def working_set(step: Step, program: Program) -> WorkingSet:
  """Bytes of a step at work, beside `sizes_B` [plan]."""
  c, copies = step.choices, program.copies
  sizes = _layer_sizes_B(step, program)
  shared = jnp.where(c.fsdp > 1, 1.0, 0.0)
  weights_B = program.weight_B * sum(step.stage.layer_parameters.values())
  gathered_B = copies.gathered * shared * weights_B
  layer = copies.stream * sizes['input'] + copies.hidden * sizes['hidden']
  layer += copies.dispatch * sizes['dispatch'] + gathered_B
  if program.stores_scores:
    layer += copies.scores * sizes['scores']
  else:
    layer += step.is_none * sizes['probabilities']
  if program.sequence_parallel:
    whole_B = _VALUE_B * step.tokens * step.model.d_model
    gathers = (c.tensor > 1) & _is_any_sliced(step)
    layer += jnp.where(gathers, _GATHERED_INPUTS, 0.0) * whole_B
  keys_B = _GATHERED_KEYS * shared_keys.shared_keys(step).largest_B
  layer += keys_B
  logits_B = _LOGIT_B * step.tokens * step.model.vocab / c.tensor
  table_B = program.weight_B * step.model.vocab * step.model.d_model / c.tensor
  table_B = table_B + 0.0 * step.tokens
  # A table that is not shared is at rest already; only its gradient is new.
  tables_B = jnp.where(c.fsdp > 1, copies.table, 1.0) * table_B
  head = copies.logits * logits_B + tables_B + _HEAD_INPUTS * sizes['input']
  return WorkingSet(
    layer,
    head,
    copies.table_gradient * table_B,
    gathered_B + keys_B,
    shared * table_B,
    copies.doubtful_scores * sizes['scores'],
  )


def _is_any_sliced(step: Step) -> Array:
  """Whether any kind of layer needs the tokens of all tensor ranks."""
  model, c = step.model, step.choices
  kinds = ['attention_by']
  kinds += ['mlp_by'] if model.d_ff or model.shared_ff else []
  kinds += ['experts_by'] if model.experts else []
  return sum(c.is_sliced(kind) for kind in kinds) > 0


def decode_buffers_B(
  model: Transformer, stage: stage_lib.Stage, choices: Choices
) -> Array:
  """Weights of a layer or a table that a decode step gathers [plan]."""
  value_B = stage_lib.value_B(model)
  layer_B = sum(value_B[g] * p for g, p in stage.layer_parameters.items())
  table = float(model.vocab * model.d_model) / choices.tensor
  table_B = value_B[stage_lib.EMBEDDINGS] * table
  gathered = jnp.where(choices.fsdp > 1, 1.0, 0.0)
  return gathered * jnp.maximum(layer_B, table_B)


def decode_working_B(
  model: Transformer,
  sequences: Array,
  cache_B: Array,
  choices: Choices,
  program: Program,
) -> Array:
  """Bytes of a decode step at work, beside weights and cache [plan].

  Args:
    model: the transformer.
    sequences: of one device.
    cache_B: the KV cache of one device.
    choices: discrete choices.
    program: how the step is written.
  """
  logits_B = _LOGIT_B * sequences * model.vocab / choices.tensor
  copies, heads = program.cache_copies, model.attention.kv_heads
  grouped = model.attention.heads > heads
  alone = copies.grouped if grouped else copies.ungrouped
  single = choices.tensor >= heads
  gathered = jnp.where(single, copies.gathered_single, copies.gathered)
  copied = jnp.where(choices.fsdp > 1, gathered, alone)
  return logits_B + copied * cache_B


def _layer_sizes_B(step: Step, program: Program) -> dict[str, Array]:
  """Bytes of one copy of a layer's tensors on one device [plan]."""
  model, c = step.model, step.choices
  a = activations_lib.activation_bytes(model, step.training.seq_len)
  along = c.tensor if program.sequence_parallel else 1.0
  # Scores that are in memory are those of all keys, under a mask.
  heads = max((g.attention.heads for g in model.attention_groups()), default=0)
  scores = _SCORE_B * heads * step.training.seq_len
  per_token = {
    'input': a.input / along,
    'stream': a.stream / along,
    'hidden': a.hidden / c.tensor,
    'products': _VALUE_B * model.d_model / along
    + (a.products - _VALUE_B * model.d_model) / c.tensor,
    'scores': scores / c.tensor,
    'probabilities': a.largest_scores / c.tensor,
    'dispatch': 0.0,
  }
  if model.experts and program.one_hot:
    # One row per token, one column per place of all experts.
    places = model.experts.top_k * program.capacity_factor
    places *= step.training.seq_len * model.expert_layers / model.layers
    per_token['dispatch'] = 4.0 * places
  return {name: size * step.tokens for name, size in per_token.items()}


# Fused attention, mixed precision with float32 gradients and states (18 bytes
# a parameter), sequence parallelism: Megatron-LM, NeMo, Llama 3. Two layers'
# weights and float32 gradients are gathered, the one at work and the next; of
# all else the larger of the two measured compilers.
MIXED_PRECISION = Program(
  Copies(0, 10, 1.7, 6, 2, 2, 2.5),
)
XLA_TPU = Program(
  Copies(
    scores=1.0, stream=6.15, hidden=0.96, gathered=1.15, logits=1.43,
    table=1.5, table_gradient=2.46, dispatch=0.41, kept_scores=1.95,
    kept_stream=1.2, kept_hidden=0.97, kept_dispatch=5.15, doubtful_scores=2.5,
  ),
  gradient_B=2.0, optimizer_B=8.0, shares_optimizer=False,
  sequence_parallel=False, stores_scores=True, holds_gradients=False,
  one_hot=True, capacity_factor=1.25,
  cache_copies=CacheCopies(0.5, 0.5, 1.0, 1.0),
)  # fmt: skip
XLA_GPU = XLA_TPU._replace(
  copies=Copies(
    scores=2.0, stream=11.25, hidden=1.08, gathered=4.43, logits=1.98,
    table=1.3, table_gradient=3.83, dispatch=3.45, kept_scores=2.08,
    kept_stream=2.17, kept_hidden=2.07, kept_dispatch=1.25,
  ),
  cache_copies=CacheCopies(0.5, 0.0, 1.0, 0.5),
)  # fmt: skip
