"""Recall against work, beside plain formulas and recovered parameters."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from diffmem import errors
from diffmem.workloads import recall

LAW = recall.RecallLaw(0.95, 12.0, 2.0)


def test_half_of_the_ceiling_and_powers_of_the_odds():
  assert LAW.recall(12.0) == pytest.approx(0.95 / 2)
  found = LAW.recall(np.array([24.0, 48.0])) / 0.95
  np.testing.assert_allclose(found / (1 - found), [4.0, 16.0])


@given(st.floats(0.01, 0.94), st.floats(1e-4, 0.01))
def test_more_recall_needs_more_work(low, more):
  work = LAW.work(np.array([low, low + more * (0.95 - low)]))
  assert work[1] > work[0]
  assert LAW.recall(work[0]) == pytest.approx(low)


def test_a_fit_recovers_the_law():
  work = np.array([10.0, 20.0, 40.0, 90.0])
  two = recall.fit_recall(work[:2], LAW.recall(work[:2]))
  np.testing.assert_allclose(two, LAW, rtol=1e-5)
  other = LAW._replace(steepness=1.3)
  free = recall.fit_recall(work, other.recall(work), steepness=None)
  np.testing.assert_allclose(free, other, rtol=1e-4)


def test_a_ceiling_that_data_do_not_show_is_one():
  law = recall.RecallLaw(1.0, 14.0, 2.0)
  found = recall.fit_recall([40, 60, 85], law.recall([40, 60, 85]))
  assert found.ceiling == 1.0
  assert found.half_work == pytest.approx(14.0, rel=1e-3)


def test_faults():
  with pytest.raises(errors.SpecError, match='below 0.95'):
    LAW.work(0.96)
  with pytest.raises(errors.SpecError, match='at least 2'):
    recall.fit_recall([4, 4], [0.3, 0.3])
  with pytest.raises(errors.SpecError, match='within 0 to 1'):
    recall.fit_recall([4, 8], [0.3, 1.0])


LISTS = recall.ListsLaw(0.7, 3.0, 2.0)


def test_lists_multiply_two_searches():
  assert LISTS.recall(3.0, 2.0) == pytest.approx(0.7 / 4)
  assert LISTS.recall(3.0, 1e9) == pytest.approx(0.7 / 2)
  probes = LISTS.probes(0.5, np.array([16.0, 64.0]))
  assert probes[0] > probes[1]
  np.testing.assert_allclose(LISTS.recall(probes, [16.0, 64.0]), 0.5)
  with pytest.raises(errors.SpecError, match='below 0.35'):
    LISTS.probes(0.36, 2.0)


def test_a_fit_of_lists_recovers_the_law():
  probes, width = np.array([1, 8, 64, 64]), np.array([4, 64, 8, 256])
  found = recall.fit_lists(probes, width, LISTS.recall(probes, width))
  np.testing.assert_allclose(found, LISTS, rtol=1e-3)
  with pytest.raises(errors.SpecError, match='at least three'):
    recall.fit_lists([1, 2, 3], [8, 8, 8], [0.1, 0.2, 0.3])
