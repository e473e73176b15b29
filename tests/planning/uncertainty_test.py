"""Decisions under an ensemble: enumeration, closed forms and coverage."""

import json

import numpy as np
import pytest
from scipy import stats

from diffmem import errors
from diffmem.planning.decisions import information
from diffmem.planning.decisions.decision import DecisionOutcome
from diffmem.planning.decisions.measurements import grouped, measurement_of
from diffmem.planning.decisions.uncertainty import decide


def _unit_loss(mean: float, sd: float) -> float:
  """E[max(0, x)] less max(0, E x) of x ~ N(mean, sd)."""
  z = abs(mean) / sd
  return sd * (stats.norm.pdf(z) - z * stats.norm.sf(z))


def test_small_cases_agree_with_enumeration():
  values = np.array([[1.0, 2.0, 9.0], [2.0, 4.0, 4.0], [3.0, 1.5, 5.0]])
  found = decide(values, {}, quantile=1.0)
  assert found.order == (1, 2, 0)  # worst draws: 4, 5, 9
  assert [p.index for p in found.plans] == [1, 2, 0]
  assert [p.upper for p in found.plans] == [4.0, 5.0, 9.0]
  assert [p.best_share for p in found.plans] == pytest.approx([1 / 3] * 3)
  assert found.regret == pytest.approx((1.0 + 2.5 + 0.0) / 3)
  assert found.regret_share == pytest.approx(found.regret / (10 / 3))
  by_index = {b.index: b.probability for b in found.beats}
  assert by_index == pytest.approx({2: 2 / 3, 0: 1 / 3})
  # The mean instead of the worst draw orders them otherwise.
  assert decide(values, {}, quantile=0.5).order[0] == 0


def test_more_is_better_turns_everything_round():
  rng = np.random.default_rng(3)
  rate = np.exp(rng.normal(0, 0.1, (3, 50)))
  fast = decide(rate, {}, less_is_better=False)
  lows = np.quantile(rate, 0.1, axis=1)
  assert fast.order == tuple(np.argsort(-lows))
  assert [p.upper for p in fast.plans] == pytest.approx(
    sorted(-lows * -1)[::-1]
  )
  first = rate[fast.order[0]]
  assert fast.regret == pytest.approx((rate.max(0) - first).mean())
  assert fast.regret >= 0 and fast.regret_share >= 0


@pytest.mark.parametrize('draws', [24, 200])
def test_the_probability_covers_the_closed_form(draws):
  rng = np.random.default_rng(draws)
  truth = stats.norm.cdf(0.05 / np.hypot(0.05, 0.05))
  inside, spread, told = 0, [], []
  for _ in range(250):
    values = rng.normal([[1.0], [1.05]], 0.05, (2, draws))
    found = decide(np.abs(values), {}, quantile=0.5)
    (beats,) = found.beats
    right = truth if found.order[0] == 0 else 1 - truth
    inside += beats.interval90[0] <= right <= beats.interval90[1]
    spread.append(beats.probability - right)
    told.append(beats.stderr)
  assert 0.84 <= inside / 250 <= 0.97
  assert np.std(spread) == pytest.approx(np.mean(told), rel=0.2)


def test_own_errors_lower_the_probability_as_they_should():
  rng = np.random.default_rng(1)
  own = 0.1
  shared = np.exp(rng.normal(0, 0.2, 500))
  values = np.stack([shared, 1.1 * shared])
  sure = decide(values, {})
  assert sure.outcome is DecisionOutcome.SETTLED
  assert sure.beats[0].probability == 1.0
  open_ = decide(values, {}, own_log_sd=own)
  right = stats.norm.cdf(np.log(1.1) / (own * np.sqrt(2)))
  assert open_.beats[0].probability == pytest.approx(right, abs=0.01)
  assert open_.outcome is DecisionOutcome.TOO_CLOSE
  assert 'run a few steps of both' in open_.help


def _gaussian(draws, rng, mean=0.01):
  """Two plans whose gap is mean + 0.03 a - 0.02 b + 0.01 noise."""
  theta = rng.normal(size=(3, draws))
  gap = mean + 0.03 * theta[0] - 0.02 * theta[1] + 0.01 * theta[2]
  values = np.stack([np.full(draws, 1.0), 1.0 + gap])
  return values, {'a': theta[0], 'b': theta[1]}


