"""Made-up co-design results, for tests and for a look at the page.

`python tests/report/codesign_demo.py out.html` writes a whole report of them.
"""

import sys

import numpy as np

from diffmem import report
from diffmem.report import codesign_data as cd

QUARTERS = [f'{year} Q{q}' for year in (2027, 2028) for q in (1, 2, 3, 4)]


def mix():
  return [
    cd.MixRow('chat', 'decode', 1.8e6, 612, 3.9e5, 0.61, 0.217, 0.0246,
              'tensor 8', 'KV 22 % in host DRAM'),
    cd.MixRow('long documents', 'prefill', 9.2e6, 188, 1.27e5, 0.043, 0.0138,
              1.31, 'tensor 4, context 2', 'all in HBM'),
    cd.MixRow('agents, 128k', 'decode', 2.4e5, 341, 2.1e5, 2.55, 0.875, 0.0391,
              'tensor 8, pipeline 2', 'KV 61 % in CXL'),
    cd.MixRow('pre-training', 'train', 3.1e6, 1024, 7.0e5, 0.592, 0.226, 4.31,
              'data 16, fsdp 8, tensor 8', 'optimizer 75 % in host DRAM'),
  ]  # fmt: skip


def accounts():
  part = cd.AccountPart
  cost = [
    part('Accelerators, purchase', 0.292, 'purchase'),
    part('HBM, purchase', 0.118, 'purchase'),
    part('Host DRAM, purchase', 0.021, 'purchase'),
    part('CXL, purchase', 0.0004, 'purchase'),
    part('HBM, device', 0.0131, 'energy of memory'),
    part('HBM, path', 0.0172, 'energy of memory'),
    part('NVLink', 0.0055, 'energy of memory'),
    part('Matrix unit', 0.0364, 'energy of arithmetic'),
    part('Static power', 0.0589, 'static power'),
  ]
  time = [
    part('HBM', 0.0171, 'memory'), part('NVLink', 0.0048, 'memory'),
    part('Host DRAM', 0.0031, 'memory'),
    part('Matrix unit', 0.0064, 'arithmetic'),
    part('Launches', 0.0012, 'start'), part('Overlap', -0.0080, 'overlap'),
  ]  # fmt: skip
  joule = [
    part('HBM, device', 0.032, 'device'), part('HBM, path', 0.048, 'path'),
    part('NVLink', 0.015, 'path'), part('Host DRAM', 0.009, 'device'),
    part('Matrix unit', 0.067, 'arithmetic'),
    part('Static power', 0.046, 'static'),
  ]  # fmt: skip

  def account(quantity, unit, per, parts):
    return cd.Account(
      quantity, unit, per, parts, float(np.sum([p.value for p in parts]))
    )

  return [
    account('Cost', 'USD', 'million tokens', cost),
    account('Time', 's', 'decoding step', time),
    account('Energy', 'J', 'token', joule),
  ]


def tornados():
  rows = [
    ('HBM.read_Bps', -0.512, 4210.0, 'USD per GB/s'),
    ('matrix:bfloat16.rate_FLOPps', -0.214, 96.0, 'USD per TFLOP/s'),
    ('NVLink.read_Bps', -0.131, 811.0, 'USD per GB/s'),
    ('CXL.read_Bps', -0.062, 340.0, 'USD per GB/s'),
    ('HBM.capacity_B', -0.081, 128.0, 'USD per GB'),
    ('host DRAM.capacity_B', -0.007, 0.42, 'USD per GB'),
    ('HBM.latency_s', 0.022, -18.2, 'USD per ns'),
    ('NVLink.latency_s', 0.031, -2.1, 'USD per ns'),
    ('system.launch_s', 0.038, -3.9, 'USD per ns'),
    ('HBM.device_J_per_B', 0.028, -611.0, 'USD per pJ/bit'),
    ('HBM.path_J_per_B', 0.036, -520.0, 'USD per pJ/bit'),
    ('matrix:bfloat16.energy_J_per_FLOP', 0.077, -7100.0, 'USD per pJ/FLOP'),
    ('system.static_W', 0.124, -88.0, 'USD per W'),
    ('CXL.latency_s', 0.0001, -0.02, 'USD per ns'),
  ]  # fmt: skip
  found = []
  for name, value, worth, unit in rows:
    wide = 0.12 * abs(value) + 0.004
    more = 0.15 * abs(worth)
    found.append(cd.Elasticity(
      name, value, value - wide, value + 1.2 * wide, worth, worth - more,
      worth + more, unit, 'prior only' if 'CXL' in name else '',
    ))  # fmt: skip
  return [cd.Tornado('cost per token', found, 'per accelerator and year')]


