"""Galvatron's costs against its formulas case by case; plans by brute force."""

import itertools

import numpy as np
import pytest

from benchmarks.peers import galvatron, galvatron_search
from benchmarks.peers.galvatron import Costs, Strategy


@pytest.fixture(scope='module')
def published():
  return galvatron.load()[0]


def _overlapped(a_ms, b_ms):
  return max(a_ms, b_ms) + 0.3 * min(a_ms, b_ms)


def test_time_of_a_layer_by_hand(published):
  forward, overhead = 55.0 / 24.0, 100.0 / 24.0
  local_MB = 512 * 1280 * 4 * 4 / 2**20
  # Eight data ranks, one sample each.
  exchange = 2 * 7 / 8 * 76.98 * 0.21530878
  plain = forward + _overlapped(2 * forward, exchange) + overhead
  got = galvatron.layer_s(published, Strategy(1, 1, 8), 8)
  assert got == pytest.approx(1.1e-3 * plain, rel=1e-12)
  sharded = galvatron.layer_s(published, Strategy(1, 1, 8, True), 8)
  assert sharded == pytest.approx(1.1e-3 * (plain + exchange / 2), rel=1e-12)
  # Eight tensor ranks, no gradients to exchange.
  tensor = 3 * forward + 2 * 7 / 8 * 8 * local_MB * 0.21530878
  got = galvatron.layer_s(published, Strategy(1, 8, 1), 8)
  assert got == pytest.approx(1.1e-3 * tensor, rel=1e-12)
  # Two stages, two tensor ranks beside each other, two data ranks: 20 samples
  # each, half of the backward pass overlaps, 4.5 chunks fill the stages.
  worked = 20 / 2 * forward
  passed = 3 * worked + 2 * 1 / 2 * 20 * local_MB * 0.275195313
  exchange = 2 * 1 / 2 * 76.98 / 2 * 0.224153646
  total = passed * (2 + 4.5 - 1) / (2 * 4.5)
  total += _overlapped(worked, exchange) - worked + overhead
  got = galvatron.layer_s(published, Strategy(2, 2, 2), 40)
  assert got == pytest.approx(1.1e-3 * total, rel=1e-12)
  # Four stages of two data ranks where the exchange is the longer: its rest
  # passes beside the pipeline, but for one stage.
  exchange = 2 * 1 / 2 * 76.98 * 0.264908854
  hidden = 2 * 4 * forward
  total = (3 * 4 * forward) * (4 + 2 - 1) / (4 * 2) + overhead
  total += 0.3 * hidden + (exchange - hidden) / 4
  assert exchange > hidden
  got = galvatron.layer_s(published, Strategy(4, 1, 2), 8)
  assert got == pytest.approx(1.1e-3 * total, rel=1e-12)


def test_vision_model_by_hand():
  published = galvatron.load()[1]
  local_MB = 196 * 1280 * 4 * 4 / 2**20
  # Four stages of two tensor ranks, 16 samples: two chunks, no gradients.
  total = 3 * 16 / 2 * 0.75 + 2 * 1 / 2 * 16 * local_MB * 0.264908854
  got = galvatron.layer_s(published, Strategy(4, 2, 1), 16)
  assert got == pytest.approx(1.1e-3 * total * (4 + 2 - 1) / 8, rel=1e-12)
  # Eight samples are one chunk, which fills one stage at a time.
  total = 3 * 8 / 2 * 0.75 + 2 * 1 / 2 * 8 * local_MB * 0.264908854
  got = galvatron.layer_s(published, Strategy(4, 2, 1), 8)
  assert got == pytest.approx(1.1e-3 * total, rel=1e-12)
  found = galvatron_search.best_plan(published, 8 * 1024.0)
  assert found.samples_per_s <= found.exact_samples_per_s <= found.bound
  assert found.gap < 0.01


