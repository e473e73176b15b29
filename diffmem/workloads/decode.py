"""One decode step, lowered: one new token for every sequence of the batch.

A step reads every weight that its tokens touch and the KV cache once,
which is why small batches are bound by memory (Pope et al., "Efficiently
Scaling Transformer Inference", MLSys 2023). Axes and kinds of layers are those
of `serving_step.py`: by 'sequence', each tensor rank has whole sequences of
its own and the attention weights whole (data-parallel attention).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from diffmem.workloads import caches as caches_lib
from diffmem.workloads import serving_step, working_set
from diffmem.workloads import stage as stage_lib
from diffmem.workloads.caches import Cache
from diffmem.workloads.choices import Choices, Machine
from diffmem.workloads.lowered import Lowered
from diffmem.workloads.serving_step import Part, Pieces
from diffmem.workloads.transformer import Transformer

KV_IDLE = 'kv_idle_'


class Idle(NamedTuple):
  """Keys and values that are kept for sessions that are silent now.

  Attributes:
    tokens: kept, all devices together.
    reads_per_step: how often a decode step reads all of them: the rate at
      which their sessions come back [1/s] times the step [s]. It is given per
      step, so that what is asked of a step does not depend on its time.
  """

  tokens: float
  reads_per_step: float = 0.0


class Decoding(NamedTuple):
  """One decode step; hashable.

  Attributes:
    batch: sequences, all devices together.
    context: tokens of each sequence in the KV cache.
    kv_B: bytes of a cached value; None for the model's own format.
    idle: caches of silent sessions, by how soon they are wanted again; each
      is a group of its own, `kv_idle_0` on.
  """

  batch: int
  context: int
  kv_B: float | None = None
  idle: tuple[Idle, ...] = ()


class AnyBatchDecoding(NamedTuple):
  """A decode step whose batch is one of the plan's choices; hashable.

  The batch is `micro_batch` sequences on each data rank, so that one compiled
  program serves every batch.

  Attributes:
    context: tokens of each sequence in the KV cache.
    kv_B: bytes of a cached value; None for the model's own format.
    idle: caches of silent sessions, as in `Decoding`.
  """

  context: int
  kv_B: float | None = None
  idle: tuple[Idle, ...] = ()


def lower_decode(
  model: Transformer, decoding: Decoding, choices: Choices, machine: Machine
) -> Lowered:
  """Lowers many plans of a decode step.

  Args:
    model: the transformer.
    decoding: batch and context; `batch` may be an array [plan].
    choices: discrete choices [plan]; pipeline, fsdp, context and interleave
      are 1.
    machine: from `machine_of` for this number of chips.
  """
  part = decode_part(model, decoding, choices)
  pieces = pieces_of(model, decoding)
  return serving_step.lower_step(model, [part], pieces, choices, machine)


def lower_any_batch(
  model: Transformer,
  phase: AnyBatchDecoding,
  choices: Choices,
  machine: Machine,
) -> Lowered:
  """As `lower_decode`, with the batch that each plan's choices imply."""
  batch = choices.micro_batch * choices.data_ranks
  decoding = Decoding(batch, phase.context, phase.kv_B, phase.idle)
  return lower_decode(model, decoding, choices, machine)


def decode_part(model: Transformer, decoding: Decoding, c: Choices) -> Part:
  """The sequences of a decode step, for many plans."""
  batch = decoding.batch / c.data_ranks
  caches = {
    name: cache.times(batch)
    for name, cache in caches_of(model, decoding, c).items()
  }
  kept_B = sum(cache.kept_B for cache in caches.values())
  flops = token_flops(model, decoding.context)
  return Part(
    tokens=batch,
    flops=batch * flops,
    caches=caches | _idle(model, decoding, c),
    near_B=0.0,
    working_B=working_set.decode_working_B(
      model, batch, kept_B, c, working_set.MIXED_PRECISION
    ),
    links=None,
    all_tokens=1.0 * decoding.batch,
    all_flops=decoding.batch * flops,
  )


def pieces_of(model: Transformer, decoding: Decoding) -> dict[str, Pieces]:
  """Pages and layers of every group of caches."""
  units = caches_lib.units_of(model, decoding.context)
  layers = caches_lib.layers_of(model)
  pieces = {g: Pieces.of_layers(units[g], layers[g]) for g in units}
  for i, idle in enumerate(decoding.idle):
    # Page by page, and placed in hundredths where there are more pages.
    pages = max(idle.tokens // caches_lib.PAGE_TOKENS, 1.0)
    pieces[f'{KV_IDLE}{i}'] = Pieces(min(pages, 100.0), min(2.0 / pages, 1.0))
  return pieces


def caches_of(
  model: Transformer, decoding: Decoding, c: Choices
) -> dict[str, Cache]:
  """One sequence's caches on one device of its tensor group, by group."""
  whole = caches_lib.decode_caches(model, decoding.context, decoding.kv_B)
  split = caches_lib.shares(model, c)
  return {g: cache.times(1.0 / split[g]) for g, cache in whole.items()}


def cache_of(model: Transformer, decoding: Decoding, c: Choices) -> Cache:
  """The same of all groups together."""
  total = Cache(*jnp.zeros(3))
  for cache in caches_of(model, decoding, c).values():
    total += cache
  return total


def _idle(model, decoding: Decoding, c: Choices) -> dict[str, Cache]:
  """Silent sessions, spread over the data ranks as the others are."""
  if not decoding.idle:
    return {}
  one = Cache(*jnp.zeros(3))
  split = caches_lib.shares(model, c)
  caches = caches_lib.decode_caches(model, decoding.context, decoding.kv_B)
  for group, cache in caches.items():
    one += cache.times(1.0 / split[group])
  token_B = one.kept_B / decoding.context
  return {
    f'{KV_IDLE}{i}': Cache(
      token_B * idle.tokens / c.data_ranks,
      token_B * idle.tokens / c.data_ranks * idle.reads_per_step,
      jnp.zeros_like(token_B),
    )
    for i, idle in enumerate(decoding.idle)
  }


def token_flops(model: Transformer, context: float) -> float | Array:
  """FLOPs of one new token after `context` others."""
  core = stage_lib.decode_core_flops(model, context)
  per_layer = stage_lib.layer_matmul_flops(model) + core
  return model.layers * per_layer + stage_lib.head_flops(model)
