import dataclasses

import design_hand_made
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from diffmem import errors
from diffmem.codesign.designs import bill, design, parts
from diffmem.system import load_catalog
from diffmem.system.system import leaves_by_name

PARTS = parts.load_parts()
# Accelerators of a server.
EIGHT = 8


@pytest.fixture(scope='module')
def h200():
  return design_hand_made.h200_space()


@pytest.mark.parametrize('name', PARTS.machines)
def test_the_published_configuration_is_the_machine_itself(name):
  base = load_catalog(name).system
  space = design.design_space(base)
  made = design.machine(space, space.origin)
  for parameter, leaf in leaves_by_name(made).items():
    assert leaf == leaves_by_name(base)[parameter], parameter
  np.testing.assert_array_equal(space.reference, space.origin)


def test_six_stacks_of_hbm4(h200):
  space = design.design_space(h200.base, design.Kit(stack='HBM4'))
  x = space.point(stacks=6, pin_Bps=1e9, stack_B=36e9)
  hbm = design.machine(space, x).tier('HBM')
  # JEDEC: 2048 pins of 8 Gb/s; the H200 shows 141 of its 144 GB.
  assert float(hbm.read_Bps) == pytest.approx(4.8e12 * 12.288 / 4.8, rel=1e-9)
  assert float(hbm.capacity_B) == pytest.approx(216e9 * 141 / 144)
  own = float(h200.base.tier('HBM').device_J_per_B)
  slow = (8.0 / 8.0) ** 0.25 / (6.25 / 9.2) ** 0.25
  assert float(hbm.device_J_per_B) == pytest.approx(own * 3.1 / 3.9 * slow)
  ratio = float(hbm.read_in_flight_B / h200.base.tier('HBM').read_in_flight_B)
  assert ratio == pytest.approx(12.288 / 4.8)


def test_lpddr_draws_less_and_what_is_not_designed_stays(h200):
  space = design.design_space(h200.base, design.Kit(channel='LPDDR5X'))
  made, base = design.machine(space, space.reference), h200.base
  ratio = made.tier('DRAM').device_J_per_B / base.tier('DRAM').device_J_per_B
  assert float(ratio) == pytest.approx(1 / 3)
  for same in ('L2.read_Bps', 'HBM.latency_s', 'system.launch_s'):
    assert float(made.values()[same]) == float(base.values()[same])


def test_cxl_and_flash_become_tiers(h200):
  kit = design.Kit(cxl=True, hbf=True)
  space = design.design_space(h200.base, kit)
  x = space.point(cxl_modules=2, hbf_stacks=4)
  made = design.machine(space, x)
  assert float(made.tier('CXL').capacity_B) == pytest.approx(512e9)
  assert made.tier('CXL').via == 'PCIe'
  assert float(made.tier('HBF').read_Bps) == pytest.approx(6.4e12)
  # Four more stacks that idle.
  assert float(made.static_W) == pytest.approx(105 + 4 * 3.0)
  assert 'CXL' not in h200.base.tier_names


def test_gradients_of_the_machine(h200, x64):
  x = h200.reference + 0.1
  weights = np.random.default_rng(0).normal(size=len(h200.base.infos()))

  def sum_of_leaves(x):
    return sum(
      w * leaf
      for w, leaf in zip(
        weights, jax.tree.leaves(design.machine(h200, x)), strict=True
      )
    )

  found = jax.jit(jax.grad(sum_of_leaves))(x)
  for i in range(len(x)):
    step = 1e-6 * np.eye(len(x))[i]
    slope = (sum_of_leaves(x + step) - sum_of_leaves(x - step)) / 2e-6
    assert float(found[i]) == pytest.approx(float(slope), rel=1e-6, abs=1e-8)


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.integers(0, 10), st.floats(0, 1), st.floats(0.01, 0.5))
def test_more_is_never_less(h200, at, where, more):
  """A larger part never slows or shrinks a tier, nor lowers a bill."""
  x = h200.low + where * (h200.high - h200.low)
  y = x + more * np.eye(len(x))[at]
  old, new = (design.machine(h200, p).values() for p in (x, y))
  for name in old:
    if name.endswith(('_Bps', '.capacity_B', '.power_cap_W', '.static_W')):
      assert float(new[name]) >= float(old[name]) * (1 - 1e-12)
  for lines in (bill.bill, bill.power_W, bill.phy_mm2):
    assert bill.total(lines(h200, y)) >= bill.total(lines(h200, x)) - 1e-9


def test_the_bill_of_an_h100_by_hand():
  space = design.design_space(load_catalog('h100-sxm').system)
  lines = bill.bill(space, space.reference)
  hbm = 4 * 16.9 * 80 * (5.234 / 6.4) ** 0.55
  assert lines['HBM'] == pytest.approx(hbm)
  assert lines['DRAM'] == pytest.approx(256 * 13.8)
  module = sum(
    lines[n] for n in ('accelerator', 'HBM', 'packaging', 'board', 'NVLink')
  )
  assert module == pytest.approx(28000)
  watts = bill.total(bill.power_W(space, space.reference))
  assert watts == pytest.approx(10200 / EIGHT, rel=0.01)  # DGX H100: 10.2 kW
  assert lines['site'] == pytest.approx(11.7 * watts * 5 / 15)


@pytest.mark.parametrize(
  ('name', 'low', 'high'),
  [
    # DGX H100 about 270 kUSD (SemiAnalysis 2023); 394 kUSD with InfiniBand and
    # cables in a cluster of 1,024 (August 2024).
    ('h100-sxm', 270e3, 394e3),
    # A module of 40 kUSD (siliconanalysts) and the host of a DGX H100.
    ('b200-sxm', 40e3 * EIGHT, 515e3),
  ],
)
def test_bills_are_in_line_with_published_prices(name, low, high):
  space = design.design_space(load_catalog(name).system)
  lines = bill.bill(space, space.reference)
  assert low < EIGHT * (bill.total(lines) - lines['site']) < high
  assert all(value > 0 for value in lines.values())


def test_owning_costs_less_than_renting():
  """An owner without staff, space and margin pays less than a tenant."""
  for name in ('h100-sxm', 'h200-sxm', 'b200-sxm'):
    space = design.design_space(load_catalog(name).system)
    rates = bill.rates(space, space.reference)
    board_W = bill.power_W(space, space.reference)['board']
    usd_per_h = 3600 * (rates.usd_per_s + board_W * rates.usd_per_J)
    rent = space.prices.of('accelerator_usd_per_hour', name)
    assert 0.25 * rent < usd_per_h < rent


def test_bounds_and_names_of_a_point(h200):
  with pytest.raises(errors.SpecError, match="did you mean 'stacks'"):
    h200.point(stack=3)
  with pytest.raises(errors.SpecError, match='pin_Bps = .*expected 7.5e'):
    h200.point(pin_Bps=1e10)
  with pytest.raises(errors.SpecError, match="no 'l4' in machines"):
    design.design_space(load_catalog('l4').system)
  cheap = h200.inside.model_copy(
    update={'module_usd': parts.Figure(value=3000, source='a test')}
  )
  with pytest.raises(errors.SpecError, match='module_usd = 3000 is less'):
    bill.check(dataclasses.replace(h200, inside=cheap))
