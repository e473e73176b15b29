"""Rates from plans: what is asked, what is kept, what is planned again."""

import dataclasses
import types

import fleet_hand_made as hand
import pytest

from diffmem import checkpoint, errors
from diffmem.codesign import fleet
from diffmem.codesign.fleet import rates


def _document(batch=64):
  made = hand.document(rates=[])
  made['variants'] = {
    'hbm': {'memories': ['HBM']},
    'kv': {'homes': {'kv_cache': ['DRAM']}, 'batch_scale': 2.0},
  }
  made['parts']['big'] |= {'system': 'h100-sxm', 'memory_GB': {'HBM': 80}}
  made['workloads'][0] |= {
    'model': 'llama-3.1-8b', 'chips': {'big': 2}, 'batch': batch,
    'context': 4096, 'variants': ['hbm', 'kv'],
  }  # fmt: skip
  return made


@pytest.fixture
def planner(monkeypatch):
  """The planner with a made-up answer; calls are kept."""
  calls = []

  def make_plan(system, model, **asked):
    calls.append({'model': model, **asked})
    if asked['batch'] > 200:
      return types.SimpleNamespace(plans=(), help='lacks memory')
    plan = types.SimpleNamespace(
      mesh={'tensor': 2, 'data': 1},
      predicted={
        'tokens_per_s': 1000.0, 'device_power_W': 400.0,
        'memory_bytes': {'HBM': 50e9, 'DRAM': 7e9, 'SSD': 1e9},
      },
    )  # fmt: skip
    search = types.SimpleNamespace(certified_gap=1e-4)
    return types.SimpleNamespace(plans=(plan,), search=search)

  monkeypatch.setattr(rates.planning, 'make_plan', make_plan)
  return calls


def test_a_rate_is_that_of_one_accelerator(planner, tmp_path):
  parsed = fleet.parse_fleet(_document())
  found, refused = rates.plan_rates(parsed, tmp_path / 'rates.json')
  assert not refused and [r.variant for r in found] == ['hbm', 'kv']
  assert found[0].tokens_per_s == 500.0 and found[0].power_W == 400.0
  # The fleet knows no SSD.
  assert found[0].memory_GB == {'HBM': 50.0, 'DRAM': 7.0}
  assert 'h100-sxm' in found[0].source and 'tensor=2' in found[0].source
  assert [c['batch'] for c in planner] == [64, 128]
  limits = planner[0]['constraints'].memory_B
  assert dict(limits) == {'DRAM': 1.0, 'SSD': 1.0}
  assert planner[1]['constraints'].homes == {'kv_cache': ('DRAM',)}


def test_what_is_done_is_not_planned_again(planner, tmp_path):
  path = tmp_path / 'rates.json'
  parsed = fleet.parse_fleet(_document())
  seen = []
  rates.plan_rates(parsed, path, on_progress=lambda *a: seen.append(a))
  assert seen == [('plans', 1, 2), ('plans', 2, 2)]
  first, _ = rates.plan_rates(parsed, path)
  assert len(planner) == 2 and len(first) == 2
  changed = fleet.parse_fleet(_document(batch=128))
  found, refused = rates.plan_rates(changed, path)
  assert len(planner) == 4 and len(found) == 1
  assert refused == {'chat/big/kv': 'lacks memory'}


def test_an_interrupted_run_keeps_what_is_done(planner, tmp_path):
  path = tmp_path / 'rates.json'
  parsed = fleet.parse_fleet(_document())

  def stop(stage, done, total):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    rates.plan_rates(parsed, path, on_progress=stop)
  rates.plan_rates(parsed, path)
  assert len(planner) == 2


def test_another_fit_is_planned_again(planner, tmp_path):
  path = tmp_path / 'rates.json'
  parsed = fleet.parse_fleet(_document())
  fitted = checkpoint.load_system('h100-sxm')
  rates.plan_rates(parsed, path, {'big': fitted})
  slower = fitted.system.with_values({'HBM.read_Bps': 1e12})
  slower = dataclasses.replace(fitted, system=slower)
  rates.plan_rates(parsed, path, {'big': slower})
  assert len(planner) == 4


def test_damaged_files_and_empty_fleets(planner, tmp_path):
  path = tmp_path / 'rates.json'
  path.write_text('{')
  with pytest.raises(errors.SpecError, match=r'rates\.json'):
    rates.plan_rates(fleet.parse_fleet(_document()), path)
  with pytest.raises(errors.SpecError, match='nothing to plan'):
    rates.plan_rates(fleet.parse_fleet(hand.document()), tmp_path / 'b.json')
