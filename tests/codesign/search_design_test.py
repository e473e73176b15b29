import dataclasses
import json

import design_hand_made
import numpy as np
import pytest
import scipy.optimize

from diffmem import errors
from diffmem.codesign.designs import bill, budgets
from diffmem.codesign.designs.design_value import DesignValue
from diffmem.codesign.designs.search_design import SearchOptions, search_design


@pytest.fixture(scope='module')
def space():
  return design_hand_made.h200_space()


@pytest.fixture(scope='module')
def limits():
  return budgets.parse_budgets(['usd=48k', 'power=1300 W', 'stacks=4'])


@pytest.fixture(scope='module')
def valued(space, limits):
  return DesignValue(space, design_hand_made.make_solve(space.base), limits)


@pytest.fixture(scope='module')
def found(space, valued, limits):
  options = SearchOptions(evaluations=80)
  return search_design(space, valued, limits, options=options)


def optimum(space, valued, limits):
  """The best value, by a solver that shares nothing with the search."""
  inside = budgets.feasible(space, limits)

  def value(x):
    one = valued(x, {})
    return one.value, one.gradient

  return scipy.optimize.minimize(
    value, space.low + 0.2, jac=True, method='SLSQP',
    bounds=list(zip(space.low, space.high, strict=True)),
    constraints={'type': 'ineq', 'fun': lambda y: -inside.overuse(y)[0],
                 'jac': lambda y: -inside.overuse(y)[1]},
    options={'ftol': 1e-10, 'maxiter': 300},
  )  # fmt: skip


def test_gradients_against_finite_differences(space):
  fleet = budgets.parse_budgets(['HBM supply=1 PB', 'site power=4 MW'])
  valued = DesignValue(space, design_hand_made.make_solve(space.base), fleet)
  x, prices = space.reference + 0.1, {'HBM supply': 1e-15, 'site power': 1e-7}

  def total(x):
    one = valued(x, prices)
    return one.value + sum(prices[n] * one.used[n] for n in prices)

  gradient = valued(x, prices).gradient
  for i in range(len(x)):
    step = 1e-5 * np.eye(len(x))[i]
    slope = (total(x + step) - total(x - step)) / 2e-5
    assert gradient[i] == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_value_by_hand(space, valued):
  x = space.reference
  one = valued(x, {})
  rates = bill.rates(space, x)
  accelerators = design_hand_made.FIXED + sum(design_hand_made.NEEDS.values())
  watts = design_hand_made.DEVICE_W * rates.usd_per_J
  assert one.value == pytest.approx(accelerators * (rates.usd_per_s + watts))


def test_finds_the_optimum_of_another_solver(space, valued, limits, found):
  other = optimum(space, valued, limits)
  assert found.outcome == 'converged' and len(found.history) <= 80
  assert found.value < other.fun * (1 + 1e-4)
  best = found.best_so_far
  assert np.argmax(best <= 1.01 * other.fun) < 50
  assert (np.diff(best) <= 0).all()
  assert budgets.feasible(space, limits).is_kept(found.x)


def test_worth_is_what_a_looser_budget_saves(space, valued, limits, found):
  for budget in limits:
    values = []
    for factor in (0.998, 1.002):
      moved = [
        b._replace(limit=b.limit * factor) if b is budget else b for b in limits
      ]
      values.append(optimum(space, valued, moved).fun)
    slope = (values[0] - values[1]) / (0.004 * budget.limit)
    assert found.worth[budget.name] == pytest.approx(slope, rel=0.1)
    assert found.worth[budget.name] > 0
  per_year = found.worth_per_year()['stacks']
  assert per_year == pytest.approx(found.worth['stacks'] * 365.25 * 86400)


def test_short_supply_is_kept_and_priced(space):
  solve = design_hand_made.make_solve(space.base)
  options = SearchOptions(evaluations=40)
  free = search_design(space, DesignValue(space, solve), options=options)
  fleet = budgets.parse_budgets(['HBM supply=1 PB'])
  all_used = DesignValue(space, solve, fleet)(free.x, {}).used['HBM supply']
  scarce = [fleet[0]._replace(limit=0.8 * all_used)]
  valued = DesignValue(space, solve, tuple(scarce))
  found = search_design(space, valued, scarce, options=options)
  assert found.used['HBM supply'] <= scarce[0].limit * 1.002
  assert found.value > free.value
  assert found.worth['HBM supply'] > 0
  looser = [fleet[0]._replace(limit=0.9 * all_used)]
  other = search_design(space, DesignValue(space, solve, tuple(looser)), looser)
  saved = (found.value - other.value) / (0.1 * all_used)
  # The price falls along the way from one limit to the other.
  assert other.worth['HBM supply'] * 0.7 < saved
  assert saved < found.worth['HBM supply'] * 1.3


def test_interrupted_and_resumed_is_as_uninterrupted(
  space, valued, limits, tmp_path
):
  path, count = tmp_path / 'state.json', [0]
  options = SearchOptions(evaluations=12)

  def impatient(x, prices):
    count[0] += 1
    if count[0] == 6:
      raise KeyboardInterrupt
    return valued(x, prices)

  def search(evaluate, **more):
    return search_design(space, evaluate, limits, options=options, **more)

  half = search(impatient, resume_path=path)
  assert half.outcome == 'interrupted' and len(half.history) == 5
  resumed = search(impatient, resume_path=path)
  straight = search(valued)
  assert len(resumed.history) == 12
  assert resumed.value == pytest.approx(straight.value, rel=1e-12)
  with pytest.raises(errors.SpecError, match='state of another search'):
    search_design(space, valued, limits[:1], resume_path=path)
  path.write_text(json.dumps([1]))
  with pytest.raises(errors.SpecError, match='remove it'):
    search(valued, resume_path=path)


def test_designs_that_cannot_serve_are_left_again(space):
  solve = design_hand_made.make_solve(space.base)
  needed_B = 200e9

  def is_served(system):
    return float(system.tier('HBM').capacity_B) >= needed_B

  valued = DesignValue(space, design_hand_made.unserved(solve, is_served))
  found = search_design(space, valued, options=SearchOptions(evaluations=20))
  assert not np.isfinite(found.history[0].value)
  assert np.isfinite(found.value)
  never = DesignValue(space, design_hand_made.unserved(solve, lambda _: False))
  none = search_design(space, never, options=SearchOptions(evaluations=5))
  assert none.outcome == 'infeasible' and 'more chips' in none.help


def test_nothing_to_choose(space):
  """One design is left: it is the answer."""
  narrow = dataclasses.replace(
    space,
    parameters=tuple(
      p._replace(low=p.reference, high=p.reference) for p in space.parameters
    ),
  )
  valued = DesignValue(narrow, design_hand_made.make_solve(space.base))
  found = search_design(narrow, valued, options=SearchOptions(evaluations=3))
  np.testing.assert_allclose(found.x, space.reference)
