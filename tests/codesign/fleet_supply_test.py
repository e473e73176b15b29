"""A fleet's plan as the report draws it."""

import fleet_hand_made as hand
import numpy as np

from diffmem.codesign import fleet
from diffmem.report import fleet_supply


def test_the_report_shows_what_the_plan_says():
  parsed = fleet.parse_fleet(hand.document(parts__small__contracted=[0, 25]))
  base, other = (
    fleet.plan_fleet(parsed, name, checked=0, deadlines=False)
    for name in ('flat', 'shortage')
  )
  comparison = fleet.compare(base, other)
  shown = fleet_supply.supply_of(other, comparison)
  parts = {p.name: p for p in shown.parts}
  assert shown.scenario == 'shortage' and set(parts) >= {'big', 'small', 'HBM'}
  for name, part in other.parts.items():
    np.testing.assert_allclose(
      parts[name].held + parts[name].delivered, part.in_service, atol=1e-5
    )
    for order in parts[name].orders:
      assert order.delivered - order.ordered == part.lead_quarters
    assert sum(o.amount for o in parts[name].orders) == (
      parts[name].delivered.sum()
    )
  np.testing.assert_allclose(
    parts['DRAM'].held + parts['DRAM'].delivered,
    np.array(other.memories['DRAM'].in_service_GB) / 1e3,
  )
  worth = {w.quarter: w.usd for w in other.worth
           if (w.kind, w.name) == ('part', 'big')}  # fmt: skip
  assert parts['big'].worth[0] == worth[other.quarters[0]]
  assert len(shown.moves) == min(12, len(comparison.moves)) > 0
  assert shown.moves[0].share == max(m.share for m in comparison.moves)