def test_memory_and_resharding_by_hand(published):
  assert galvatron.layer_MB(published, Strategy(1, 2, 4), 16) == (
    pytest.approx(4 * 76.98 / 2 + 52.475 * 4)
  )
  assert galvatron.layer_MB(published, Strategy(1, 2, 4, True), 16) == (
    pytest.approx(4 * 76.98 / 2 * (0.25 + 0.025) + 52.475 * 4)
  )
  costs = galvatron.costs(published, 2, 16)
  assert costs.layers == 16
  assert costs.room_MB == -(793 + 313 * 4 + 1024)
  grown = galvatron.reshard_s(
    published, Strategy(1, 1, 8), Strategy(1, 4, 2), 16
  )
  assert grown == pytest.approx(3 / 4 * 2 * 8 * 0.226519097e-3)
  # From four ranks to two of another nearness, the values must move too.
  moved = galvatron.reshard_s(
    published, Strategy(1, 4, 2, is_near=False), Strategy(1, 2, 4), 16
  )
  assert moved == pytest.approx(1 / 2 * 2 * 4 * 0.277994792e-3)
  assert (
    galvatron.reshard_s(published, Strategy(1, 4, 2), Strategy(1, 2, 4), 16)
    == 0.0
  )
  back = galvatron.reshard_s(
    published, Strategy(1, 4, 2), Strategy(1, 1, 8), 16
  )
  assert back == 0.0


def test_every_strategy_is_there(published):
  counts = {s: len(galvatron.strategies(8, s)) for s in (1, 2, 4, 8)}
  assert counts == {1: 11, 2: 7, 4: 3, 8: 1}
  for stages in counts:
    for one in galvatron.strategies(8, stages):
      assert one.stages * one.tensor * one.data == 8


@pytest.mark.parametrize('seed', range(12))
def test_bound_exact_and_blocks_against_brute_force(seed):
  rng = np.random.default_rng(seed)
  layers, kinds = 5, 4
  costs = Costs(
    galvatron.strategies(8, 2)[:kinds],
    layers,
    rng.uniform(1.0, 3.0, kinds),
    rng.integers(5, 30, kinds).astype(float),
    np.where(np.eye(kinds) > 0, 0.0, rng.uniform(0.0, 0.4, (kinds, kinds))),
    0.0,
  )
  room = float(rng.integers(layers * costs.memory_MB.min() + 1, 200))
  plans = np.array(list(itertools.product(range(kinds), repeat=layers)))
  time_s = costs.time_s[plans].sum(1)
  time_s += costs.reshard_s[plans[:, :-1], plans[:, 1:]].sum(1)
  fits = costs.memory_MB[plans].sum(1) <= room
  best = 2.0 * time_s[fits].min()
  assert galvatron_search.exact_s(costs, room) == pytest.approx(best)
  assert galvatron_search.bound_s(costs, room) <= best * (1.0 + 1e-12)
  blocks = galvatron_search.two_blocks(costs, room)
  assert best * (1.0 - 1e-12) <= blocks.time_s <= 1.2 * best
  assert sum(blocks.layers) == layers
  # Without resharding, the bound is the relaxed optimum: less than a layer off.
  free = costs._replace(reshard_s=np.zeros((kinds, kinds)))
  gap = galvatron_search.exact_s(free, room) - galvatron_search.bound_s(
    free, room
  )
  assert gap <= 2.0 * np.ptp(costs.time_s) + 1e-9


def test_what_does_not_fit_is_said(published):
  costs = galvatron.costs(published, 1, 8)
  assert galvatron_search.bound_s(costs, 100.0) == np.inf
  assert galvatron_search.two_blocks(costs, 100.0) is None
  with pytest.raises(ValueError, match='nothing fits'):
    galvatron_search.best_plan(published, 1024.0)


def test_published_budget_is_planned_to_the_exact_optimum(published):
  found = galvatron_search.best_plan(published, 8 * 1024.0)
  assert found.samples_per_s <= found.exact_samples_per_s <= found.bound
  assert found.samples_per_s >= 0.999 * found.exact_samples_per_s
  assert found.gap < 0.01
