"""The fleet's programme against hand-made optima, sums and solving again."""

import copy
import dataclasses
import itertools

import fleet_hand_made as hand
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem import errors
from diffmem.codesign import fleet
from diffmem.codesign.fleet import inputs, lp, moves, rows, scenarios, supply

QUARTER_S = 365.25 * 21600.0


def _solved(made, scenario='flat'):
  parsed = fleet.parse_fleet(made)
  arrays = inputs.inputs_of(parsed, scenarios.scenario_of(parsed, scenario))
  programme = lp.build(arrays)
  return arrays, programme, lp.solve(programme)


def _quick(made, scenario='flat'):
  return fleet.plan_fleet(
    fleet.parse_fleet(made), scenario, checked=0, deadlines=False
  )


@pytest.fixture(scope='module')
def solved():
  return _solved(hand.document(discount_rate=0.08, finance_rate=0.1))


@pytest.fixture(scope='module')
def result():
  return fleet.plan_fleet(
    fleet.parse_fleet(hand.document(discount_rate=0.08, finance_rate=0.1)),
    checked=1,
  )


@pytest.fixture(scope='module')
def impossible():
  """A fleet whose memory is too scarce for what must be served."""
  made = hand.document(quarters=3, site_MW=None)
  made['workloads'][0] = {
    'name': 'chat', 'demand_tokens_per_s': [1e5, 2e5, 6e5], 'hard': True
  }  # fmt: skip
  made['memories']['HBM']['supply_GB'] = 5e3
  for part in made['parts'].values():
    part['supply'] = None
  return made, fleet.plan_fleet(fleet.parse_fleet(made))


def test_one_part_one_quarter_by_hand():
  made = hand.document(quarters=1)
  made['workloads'] = [
    {'name': 'chat', 'demand_tokens_per_s': 1.5e5, 'hard': True}
  ]
  made['rates'] = [r for r in made['rates'] if r['workload'] == 'chat'][:2]
  found = _quick(made)
  # 100 'big' are there and serve 1e5; the rest needs new 'small' ones.
  small = 0.5e5 / 350.0
  watts = 1.2 * (100 * 700.0 + small * 300.0)
  energy_usd = watts * QUARTER_S / 3.6e6 * 0.1
  assert found.present_usd == pytest.approx(
    small * 8000.0 / 20 + energy_usd, rel=1e-12
  )
  np.testing.assert_allclose(found.parts['small'].delivered, [small])
  # One of the twenty payments is made within the horizon.
  assert found.account.owed_usd == pytest.approx(small * 8000.0 * 19 / 20)
  # The marginal token runs on a 'small' part.
  usd = (8000.0 / 20 + 1.2 * 300 * QUARTER_S / 3.6e6 * 0.1) / 350.0
  assert found.demand['chat'].marginal_usd_per_Mtok[0] == pytest.approx(
    usd / (QUARTER_S / 1e6), rel=1e-9
  )


def test_against_brute_force():
  """All orders on a grid, each dispatched by cost per token."""
  made = hand.document(
    quarters=2, parts__big__lead_quarters=0, site_MW=None
  )  # fmt: skip
  made['workloads'] = made['workloads'][:1]
  made['workloads'][0]['demand_tokens_per_s'] = [1.5e5, 2.4e5]
  made['workloads'][0]['unmet_usd_per_Mtok'] = 0.3
  made['rates'] = made['rates'][:2]
  made['memories']['HBM'] |= {'supply_GB': [8e3, 4e3], 'orderable_GB': 0.0}
  for part in made['parts'].values():
    part['assembly_quarters'] = 0
  found = _quick(made)
  joule_usd = QUARTER_S / 3.6e6 * 0.1 * 1.2
  unmet_usd = 0.3 * QUARTER_S / 1e6

  def cost(big, small):
    """Orders of two quarters each; None where the memory is not enough."""
    used = np.cumsum(100 * np.array(big) + 40 * np.array(small))
    if (used > [8e3, 12e3]).any():
      return None
    total = 0.0
    for q, asked in enumerate((1.5e5, 2.4e5)):
      bigs, smalls = 100 + sum(big[: q + 1]), sum(small[: q + 1])
      total += (bigs - 100) * 1000.0 + smalls * 400.0
      on_big = min(asked, 1000.0 * bigs)
      on_small = min(asked - on_big, 350.0 * smalls)
      total += joule_usd * (0.7 * on_big + 300.0 / 350.0 * on_small)
      total += unmet_usd * (asked - on_big - on_small)
    return total

  grid = range(0, 121, 10)
  smalls = range(0, 301, 50)
  costs = [
    cost((a, b), (c, d))
    for a, b, c, d in itertools.product(grid, grid, smalls, smalls)
  ]
  best = min(c for c in costs if c is not None)
  assert found.present_usd <= best * (1 + 1e-9)
  assert found.present_usd == pytest.approx(best, rel=2e-3)