def what_ifs():
  def change(value, wide):
    return cd.Change(value, value - wide, value + 0.8 * wide)

  rows = [
    ('HBM3E → HBM4', 58.1, -14.2, -21.5, 6.0, 0.97, 31.0, 'tensor 4'),
    ('HBM3E → HBM4E', 84.0, -19.0, -17.2, 9.0, 0.91, 22.0, 'tensor 4'),
    ('20 % lower device pJ/bit', 0.4, -4.6, -0.7, 0.5, 0.88, None, ''),
    ('KV cache on CXL', 6.2, 1.9, -3.9, 4.5, 0.86, 7.4,
     'KV 58 % in CXL; batch 192'),
    ('KV cache on flash', 2.1, 0.6, -2.6, 4.0, 0.71, 0.38,
     'KV 71 % in flash; batch 256'),
    ('LPDDR weights', -38.0, -6.1, 11.9, 5.0, 0.04, 2.1,
     'weights 82 % in LPDDR'),
    ('High-bandwidth flash', 21.7, -3.3, -9.8, 11.0, 0.79, 4.9,
     'weights 90 % in HBF'),
    ('Half the HBM supply', -29.4, 5.2, 18.3, 4.0, None, None,
     'tensor 16; KV 66 % in CXL'),
  ]  # fmt: skip
  return [
    cd.WhatIf(
      name, change(tokens, wide), change(joule, wide / 3),
      change(usd, wide * 0.6), pays,
      'at $15/GB' if pays is not None else '',
      None if price is None else change(price, price / 5), plan,
    )
    for name, tokens, joule, usd, wide, pays, price, plan in rows
  ]  # fmt: skip


def fronts():
  names = ['HBM3E x 8', 'HBM4 x 8', 'HBM4 x 12', 'HBM3E x 6 + CXL',
           'LPDDR', 'HBF + HBM4 x 4', 'HBM3E x 4 + flash']  # fmt: skip
  usd = [0.61, 0.48, 0.53, 0.52, 0.44, 0.455, 0.66]
  joule = [0.22, 0.19, 0.176, 0.236, 0.31, 0.225, 0.29]
  tokens = [2900, 4580, 5320, 3080, 1010, 3900, 2000]
  cost = cd.Metric('Cost per million tokens', 'USD')
  found = [
    cd.Front(cd.Metric('Energy per token', 'J'), cost, [
      cd.Design(n, x, y, y * 0.95, y * 1.06)
      for n, x, y in zip(names, joule, usd, strict=True)
    ]),
    cd.Front(cd.Metric('Tokens/s per accelerator', '1', True), cost, [
      cd.Design(n, x, y, y * 0.95, y * 1.06)
      for n, x, y in zip(names, tokens, usd, strict=True)
    ]),
  ]  # fmt: skip
  return found


def maps():
  rate = np.array([2.0, 2.5, 3.35, 4.0, 4.8, 6.0, 8.0]) * 1e12
  size = np.array([48, 64, 80, 96, 141, 192]) * 1e9
  r, s = rate / 3.35e12, size[:, None] / 80e9
  usd = 0.3 / r + 0.16 / s + 0.09 * s + 0.075 * r
  usd = np.where(size[:, None] < 60e9, np.where(r > 1.5, np.nan, usd), usd)
  price = np.geomspace(4, 40, 19)
  capacity = np.geomspace(32, 512, 17) * 1e9
  c = capacity[:, None] / 80e9
  total = 0.3 + 0.22 / c + 0.0042 * price * c
  return [
    cd.Sensitivity('Cost per million tokens', 'USD', 'HBM bandwidth', 'B/s',
                   rate, 'HBM capacity', 'B', size, usd, (3.35e12, 80e9)),
    cd.Sensitivity('Cost per million tokens', 'USD', 'HBM price', 'USD per GB',
                   price, 'HBM capacity', 'B', capacity, total, (15.0, 80e9)),
  ]  # fmt: skip


