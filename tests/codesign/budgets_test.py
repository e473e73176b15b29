import design_hand_made
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.optimize

from diffmem import errors
from diffmem.codesign.designs import budgets


@pytest.fixture(scope='module')
def space():
  return design_hand_made.h200_space()


@pytest.fixture(scope='module')
def inside(space):
  texts = ['usd=50k', 'power=1300 W', 'stacks=8']
  return budgets.feasible(space, budgets.parse_budgets(texts))


@pytest.mark.parametrize(
  ('text', 'limit', 'shown'),
  [
    ('stacks=8', 8.0, '8'),
    ('Stacks <= 8', 8.0, '8'),
    ('usd=40000', 40e3, '40,000 USD'),
    ('usd=$45k', 45e3, '45,000 USD'),
    ('power=1.3 kW', 1300.0, '1.3 kW'),
    ('beachfront=66 mm', 66.0, '66 mm'),
    ('phy area=120mm2', 120.0, '120 mm2'),
    ('HBM supply=200 TB', 200e12, '200 TB'),
  ],
)
def test_budgets_are_read(text, limit, shown):
  budget = budgets.parse_budget(text)
  assert budget.limit == pytest.approx(limit)
  assert budget.shown(budget.limit) == shown


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('stack=8', "nothing is called 'stack'; did you mean 'stacks'"),
    ('stacks', "found ''; expected a positive quantity, such as 'stacks=8'"),
    ('power=1000 GB', "found '1000 GB'; expected a positive quantity"),
    ('usd=-4', "found '-4'; expected a positive quantity"),
    ('beachfront=66 mm2', "found '66 mm2'"),
  ],
)
def test_budgets_that_cannot_be_read(text, expected):
  with pytest.raises(errors.SpecError) as fault:
    budgets.parse_budget(text)
  assert expected in str(fault.value)


def test_budgets_that_cannot_be_kept(space):
  with pytest.raises(errors.SpecError, match="'stacks' is there twice"):
    budgets.parse_budgets(['stacks=8', 'stacks=9'])
  few = budgets.parse_budgets(['usd=20k'])
  with pytest.raises(errors.PlanError, match='the smallest of this kit needs'):
    budgets.feasible(space, few)
  flash = budgets.parse_budgets(['HBF supply=1 PB'])
  with pytest.raises(errors.SpecError, match='the kit has no HBF'):
    budgets.feasible(space, flash)


def test_what_a_design_uses(space):
  x = space.point(stacks=7, stack_B=36e9, channels=2, channel_B=64e9)
  for name, expected in (
    ('stacks', 7), ('HBM', 7 * 36e9), ('DRAM', 128e9), ('beachfront', 77),
    ('board', 700),
  ):  # fmt: skip
    assert budgets.used(space, x, name) == pytest.approx(expected)
  # Owned are more than are busy: 70 % of the hours are used.
  each = budgets.used_each(space, x, 'HBM supply')
  assert each == pytest.approx(7 * 36e9 / 0.7)
  assert budgets.used_each(space, x, 'accelerators') == pytest.approx(1 / 0.7)


def test_projection_against_a_general_solver(space, inside):
  rng = np.random.default_rng(3)
  for _ in range(3):
    x = space.reference + rng.normal(0, 0.7, len(space.names))
    found = inside.project(x)
    other = scipy.optimize.minimize(
      lambda y, x=x: (((y - x) ** 2).sum(), 2 * (y - x)),
      space.low, jac=True, method='SLSQP',
      bounds=list(zip(space.low, space.high, strict=True)),
      constraints={'type': 'ineq', 'fun': lambda y: -inside.overuse(y)[0],
                   'jac': lambda y: -inside.overuse(y)[1]},
      options={'ftol': 1e-12, 'maxiter': 200},
    )  # fmt: skip
    assert inside.is_kept(found)
    ours, theirs = (((y - x) ** 2).sum() for y in (found, other.x))
    assert ours <= theirs * (1 + 1e-4) + 1e-9


@hypothesis.settings(max_examples=8)
@hypothesis.given(st.integers(0, 2**16))
def test_what_is_projected_stays(space, inside, seed):
  rng = np.random.default_rng(seed)
  x = space.low + rng.uniform(-0.2, 1.2, len(space.names)) * (
    space.high - space.low
  )
  once = inside.project(x)
  assert inside.is_kept(once)
  np.testing.assert_allclose(inside.project(once), once, atol=1e-5)
  if inside.is_kept(x, 0.0):
    np.testing.assert_allclose(once, x, atol=1e-7)
