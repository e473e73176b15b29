"""Each law against an independent numpy version, slopes and monotonicity."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from diffmem.cost import capacity, overlap, residency, service

logs = st.floats(min_value=-12.0, max_value=12.0)
exponents = st.floats(min_value=0.6, max_value=20.0)
amounts = st.floats(min_value=1e-3, max_value=1e3)

# Compiled once; step by step they take a hundred times as long.
latency_at_bandwidth_s = jax.jit(service.latency_at_bandwidth_s)
bandwidth_Bps = jax.jit(service.bandwidth_Bps)
p_norm = jax.jit(overlap.p_norm)


def finite_difference(f, x, h=1e-6):
  return (f(x * np.exp(h)) - f(x * np.exp(-h))) / (x * 2 * h)


class TestPNorm:
  @given(st.lists(logs, min_size=1, max_size=6), exponents)
  def test_against_numpy(self, times, p):
    times = np.exp(times)
    with jax.enable_x64(True):
      got = float(p_norm(times, p))
    scale = times.max()
    assert got == pytest.approx(
      scale * np.sum((times / scale) ** p) ** (1 / p), rel=1e-9
    )

  @given(logs, logs, exponents)
  def test_the_pair_is_the_same(self, a, b, p):
    with jax.enable_x64(True):
      pair = overlap.pair_norm(np.exp(a), np.exp(b), p)
      both = overlap.p_norm(np.exp([a, b]), p)
    assert float(pair) == pytest.approx(float(both), rel=1e-9)

  def test_the_pair_is_safe_at_zero(self):
    for times in ((0.0, 0.0), (0.0, 2.0), (2.0, 0.0), (2.0, 2.0)):
      value, slopes = jax.value_and_grad(overlap.pair_norm, (0, 1, 2))(
        *times, 3.0
      )
      assert np.all(np.isfinite(slopes))
      assert float(value) == pytest.approx(
        (2**3 * (times[0] > 0) + 2**3 * (times[1] > 0)) ** (1 / 3)
      )

  def test_limits(self):
    times = jnp.array([3.0, 4.0])
    assert overlap.p_norm(times, 1.0) == pytest.approx(7.0)
    assert overlap.p_norm(times, 2.0) == pytest.approx(5.0)
    assert overlap.p_norm(times, 200.0) == pytest.approx(4.0, rel=1e-3)

  def test_zeros_are_safe_in_value_and_gradient(self):
    both = jax.jit(jax.value_and_grad(overlap.p_norm, (0, 1)))
    value, (d_times, d_p) = both(jnp.zeros(3), 2.0)
    assert value == 0.0
    assert np.all(np.isfinite(d_times)) and np.isfinite(d_p)
    _, (d_times, d_p) = both(jnp.array([0.0, 2.0, 0.0]), 3.0)
    np.testing.assert_allclose(d_times, [0.0, 1.0, 0.0], atol=1e-6)
    assert d_p == pytest.approx(0.0, abs=1e-6)

  def test_extreme_scales_do_not_overflow(self):
    times = jnp.array([1e-30, 1e30])
    assert overlap.p_norm(times, 8.0) == pytest.approx(1e30)


class TestService:
  @given(amounts, amounts, amounts, exponents)
  def test_closed_loop_against_numpy(self, n, latency, c, p):
    with jax.enable_x64(True):
      got = float(bandwidth_Bps(n, latency, c, p))
    want = ((n / latency) ** -p + c**-p) ** (-1 / p)
    assert got == pytest.approx(want, rel=1e-8)

  @given(amounts, amounts, amounts, exponents)
  def test_littles_law_and_bounds(self, n, latency, c, p):
    with jax.enable_x64(True):
      bandwidth = float(bandwidth_Bps(n, latency, c, p))
      loaded = float(service.loaded_latency_s(n, latency, c, p))
    assert bandwidth * loaded == pytest.approx(n, rel=1e-9)
    assert bandwidth <= min(n / latency, c) * (1 + 1e-9)
    assert loaded >= latency * (1 - 1e-9)

  @given(st.floats(min_value=0.01, max_value=0.96), st.floats(1.0, 8.0))
  def test_open_form_inverts_the_closed_one(self, load, p):
    latency, c = 100e-9, 300e9
    with jax.enable_x64(True):
      loaded = float(latency_at_bandwidth_s(load * c, latency, c, p))
      back = float(bandwidth_Bps(load * c * loaded, latency, c, p))
    assert back == pytest.approx(load * c, rel=1e-9)

  def test_open_form_is_smooth_beyond_the_wall(self, x64):
    def f(bandwidth):
      return latency_at_bandwidth_s(bandwidth, 1.0, 1.0, 3.0)

    edge = service.OPEN_LOAD_LIMIT
    below, above = float(f(edge - 1e-7)), float(f(edge + 1e-7))
    assert below == pytest.approx(above, rel=1e-5)
    slope = jax.jit(jax.grad(f))
    assert float(slope(edge - 1e-7)) == pytest.approx(
      float(slope(edge + 1e-7)), rel=1e-4
    )
    assert np.isfinite(f(2.0)) and f(2.0) > f(1.0)
    assert float(slope(0.5)) == pytest.approx(
      float(finite_difference(f, 0.5)), rel=1e-6
    )


LAWS = {
  'half': (capacity.half_duplex_s, (2.0, 0.3, -0.4)),
  'turnaround': (capacity.turnaround_s, (2.0, 1.5, 4.0)),
  'full': (capacity.full_duplex_s, (2.0, 1.5, 3.0)),
}


class TestCapacity:
  def test_against_numpy(self):
    r, w = 3.0, 1.0
    f = w / (r + w)
    a, e = np.tanh(0.3), np.tanh(-0.4)
    c = 2.0 * np.exp(a * f + (e - a) * f**2 / 2)
    assert capacity.half_duplex_s(r, w, 2.0, 0.3, -0.4) == pytest.approx(
      (r + w) / c
    )
    per_byte = (1 - f) / 2.0 + f / 1.5 + f * (1 - f) / 4.0
    assert capacity.turnaround_s(r, w, 2.0, 1.5, 4.0) == pytest.approx(
      (r + w) * per_byte
    )
    sides = np.array([r / 2.0, w / 1.5, (r + w) / 3.0])
    assert capacity.full_duplex_s(r, w, 2.0, 1.5, 3.0) == pytest.approx(
      (sides**4).sum() ** 0.25
    )

  @pytest.mark.parametrize('law', LAWS)
  @given(
    read=st.floats(min_value=0, max_value=1e3),
    write=st.floats(min_value=1e-3, max_value=1e3),
    more=st.floats(min_value=1e-3, max_value=1e3),
    bends=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
  )
  def test_more_bytes_never_cost_less(self, law, read, write, more, bends):
    function, params = LAWS[law]
    if law == 'half':
      params = (params[0], *bends)
    with jax.enable_x64(True):
      time = function(read, write, *params)
      assert function(read + more, write, *params) >= time * (1 - 1e-12)
      assert function(read, write + more, *params) >= time * (1 - 1e-12)

  @pytest.mark.parametrize('law', LAWS)
  def test_units_scale(self, law, x64):
    function, params = LAWS[law]
    scaled = (
      (params[0] * 1e9, *params[1:])
      if law == 'half'
      else tuple(p * 1e9 for p in params)
    )
    assert function(3e9, 1e9, *scaled) == pytest.approx(
      float(function(3.0, 1.0, *params)), rel=1e-12
    )

  @pytest.mark.parametrize('law', LAWS)
  def test_no_bytes_no_time(self, law):
    function, params = LAWS[law]
    gradient = jax.grad(lambda r, w: function(r, w, *params), (0, 1))(0.0, 0.0)
    assert function(0.0, 0.0, *params) == 0.0
    assert np.all(np.isfinite(gradient))


class TestResidency:
  def test_hit_fraction_against_numpy(self):
    size = np.array([1.0, 2.0, 4.0, 8.0])
    got = residency.hit_fraction(size, 4.0, 3.0)
    np.testing.assert_allclose(got, 1 / (1 + (size / 4.0) ** 3), rtol=1e-6)

  def test_uncached_sets_have_finite_gradients(self):
    gradient = jax.grad(residency.hit_fraction, (0, 1, 2))(1e30, 1e6, 4.0)
    assert np.all(np.isfinite(gradient))

  def test_neighbours_crowd_out_the_slow(self):
    chase = residency.crowded_set_B(1e6, 40e9, 30e-9 / 64)
    stream = residency.crowded_set_B(1e6, 40e9, 1 / 24e9)
    assert chase == pytest.approx(1e6 * (1 + 40e9 * 30e-9 / 64))
    assert stream == pytest.approx(1e6 * (1 + 40 / 24))
    assert chase > 5 * stream

  def test_walks_per_line(self):
    walks = residency.translation_misses
    assert walks(1e3, 1e6, 64.0) == pytest.approx(0.0, abs=1e-6)
    assert walks(1e12, 1e6, 64.0) == pytest.approx(1.0, rel=1e-3)
    assert walks(1e12, 1e6, 1e12) == pytest.approx(64 / 4096, rel=1e-3)
    assert walks(2e6, 1e6, 64.0) == pytest.approx(
      1 - (1 + 2.0**4) ** -0.25, rel=2e-2
    )
