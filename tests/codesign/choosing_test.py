"""Linear questions under normal priors, against closed forms and draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem.codesign.measuring import choosing


def _case(seed, parameters=6, blocks=12, observations=1):
  rng = np.random.default_rng(seed)
  root = rng.standard_normal((parameters, parameters))
  matrix = root @ root.T / parameters
  question = rng.standard_normal(parameters)
  made = [
    choosing.Block(
      rng.standard_normal((observations, parameters)),
      np.exp(rng.standard_normal(observations)),
    )
    for _ in range(blocks)
  ]
  return matrix, question, made


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_a_chosen_row_is_what_the_inverse_of_fishers_information_says(seed, n):
  matrix, question, blocks = _case(seed, observations=n)
  precision = np.linalg.inv(matrix)
  bought = choosing.greedy(matrix, question, blocks, 4)
  variance = question @ matrix @ question
  for index, said in bought:
    slopes, noise, _ = blocks[index]
    before = variance
    precision = precision + slopes.T @ (slopes / noise[:, None] ** 2)
    variance = question @ np.linalg.solve(precision, question)
    assert said == pytest.approx(variance, rel=1e-6)
    assert variance <= before * (1 + 1e-12)  # nothing measured does harm
  drops = [choosing.variance_drop(matrix, question, b) for b in blocks]
  if bought:
    assert bought[0].index == np.argmax(drops)
    assert len({b.index for b in bought}) == len(bought)


def test_one_parameter_has_the_textbook_answer():
  # Prior variance 4, four observations of variance 1: 4 / (1 + 4 * 4).
  block = choosing.Block(np.ones((1, 1)), np.ones(1))
  bought = choosing.greedy(np.eye(1) * 4, np.ones(1), [block] * 4, 4)
  said = [b.variance for b in bought]
  assert said == pytest.approx([4 / (1 + 4 * n) for n in range(1, 5)])


def test_refits_spread_as_predicted():
  # 4000 machines drawn from the prior, measured and estimated again.
  matrix, question, blocks = _case(3, parameters=4)
  rng = np.random.default_rng(0)
  bought = choosing.greedy(matrix, question, blocks, 3)
  picked = choosing.joined([blocks[b.index] for b in bought])
  x = rng.multivariate_normal(np.zeros(4), matrix, 4000)
  seen = x @ picked.slopes.T
  seen = seen + picked.noise * rng.standard_normal(seen.shape)
  design = np.vstack(
    [picked.slopes / picked.noise[:, None], np.linalg.cholesky(
      np.linalg.inv(matrix)).T]
  )  # fmt: skip
  target = np.hstack([seen / picked.noise, np.zeros((4000, 4))])
  estimate = np.linalg.lstsq(design, target.T, rcond=None)[0].T
  error = (estimate - x) @ question
  assert error.var() == pytest.approx(bought[-1].variance, rel=0.08)


def test_greedy_beats_random_rows():
  won, shares = 0, []
  for seed in range(20):
    matrix, question, blocks = _case(seed, blocks=40)
    rng = np.random.default_rng(seed)
    greedy = choosing.greedy(matrix, question, blocks, 4)[-1].variance
    before = question @ matrix @ question
    random = []
    for _ in range(20):
      picked = rng.choice(40, 4, replace=False)
      joined = choosing.joined([blocks[i] for i in picked])
      drop = choosing.variance_drop(matrix, question, joined)
      random.append(before - drop)
    won += greedy <= min(random)
    shares.append(greedy / np.mean(random))
  assert won >= 18
  assert np.median(shares) < 0.5


def test_dear_rows_must_be_worth_their_time():
  question, matrix = np.ones(1), np.eye(1)
  cheap = choosing.Block(np.ones((1, 1)), np.array([1.0]), 1.0)
  dear = choosing.Block(np.ones((1, 1)), np.array([0.5]), 10.0)
  order = choosing.greedy(matrix, question, [dear, cheap], 2)
  assert [b.index for b in order] == [1, 0]
  free = [b._replace(cost=1.0) for b in (dear, cheap)]
  assert choosing.greedy(matrix, question, free, 1)[0].index == 0


def test_what_tells_nothing_is_not_bought():
  blind = choosing.Block(np.array([[0.0, 1.0]]), np.ones(1))
  assert not choosing.greedy(np.eye(2), np.array([1.0, 0.0]), [blind], 3)
  assert not choosing.greedy(np.eye(2), np.zeros(2), [blind], 3)


@settings(max_examples=15)
@given(st.floats(-2, 2), st.floats(0.05, 2), st.floats(0.01, 0.99))
def test_choices_against_draws(gap, sd, left):
  rng = np.random.default_rng(0)
  n = 40_000
  after = sd * left
  mean = gap + np.sqrt(sd**2 - after**2) * rng.standard_normal(n)
  truth = mean + after * rng.standard_normal(n)
  # Taken now: the second where the gap (second less first) is negative.
  now = np.where(gap < 0, truth, 0.0)
  then = np.where(mean < 0, truth, 0.0)
  best = np.minimum(truth, 0.0)
  tolerance = 5 * sd / np.sqrt(n)
  assert choosing.regret_now(gap, sd) == pytest.approx(
    (now - best).mean(), abs=tolerance
  )
  assert choosing.regret_drop(gap, sd, after) == pytest.approx(
    (now - then).mean(), abs=tolerance
  )
  wrong = (truth < 0) != (gap < 0)
  assert choosing.wrong_now(gap, sd) == pytest.approx(wrong.mean(), abs=0.01)
  wrong = (truth < 0) != (mean < 0)
  assert choosing.wrong_after(gap, sd, after) == pytest.approx(
    wrong.mean(), abs=0.01
  )


def test_choices_at_their_limits():
  assert choosing.regret_now(0.3, 0.0) == choosing.wrong_now(0.3, 0.0) == 0.0
  assert choosing.wrong_after(0.3, 1.0, 0.0) == 0.0
  assert choosing.wrong_after(0.3, 1.0, 1.0) == choosing.wrong_now(0.3, 1.0)
  assert choosing.regret_drop(0.3, 1.0, 1.0) == 0.0
  assert choosing.regret_now(0.0, 1.0) == pytest.approx(1 / np.sqrt(2 * np.pi))
