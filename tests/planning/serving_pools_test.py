"""Pools against a simulation of their engines, step by step."""

import collections
import heapq

import numpy as np
import pytest

from diffmem.planning.serving import pools
from diffmem.planning.serving.pools import Demand, Mixed, Split

FREE = Demand(100, np.inf, np.inf, 0.9)
# Times in seconds: a decode step of 10 ms, 25 ms with a quarter of a prompt.
MIXED = Mixed(1.0, 1.0, 64.0, 0.010, 0.025, 4.0, 2.0, 5.0, 100.0)
SPLIT = Split(2.0, 1.0, 1.0, 0.1, 60.0, 50.0, 4.0, 1.0, 40.0, 0.010, 2.0, 0.004)


def _arrivals(rate, requests, seed=0):
  rng = np.random.default_rng(seed)
  return np.cumsum(rng.exponential(1.0 / rate, requests))


def _simulated_mixed(plan, rate, requests=4000):
  """One worker, step by step: TTFT and TPOT of every request."""
  arrivals = _arrivals(rate, requests)
  waiting, decoding = collections.deque(), []
  now, coming, prompt, done = 0.0, 0, None, 0
  first, last = np.zeros(requests), np.zeros(requests)
  while done < requests:
    while coming < requests and arrivals[coming] <= now:
      waiting.append(coming)
      coming += 1
    if prompt is None and waiting and len(decoding) < plan.slots:
      prompt = [waiting.popleft(), int(plan.pieces)]
    if prompt is None and not decoding:
      now = arrivals[coming]
      continue
    now += plan.step_s if prompt is None else plan.mixed_s
    still = []
    for request, left in decoding:
      if left == 1:
        last[request], done = now, done + 1
      else:
        still.append((request, left - 1))
    decoding = still
    if prompt is not None:
      prompt[1] -= 1
      if prompt[1] == 0:
        first[prompt[0]] = now
        decoding.append((prompt[0], FREE.output_len - 1))
        prompt = None
  return first - arrivals, (last - first) / (FREE.output_len - 1)


@pytest.mark.parametrize('rate', [2.0, 5.0, 7.5])
def test_aggregated_workers_against_a_simulation(rate):
  ttft_s, tpot_s = _simulated_mixed(MIXED, rate)
  found = pools.mixed_point(MIXED, 1.0, rate, FREE)
  assert found.ttft_s == pytest.approx(np.quantile(ttft_s, 0.9), rel=0.2)
  assert found.tpot_s == pytest.approx(np.quantile(tpot_s, 0.9), rel=0.07)
  assert found.queue_s < found.ttft_s


def test_few_places_make_requests_wait():
  few = MIXED._replace(slots=10.0)
  ttft_s, _ = _simulated_mixed(few, 5.0)
  found = pools.mixed_point(few, 1.0, 5.0, FREE)
  assert found.ttft_s > 1.2 * pools.mixed_point(MIXED, 1.0, 5.0, FREE).ttft_s
  assert found.ttft_s == pytest.approx(np.quantile(ttft_s, 0.9), rel=0.35)


def _served(arrivals, servers, service):
  """First come, first served: when each starts and is done."""
  free, starts = [0.0] * servers, np.empty(len(arrivals))
  for i in np.argsort(arrivals, kind='stable'):
    starts[i] = max(arrivals[i], heapq.heappop(free))
    heapq.heappush(free, starts[i] + service)
  return starts, starts + service


@pytest.mark.parametrize('rate', [10.0, 24.0, 34.0])
def test_two_pools_against_a_simulation(rate):
  prefills, decodes = 4, 1
  arrivals = _arrivals(rate, 20_000)
  _, prefilled = _served(arrivals, prefills, SPLIT.pass_s)
  stay_s = 99 * SPLIT.step_s + SPLIT.transfer_s
  starts, _ = _served(prefilled, int(decodes * SPLIT.slots), stay_s)
  ttft_s = np.quantile(starts + SPLIT.transfer_s - arrivals, 0.9)
  found = pools.split_point(SPLIT, prefills, decodes, rate, FREE)
  assert found.tpot_s == pytest.approx(SPLIT.step_s)
  # Where both queues are long their percentiles do not add up: safe.
  assert 0.9 * ttft_s < found.ttft_s < 1.6 * ttft_s


def test_by_hand():
  found = pools.mixed_point(MIXED, 1.0, 5.0, FREE, waits=False)
  # Four pieces of each of 5 prompts a second add 15 ms each: 30 % of the time.
  mean_s = 0.010 / 0.7
  share = 20 * mean_s
  assert found.tpot_s == pytest.approx(0.010 + share * 0.015)
  assert found.tpot_s == pytest.approx(mean_s)
  assert found.prefill_use == pytest.approx(5 * 4 * 0.025)
  assert found.decode_use == pytest.approx(5 * (99 * mean_s + 0.1) / 64)
  assert found.ttft_s == pytest.approx(0.1)
  # 103 of 64 places of a step of 2 J, 4 times 3 J more, and 100 W at rest.
  joules = 103 / 64 * 2 + 12 + 100 / 5
  assert found.energy_per_token_J == pytest.approx(joules / 100)
  found = pools.split_point(SPLIT, 4.0, 1.0, 20.0, FREE, waits=False)
  assert found.ttft_s == pytest.approx(0.104)
  assert found.prefill_use == pytest.approx(0.5)
  joules = 60 + 99 * 2 / 40 + (4 * 2 + 4) * 50 / 20
  assert found.energy_per_token_J == pytest.approx(joules / 100)


def test_the_highest_rate_is_where_a_limit_is_met():
  tight = FREE._replace(ttft_s=0.3)
  ceiling = pools.mixed_ceiling_per_s(MIXED, np.array([1.0]))
  assert ceiling == pytest.approx([10.0])

  def at(rate):
    return pools.mixed_point(MIXED, 1.0, rate, tight)

  (rate,) = pools.most_rate(at, ceiling, tight)
  assert 0 < rate < 10
  assert at(rate).ttft_s <= 0.3 < at(rate * 1.001).ttft_s
  # Nothing serves a limit below the prompt's own time.
  hopeless = FREE._replace(ttft_s=0.09)
  assert pools.most_rate(at, ceiling, hopeless) == [0.0]


def test_latencies_grow_with_the_rate_and_fall_with_workers():
  rates = np.linspace(0.1, 9.9, 50)
  found = pools.mixed_point(MIXED, 1.0, rates, FREE)
  assert (np.diff(found.ttft_s[np.isfinite(found.ttft_s)]) >= 0).all()
  assert (np.diff(found.tpot_s) >= 0).all()
  workers = np.arange(1.0, 9.0)
  found = pools.mixed_point(MIXED, workers, 7.0, FREE)
  assert (np.diff(found.ttft_s) <= 0).all()
  assert (np.diff(found.tpot_s) <= 0).all()
  found = pools.split_point(SPLIT, 4.0, workers, 34.0, FREE)
  assert (np.diff(found.ttft_s) <= 0).all()
  assert np.isinf(pools.split_point(SPLIT, 3.0, 1.0, 34.0, FREE).ttft_s)
