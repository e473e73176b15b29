"""LRU prefix caches against a simulated one; reload against recompute."""

import csv
import pathlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from diffmem.system import load_catalog
from diffmem.workloads import kv_reuse
from diffmem.workloads.transformer import Attention, Transformer

TRACES = pathlib.Path(__file__).parents[3] / 'shared/traces/workload'


def simulated(requests, capacity):
  """Hits of each request: an LRU list, its oldest block first."""
  cache, hits = [], []
  for blocks in requests:
    found = 0
    while found < len(blocks) and blocks[found] in cache:
      found += 1
    hits.append(found)
    for block in reversed(blocks):
      if block in cache:
        cache.remove(block)
      cache.append(block)
    del cache[: max(len(cache) - capacity, 0)]
  return hits


def prefix_requests(seed, count=60):
  """Conversations that grow, so that hashes stand for whole prefixes."""
  rng = np.random.default_rng(seed)
  names, talks, requests = {}, [], []
  for _ in range(count):
    if talks and rng.random() < 0.6:
      words = [*talks[rng.integers(len(talks))], *rng.integers(0, 9, 3)]
    else:
      words = list(rng.integers(0, 3, rng.integers(0, 6)))
    talks.append(words)
    prefixes = [tuple(words[: i + 1]) for i in range(len(words))]
    requests.append([names.setdefault(p, len(names)) for p in prefixes])
  return requests


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 5, 8, 13, 40, 200]))
def test_against_a_simulated_cache(seed, capacity):
  requests = prefix_requests(seed)
  found = kv_reuse.reuse_of(requests)
  want = simulated(requests, capacity)
  hits = found.hit_blocks(capacity)
  np.testing.assert_array_equal(hits, want[: len(hits)])
  assert sum(want[len(hits) :]) == 0
  total = sum(len(r) for r in requests)
  assert found.hit_rate(capacity) == pytest.approx(sum(want) / total)


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4, 7]))
def test_blocks_behind_a_missing_one_are_of_no_use(seed, capacity):
  rng = np.random.default_rng(seed)  # names that stand for no prefix
  requests = [list(rng.permutation(8)[: rng.integers(1, 5)]) for _ in range(40)]
  found = kv_reuse.reuse_of(requests)
  np.testing.assert_array_equal(
    found.hit_blocks(capacity), simulated(requests, capacity)
  )


def test_a_repeated_block_needs_a_cache_too():
  found = kv_reuse.reuse_of([[5], [5, 5]])
  np.testing.assert_array_equal(found.hit_blocks(1), [0, 2])
  assert found.hit_rate(0) == 0.0


def test_larger_caches_never_hit_less():
  found = kv_reuse.reuse_of(prefix_requests(3))
  rates = found.hit_rate(np.arange(300.0))
  assert rates[0] == 0.0 and (np.diff(rates) >= 0).all()
  assert 0.3 < rates[-1] < 1.0


def test_tiers_together_are_one_cache():
  found = kv_reuse.reuse_of(prefix_requests(4))
  shares = found.tier_hits([4, 16, 80])
  assert shares.sum() == pytest.approx(float(found.hit_rate(100)))
  assert shares[0] == pytest.approx(float(found.hit_rate(4)))
  assert (shares >= 0).all()


def test_nothing_is_shared_and_all_is_shared():
  apart = kv_reuse.reuse_of([[0, 1], [2, 3], []])
  assert apart.hit_rate(1e9) == 0.0 and np.isinf(apart.depth).all()
  same = kv_reuse.reuse_of([[0, 1, 2]] * 4)
  np.testing.assert_array_equal(same.hit_blocks(3), [0, 3, 3, 3])
  # The end of a prompt is evicted first: its start still hits.
  np.testing.assert_array_equal(same.hit_blocks(2), [0, 2, 2, 2])


def test_an_empty_trace_has_no_accesses():
  found = kv_reuse.reuse_of([[], []])
  assert found.depth.shape == (0,)


