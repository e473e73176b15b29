"""From the answers of co-design to the data of a report."""

import dataclasses
import types

import numpy as np

from diffmem.codesign.fleet import result as fleet_result
from diffmem.codesign.kv.boundary import Boundary
from diffmem.codesign.kv.capacity import Curve, Interval, KvCapacity, NextGB
from diffmem.report import fleet_supply, tier_parts

_YEAR_S = 8766 * 3600


def _make(cls, /, **known):
  """A dataclass of which a test needs some fields."""
  names = [f.name for f in dataclasses.fields(cls)]
  assert set(known) <= set(names)
  return cls(**dict.fromkeys(names) | known)


def _kv():
  x = np.geomspace(1e9, 1e13, 5)
  hit = np.array([[0.1, 0.2, 0.3, 0.4, 0.5]]) * [[1.0], [0.9], [1.1]]
  worth = np.array([[9.0, 0.0, 3.0, 2.0, 1.0]] * 3)
  next_gb = _make(
    NextGB, tier='DRAM', value_usd_per_s=Interval(2e-8, 1e-8, 3e-8),
    cost_usd_per_s=1e-8,
  )  # fmt: skip
  curve = _make(Curve, capacity_B=x, hit=hit, worth_usd_per_GB={'DRAM': worth})
  return _make(KvCapacity, supported_B=1e12, curve=curve, next_GB=(next_gb,))


def test_kv_shows_only_what_the_trace_supports():
  tier = types.SimpleNamespace(name='DRAM', usd_per_GB=12.0)
  part = tier_parts.kv_part(_kv(), [tier], trace='a trace')
  (hit,) = part.hit_rates
  assert hit.x.max() == 1e12
  np.testing.assert_allclose(hit.y, [0.1, 0.2, 0.3, 0.4])
  np.testing.assert_allclose(hit.lo, 0.9 * hit.y)
  np.testing.assert_allclose(hit.hi, 1.1 * hit.y)
  (worth,) = part.worth
  np.testing.assert_allclose(worth.x, [1e10, 1e11, 1e12])
  # What is worth nothing has no place on a logarithmic axis.
  np.testing.assert_array_equal(worth.y, [np.nan, 3.0, 2.0])
  (one,) = part.next_gb
  np.testing.assert_allclose(
    [one.value, one.lo, one.hi, one.price],
    np.array([2e-8, 1e-8, 3e-8, 1e-8]) * _YEAR_S,
  )
  assert part.prices == {'DRAM': 12.0}
  assert part.boundary is None


def test_the_boundary_says_where_reloading_is_quicker():
  tokens, links = np.array([1e3, 1e4, 1e5]), np.array([1e9, 1e10])
  recompute_s, size_B = tokens * 2e-5, tokens * 1e5
  advantage = recompute_s[:, None] * links / size_B[:, None]
  boundary = Boundary(
    'model', tokens, size_B, recompute_s, size_B / recompute_s, links,
    advantage, {'SSD': np.array([5e9, 6e9, 7e9])}, {'SSD': 0.0},
  )  # fmt: skip
  part = tier_parts.kv_part(_kv(), [], boundary).boundary
  quicker = size_B / links[:, None] < recompute_s
  np.testing.assert_array_equal(
    np.array(part.names)[part.choice.astype(int)],
    np.where(quicker, 'reload', 'recompute'),
  )
  assert part.marks == {'SSD': (1e4, 6e9)}


def test_retrieval_keeps_designs_and_gaps():
  layout = types.SimpleNamespace(name='graph in DRAM')
  design = types.SimpleNamespace(
    candidate=types.SimpleNamespace(layout=layout, code_B=0), machines=2,
    drives=0, modules=9, memory_B={'DRAM': 5e11}, usd_per_s=1e-3,
    query_J=0.01, latency_s=4e-4,
  )  # fmt: skip
  found = types.SimpleNamespace(designs=(design,), help='why')
  part = tier_parts.retrieval_part(
    found, 5e4,
    {'queries_per_s': [1e4, 1e5], 'recall': [0.8, 0.9],
     'usd_per_million': [[3.0, None], [1.0, 2.0]]},
  )  # fmt: skip
  (row,) = part.rows
  np.testing.assert_allclose(row.usd_per_Mquery, 1e6 * 1e-3 / 5e4)
  assert row.note == '9 modules each'
  assert part.placement == {'graph in DRAM': {'DRAM': 5e11}}
  low, high = part.curves
  np.testing.assert_array_equal(low.y, [3.0, 1.0])
  np.testing.assert_array_equal(high.y, [np.nan, 2.0])


def _fleet():
  part = _make(
    fleet_result.PartTimeline, lead_quarters=1, ordered=(10.0, 0.0),
    delivered=(0.0, 10.0), contracted=(4.0, 0.0), in_service=(4.0, 14.0),
    busy=(4.0, 12.0), price_usd=(1e4, 9e3),
  )  # fmt: skip
  served = _make(
    fleet_result.Served, workload='chat', part='big', variant='hbm',
    tokens_per_s=(1e3, 3e3),
  )  # fmt: skip
  demand = _make(fleet_result.Demand, unmet_tokens_per_s=(5e2, 0.0))
  worth = _make(
    fleet_result.Worth, kind='part', name='big', quarter='q2', usd=700.0
  )
  return _make(
    fleet_result.FleetResult, scenario='short', quarters=('q1', 'q2'),
    parts={'big': part}, demand={'chat': demand}, served=(served,),
    worth=(worth,), memories={},
  )  # fmt: skip


def test_a_fleet_becomes_timelines_orders_and_moves():
  move = _make(
    fleet_result.Move, workload='chat', quarter='q1', source=('big', 'hbm'),
    target=('unmet', ''), share=0.33, extra_usd=800.0,
  )  # fmt: skip
  other = _make(
    fleet_result.Comparison, base='flat', extra_usd=1e3, moves=(move,)
  )
  supply = fleet_supply.supply_of(_fleet(), other)
  (part,) = supply.parts
  np.testing.assert_array_equal(part.held, [0, 4])
  np.testing.assert_array_equal(part.delivered, [4, 10])
  np.testing.assert_array_equal(part.busy, [4, 12])
  np.testing.assert_array_equal(part.worth, [0, 700])
  assert [(o.ordered, o.delivered, o.amount) for o in part.orders] == [
    (-1, 0, 4.0), (0, 1, 10.0)
  ]  # fmt: skip
  (service,) = supply.services
  np.testing.assert_array_equal(service.asked, [1.5e3, 3e3])
  np.testing.assert_array_equal(service.unmet, [5e2, 0])
  (moved,) = supply.moves
  assert (moved.from_part, moved.to_part) == ('big hbm', '')
  assert (supply.base, supply.extra_usd) == ('flat', 1e3)
