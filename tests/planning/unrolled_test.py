"""The quick laws say what `predict`, greedy and minorant say."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import checkpoint
from diffmem.planning import greedy, minorant, objective
from diffmem.planning.objective import Objective
from diffmem.planning.unrolled import laws as unrolled
from diffmem.planning.unrolled import minorant as unrolled_minorant
from diffmem.planning.unrolled import sweep as unrolled_sweep
from diffmem.system import to_numpy
from diffmem.workloads import machine_of

_PLANS = 12
_GOALS = (Objective(), Objective('energy_per_token_J', 0.0, 1.0))
# Every capacity law, memories behind one link, and caches that serve nothing.
_MACHINES = ('small', 'h100-sxm')


@pytest.fixture(scope='module')
def plans(make_instance):
  """Random plans with traffic on two network levels, one array each."""
  made = [make_instance(seed) for seed in range(_PLANS)]
  stacked = jax.tree.map(lambda *x: np.stack(x), *made)
  rng = np.random.default_rng(1)
  shape = (_PLANS, 2, 2)
  idle = rng.integers(2, size=shape)
  return dataclasses.replace(
    stacked,
    row_flops=1e-3 * stacked.flops,
    bubble_weight=rng.uniform(0.0, 1.0, shape[:2]),
    launches=np.full(shape[:2], 3.0),
    sent_B=idle * rng.uniform(0.0, 5e9, shape),
    messages=idle * rng.integers(1, 1000, shape).astype(float),
  )


@pytest.fixture(scope='module')
def machines(system, plans):
  """System and plans by name."""
  h100 = to_numpy(checkpoint.load_system('h100-sxm').system)
  systems = {'small': system, 'h100-sxm': h100}
  return {
    name: (s, dataclasses.replace(plans, machine=machine_of(s, 64)))
    for name, s in systems.items()
  }


@pytest.fixture(scope='module')
def placements(plans):
  """Mixtures; the first two plans use one memory alone: norms have corners."""
  rng = np.random.default_rng(0)
  found = rng.dirichlet(np.ones(3), plans.size_B.shape)
  found[0], found[1] = np.eye(3)[0], np.eye(3)[2]
  return found


_swept = jax.jit(unrolled_sweep.swept, static_argnums=2)


def _time_and_energy(parts, system, lowered, placement):
  """Parts of both objectives, side by side."""
  return jnp.concatenate(
    [parts(system, lowered, placement, goal) for goal in _GOALS], -1
  )


@functools.partial(jax.jit, static_argnums=0)
def _toward(parts, sides, placement, direction):
  """Parts, and how they change in a direction of the placement."""
  value = functools.partial(_time_and_energy, parts, *sides)
  return jax.jvp(value, (placement,), (direction,))


def _directions(placements):
  """From each placement toward another one."""
  rng = np.random.default_rng(2)
  return rng.dirichlet(np.ones(3), placements.shape[:-1]) - placements


def _assert_alike(found, expected):
  for quick, slow in zip(found, expected, strict=True):
    np.testing.assert_allclose(quick, slow, rtol=1e-9, atol=1e-9 * slow.max())


@pytest.mark.parametrize('name', _MACHINES)
def test_parts_and_slopes_are_those_of_predict(machines, placements, name, x64):
  at = machines[name], placements, _directions(placements)
  _assert_alike(_toward(unrolled.parts, *at), _toward(objective.parts, *at))


def test_cuts_and_bound_are_those_of_the_minorant(machines, placements, x64):
  """Cuts are made of the step time here, and the bound of the energy."""
  sides, toward = machines['h100-sxm'], _directions(placements)
  values, changes = _toward(minorant.minorant_parts, sides, placements, toward)
  values, changes = np.split(values, 2, -1), np.split(changes, 2, -1)

  cuts = jax.jit(unrolled_minorant.cuts, static_argnums=3)
  found = cuts(*sides, placements, _GOALS[0])
  moved = (found.slopes * toward[:, None]).sum((-2, -1))
  _assert_alike((found.parts, moved), (values[0], changes[0]))

  bound = jax.jit(unrolled_minorant.bound, static_argnums=3)
  found = bound(*sides, placements, _GOALS[1])
  moved = (found.slope * toward).sum((-2, -1))
  _assert_alike((found.value, moved), (values[1].sum(-1), changes[1].sum(-1)))


def test_the_sweep_values_the_greedy_placement(machines, x64):
  system, lowered = machines['h100-sxm']
  # A machine small enough that groups spill into two memories, and some into
  # none.
  system = system.with_values({
    'HBM.capacity_B': 9e9, 'DRAM.capacity_B': 2e9, 'SSD.capacity_B': 2e9,
  })  # fmt: skip
  spill = np.arange(_PLANS) % 2.0
  placed = greedy.place(system, lowered)
  found = _swept(system, lowered, Objective(), spill)
  overflow_B = np.asarray(placed.overflow_B)
  assert (overflow_B > 0).any() and (overflow_B == 0).any()
  np.testing.assert_allclose(found.overflow_B, overflow_B, rtol=1e-9, atol=1.0)
  spilled_B = (lowered.size_B * (1.0 - placed.placement[..., 0])).sum(-1)
  np.testing.assert_allclose(found.spilled_B, spilled_B, rtol=1e-9, atol=1.0)
  near = np.zeros_like(placed.placement)
  near[..., 0] = 1.0
  placement = np.where(spill[:, None, None] > 0, placed.placement, near)
  value = jax.jit(objective.parts, static_argnums=3)(
    system, lowered, placement, Objective()
  ).sum(-1)
  np.testing.assert_allclose(found.value, value, rtol=1e-9)


def test_everything_near_is_the_sweep_without_spill(machines, x64):
  system, lowered = machines['h100-sxm']
  goal = Objective()
  without = _swept(system, lowered, goal, None)
  _assert_alike(without, _swept(system, lowered, goal, np.zeros(_PLANS)))


def test_alike_groups_queue_by_name(machines, x64):
  system, lowered = machines['small']
  same = {
    name: np.ones_like(getattr(lowered, name)) * 1e9
    for name in ('group_read_B', 'group_write_B', 'size_B')
  }
  alike = dataclasses.replace(lowered, **same, fetch_B=0 * same['size_B'])
  system = system.with_values({'HBM.capacity_B': 2e9})
  shares, _ = jax.jit(unrolled_sweep.place)(system, alike)
  placed = jax.jit(greedy.place)(system, alike).placement
  np.testing.assert_allclose(
    np.moveaxis(shares, (0, 1), (2, 1)), placed, atol=1e-12
  )


def test_contention_is_left_to_predict(machines, placements):
  system, lowered = machines['small']
  tiers = tuple(
    dataclasses.replace(t, contended=t.name == 'DRAM') for t in system.tiers
  )
  crowded = dataclasses.replace(system, tiers=tiers)
  with pytest.raises(ValueError, match='DRAM has contention'):
    unrolled.parts(crowded, lowered, placements, Objective())


def test_a_near_memory_behind_a_link_is_left_to_predict(machines, placements):
  system, lowered = machines['small']
  machine = lowered.machine._replace(vias=('PCIe', 'PCIe', 'PCIe'))
  moved = dataclasses.replace(lowered, machine=machine)
  with pytest.raises(ValueError, match='HBM is behind a link'):
    unrolled.parts(system, moved, placements, Objective())
