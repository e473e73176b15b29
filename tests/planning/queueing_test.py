"""Waits against exact formulas and a simulation."""

import heapq

import numpy as np
import pytest
from scipy import special

from diffmem.planning.serving import queueing


def _erlang_c(c: int, a: float) -> float:
  """The textbook sum."""
  terms = a ** np.arange(c) / special.factorial(np.arange(c))
  last = a**c / special.factorial(c) * c / (c - a)
  return last / (terms.sum() + last)


@pytest.mark.parametrize(
  ('c', 'a'), [(1, 0.3), (2, 1.9), (7, 5.0), (40, 36.0), (100, 70.0)]
)
def test_erlang_c_is_the_textbook_sum(c, a):
  assert queueing.erlang_c(c, a) == pytest.approx(_erlang_c(c, a), rel=1e-9)


def test_limits_of_erlang_c():
  assert queueing.erlang_c(1, 0.4) == pytest.approx(0.4)
  assert queueing.erlang_c(5, 0.0) == 0.0
  assert queueing.erlang_c(5, 5.0) == queueing.erlang_c(5, 9.0) == 1.0
  many = queueing.erlang_c(100_000, np.array([99_000.0, 99_900.0]))
  assert np.isfinite(many).all() and (np.diff(many) > 0).all()
  # Between whole numbers of servers it falls.
  between = queueing.erlang_c(np.array([3.0, 3.5, 4.0]), 2.5)
  assert (np.diff(between) < 0).all()


def test_mm1_and_md1_exactly():
  exponential = queueing.wait(1, 0.8, 1.0, 1.0)
  assert exponential.mean_s == pytest.approx(0.8 / 0.2)
  # P(W > t) = rho exp(-(1 - rho) t).
  assert exponential.at(0.9) == pytest.approx(np.log(0.8 / 0.1) / 0.2)
  assert exponential.at(0.1) == 0.0
  assert queueing.wait(1, 0.8, 1.0).mean_s == pytest.approx(0.8 / 0.4)


def test_an_overloaded_pool_waits_for_ever():
  found = queueing.wait(4, np.array([3.9, 4.0, 5.0]), 1.0)
  assert np.isfinite(found.mean_s).tolist() == [True, False, False]
  assert np.isfinite(found.at(0.5)).tolist() == [True, False, False]


def _simulated_waits(servers, rate, draw, requests=40_000, seed=0):
  """First come, first served."""
  rng = np.random.default_rng(seed)
  arrivals = np.cumsum(rng.exponential(1.0 / rate, requests))
  services = draw(rng, requests)
  free = [0.0] * servers
  waits = np.empty(requests)
  for i in range(requests):
    start = max(arrivals[i], heapq.heappop(free))
    waits[i] = start - arrivals[i]
    heapq.heappush(free, start + services[i])
  return waits[requests // 10 :]


def _alike(rng, n):
  return np.ones(n)


def _varied(rng, n):
  return rng.gamma(2.0, 0.5, n)  # squared variation one half


@pytest.mark.parametrize('servers', [1, 4, 16])
@pytest.mark.parametrize('load', [0.6, 0.85])
@pytest.mark.parametrize(('draw', 'variation'), [(_alike, 0.0), (_varied, 0.5)])
def test_waits_of_a_simulation(servers, load, draw, variation):
  rate = load * servers
  waits = _simulated_waits(servers, rate, draw)
  found = queueing.wait(servers, rate, 1.0, variation)
  # Within a fifth, or a twentieth of a service where hardly any one waits.
  assert found.mean_s == pytest.approx(waits.mean(), rel=0.2, abs=0.05)
  assert found.at(0.9) == pytest.approx(
    np.quantile(waits, 0.9), rel=0.25, abs=0.15
  )


def test_waits_grow_with_load_and_variation_and_fall_with_servers():
  rates = np.linspace(0.1, 3.9, 30)
  assert (np.diff(queueing.wait(4, rates, 1.0).at(0.9)) >= 0).all()
  assert (
    queueing.wait(4, rates, 1.0, 2.0).mean_s
    > queueing.wait(4, rates, 1.0).mean_s
  ).all()
  servers = np.arange(4.0, 30.0)
  assert (np.diff(queueing.wait(servers, 3.9, 1.0).mean_s) <= 0).all()
