"""How a fleet is read, and what is said of one that does not fit."""

import json

import fleet_hand_made as hand
import numpy as np
import pytest

from diffmem import errors
from diffmem.codesign import fleet
from diffmem.codesign.fleet import inputs, scenarios, schema


def _inputs(made, scenario='flat'):
  parsed = fleet.parse_fleet(made)
  return inputs.inputs_of(parsed, scenarios.scenario_of(parsed, scenario))


@pytest.mark.parametrize(
  'changes, said',
  [
    ({'parts__big__pricey': 3}, ['parts.big.pricey', 'Extra']),
    ({'parts__big__price_usd': -1.0}, ['parts.big.price_usd', '-1.0']),
    ({'parts__big__memory_GB': {'HBN': 5}}, ['memory_GB.HBN', 'soldered']),
    ({'parts__big__memory_GB': {'DRAM': 5}}, ['memory_GB.DRAM', 'soldered']),
    ({'parts__big__retire': [60, 60]}, ['parts.big.retire', '120 of 100']),
    ({'parts__big__retire': [1] * 5}, ['parts.big.retire', '4 quarters']),
    ({'rates__0__part': 'bug'}, ['rates.0.part', "'bug'"]),
    ({'rates__0__workload': 'chad'}, ['rates.0.workload', "'chad'"]),
    ({'rates__2__variant': 'hbm'}, ['rates.', 'twice']),
    ({'rates__0__memory_GB': {'HBM': 101}}, ['101 GB', 'big has 100']),
    ({'rates__0__memory_GB': {'CXL': 1}}, ['memory_GB.CXL', 'no such']),
    ({'workloads__0__hard': True}, ['workloads.0', 'either']),
    ({'workloads__0__variants': ['ssd']}, ['chat', "no variant 'ssd'"]),
    ({'workloads__1__name': 'chat'}, ["'chat' twice"]),
    ({'first_quarter': '2027-01'}, ['first_quarter', '2027-01']),
    ({'quarters': 0}, ['quarters', 'found 0']),
  ],
)
def test_what_does_not_fit_is_named(changes, said):
  with pytest.raises(errors.SpecError) as refused:
    fleet.parse_fleet(hand.document(**changes), 'a.toml')
  for text in ('a.toml', *said):
    assert text in str(refused.value)


def test_files(tmp_path):
  path = tmp_path / 'fleet.toml'
  with pytest.raises(errors.SpecError, match='No such file'):
    fleet.load_fleet(path)
  path.write_text('name = ')
  with pytest.raises(errors.SpecError, match='not TOML'):
    fleet.load_fleet(path)
  path.write_text(
    "name = 'x'\nfirst_quarter = '2027Q1'\nquarters = 1\n"
    "rates_file = 'rates.json'\n"
    "[parts.p]\nprice_usd = 1\ndate = '2026'\nsource = 'hand'\n"
    'lead_quarters = 0\n'
    "[[workloads]]\nname = 'w'\nhard = true\ndemand_tokens_per_s = 1\n"
  )
  with pytest.raises(errors.SpecError, match=r'rates\.json'):
    fleet.load_fleet(path)
  assert not fleet.load_fleet(path, rates=False).rates
  rate = {'workload': 'w', 'part': 'p', 'tokens_per_s': 2.0, 'power_W': 3.0,
          'source': 'hand'}  # fmt: skip
  (tmp_path / 'rates.json').write_text(json.dumps({'rates': [rate]}))
  assert fleet.load_fleet(path).rates[0].tokens_per_s == 2.0


def test_quarters_and_amounts():
  assert [schema.quarter('2027Q3', i) for i in (-3, 0, 2, 6)] == [
    '2026Q4', '2027Q3', '2028Q1', '2029Q1'
  ]  # fmt: skip
  np.testing.assert_array_equal(scenarios.by_quarter((3.0, 1.0), 3), [3, 1, 1])
  np.testing.assert_array_equal(scenarios.counts((3.0,), 3), [3, 0, 0])


def test_built_in_scenarios_have_dates_and_sources():
  for name, scenario in scenarios.built_in().items():
    assert scenario.help and scenario.source
    assert name == 'flat' or scenario.date
  assert scenarios.built_in()['shortage'].supply['HBM'] == 0.5


def test_unknown_names_in_scenarios():
  parsed = fleet.parse_fleet(hand.document())
  with pytest.raises(errors.SpecError, match='did you mean'):
    scenarios.scenario_of(parsed, 'shortages')
  made = hand.document()
  made['scenarios'] = {'own': {'price': {'HBN': 2.0}}}
  with pytest.raises(errors.SpecError, match=r'scenarios\.own\.price\.HBN'):
    scenarios.scenario_of(fleet.parse_fleet(made), 'own')


def test_a_scenario_moves_what_it_names():
  made = hand.document(finance_rate=0.0)
  made['scenarios'] = {
    'own': {
      'price': {'HBM': [1.0, 3.0], 'energy': 2.0},
      'supply': {'HBM': 0.5, 'small': [1.0, 0.25], 'power': 0.5},
      'demand': {'all': 2.0, 'train': [1.0, 1.5]},
      'later_quarters': {'big': 1},
    }
  }
  flat, own = _inputs(made), _inputs(made, 'own')
  np.testing.assert_allclose(own.reserved_GB, 0.5 * flat.reserved_GB)
  np.testing.assert_allclose(own.part_limit[1], [180, 45, 45, 45])
  np.testing.assert_allclose(own.part_limit[0], [0, 0, 500, 500])
  np.testing.assert_allclose(own.power_W, 0.5 * flat.power_W)
  np.testing.assert_allclose(own.energy_usd_per_J, 2 * flat.energy_usd_per_J)
  np.testing.assert_allclose(own.demand_tps[0], 2 * flat.demand_tps[0])
  np.testing.assert_allclose(
    own.demand_tps[1], 5e4 * np.array([1, 1.5, 1.5, 1.5])
  )
  # 100 GB of 20 USD in 20000 USD; the price is that of the order, two
  # quarters earlier, and it is paid in twenty quarters.
  np.testing.assert_allclose(own.part_price_usd[0], [20e3, 24e3, 24e3, 24e3])
  paid = own.part_payment[0] + own.solder_payment[0, 0]
  np.testing.assert_allclose(20 * paid, [20e3, 20e3, 20e3, 24e3])


def test_existing_contracted_and_retired_parts_serve():
  made = hand.document(
    parts__big__retire=[0, 30], parts__big__contracted=[0, 0, 7],
    parts__small__contracted=[5], parts__small__years_of_service=0.5,
  )  # fmt: skip
  found = _inputs(made)
  np.testing.assert_array_equal(found.installed[0], [100, 70, 77, 77])
  np.testing.assert_array_equal(found.installed[1], [5, 5, 0, 0])


def test_a_price_below_its_memory_is_refused():
  with pytest.raises(errors.SpecError, match='less than its memory'):
    _inputs(hand.document(parts__big__price_usd=1900.0))


def test_a_memory_without_price_is_named():
  made = hand.document()
  made['memories']['HBN'] = {'soldered': True}
  with pytest.raises(errors.SpecError, match="did you mean 'HBM'"):
    _inputs(made)


def test_a_fleet_without_rates_is_refused():
  with pytest.raises(errors.SpecError, match='no rates'):
    _inputs(hand.document(rates=[]))
