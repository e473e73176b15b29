"""A training step: what is asked, and what its lowering shares."""

from typing import NamedTuple

from jaxtyping import Array

from diffmem.workloads import stage as stage_lib
from diffmem.workloads.choices import Choices, Machine
from diffmem.workloads.transformer import Transformer

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
    machine: memories, levels and engine.
    stage: the fullest pipeline stage.
    micro_batches: of a step, on one data rank.
    tokens: of one micro-batch on one data rank.
    is_full: 1 under full recomputation.
    is_none: 1 without recomputation.
  """

  model: Transformer
  training: Training
  choices: Choices
  machine: Machine
  stage: stage_lib.Stage
  micro_batches: Array
  tokens: Array
  is_full: Array
  is_none: Array

  def ranks(self, axis: str) -> Array:
    """Ranks of an axis within each network level [plan, level]."""
    return self.choices.ranks(axis, self.machine.spans)

  def replicas(self, group: str) -> Array:
    """Ranks with the same weights, which share the optimizer (ZeRO-1)."""
    if group == stage_lib.EXPERTS:
      return self.choices.data
    return self.choices.data * self.choices.expert