@pytest.mark.parametrize('name', ['conversation', 'synthetic'])
def test_published_trace(name):
  if not TRACES.is_dir():
    pytest.skip('no ../shared/traces')
  import pyarrow.parquet as pq

  table = pq.read_table(TRACES / f'mooncake_{name}.parquet')
  found = kv_reuse.reuse_of(table['hash_ids'].to_pylist())
  with (TRACES / 'mooncake_lru_hit_curve.csv').open() as file:
    rows = [r for r in csv.DictReader(file) if r['trace'] == name]
  sizes = np.array([float(r['capacity_blocks']) for r in rows])
  want = [float(r['prefix_hit_block_rate']) for r in rows]
  np.testing.assert_allclose(found.hit_rate(sizes), want, atol=1e-5)


MODEL = Transformer(
  name='8b', source='Llama 3, arXiv:2407.21783, table 3', layers=32,
  d_model=4096, d_ff=14336, vocab=128256, max_context=131072,
  attention=Attention(heads=32, kv_heads=8, head_dim=128),
)  # fmt: skip
TOKENS = np.array([1e3, 1e4, 1e5])


@pytest.fixture(scope='module')
def h100():
  return load_catalog('h100-sxm').system


def test_reload_takes_the_link(h100):
  cache_B = 131072.0 * TOKENS
  found = kv_reuse.reload_s(h100, cache_B, 131072.0)
  assert (found > cache_B / 64e9).all()
  np.testing.assert_allclose(found[1:], cache_B[1:] / 64e9, rtol=0.2)
  small = kv_reuse.reload_s(h100, cache_B, 64.0)
  assert (small > found).all()


def test_recompute_takes_the_flops(h100):
  found = kv_reuse.recompute_s(h100, MODEL, TOKENS)
  weights = MODEL.parameters().total - MODEL.parameters().embeddings
  flops = TOKENS * (2 * weights + 32 * 4 * 4096 * TOKENS / 2)
  assert (found > flops / 989e12).all()
  np.testing.assert_allclose(found[1:], flops[1:] / 989e12, rtol=0.15)
  later = kv_reuse.recompute_s(h100, MODEL, TOKENS, before=1e5)
  assert (later > found).all()


def test_a_slower_tier_pays_later(h100):
  slow = h100.with_values({'SSD.read_Bps': 5e9})
  near = kv_reuse.breakeven_tokens(slow, MODEL, tier='DRAM')
  far = kv_reuse.breakeven_tokens(slow, MODEL, tier='SSD')
  assert near < far
  values_B = np.array([131072.0 * far])
  assert kv_reuse.reload_s(slow, values_B, 4096.0 * 16, tier='SSD') <= (
    kv_reuse.recompute_s(slow, MODEL, np.array([far]))
  )
  hopeless = h100.with_values({'SSD.read_Bps': 1e6})
  assert np.isinf(kv_reuse.breakeven_tokens(hopeless, MODEL, tier='SSD'))


def test_a_cached_part_is_reloaded_and_the_rest_computed(h100):
  tokens = 1e4
  shares = np.array([0.0, 0.5, 1.0])
  found = kv_reuse.prompt_s(h100, MODEL, tokens, shares)
  none = kv_reuse.recompute_s(h100, MODEL, np.array([tokens]))[0]
  whole = kv_reuse.reload_s(h100, np.array([131072 * tokens]), 16 * 4096.0)[0]
  assert found[0] == pytest.approx(none, rel=1e-5)
  assert found[2] == pytest.approx(whole, rel=1e-5)
  assert found[2] < found[1] < found[0]
  # Half of the tokens, each of which attends to more than half of the rest.
  assert found[1] > (none + whole) / 2


def test_talks_in_turn_collapse_where_they_no_longer_fit():
  # Twenty talks that grow by 64 blocks a round, one after the other.
  rounds, talks, more = 8, 20, 64
  requests = [
    list(range(10_000 * talk, 10_000 * talk + more * (r + 1)))
    for r in range(rounds)
    for talk in range(talks)
  ]
  found = kv_reuse.reuse_of(requests)
  capacity = 5.2 * talks * more
  hits = found.hit_blocks(capacity).reshape(rounds, talks).sum(1)
  shares = hits / (talks * more * (np.arange(rounds) + 1))
  np.testing.assert_allclose(shares[:5], np.arange(5) / np.arange(1, 6))
  assert shares[5] < 0.7 and (shares[6:] == 0.0).all()
