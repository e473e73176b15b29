"""Made-up data in the shape of a Xeon, for tests and for a look at the page.

`python tests/report/report_demo.py out.html` writes a whole report of it.
"""

import sys

import numpy as np

from diffmem import report

_LEVELS = {'L1': 32 * 2**10, 'L2': 2**20, 'L3': 36 * 2**20}
_LATENCY = (1.4e-9, 5e-9, 25e-9, 90e-9)


def _noisy(rng, values, rel):
  return values * np.exp(rng.normal(0, rel, values.shape))


def _served(x, values, sharpness=3.0):
  """Mixes per-level values by what share of x each level misses."""
  miss = [1 / (1 + (size / x) ** sharpness) for size in _LEVELS.values()]
  result = np.full(x.shape, values[0])
  for m, inner, outer in zip(miss, values, values[1:], strict=False):
    result = result + m * (outer - inner)
  return result


def _sweep(label, x, truth, rng, rel=0.015, line=True):
  """A measured curve around a truth, with a fit a little beside it."""
  grid = np.geomspace(x.min(), x.max(), 160)
  fitted = truth(x) * np.exp(0.01 * np.sin(np.log(x) * 2))
  fine = truth(grid) * np.exp(0.01 * np.sin(np.log(grid) * 2))
  return report.Curve(
    label, x, _noisy(rng, truth(x), rel), fitted,
    rel_std=np.full(x.shape, rel), held_out=np.arange(x.size) % 5 == 3,
    line=report.Fit(grid, fine, fine * 0.95, fine * 1.05) if line else None,
  )  # fmt: skip


def _latency(rng):
  x = 2.0 ** np.arange(12, 29.01, 0.5)
  curve = _sweep('', x, lambda v: _served(v, _LATENCY), rng, 0.02)
  marks = {
    f'{name} {size / 2**10:.0f} KiB' if size < 2**20
    else f'{name} {size / 2**20:.0f} MiB': size
    for name, size in _LEVELS.items()
  }  # fmt: skip
  return report.CurveSet([curve], marks=marks)


def _bandwidth(rng):
  x = 2.0 ** np.arange(12, 29.01, 1)
  sets = []
  for op, scale in (('Read', 1.0), ('Copy', 0.8), ('Triad', 0.85)):
    found = []
    for threads, gain in ((1, (1, 1, 1, 1)), (2, (2, 2, 1.7, 1.4))):
      rates = np.array([180e9, 75e9, 28e9, 13e9]) * scale * np.array(gain)

      def truth(v, rates=rates):
        return 1 / _served(v, 1 / rates)

      label = f'{threads} thread{"s" if threads > 1 else ""}'
      found.append(_sweep(label, x, truth, rng, 0.03))
    sets.append(report.CurveSet(found, op))
  return sets


def _loaded(rng):
  x = np.linspace(0.3e9, 20.3e9, 16)

  def truth(v):
    return 90e-9 * (1 - (v / 21.5e9) ** 3) ** (-1 / 3) * 1.02

  return report.CurveSet([_sweep('', x, truth, rng, 0.02)])


def _disk(rng):
  x = 2.0 ** np.arange(12, 23.01, 1)
  rate, delay = [], []
  for depth in (1, 4, 16):

    def bandwidth(v, depth=depth):
      slow = v * depth / 9e-5
      return (slow**-2 + 1.6e9**-2) ** -0.5

    def latency(v, depth=depth, bandwidth=bandwidth):
      return depth * v / bandwidth(v)

    label = f'depth {depth}'
    rate.append(_sweep(label, x, bandwidth, rng, 0.06))
    delay.append(_sweep(label, x, latency, rng, 0.06))
  return report.Disk(report.CurveSet(rate), report.CurveSet(delay))


