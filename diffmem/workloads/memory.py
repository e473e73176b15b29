"""Memory of one device: what a plan needs, part by part.

    peak = weights + optimizer states + the fullest moment of the step,

a moment being gradients, kept activations and the working set of
`diffmem.workloads.working_set`, as far as they are alive then. The planner's
capacity check takes the same sizes and the largest working set, all of them at
once: it never asks for less than `memory_of` (`Lowered.size_B`, `fixed_B`).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from diffmem.workloads import decode as decode_lib
from diffmem.workloads import stage as stage_lib
from diffmem.workloads import working_set as working_lib
from diffmem.workloads.choices import Choices
from diffmem.workloads.decode import Decoding
from diffmem.workloads.lowered import Lowered
from diffmem.workloads.train_step import Step, Training, step_of
from diffmem.workloads.transformer import Transformer
from diffmem.workloads.working_set import Program

# One program needs up to a quarter more on one TPU than on another, and
# schedules differ between versions of a compiler.
MARGIN = 0.1
_WEIGHTS = (
  stage_lib.ATTENTION, stage_lib.MLP, stage_lib.EXPERTS, stage_lib.EMBEDDINGS,
)  # fmt: skip


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
  """Bytes of one device at the fullest moment of a step [plan].

  Attributes:
    weights_B: weights at rest [B].
    optimizer_B: states of the optimizer [B].
    gradients_B: gradients that are alive then [B].
    activations_B: kept for the backward pass and alive then [B].
    kv_cache_B: keys and values [B].
    buffers_B: gathered weights and tables of fully sharded data parallelism,
      those in flight included, and keys of ranks that share sequences [B].
    temporaries_B: all else that the compiler keeps [B].
    doubt_B: what the compiler may need beyond the peak; not a part of it [B].
  """

  weights_B: Float[Array, '*plan']
  optimizer_B: Float[Array, '*plan']
  gradients_B: Float[Array, '*plan']
  activations_B: Float[Array, '*plan']
  kv_cache_B: Float[Array, '*plan']
  buffers_B: Float[Array, '*plan']
  temporaries_B: Float[Array, '*plan']
  doubt_B: Float[Array, '*plan']

  @property
  def parts_B(self) -> dict[str, Float[Array, '*plan']]:
    """The parts of the peak by name [B]."""
    names = [f.name for f in dataclasses.fields(self) if f.name != 'doubt_B']
    return {name: getattr(self, name) for name in names}

  @property
  def peak_B(self) -> Float[Array, '*plan']:
    """Their sum [B]."""
    return sum(self.parts_B.values())

  def fits(
    self, capacity_B: Float[ArrayLike, '*plan'], margin: float = MARGIN
  ) -> Bool[Array, '*plan']:
    """Whether the peak fits, with doubt and a margin for the compiler."""
    return (self.peak_B + self.doubt_B) * (1.0 + margin) <= capacity_B


def memory_of(
  model: Transformer,
  phase: Training | Decoding,
  choices: Choices,
  program: Program = working_lib.MIXED_PRECISION,
) -> Memory:
  """Memory of one device under many plans.

  Args:
    model: the transformer.
    phase: a training step or a decode step.
    choices: discrete choices [plan]; taken as legal. A decode step may share
      its weights over `fsdp` ranks, each with sequences of its own.
    program: how it is written and compiled: `MIXED_PRECISION`, `XLA_TPU` or
      `XLA_GPU` of `diffmem.workloads.working_set`, or one of your own.

  Examples:
    >>> from diffmem.workloads import load_workload
    >>> model = load_workload('llama-3.1-8b')
    >>> found = memory_of(model, Training(4096, 8), Choices.of(fsdp=8.0))
    >>> round(float(found.optimizer_B) / 1e9, 1)  # 12 bytes of 8.03e9 / 8
    12.0
  """
  if isinstance(phase, Training):
    return _train(step_of(model, phase, choices), program)
  return _decode(model, phase, choices, program)


def tier_memory_B(
  lowered: Lowered, placement: Float[Array, '*plan group memory']
) -> Float[Array, '*plan memory']:
  """Bytes in each memory under a placement, as the planner counts them.

  What lives elsewhere has a buffer in the near memory, through which it is
  fetched; the working set is there too.
  """
  held_B = (lowered.size_B[..., None] * placement).sum(-2)
  away = 1.0 - placement[..., 0]
  near_B = lowered.fixed_B + (lowered.fetch_B * away).sum(-1)
  return held_B.at[..., 0].add(near_B)


def _train(step: Step, program: Program) -> Memory:
  sizes = working_lib.sizes_B(step, program)
  work = working_lib.working_set(step, program)
  gradients_B = sizes[stage_lib.GRADIENTS]
  kept_B = sizes[stage_lib.ACTIVATIONS]
  # Gradients are accumulated over micro-batches; else they are not there yet
  # in the output layer, and what was kept is gone at the end.
  several = jnp.where(step.micro_batches > 1, 1.0, 0.0)
  held = jnp.maximum(several, float(program.holds_gradients))
  alive_B = jnp.stack(
    jnp.broadcast_arrays(
      gradients_B + kept_B + work.layer,
      held * gradients_B + kept_B + work.head,
      gradients_B + work.update,
    )
  )
  moment = jnp.argmax(alive_B, 0)
  zero = jnp.zeros_like(alive_B[0])

  def then(layer, head, update):
    return jnp.select([moment == 0, moment == 1], [layer, head], update) + zero

  gradients_B = then(gradients_B, held * gradients_B, gradients_B)
  kept_B = then(kept_B, kept_B, 0.0)
  buffers_B = then(work.layer_buffers, work.head_buffers, 0.0)
  return Memory(
    weights_B=sum(sizes[g] for g in _WEIGHTS if g in sizes) + zero,
    optimizer_B=sizes[stage_lib.OPTIMIZER] + zero,
    gradients_B=gradients_B,
    activations_B=kept_B,
    kv_cache_B=zero,
    buffers_B=buffers_B,
    temporaries_B=alive_B.max(0) - gradients_B - kept_B - buffers_B,
    doubt_B=work.doubt + zero,
  )


def _decode(
  model: Transformer, decoding: Decoding, c: Choices, program: Program
) -> Memory:
  stage = stage_lib.stage_of(model, c)
  batch = decoding.batch / c.data_ranks
  value_B = stage_lib.value_B(model)
  weights_B = sum(value_B[g] * p for g, p in stage.parameters.items())
  cache_B = batch * decode_lib.cache_of(model, decoding, c).kept_B
  gathered_B = working_lib.decode_buffers_B(model, stage, c)
  zero = jnp.zeros_like(cache_B + weights_B)
  rest_B = working_lib.decode_working_B(model, batch, cache_B, c, program)
  return Memory(
    weights_B=weights_B / c.fsdp + zero,
    optimizer_B=zero,
    gradients_B=zero,
    activations_B=zero,
    kv_cache_B=cache_B + zero,
    buffers_B=gathered_B + zero,
    temporaries_B=rest_B + zero,
    doubt_B=zero,
  )
