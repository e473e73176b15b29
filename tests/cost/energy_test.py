"""The power cap against an independent numpy version and its limits."""

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from diffmem.cost import Demand, energy, predict_jit
from diffmem.system import Engine, System, Tier

STATIC_W, CAP_W = 100.0, 700.0

times = st.floats(1e-6, 1e3)
powers = st.floats(1.0, 3000.0)
shares = st.floats(0.05, 1.0)


def throttled(time_s, dynamic_J, share=1.0):
  with jax.enable_x64(True):
    return energy.throttled(time_s, dynamic_J, STATIC_W, CAP_W, share)


@given(times, powers, shares)
def test_against_numpy(time_s, power_W, share):
  found = throttled(time_s, power_W * time_s, share)
  excess = (1.0 + (power_W / (CAP_W - STATIC_W)) ** 24) ** (1 / 24)
  want_s = time_s * (1.0 + share * (excess - 1.0))
  assert float(found.time_s) == pytest.approx(want_s, rel=1e-9)
  drawn_W = (power_W * time_s - float(found.saved_J)) / float(found.time_s)
  assert drawn_W == pytest.approx(power_W / excess, rel=1e-6)


@given(times, powers, shares)
def test_no_board_draws_more_than_its_cap(time_s, power_W, share):
  found = throttled(time_s, power_W * time_s, share)
  kept_J = power_W * time_s - float(found.saved_J)
  assert kept_J / float(found.time_s) <= (CAP_W - STATIC_W) * (1 + 1e-9)
  assert float(found.saved_J) >= -1e-9 * kept_J


@given(times, powers, shares, st.floats(1.0, 2.0), st.floats(1.0, 2.0))
def test_convex_and_never_quicker_with_more(time_s, power_W, share, a, b):
  first = np.array([time_s, power_W * time_s])
  second = first * [a, b]
  middle = (first + second) / 2

  def law(point):
    return float(throttled(point[0], point[1], share).time_s)

  assert law(second) >= law(first) * (1 - 1e-12)
  assert law(middle) <= (law(first) + law(second)) / 2 * (1 + 1e-12)


def test_far_from_the_cap_nothing_changes():
  found = throttled(1.0, 100.0, 0.5)
  assert float(found.time_s) == pytest.approx(1.0)
  assert float(found.saved_J) == pytest.approx(0.0, abs=1e-9)


def test_without_a_lower_voltage_energy_decides_and_none_is_saved():
  found = throttled(1.0, 1200.0)
  assert float(found.time_s) == pytest.approx(2.0, rel=1e-3)
  assert float(found.saved_J) == 0.0
  np.testing.assert_array_equal(throttled(1.0, 1200.0, 3.0), found)


def test_half_of_the_excess_becomes_time():
  assert float(throttled(1.0, 1200.0, 0.5).time_s) == pytest.approx(
    1.5, rel=1e-3
  )


def test_a_cap_below_static_power_and_no_work_stay_finite():
  hot = energy.throttled(1.0, 10.0, 800.0, 700.0, 0.5)
  idle = energy.throttled(0.0, 0.0, STATIC_W, CAP_W, 0.5)
  assert np.isfinite(hot).all()
  np.testing.assert_array_equal(idle, (0.0, 0.0))
  slope = jax.grad(lambda t: energy.throttled(t, 0.0, 100.0, 700.0, 0.5)[0])
  assert np.isfinite(slope(0.0))


@pytest.mark.parametrize('argument', [0, 1, 2, 3, 4])
def test_gradients(argument):
  point = [1.0, 700.0, 100.0, 700.0, 0.5]

  def total(value):
    at = [*point[:argument], value, *point[argument + 1 :]]
    found = energy.throttled(*at)
    return found.time_s + 1e-3 * found.saved_J

  with jax.enable_x64(True):
    x, h = point[argument], 1e-5 * point[argument]
    numeric = (total(x + h) - total(x - h)) / (2 * h)
    assert float(jax.grad(total)(x)) == pytest.approx(
      float(numeric), rel=1e-5, abs=1e-10
    )


@pytest.mark.parametrize('share', [1.0, 0.4])
def test_a_system_at_its_cap_draws_the_cap(share):
  system = System.of(
    'hot',
    [Tier.of('HBM', read_Bps=1e12, device_J_per_B=1e-9, path_J_per_B=0.1e-9)],
    [Engine.of('vector:float32')],
    static_W=STATIC_W,
    power_cap_W=CAP_W,
    throttle_share=share,
  )
  demand = Demand.of(system, read_B={'HBM': 1e12}, in_flight_B={'HBM': 1e12})
  cost = predict_jit(system, demand)
  assert float(cost.power_W) == pytest.approx(CAP_W, rel=1e-3)
  assert float(cost.time_s) == pytest.approx(
    1 + share * (1.1 / 0.6 - 1), rel=1e-2
  )
  assert (float(cost.saved_J) == 0) == (share == 1)
