"""Routing against draws, expert by expert."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from diffmem.cost.kernels import routing

TILES = (16, 64)


def busiest(tokens, topk, experts, shards, skew):
  columns = [np.atleast_1d(c) for c in (tokens, topk, experts, shards, skew)]
  return routing.busiest_device(*columns, TILES)


def drawn(tokens, topk, experts, shards, skew, rng):
  """One draw by the words of the module, one row at a time."""
  many = tokens * topk > experts
  low, high = (1.0, 0.8 * tokens) if many else (0.01, 2.0)
  p = 1.0 - skew
  loads = [
    (low**p + rng.random() * (high**p - low**p)) ** (1 / p)
    for _ in range(experts)
  ]
  total = sum(loads)
  counts = [min(round(x / total * tokens * topk), tokens) for x in loads]
  local = experts // shards
  devices = [counts[i * local : (i + 1) * local] for i in range(shards)]
  missing = tokens * topk - sum(counts)
  device = 0
  while missing:
    rows = devices[device % shards]
    device += 1
    if missing > 0 and min(rows) < tokens:
      rows[rows.index(min(rows))] += 1
      missing -= 1
    elif missing < 0 and max(rows) > 0:
      rows[rows.index(max(rows))] -= 1
      missing += 1
  return max(devices, key=sum)


@pytest.mark.parametrize(
  'tokens, topk, experts, shards, skew',
  [
    (1, 8, 64, 4, 1.01), (8, 6, 64, 8, 1.2), (40, 8, 64, 1, 1.01),
    (500, 2, 8, 2, 1.2), (500, 4, 32, 32, 1.01), (3000, 8, 64, 8, 0.5),
  ],
)  # fmt: skip
def test_skewed_against_monte_carlo(tokens, topk, experts, shards, skew):
  rng = np.random.default_rng(1)
  rows = [drawn(tokens, topk, experts, shards, skew, rng) for _ in range(300)]
  found = busiest(tokens, topk, experts, shards, skew)
  expected = {
    'rows': np.mean([sum(r) for r in rows]),
    'active': np.mean([sum(x > 0 for x in r) for r in rows]),
    'most': np.mean([max(r) for r in rows]),
  }
  for name, value in expected.items():
    assert getattr(found, name)[0] == pytest.approx(value, rel=0.12)
  for tile in TILES:
    value = np.mean([sum(-(-x // tile) for x in r) for r in rows])
    assert found.tiles[tile][0] == pytest.approx(value, rel=0.12)


def test_uniform_choices_against_monte_carlo():
  rng = np.random.default_rng(2)
  counts = []
  for _ in range(400):
    chosen = {e for _ in range(10) for e in rng.permutation(32)[:4]}
    counts.append(len(chosen & set(range(8))))
  found = routing.uniform_active(10.0, 4.0, 32.0, 4.0)
  assert found == pytest.approx(np.mean(counts), rel=0.03)


def test_even_loads():
  found = busiest([1, 4, 100, 1000], 8, 256, [256, 1, 8, 8], 0.0)
  assert found.active.tolist() == [1, 32, 32, 32]
  assert found.rows.tolist() == [1, 32, 100, 1000]
  assert found.tiles[16].tolist() == [1, 32, 32, 64]


@given(
  st.integers(1, 4000),
  st.sampled_from([(2, 8), (8, 64), (4, 30)]),
  st.sampled_from([1, 2]),
  st.sampled_from([0.0, 1.0, 1.01, 1.2]),
)
def test_bounds(tokens, choice, shards, skew):
  topk, experts = choice
  found = busiest(tokens, topk, experts, shards, skew)
  rows, active = found.rows[0], found.active[0]
  assert 1 <= active <= min(experts / shards, rows)
  assert rows / active <= found.most[0] <= tokens + 1e-9
  assert tokens * topk / shards * (1 - 1e-9) <= rows <= tokens * topk + 1e-9
  assert rows <= 16 * found.tiles[16][0] <= rows + 16 * active


def test_the_busiest_device_grows_with_the_skew():
  rows = busiest(1000, 8, 64, 8, np.array([0.0, 0.5, 1.01, 1.5])).rows
  assert (np.diff(rows) > 0).all()


def test_the_same_shape_costs_the_same():
  one = busiest(300, 8, 64, 8, 1.01).rows[0]
  among = busiest([7, 300, 300], 8, 64, [1, 8, 8], [1.2, 1.01, 1.01]).rows
  assert among[1] == among[2] == one
