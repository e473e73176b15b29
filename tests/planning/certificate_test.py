"""The certificate against brute force, on instances small enough for it."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from diffmem.planning import (
  branching,
  cutting_planes,
  model,
  rounding,
)
from diffmem.planning import greedy as greedy_lib
from diffmem.planning import objective as objective_lib
from diffmem.planning.objective import Objective

TIME = Objective()
INSTANCES = 50
PIECES = 4.0
TARGET_GAP = 1e-3
SPACES = 2
_BATCH = 4096
# Systems of one structure, all but the first with laws that are not convex.
LAWS = (
  {'HBM.mixed_Bps': 1e30, 'SSD.mixed_Bps': 1e30},
  {},
  {'HBM.mixed_Bps': 5e11, 'SSD.mixed_Bps': 1e9},
  {'DRAM.bend_read': -0.8, 'DRAM.bend_write': 0.9},
  {'HBM.bend_queue': 0.9, 'DRAM.bend_queue': 1.0, 'SSD.bend_queue': -1.0,
   'HBM.latency_s': 2e-3, 'DRAM.latency_s': 2e-2, 'SSD.latency_s': 2e-2},
)  # fmt: skip

_place = jax.jit(greedy_lib.place)


def _values_of(system, lowered, placements):
  """Minimised sum of many plans, or of one plan many times."""
  return objective_lib.parts(
    system, lowered, placements, TIME.weights
  ).sum(-1)  # fmt: skip


_of_one = jax.jit(
  jax.vmap(_values_of, (None, None, 0)), compiler_options=model.QUICK
)
_of_many = jax.jit(_values_of, compiler_options=model.QUICK)
_lowered = jax.jit(model.lower, static_argnums=0)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def _deals(parts, pieces):
  """All ways to deal out `pieces` over `parts`, as shares."""
  counts = itertools.product(range(int(pieces) + 1), repeat=parts)
  return np.array([c for c in counts if sum(c) == pieces]) / pieces


def _all_whole(units, memories):
  """All placements in whole pieces [placement, group, memory]."""
  deals = [_deals(memories, pieces) for pieces in units]
  return np.array(list(itertools.product(*deals)))


class _Compared:
  """One random instance, solved and tried out."""

  def __init__(self, make_system, make_instance, seed):
    rng = np.random.default_rng(3000 + seed)
    system = make_system(**LAWS[seed % len(LAWS)])
    lowered = dataclasses.replace(
      make_instance(seed), units=np.full(3, PIECES)
    )  # fmt: skip
    need_B = lowered.size_B.sum() + lowered.fixed_B + lowered.fetch_B.sum()
    room_B = need_B * np.array(
      [rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.5), 1]
    )
    limits = cutting_planes.limits_of(lowered, room_B)
    rooms = zip(lowered.machine.memories, room_B, strict=True)
    sized = system.with_values(
      {f'{m}.capacity_B': room / lowered.machine.usable for m, room in rooms}
    )
    greedy = np.asarray(_place(sized, lowered).placement)
    self.solved = cutting_planes.solve(system, lowered, limits, greedy, TIME)
    refined = branching.refine(
      system, lowered, limits, self.solved, TIME, TARGET_GAP, seconds=60.0
    )
    self.limits, self.refined = limits, refined.solution
    self.rounded = rounding.round_whole(
      system, lowered, limits, self.refined, TIME
    )
    whole = _all_whole(lowered.units, 3)
    values = np.asarray(_of_one(system, lowered, whole))
    self.least = np.where(limits.holds(whole), values, np.inf).min()


@pytest.fixture(scope='module')
def compared(make_system, make_instance):
  with jax.enable_x64(True):
    return [
      _Compared(make_system, make_instance, seed) for seed in range(INSTANCES)
    ]


def test_no_placement_is_below_a_bound(compared):
  for one in compared:
    assert one.refined.bound <= one.least * (1 + 1e-12)
    assert one.rounded.bound <= one.least * (1 + 1e-9)
    assert one.refined.bound >= one.solved.bound
    assert one.limits.holds(one.refined.placement)


def test_gaps_close(compared):
  before = [one.solved.gap for one in compared]
  assert sum(gap > TARGET_GAP for gap in before) >= 10
  assert all(one.refined.gap <= TARGET_GAP for one in compared)
  assert all(one.refined.value <= one.solved.value for one in compared)
  # Of whole pieces too.
  assert all(
    one.rounded.value - one.rounded.bound <= TARGET_GAP * one.rounded.value
    for one in compared
  )


def test_rounded_placements_are_the_best_whole_ones(compared):
  off = np.array([one.rounded.value / one.least - 1.0 for one in compared])
  assert (off >= -1e-9).all() and (off <= 1e-3).all()
  assert (off <= 1e-9).sum() >= INSTANCES - 2