def test_account_balances(result):
  account = result.account
  assert account.balance < 1e-9
  for field in ('workload', 'kind', 'quarter', 'item'):
    assert sum(account.by(field).values()) == pytest.approx(
      result.present_usd, rel=1e-9
    )


def test_account_from_the_timelines_alone(result):
  """Payments of parts and energy again, from what the result shows."""
  n, growth = 4, 1.1**0.25
  share = (1 - 1 / growth) / (1 - growth**-20)
  discount = 1.08 ** (-np.arange(n) / 4)
  due = 0.0
  for name, price in (('big', 20000.0), ('small', 8000.0)):
    new = np.cumsum(result.parts[name].delivered)
    due += share * price * (new @ discount)
  by_kind, by_item = result.account.by('kind'), result.account.by('item')
  hbm = by_item[('HBM',)] - by_kind.get(('reservation',), 0.0)
  assert by_kind[('part',)] + hbm == pytest.approx(due, rel=1e-9)
  energy = np.array(result.power_W) * QUARTER_S / 3.6e6 * 0.1
  assert by_kind[('energy',)] == pytest.approx(energy @ discount, rel=1e-9)


def test_what_is_served_and_not_is_what_is_asked(result):
  for name, demand in result.demand.items():
    served = sum(
      np.array(s.tokens_per_s) for s in result.served if s.workload == name
    )
    np.testing.assert_allclose(
      served + demand.unmet_tokens_per_s, demand.tokens_per_s, rtol=1e-9
    )


@pytest.mark.parametrize('family', rows.FAMILIES)
def test_multipliers_are_slopes(solved, family):
  """Each multiplier lies between the slopes of one fewer and one more."""
  _, programme, solution = solved
  limit = programme.limits[family]
  seen = 0
  there = limit.at >= 0
  if family.endswith('supply'):  # nothing can come before the lead time
    there &= programme.upper[limit.at] > 0
  for i, q in np.argwhere(there):
    one = np.zeros(limit.at.shape)
    one[i, q] = 1e-4 * limit.scale[i, q]
    more = lp.solve(programme, {family: one})
    fewer = lp.solve(programme, {family: -one})
    worth = solution.worth[family][i, q] * one[i, q]
    slack = 1e-7 * abs(solution.value_usd) * 1e-3 + 1e-6 * worth
    ends = sorted((
      limit.sign * (solution.value_usd - more.value_usd),
      limit.sign * (fewer.value_usd - solution.value_usd),
    ))  # fmt: skip
    assert ends[0] - slack <= worth <= ends[1] + slack
    seen += worth > slack
  assert seen


def test_worths_are_checked_by_solving_again(result):
  checked = [w for w in result.worth if w.more_usd is not None]
  assert {w.kind for w in checked} >= {'part', 'memory', 'demand'}
  for one in checked:
    if one.fewer_usd is not None:
      low, high = sorted((one.more_usd, one.fewer_usd))
      assert low * (1 - 1e-4) - 1e-6 <= one.usd <= high * (1 + 1e-4) + 1e-6
      assert one.holds_from < 0 < one.holds_to


@settings(max_examples=15, deadline=None)
@given(
  family=st.sampled_from([f for f in rows.FAMILIES if f != rows.DEMAND]),
  i=st.integers(0, 1), q=st.integers(0, 2), amount=st.floats(0.0, 1e4),
)  # fmt: skip
def test_more_supply_never_costs_more(solved, family, i, q, amount):
  _, programme, solution = solved
  shape = programme.limits[family].at.shape
  more = np.zeros(shape)
  more[min(i, shape[0] - 1), q] = amount
  found = lp.solve(programme, {family: more})
  assert found.value_usd <= solution.value_usd * (1 + 1e-9)


def test_infeasible_says_what_would_do(impossible):
  made, found = copy.deepcopy(impossible)
  assert found.outcome == fleet.FleetOutcome.INFEASIBLE
  assert found.account is None
  assert {b.name for b in found.binding} == {'chat'}
  assert 'lacks' in found.help and 'would do' in found.help
  lacks = {b.quarter: b.lacks for b in found.binding}
  fewer = [
    a - lacks.get(q, 0.0)
    for a, q in zip((1e5, 2e5, 6e5), found.quarters, strict=True)
  ]
  # Demand less what is lacking can just be met; 1 % more of it cannot.
  for factor, possible in ((0.9999, True), (1.01, False)):
    made['workloads'][0]['demand_tokens_per_s'] = [
      f if q not in lacks else f * factor
      for f, q in zip(fewer, found.quarters, strict=True)
    ]
    assert (_solved(made)[2] is not None) == possible


