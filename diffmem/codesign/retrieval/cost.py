"""Cost, power, latency and limits of a retrieval fleet at a point.

A query waits for a thread (Sakasegawa, Annals of the Institute of Statistical
Mathematics 29, 1977), for its rounds of reads (the drive's closed-loop law,
`cost.service`, in its open form), and for the slowest of its shards, with times
taken as normal around their mean. All functions are analytic in the point and
in every number of `Site` and `Question`: complex steps go through them.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import special

from diffmem.codesign.retrieval.layouts import (
  Asked,
  Candidate,
  Question,
  asked,
)
from diffmem.codesign.retrieval.site import Site

# Between queries of one corpus: spread of the work over its mean (assumption;
# no public run gives percentiles).
_WORK_SPREAD = 0.3
# Spread of an idle drive's latency over its mean (Samsung 980 PRO, one read in
# flight, stonet-research/icpe24_io_scheduler_study_artifact: 7.4 of 68.3 us).
_READ_SPREAD = 0.11
# Of the memory's bandwidth, where waits begin (assumption).
FULL_BUS = 0.9


class Point(NamedTuple):
  """The continuous choices; arrays over designs, or numbers.

  Attributes:
    copies: of the index.
    drives: of a machine.
    share: of what lies on drives in memory too.
    busy: share of its time that a server works.
    drive_busy: share of its reads per second that a drive does.
  """

  copies: Any
  drives: Any
  share: Any
  busy: Any
  drive_busy: Any


def memory_B(site: Site, per: Asked, share) -> Any:
  """Bytes of memory of a machine that have to be there [B]."""
  return site.base_B + per.near_B + share * per.hot_B


def latency_s(question, site, candidate, per: Asked, point: Point) -> Any:
  """Time of a query: mean or percentile, over all its shards [s]."""
  missed = per.missed(point.share)
  serving_s = per.server_s + per.read_s * per.reads * missed
  c = site.servers
  waiting_s = (
    serving_s
    * point.busy ** (np.sqrt(2.0 * (c + 1.0)) - 1.0)
    / (c * (1.0 - point.busy))
  )
  read_s = site.drive_latency_s * (1.0 - point.drive_busy**site.drive_p) ** (
    -1.0 / site.drive_p
  )
  rounds = per.rounds * missed
  working_s = site.batch * serving_s + rounds * read_s
  variance = (_WORK_SPREAD * working_s) ** 2 + waiting_s**2
  slow_s = read_s - (1.0 - _READ_SPREAD) * site.drive_latency_s
  variance = variance + rounds * slow_s**2
  return waiting_s + working_s + _tail(question, candidate) * variance**0.5


def _tail(question, candidate) -> float:
  """Standard deviations above the mean, slowest of all shards."""
  if question.percentile is None:
    return float(np.sqrt(2.0 * np.log(candidate.shards)))
  return float(special.ndtri(question.percentile ** (1.0 / candidate.shards)))


def usd_per_s(question, site, candidate, per: Asked, point: Point) -> Any:
  """Cost of machines, memory, drives and energy [USD/s]."""
  bill = bill_of(question, site, candidate, per, point)
  return sum(bill.values())


def bill_of(question, site, candidate, per, point) -> dict[str, Any]:
  """Cost by part [USD/s]."""
  machines = point.copies * candidate.shards
  bought_B = memory_B(site, per, point.share)
  drives = point.drives * float(candidate.layout.on_drives)
  return {
    'machines': machines * site.machine_usd_per_s,
    'memory': machines * bought_B * site.memory_usd_per_Bs,
    'drives': machines * drives * site.drive_usd_per_s,
    'energy': site.joule_usd * power_W(site, candidate, per, point),
  }


def power_W(site, candidate, per: Asked, point: Point) -> Any:
  """Power of all machines [W]."""
  drives = point.drives * float(candidate.layout.on_drives)
  one_W = (
    site.idle_W
    + (site.busy_W - site.idle_W) * point.busy
    + site.memory_W_per_B * memory_B(site, per, point.share)
    + site.drive_W * drives
  )
  return point.copies * candidate.shards * one_W


def slacks(question, site, candidate, per: Asked, point: Point) -> dict:
  """ln(what there is / what is needed) of every constraint, by name."""
  missed = per.missed(point.share)
  serving_s = per.server_s + per.read_s * per.reads * missed
  rate = question.queries_per_s / point.copies
  found = {
    'servers': np.log(site.servers * point.busy / (rate * serving_s)),
    'copies': np.log(point.copies / question.copies),
    'latency': np.log(
      question.latency_s / latency_s(question, site, candidate, per, point)
    ),
    'near memory': np.log(site.most_near_B / (site.base_B + per.near_B)),
    'bandwidth': np.log(FULL_BUS * site.bandwidth_Bps / (rate * per.traffic_B)),
  }
  if candidate.layout.vectors == 'DRAM':
    both = per.near_B if candidate.layout.memory == 'DRAM' else 0.0
    found['vectors'] = np.log(
      site.most_hot_B / (site.base_B + both + per.hot_B)
    )
  if candidate.layout.on_drives:
    found |= {
      'memory': np.log(
        site.most_near_B / memory_B(site, per, point.share)
      ),
      'reads': np.log(
        point.drives * site.drive_reads_per_s * point.drive_busy
        / (rate * per.reads * missed)
      ),
      'drive capacity': np.log(point.drives * site.drive_B / per.drive_B),
      'drive slots': np.log(site.most_drives / point.drives),
    }  # fmt: skip
  return found


def floor_usd_per_s(question: Question, site: Site, candidate: Candidate):
  """A cost that no point of a candidate is below [USD/s]; inf if none fits.

  Raises:
    SpecError: as `retrieval_layouts.asked`.
  """
  per = asked(question, candidate, site.rates)
  if (
    site.batch * per.server_s > question.latency_s
    or site.base_B + per.near_B > site.most_near_B
  ):
    return np.inf
  least = question.queries_per_s * per.server_s
  copies = max(least / (site.servers * question.most_busy), question.copies)
  one_usd = (
    site.machine_usd_per_s
    + (site.base_B + per.near_B) * site.memory_usd_per_Bs
    + site.idle_W * site.joule_usd
  )
  return copies * candidate.shards * one_usd
