"""FlexGen's equations against a plain reference; the search by brute force.

The reference is written from the paper and the printed equations, one number
after the other, without JAX.
"""

import itertools
import math

import jax
import numpy as np
import pytest

from benchmarks.peers import (
  flexgen,
  flexgen_cases,
  flexgen_laws,
  flexgen_programme,
  flexgen_search,
)

GB = 2.0**30
_TERMS = jax.jit(flexgen.terms)


@pytest.fixture(scope='module')
def published():
  return flexgen_cases.load()


@pytest.fixture(scope='module')
def small(published):
  """OPT-6.7B beside memories of which a part holds the cache."""
  job = published.cases[1].job
  return job, published.hardware, np.array([6.0, 5.0, 6.0]) * GB


@pytest.fixture(scope='module')
def small_space(small):
  return flexgen_programme.space_of(*small)


def _reference(fractions, job, gpu_batch, blocks):
  """Seconds per layer of prefill and step, and the five peaks in bytes."""
  (wg, wc, wn), (cg, cc, cn), (hg, hc, hn) = fractions
  layers, h1, h2, nh, s, n = job
  bls, wi = gpu_batch * blocks, 8 * h1**2 + 4 * h1 * h2
  to_gpu, host_rate = 12.89 * GB, 0.0123e12
  log_b = max(0.0, math.log2(64 / gpu_batch))
  log_h = max(0.0, math.log2(4096 / h1))
  host_rate *= max(
    0.1, 1 + 0.0168 * log_b * log_h - 0.0328 * log_b - 0.0621 * log_h
  )
  hidden, cache = 2 * s * h1 * bls, 4 * (s + 1) * h1 * bls
  prefill = [
    (wi * (wc + wn) + hidden * (hc + hn)) / to_gpu
    + (wi * wn + hidden * hn) / (0.473 * GB),
    cache * (cc + cn) / (0.97 * GB) + hidden * (hc + hn) / (4.82 * GB)
    + cache * cn / (0.746 * GB) + hidden * hn / (2.015 * GB),
    bls * (8 * s * h1**2 + 4 * s * h1 * h2) / 21.24e12
    + 4 * bls * s**2 * h1 / 9.97e12,
  ]  # fmt: skip
  one, read = 2 * h1 * bls, 4 * bls * (s + n / 2) * h1
  ctog = (wi * (wc + wn) + one * (hc + hn)) / to_gpu
  step = [
    ctog + one * (hc + hn) / (4.82 * GB),
    ctog + (read * cn + one * hn + wi * wn / 0.95) / (0.473 * GB),
    ctog + (4 * bls * h1 * cn + one * hn) / (2.015 * GB),
    ctog + bls * (8 * h1**2 + 4 * h1 * h2) / 4.3e12 + read * cg / 0.079e12
    + read * (cc + cn) / host_rate,
  ]  # fmt: skip
  g, kept = gpu_batch, 4 * (s + n) * h1 * bls * layers
  inner = 18 * g * s * h1 + 2 * g * nh * s**2 + 2 * g * s * h2
  inner_g = g * (14 * h1 + 2 * h2)
  inner_g += g * cg * (4 * h1 + 4 * (s + n) * h1 + 2 * nh * (s + n))
  used = [
    wi * layers * wg + hidden * hg + kept * cg + 2 * wi * (1 - wg)
    + 2 * s * h1 * g * (1 - hg) + inner,
    wi * layers * wg + one * hg + kept * cg + 2 * wi * (1 - wg)
    + 2 * h1 * g * (1 - hg) + 4 * g * (s + n) * h1 * cg + inner_g,
    wi * layers * wc + hidden * hc + 4 * s * h1 * bls * layers * cc
    + wi * (1 - wg) + 2 * s * h1 * g * (1 - hg),
    wi * layers * wc + one * hc + kept * cc + wi * wn + 4 * h1 * g * hn
    + 8 * (s + n) * h1 * g * cn + 2 * nh * (s + n) * g + 2 * h1 * g,
    wi * layers * wn + hidden * hn + kept * cn,
  ]  # fmt: skip
  return prefill, step, used


@pytest.mark.parametrize('case', range(6))
def test_terms_are_those_of_the_paper(case, published):
  one = published.cases[case]
  rng = np.random.default_rng(case)
  fractions = rng.dirichlet(np.ones(3), 3)
  with jax.enable_x64(True):
    found = _TERMS(
      fractions, one.job, published.hardware,
      np.float64(one.gpu_batch), np.float64(one.blocks),
    )  # fmt: skip
  expected = _reference(fractions, one.job, one.gpu_batch, one.blocks)
  for got, wanted in zip(found, expected, strict=True):
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_opt_175b_prediction_is_78_percent_off(published):
  case = published.cases[5]
  rate = flexgen_cases.predict(case, published.hardware)
  prefill, step, _ = _reference(
    case.fractions, case.job, case.gpu_batch, case.blocks
  )
  total_s = 96 * (max(prefill) + 31 * max(step))
  assert rate == pytest.approx(8192 / total_s, rel=1e-12)
  assert flexgen_laws.relative(rate, case) == pytest.approx(-0.78, abs=0.005)


