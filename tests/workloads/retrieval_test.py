"""Closed-loop retrieval against limits by hand and published leaderboards."""

import csv
import pathlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from diffmem import errors
from diffmem.system import Engine, System, Tier
from diffmem.workloads import retrieval

MEASURED = (
  pathlib.Path(__file__).parents[3] / 'shared/traces/offload/rag_bigann_t2.csv'
)
LATENCY_S = 100e-6


def host(rate=1e15, read_Bps=2e9, **changes):
  # Eight cores and one drive: Azure L8s_v2 is sold with 2 GB/s and 400 k
  # reads/s of its local NVMe drive.
  return System.of(
    'host',
    [
      Tier.of(
        'DRAM', read_Bps=100e9, read_in_flight_B=1e6, device_J_per_B=1e-10
      ),
      Tier.of('SSD', read_Bps=read_Bps, latency_s=LATENCY_S, queue_p=3.0),
    ],
    [Engine.of('vector:float32', rate_FLOPps=rate, energy_J_per_FLOP=1e-12)],
    static_W=50.0,
    power_cap_W=500.0,
    **changes,
  )


SEARCH = retrieval.graph_search(reads=64, degree=50, beam=4)


def test_one_query_waits_for_its_rounds():
  found = retrieval.serve(host(), SEARCH, 1)
  assert found.latency_s == pytest.approx(64 / 4 * LATENCY_S, rel=0.05)
  assert found.queries_per_s == pytest.approx(1 / found.latency_s)
  assert found.reads_per_s == pytest.approx(64 / found.latency_s)


def test_many_queries_fill_the_drive():
  found = retrieval.serve(host(), SEARCH, 4096)
  most = 2e9 / 4096
  assert 0.9 * most < found.reads_per_s < most
  # Little's law.
  assert found.latency_s * found.queries_per_s == pytest.approx(4096)


def test_comparing_binds_where_the_engine_is_slow():
  found = retrieval.serve(host(rate=1e8), SEARCH, 4096)
  flops = 64 * 50 * 32 * 2
  assert found.queries_per_s == pytest.approx(1e8 / flops, rel=0.05)


def test_energy_of_a_query():
  found = retrieval.serve(host(), SEARCH, 4096)
  static_J = 50.0 / found.queries_per_s
  near_J = 64 * 50 * 32 * 1e-10
  assert found.query_J > static_J + near_J
  assert found.query_J < 2 * (static_J + near_J)


@given(st.floats(1, 1000), st.floats(1, 3), st.sampled_from([1, 4, 64, 512]))
def test_more_work_is_never_quicker(reads, more, queries):
  a, b = (
    retrieval.serve(
      host(rate=1e10), retrieval.graph_search(reads=r, beam=4), queries
    )
    for r in (reads, reads * more)
  )
  assert b.queries_per_s <= a.queries_per_s * (1 + 1e-5)
  assert b.latency_s >= a.latency_s * (1 - 1e-5)


@given(st.integers(1, 500), st.integers(1, 500))
def test_more_queries_never_serve_fewer(few, more):
  low, high = sorted((few, more))
  found = retrieval.serve(host(), SEARCH, np.array([low, high]))
  assert found.queries_per_s[1] >= found.queries_per_s[0] * (1 - 1e-5)


def test_inverted_lists_stream_their_codes():
  search = retrieval.ivf_search(
    vectors=1e9, lists=1e6, probes=128, code_B=40, centroid_compares=4096
  )
  assert search.scanned == pytest.approx(128e3)
  found = retrieval.serve(host(), search, 256)
  # 128 thousand codes of 40 bytes and 4,096 more out of 100 GB/s.
  assert found.queries_per_s == pytest.approx(
    100e9 / (40 * (128e3 + 4096)), rel=0.1
  )
  again = retrieval.ivf_search(
    vectors=1e9, lists=1e6, probes=128, code_B=40, reranked=100
  )
  assert again.compares == 1e6 and again.beam == 100
  assert retrieval.serve(host(), again, 1).latency_s > LATENCY_S


def test_a_cache_of_hot_vertices_takes_reads_from_the_drive():
  half = retrieval.cached(SEARCH, 0.5, 528)
  assert half.reads == 32 and half.near_B == 32 * 528
  assert half.compares == SEARCH.compares
  cold, warm = (retrieval.serve(host(), s, 4096) for s in (SEARCH, half))
  assert warm.queries_per_s == pytest.approx(2 * cold.queries_per_s, rel=0.02)
  with pytest.raises(errors.SpecError, match='share in memory'):
    retrieval.cached(SEARCH, 1.5, 528)


def test_a_graph_in_memory_reads_vectors_alone():
  search = retrieval.graph_search(reads=0, compares=2000, code_B=128)
  found = retrieval.serve(host(), search, 4096)
  assert found.queries_per_s == pytest.approx(100e9 / (2000 * 128), rel=0.02)
  assert found.reads_per_s == 0


def test_faults():
  with pytest.raises(errors.SpecError, match='probes = 12'):
    retrieval.ivf_search(vectors=100, lists=10, probes=12)
  with pytest.raises(errors.SpecError, match='expected 1 or more'):
    retrieval.serve(host(), SEARCH, 0)
  with pytest.raises(errors.SpecError, match='SSDD'):
    retrieval.serve(host(), SEARCH, 1, store='SSDD')


def test_diskann_on_data_sets_that_were_not_seen():
  """The engine's rate from all other data sets; reads and compares given."""
  if not MEASURED.is_file():
    pytest.skip('no ../shared/traces')
  with MEASURED.open(encoding='utf-8') as file:
    rows = [r for r in csv.DictReader(file) if r['parameters'] == 'DiskANN']
  qps = np.array([float(r['qps']) for r in rows])
  search = retrieval.graph_search(
    reads=np.array([float(r['mean_ssd_ios']) for r in rows]),
    compares=np.array([float(r['distcomps']) for r in rows]),
  )
  names = np.array([r['dataset'] for r in rows])
  for name in np.unique(names):
    others = names != name
    rate = np.median((qps * np.asarray(search.flops))[others])
    found = retrieval.serve(host(rate=rate), search, 8).queries_per_s
    assert np.abs(found / qps - 1.0)[~others].mean() < 0.25