def search():
  found = []
  for label, speed, floor in (
    ('Adam, envelope gradients', 0.11, 0.001), ('CMA-ES', 0.021, 0.002),
    ('Nelder-Mead', 0.014, 0.013), ('random search', 0.0016, 0.02),
  ):  # fmt: skip
    x = np.unique(np.round(np.geomspace(1, 1500, 40)))
    y = 0.41 * (1 + floor + 0.5 * np.exp(-speed * x) / (1 + 0.02 * x))
    found.append(cd.Series(label, x, y, 0.41 + (y - 0.41) * 0.6,
                           0.41 + (y - 0.41) * 1.7))  # fmt: skip
  table = cd.TextTable(
    'The best memory within the budgets', ['', 'today', 'best', 'of parts'],
    [['stacks', '5', '7.4', '8'], ['GB a stack', '16', '31.2', '36'],
     ['Gbit/s a pin', '5.2', '8.8', '8.0']],
  )  # fmt: skip
  return cd.Search(
    'Cost per million tokens', 'USD', found, 0.41, tables=[table]
  )


def supply():
  held = np.array([0, 900, 1800, 2600, 3400, 4100, 5200, 6600.0])
  new = np.array([900, 900, 800, 800, 700, 1100, 1400, 1600.0])
  need = np.array([900, 1800, 2900, 3900, 4800, 5600, 6600, 7600.0])
  unmet = np.maximum(need - held - new, 0)
  orders = [cd.Order(q - 6, q, amount) for q, amount in enumerate(new)]
  hbm = cd.PartSupply(
    'HBM4 36 GB', held, new, 'stacks', unmet,
    np.array([560, 560, 545, 540, 520, 505, 490, 470.0]),
    np.array([0, 0, 1420, 1780, 2100, 1190, 0, 0.0]), orders,
  )  # fmt: skip
  held = np.array([0, 0, 400, 1000, 1900, 2600, 3000, 3000.0])
  new = np.array([0, 400, 600, 900, 700, 400, 0, 0.0])
  orders = [
    cd.Order(q - 2, q, amount) for q, amount in enumerate(new) if amount
  ]
  cxl = cd.PartSupply(
    'CXL DDR5 256 GB', held, new, 'modules', None,
    np.array([1150, 1120, 1100, 1080, 1050, 1030, 1000, 980.0]), None, orders,
  )  # fmt: skip
  moves = [
    cd.Move('2027 Q3', 'agents, 128k', 'HBM4 36 GB', 'CXL DDR5 256 GB', 0.34,
            1.9e6),
    cd.Move('2027 Q4', 'agents, 128k', 'HBM4 36 GB', 'CXL DDR5 256 GB', 0.61,
            3.6e6),
    cd.Move('2028 Q1', 'pre-training', 'HBM4 36 GB', '', 0.08, 7.2e6),
  ]  # fmt: skip
  asked = np.linspace(2e5, 5.5e5, 8)
  near = np.minimum(asked, np.array([9, 9, 8, 7, 7, 8, 9, 9]) * 4e4)
  services = [
    cd.Service('chat', {'HBM4': np.linspace(1e6, 2.2e6, 8)}, np.zeros(8)),
    cd.Service('agents, 128k', {'HBM4': near, 'CXL': asked - near},
               np.zeros(8)),
    cd.Service('pre-training', {'HBM4': 3.1e6 - np.eye(8)[4] * 2.5e5},
               np.eye(8)[4] * 2.5e5),
  ]  # fmt: skip
  return cd.Supply(
    QUARTERS, [hbm, cxl], moves, 'half the HBM supply', services,
    'full supply', 1.27e7,
  )  # fmt: skip


