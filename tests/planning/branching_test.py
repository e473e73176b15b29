"""Boxes of written shares: rows, minorants in them, bounds, refinement."""

import dataclasses

import jax
import numpy as np
import pytest

from diffmem.planning import branching, cutting_planes, minorant, model
from diffmem.planning.objective import Objective

TIME = Objective()
LAWS = {
  'turnaround': {'HBM.mixed_Bps': 5e11, 'SSD.mixed_Bps': 1e9},
  'bends': {'DRAM.bend_read': -0.8, 'DRAM.bend_write': 0.9},
  'contention': {
    'HBM.latency_s': 2e-3, 'DRAM.latency_s': 2e-2, 'SSD.latency_s': 2e-2,
  },
  'no overlap': {
    'system.overlap_p': 0.7, 'HBM.queue_p': 0.6, 'SSD.latency_s': 2e-2,
  },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def _system(make_system, law):
  system = make_system(**LAWS[law])
  memories = ('HBM', 'DRAM', 'SSD') if law == 'contention' else ()
  tiers = tuple(
    dataclasses.replace(t, contended=t.name in memories) for t in system.tiers
  )
  return dataclasses.replace(system, tiers=tiers)


def _described(system, lowered):
  low, high, *moved = jax.device_get(branching._described(system, lowered))
  return minorant.Box(low, high), branching._Moved(*moved)


def _box_around(whole, share, width):
  low = np.clip(share - width / 3, whole.low, whole.high)
  return minorant.Box(low, np.clip(share + width, low, whole.high))


def test_shares_stay_within_reach_and_touch_its_ends(system, make_instance):
  rng = np.random.default_rng(0)
  for seed in range(8):
    lowered = make_instance(seed)
    whole, moved = _described(system, lowered)
    at = rng.dirichlet([0.3] * 3, (500, 3))
    corners = np.eye(3)[rng.integers(3, size=(500, 3))]
    shares = np.array([moved.shares(x) for x in (*at, *corners)])
    # Where nothing is written, nothing may move at all.
    assert ((shares >= whole.low - 1e-12) | (shares == 0)).all()
    assert (shares <= whole.high + 1e-12).all()
    # The near memory's ends are reached with whole groups.
    near = system.tier_names.index('HBM')
    np.testing.assert_allclose(shares[..., near].max(0), whole.high[:, near])
    np.testing.assert_allclose(shares[..., near].min(0), whole.low[:, near])


def test_rows_are_the_box(system, make_instance):
  rng = np.random.default_rng(1)
  inside = 0
  for seed in range(8):
    whole, moved = _described(system, make_instance(seed))
    at = rng.dirichlet([0.5] * 3, (200, 3))
    box = _box_around(
      whole, moved.shares(at[0]), 0.3 * (whole.high - whole.low)
    )
    ranges = moved.ranges(box, whole)
    for x in at:
      share = moved.shares(x)
      total_B = (
        moved.read_B + moved.write_B
        + ((moved.per_read_B + moved.per_write_B) * x).sum((-2, -1))
      )  # fmt: skip
      within = (share >= box.low - 1e-9) & (share <= box.high + 1e-9)
      excess = (ranges.per_share * x).sum((1, 2)) - ranges.limit
      assert (excess <= 1e-9).all() == within[total_B > 0].all()
      inside += within.all()
  assert inside >= 8


@pytest.mark.parametrize('law', LAWS)
def test_minorant_of_a_box_is_below_in_it_and_close(
  make_system, make_instance, law
):
  system = _system(make_system, law)
  rng = np.random.default_rng(2)
  missing = {1.0: [], 0.05: []}
  for seed in range(4):
    lowered = make_instance(seed)
    whole, moved = _described(system, lowered)
    for width, found in missing.items():
      x = rng.dirichlet([0.7] * 3, 3)
      box = _box_around(
        whole, moved.shares(x), width * (whole.high - whole.low)
      )
      ranges = moved.ranges(box, whole)
      for y in (x, *(x + 0.1 * width * (rng.dirichlet([1] * 3, (6, 3)) - x))):
        if ((ranges.per_share * y).sum((1, 2)) > ranges.limit).any():
          continue
        cut = model.cut(system, lowered, y, TIME, box)
        assert cut.parts.sum() <= cut.value * (1 + 1e-12)
        assert (cut.missing >= -1e-9 * cut.value).all()
        found.append(1 - cut.parts.sum() / cut.value)
  assert max(missing[0.05]) <= 3e-3
  assert max(missing[1.0]) > 3 * max(missing[0.05])


def _solved(system, lowered):
  need_B = lowered.size_B.sum() + lowered.fixed_B + lowered.fetch_B.sum()
  limits = cutting_planes.limits_of(lowered, need_B * np.array([0.4, 0.4, 1.0]))
  start = np.zeros((3, 3))
  start[:, 2] = 1.0
  return limits, cutting_planes.solve(system, lowered, limits, start, TIME)


def test_any_multipliers_bound_what_is_in_the_box(make_system, make_instance):
  system = _system(make_system, 'turnaround')
  lowered = make_instance(0)
  limits, solution = _solved(system, lowered)
  whole, moved = _described(system, lowered)
  rng = np.random.default_rng(3)
  at = rng.dirichlet([0.5] * 3, (400, 3))
  at = at[limits.holds(at)]
  box = _box_around(whole, moved.shares(at[0]), 0.4 * (whole.high - whole.low))
  ranges = moved.ranges(box, whole)
  excess = np.einsum('rgm,xgm->xr', ranges.per_share, at) - ranges.limit
  at = at[(excess <= 0).all(1)]
  values = model.figures(system, lowered, at, TIME, 1).value
  bounds = []
  for _ in range(50):
    on_cuts = rng.exponential(size=solution.planes.offsets.shape)
    on_cuts *= rng.integers(2, size=on_cuts.shape)
    prices = rng.exponential(size=3) * solution.value / limits.room_B / 10
    on_ranges = rng.exponential(size=len(ranges.limit)) * solution.value / 10
    bounds.append(
      cutting_planes.dual_bound(
        solution.planes, on_cuts, prices, limits, ranges, on_ranges
      )
    )
  assert len(values) and max(bounds) <= values.min() * (1 + 1e-12)
  assert max(bounds) > 0


def test_refinement_goes_as_far_as_it_may(make_system, make_instance):
  system = _system(make_system, 'turnaround')
  for seed in range(12):
    lowered = make_instance(seed)
    limits, solution = _solved(system, lowered)
    if solution.gap > 0.01:
      break

  def refine(target_gap, seconds):
    return branching.refine(
      system, lowered, limits, solution, TIME, target_gap, seconds
    )

  assert refine(solution.gap, 60.0).nodes == 0
  hurried = refine(1e-4, 0.0)
  rough, fine = refine(5e-3, 60.0), refine(1e-4, 60.0)
  assert rough.solution.gap <= 5e-3 and fine.solution.gap <= 1e-4
  assert hurried.nodes == 1 and rough.nodes <= fine.nodes
  for found in (hurried, rough, fine):
    assert found.solution.bound >= solution.bound
    assert found.solution.value <= solution.value
    # No bound is above what another run reached.
    assert found.solution.bound <= fine.solution.value * (1 + 1e-12)
    np.testing.assert_array_equal(found.solution.prices, solution.prices)
