"""The serving planner against plain loops, its limits, and its refusals."""

import itertools
import json
import math

import jax
import numpy as np
import pytest

from diffmem import errors
from diffmem.cost import predict_jit
from diffmem.planning import greedy as greedy_lib
from diffmem.planning.serving import plan as serving
from diffmem.planning.serving import pools as serving_pools
from diffmem.planning.serving import search as search_lib
from diffmem.planning.serving import space as serving_space
from diffmem.planning.serving import tables as tables_lib
from diffmem.planning.serving.plan import plan_serving
from diffmem.planning.serving.pools import Demand
from diffmem.planning.serving.result import ServingOutcome, serving_table
from diffmem.planning.serving.search import Goal
from diffmem.workloads import Choices, Decoding, demand, lower_decode
from diffmem.workloads.decode import Idle

CHIPS, FEW, MODES = 8, 4, ('aggregated', 'disaggregated')
LENGTHS = {'input_len': 1000, 'output_len': 100}
LIMITS = Demand(100, 0.5, 0.02, 0.9)
SIZES = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 96.0, 128.0])


@pytest.fixture(scope='module', autouse=True)
def _coarse():
  """A coarse grid: the search is the same, and quick."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(serving_space, 'batch_sizes', lambda: SIZES)
    patch.setattr(serving_space, 'CHUNKS', (256,))
    patch.setattr(serving_space, 'PROMPTS', (1, 4))
    patch.setattr(serving_space, '_BATCH', 512)
    yield


@pytest.fixture(scope='module')
def job(system, moe):
  machine = serving.serving_machine(system, moe)
  return serving_space.Job(moe, machine, 1000, 100, 0)


@pytest.fixture(scope='module')
def tables(system, job):
  """Steps of very few batches, so that loops can go over all fleets."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(serving_space, 'batch_sizes', lambda: SIZES[[0, 5]])
    loose = LIMITS._replace(ttft_s=2.0, tpot_s=0.1)
    return tables_lib.tables_of(system, job, FEW, loose, MODES)


@pytest.fixture(scope='module')
def plan(system, moe):
  """Plans, made once for each request."""
  made = {}

  def make(**given):
    key = tuple(sorted(given.items()))
    if key not in made:
      given = {'chips': CHIPS, 'top': 2, **LENGTHS, **given}
      made[key] = plan_serving(system, moe, **given)
    return made[key]

  return make


def test_workers_are_all_legal_ones(job):
  found = serving_space.workers_of(job.model, job.machine, CHIPS)
  listed = {
    tuple(int(found.choices[n][i]) for n in found.choices)
    for i in range(len(found))
  }
  assert len(listed) == len(found)
  expected = set()
  for t, e in itertools.product([1, 2, 4, 8], [1, 2, 4, 8]):
    # Sixteen heads and experts, all of them powers of two: nothing straddles.
    kinds = [[0, 1] if t > 1 else [0]] * 3
    if t * e <= CHIPS:
      for a, m, x in itertools.product(*kinds):
        if 16 % (e * (t if x else 1)) == 0:
          expected.add((t, e, a, m, x))
  assert listed == expected


def test_steps_are_those_of_the_planner(system, job, tables):
  row = int(np.argmax(tables.decode.sequences))
  chosen = {
    n: float(v[tables.decode.worker[row]])
    for n, v in tables.workers.choices.items()
  }
  decoding = Decoding(float(tables.decode.sequences[row]), job.context)
  lowered = jax.jit(lower_decode, static_argnums=(0, 1, 3))(
    job.model, decoding, Choices.of(**chosen), job.machine
  )
  cost = predict_jit(system, demand(system, lowered, lowered.near_placement()))
  assert tables.decode_steps.least_s[row] == pytest.approx(
    float(cost.time_s.sum()), rel=1e-4
  )
  assert (
    tables.decode_steps.time_s >= tables.decode_steps.least_s * (1 - 1e-6)
  ).all()


