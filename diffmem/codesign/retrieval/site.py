"""Machines that retrieval runs on, with their prices: hosts, accelerators."""

from typing import Any, NamedTuple

import numpy as np

from diffmem import errors
from diffmem.codesign.retrieval.layouts import Layout, Rates
from diffmem.codesign.retrieval.parts import (
  Parts,
  joule_usd,
  second_of,
  store_of,
)
from diffmem.cost.prices import Prices
from diffmem.system import System


class Site(NamedTuple):
  """Prices and limits of one kind of machine.

  Attributes:
    rates: times of a server.
    spreads: of the logarithms of these times.
    servers: threads; 1 for an accelerator.
    batch: queries that an accelerator works on together.
    machine_usd_per_s: without memory and drives [USD/s].
    memory_usd_per_Bs: memory bought beside it [USD/(B s)].
    drive_usd_per_s: [USD/s].
    joule_usd: energy [USD/J].
    idle_W: of a machine at rest [W].
    busy_W: fully busy [W].
    memory_W_per_B: of memory [W/B].
    drive_W: of a drive [W].
    base_B: memory taken before the index [B].
    most_near_B: most of the layout's memory in a machine [B].
    most_hot_B: most memory for whole vectors in a machine [B].
    bandwidth_Bps: of the layout's memory [B/s].
    drive_B: capacity of a drive [B].
    drive_reads_per_s: [1/s].
    drive_latency_s: of one read alone [s].
    drive_p: knee of the drive.
    most_drives: of a machine.
    module_B: memory comes in these [B]; 0 where it is not bought.
  """

  rates: Rates
  spreads: Rates
  servers: Any
  batch: Any
  machine_usd_per_s: Any
  memory_usd_per_Bs: Any
  drive_usd_per_s: Any
  joule_usd: Any
  idle_W: Any
  busy_W: Any
  memory_W_per_B: Any
  drive_W: Any
  base_B: Any
  most_near_B: Any
  most_hot_B: Any
  bandwidth_Bps: Any
  drive_B: Any
  drive_reads_per_s: Any
  drive_latency_s: Any
  drive_p: Any
  most_drives: Any
  module_B: Any


class Sites(NamedTuple):
  """Machines by the memory that holds graph or codes; HBM by index kind."""

  host: Site
  graph_accelerator: Site | None = None
  list_accelerator: Site | None = None

  def of(self, layout: Layout) -> Site | None:
    """The machines of a layout; None where there are none."""
    if layout.memory == 'DRAM':
      return self.host
    graph = layout.index == 'graph'
    return self.graph_accelerator if graph else self.list_accelerator


def sites_of(
  parts: Parts,
  prices: Prices,
  *,
  host: str,
  host_system: System,
  drive_system: System,
  accelerator: str | None = None,
  accelerator_system: System | None = None,
) -> Sites:
  """Machines with their prices, from parts and (fitted) systems.

  Args:
    parts: `retrieval_parts.load_parts()`.
    prices: `cost.prices.load_prices()`.
    host: name in `parts.hosts`.
    host_system: with a tier 'DRAM'.
    drive_system: with a tier 'SSD'.
    accelerator: name in `parts.accelerators` and in the prices; None for none.
    accelerator_system: with a tier 'HBM'.

  Raises:
    SpecError: a name that is not there.
  """
  one = _named(parts.hosts, host, 'host')
  drive = store_of(drive_system, parts.drive, prices)
  gigabyte_usd = prices.of('memory_usd_per_GB', 'DRAM')
  times = (
    one.disk_compare_s,
    one.memory_compare_s,
    one.list_query_s,
    one.list_candidate_s,
    one.list_code_s,
    one.rerank_s,
  )
  at_host = Site(
    rates=Rates(*(figure.value for figure in times)),
    spreads=Rates(*(figure.sd for figure in times)),
    servers=one.threads.value,
    batch=1.0,
    machine_usd_per_s=second_of(one.usd.value, prices),
    memory_usd_per_Bs=second_of(gigabyte_usd / 1e9, prices),
    drive_usd_per_s=second_of(drive.usd, prices),
    joule_usd=joule_usd(prices),
    idle_W=one.idle_W.value,
    busy_W=one.busy_W.value,
    memory_W_per_B=parts.drive.module_W_per_GB.value / 1e9,
    drive_W=drive.active_W,
    base_B=parts.drive.base_memory_B.value,
    most_near_B=one.most_memory_B.value,
    most_hot_B=one.most_memory_B.value,
    bandwidth_Bps=float(host_system.tier('DRAM').read_Bps),
    drive_B=drive.size_B,
    drive_reads_per_s=drive.reads_per_s,
    drive_latency_s=drive.latency_s,
    drive_p=drive.queue_p,
    most_drives=one.most_drives.value,
    module_B=one.module_B.value,
  )
  if accelerator is None:
    return Sites(at_host)
  part = _named(parts.accelerators, accelerator, 'accelerator')
  hbm = accelerator_system.tier('HBM')
  rented = at_host._replace(
    rates=_of_accelerator(part.memory_compare_s.value, part.list_code_s.value),
    spreads=_of_accelerator(part.memory_compare_s.sd, part.list_code_s.sd),
    servers=1.0,
    batch=part.in_flight.value,
    machine_usd_per_s=prices.of('accelerator_usd_per_hour', accelerator) / 3600,
    memory_usd_per_Bs=0.0,
    joule_usd=0.0,  # The rent covers it.
    idle_W=float(accelerator_system.static_W),
    memory_W_per_B=0.0,
    base_B=0.0,
    most_near_B=float(hbm.capacity_B) * part.usable.value,
    most_hot_B=part.host_memory_B.value,
    bandwidth_Bps=float(hbm.read_Bps),
    module_B=0.0,
  )
  return Sites(
    at_host,
    rented._replace(busy_W=part.graph_W.value),
    rented._replace(busy_W=part.list_W.value),
  )


def slower(site: Site, deviations: float) -> Site:
  """A machine whose times are all so many standard deviations longer."""
  return site._replace(
    rates=Rates(
      *(
        time * np.exp(deviations * sd)
        for time, sd in zip(site.rates, site.spreads, strict=True)
      )
    )
  )


def _of_accelerator(memory_compare, list_code) -> Rates:
  return Rates(0.0, memory_compare, 0.0, 0.0, list_code, 0.0)


def _named(table, name: str, what: str):
  if name not in table:
    raise errors.SpecError(
      f'{what} = {name!r}: expected one of {", ".join(table)}'
    )
  return table[name]
