"""Margins of laws that can be solved by hand."""

import math

import numpy as np
import pytest

from diffmem import errors
from diffmem.planning.decisions.margins import (
  memory_margin,
  overtakings,
  to_dicts,
)

# A factor of 4, halved six times.
NEAR = 4 ** (1 / 64) - 1


def _solve(capacity_B):
  """Bytes that do not fit cost 1/50 s per GB, beyond 60 GB of them 1/10."""
  if capacity_B < 20e9:
    return None
  out_B = max(100e9 - capacity_B, 0.0)
  far_B = max(out_B - 60e9, 0.0)
  price = 0.0 if out_B == 0 else (0.1 if far_B else 0.02) / 1e9
  return 1.0 + 0.02e-9 * (out_B - far_B) + 0.1e-9 * far_B, price


def test_a_price_holds_between_its_neighbours():
  found = memory_margin(
    _solve, 'HBM', capacity_B=72e9, spare_B=0.0, price=0.02e-9
  )
  assert found.holds_from_B == pytest.approx(40e9, rel=NEAR)
  assert found.holds_to_B == pytest.approx(100e9, rel=NEAR)
  assert found.below == 'the price rises'
  assert found.above == 'it no longer binds'
  assert found.nearness == pytest.approx(math.log(100 / 72), abs=NEAR)


def test_a_limit_that_does_not_bind_says_where_it_would():
  found = memory_margin(
    _solve, 'HBM', capacity_B=120e9, spare_B=20e9, price=0.0
  )
  assert found.holds_from_B == pytest.approx(100e9, rel=NEAR)
  assert (found.below, found.above) == ('it binds', 'nothing found')
  assert found.nearness == pytest.approx(math.log(1.2), abs=NEAR)


def test_the_edge_of_what_fits_is_an_edge():
  found = memory_margin(
    _solve, 'HBM', capacity_B=30e9, spare_B=0.0, price=0.1e-9
  )
  assert found.holds_from_B == pytest.approx(20e9, rel=NEAR)
  assert found.below == 'nothing fits'
  assert found.holds_to_B == pytest.approx(40e9, rel=NEAR)
  assert found.above == 'the price falls'


def test_a_slowly_falling_price_holds_for_a_tenth():
  found = memory_margin(
    lambda b: (1 / b, 1 / b**2), 'HBM', capacity_B=10.0, spare_B=0.0,
    price=0.01,
  )  # fmt: skip
  assert found.holds_from_B == pytest.approx(10 / math.sqrt(1.1), rel=NEAR)
  assert found.holds_to_B == pytest.approx(10 / math.sqrt(0.9), rel=NEAR)
  flat = memory_margin(
    lambda b: (1.0, 0.01), 'HBM', capacity_B=10.0, spare_B=0.0, price=0.01
  )
  assert (flat.below, flat.above) == ('nothing found', 'nothing found')
  assert (flat.holds_from_B, flat.holds_to_B) == (2.5, 40.0)


# Times of three plans: compute, near bytes, far bytes, over their rates.
WORK = np.array([[1.0, 0.5, 0.1], [0.6, 0.6, 0.5], [1.2, 0.9, 0.0]])
NAMES = ('engine', 'near', 'far')


def _times(name, moves):
  """Sum of times: moves divide one column."""
  rate = np.ones((3, len(moves)))
  rate[NAMES.index(name)] = np.exp(moves)
  return WORK @ (1.0 / rate)


def _asked(**options):
  values = WORK.sum(1)
  slopes = {n: -WORK[:, i] / values for i, n in enumerate(NAMES)}
  return overtakings(values, slopes, _times, **options)


def test_the_second_overtakes_where_the_sums_cross():
  found = {one.parameter: one for one in _asked()}
  # 1.6 = 1.0 / f + 0.6 against 1.7 = 0.6 / f + 1.1: equal at f = 0.8.
  assert found['engine'].factor == pytest.approx(0.8, rel=1e-3)
  # The far link: 0.1 / f + 1.5 = 0.5 / f + 1.2 at f = 4 / 3.
  assert found['far'].factor == pytest.approx(4 / 3, rel=1e-3)
  # First order: by elasticities 1.0 / 1.6 and 0.6 / 1.7.
  move = math.log(1.7 / 1.6) / (-1.0 / 1.6 + 0.6 / 1.7)
  assert found['engine'].first_order == pytest.approx(math.exp(move))
  assert found['engine'].plan == found['far'].plan == 1
  # No near memory lets the second overtake by evaluation.
  assert found['near'].is_checked and found['near'].factor is None
  assert [one.parameter for one in _asked()] == ['engine', 'far', 'near']


def test_any_plan_can_overtake():
  """A slow far link: the plan that does not use it becomes the first."""
  work = np.array([[1.0, 0.3, 0.3], [0.9, 0.5, 0.3], [1.0, 0.75, 0.0]])
  values = work.sum(1)
  slopes = {'far': -work[:, 2] / values}

  def evaluate(name, moves):
    return work[:, :2].sum(1)[:, None] + work[:, 2:] * np.exp(-moves)

  (found,) = overtakings(values, slopes, evaluate)
  # 0.3 / f + 1.3 = 1.75 at f = 2 / 3.
  assert found.plan == 2
  assert found.factor == pytest.approx(2 / 3, rel=1e-3)
  (alone,) = overtakings(values, slopes)
  assert alone.plan == 2 and not alone.is_checked and alone.factor is None
  move = math.log(1.75 / 1.6) / (-0.3 / 1.6)
  assert alone.first_order == pytest.approx(math.exp(move))


def test_distance_counts_in_standard_errors():
  stderr = {'engine': 1.0, 'far': 0.01, 'near': 0.5}
  found = _asked(stderr=stderr)
  assert found[0].parameter == 'engine'
  assert found[0].deviations == pytest.approx(-math.log(0.8), rel=1e-3)
  only = _asked(stderr=stderr, checked=1)
  assert [one.is_checked for one in only].count(True) == 1
  assert to_dicts(found)[0]['parameter'] == 'engine'


def test_a_plain_leaf_moves_by_addition():
  values = np.array([1.0, 1.1])
  slopes = {'bend': np.array([0.5, 0.0])}
  (found,) = overtakings(values, slopes, without_logarithm=('bend',))
  assert found.first_order == pytest.approx(math.log(1.1) / 0.5)
  # Beyond tenfold is no margin, and equal elasticities never close.
  assert overtakings(values, {'bend': np.array([0.01, 0.0])}) == ()
  assert overtakings(values, {'bend': np.array([0.3, 0.3])}) == ()
  with pytest.raises(errors.PlanError, match='two plans'):
    overtakings(values[:1], slopes)
