"""Small fleets that can be worked out by hand."""

import copy

BASE = {
  'name': 'by hand',
  'first_quarter': '2027Q1',
  'quarters': 4,
  'discount_rate': 0.0,
  'finance_rate': 0.0,
  'energy_usd_per_kWh': 0.1,
  'energy_over_device_energy': 1.2,
  'site_MW': [0.2, 0.2, 0.22, 0.4],
  'parts': {
    'big': {
      'price_usd': 20000.0, 'date': '2026', 'source': 'by hand',
      'memory_GB': {'HBM': 100}, 'lead_quarters': 1, 'supply': 500,
      'existing': 100, 'host_W': 100.0,
    },
    'small': {
      'price_usd': 8000.0, 'date': '2026', 'source': 'by hand',
      'memory_GB': {'HBM': 40}, 'lead_quarters': 0, 'supply': 180,
    },
  },
  'memories': {
    'HBM': {'soldered': True, 'usd_per_GB': 20.0, 'supply_GB': 8e3,
            'lead_quarters': 2, 'orderable_GB': 2e3,
            'reservation_share': 0.1},
    'DRAM': {'usd_per_GB': 10.0, 'existing_GB': 1e3, 'supply_GB': 9e3,
             'lead_quarters': 1},
  },
  'workloads': [
    {'name': 'chat', 'demand_tokens_per_s': [1e5, 2e5, 3e5],
     'unmet_usd_per_Mtok': 5.0},
    {'name': 'train', 'demand_tokens_per_s': 5e4,
     'unmet_usd_per_Mtok': 2.0},
  ],
  'rates': [
    {'workload': 'chat', 'part': 'big', 'tokens_per_s': 1000.0,
     'power_W': 600.0, 'source': 'by hand'},
    {'workload': 'chat', 'part': 'small', 'tokens_per_s': 350.0,
     'power_W': 300.0, 'source': 'by hand'},
    {'workload': 'chat', 'part': 'small', 'variant': 'dram',
     'tokens_per_s': 450.0, 'power_W': 320.0, 'memory_GB': {'DRAM': 60.0},
     'source': 'by hand'},
    {'workload': 'train', 'part': 'big', 'tokens_per_s': 500.0,
     'power_W': 700.0, 'source': 'by hand'},
    {'workload': 'train', 'part': 'small', 'variant': 'dram',
     'tokens_per_s': 150.0, 'power_W': 330.0, 'memory_GB': {'DRAM': 200.0},
     'source': 'by hand'},
  ],
}  # fmt: skip


def document(**changes) -> dict:
  """The fleet with fields replaced, by dotted path with '__' for dots."""
  made = copy.deepcopy(BASE)
  for path, value in changes.items():
    *parents, last = path.split('__')
    at = made
    for name in parents:
      at = at[int(name) if isinstance(at, list) else name]
    at[int(last) if isinstance(at, list) else last] = value
  return made
