"""A retrieval design in whole machines, drives and modules, and its values."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from diffmem.codesign.retrieval import cost as cost_of
from diffmem.codesign.retrieval import program
from diffmem.codesign.retrieval.cost import Point
from diffmem.codesign.retrieval.layouts import (
  Candidate,
  Rates,
  asked,
)
from diffmem.codesign.retrieval.program import Solved
from diffmem.codesign.retrieval.site import Site

SECONDS_PER_YEAR = 365.25 * 86400.0
_ROUNDING = 1e-9  # Slopes of ln cost below this are rounding.
_SPARE_COPIES, _SPARE_DRIVES = 4, 4  # Whole numbers tried above the solution.


class Value(NamedTuple):
  """What the next unit of something saves, or costs, at the optimum.

  Attributes:
    what: of which.
    unit: of `usd_per_year`, by what it is counted.
    usd_per_year: saved by a unit more; negative where it costs.
    price_usd_per_year: what a unit costs; None where it is not bought.
  """

  what: str
  unit: str
  usd_per_year: float
  price_usd_per_year: float | None


class Design(NamedTuple):
  """One layout, in whole machines.

  Attributes:
    candidate: layout, shards, code and re-ranking.
    copies: of the index.
    drives: of each machine.
    modules: memory modules of each machine; 0 where memory is rented.
    share: of what lies on drives in memory too.
    busy: share of its time that a thread or accelerator works.
    drive_busy: share of its reads that a drive does.
    memory_B: used by tier, over the fleet [B].
    latency_s: mean or percentile, as asked [s].
    usd_per_s: cost of the fleet [USD/s].
    bill: cost by part [USD/s].
    query_J: energy of a query at the machines [J].
    fractional: the solution before rounding.
    rounding: cost over that of the solution, less 1.
    values: what the next units are worth.
    elasticities: d ln cost / d ln parameter, re-optimised, before rounding.
  """

  candidate: Candidate
  copies: int
  drives: int
  modules: int
  share: float
  busy: float
  drive_busy: float
  memory_B: dict[str, float]
  latency_s: float
  usd_per_s: float
  bill: dict[str, float]
  query_J: float
  fractional: Solved
  rounding: float
  values: tuple[Value, ...]
  elasticities: dict[str, float]

  @property
  def machines(self) -> int:
    """Of the fleet."""
    return self.copies * self.candidate.shards

  def to_dict(self) -> dict[str, Any]:
    """Plain numbers and texts."""
    return {
      'layout': self.candidate.layout.name,
      'machines': self.machines,
      'copies': self.copies,
      'shards': self.candidate.shards,
      'drives': self.drives * self.machines,
      'modules': self.modules * self.machines,
      'code_B': self.candidate.code_B,
      'reranked': self.candidate.reranked,
      'share_in_memory': self.share,
      'busy': self.busy,
      'drive_busy': self.drive_busy,
      'memory_B': self.memory_B,
      'latency_s': self.latency_s,
      'usd_per_s': self.usd_per_s,
      'usd_per_year': self.usd_per_s * SECONDS_PER_YEAR,
      'bill_usd_per_s': self.bill,
      'query_J': self.query_J,
      'fractional_usd_per_s': self.fractional.usd_per_s,
      'rounding': self.rounding,
      'stationarity': self.fractional.stationarity,
      'multipliers': self.fractional.multipliers,
      'values': [v._asdict() for v in self.values],
      'elasticities': self.elasticities,
    }


def rounded(question, site: Site, solved: Solved) -> Design | None:
  """The cheapest whole copies, drives and modules near a solution."""
  candidate, point = solved.candidate, solved.point
  per = asked(question, candidate, site.rates)
  begin = max(int(np.ceil(point.copies - 1e-6)), question.copies)
  copies = np.arange(begin, begin + _SPARE_COPIES, dtype=float)
  drives = np.array([0.0])
  shares = np.array([float(bool(candidate.layout.vectors))])
  modules = np.array([0.0])
  if candidate.layout.on_drives:
    drives = np.arange(1.0, np.ceil(point.drives) + _SPARE_DRIVES)
    used_B = cost_of.memory_B(site, per, point.share)
    modules = np.arange(
      np.ceil((site.base_B + per.near_B) / site.module_B),
      np.ceil(used_B / site.module_B) + 2,
    )
    free_B = modules * site.module_B - site.base_B - per.near_B
    shares = np.clip(free_B / per.hot_B, 0.0, 0.98)
  elif site.module_B:
    used_B = cost_of.memory_B(site, per, shares)
    modules = np.ceil(used_B / site.module_B)
  n, d, m = np.meshgrid(copies, drives, np.arange(len(modules)), indexing='ij')
  x = shares[m]
  point = _whole_point(question, site, per, n, d, x)
  slack = cost_of.slacks(question, site, candidate, per, point)
  busiest = np.maximum(point.busy, point.drive_busy)
  fits = (busiest <= question.most_busy + 1e-9) & (point.busy < 1)
  for name, value in slack.items():
    if name not in ('servers', 'reads'):  # Equalities by construction.
      fits &= np.broadcast_to(value, x.shape) >= -1e-9
  bill = cost_of.bill_of(question, site, candidate, per, point)
  extra_B = np.maximum(
    modules[m] * site.module_B - cost_of.memory_B(site, per, x), 0.0
  )
  bill['memory'] = bill['memory'] + (
    n * candidate.shards * extra_B * site.memory_usd_per_Bs
  )
  cost = np.where(fits, sum(bill.values()), np.inf)
  at = np.unravel_index(np.argmin(cost), cost.shape)
  if not np.isfinite(cost[at]):
    return None
  one = Point(*(float(v[at]) for v in np.broadcast_arrays(*point)))
  return _design(
    question, site, solved, per, one, int(modules[m[at]]),
    {k: float(np.broadcast_to(v, cost.shape)[at]) for k, v in bill.items()},
  )  # fmt: skip


def _whole_point(question, site, per, copies, drives, share) -> Point:
  missed = per.missed(share) * (per.reads > 0)
  serving_s = per.server_s + per.read_s * per.reads * missed
  rate = question.queries_per_s / copies
  offered = rate * per.reads * missed
  with np.errstate(divide='ignore', invalid='ignore'):
    load = np.where(drives > 0, offered / (drives * site.drive_reads_per_s), 0)
  busy = np.minimum(rate * serving_s / site.servers, 1.0 - 1e-9)
  load = np.clip(load, 1e-9, 1.0 - 1e-9)
  return Point(copies, np.maximum(drives, 1e-2), share, busy, load)


def _design(question, site, solved, per, point: Point, modules, bill) -> Design:
  candidate = solved.candidate
  layout = candidate.layout
  machines = point.copies * candidate.shards
  memory = {layout.memory: machines * (site.base_B + per.near_B)}
  hot_B = machines * point.share * per.hot_B
  memory['DRAM'] = memory.get('DRAM', 0.0) + hot_B
  memory['SSD'] = machines * per.drive_B
  cost = sum(bill.values())
  watts = cost_of.power_W(site, candidate, per, point)
  return Design(
    candidate=candidate,
    copies=round(point.copies),
    drives=round(point.drives) if layout.on_drives else 0,
    modules=modules,
    share=float(point.share),
    busy=float(point.busy),
    drive_busy=float(point.drive_busy) if layout.on_drives else 0.0,
    memory_B={k: float(v) for k, v in memory.items() if v},
    latency_s=float(cost_of.latency_s(question, site, candidate, per, point)),
    usd_per_s=float(cost),
    bill=bill,
    query_J=float(watts / question.queries_per_s),
    fractional=solved,
    rounding=float(cost / solved.usd_per_s - 1.0),
    values=tuple(_values(question, site, solved)),
    elasticities=_elasticities(question, site, solved),
  )


def _values(question, site: Site, solved: Solved) -> Iterator[Value]:
  """What the next unit is worth, in engineers' units."""
  year_usd = solved.usd_per_s * SECONDS_PER_YEAR

  def slope(name, size):
    change = program.elasticity(question, site, solved, name)
    return -change * year_usd / size if abs(change) > _ROUNDING else 0.0

  point, candidate = solved.point, solved.candidate
  if candidate.layout.on_drives:
    drives = point.copies * candidate.shards * point.drives
    reads = drives * site.drive_reads_per_s
    yield Value(
      'DRAM for hot vertices', 'USD per GB',
      program.worth_of_memory(question, site, solved) * 1e9 * SECONDS_PER_YEAR,
      site.memory_usd_per_Bs * 1e9 * SECONDS_PER_YEAR,
    )  # fmt: skip
    yield Value(
      'reads of the drives', 'USD per kIOPS',
      slope('drive_reads_per_s', reads / 1e3),
      site.drive_usd_per_s * SECONDS_PER_YEAR / site.drive_reads_per_s * 1e3,
    )  # fmt: skip
    yield Value(
      'latency of a drive, less of it', 'USD per us',
      0.0 - slope('drive_latency_s', site.drive_latency_s * 1e6), None,
    )  # fmt: skip
  yield Value(
    'latency limit of a query, more of it', 'USD per us',
    slope('latency_s', question.latency_s * 1e6), None,
  )  # fmt: skip
  yield Value(
    'queries', 'USD per 1000 queries/s',
    slope('queries_per_s', question.queries_per_s / 1e3), None,
  )  # fmt: skip
  yield Value(
    'recall', 'USD per point', slope('recall', question.recall * 100),
    None,
  )  # fmt: skip


def _elasticities(question, site, solved) -> dict[str, float]:
  names = [
    'queries_per_s', 'recall', 'latency_s', 'vectors', 'machine_usd_per_s',
    'memory_usd_per_Bs', 'drive_usd_per_s', 'joule_usd', 'drive_reads_per_s',
    'drive_latency_s', 'bandwidth_Bps',
  ]  # fmt: skip
  names += [f'rates.{name}' for name in Rates._fields]
  found = {n: program.elasticity(question, site, solved, n) for n in names}
  return {n: v for n, v in found.items() if abs(v) > _ROUNDING}