def test_each_remedy_alone_is_enough(impossible):
  made, found = impossible
  _, programme, nothing = _solved(made)
  assert nothing is None and found.remedies
  for remedy in found.remedies:
    limit = programme.limits[remedy.limit]
    names = {
      'soldered': ['HBM'], 'soldered_supply': ['HBM'],
      'service': ['big', 'small'], 'part_supply': ['big', 'small'],
    }[remedy.limit]  # fmt: skip
    more = np.zeros(limit.at.shape)
    for one in remedy.amounts:
      where = names.index(one.name), found.quarters.index(one.quarter)
      more[where] = one.lacks
    assert lp.solve(programme, {remedy.limit: more * (1 + 1e-6)}) is not None
    assert lp.solve(programme, {remedy.limit: more * 0.99}) is None


def test_waiting_is_a_later_first_delivery(result):
  """The cost of waiting, by a fleet whose supplier begins later."""
  deadline = next(d for d in result.deadlines if d.name == 'small')
  assert deadline.first_order == '2027Q1'
  assert deadline.waiting_usd[deadline.first_order] == 0.0
  made = hand.document(discount_rate=0.08, finance_rate=0.1)
  made['parts']['small']['supply'] = [0, 180]
  later = _quick(made)
  assert deadline.waiting_usd['2027Q2'] == pytest.approx(
    later.present_usd - result.present_usd, rel=1e-6
  )
  assert later.present_usd > result.present_usd


def test_a_shortage_moves_work(result):
  made = hand.document(discount_rate=0.08, finance_rate=0.1)
  other = _quick(made, 'shortage')
  found = fleet.compare(result, other)
  assert found.extra_usd > 0
  for table in (found.by_workload, found.by_kind):
    assert sum(table.values()) == pytest.approx(found.extra_usd, rel=1e-9)
  assert found.moves
  for move in found.moves:
    assert 0 < move.share <= 1 + 1e-9 and move.source != move.target
  # What leaves and arrives is what the plans differ by.
  for name in ('chat', 'train'):
    unmet = sum(
      m.tokens_per_s * ((m.target[0] == 'unmet') - (m.source[0] == 'unmet'))
      for m in found.moves
      if m.workload == name
    )
    change = np.sum(other.demand[name].unmet_tokens_per_s) - np.sum(
      result.demand[name].unmet_tokens_per_s
    )
    assert unmet == pytest.approx(change, abs=1e-3)


def test_new_demand_comes_from_nowhere(result):
  made = hand.document(discount_rate=0.08, finance_rate=0.1)
  made['scenarios'] = {'more': {'demand': {'chat': 1.2}}}
  found = fleet.compare(result, _quick(made, 'more'))
  new = [m for m in found.moves if m.source == ('demand', '')]
  assert {m.workload for m in new} == {'chat'}
  assert sum(m.tokens_per_s for m in new) == pytest.approx(
    0.2 * sum(result.demand['chat'].tokens_per_s)
  )


def test_only_plans_of_one_fleet_are_compared(result):
  shorter = _quick(hand.document(quarters=2))
  with pytest.raises(errors.PlanError, match='different fleets'):
    moves.compare(result, shorter)
  nothing = dataclasses.replace(result, account=None)
  with pytest.raises(errors.PlanError, match='without a solution'):
    moves.compare(result, nothing)


def test_annuity_is_worth_the_price():
  share = supply.annuity(0.12, 3.0)
  worth = sum(share * 1.12 ** (-q / 4) for q in range(12))
  assert worth == pytest.approx(1.0, rel=1e-12)


def test_soldered_memory_delays_parts():
  """Reserved memory that comes later holds back what is built from it."""
  made = hand.document()
  made['memories']['HBM'] |= {
    'supply_GB': [0, 0, 50e3], 'orderable_GB': 0.0
  }  # fmt: skip
  for part in made['parts'].values():
    part['assembly_quarters'] = 0
  found = _quick(made)
  for part in found.parts.values():
    np.testing.assert_allclose(part.delivered[:2], 0.0, atol=1e-9)
  assert found.parts['big'].delivered[2] > 1
