"""The account balances; prices are dated and priced by hand."""

import re

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from diffmem import errors
from diffmem.cost import Demand, predict_jit
from diffmem.cost.account import account, owned, rented
from diffmem.cost.prices import load_prices
from diffmem.system import Engine, System, Tier

SYSTEM = System.of(
  'two',
  [
    Tier.of('HBM', read_Bps=1e12, device_J_per_B=30e-12, path_J_per_B=90e-12),
    Tier.of('PCIe', read_Bps=30e9, link=True, duplex='full_duplex'),
    Tier.of('DRAM', read_Bps=50e9, via='PCIe'),
  ],
  [Engine.of('matrix:bfloat16', rate_FLOPps=1e14, energy_J_per_FLOP=1e-12)],
  static_W=80.0,
  power_cap_W=300.0,
  throttle_share=0.4,
)
GB = st.lists(st.floats(0.0, 50.0), min_size=3, max_size=3)
WEIGHTS = st.lists(st.floats(0.0, 20.0), min_size=3, max_size=3)


def in_float64(system, **demand):
  with jax.enable_x64(True):
    cost = predict_jit(system, Demand.of(system, **demand))
  return jax.tree.map(np.asarray, cost)


def cost_of(near_GB, far_GB, tera):
  return in_float64(
    SYSTEM,
    read_B={'HBM': 1e9 * np.array(near_GB), 'DRAM': 1e9 * np.array(far_GB)},
    flops={'matrix:bfloat16': 1e12 * np.array(tera)},
    in_flight_B={'HBM': 1e9, 'DRAM': 1e6, 'PCIe': 1e6},
  )


@given(GB, GB, GB, WEIGHTS, WEIGHTS)
def test_it_balances(near, far, tera, runs, idle):
  cost = cost_of(near, far, tera)
  runs, idle = np.array(runs), np.array(idle)
  found = account(
    SYSTEM, cost, tokens=7.0, devices=4, runs=runs, idle_runs=idle
  )
  want = 4 * (runs * np.asarray(cost.energy_J)).sum()
  want += 4 * 80.0 * (idle * np.asarray(cost.time_s)).sum()
  assert found.total_J == pytest.approx(want, rel=1e-9, abs=1e-12)
  lines = sum(line.energy_J for line in found.lines)
  assert lines == pytest.approx(want, rel=1e-9, abs=1e-12)
  assert sum(found.by_part().values()) == pytest.approx(lines, rel=1e-9)
  per_token = sum(line.energy_J for line in found.per_token())
  assert per_token == pytest.approx(found.token_J, rel=1e-9, abs=1e-15)
  assert found.static_J >= 0.0


def test_parts_by_hand():
  cost = cost_of([10.0, 0, 0], [0, 1.0, 0], [0, 0, 5.0])
  found = account(SYSTEM, cost, tokens=2.0, runs=np.array([3.0, 1.0, 1.0]))
  kinds = {(line.part, line.kind): line.energy_J for line in found.lines}
  assert kinds['HBM', 'device'] == pytest.approx(3 * 10e9 * 30e-12)
  assert kinds['HBM', 'path'] == pytest.approx(3 * 10e9 * 90e-12)
  assert kinds['matrix:bfloat16', 'arithmetic'] == pytest.approx(5.0)
  assert kinds['PCIe', 'path'] > 0 and kinds['DRAM', 'device'] > 0
  assert kinds['board', 'static busy'] == pytest.approx(80 * found.step_s)
  assert kinds['board', 'static idle'] == 0.0
  assert found.token_J == pytest.approx(found.total_J / 2)
  assert found.device_power_W == pytest.approx(found.total_J / found.step_s)


