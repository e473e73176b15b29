"""A training step: what is asked, and what its lowering shares."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from diffmem.workloads import stage as stage_lib
from diffmem.workloads.choices import Choices, Machine
from diffmem.workloads.transformer import Transformer

# The choice of `SHARDING` that says how the tensor ranks share a weight group;
# experts have as many parameters on a device under either.
KIND_OF = {stage_lib.ATTENTION: 'attention_by', stage_lib.MLP: 'mlp_by'}
# Weights are read by the forward product and by the data gradient.
WEIGHT_PASSES = 2.0


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


class Step(NamedTuple):
  """What the pieces of a lowering share; every array is [plan].

  Attributes:
    model: the transformer.
    training: sequence length and batch.
    choices: discrete choices.
    machine: memories, levels and engine; None where none is meant.
    stage: the fullest pipeline stage.
    micro_batches: of a step, on one data rank.
    tokens: of one micro-batch on one data and context rank.
    is_full: 1 under full recomputation.
    is_none: 1 without recomputation.
  """

  model: Transformer
  training: Training
  choices: Choices
  machine: Machine | None
  stage: stage_lib.Stage
  micro_batches: Array
  tokens: Array
  is_full: Array
  is_none: Array

  def ranks(self, axis: str) -> Array:
    """Ranks of an axis within each network level [plan, level]."""
    return self.choices.ranks(axis, self.machine.spans)

  def replicas(self, group: str) -> Array:
    """Ranks with the same weights, which share the optimizer (ZeRO-1).

    Data and context ranks; for all but experts the expert ranks, and where
    matrices are whole the tensor ranks.
    """
    c = self.choices
    same = c.data * c.context
    if group == stage_lib.EXPERTS:
      return same
    whole = c.tensor / c.slices(KIND_OF[group]) if group in KIND_OF else 1.0
    return same * c.expert * whole


def step_of(
  model: Transformer,
  training: Training,
  choices: Choices,
  machine: Machine | None = None,
) -> Step:
  """What the pieces of a lowering share, for many plans."""
  c = choices
  return Step(
    model, training, c, machine, stage_lib.stage_of(model, c),
    micro_batches=training.sequences / (c.data_ranks * c.micro_batch),
    tokens=c.micro_batch * float(training.seq_len) / c.context,
    is_full=jnp.where(c.recompute == 2, 1.0, 0.0),
    is_none=jnp.where(c.recompute == 0, 1.0, 0.0),
  )  # fmt: skip