def kv():
  x = np.geomspace(1e10, 1e13, 25)
  hit = [
    cd.Series(name, x, y, y * 0.95, np.minimum(y * 1.04, 1))
    for name, y in (
      ('conversation', 0.62 / (1 + (2.1e11 / x) ** 0.9)),
      ('tools and agents', 0.78 / (1 + (6.4e11 / x) ** 1.2)),
    )
  ]
  tokens = np.geomspace(256, 131072, 40)
  rate = np.geomspace(1e9, 5e11, 40)
  reload_s = 2e-4 + tokens * 1.6e5 / rate[:, None]
  compute_s = 6e-3 + tokens * 2.4e-5 + tokens**2 * 6e-11
  choice = np.where(reload_s < compute_s, 0, 1)
  choice = np.where((tokens < 500) & (choice == 0), 2, choice)
  boundary = cd.Regions(
    'Reload or recompute', 'Prefix', 'tokens', tokens, 'Bandwidth of the tier',
    'B/s', rate, ['reload', 'recompute', 'either way'], choice,
    {'NVMe': (16384, 7e9), 'CXL': (16384, 5.5e10), 'host DRAM': (4096, 2e11)},
  )  # fmt: skip
  return cd.KvCapacity(
    hit,
    [cd.NextGB('HBM', 128.0, 96.0, 161.0, 5.0),
     cd.NextGB('host DRAM', 6.9, 5.1, 9.2, 1.4),
     cd.NextGB('CXL', 4.2, 2.7, 6.1, 1.7),
     cd.NextGB('flash', 0.021, 0.011, 0.034, 0.03)],
    [cd.Series(name, x, 9e13 * scale / (x + 1e11)) for name, scale in
     (('HBM', 1.3), ('host DRAM', 1.0), ('flash', 0.8))],
    {'HBM': 18.0, 'host DRAM': 12.0, 'flash': 0.3},
    boundary, 'one hour of a made-up trace',
  )  # fmt: skip


def retrieval():
  recall = np.linspace(0.8, 0.99, 12)

  def cost(a, b):
    return a * (1 - recall) ** -b

  curves = [
    cd.Series('all in DRAM', recall, cost(1.1e-6, 0.35)),
    cd.Series('codes in DRAM, rest on SSD', recall, cost(2.0e-7, 0.55)),
    cd.Series('all on SSD', recall, cost(2.6e-7, 0.75)),
    cd.Series('public result', np.array([0.86, 0.9, 0.95]),
              np.array([6.3e-7, 7.6e-7, 1.05e-6]), measured=True),
  ]  # fmt: skip
  placement = {
    'all in DRAM': {'DRAM': 3.9e11, 'SSD': 0.0},
    'codes in DRAM, rest on SSD': {'DRAM': 3.6e10, 'SSD': 3.6e11},
    'all on SSD': {'DRAM': 4e9, 'SSD': 3.9e11},
  }
  return [cd.Retrieval(
    cd.Metric('Recall at 10', '1', True), cd.Metric('Cost per query', 'USD'),
    curves, placement,
    [cd.RetrievalRow('all in DRAM', 2, 2.1, 0.006, 4e-4),
     cd.RetrievalRow('all on SSD', 5, 3.4, 0.016, 3.6e-3, '4 drives each')],
  )]  # fmt: skip


def measurements():
  rows = [
    ('decode_attention on HBM, 64 MB', 31.0, 'HBM.read_Bps, HBM.queue_p'),
    ('stream on CXL, 16 in flight', 19.5, 'CXL.read_Bps'),
    ('power of stream on HBM, three rates', 12.2, 'HBM.path_J_per_B'),
    ('all_reduce over NVLink, 8 MB', 6.1, 'NVLink.latency_s'),
    ('gemm bfloat16, 8192', 2.4, 'matrix:bfloat16.rate_FLOPps'),
  ]
  return [
    cd.Measurement(name, drop, drop * 0.7, drop * 1.3, tells,
                   f'python -m experiments.collect --only="{name}"')
    for name, drop, tells in rows
  ]  # fmt: skip


def codesign_data():
  """Every part filled."""
  return cd.CodesignData(
    mix(), accounts(), tornados(), what_ifs(), fronts(), maps(), search(),
    supply(), kv(), retrieval(), measurements(),
  )  # fmt: skip


def report_data():
  """A page of the co-design alone."""
  return report.ReportData(
    'Which memory to build, buy and place (demo data)',
    codesign=codesign_data(),
  )


if __name__ == '__main__':
  print(report.write_report(sys.argv[1], report_data()))
