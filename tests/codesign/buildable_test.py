import dataclasses
import itertools

import design_hand_made
import numpy as np
import pytest

from diffmem import errors
from diffmem.codesign.designs import bill, budgets, buildable
from diffmem.codesign.designs.design_value import DesignValue
from diffmem.codesign.designs.search_design import SearchOptions, search_design

FREE = 'stacks', 'pin_Bps', 'channels', 'channel_B'


@pytest.fixture(scope='module')
def space():
  whole = design_hand_made.h200_space()
  fixed = [
    p if p.name in FREE else p._replace(low=p.reference, high=p.reference)
    for p in whole.parameters
  ]
  return dataclasses.replace(whole, parameters=tuple(fixed))


@pytest.fixture(scope='module')
def limits():
  return budgets.parse_budgets(['usd=54k', 'beachfront=80 mm'])


@pytest.fixture(scope='module')
def valued(space, limits):
  return DesignValue(space, design_hand_made.make_solve(space.base), limits)


@pytest.fixture(scope='module')
def found(space, valued, limits):
  options = SearchOptions(evaluations=40)
  return search_design(space, valued, limits, options=options)


def test_what_can_be_built(space):
  stacks = buildable.choices_of(space, 'stacks')
  assert stacks.tolist() == list(range(1, 17))
  pins = buildable.choices_of(space, 'pin_Bps') * 8 / 1e9
  np.testing.assert_allclose(pins, [6.25, 7.0, 7.8, 8.0, 8.5, 9.2, 9.6])
  # Eight accelerators share the channels of a host.
  channels = buildable.choices_of(space, 'channels')
  assert channels[0] == 1.0 and np.allclose(np.diff(channels), 0.125)
  assert buildable.choices_of(space, 'board_W').tolist() == [700.0]
  with pytest.raises(errors.SpecError, match='no parameter'):
    buildable.choices_of(space, 'colour')


def test_finds_the_best_of_all_corners(space, valued, limits, found):
  built = buildable.build(space, valued, found, limits)
  inside = budgets.feasible(space, limits)
  assert built.outcome == 'built' and inside.is_kept(built.x)
  for name in FREE:
    near = np.abs(buildable.choices_of(space, name) / built.design[name] - 1)
    assert near.min() < 1e-9
  at = [space.names.index(name) for name in FREE]
  values = []
  choices = [np.log(buildable.choices_of(space, name)) for name in FREE]
  around = [c[np.argsort(np.abs(c - found.x[i]))[:4]]
            for c, i in zip(choices, at, strict=True)]  # fmt: skip
  for corner in itertools.product(*around):
    x = space.reference
    x[at] = corner
    if inside.is_kept(x):
      values.append(valued(x, {}).value)
  assert len(values) > 20
  assert built.value <= min(values) * (1 + 1e-9)
  assert built.loss == pytest.approx(built.value / found.value - 1)
  assert -1e-3 < built.loss < 0.05


def test_is_certified_anew(space, valued, limits, found):
  asked = []

  def certify(x, prices):
    asked.append(x)
    return valued(x, prices)._replace(detail='searched anew')

  built = buildable.build(
    space, valued, found, limits, evaluations=4, certify=certify
  )
  assert built.detail == 'searched anew'
  assert len(built.history) == 4
  np.testing.assert_array_equal(asked, [built.x])


def test_nothing_that_is_sold_fits(space, valued, found):
  """Rates of a pin are listed; the budget lies below all but the first."""
  least = bill.total(bill.bill(space, space.low))
  tight = budgets.parse_budgets([f'usd={least + 5:.2f}'])
  with pytest.raises(errors.PlanError, match='no design to build'):
    buildable.build(space, valued, dataclasses.replace(found, x=None))
  lean = search_design(
    space, valued, tight, options=SearchOptions(evaluations=5)
  )
  built = buildable.build(space, valued, lean, tight)
  assert built.outcome == 'infeasible' and 'budgets' in built.help