def test_what_the_cap_saves_is_a_line():
  cost = cost_of([1.0, 0, 0], [0, 0, 0], [40.0, 0, 0])
  assert cost.saved_J.sum() < 1e-6  # one joule per tera: 180 W at most
  hot = SYSTEM.with_values({'matrix:bfloat16.energy_J_per_FLOP': 4e-12})
  cost = in_float64(hot, flops={'matrix:bfloat16': [1e14]})
  found = account(hot, cost, tokens=1.0)
  saved = next(x for x in found.lines if x.kind == 'saved at the cap')
  assert saved.energy_J == pytest.approx(-float(cost.saved_J[0]))
  assert saved.energy_J < 0
  assert found.total_J == pytest.approx(float(cost.energy_J[0]), rel=1e-9)


def test_bytes_of_a_bubble_are_not_spent():
  cost = cost_of([10.0] * 3, [0.0] * 3, [0.0] * 3)
  busy = account(SYSTEM, cost, tokens=1.0)
  waits = account(SYSTEM, cost, tokens=1.0, idle_runs=1.0)
  assert waits.dynamic_J == pytest.approx(busy.dynamic_J)
  assert waits.step_s == pytest.approx(2 * busy.step_s)
  assert waits.static_J == pytest.approx(2 * busy.static_J)


def test_a_rented_step():
  prices = load_prices()
  cost = cost_of([100.0, 0, 0], [0] * 3, [0] * 3)
  found = account(SYSTEM, cost, tokens=10.0, devices=8)
  bill = rented(found, prices, 'h100-sxm', {'DRAM': 1e12})
  usd = prices.accelerator_usd_per_hour['h100-sxm'].value
  assert bill.accelerators_usd == pytest.approx(8 * usd * found.step_s / 3600)
  assert bill.energy_usd == 0.0
  used_s = 5 * 8766 * 3600 * 0.7
  dram = 1000 * prices.memory_usd_per_GB['DRAM'].value
  assert bill.memory_usd['DRAM'] == pytest.approx(dram * found.step_s / used_s)
  assert bill.token_usd == pytest.approx(
    (bill.accelerators_usd + bill.memory_usd['DRAM']) / 10
  )


def test_an_owned_step_pays_the_meter():
  prices = load_prices()
  found = account(SYSTEM, cost_of([100.0] * 3, [0] * 3, [0] * 3), tokens=1.0)
  bill = owned(found, prices, 30e3)
  site = prices.facility.energy_over_device_energy.value
  usd = prices.energy_usd_per_kWh['grid'].value
  assert bill.energy_usd == pytest.approx(site * usd * found.total_J / 3.6e6)
  life_s = 5 * 8766 * 3600 * 0.7
  assert bill.accelerators_usd == pytest.approx(30e3 * found.step_s / life_s)


def test_prices_are_dated_and_sourced():
  prices = load_prices()
  tables = (
    prices.accelerator_usd_per_hour, prices.memory_usd_per_GB,
    prices.energy_usd_per_kWh,
  )  # fmt: skip
  for table in tables:
    for name, price in table.items():
      assert price.source and re.match(r'20\d\d', price.date), name
      assert not re.search(r'https?://', price.source)


def test_faults():
  cost = cost_of([1.0] * 3, [0] * 3, [0] * 3)
  with pytest.raises(errors.SpecError, match='tokens = 0'):
    account(SYSTEM, cost, tokens=0)
  found = account(SYSTEM, cost, tokens=1.0)
  with pytest.raises(errors.SpecError, match=r"did you mean 'h100-sxm'"):
    rented(found, load_prices(), 'h100-sx')
  plans = jax.tree.map(lambda x: np.stack([np.asarray(x)] * 2), cost)
  with pytest.raises(errors.SpecError, match='one plan'):
    account(SYSTEM, plans, tokens=1.0)


def test_a_price_file_of_ones_own(tmp_path):
  path = tmp_path / 'prices.toml'
  path.write_text("[memory_usd_per_GB.HBM]\nvalue = -1\ndate = 'May'\n")
  with pytest.raises(errors.SpecError) as caught:
    load_prices(path)
  for what in ('HBM.value', 'HBM.date', 'HBM.source', 'facility'):
    assert what in str(caught.value)
  with pytest.raises(errors.SpecError, match='nowhere'):
    load_prices(tmp_path / 'nowhere.toml')
