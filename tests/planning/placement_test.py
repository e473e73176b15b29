"""Minorant, cutting planes, greedy and rounding against brute force."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from diffmem.planning import cutting_planes, model, rounding
from diffmem.planning import greedy as greedy_lib
from diffmem.planning.objective import Objective

TIME = Objective()
SEEDS = range(6)

_place = jax.jit(greedy_lib.place)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def _simplex(parts, pieces):
  """All ways to deal out `pieces` over `parts`, as shares."""
  counts = itertools.product(range(pieces + 1), repeat=parts)
  return np.array([c for c in counts if sum(c) == pieces]) / pieces


def _values(system, lowered, placements):
  return model.figures(system, lowered, placements, TIME, 1).value


def _room_B(seed, lowered):
  """Rooms that hold everything, though not in the near memory."""
  rng = np.random.default_rng(100 + seed)
  total_B = lowered.size_B.sum() + lowered.fixed_B + lowered.fetch_B.sum()
  return total_B * np.array([rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.5), 1.0])


def _solved(system, lowered, room_B, **options):
  limits = cutting_planes.limits_of(lowered, room_B)
  sized = system.with_values(
    {
      f'{name}.capacity_B': room / lowered.machine.usable
      for name, room in zip(lowered.machine.memories, room_B, strict=True)
    }
  )
  greedy = np.asarray(_place(sized, lowered).placement)
  assert limits.holds(greedy)
  np.testing.assert_allclose(greedy.sum(1), 1.0)
  solution = cutting_planes.solve(
    system, lowered, limits, greedy, TIME, **options
  )
  return limits, greedy, solution


@pytest.mark.parametrize('seed', SEEDS)
def test_certificate_against_brute_force(system, make_instance, seed):
  lowered = make_instance(seed)
  limits, greedy, solution = _solved(system, lowered, _room_B(seed, lowered))
  one = _simplex(3, 6)
  grid = np.array(list(itertools.product(one, repeat=3)))
  grid = grid[limits.holds(grid)]
  rng = np.random.default_rng(seed)
  grid = grid[rng.permutation(len(grid))[:1000]]
  least = _values(system, lowered, grid).min()
  assert limits.holds(solution.placement)
  assert solution.bound <= least * (1 + 1e-9)
  # No point of the grid is better than the solution.
  assert solution.value <= least * (1 + 2e-4)
  assert solution.bound <= solution.value
  # The turnaround term costs some of the certificate, never its truth.
  assert solution.gap < 0.02
  value = _values(system, lowered, greedy[None])[0]
  assert solution.value <= value * (1 + 1e-12)


def test_greedy_is_beaten_somewhere(system, make_instance):
  ratios = []
  for seed in SEEDS:
    lowered = make_instance(seed)
    _, greedy, solution = _solved(system, lowered, _room_B(seed, lowered))
    ratios.append(_values(system, lowered, greedy[None])[0] / solution.value)
  assert max(ratios) > 1.05


def test_gap_closes_where_all_laws_are_convex(make_system, make_instance):
  # Without the turnaround term the minorant is the model.
  system = make_system(**{'HBM.mixed_Bps': 1e30, 'SSD.mixed_Bps': 1e30})
  for seed in SEEDS:
    lowered = make_instance(seed)
    _, _, solution = _solved(system, lowered, _room_B(seed, lowered))
    assert solution.gap <= 1.01 * cutting_planes.TARGET_GAP


def test_prices_are_the_slopes_of_the_optimum(make_system, make_instance):
  system = make_system(**{'HBM.mixed_Bps': 1e30, 'SSD.mixed_Bps': 1e30})
  checked = 0
  for seed in (0, 1, 4):
    lowered = make_instance(seed)
    room_B = _room_B(seed, lowered)
    at = _solved(system, lowered, room_B, target_gap=1e-7)[2]
    assert (at.prices >= 0).all()
    for memory in range(2):
      step = np.zeros(3)
      step[memory] = 2e-3 * room_B[memory]
      more, less = (
        _solved(system, lowered, room_B + s, target_gap=1e-7)[2].value
        for s in (step, -step)
      )
      slope = (less - more) / (2 * step[memory])
      scale = at.value / room_B[memory]
      assert at.prices[memory] == pytest.approx(
        slope, rel=0.05, abs=2e-3 * scale
      )
      checked += slope > 0.05 * scale
  assert checked >= 2


CURVED = {
  'linear': {},
  'turnaround': {'HBM.mixed_Bps': 5e11, 'SSD.mixed_Bps': 1e9},
  'bends': {'DRAM.bend_read': -0.8, 'DRAM.bend_write': 0.9},
  'bends back': {'DRAM.bend_read': 0.9, 'DRAM.bend_write': -0.8},
  'knee': {
    'HBM.bend_queue': 0.9, 'DRAM.bend_queue': 1.0, 'SSD.bend_queue': -1.0,
    'HBM.latency_s': 2e-3, 'DRAM.latency_s': 2e-2, 'SSD.latency_s': 2e-2,
  },
  'contention': {
    'contended': ('HBM', 'DRAM', 'SSD'), 'HBM.latency_s': 2e-3,
    'DRAM.latency_s': 2e-2, 'SSD.latency_s': 2e-2,
  },
  'no overlap': {
    'system.overlap_p': 0.7, 'system.link_overlap_p': 0.8, 'HBM.queue_p': 0.6,
  },
}  # fmt: skip


@pytest.mark.parametrize('case', CURVED)
def test_minorant_is_below_and_convex(make_system, make_instance, case):
  changes = dict(CURVED[case])
  contended = changes.pop('contended', ())
  system = make_system(**changes)
  tiers = [
    dataclasses.replace(t, contended=t.name in contended) for t in system.tiers
  ]
  system = dataclasses.replace(system, tiers=tuple(tiers))
  rng = np.random.default_rng(7)
  slack = []
  for seed in (*SEEDS, *SEEDS):
    lowered = make_instance(seed)
    x, y = rng.dirichlet([0.4] * 3, (2, 3))
    ends = [model.cut(system, lowered, p, TIME) for p in (x, y)]
    middle = model.cut(system, lowered, 0.5 * (x + y), TIME)
    for cut in (*ends, middle):
      assert cut.parts.sum() <= cut.value * (1 + 1e-12)
      slack.append(1 - cut.parts.sum() / cut.value)
    # Convex, and supported by its slopes.
    assert (
      middle.parts <= 0.5 * (ends[0].parts + ends[1].parts) * (1 + 1e-9)
    ).all()
    plane = ends[0].parts + (ends[0].slopes * (y - x)).sum((1, 2))
    assert (plane <= ends[1].parts * (1 + 1e-9) + 1e-15).all()
  if case != 'linear':
    assert max(slack) > 1e-3  # the case does test something


@pytest.mark.parametrize('seed', SEEDS)
def test_rounding_against_all_whole_placements(system, make_instance, seed):
  lowered = make_instance(seed)
  limits, _, solution = _solved(system, lowered, _room_B(seed, lowered))
  one = _simplex(3, 3)
  whole = np.array(list(itertools.product(one, repeat=3)))
  whole = whole[limits.holds(whole)]
  least = _values(system, lowered, whole).min()
  rounded = rounding.round_placement(system, lowered, limits, solution, TIME)
  placement, value = rounded
  assert limits.holds(placement)
  np.testing.assert_allclose(placement * 3, np.round(placement * 3))
  assert value == pytest.approx(
    _values(system, lowered, placement[None])[0], rel=1e-9
  )
  assert least * (1 - 1e-9) <= value <= least * 1.02
  assert value >= solution.bound


def test_no_room_for_whole_pieces(system, make_instance):
  lowered = make_instance(1)
  # All rooms together hold the groups, but none takes two thirds of the last.
  room_B = lowered.size_B.sum() * np.array([0.55, 0.3, 0.2]) + 1.1e9
  limits, _, solution = _solved(system, lowered, room_B)
  piece_B = limits.weight_B / 3
  one = _simplex(3, 3)
  whole = np.array(list(itertools.product(one, repeat=3)))
  fits = limits.holds(whole).any()
  found = rounding.round_placement(system, lowered, limits, solution, TIME)
  assert (found is not None) == fits
  tight = limits._replace(room_B=0.99 * piece_B.min(0))
  assert (
    rounding.round_placement(system, lowered, tight, solution, TIME) is None
  )