def test_factors_scale_what_they_name(system, job, tables):
  factors = tables_lib.Factors(prefill=1.5, decode=1.2)
  loose = LIMITS._replace(ttft_s=9.0, tpot_s=9.0)
  plain, slower = (
    tables_lib.tables_of(system, job, 1, loose, MODES, f)
    for f in (tables_lib.PLAIN, factors)
  )
  before, after = plain.decode_steps.time_s, slower.decode_steps.time_s
  np.testing.assert_allclose(after, 1.2 * before)
  np.testing.assert_allclose(
    slower.prefill_steps.time_s, 1.5 * plain.prefill_steps.time_s
  )
  added_s = plain.mixed_steps.time_s - before[plain.mixed_of]
  np.testing.assert_allclose(
    slower.mixed_steps.time_s,
    after[plain.mixed_of] + 1.5 * np.maximum(added_s, 0.0),
  )


def _rate_of(point_at, limits):
  """The highest rate by plain bisection."""
  low, high = 0.0, 1e4
  for _ in range(60):
    middle = 0.5 * (low + high)
    point = point_at(middle)
    good = point.ttft_s <= limits.ttft_s and point.tpot_s <= limits.tpot_s
    low, high = (middle, high) if good else (low, middle)
  return low


def _all_fleets(tables, limits):
  """(chips, kind, function of the rate) of every fleet, one by one."""
  mixed = tables_lib.mixed_of(tables)
  for row in range(len(mixed.chips)):
    one = mixed.select(row)
    for n in range(1, int(FEW // one.chips) + 1):
      yield (
        n * one.chips,
        lambda rate, one=one, n=n: serving_pools.mixed_point(
          one, float(n), rate, limits
        ),
      )
  pairs = itertools.product(
    range(len(tables.prefill.worker)), range(len(tables.decode.worker))
  )
  before, after = np.array(list(pairs)).T
  split = tables_lib.split_of(tables, before, after)
  for i in np.flatnonzero(split.step_s <= limits.tpot_s):
    one = split.select(i)
    for p in range(1, FEW):
      left = FEW - p * one.prefill_chips
      for d in range(1, int(left // one.decode_chips) + 1):
        yield (
          p * one.prefill_chips + d * one.decode_chips,
          lambda rate, one=one, p=p, d=d: serving_pools.split_point(
            one, float(p), float(d), rate, limits
          ),
        )


def test_the_search_finds_what_loops_find(tables):
  limits = LIMITS._replace(ttft_s=0.2)
  rng = np.random.default_rng(0)
  fleets = list(_all_fleets(tables, limits))
  assert len(fleets) > 500
  goal = Goal('tokens_per_s', None, FEW, 1)
  found = search_lib.search(tables, limits, goal, MODES)
  best = found.found[0]
  assert best.value <= found.ceiling
  # No fleet serves a little more than the best one, and one serves as much.
  slightly = best.rate_per_s * (1 + 1e-4)
  for _, at in fleets:
    point = at(slightly)
    assert point.ttft_s > limits.ttft_s or point.tpot_s > limits.tpot_s
  some = [fleets[i] for i in rng.integers(0, len(fleets), 5)]
  for chips, at in some:
    assert _rate_of(at, limits) <= best.rate_per_s * (1 + 1e-5)
    assert chips <= FEW
  # The fewest chips for half of that rate.
  goal = goal._replace(rate_per_s=0.5 * best.rate_per_s)
  fewest = search_lib.search(tables, limits, goal, MODES).found[0]
  served = [
    chips
    for chips, at in fleets
    if serving_pools.keeps(at(goal.rate_per_s), limits)
  ]
  assert math.floor(-fewest.value) == min(served)


def test_plans_keep_their_limits_and_their_chips(plan):
  found = plan(ttft_s=0.3, tpot_s=0.02)
  assert found.outcome is ServingOutcome.PLANNED
  rates = [p.predicted['requests_per_s'] for p in found.plans]
  assert rates == sorted(rates, reverse=True)
  for one in found.plans:
    p = one.predicted
    assert p['ttft_s'] <= 0.3 * (1 + 1e-9) and p['tpot_s'] <= 0.02
    used = sum(pool.workers * pool.chips for pool in one.pools.values())
    assert used == p['chips'] <= CHIPS
    assert set(one.pools) in ({'serve'}, {'prefill', 'decode'})
    assert p['tokens_per_s'] == pytest.approx(100 * p['requests_per_s'])
    for pool in one.pools.values():
      assert pool.memory_bytes['HBM'] <= 0.9 * 8e9 * (1 + 1e-6)
      assert np.prod(list(pool.mesh.values())) == pool.chips
      for shares in pool.placement.values():
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
  assert found.search.ceiling >= rates[0]
  assert found.search.gap == pytest.approx(1 - rates[0] / found.search.ceiling)
  assert set(found.binds) <= {'ttft_s', 'tpot_s'}
  assert json.loads(found.to_json())['plans'][0]['mode'] in MODES
  table = serving_table(found)
  assert len(table) == 1 + len(found.plans)
  assert all(len(row) == len(table[0]) for row in table)


def test_looser_limits_are_never_worse(plan):
  def rate(**given):
    return plan(**given).plans[0].predicted['requests_per_s']

  tight = rate(ttft_s=0.3, tpot_s=0.02)
  slow, late = rate(ttft_s=0.3, tpot_s=0.04), rate(ttft_s=0.6, tpot_s=0.02)
  assert tight <= min(slow, late) * (1 + 1e-6)
  # One way of serving alone is no better than the better of both.
  alone = [rate(ttft_s=0.3, tpot_s=0.02, mode=mode) for mode in MODES]
  assert max(alone) == pytest.approx(tight, rel=1e-6)
  # Prompts that are cached, and a slower engine.
  assert rate(ttft_s=0.3, tpot_s=0.02, prefix_hit=0.5) > tight
  slower = {'prefill_factor': 1.5, 'decode_factor': 1.2}
  assert rate(ttft_s=0.3, tpot_s=0.02, **slower) < tight


def test_a_rate_is_served_by_the_fewest_chips(plan):
  limits = {'ttft_s': 0.3, 'tpot_s': 0.02}
  most = plan(**limits).plans[0].predicted['requests_per_s']
  found = plan(**limits, requests_per_s=0.3 * most)
  best = found.plans[0].predicted
  assert best['chips'] < CHIPS
  assert best['requests_per_s'] == pytest.approx(0.3 * most)
  assert found.search.ceiling <= best['chips']
  # Fewer chips cannot.
  fewer = plan(
    **limits, requests_per_s=0.3 * most, chips=int(best['chips']) - 1
  )
  assert fewer.outcome is ServingOutcome.TOO_MUCH
  assert 0 < fewer.limit['requests_per_s'] < 0.3 * most
  assert 'chips' in fewer.help and 'requests/s' in fewer.help


def test_energy_and_cost(plan):
  limits = {'ttft_s': 0.3, 'tpot_s': 0.02}
  quick = plan(**limits).plans[0].predicted
  frugal = plan(**limits, objective='energy_per_token_J')
  joules = frugal.plans[0].predicted['energy_per_token_J']
  assert joules <= quick['energy_per_token_J'] * (1 + 1e-6)
  assert frugal.search.ceiling <= joules
  cheap = plan(**limits, objective='cost_per_token_usd', usd_per_chip_hour=3.6)
  p = cheap.plans[0].predicted
  expected = p['chips'] * 3.6 / 3600 / p['tokens_per_s']
  assert p['cost_per_token_usd'] == pytest.approx(expected)
  assert p['requests_per_s'] / p['chips'] >= (
    quick['requests_per_s'] / quick['chips'] * (1 - 1e-6)
  )


def test_what_is_out_of_reach_says_what_would_do(plan):
  found = plan(ttft_s=0.3, tpot_s=1e-4)
  assert found.outcome is ServingOutcome.TOO_SLOW and not found.plans
  least_s = found.limit['tpot_s']
  assert least_s > 1e-4 and 'per further token' in found.help
  served = plan(ttft_s=0.3, tpot_s=1.0001 * least_s)
  assert served.outcome is ServingOutcome.PLANNED
  found = plan(ttft_s=1e-3, tpot_s=0.02)
  least_s = found.limit['ttft_s']
  assert 'first token' in found.help
  served = plan(ttft_s=1.0001 * least_s, tpot_s=0.02)
  assert served.outcome is ServingOutcome.PLANNED


def test_nothing_fits(make_system, moe):
  memories = ('HBM', 'DRAM', 'SSD')
  tiny = make_system(**{f'{name}.capacity_B': 1e8 for name in memories})
  found = plan_serving(tiny, moe, chips=4, **LENGTHS)
  assert found.outcome is ServingOutcome.NO_MEMORY
  # Four chips, a quarter of 3.4 GB each, where 270 MB may be filled.
  weights_B = 2 * moe.parameters().total
  lacking_B = found.limit['overflow_B']
  assert weights_B / 4 - 0.27e9 < lacking_B < weights_B / 2
  assert 'lacks' in found.help
  json.loads(found.to_json())


def test_weights_that_do_not_fit_near_are_placed(make_system, moe):
  small = make_system(**{'HBM.capacity_B': 2.5e9})
  found = plan_serving(small, moe, chips=1, top=1, tpot_s=1.0, **LENGTHS)
  (pool,) = found.plans[0].pools.values()
  away = sum(1.0 - shares['HBM'] for shares in pool.placement.values())
  assert away > 0.0 and pool.memory_bytes['DRAM'] > 0
  assert pool.memory_bytes['HBM'] <= 0.9 * 2.5e9 * (1 + 1e-6)
  assert 0.0 <= pool.certified_gap < 1.0
  rate = found.plans[0].predicted['requests_per_s']
  assert 0 < rate <= found.search.ceiling


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'chips': 0}, 'chips = 0.*at least 1; the nearest is 1'),
    ({'output_len': 1}, 'output_len = 1.*at least 2; the nearest is 2'),
    ({'input_len': 9000}, 'nearest input_len is 8092'),
    ({'percentile': 1.0}, 'percentile = 1.0.*nearest is 0.999'),
    ({'prefix_hit': 1.0}, 'prefix_hit = 1.0.*nearest is 0.999'),
    ({'tpot_s': -1.0}, 'tpot_s = -1.0: expected more than 0'),
    ({'mode': 'split'}, 'no mode'),
    ({'objective': 'energy_per_token'}, "mean 'energy_per_token_J'"),
    ({'objective': 'cost_per_token_usd'}, 'needs usd_per_chip_hour'),
  ],
)
def test_arguments_are_checked(system, moe, given, message):
  with pytest.raises(errors.PlanError, match=message):
    plan_serving(system, moe, **{'chips': CHIPS, **LENGTHS, **given})


def test_the_engine_is_that_of_the_weights(system, moe):
  assert serving.serving_machine(system, moe).engine == 'matrix:bfloat16'
  assert serving.serving_machine(system, moe).spans == (4, 64)


def test_silent_sessions_leave_the_near_memory_first(system, moe):
  decoding = Decoding(64, 1000, idle=(Idle(1e6, 0.5), Idle(1e6)))
  lowered = jax.jit(lower_decode, static_argnums=(0, 1, 3))(
    moe, decoding, Choices.of(), serving.serving_machine(system, moe)
  )
  placed = jax.jit(greedy_lib.place)(system, lowered).placement[:, 0]
  near = dict(zip(lowered.groups, placed.tolist(), strict=True))
  # 8 GB of each class, of which some of the first have room beside the rest.
  assert near['kv_cache'] == near['attention_weights'] == 1.0
  assert 0.0 < near['kv_idle_0'] < 1.0
  assert near['kv_idle_1'] == 0.0