def test_knowing_a_parameter_is_worth_the_closed_form():
  values, drawn = _gaussian(10_000, np.random.default_rng(0))
  found = decide(values, drawn)
  assert found.regret == pytest.approx(_unit_loss(0.01, 0.03742), rel=0.03)
  assert list(found.parameters) == ['a', 'b']
  for name, sd in (('a', 0.03), ('b', 0.02)):
    right = _unit_loss(0.01, sd)
    assert found.parameters[name] == pytest.approx(right, rel=0.05)
  both = information.regressed(
    (values[1:] - values[0]).T, np.stack(list(drawn.values()), 1)
  )
  right = _unit_loss(0.01, np.hypot(0.03, 0.02))
  assert information.drop(both) == pytest.approx(right, rel=0.05)
  # Not even all of them are worth more than the regret.
  assert all(w.drop <= found.regret for w in found.measurements)


def test_curved_effects_are_found_where_draws_are_many():
  rng = np.random.default_rng(2)
  theta = rng.normal(size=4000)
  gap = 0.02 * (theta**2 - 1)
  values = np.stack([np.full(4000, 1.0), 1.0 + gap])
  found = decide(values, {'a': theta})
  right = -np.minimum(gap, 0).mean() + min(gap.mean(), 0)
  assert found.parameters['a'] == pytest.approx(right, rel=0.1)


def test_slopes_tell_with_few_draws():
  rng = np.random.default_rng(5)
  worth = []
  for _ in range(120):
    values, drawn = _gaussian(24, rng)
    drawn |= {f'noise {i}': rng.normal(size=24) for i in range(5)}
    slopes = {n: np.zeros(2) for n in drawn}
    slopes['a'], slopes['b'] = np.array([0, 0.03]), np.array([0, -0.02])
    found = decide(5.0 * values, drawn, slopes=slopes)
    assert set(found.parameters) <= {'a', 'b'}
    worth.append(found.parameters.get('a', 0.0))
  assert np.mean(worth) == pytest.approx(5 * _unit_loss(0.01, 0.03), rel=0.1)


def test_anticorrelated_parameters_tell_less_than_their_slopes():
  rng = np.random.default_rng(6)
  a = rng.normal(size=2000)
  b = -a + 0.1 * rng.normal(size=2000)
  gap = (0.03 * (a + b))[:, None]
  known = information.first_order(gap, a[:, None], np.array([[0.03]]))
  assert known.std() < 0.1 * 0.03
  # Given its draws, b is known but for a tenth: so is the gap.
  both = information.first_order(
    gap, np.stack([a, b], 1), np.full((2, 1), 0.03)
  )
  np.testing.assert_allclose(both, gap, atol=1e-3 * gap.std())


def test_regression_shrinks_what_few_draws_cannot_tell():
  rng = np.random.default_rng(10)
  gap = rng.normal(0.0, 0.05, (24, 40))
  noise = information.regressed(gap, rng.normal(size=(24, 12)))
  assert noise.std(0).mean() < 0.4 * gap.std()  # least squares: 0.7
  cause = rng.normal(size=(24, 1))
  clear = information.regressed(cause + 0.1 * gap, cause)
  np.testing.assert_allclose(clear.std(0), cause.std(), rtol=0.05)
  # Parameters that did not move tell nothing.
  none = information.regressed(gap, np.ones((24, 2)))
  np.testing.assert_allclose(none, np.broadcast_to(gap.mean(0), gap.shape))


def test_few_draws_of_many_parameters_find_nothing_that_is_not_there():
  rng = np.random.default_rng(7)
  false = 0
  for _ in range(20):
    values = rng.normal(1.0, 0.05, (2, 24))
    drawn = {f'p{i}': rng.normal(size=24) for i in range(50)}
    found = decide(values, drawn)
    false += any(w.beyond_chance for w in found.measurements)
  assert false <= 6  # of 20, where 2 are expected


def test_measurements_are_ops_that_a_tool_runs(system):
  values, drawn = _gaussian(400, np.random.default_rng(8), mean=0.001)
  names = ('HBM.read_Bps', 'NVLink.read_Bps')
  drawn = dict(zip(names, drawn.values(), strict=True))
  drawn['system.static_W'] = np.full(400, 3.0)
  found = decide(values, drawn, system=system, names=['left', 'right'])
  assert found.outcome is DecisionOutcome.TOO_CLOSE
  first, second = found.measurements
  assert (first.op, first.part, first.parameters) == (
    'stream',
    'HBM',
    names[:1],
  )
  assert 'participants' in first.how and first.beyond_chance
  assert (second.op, second.part) == ('send_recv', 'NVLink')
  assert 'import_traces' in second.tool
  assert found.fixed == ('system.static_W',)
  assert 'left' in found.help and "measure op 'stream' on HBM" in found.help
  told = json.loads(json.dumps(found.to_dict()))
  assert told['outcome'] == 'too_close'
  assert told['measurements'][0]['op'] == 'stream'


