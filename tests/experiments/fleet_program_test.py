"""The fleet's program as a user runs it."""

import json

from .running import assert_refused, run

_TOML = """
name = 'two workloads'
first_quarter = '2027Q1'
quarters = 3
energy_usd_per_kWh = 0.1
energy_over_device_energy = 1.2

[parts.gpu]
price_usd = 30000
date = '2026'
source = 'by hand'
memory_GB = { HBM = 100 }
lead_quarters = 1
existing = 50

[memories.HBM]
soldered = true
usd_per_GB = 18
supply_GB = 3.2e3

[[workloads]]
name = 'chat'
demand_tokens_per_s = [4.0e4, 8.0e4, 9.0e4]
hard = true

[[workloads]]
name = 'batch'
demand_tokens_per_s = 2.0e4
unmet_usd_per_Mtok = 2.0

[[rates]]
workload = 'chat'
part = 'gpu'
tokens_per_s = 1000.0
power_W = 600.0
source = 'by hand'

[[rates]]
workload = 'batch'
part = 'gpu'
tokens_per_s = 800.0
power_W = 650.0
source = 'by hand'
"""


def test_plans_beside_a_scenario_without_one(tmp_path):
  """Half the memory is too little for what must be served: exit code 2."""
  (tmp_path / 'fleet.toml').write_text(_TOML)
  done = run(
    'experiments.fleet', f'--fleet={tmp_path / "fleet.toml"}',
    '--scenario=flat,glut,shortage', f'--json={tmp_path / "out.json"}',
    f'--report={tmp_path / "out.html"}',
  )  # fmt: skip
  found = json.loads((tmp_path / 'out.json').read_text())
  assert [p['outcome'] for p in found['plans']] == [
    'planned', 'planned', 'infeasible'
  ]  # fmt: skip
  assert_refused(done, 'shortage: Demand that must be met', 'would do')
  for text in (
    'the HBM that is reserved', 'Where each workload runs', 'When to order',
    'What one more is worth', 'glut beside flat',
  ):  # fmt: skip
    assert text in done.stdout
  assert found['comparisons'][0]['extra_usd'] < 0
  assert 'two workloads' in (tmp_path / 'out.html').read_text()
