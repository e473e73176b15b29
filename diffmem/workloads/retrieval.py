"""Retrieval from vector indexes: inverted lists, and graphs on SSDs.

A graph that lies wholly in memory (DRAM, HBM) is a `graph_search` without
reads whose codes are the vectors themselves.

A *graph* search (Subramanya et al., "DiskANN", NeurIPS 2019) walks from vertex
to vertex: it reads `beam` of them at a time, each one granule with a vector
and its neighbours, and compares the query with the neighbours' codes, which
stay in memory. An *inverted-list* search (Jegou et al., TPAMI 33(1), 2011)
compares the query with centroids, then streams the codes of the nearest lists
and, if asked, reads the best vectors whole.

Queries run in a closed loop: so many in flight at once, each with its beam.
The law of the tier then turns reads in flight into reads per second
(`diffmem.cost.service`), and latency follows from Little's law.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike

from diffmem import errors
from diffmem.cost import Demand, predict_jit
from diffmem.system import System

# One table look-up and one addition per byte of a code.
_FLOPS_PER_CODE_B = 2.0


class Search(NamedTuple):
  """What one query asks for; numbers or arrays over configurations.

  Attributes:
    reads: granules read from the store.
    granule_B: bytes of such a read [B].
    beam: reads of a query in flight at once.
    compares: codes that are fetched one by one and compared.
    scanned: codes that are streamed and compared.
    code_B: bytes of a code [B].
    near_B: bytes of whole vertices or vectors that memory serves instead of
      the store [B].
  """

  reads: ArrayLike
  granule_B: ArrayLike
  beam: ArrayLike
  compares: ArrayLike
  scanned: ArrayLike
  code_B: ArrayLike
  near_B: ArrayLike = 0.0

  @property
  def flops(self) -> ArrayLike:
    """Operations of all comparisons of a query."""
    return (self.compares + self.scanned) * self.code_B * _FLOPS_PER_CODE_B


class Served(NamedTuple):
  """How a machine serves queries; arrays over configurations.

  Attributes:
    queries_per_s: throughput [1/s].
    latency_s: mean time of a query, its waits in line included [s].
    query_J: energy of one query [J].
    reads_per_s: granules read from the store [1/s].
  """

  queries_per_s: np.ndarray
  latency_s: np.ndarray
  query_J: np.ndarray
  reads_per_s: np.ndarray


def graph_search(
  *,
  reads: ArrayLike,
  degree: ArrayLike = 64,
  beam: ArrayLike = 4,
  code_B: ArrayLike = 32,
  granule_B: ArrayLike = 4096,
  compares: ArrayLike | None = None,
) -> Search:
  """A walk over a graph whose vertices lie on a store.

  Args:
    reads: vertices read per query.
    degree: neighbours of a vertex (DiskANN section 5: 64 to 128).
    beam: vertices read at once (DiskANN section 3.2: 2 to 8).
    code_B: bytes of a neighbour's code in memory (DiskANN section 3.1: 32).
    granule_B: bytes of a vertex on the store; a sector of 4 KiB.
    compares: comparisons per query where they are known; neighbours that were
      seen before are not compared again.
  """
  compares = np.asarray(reads) * degree if compares is None else compares
  return Search(reads, granule_B, beam, compares, 0.0, code_B)


def cached(search: Search, share: ArrayLike, item_B: ArrayLike) -> Search:
  """A search that finds a share of its reads in memory.

  Args:
    search: what a query asks for without a cache.
    share: of its reads, 0 to 1; more than the share of the vertices where the
      hot ones are kept.
    item_B: bytes of a vertex or vector in memory, where no sector is read
      whole [B].

  Raises:
    SpecError: a share outside of 0 to 1.

  Examples:
    >>> float(cached(graph_search(reads=64), 0.25, 528).reads)
    48.0
  """
  share = np.asarray(share, float)
  if np.any((share < 0) | (share > 1)):
    raise errors.SpecError(f'share in memory = {share}; expected 0 to 1')
  return search._replace(
    reads=np.asarray(search.reads) * (1.0 - share),
    near_B=search.near_B + np.asarray(search.reads) * share * item_B,
  )


def ivf_search(
  *,
  vectors: ArrayLike,
  lists: ArrayLike,
  probes: ArrayLike,
  code_B: ArrayLike = 32,
  centroid_compares: ArrayLike | None = None,
  reranked: ArrayLike = 0.0,
  granule_B: ArrayLike = 4096,
) -> Search:
  """A search of the nearest inverted lists.

  Args:
    vectors: vectors in the index.
    lists: lists, of equal length on average.
    probes: lists that a query scans.
    code_B: bytes of a code.
    centroid_compares: comparisons to find the lists; all of them by default,
      fewer when a graph over the centroids is walked.
    reranked: vectors that are read whole in the end, all at once.
    granule_B: bytes of such a read.

  Raises:
    SpecError: more probes than lists.
  """
  if np.any(np.asarray(probes) > np.asarray(lists)):
    raise errors.SpecError(
      f'probes = {probes} exceed lists = {lists}; the nearest valid number is '
      f'{lists}'
    )
  scanned = np.asarray(vectors) / lists * probes
  compares = lists if centroid_compares is None else centroid_compares
  beam = np.maximum(reranked, 1.0)
  return Search(reranked, granule_B, beam, compares, scanned, code_B)


def retrieval_demand(
  system: System,
  search: Search,
  queries: ArrayLike,
  *,
  memory: str = 'DRAM',
  store: str = 'SSD',
  engine: str = 'vector:float32',
) -> Demand:
  """The demand of `queries` queries that are in flight together.

  Args:
    system: the machine.
    search: what one query asks for.
    queries: queries in flight; at least one.
    memory: where codes lie.
    store: where vertices and whole vectors lie.
    engine: what compares.

  Raises:
    SpecError: a tier or engine that the system lacks; less than one query.
  """
  queries = np.asarray(queries, float)
  if np.any(queries < 1.0):
    raise errors.SpecError(f'queries in flight = {queries}; expected 1 or more')
  store_B = np.asarray(search.reads) * search.granule_B
  fetched_B = np.asarray(search.compares) * search.code_B
  scanned_B = np.asarray(search.scanned) * search.code_B
  in_flight_B = queries * search.beam * search.granule_B
  granule_B = {store: search.granule_B}
  flight_B = {store: in_flight_B}
  via = system.tier(store).via
  if via:
    granule_B[via], flight_B[via] = search.granule_B, in_flight_B
  return Demand.of(
    system,
    read_B={
      store: queries * store_B,
      memory: queries * (fetched_B + scanned_B + search.near_B),
    },
    granule_B=granule_B,
    in_flight_B=flight_B,
    flops={engine: queries * np.asarray(search.flops)},
  )


def serve(
  system: System, search: Search, queries: ArrayLike, **where: str
) -> Served:
  """Throughput, latency and energy with so many queries in flight.

  Args:
    system: the machine.
    search: what one query asks for.
    queries: queries in flight.
    **where: `memory`, `store` and `engine` of `retrieval_demand`.

  Examples:
    >>> from diffmem.system import Engine, System, Tier
    >>> host = System.of(
    ...   'host',
    ...   [Tier.of('DRAM', read_Bps=1e11), Tier.of('SSD', latency_s=1e-4)],
    ...   [Engine.of('vector:float32', rate_FLOPps=1e11)],
    ... )
    >>> one = serve(host, graph_search(reads=64, beam=4), 1)
    >>> bool(one.latency_s > 16 * 1e-4)
    True
  """
  cost = predict_jit(system, retrieval_demand(system, search, queries, **where))
  time_s = np.asarray(cost.time_s, float)
  queries = np.broadcast_to(np.asarray(queries, float), time_s.shape)
  rate = queries / time_s
  return Served(
    queries_per_s=rate,
    latency_s=time_s,
    query_J=np.asarray(cost.energy_J, float) / queries,
    reads_per_s=rate * search.reads,
  )
