"""The search space: every legal mesh, micro-batch and recompute policy.

Legal means that everything divides: heads, hidden widths and experts by the
axes that share them, layers by the stages, sequences by the ranks that have
tokens of their own, and the axes are aligned with the network's levels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from diffmem.workloads import (
  AXES,
  RECOMPUTE,
  Choices,
  Decoding,
  Machine,
  Training,
  Transformer,
)
from diffmem.workloads import mesh as mesh_lib

# Sequences of a micro-batch that are tried.
MICRO_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)


class Space(NamedTuple):
  """Enumerated choices and the rules that left some out.

  Attributes:
    choices: one float array [plan] per choice.
    refused: rule -> factorisations that it alone forbids, for an explanation
      when nothing is left.
  """

  choices: dict[str, np.ndarray]
  refused: dict[str, int]

  def __len__(self) -> int:
    return len(self.choices['tensor'])

  def at(self, index: int | np.ndarray) -> Choices:
    """Some of the choices, as the workloads take them."""
    return Choices(**{k: v[index] for k, v in self.choices.items()})


def divisors(number: int) -> np.ndarray:
  """All divisors, ascending."""
  small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
  return np.array(sorted({*small, *(number // d for d in small)}))


def space_of(
  model: Transformer, phase: Training | Decoding, chips: int, machine: Machine
) -> Space:
  """All legal choices of a training or a decode step."""
  if isinstance(phase, Decoding):
    return decode_space(model, phase.batch, chips, machine)
  return training_space(model, phase.sequences, chips, machine)


def training_space(
  model: Transformer, sequences: int, chips: int, machine: Machine
) -> Space:
  """All legal choices of a training step."""
  meshes = _factorisations(chips)
  rules = _shared_rules(model, meshes, machine)
  ranks = meshes['expert'] * meshes['fsdp'] * meshes['data']
  rules['sequences of the batch'] = sequences % ranks == 0
  meshes, refused = _apply(meshes, rules)
  return Space(_with_schedules(model, sequences, meshes), refused)


def decode_space(
  model: Transformer, batch: int, chips: int, machine: Machine
) -> Space:
  """All legal choices of a decode step: data, tensor and expert ranks."""
  meshes = _factorisations(chips, with_training_axes=False)
  rules = _shared_rules(model, meshes, machine)
  ranks = meshes['expert'] * meshes['data']
  rules['sequences of the batch'] = batch % ranks == 0
  meshes, refused = _apply(meshes, rules)
  one = np.ones_like(meshes['tensor'])
  choices = {**meshes, 'interleave': one, 'recompute': 0 * one}
  choices['micro_batch'] = batch // (meshes['expert'] * meshes['data'])
  return Space(_floats(choices), refused)


def describe(choices: Mapping[str, float]) -> dict[str, int]:
  """The mesh of one plan as whole numbers, inner axis first."""
  return {name: int(choices[name]) for name in (*AXES, 'interleave')}


def _factorisations(
  chips: int, with_training_axes: bool = True
) -> dict[str, np.ndarray]:
  """Every ordered way to write `chips` as a product of the axes."""
  all_divisors = divisors(chips)
  one = np.ones(1, np.int64)
  free = all_divisors if with_training_axes else one
  grids = np.meshgrid(all_divisors, all_divisors, free, free, indexing='ij')
  tensor, expert, fsdp, pipeline = (g.ravel() for g in grids)
  inner = tensor * expert * fsdp * pipeline
  whole = (inner <= chips) & (chips % np.minimum(inner, chips) == 0)
  meshes = {
    'tensor': tensor, 'expert': expert, 'fsdp': fsdp,
    'data': chips // inner, 'pipeline': pipeline,
  }  # fmt: skip
  return {k: v[whole] for k, v in meshes.items()}


def _shared_rules(model, meshes, machine) -> dict[str, np.ndarray]:
  """Rules of both phases; rule -> which meshes keep it."""
  axes = {name: meshes[name] for name in ('tensor', 'expert', 'pipeline')}
  rules = mesh_lib.rules(model, **axes)
  rules['network levels'] = _aligned(meshes, machine.spans)
  return rules


def _aligned(meshes, spans) -> np.ndarray:
  """No axis straddles a domain of a level unevenly."""
  stride = np.ones_like(meshes['tensor'])
  aligned = np.ones(stride.shape, bool)
  for axis in AXES:
    stride = stride * meshes[axis]
    for span in spans:
      aligned &= (span % stride == 0) | (stride % span == 0)
  return aligned


def _apply(meshes, rules):
  kept = np.logical_and.reduce(list(rules.values()))
  refused = {}
  for name in rules:
    others = [r for n, r in rules.items() if n != name]
    refused[name] = int((np.logical_and.reduce(others) & ~rules[name]).sum())
  return {k: v[kept] for k, v in meshes.items()}, refused


def _with_schedules(model, sequences, meshes) -> dict[str, np.ndarray]:
  """Every mesh with every micro-batch, interleaving and recompute policy."""
  stages = meshes['pipeline']
  even = model.layers % stages == 0
  stage_layers = np.where(even, model.layers, model.layers + 2) // stages
  chunks = np.unique(
    np.concatenate([[1], *(divisors(n) for n in np.unique(stage_layers))])
  )
  sizes = (len(stages), len(MICRO_BATCHES), len(chunks), len(RECOMPUTE))
  mesh, micro, chunk, recompute = (i.ravel() for i in np.indices(sizes))
  micro, chunk = np.array(MICRO_BATCHES)[micro], chunks.astype(np.int64)[chunk]
  choices = {k: v[mesh] for k, v in meshes.items()}
  ranks = choices['expert'] * choices['fsdp'] * choices['data']
  per_rank = sequences // ranks
  legal = per_rank % micro == 0
  batches = per_rank // micro
  # Interleaving deals out micro-batches in rounds of as many as stages
  # (Megatron-LM: Narayanan et al., SC 2021, section 2.2).
  p = choices['pipeline']
  deals = (p > 1) & (stage_layers[mesh] % chunk == 0) & (batches % p == 0)
  legal &= (chunk == 1) | deals
  choices |= {
    'micro_batch': micro, 'interleave': chunk, 'recompute': recompute,
  }  # fmt: skip
  return _floats({k: v[legal] for k, v in choices.items()})


def _floats(choices: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {k: v.astype(np.float64) for k, v in choices.items()}
