"""Prompts, lowered: many new tokens of every sequence at once.

All new tokens go through every layer; the output layer sees the last of each
sequence. Latent attention expands its keys and values, those that are cached
already too. New keys and values are written, and read back while they are in
the near memory; attention kernels keep what they read again on the chip (Dao
et al., "FlashAttention", NeurIPS 2022). Axes and kinds of layers are those of
`serving_step.py`: `context` ranks share the tokens of each sequence, and by
'sequence' the tensor ranks do so in attention, with keys and values gathered.

`chunk_of` gives the mean piece of a prompt that is worked on in several.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffmem.workloads import activations as activations_lib
from diffmem.workloads import caches as caches_lib
from diffmem.workloads import serving_links, serving_step, working_set
from diffmem.workloads import stage as stage_lib
from diffmem.workloads.caches import Cache
from diffmem.workloads.choices import Choices, Machine
from diffmem.workloads.lowered import Lowered
from diffmem.workloads.serving_step import Part, Pieces
from diffmem.workloads.transformer import Transformer

_VALUE_B = 2.0  # bfloat16 activations
# Layers whose activations are in memory at a time: the one at work and the
# input of the next.
_LIVE_LAYERS = 2.0


class Prefilling(NamedTuple):
  """One pass over prompts; hashable.

  Attributes:
    batch: sequences, all devices together.
    seq_len: new tokens of each.
    cached: tokens of each that are in the cache before them.
    kv_B: bytes of a cached value; None for the model's own format.
  """

  batch: int
  seq_len: int
  cached: int = 0
  kv_B: float | None = None


class Prompt(NamedTuple):
  """What one sequence asks for, whatever the plan.

  Scalars, or arrays [plan] of prompts that differ from plan to plan.

  Attributes:
    new: tokens that are computed.
    flops: of all layers and the output layer, over these tokens.
    caches: by group, unsplit [B].
    activations_B: kept activations of one layer, all its tokens [B].
    expansion_flops: of `flops`, what expands latent keys; ranks that share a
      sequence expand all of them each.
  """

  new: Float[ArrayLike, '*plan']
  flops: Float[ArrayLike, '*plan']
  caches: dict[str, Cache]
  activations_B: Float[ArrayLike, '*plan']
  expansion_flops: Float[ArrayLike, '*plan'] = 0.0


def lower_prefill(
  model: Transformer, phase: Prefilling, choices: Choices, machine: Machine
) -> Lowered:
  """Lowers many plans of a pass over prompts.

  Args:
    model: the transformer.
    phase: prompts; `batch` may be an array [plan].
    choices: discrete choices [plan]; pipeline, fsdp and interleave are 1.
    machine: from `machine_of` for this number of chips.
  """
  prompt = prompt_of(model, phase.seq_len, phase.cached, phase.kv_B)
  part = prompt_part(model, prompt, phase.batch, choices, machine)
  pieces = pieces_of(model, phase.seq_len + phase.cached)
  return serving_step.lower_step(model, [part], pieces, choices, machine)


def prompt_of(
  model: Transformer, new: float, cached: float = 0.0, kv_B: float | None = None
) -> Prompt:
  """What `new` tokens after `cached` ones ask for."""
  per_token = model.layers * stage_lib.layer_matmul_flops(model)
  flops = new * per_token + _core_flops(model, new, cached)
  # Those of new tokens are among the matrices.
  expansion = model.layers * stage_lib.expansion_flops(model)
  flops += cached * expansion
  kept_B = activations_lib.activation_bytes(model, new + cached).kept
  return Prompt(
    new=float(new),
    flops=flops + stage_lib.head_flops(model),
    caches=caches_lib.prompt_caches(model, new, cached, kv_B),
    activations_B=kept_B * new,
    expansion_flops=(new + cached) * expansion,
  )


def chunk_of(
  model: Transformer, new: float, cached: float, chunk: float
) -> Prompt:
  """The mean piece of a prompt that is worked on `chunk` tokens at a time.

  Attention of a piece is linear in the tokens before it, so that the piece
  half way asks for the mean of all; windows and sparse indices, whose reach is
  bounded, are taken alike.
  """
  chunk = min(chunk, new)
  return prompt_of(model, chunk, cached + (new - chunk) / 2.0)


def _core_flops(model: Transformer, new: float, cached: float) -> float:
  """FLOPs of attention cores and states, all layers, all new tokens."""

  def up_to(tokens):
    if not tokens:
      return 0.0
    return tokens * stage_lib.causal_core_flops(model, tokens)

  return model.layers * (up_to(cached + new) - up_to(cached))


def prompt_part(
  model: Transformer,
  prompt: Prompt,
  batch: Float[ArrayLike, '*plan'],
  c: Choices,
  machine: Machine,
) -> Part:
  """Prompts as a part of a pass, for many plans.

  Args:
    model: the transformer.
    prompt: each of them.
    batch: how many, all devices together.
    c: discrete choices [plan].
    machine: memories and levels.
  """
  sequences = batch / c.data_ranks
  share = sequences / c.context
  split = caches_lib.shares(model, c)
  caches = {
    g: cache.times(share / split[g]) for g, cache in prompt.caches.items()
  }
  new_B = sum(cache.written_B for cache in caches.values())
  by_sequence = jnp.asarray(c.attention_by) == caches_lib.BY_SEQUENCE
  sharing = c.context * jnp.where(by_sequence, c.tensor, 1.0)
  again = (sharing - 1.0) * prompt.expansion_flops
  tokens = share * prompt.new
  activations_B = share * prompt.activations_B / c.tensor
  logits_B = working_set.decode_working_B(
    model, sequences, jnp.zeros_like(new_B), c, working_set.MIXED_PRECISION
  )
  gathered_B = 2.0 * _VALUE_B * tokens * model.d_model
  return Part(
    tokens=tokens,
    flops=share * (prompt.flops + again),
    caches=caches,
    near_B=model.layers * activations_B + new_B,
    working_B=logits_B + gathered_B + _LIVE_LAYERS * activations_B,
    links=serving_links.gathered_keys(
      model, sequences * _new_keys_B(prompt, split, c), c, machine
    ).times(jnp.where(jnp.asarray(batch) > 0, 1.0, 0.0)),
    all_tokens=batch * prompt.new,
    all_flops=batch * prompt.flops,
  )


def _new_keys_B(prompt: Prompt, split: dict[str, Array], c: Choices) -> Array:
  """New keys and values of one sequence that a device attends to [B]."""
  by_sequence = jnp.asarray(c.attention_by) == caches_lib.BY_SEQUENCE
  return sum(
    cache.written_B / jnp.where(by_sequence, 1.0, split[group])
    for group, cache in prompt.caches.items()
    if group != caches_lib.STATES
  )


def pieces_of(model: Transformer, context: float) -> dict[str, Pieces]:
  """Pages and layers of every group of caches."""
  units = caches_lib.units_of(model, context)
  layers = caches_lib.layers_of(model)
  return {g: Pieces.of_layers(units[g], layers[g]) for g in units}
