"""A prior for a general-purpose CPU: caches, DRAM, a disk, two engines.

Wide on purpose: the values are the right order of magnitude for server CPUs
of 2018-2026 and a fit to this machine's traces replaces them.
"""

from collections.abc import Sequence

from diffmem.system.engine import Engine
from diffmem.system.fitted import FittedSystem, Knowledge, Status
from diffmem.system.measure import what_to_measure
from diffmem.system.system import System
from diffmem.system.tier import Duplex, Tier

# Where no operating system tells: a core of a Xeon or Epyc.
_CACHES_B = (32 * 2.0**10, 2.0**20, 32 * 2.0**20)
_PRIVATE = (True, True, False)

# Per level: unloaded latency, read capacity (one core for private caches, the
# whole for shared ones), bytes in flight of one core. Order of magnitude of
# Intel's and AMD's optimisation manuals (Intel 248966-050, table 2-8: 5, 14
# and 50-70 cycles; two 64 B loads and one store per cycle into L1).
_LEVELS = (
  (1.5e-9, 200e9, 2e3),
  (5e-9, 60e9, 1e3),
  (20e-9, 100e9, 800.0),
)
_SOURCE = 'order of magnitude for server CPUs, 2018-2026'


def cpu_system(
  name: str = 'cpu',
  cache_B: Sequence[float] = _CACHES_B,
  private: Sequence[bool] = _PRIVATE,
  dram_B: float = 64e9,
  disk_B: float = 1e12,
) -> FittedSystem:
  """A CPU that nobody has measured yet.

  Args:
    name: the system's name.
    cache_B: data cache sizes, inner first [B].
    private: whether each serves one core alone.
    dram_B: main memory [B].
    disk_B: room on the disk [B].

  Returns:
    A system with tiers 'L1', 'L2', ..., 'DRAM' and 'disk', a network
    'Ethernet', and engines 'matrix:float32' and 'vector:float32', all of it
    prior.
  """
  tiers = []
  for level, (size, alone) in enumerate(zip(cache_B, private, strict=True)):
    latency_s, read_Bps, in_flight_B = _LEVELS[min(level, len(_LEVELS) - 1)]
    tiers.append(
      Tier.of(
        f'L{level + 1}',
        duplex=Duplex.TURNAROUND,
        home='DRAM',
        private=alone,
        latency_s=latency_s,
        read_Bps=read_Bps,
        write_Bps=read_Bps / 2,
        mixed_Bps=read_Bps,
        read_in_flight_B=in_flight_B,
        write_in_flight_B=in_flight_B,
        capacity_B=size,
        churn_Bps=1.0 if alone else 10e9,
      )
    )
  tiers += [
    Tier.of('DRAM', latency_s=100e-9, read_Bps=40e9, capacity_B=dram_B),
    Tier.of(
      'disk', latency_s=100e-6, read_Bps=2e9, granule_B=4096.0,
      capacity_B=disk_B, queue_p=2.0,
    ),
    # What a rented server has today: one 25 Gb/s port, TCP latency.
    Tier.of(
      'Ethernet', link=True, span=4096, duplex=Duplex.FULL, latency_s=30e-6,
      read_Bps=25e9 / 8, queue_p=1.0,
    ),
  ]  # fmt: skip
  engines = [
    Engine.of('matrix:float32', rate_FLOPps=100e9, fill_rows=32.0),
    Engine.of('vector:float32', rate_FLOPps=5e9),
  ]
  system = System.of(
    name, tiers, engines, launch_s=20e-6, page_reach_B=8e6, page_walk_s=20e-9,
    tlb_reach_B=256e3, tlb_miss_s=2e-9,
    power_cap_W=1e4,
  )  # fmt: skip
  return prior(system, _SOURCE)


def prior(system: System, source: str) -> FittedSystem:
  """A system of which nothing is measured: every parameter is its prior."""
  active = system.active()
  values = system.values()
  knowledge = {
    name: Knowledge(
      status=Status.PRIOR if name in active else Status.UNUSED,
      prior=float(values[name]),
      prior_sd=info.prior_sd,
      stderr=info.prior_sd,
      source=source,
      measure=what_to_measure(system, name) if name in active else '',
    )
    for name, info in system.infos().items()
  }
  return FittedSystem(system, knowledge)