def test_gradient_is_the_difference_quotient(published):
  case = published.cases[3]
  base = np.array([[0.3, 0.5, 0.2], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1]])

  def rate(x):
    return flexgen.tokens_per_s(x, case.job, published.hardware, 28.0, 6.0)

  with jax.enable_x64(True):
    slope = np.asarray(jax.jit(jax.grad(rate))(base))
    jitted = jax.jit(rate)
    for at in ((0, 0), (0, 2), (1, 2), (2, 1)):
      step = np.zeros((3, 3))
      step[at] = 1e-6
      quotient = (jitted(base + step) - jitted(base - step)) / 2e-6
      assert slope[at] == pytest.approx(float(quotient), rel=1e-5, abs=1e-9)


def test_the_programme_beats_a_fine_grid(small_space):
  index = int(np.flatnonzero(
    (small_space.gpu_batch == 2) & (small_space.blocks == 5)
  )[0])  # fmt: skip
  solved = flexgen_programme.solve(small_space, index)
  shares = np.arange(21) / 20.0
  simplex = np.array(
    [(a, b, 1 - a - b) for a in shares for b in shares if a + b < 1.0 + 1e-9]
  )
  hidden = np.array([(a, 1 - a, 0.0) for a in shares])
  best = 0.0
  for weights, values in itertools.product(simplex, hidden):
    tried = np.concatenate(
      [np.tile([*weights], (len(simplex), 1)), simplex,
       np.tile(values, (len(simplex), 1))], 1,
    )  # fmt: skip
    found = small_space.offsets[index] + tried @ small_space.slopes[index].T
    fits = (found[:, 7:] <= 1.0).all(1)
    if fits.any():
      total_s = small_space.job.layers * (
        found[fits, :3].max(1) + 31.0 * found[fits, 3:7].max(1)
      )
      best = max(best, small_space.tokens[index] / total_s.min())
  assert best <= solved.tokens_per_s * (1.0 + 1e-9)
  # The grid is coarse where it matters: the optimum lies between its points.
  assert best >= 0.9 * solved.tokens_per_s


def test_no_bound_is_violated_and_the_optimum_is_found(small, small_space):
  solved = [
    flexgen_programme.solve(small_space, i)
    for i in range(len(small_space.blocks))
  ]
  rates = np.array([s.tokens_per_s for s in solved])
  assert (rates == 0.0).any() and (rates > 0.0).any()
  for one in solved:
    bound = flexgen_programme.rate_bound(small_space, one)
    assert (bound >= rates * (1.0 - 1e-9)).all()
  found = flexgen_search.best_policy(*small)
  assert found.tokens_per_s == pytest.approx(rates.max(), rel=1e-9)
  assert found.gap <= flexgen_search.TARGET_GAP
  assert found.programmes < found.pairs


def test_opt_30b_reaches_the_best_known_rate(published):
  case = published.cases[3]
  found = flexgen_search.best_policy(
    case.job, published.hardware, published.room_B
  )
  assert found.tokens_per_s >= 7.141
  assert (found.gpu_batch, found.blocks) == (28, 6)
  assert found.gap <= 1e-6
  # What FlexGen's own walk stops at is 0.65 % slower.
  walked = flexgen_programme.one_pair(
    32, 5, case.job, published.hardware, published.room_B
  )
  rate = flexgen_programme.solve(walked, 0).tokens_per_s
  assert found.tokens_per_s / rate - 1.0 == pytest.approx(0.0066, abs=1e-4)
  # In whole percents the policy still keeps to every room.
  whole = found.whole
  used = flexgen_programme.one_pair(
    whole.gpu_batch, whole.blocks,
    case.job, published.hardware, published.room_B,
  )  # fmt: skip
  terms = used.offsets[0] + used.slopes[0] @ whole.fractions.ravel()
  assert (terms[7:] <= 1.0).all()
  assert 0.99 * found.tokens_per_s < whole.tokens_per_s <= found.tokens_per_s
  percents = 100.0 * whole.fractions
  np.testing.assert_allclose(percents, np.round(percents), atol=1e-9)


def test_nothing_fits_is_said(published):
  job = published.cases[5].job
  with pytest.raises(ValueError, match='no batch size fits'):
    flexgen_search.best_policy(job, published.hardware, np.full(3, GB))


def test_cases_are_read_as_published(published):
  case = published.cases[4]
  (run,) = flexgen_laws.offload.usable_runs(flexgen_laws.rows_of([case]))
  assert (run.stack, run.machine, run.model.name) == (
    'flexgen', 't4', 'opt-175b'
  )  # fmt: skip
  assert (run.job.batch, run.job.blocks) == (512, 8)
  assert run.job.weights == (0.0, 0.5, 0.5)
  assert run.job.cache == (0.0, 0.0, 1.0)
  assert run.observed == 1.36


def test_the_laws_answer_every_case(published):
  rates = flexgen_laws.predict(
    published.cases, flexgen_laws.offload.prior_stacks()
  )
  # Priors alone, nothing fitted: within 25 % of every published figure.
  for rate, case in zip(rates, published.cases, strict=True):
    assert abs(flexgen_laws.relative(rate, case)) < 0.25
