"""Fronts against enumeration; certificates against every plan there is."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem import errors
from diffmem.planning.fronts import pareto, supply

METRICS = ('step_time_s', 'energy_per_token_J')


def _dominates(a, b) -> bool:
  return bool((a <= b).all() and (a < b).any())


@given(
  st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1),
)
@settings(max_examples=60, deadline=None)
def test_what_is_kept_is_what_nothing_dominates(points):
  costs = np.array(points, float)
  kept = pareto.non_dominated(costs)
  right = {tuple(a) for a in costs if not any(_dominates(b, a) for b in costs)}
  assert {tuple(a) for a in costs[kept]} == right
  assert kept.sum() == len(right)  # of equal ones, one


def _plans(seed: int, count: int = 60) -> np.ndarray:
  """Random plans [plan, 2] with a trade-off."""
  rng = np.random.default_rng(seed)
  angle = rng.uniform(0.05, 1.5, count)
  away = 1.0 + rng.exponential(0.3, count)
  return (
    np.stack([1e-2 * (2 - np.cos(angle)), 300 * (2 - np.sin(angle))], 1)
    * (away[:, None])
  )


def _maker(tables, loss=0.0):
  """Brute force over tables by chips; bounds are too low by `loss`."""

  def make(weights, chips):
    if chips not in tables:
      return None
    sums = tables[chips] @ [weights[m] for m in METRICS]
    best = tables[chips][np.argmin(sums)]
    plan = dict(zip(METRICS, best.tolist(), strict=True)) | {'extra': 7}
    return pareto.Answer([plan], float(sums.min()) * (1 - loss))

  return make


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.02]))
@settings(max_examples=25, deadline=None)
def test_a_front_holds_the_hull_and_its_bounds_hold(seed, loss):
  tables = {8: _plans(seed), 16: _plans(seed + 1) * [0.6, 1.3]}
  found = pareto.front(
    _maker(tables, loss), METRICS, (8, 16, 32), tolerance=0.0, searches=40
  )
  everything = np.concatenate(list(tables.values()))
  costs = np.array([[p.metrics[m] for m in METRICS] for p in found.points])
  assert (np.diff(costs[:, 0]) > 0).all() and (np.diff(costs[:, 1]) < 0).all()
  # No plan lies below the proven lines, nor beats a point by its slack.
  for x, y in everything:
    assert found.least(x) <= y * (1 + 1e-9)
  for point, cost in zip(found.points, costs, strict=True):
    better = everything / cost
    assert 1.0 - better.max(1).min() <= point.slack + 1e-9
  # Any weighted sum is least at a point of the front.
  for angle in np.linspace(0.02, 1.55, 40):
    weights = np.array([np.cos(angle) / 1e-2, np.sin(angle) / 300])
    best = (everything @ weights).min()
    assert (costs @ weights).min() <= best * (1 + 1e-9)
  assert found.least(0.0) == np.inf and found.least(1e9) > 0


def test_a_coarser_front_takes_fewer_searches():
  tables = {8: _plans(3, 500)}
  fine = pareto.front(_maker(tables), METRICS, [8], tolerance=0.0, searches=60)
  seen = []
  coarse = pareto.front(
    _maker(tables), METRICS, [8], tolerance=0.02, searches=60,
    on_progress=lambda *at: seen.append(at),
  )  # fmt: skip
  assert coarse.searched < fine.searched < 60 and seen == [(1, 1)]
  assert {p.metrics[METRICS[0]] for p in coarse.points} <= {
    p.metrics[METRICS[0]] for p in fine.points
  }
  assert 0 < coarse.knee < len(coarse.points) - 1
  assert coarse.points[0].metrics['extra'] == 7
  assert json.loads(json.dumps(coarse.to_dict()))['outcome'] == 'front'


def test_rates_count_as_their_reciprocals():
  def make(weights, chips):
    # More chips are faster but need more energy.
    plan = {'tokens_per_s': 100.0 * chips**0.8, METRICS[1]: chips**0.2}
    total = sum(w * pareto.cost_of(m, plan[m]) for m, w in weights.items())
    return pareto.Answer([plan], total)

  found = pareto.front(make, ('tokens_per_s', METRICS[1]), (1, 2, 4, 8))
  assert [p.chips for p in found.points] == [8, 4, 2, 1]
  assert all(p.slack < 1e-9 for p in found.points)
  assert found.searched == 8  # one plan each: nothing lies between
  assert found.outcome is pareto.FrontOutcome.FRONT


def test_one_plan_or_none():
  single = {8: np.array([[1.0, 2.0], [1.5, 2.5]])}
  one = pareto.front(_maker(single), METRICS, [8])
  assert one.outcome is pareto.FrontOutcome.ONE_POINT and one.knee is None
  none = pareto.front(_maker(single), METRICS, [3])
  assert none.outcome is pareto.FrontOutcome.NOTHING and none.points == ()
  assert none.least(1.0) == np.inf


def test_the_knee_is_farthest_below_the_chord():
  costs = np.array([[0.0, 10.0], [1.0, 2.0], [5.0, 1.0], [10.0, 0.0]])
  assert pareto.knee(costs) == 1
  assert pareto.knee(costs[:2]) is None
  assert pareto.knee(np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]])) is None


@pytest.mark.parametrize(
  ('metrics', 'chips', 'match'),
  [
    (('step_time_s', 'step_time_s'), [8], 'two different'),
    (('step_time_s', 'speed'), [8], "no metric 'speed'"),
    (METRICS, [], 'at least one'),
  ],
)
def test_bad_questions_say_what_was_expected(metrics, chips, match):
  with pytest.raises(errors.PlanError, match=match):
    pareto.front(_maker({}), metrics, chips)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_supply_never_gets_worse_and_its_bounds_hold(seed):
  rng = np.random.default_rng(seed)
  needs_B = rng.uniform(5e9, 200e9, 30)
  value = 1.0 + 50e9 / needs_B + rng.exponential(0.3, 30)

  def make(capacity_B, chips):
    fits = np.flatnonzero(needs_B <= capacity_B * chips / 8)
    if not len(fits):
      return None
    # A search that is not exact, with a bound that holds.
    rank = min(rng.integers(4), len(fits) - 1)
    pick = fits[np.argsort(value[fits])][rank]
    loss = rng.uniform(0.0, 0.2)
    return supply.Found(value[pick], value[fits].min() * (1 - loss), pick)

  grid_B = np.linspace(10e9, 220e9, 12)
  found = supply.supply_front(make, grid_B, [8, 16])
  for chips in (8, 16):
    points = [p for p in found.points if p.chips == chips]
    fits = [p for p in points if p.value is not None]
    assert [p.value for p in fits] == sorted(p.value for p in fits)[::-1]
    assert all(p.gain_per_GB >= 0 for p in fits[:-1])
    for p in points:
      best = value[needs_B <= p.capacity_B * chips / 8].min(initial=np.inf)
      assert p.bound is None or p.bound <= best
      if p.value is not None:
        assert p.value >= best
  front = [p for p in found.points if p.on_front]
  order = sorted(front, key=lambda p: p.fleet_B)
  assert [p.value for p in order] == sorted(p.value for p in order)[::-1]
  assert json.dumps(found.to_dict()['points'][0]['value']) is not None


def test_supply_says_where_more_brings_less():
  def make(capacity_B, chips):
    value = 1.0 + max(0.0, 40e9 - capacity_B) / 10e9
    return supply.Found(value, value) if capacity_B >= 20e9 else None

  found = supply.supply_front(make, [10e9, 20e9, 30e9, 40e9, 80e9], [8])
  assert found.points[0].value is None and found.points[0].bound == 3.0
  assert found.points[1].gain_per_GB == pytest.approx(0.1)
  assert found.points[3].gain_per_GB == 0.0
  assert 'least that fits is 20 GB' in found.help
  none = supply.supply_front(make, [1e9], [8])
  assert none.knee is None and 'nothing fits' in none.help
  assert none.points[0].bound is None
  with pytest.raises(errors.PlanError, match='more than 0'):
    supply.supply_front(make, [-1.0], [8])