def test_every_parameter_has_a_measurement_or_a_maker(system):
  groups = grouped(system, sorted(system.active()))
  assert sum(map(len, groups.values())) == len(system.active())
  for group in groups:
    assert bool(group.op) == bool(group.tool)
    if not group.op:
      assert 'maker' in group.text
  assert measurement_of(system, 'matrix:bfloat16.rate_FLOPps').op == 'gemm'
  assert measurement_of(system, 'system.static_W').op == 'idle'
  assert measurement_of(system, 'PCIe.read_Bps').op == 'copy'
  assert measurement_of(system, 'HBM.path_J_per_B').observable == 'power_W'


def test_equal_plans_need_no_measurement():
  rng = np.random.default_rng(9)
  shared = np.exp(rng.normal(0, 0.3, 60))
  values = np.stack([shared, shared * np.exp(1e-5 * rng.normal(size=60))])
  found = decide(values, {'a': np.log(shared)})
  assert found.outcome is DecisionOutcome.INDIFFERENT
  assert found.help.startswith('either will do')


def test_without_an_ensemble_nothing_is_claimed():
  found = decide(None, {'HBM.read_Bps': np.zeros(3)})
  assert found.outcome is DecisionOutcome.NO_ENSEMBLE
  assert 'experiments.fit' in found.help and found.fixed == ('HBM.read_Bps',)
  one = decide(np.ones((1, 5)), {'a': np.arange(5.0)})
  assert one.outcome is DecisionOutcome.ONE_PLAN
  assert one.beats == () and one.measurements == () and one.regret == 0.0


@pytest.mark.parametrize(
  ('values', 'parameters', 'match'),
  [
    (np.ones(3), {}, r'expected \[plan, draw\]'),
    (np.ones((2, 1)), {}, 'two draws'),
    (np.array([[1.0, np.nan]]), {}, 'finite'),
    (np.array([[1.0, -1.0]]), {}, 'more than 0'),
    (np.ones((2, 3)), {'a': np.ones(4)}, 'a has shape'),
  ],
)
def test_bad_input_says_what_was_expected(values, parameters, match):
  with pytest.raises(errors.PlanError, match=match):
    decide(values, parameters)


def test_evaluation_sees_what_first_order_does_not():
  """The gap is |a| - 0.8 and so flat at a = 0, where the slope was taken."""
  rng = np.random.default_rng(11)
  drawn = {n: rng.normal(size=24) for n in ('a', 'b', 'c')}

  def evaluate(leaves):
    gap = np.abs(leaves['a']) - 0.8 + 0.1 * leaves['b']
    return np.stack([np.full(len(gap), 10.0), 10.0 + gap])

  values = evaluate(drawn)
  slopes = {
    'a': np.array([0.0, 1e-4]), 'b': np.array([0.0, 0.01]), 'c': np.zeros(2)
  }  # fmt: skip
  blind = decide(values, drawn, slopes=slopes)
  found = decide(values, drawn, slopes=slopes, evaluate=evaluate)
  gap = np.abs(drawn['a']) - 0.8
  mean = (values[1] - values[0]).mean()
  gap = gap - gap.mean() + mean
  right = min(mean, 0.0) - np.minimum(gap, 0.0).mean()
  if found.order[0] == 1:
    gap, mean = -gap, -mean
    right = min(mean, 0.0) - np.minimum(gap, 0.0).mean()
  assert found.parameters['a'] == pytest.approx(right, rel=1e-6)
  assert blind.parameters.get('a', 0.0) < 0.3 * right
  assert 'c' not in found.parameters
  assert found.measurements[0].parameters == ('a',)
  # With slopes only what moves a plan is evaluated.
  many = drawn | {f'd{i}': rng.normal(size=24) for i in range(30)}
  calls = []
  decide(
    values, many, slopes=slopes | {f'd{i}': np.zeros(2) for i in range(30)},
    evaluate=lambda x: calls.append(1) or evaluate(x),
  )  # fmt: skip
  assert len(calls) == 4  # two parameters, each alone and as a measurement
  # Without slopes everything is evaluated, with the same answer.
  slow = decide(values, drawn, evaluate=evaluate)
  assert slow.parameters['a'] == pytest.approx(found.parameters['a'])
  # The same of a rate, where more is better.
  rate = decide(
    values[::-1], drawn, evaluate=lambda x: evaluate(x)[::-1],
    less_is_better=False,
  )  # fmt: skip
  assert rate.parameters['a'] == pytest.approx(right, rel=1e-6)