def _roofline(rng):
  tiers = {'L1': 360e9, 'L2': 150e9, 'L3': 48e9, 'DRAM': 18e9}
  engines = {'matrix:float32': 190e9, 'vector:float32': 60e9}
  points = []
  for n in (64, 128, 256, 512, 1024):
    rate = min(190e9, n / 6 * 18e9) * (0.55 + 0.08 * np.log2(n / 64))
    points.append(report.RoofPoint(
      'gemm float32', f'n = {n}', n / 6, rate, rate * rng.uniform(0.93, 1.05)
    ))  # fmt: skip
  for size, rate in (('256 KiB', 36e9), ('4 MiB', 12e9), ('256 MiB', 4.4e9)):
    points.append(
      report.RoofPoint('streaming sum', size, 0.25, rate, rate * 1.04)
    )
  return report.Roofline(tiers, engines, points)


def _groups(rng):
  rows = (
    ('pointer_chase', 'L1', 'latency_s'), ('pointer_chase', 'L2', 'latency_s'),
    ('pointer_chase', 'L3', 'latency_s'),
    ('pointer_chase', 'DRAM', 'latency_s'),
    ('stream', 'L1', 'bandwidth_Bps'), ('stream', 'DRAM', 'bandwidth_Bps'),
    ('triad', 'DRAM', 'bandwidth_Bps'),
    ('loaded_latency', 'DRAM', 'latency_s'),
    ('loaded_latency', 'DRAM', 'latency_at_bandwidth_s'),
    ('random_read', 'disk', 'bandwidth_Bps'), ('gemm', '', 'time_s'),
  )  # fmt: skip
  found = []
  for op, tier, observable in rows:
    median = float(rng.uniform(0.6, 6))
    found.append({
      'system': 'demo-xeon', 'op': op, 'tier': tier, 'observable': observable,
      'n': int(rng.integers(4, 30)), 'mape': median * 1.3, 'median_ape': median,
      'p90_ape': median * 2.6, 'bias': float(rng.normal(0, 2)),
      'coverage90': float(rng.uniform(70, 98)), 'unanswered': 0,
    })  # fmt: skip
  return found


def _programs(rng):
  found = []
  for name, sizes, base in (
    ('matrix chain', (128, 256, 512, 1024), 3e-5),
    ('streaming sum', (2**16, 2**20, 2**23, 2**26), 2e-5),
  ):
    for i, size in enumerate(sizes):
      measured = base * 7.3**i
      predicted = measured * float(np.exp(rng.normal(0, 0.07)))
      shown = (
        f'n = {size}' if i < 9 and name == 'matrix chain' else f'{size:,} B'
      )
      found.append(report.Program(
        name, shown, measured, predicted, predicted * 0.9, predicted * 1.1
      ))  # fmt: skip
  return found


def _parameters():
  make = report.Parameter
  found = [
    make('L1.capacity_B', 32800, 'B', 0.012, 32768, 'fitted'),
    make('L1.latency_s', 1.41e-9, 's', 0.004, 1.2e-9, 'fitted'),
    make('L2.capacity_B', 1.02e6, 'B', 0.03, 1048576, 'fitted'),
    make('L2.latency_s', 5.02e-9, 's', 0.006, 4e-9, 'fitted'),
    make('L3.capacity_B', 36.5e6, 'B', 0.08, 36e6, 'fitted'),
    make('DRAM.latency_s', 9.1e-8, 's', 0.008, 1e-7, 'fitted'),
    make('DRAM.read_Bps', 2.15e10, 'B/s', 0.4, 2e10, 'unidentified',
         'loaded latency above 85 % load: more threads or a faster kernel'),
    make('DRAM.bend_write', 0.02, '1', 0.21, 0.0, 'unidentified',
         'copies with a write share between 0 and 0.5', is_log=False),
    make('DRAM.device_J_per_B', 4.8e-11, 'J/B', 0.5, 4.8e-11, 'prior',
         'power during a streaming read (RAPL needs root here)'),
    make('system.static_W', 55, 'W', 0.5, 55, 'prior', 'idle power'),
    make('disk.latency_s', 9.2e-5, 's', 0.03, 1e-4, 'fitted'),
  ]  # fmt: skip
  found += [
    make(f'L1.unused_{i}', 1.0, '1', 1.4, 1.0, 'unused') for i in range(4)
  ]
  return found


