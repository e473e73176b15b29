"""Traces of a small accelerator whose laws leave something over."""

import numpy as np

from diffmem.fitting import corrections, observe
from diffmem.system import FittedSystem, Knowledge, Status, System, Tier
from diffmem.system.engine import Engine
from diffmem.traces import Traces, from_rows

DTYPES = ('bfloat16', 'float8')


def spec(name: str = 'sheet', hbm_Bps: float = 2e12) -> FittedSystem:
  """An accelerator as published."""
  system = System.of(
    name,
    [
      Tier.of('L2', home='HBM', capacity_B=40e6, read_Bps=6e12),
      Tier.of(
        'HBM', duplex='turnaround', read_Bps=hbm_Bps, latency_s=5e-7,
        read_in_flight_B=8e6, write_in_flight_B=8e6, capacity_B=80e9,
      ),
      Tier.of('NVLink', link=True, span=8, duplex='full_duplex',
              read_Bps=450e9, latency_s=1e-6, queue_p=1.0),
    ],
    [
      Engine.of('matrix:bfloat16', rate_FLOPps=600e12),
      Engine.of('matrix:float8', rate_FLOPps=1200e12),
    ],
    compute_units=100,
  )  # fmt: skip
  values = system.values()
  knowledge = {
    full: Knowledge(
      status=Status.PRIOR, prior=float(values[full]), prior_sd=0.3,
      stderr=0.3, source='data sheet',
    )
    for full in system.infos()
  }  # fmt: skip
  return FittedSystem(system, knowledge)


def products(
  seed: int = 0, rows: int = 600, noise: float = 0.01
) -> tuple[Traces, np.ndarray]:
  """Matrix products, and by what factor they differ from the laws.

  The factor is smooth in the shape and another one for each number format.
  """
  rng = np.random.default_rng(seed)
  m, n, k = (
    2.0 ** rng.integers(low, high, rows)
    for low, high in ((0, 12), (8, 14), (8, 14))
  )
  dtype = rng.choice(DTYPES, rows)
  size = np.where(dtype == 'float8', 1.0, 2.0)
  columns = [
    {
      'system': 'sheet', 'op': 'gemm', 'dtype': str(dtype[i]),
      'm': int(m[i]), 'n': int(n[i]), 'k': int(k[i]),
      'bytes_read': size[i] * (m[i] + n[i]) * k[i],
      'bytes_written': 2.0 * m[i] * n[i],
      'weight_bytes': size[i] * n[i] * k[i],
      'flops': 2.0 * m[i] * n[i] * k[i],
      'working_set_bytes': 6.0 * size[i] * n[i] * k[i],
      'variant': 'library 1 kernel', 'time_s': 1e-3,
    }
    for i in range(rows)
  ]  # fmt: skip
  traces = from_rows(columns)
  system = spec().system
  cost = corrections.cost_of(system, observe.demand_of(system, traces))
  factor = np.exp(
    0.3 * np.sin(np.log2(m) / 3.0)
    + 0.2 * (dtype == 'float8')
    + noise * rng.standard_normal(rows)
  )
  measured = dict(traces.columns) | {'time_s': np.asarray(cost.time_s) * factor}
  return Traces(measured), factor
