"""A whole search against brute force over every mesh and whole placement."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from diffmem.planning import cutting_planes, make_plan, model, search
from diffmem.planning import greedy as greedy_lib
from diffmem.planning import objective as objective_lib
from diffmem.planning import space as space_lib
from diffmem.planning.objective import Objective
from diffmem.system import to_numpy
from diffmem.workloads import Training, Transformer, machine_of
from diffmem.workloads.transformer import Attention

TIME = Objective()
SPACES = 1
_BATCH = 4096


def _values_of(system, lowered, placements):
  return objective_lib.parts(
    system, lowered, placements, TIME.weights
  ).sum(-1)  # fmt: skip


_of_many = jax.jit(_values_of, compiler_options=model.QUICK)
_lowered = jax.jit(model.lower, static_argnums=0)


def _deals(parts, pieces):
  """All ways to deal out `pieces` over `parts`, as shares."""
  counts = itertools.product(range(int(pieces) + 1), repeat=parts)
  return np.array([c for c in counts if sum(c) == pieces]) / pieces


def _all_whole(units, memories):
  """All placements in whole pieces [placement, group, memory]."""
  deals = [_deals(memories, pieces) for pieces in units]
  return np.array(list(itertools.product(*deals)))


@pytest.fixture(scope='module')
def tiny():
  """0.4e9 parameters in two layers, none of them experts."""
  return Transformer(
    name='tiny', source='test', layers=2, d_model=2048, vocab=32768, d_ff=16384,
    attention=Attention(heads=16, kv_heads=16, head_dim=128), max_context=4096,
  )  # fmt: skip


def _two_memories(system, seed):
  """The system without its SSD; capacities and bandwidths vary."""
  rng = np.random.default_rng(seed)
  values = system.values()
  system = dataclasses.replace(
    system, tiers=tuple(t for t in system.tiers if t.name != 'SSD')
  )
  system = system.with_values({
    'HBM.capacity_B': rng.uniform(1.2e9, 2.2e9),
    'PCIe.read_Bps': values['PCIe.read_Bps'] * rng.uniform(0.5, 4),
    'HBM.mixed_Bps': rng.uniform(5e11, 5e12),
    'NVLink.read_Bps': values['NVLink.read_Bps'] * rng.uniform(0.2, 2),
  })  # fmt: skip
  # Arrays of its own: jax may remember the fixture's as float32.
  return to_numpy(system)


@pytest.mark.parametrize('seed', range(SPACES))
def test_plan_is_the_best_of_a_whole_space(system, tiny, seed):
  small, chips, phase = _two_memories(system, seed), 4, Training(4096, 16)
  found = make_plan(
    small, tiny, chips=chips, global_batch_tokens=16 * 4096, seq_len=4096,
    top=5,
  )  # fmt: skip
  with jax.enable_x64(True):
    least = _least(small, tiny, phase, chips, found)
  value = found.plans[0].predicted['step_time_s']
  assert value == pytest.approx(least, rel=search.TOLERANCE)
  assert found.plans[0].predicted['memory_bytes']['DRAM'] > 0


def _least(small, tiny, phase, chips, found) -> float:
  """The best of every mesh and whole placement."""
  value = found.plans[0].predicted['step_time_s']
  machine = machine_of(small, chips)
  space = space_lib.space_of(tiny, phase, chips, machine)
  job = model.Job(tiny, phase, machine, TIME)
  lowered = _lowered(job, space.at(np.arange(len(space))))
  room_B = np.asarray(greedy_lib.capacities_B(small, machine))
  near = np.asarray(lowered.near_placement())
  # Everything near is the best that could be, were there room for it.
  near_values = np.asarray(_of_many(small, lowered, near))
  open_meshes = np.flatnonzero(near_values <= value * (1 + 1e-9))
  pairs = []
  for mesh in open_meshes:
    one = jax.tree.map(lambda x, mesh=mesh: np.asarray(x)[mesh], lowered)
    whole = _all_whole(np.maximum(np.round(one.units), 1.0), 2)
    fits = cutting_planes.limits_of(one, room_B).holds(whole)
    pairs += [(mesh, placement) for placement in whole[fits]]
  assert len(pairs) > 100
  meshes = np.array([mesh for mesh, _ in pairs])
  placements = np.array([placement for _, placement in pairs])
  least = np.inf
  for first in range(0, len(pairs), _BATCH):
    at = np.minimum(np.arange(first, first + _BATCH), len(pairs) - 1)
    some = jax.tree.map(lambda x, at=at: np.asarray(x)[meshes[at]], lowered)
    least = min(least, float(_of_many(small, some, placements[at]).min()))
  return least