def _plan(rng):
  plans = []
  for i, mesh in enumerate((
    {'data': 16, 'fsdp': 8, 'tensor': 8, 'pipeline': 1},
    {'data': 8, 'fsdp': 8, 'tensor': 8, 'pipeline': 2},
    {'data': 32, 'fsdp': 8, 'tensor': 4, 'pipeline': 1},
    {'data': 4, 'fsdp': 16, 'tensor': 8, 'pipeline': 2},
    {'data': 16, 'fsdp': 16, 'tensor': 4, 'pipeline': 1},
  )):  # fmt: skip
    time = 4.31 * 1.027**i
    plans.append({
      'mesh': mesh, 'micro_batch': 1 + i % 2,
      'recompute': ('selective', 'full')[i % 2],
      'placement': {'optimizer': {'HBM': 0.25, 'host DRAM': 0.75}},
      'predicted': {
        'step_time_s': time, 'tokens_per_s': 4.19e6 / time,
        'energy_per_token_J': 0.62 * 1.02**i, 'cost_per_token_usd': None,
        'memory_bytes': {'HBM': 7.1e10},
      },
      'interval90': {'step_time_s': [time * 0.93, time * 1.09]},
      'certified_gap': 2e-4, 'rounding_loss': None,
    })  # fmt: skip
  names = {
    'matrix:bfloat16.rate_FLOPps': -0.58, 'HBM.read_Bps': -0.17,
    'NVLink.read_Bps': -0.11, 'InfiniBand.read_Bps': -0.08,
    'HBM.capacity_B': -0.021, 'NVLink.latency_s': 0.017,
    'InfiniBand.latency_s': 0.031, 'system.launch_s': 0.044,
    'host DRAM.read_Bps': -0.006, 'HBM.latency_s': 0.009,
    'L2.capacity_B': 0.0001,
  }  # fmt: skip
  elasticities = {
    k: {'value': v, 'lo90': v - 0.1 * abs(v) - 0.004,
        'hi90': v + 0.12 * abs(v) + 0.004}
    for k, v in names.items()
  }  # fmt: skip
  return report.Plan(
    {
      'plans': plans, 'elasticities': elasticities,
      'shadow_prices': {
        'HBM capacity': {'value': 0.0031, 'unit': 's per GB'},
        'host DRAM capacity': {'value': 0.0, 'unit': 's per GB'},
      },
      'search': {'configurations': 39812, 'seconds': 0.41},
    },
    system='h100-sxm', workload='claude-scale-moe-1t', chips=1024,
    objective='step time', system_is_prior=True, workload_is_hypothetical=True,
    memory={
      'HBM': {'weights': 2.6e10, 'gradients': 1.3e10, 'optimizer': 8e9,
              'activations': 2.1e10, 'buffers': 1.1e9},
      'host DRAM': {'optimizer': 1.2e11, 'activations': 9e9},
    },
    capacity={'HBM': 8e10, 'host DRAM': 2.5e11},
    breakdown={
      'expert FFN': 1.92, 'attention': 0.88, 'all-to-all': 0.61,
      'all-gather': 0.52, 'optimizer step': 0.31, 'router': 0.05,
    },
  )  # fmt: skip


def report_data(seed=0):
  """Every part filled."""
  rng = np.random.default_rng(seed)
  return report.ReportData(
    "This machine's memory, measured and fitted",
    report.Machine(
      'demo-xeon', '2025-11-21 02:10 UTC',
      {'Processor': 'Intel Xeon (demo data)', 'Cores': '2', 'Memory': '16 GB',
       'System': 'Linux 6.1'},
      412, 47.3, False,
      'median repeat noise 1.8 %, but 12 of 412 rows above 10 %',
    ),
    _latency(rng), _bandwidth(rng), _loaded(rng), _disk(rng), _roofline(rng),
    _groups(rng), _programs(rng), _parameters(), _plan(rng),
    report.Provenance(
      {'diffmem': '0.1.0', 'jax': '0.10.1', 'numpy': '2.3', 'Python': '3.11'},
      {'runs/quickstart/traces.parquet': '9f' * 32},
      'python -m experiments.quickstart --seed=0 --out=runs/quickstart', 0,
      '2025-11-21 02:11 UTC',
    ),
  )  # fmt: skip


if __name__ == '__main__':
  print(report.write_report(sys.argv[1], report_data()))
