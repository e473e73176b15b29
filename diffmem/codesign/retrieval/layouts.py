"""Index layouts for retrieval: what a query asks of each machine.

*Graph on SSD* (Subramanya et al., "DiskANN", NeurIPS 2019): codes of all
vectors and the hottest vertices in memory, whole vertices on drives. *Graph in
memory*: no codes, no reads. *Lists* (Jegou et al., TPAMI 33(1), 2011): codes
in memory, in inverted lists; with vectors on a drive or in memory the best
ones are read whole and ranked again.

An index on several machines is cut into shards, and every query asks all of
them. A walk over a graph of n vertices needs reads in proportion to ln n
(Malkov and Yashunin, TPAMI 42(4), 2020, section 4.2), so that shards of a
graph multiply the work; the lists of a shard are as long as before and it has
its part of them, so that shards of lists share it.

Laws that no public run settles are assumptions, each beside its constant:
codes shorter than 50 bytes, re-ranking, caches of hot vertices.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from diffmem import errors
from diffmem.codesign.retrieval.parts import Corpus
from diffmem.workloads import recall

_SECTOR_B = 4096.0
_LINE_B = 256.0  # What `memory_compare_s` is counted in (Optane's line).
_CODE_UNIT_B = 32.0  # What `list_code_s` is counted in.
_MEASURED_VECTORS = 1e9  # Size of all indexes that the laws were fitted on.
# Comparisons of a query grow with its reads to this power: neighbours repeat.
# Fitted on 22 DiskANN runs; 0.79 to 0.80 on each data set apart.
_COMPARES_POWER = 0.795
# Odds of recall grow with the bytes of a code to this power: ceilings of FAISS
# at 32 and kst_ann at 48 bytes give 1.3, 1.6 and 0.8 on three data sets.
_CODE_POWER = 1.2
# Odds of recall grow with the vectors ranked again, over the 10 asked for
# (unverified: recall at 1, 10 and 100 of IVFADC, Jegou et al., from memory).
_RERANK_POWER = 0.8
_ANSWERS = 10.0
# Codes scanned per probed list, FAISS runs (1166 to 1200, 2^20 lists).
_CODES_PER_LIST = 1170.0
# Candidates of the search for lists that are tried (efSearch; 4 to 512 there).
_CANDIDATES = 2.0 ** np.arange(2, 12)
_EDGE_B = 4.0  # Number of a neighbour.
_ID_B = 8.0  # Number of a vector beside its code (FAISS).
# Neighbours of a vertex: on hosts as in the DiskANN runs; in accelerators what
# fits 1e9 vectors of 400 bytes into eight of 80 GB.
_DEGREE = {'DRAM': 100.0, 'HBM': 32.0}

CODES_B = (8.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0)
# Codes tried, over those that were measured: the power law goes no further.
_CODE_RANGE = {'graph': (0.4, 1.3), 'lists': (0.5, 2.0)}
RERANKED = (20.0, 50.0, 100.0, 200.0, 500.0)
SHARDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Question(NamedTuple):
  """What is to be served.

  Attributes:
    corpus: how hard the index is to search.
    vectors: in the index.
    queries_per_s: of all machines together [1/s].
    recall: of the 10 nearest, 0 to 1.
    latency_s: limit on the time of a query [s].
    percentile: of queries within the limit, 0 to 1; None limits the mean.
    copies: least number of copies of the index.
    most_busy: share of its time that a thread or drive may be busy.
    beam: vertices read at once by a graph search on drives.
  """

  corpus: Corpus
  vectors: float
  queries_per_s: float
  recall: float
  latency_s: float
  percentile: float | None = None
  copies: int = 1
  most_busy: float = 0.8
  beam: float = 4.0

  def check(self) -> None:
    """Raises SpecError where a field cannot be."""
    for name, low, high in (
      ('vectors', 1e4, np.inf),
      ('queries_per_s', 0.0, np.inf),
      ('recall', 0.0, 1.0),
      ('latency_s', 0.0, np.inf),
      ('percentile', 0.5, 1.0),
      ('copies', 0, np.inf),
      ('most_busy', 0.0, 0.95),
      ('beam', 0.0, np.inf),
    ):
      value = getattr(self, name)
      if value is not None and not low < value <= high:
        raise errors.SpecError(
          f'{name} = {value}: expected above {low:g}, at most {high:g}'
        )


class Layout(NamedTuple):
  """A way to lay the index out.

  Attributes:
    name: as in tables.
    index: 'graph' or 'lists'.
    memory: 'DRAM' or 'HBM', where vertices or codes are.
    vectors: where whole vectors are beside them: 'SSD', 'DRAM' or ''.
  """

  name: str
  index: str
  memory: str
  vectors: str

  @property
  def on_drives(self) -> bool:
    """Whether queries read drives."""
    return self.vectors == 'SSD'


LAYOUTS = (
  Layout('graph on SSD', 'graph', 'DRAM', 'SSD'),
  Layout('graph in DRAM', 'graph', 'DRAM', ''),
  Layout('graph in HBM', 'graph', 'HBM', ''),
  Layout('lists in DRAM', 'lists', 'DRAM', ''),
  Layout('lists in DRAM, vectors on SSD', 'lists', 'DRAM', 'SSD'),
  Layout('lists in DRAM, vectors in DRAM', 'lists', 'DRAM', 'DRAM'),
  Layout('lists in HBM', 'lists', 'HBM', ''),
  Layout('lists in HBM, vectors in DRAM', 'lists', 'HBM', 'DRAM'),
)


class Candidate(NamedTuple):
  """The discrete choices.

  Attributes:
    layout: where things are.
    shards: machines that one copy of the index is cut into.
    code_B: bytes of a code; 0 without codes.
    reranked: vectors that are ranked again; 0 for none.
  """

  layout: Layout
  shards: int
  code_B: float
  reranked: float


class Rates(NamedTuple):
  """Times of one server of a machine: a thread, or a whole accelerator.

  Attributes:
    disk_compare_s: comparison of a graph search on drives [s].
    memory_compare_s: one in memory, per 256 bytes of vector [s].
    query_s: a query on lists, once [s].
    candidate_s: per candidate of the search for lists [s].
    code_s: per code of 32 bytes [s].
    rerank_s: per vector read whole from a drive [s].
  """

  disk_compare_s: Any
  memory_compare_s: Any
  query_s: Any
  candidate_s: Any
  code_s: Any
  rerank_s: Any


class Asked(NamedTuple):
  """What a query asks of one machine (one shard), and what a shard holds.

  Numbers, complex where a derivative is taken. A share x of the vertices (or
  vectors) that lie on drives is in memory too.

  Attributes:
    server_s: time of a server, without reads of drives [s].
    read_s: time of a server per read of a drive [s].
    reads: granules that are asked for, in memory or on a drive.
    rounds: waits for a drive one after the other, without a cache.
    entry: share of the reads near the entry of a graph, the same for all.
    traffic_B: bytes out of memory [B].
    near_B: bytes of codes or of the graph, in the layout's memory [B].
    hot_B: bytes in memory of all that lies on drives, were x = 1 [B].
    drive_B: bytes on drives [B].
    vectors: in a shard.
  """

  server_s: Any
  read_s: Any
  reads: Any
  rounds: Any
  entry: Any
  traffic_B: Any
  near_B: Any
  hot_B: Any
  drive_B: Any
  vectors: Any

  def missed(self, x):
    """Share of the reads that go to drives with a share x in memory.

    Vertices near the entry are read by every query and are cached first;
    queries are taken to differ in all others (an assumption that never
    flatters a cache).
    """
    shared = np.log(1.0 + x * self.vectors) / np.log(1.0 + self.vectors)
    return 1.0 - self.entry * shared - (1.0 - self.entry) * x


def candidates(question: Question, layout: Layout) -> Iterator[Candidate]:
  """All discrete choices of a layout."""
  corpus = question.corpus
  measured_B = _CODE_UNIT_B
  if layout.index == 'graph' and corpus.graph:
    measured_B = corpus.graph.code_B
  least, most = (measured_B * f for f in _CODE_RANGE[layout.index])
  most = min(most, corpus.vector_B)
  codes = [b for b in CODES_B if least <= b <= most] or [most]
  if layout.index == 'graph':
    codes = codes if layout.on_drives else [0.0]
    reranked = [0.0]
  else:
    reranked = RERANKED if layout.vectors else [0.0]
  for shards in SHARDS:
    for code_B in codes:
      for count in reranked:
        yield Candidate(layout, shards, code_B, count)


def asked(question: Question, candidate: Candidate, rates: Rates) -> Asked:
  """What a query asks of each machine.

  Raises:
    SpecError: an index kind that the corpus has no law for, or a recall that
      this candidate does not reach.
  """
  if candidate.layout.index == 'graph':
    return _graph(question, candidate, rates)
  return _lists(question, candidate, rates)


def _graph(question, candidate, rates) -> Asked:
  law = question.corpus.graph
  if law is None:
    raise errors.SpecError('no graph search was measured on this corpus')
  layout, vector_B = candidate.layout, question.corpus.vector_B
  vectors = question.vectors / candidate.shards
  size = np.log(vectors) / np.log(_MEASURED_VECTORS)
  reads = size * recall.RecallLaw(law.ceiling, law.half_work).work(
    question.recall
  )
  if layout.on_drives:
    # Worse codes lower the odds that the walk goes the right way.
    odds = (candidate.code_B / law.code_B) ** _CODE_POWER
    reads = reads * odds ** (-1.0 / recall.GRAPH_STEEPNESS)
  compares = law.compares * reads**_COMPARES_POWER
  degree = _DEGREE[layout.memory]
  vertex_B = vector_B + _EDGE_B * (degree + 1.0)
  if not layout.on_drives:
    # Of 3.1 times the bytes, threads were 2.1 times slower, GPUs 1.3 times.
    lines = np.ceil(vector_B / _LINE_B) if layout.memory == 'DRAM' else 1.0
    return Asked(
      server_s=compares * lines * rates.memory_compare_s,
      read_s=0.0, reads=0.0, rounds=0.0, entry=0.0,
      traffic_B=compares * vector_B + reads * _EDGE_B * degree,
      near_B=vectors * vertex_B, hot_B=0.0, drive_B=0.0, vectors=vectors,
    )  # fmt: skip
  levels = np.log(vectors) / np.log(degree)
  return Asked(
    server_s=compares * rates.disk_compare_s,
    read_s=0.0,
    reads=reads * np.ceil(vertex_B / _SECTOR_B),
    rounds=reads / question.beam,
    entry=levels / (levels + reads),
    traffic_B=compares * np.maximum(candidate.code_B, 64.0) + reads * vertex_B,
    near_B=vectors * candidate.code_B,
    hot_B=vectors * (vertex_B + _EDGE_B),
    drive_B=vectors * _sector_share_B(vertex_B),
    vectors=vectors,
  )


def _lists(question, candidate, rates) -> Asked:
  law = question.corpus.lists
  if law is None:
    raise errors.SpecError('no inverted lists were measured on this corpus')
  layout, vector_B = candidate.layout, question.corpus.vector_B
  odds = law.ceiling / (1.0 - law.ceiling)
  odds *= (candidate.code_B / _CODE_UNIT_B) ** _CODE_POWER
  odds *= np.maximum(candidate.reranked / _ANSWERS, 1.0) ** _RERANK_POWER
  lists = recall.ListsLaw(
    odds / (1.0 + odds), law.half_probes, law.half_candidates
  )
  probe_s = rates.code_s * candidate.code_B / _CODE_UNIT_B * _CODES_PER_LIST
  width = _best_width(
    lists, question.recall, probe_s / candidate.shards, rates.candidate_s
  )
  probes = lists.probes(question.recall, width)
  vectors = question.vectors / candidate.shards
  scanned_B = probes * _CODES_PER_LIST / candidate.shards * candidate.code_B
  ranked = candidate.reranked / candidate.shards
  in_memory = layout.vectors == 'DRAM'
  lines = np.ceil(vector_B / _LINE_B)
  server_s = (
    rates.query_s
    + rates.candidate_s * width
    + rates.code_s * scanned_B / _CODE_UNIT_B
    + rates.memory_compare_s * lines * ranked * in_memory
  )
  on_drives = float(layout.on_drives)
  return Asked(
    server_s=server_s,
    read_s=rates.rerank_s * on_drives,
    reads=ranked * np.ceil(vector_B / _SECTOR_B) * on_drives,
    rounds=on_drives,
    entry=0.0,
    traffic_B=scanned_B + ranked * lines * _LINE_B * in_memory,
    near_B=vectors * (candidate.code_B + _ID_B),
    hot_B=vectors * vector_B * float(bool(layout.vectors)),
    drive_B=vectors * _sector_share_B(vector_B) * on_drives,
    vectors=vectors,
  )


def _best_width(lists, asked_recall, probe_s, candidate_s) -> float:
  """Candidates for lists that cost the least time, probes included.

  Raises:
    SpecError: a recall that none reaches.
  """
  most = lists.ceiling * lists.lists_found(_CANDIDATES)
  able = _CANDIDATES[np.real(most) > np.real(asked_recall)]
  if not able.size:
    lists.probes(asked_recall, _CANDIDATES[-1])  # Says what is reached.
  time_s = candidate_s * able + probe_s * lists.probes(asked_recall, able)
  return able[np.argmin(np.real(time_s))]


def _sector_share_B(item_B: float) -> float:
  """Bytes of an item on a drive where none crosses a sector needlessly."""
  if item_B >= _SECTOR_B:
    return np.ceil(item_B / _SECTOR_B) * _SECTOR_B
  return _SECTOR_B / np.floor(_SECTOR_B / item_B)
