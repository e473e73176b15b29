"""Collectives against rings that are run with numbers, rank by rank."""

import jax
import numpy as np
import pytest

from diffmem.cost import collective

# Ranks of a group within each level, inner first.
GROUPS = [(8, 8), (1, 6), (4, 12), (2, 8, 24), (1, 1), (8, 64)]


def _groups_of(level, ranks):
  """Rings of one level: ranks that differ only in their place there."""
  inner = ranks[level - 1] if level else 1
  outer = ranks[level]
  n = ranks[-1]
  return [
    [domain * outer + place * inner + k for place in range(outer // inner)]
    for domain in range(n // outer)
    for k in range(inner)
  ]


def _ring_reduce_scatter(data, ring):
  """In place: rank `ring[i]` ends with chunk i + 1 summed; returns sends."""
  g = len(ring)
  chunks = {r: np.array_split(data[r], g) for r in ring}
  sent = 0
  for step in range(g - 1):
    moving = {r: chunks[r][(i - step) % g].copy() for i, r in enumerate(ring)}
    sent += moving[ring[0]].nbytes
    for i, rank in enumerate(ring):
      source = ring[(i - 1) % g]
      chunks[rank][(i - 1 - step) % g] += moving[source]
  for i, rank in enumerate(ring):
    data[rank] = chunks[rank][(i + 1) % g]
  return sent, g - 1


def _run_reduce_scatter(ranks, elements):
  n = ranks[-1]
  rng = np.random.default_rng(0)
  start = rng.integers(0, 9, (n, elements)).astype(np.float32)
  data = {r: start[r].copy() for r in range(n)}
  sent, messages = [], []
  for level in range(len(ranks)):
    # All rings of a level do the same; the first one is counted.
    counts = [_ring_reduce_scatter(data, r) for r in _groups_of(level, ranks)]
    assert len(set(counts)) == 1
    sent.append(counts[0][0])
    messages.append(counts[0][1])
  pieces = sorted(tuple(data[r]) for r in range(n))
  expected = start.sum(0).reshape(n, -1)
  assert pieces == sorted(tuple(p) for p in expected)
  return sent, messages


@pytest.mark.parametrize('ranks', GROUPS)
def test_reduce_scatter_is_the_ring_that_sums(ranks):
  elements = 5 * ranks[-1]
  sent, messages = _run_reduce_scatter(ranks, elements)
  law = collective.reduce_scatter(4.0 * elements, np.array(ranks, float))
  np.testing.assert_allclose(law.sent_B, sent, rtol=1e-6)
  np.testing.assert_allclose(law.messages, messages)
  gathered = collective.all_gather(4.0 * elements, np.array(ranks, float))
  np.testing.assert_allclose(gathered.sent_B, sent, rtol=1e-6)
  both = collective.all_reduce(4.0 * elements, np.array(ranks, float))
  np.testing.assert_allclose(both.sent_B, 2 * np.array(sent), rtol=1e-6)


@pytest.mark.parametrize('ranks', GROUPS)
def test_flat_ring_counts_the_edges_that_cross_each_level(ranks):
  """Rings that start at every rank: an edge belongs to its widest domain."""
  n, payload_B = ranks[-1], 12.0
  edges = np.zeros(len(ranks))
  for rank in range(n):
    following = (rank + 1) % n
    for level, within in enumerate(ranks):
      if rank // within == following // within:
        edges[level] += n > 1
        break
  share = edges / max(edges.sum(), 1)
  law = collective.flat_ring(payload_B, np.array(ranks, float), passes=2.0)
  np.testing.assert_allclose(
    law.sent_B, 2 * payload_B * (n - 1) / n * share, rtol=1e-6, atol=1e-6
  )
  np.testing.assert_allclose(law.messages, 2 * (n - 1) * share, atol=1e-6)


@pytest.mark.parametrize('ranks', GROUPS)
def test_all_to_all_counts_every_peer_at_its_level(ranks):
  n, per_peer_B = ranks[-1], 7.0
  expected = np.zeros(len(ranks))
  for peer in range(1, n):
    level = next(i for i, r in enumerate(ranks) if peer < r)
    expected[level] += per_peer_B
  law = collective.all_to_all(n * per_peer_B, np.array(ranks, float))
  np.testing.assert_allclose(law.sent_B, expected, rtol=1e-6)
  np.testing.assert_array_equal(law.messages, expected > 0)


def test_send_recv_uses_the_outermost_level_only():
  law = collective.send_recv(
    3.0, np.array([[4.0, 8.0], [4.0, 4.0], [1.0, 1.0]])
  )
  np.testing.assert_array_equal(law.sent_B, [[0, 3], [3, 0], [0, 0]])


@pytest.mark.parametrize(
  ('size', 'stride', 'expected'),
  [(8, 1, (8, 8)), (16, 1, (8, 16)), (4, 4, (2, 4)), (4, 8, (1, 4))],
)
def test_ranks_within_a_domain(size, stride, expected):
  found = collective.ranks_within(
    float(size), float(stride), np.array([8.0, 4096.0])
  )
  np.testing.assert_array_equal(found, expected)


def test_linear_and_differentiable_in_the_payload():
  ranks = np.array([8.0, 64.0])

  def total(payload_B):
    return collective.all_reduce(payload_B, ranks).sent_B.sum()

  assert float(jax.grad(total)(1e6)) == pytest.approx(2 * 63 / 64, rel=1e-6)
  assert float(total(2e6)) == pytest.approx(2 * float(total(1e6)), rel=1e-6)


def test_times_repeats_and_adds():
  one = collective.all_gather(8.0, np.array([2.0, 4.0]))
  thrice = one.times(3.0)
  np.testing.assert_allclose(thrice.sent_B, (one + one + one).sent_B)
  np.testing.assert_allclose(thrice.messages, 3 * one.messages)
