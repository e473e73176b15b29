"""The example fleet, end to end: ten workloads, three parts, eight quarters."""

import pathlib

import numpy as np
import pytest

from diffmem.codesign import fleet

# MUSD of glut, flat and shortage.
GOLDEN = (112.5478448, 112.9450995, 177.1805418)
CONFIGS = pathlib.Path(__file__).parents[2] / 'experiments' / 'configs'


@pytest.fixture(scope='module')
def plans():
  parsed = fleet.load_fleet(CONFIGS / 'fleet.toml')
  assert (len(parsed.workloads), len(parsed.parts)) == (10, 3)
  assert parsed.quarters == 8
  found = [
    fleet.plan_fleet(parsed, name, checked=0, deadlines=False)
    for name in ('glut', 'flat', 'shortage')
  ]
  return parsed, found


def test_accounts_balance(plans):
  for one in plans[1]:
    assert one.account.balance < 1e-9
    assert sum(one.account.by('quarter', 'part').values()) == pytest.approx(
      one.present_usd, rel=1e-9
    )


def test_golden_costs(plans):
  """What the rates, prices and the programme gave when this was written."""
  costs = [one.present_usd / 1e6 for one in plans[1]]
  np.testing.assert_allclose(costs, GOLDEN, rtol=1e-6)
  assert costs[0] < costs[1] < costs[2]


def test_a_shortage_moves_tuning_to_dram(plans):
  """From B200 to H100 with its optimizer in DRAM, for which DRAM is bought."""
  _, (_, flat, shortage) = plans
  found = fleet.compare(flat, shortage)
  moved = [
    m.tokens_per_s
    for m in found.moves
    if m.workload == 'tune-70b'
    and m.source[0] == 'b200-sxm'
    and m.target == ('h100-sxm', 'hbm-dram')
  ]
  assert sum(moved) > 5e5
  bought = [sum(p.memories['DRAM'].ordered_GB) for p in (flat, shortage)]
  assert bought[1] > bought[0] + 5e4
  assert sum(found.by_workload.values()) == pytest.approx(
    found.extra_usd, rel=1e-9
  )


def test_every_rate_has_a_plan_behind_it(plans):
  parsed, _ = plans
  assert {r.workload for r in parsed.rates} == {
    w.name for w in parsed.workloads
  }
  for rate in parsed.rates:
    assert rate.source.startswith('plan for ')
    assert rate.part in rate.source
