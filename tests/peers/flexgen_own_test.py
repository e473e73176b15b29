"""Plans by our own offload law: the law itself, bounds, brute force."""

import numpy as np
import pytest

from benchmarks.peers import (
  flexgen_cases,
  flexgen_laws,
  flexgen_own,
  flexgen_own_law,
)
from diffmem.runs.offload_stack import prior_stacks

GB = 2.0**30


@pytest.fixture(scope='module')
def published():
  return flexgen_cases.load()


@pytest.fixture(scope='module')
def small(published):
  """OPT-6.7B at 512 tokens in memories that few batches fit."""
  return published._replace(room_B=np.array([5.0, 8.0, 4.0]) * GB)


@pytest.fixture(scope='module')
def law(small):
  return flexgen_own_law.law_of(small.cases[1], small, prior_stacks())


@pytest.fixture(scope='module')
def solved(law):
  return [flexgen_own.solve(law, i) for i in range(len(law.fixed_s))]


def _room_for(job, sequences):
  """Memories that hold the weights and the cache of so many sequences."""
  length = job.prompt + job.generated
  cache_B = 4.0 * length * job.d_model * job.layers * sequences
  return np.array([16.0 * GB, job.layer_B * job.layers + cache_B, GB])


@pytest.mark.parametrize('index', [1, 3, 5])
def test_the_law_is_that_of_the_predictions(index, published):
  case = published.cases[index]
  rng = np.random.default_rng(index)
  # Whole percents, because rows of runs hold no others; hidden values are no
  # part of the law.
  shares = rng.multinomial(100, np.ones(3) / 3, 2) / 100.0
  case = case._replace(
    fractions=np.vstack([shares, [0.0, 1.0, 0.0]]), gpu_batch=3, blocks=4
  )
  published = published._replace(room_B=_room_for(case.job, 12.0))
  law = flexgen_own_law.law_of(case, published, prior_stacks())
  pair = int(
    np.flatnonzero((law.space.gpu_batch == 3) & (law.space.blocks == 4))[0]
  )
  rate = law.space.tokens[pair] / flexgen_own_law.total_s(
    law, pair, case.fractions.ravel()
  )
  (expected,) = flexgen_laws.predict([case], prior_stacks())
  assert rate == pytest.approx(expected, rel=1e-9)


def test_no_policy_is_beyond_its_bound(law, solved):
  rng = np.random.default_rng(0)
  fits = np.array([np.isfinite(s.total_s) for s in solved])
  assert fits.any() and not fits.all()
  bounds = np.array([flexgen_own.rate_bound(law, s) for s in solved])
  rates = np.array([
    law.space.tokens[i] / s.total_s for i, s in enumerate(solved)
  ])  # fmt: skip
  assert (bounds >= rates * (1.0 - 1e-9)).all()
  # Its own multipliers prove a pair's optimum.
  np.testing.assert_allclose(bounds.diagonal()[fits], rates[fits], rtol=1e-5)
  least = bounds.min(0)
  found = 0
  for index in np.flatnonzero(fits):
    tried = rng.dirichlet(np.full(3, 0.4), (300, 3))
    tried[:, 2] = tried[:, 2, [0, 1, 2]] * [1, 1, 0]
    tried[:, 2] /= tried[:, 2].sum(1, keepdims=True)
    tried = tried.reshape(-1, 9)
    rooms = law.space.offsets[index, 7:] + tried @ law.space.slopes[index, 7:].T
    for one in tried[(rooms <= 1.0).all(1)]:
      found += 1
      rate = law.space.tokens[index] / flexgen_own_law.total_s(law, index, one)
      assert rate <= least[index] * (1.0 + 1e-9)
  assert found > 100


def test_the_search_finds_the_best_pair(small, law, solved):
  rates = [law.space.tokens[i] / s.total_s for i, s in enumerate(solved)]
  found = flexgen_own.best_policy(small.cases[1], small, prior_stacks())
  assert found.tokens_per_s == pytest.approx(max(rates), rel=2e-5)
  assert found.gap <= 1.1 * flexgen_own.TARGET_GAP
  assert found.programmes < found.pairs
  nothing = small._replace(room_B=np.full(3, GB))
  with pytest.raises(ValueError, match='no batch size fits'):
    flexgen_own.best_policy(small.cases[1], nothing, prior_stacks())
