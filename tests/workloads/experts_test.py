"""Routing with and without skew, against drawn tokens."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from diffmem.workloads.transformer import Experts


def test_balanced_routing_is_uniform():
  experts = Experts(count=64, top_k=4, d_ff=8)
  np.testing.assert_allclose(experts.popularity(), 4 / 64)
  found = experts.touched_share(np.array([1.0, 50.0]))
  np.testing.assert_allclose(
    found, 1 - (60 / 64) ** np.array([1, 50]), rtol=1e-6
  )
  assert experts.imbalance(64) == 1.0


@hypothesis.given(
  count=st.integers(1, 300),
  top_k=st.integers(1, 16),
  skew=st.floats(0.0, 3.0),
)
def test_shares_sum_to_the_visits_and_none_is_above_one(count, top_k, skew):
  top_k = min(top_k, count)
  share = Experts(count=count, top_k=top_k, d_ff=8, skew=skew).popularity()
  assert share.sum() == pytest.approx(top_k)
  assert share.max() <= 1.0 + 1e-9
  assert (np.diff(share) <= 1e-9).all()


def test_a_mild_power_law_is_kept_as_it_is():
  share = Experts(count=8, top_k=2, d_ff=8, skew=0.5).popularity()
  ranks = np.arange(1, 9)
  np.testing.assert_allclose(share / share[0], ranks**-0.5)
  steep = Experts(count=8, top_k=2, d_ff=8, skew=2.0).popularity()
  assert steep[0] == 1.0
  np.testing.assert_allclose(steep[1:] / steep[1], (ranks[1:] / 2.0) ** -2.0)


def test_touched_experts_against_drawn_ones():
  experts = Experts(count=32, top_k=3, d_ff=8, skew=1.0)
  rng = np.random.default_rng(0)
  visits = rng.random((2000, 24, 32)) < experts.popularity()
  drawn = visits.any(axis=1).mean()
  assert float(experts.touched_share(24.0)) == pytest.approx(drawn, rel=0.01)


@hypothesis.given(tokens=st.integers(1, 1000), skew=st.floats(0.0, 2.0))
def test_skew_and_few_tokens_touch_fewer_experts(tokens, skew):
  plain = Experts(count=64, top_k=4, d_ff=8)
  skewed = Experts(count=64, top_k=4, d_ff=8, skew=skew)
  found = float(skewed.touched_share(float(tokens)))
  assert found <= float(plain.touched_share(float(tokens))) + 1e-6
  assert found <= float(skewed.touched_share(tokens + 1.0)) + 1e-6


def test_the_most_popular_expert_bounds_the_balance():
  skewed = Experts(count=64, top_k=4, d_ff=8, skew=1.0)
  share = skewed.popularity()
  found = skewed.imbalance(np.array([1.0, 4.0, 64.0]))
  loads = share[0] / (share.sum() / np.array([1.0, 4.0, 64.0]))
  np.testing.assert_allclose(found, np.maximum(loads, 1.0), rtol=1e-6)
