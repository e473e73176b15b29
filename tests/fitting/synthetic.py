"""Traces of a machine whose parameters are known."""

import jax
import numpy as np

from diffmem.cost import predict_jit
from diffmem.fitting import observe
from diffmem.system import System, cpu_system
from diffmem.traces import Traces, from_rows

CACHES_B = (32 * 2.0**10, 2.0**20, 32 * 2.0**20)


def true_system() -> System:
  """A CPU that differs from the prior by up to a factor of two."""
  system = cpu_system('synthetic', CACHES_B, (True, True, False)).system
  return system.with_values(
    {
      'L1.latency_s': 1.3e-9, 'L1.read_Bps': 260e9, 'L1.write_Bps': 120e9,
      'L1.capacity_B': 33e3, 'L1.cliff_k': 9.0,
      'L2.latency_s': 4.8e-9, 'L2.read_Bps': 90e9, 'L2.write_Bps': 70e9,
      'L2.mixed_Bps': 60e9, 'L2.capacity_B': 0.9e6, 'L2.cliff_k': 6.0,
      'L3.latency_s': 28e-9, 'L3.read_in_flight_B': 700.0,
      'L3.write_in_flight_B': 600.0, 'L3.capacity_B': 28e6,
      'L3.cliff_k': 6.0, 'L3.churn_Bps': 20e9,
      'DRAM.latency_s': 95e-9, 'DRAM.read_in_flight_B': 1100.0,
      'DRAM.write_in_flight_B': 800.0, 'DRAM.read_Bps': 30e9,
      'disk.latency_s': 80e-6, 'disk.read_Bps': 1.7e9,
      'disk.granule_B': 9e3, 'disk.queue_p': 1.6,
      'matrix:float32.rate_FLOPps': 120e9, 'matrix:float32.fill_rows': 50.0,
      'system.launch_s': 12e-6, 'system.page_reach_B': 6e6,
      'system.page_walk_s': 30e-9, 'system.tlb_miss_s': 2.2e-9,
      'system.tlb_reach_B': 220e3, 'system.private_loss': 0.06,
    }
  )  # fmt: skip


def measured(noise: float = 0.02, seed: int = 0, threads: int = 2) -> Traces:
  """A collection of `true_system` with log-normal noise."""
  rows = [*_memory_rows(threads), *_loaded_rows(), *_disk_rows(), *_gemm_rows()]
  blank = from_rows([row | {_observable(row['op']): 1.0} for row in rows])
  with jax.enable_x64(True):
    system = true_system()
    demand = observe.demand_of(system, blank)
    cost = predict_jit(system, demand)
    table = {
      k: np.asarray(v) for k, v in observe.observable_table(cost).items()
    }
  rng = np.random.default_rng(seed)
  factor = np.exp(noise * rng.standard_normal(len(rows)))
  done = []
  for i, row in enumerate(rows):
    name = _observable(row['op'])
    value = float(table[name][i] * factor[i])
    row = row | {name: value, 'rel_std': noise, 'system': 'synthetic'}
    if row['op'] == 'loaded_latency':
      row['bandwidth_Bps'] = row['in_flight_bytes'] / value
    done.append(row)
  return from_rows(done, 'synthetic')


def _observable(op: str) -> str:
  if op in observe.FITTED_ON_LATENCY:
    return 'latency_s'
  return 'bandwidth_Bps' if op in observe.FITTED_ON_BANDWIDTH else 'time_s'


def _memory_rows(threads):
  base = {'system': 'synthetic', 'tier': 'DRAM'}
  for size in np.geomspace(8e3, 4e8, 32):
    yield base | {
      'op': 'pointer_chase', 'bytes_read': 64e6, 'working_set_bytes': size,
      'granule_bytes': 64, 'in_flight_bytes': 64,
    }  # fmt: skip
  mixes = {'stream': (1.0, 0.0), 'copy': (0.5, 0.5), 'triad': (2 / 3, 1 / 3)}
  for op, (read, write) in mixes.items():
    for n in range(1, threads + 1):
      for size in np.geomspace(8e3 * n, 4e8, 18):
        yield base | {
          'op': op, 'participants': n, 'working_set_bytes': size,
          'bytes_read': read * 1e9, 'bytes_written': write * 1e9,
        }  # fmt: skip


def _loaded_rows():
  for n in np.geomspace(100, 5e3, 12):
    yield {
      'system': 'synthetic', 'op': 'loaded_latency', 'tier': 'DRAM',
      'bytes_read': 1e9, 'working_set_bytes': 4e8, 'in_flight_bytes': n,
      'granule_bytes': 64, 'bandwidth_Bps': 1e9,
    }  # fmt: skip


def _disk_rows():
  for block in 4096 * 4.0 ** np.arange(6):
    for depth in (1, 2, 4, 8, 16, 32):
      yield {
        'system': 'synthetic', 'op': 'random_read', 'tier': 'disk',
        'bytes_read': block * depth, 'granule_bytes': block,
        'in_flight_bytes': block * depth, 'participants': depth,
      }  # fmt: skip


def _gemm_rows():
  for m, n, k in [
    (256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (16, 1024, 1024),
    (64, 2048, 512), (128, 1024, 2048), (1536, 768, 768), (8, 512, 512),
  ]:  # fmt: skip
    yield {
      'system': 'synthetic', 'op': 'gemm', 'dtype': 'float32', 'm': m, 'n': n,
      'k': k, 'flops': 2.0 * m * n * k, 'bytes_read': 4.0 * (m * k + k * n),
      'bytes_written': 4.0 * m * n, 'participants': 2, 'launches': 1,
      'working_set_bytes': 4.0 * (m * k + k * n + m * n),
    }  # fmt: skip
