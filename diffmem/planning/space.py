"""The search space: every legal mesh, sharding, micro-batch and policy.

Legal means that everything divides: heads, hidden widths and experts by the
ranks that share them, layers by the stages, sequences by the ranks that have
sequences of their own or parts of one, and the axes are aligned with the
network's levels. Only what can differ is enumerated: a kind of layer has more
than one sharding where the model has it and there are tensor ranks.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from diffmem.workloads import (
  AXES,
  RECOMPUTE,
  SHARDING,
  Choices,
  Decoding,
  Machine,
  Training,
  Transformer,
)
from diffmem.workloads import mesh as mesh_lib
from diffmem.workloads.prefill import Prefilling

# Sequences of a micro-batch that are tried.
MICRO_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)
# Rules of this module, beside those of `diffmem.workloads.mesh`.
SEQUENCES = 'sequences of the batch'
NETWORK = 'network levels'


class Space(NamedTuple):
  """Enumerated choices and the rules that left some out.

  Attributes:
    choices: one float32 array [plan] per choice; whole numbers.
    refused: rule -> meshes, each with every sharding, that it alone forbids,
      for an explanation when nothing is left.
  """

  choices: dict[str, np.ndarray]
  refused: dict[str, int]

  def __len__(self) -> int:
    return len(self.choices['tensor'])

  def at(self, index: int | np.ndarray) -> Choices:
    """Some of the choices in float64, as the workloads take them."""
    return Choices(
      **{k: v[index].astype(np.float64) for k, v in self.choices.items()}
    )


def divisors(number: int) -> np.ndarray:
  """All divisors, ascending."""
  small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
  return np.array(sorted({*small, *(number // d for d in small)}))


def space_of(
  model: Transformer,
  phase: Training | Decoding | Prefilling,
  chips: int,
  machine: Machine,
) -> Space:
  """All legal choices of a training step, a decode step or a prefill."""
  if isinstance(phase, Decoding):
    return decode_space(model, phase.batch, chips, machine)
  if isinstance(phase, Prefilling):
    return prefill_space(model, phase, chips, machine)
  return training_space(model, phase, chips, machine)


def has_mesh(
  model: Transformer,
  phase: Training | Decoding | Prefilling,
  chips: int,
  machine: Machine,
) -> bool:
  """Whether `space_of` would find anything, without its schedules."""
  if isinstance(phase, Training):
    return len(_training_meshes(model, phase, chips, machine)[0]['tensor']) > 0
  return len(space_of(model, phase, chips, machine)) > 0


def training_space(
  model: Transformer, training: Training, chips: int, machine: Machine
) -> Space:
  """All legal choices of a training step."""
  meshes, refused = _training_meshes(model, training, chips, machine)
  return Space(_with_schedules(model, training.sequences, meshes), refused)


def _training_meshes(model, training, chips, machine):
  """Legal meshes of a training step; each has a schedule of micro-batches."""
  meshes = _factorisations(chips, AXES)
  meshes = _with_shardings(meshes, _kinds(model))
  rules = _shared_rules(model, meshes, machine)
  rules[SEQUENCES] = training.sequences % _data_ranks(meshes) == 0
  rules[mesh_lib.LENGTH] = _lengths_fit(training.seq_len, meshes)
  return _apply(meshes, rules)


def decode_space(
  model: Transformer, batch: int, chips: int, machine: Machine
) -> Space:
  """All legal choices of a decode step: data, tensor and expert ranks.

  Attention by 'sequence' gives each tensor rank whole sequences of its own
  (data-parallel attention), so that the batch divides by them too. A token
  passes dense MLPs in slices: there is none to share.
  """
  meshes = _factorisations(chips, ('tensor', 'expert', 'data'))
  kinds = [k for k in _kinds(model) if k != 'mlp_by']
  meshes = _with_shardings(meshes, kinds)
  rules = _shared_rules(model, meshes, machine)
  own = np.where(meshes['attention_by'] > 0, meshes['tensor'], 1)
  rules[SEQUENCES] = batch % (_data_ranks(meshes) * own) == 0
  return _served(batch, *_apply(meshes, rules))


def prefill_space(
  model: Transformer, prefilling: Prefilling, chips: int, machine: Machine
) -> Space:
  """All legal choices of a prefill: tensor, context, expert and data ranks."""
  meshes = _factorisations(chips, ('tensor', 'context', 'expert', 'data'))
  meshes = _with_shardings(meshes, _kinds(model))
  rules = _shared_rules(model, meshes, machine)
  rules[SEQUENCES] = prefilling.batch % _data_ranks(meshes) == 0
  rules[mesh_lib.LENGTH] = _lengths_fit(prefilling.seq_len, meshes)
  return _served(prefilling.batch, *_apply(meshes, rules))


def describe(choices: Mapping[str, float]) -> dict[str, int]:
  """The mesh of one plan as whole numbers, inner axis first."""
  return {name: int(choices[name]) for name in (*AXES, 'interleave')}


def describe_sharding(choices: Mapping[str, float]) -> dict[str, str]:
  """How the tensor ranks share each kind of layer in one plan, by name."""
  return {
    kind.removesuffix('_by'): names[int(choices[kind])]
    for kind, names in SHARDING.items()
  }


def _factorisations(chips: int, free: tuple[str, ...]) -> dict[str, np.ndarray]:
  """Every ordered way to write `chips` as a product of the free axes."""
  all_divisors = divisors(chips)
  rest, meshes = np.array([chips]), {}
  # Data ranks take what the others leave.
  for axis in AXES:
    if axis == 'data' or axis not in free:
      continue
    row, which = np.nonzero(rest[:, None] % all_divisors == 0)
    meshes = {k: v[row] for k, v in meshes.items()}
    meshes[axis] = all_divisors[which]
    rest = rest[row] // meshes[axis]
  meshes['data'] = rest
  one = np.ones_like(rest)
  return {axis: meshes.get(axis, one) for axis in AXES}


def _kinds(model: Transformer) -> list[str]:
  """Kinds of layers of a model with more than one sharding."""
  count = model.parameters()
  has = {
    'attention_by': count.attention, 'mlp_by': count.mlp,
    'experts_by': count.experts,
  }  # fmt: skip
  return [kind for kind in SHARDING if has[kind]]


def _with_shardings(meshes, kinds: list[str]) -> dict[str, np.ndarray]:
  """Every mesh with every sharding that is another one."""
  options = [range(len(SHARDING[k])) if k in kinds else [0] for k in SHARDING]
  options = np.array(list(itertools.product(*options)))
  differs = (meshes['tensor'] > 1)[:, None] | ~options.any(1)
  mesh, option = np.nonzero(differs)
  shardings = dict(zip(SHARDING, options[option].T, strict=True))
  return {k: v[mesh] for k, v in meshes.items()} | shardings


def _shardings(meshes) -> dict[str, np.ndarray]:
  return {kind: meshes[kind] for kind in SHARDING}


def _data_ranks(meshes) -> np.ndarray:
  return meshes['expert'] * meshes['fsdp'] * meshes['data']


def _lengths_fit(seq_len: int, meshes) -> np.ndarray:
  tensor, context = meshes['tensor'], meshes['context']
  return mesh_lib.lengths_fit(seq_len, tensor, context, **_shardings(meshes))


def _shared_rules(model, meshes, machine) -> dict[str, np.ndarray]:
  """Rules of all phases; rule -> which meshes keep it."""
  axes = {name: meshes[name] for name in ('tensor', 'expert', 'pipeline')}
  rules = mesh_lib.rules(model, **axes, **_shardings(meshes))
  rules[NETWORK] = _aligned(meshes, machine.spans)
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
  """The meshes that keep every rule, and what each rule alone forbids."""
  broken = sum((~kept).astype(np.int8) for kept in rules.values())
  refused = {
    name: int(((broken == 1) & ~kept).sum()) for name, kept in rules.items()
  }
  return {k: v[broken == 0] for k, v in meshes.items()}, refused


def _served(batch: int, meshes, refused) -> Space:
  """A space of steps that have no schedule: one micro-batch of it all."""
  one = np.ones_like(meshes['tensor'])
  choices = {**meshes, 'interleave': one, 'recompute': 0 * one}
  choices['micro_batch'] = batch // _data_ranks(meshes)
  return Space(_floats(choices), refused)


def _with_schedules(model, sequences, meshes) -> dict[str, np.ndarray]:
  """Every mesh with every micro-batch, interleaving and recompute policy."""
  stages, per_rank = meshes['pipeline'], sequences // _data_ranks(meshes)
  even = model.layers % stages == 0
  layers = np.where(even, model.layers, model.layers + 2) // stages
  sizes = np.array(MICRO_BATCHES)
  mesh, size = np.nonzero(per_rank[:, None] % sizes == 0)
  batches = per_rank[mesh] // sizes[size]
  # Interleaving deals out micro-batches in rounds of as many as stages
  # (Megatron-LM: Narayanan et al., SC 2021, section 2.2).
  chunks = np.unique(
    np.concatenate([[1], *(divisors(n) for n in np.unique(layers))])
  ).astype(np.int64)
  deals = (stages[mesh] > 1) & (batches % stages[mesh] == 0)
  legal = deals[:, None] & (layers[mesh][:, None] % chunks == 0)
  row, chunk = np.nonzero(legal | (chunks == 1))
  policies = len(RECOMPUTE)
  choices = {k: v[mesh[row]] for k, v in _floats(meshes).items()}
  choices['micro_batch'] = sizes[size[row]].astype(np.float32)
  choices['interleave'] = chunks[chunk].astype(np.float32)
  choices = {k: np.repeat(v, policies) for k, v in choices.items()}
  each = np.arange(policies, dtype=np.float32)
  choices['recompute'] = np.tile(each, len(row))
  return choices


def _floats(choices: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {k: v.astype(np.float32) for k, v in choices.items()}
