"""Contention: the law against numpy, its slopes, bounds and inverse."""

import dataclasses

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from diffmem.cost import Demand, predict_jit, service
from diffmem.system import System, Tier, leaves_by_name

LATENCY_S, CAPACITY_BPS = 100e-9, 250e9
# Compiled once; step by step they take a hundred times as long.
latency_at_bandwidth_s = jax.jit(service.latency_at_bandwidth_s)
bandwidth_Bps = jax.jit(service.bandwidth_Bps)

contentions = st.floats(1e-3, 20.0)
bends = st.floats(-4.0, 4.0)
knees = st.floats(1.0, 8.0)


def make_system(**changes) -> System:
  dram = Tier.of(
    'DRAM', contended=True, latency_s=LATENCY_S, read_Bps=CAPACITY_BPS,
    bend_read=-0.2, bend_write=-0.4, queue_p=3.0, bend_queue=-0.5,
    read_contention=0.3, write_contention=0.9, bend_contention=0.4,
    read_in_flight_B=900.0, write_in_flight_B=500.0, wait_p=1.4,
  )  # fmt: skip
  system = System.of('contended', [dram], page_walk_s=1e-15, tlb_miss_s=1e-15)
  return system.with_values(
    {f'DRAM.{name}': value for name, value in changes.items()}
  )


def make_demand(system, read_B, write_B, in_flight_B=0.0, participants=8.0):
  return Demand.of(
    system,
    read_B={'DRAM': read_B},
    write_B={'DRAM': write_B},
    in_flight_B={'DRAM': in_flight_B},
    participants=participants,
  )


def bounded(c):
  return c / (1 + 0.75 * c)


def reference_time_s(v: dict, r, w, in_flight_B, participants) -> float:
  """One operation by hand."""
  share = w / (r + w)
  a, e = np.tanh(v['bend_read']), np.tanh(v['bend_write'])
  capacity = v['read_Bps'] * np.exp(a * share + (e - a) * share**2 / 2)
  transfer = (r + w) / capacity * (1 + v['granule_B'] / 1e15)

  def wait(r, w):
    if in_flight_B:
      return (r + w) / in_flight_B * v['latency_s']
    sides = [
      r / (participants * v['read_in_flight_B']),
      w / (participants * v['write_in_flight_B']),
    ]
    q = v['wait_p']
    return (sides[0] ** q + sides[1] ** q) ** (1 / q) * v['latency_s']

  x_m = (transfer / wait(r, w)) ** (2 + np.tanh(v['bend_contention']))
  met = x_m / (1 + x_m)
  longer = wait(
    r * (1 + bounded(v['read_contention']) * met),
    w * (1 + bounded(v['write_contention']) * met),
  )
  p = v['queue_p'] * np.exp(np.tanh(v['bend_queue']) * share)
  return (longer**p + transfer**p) ** (1 / p)


def times_s(system, *args, **kwargs):
  with jax.enable_x64(True):
    demand = make_demand(system, *args, **kwargs)
    return np.asarray(predict_jit(system, demand).free_time_s)


@pytest.mark.parametrize('in_flight_B', [0.0, 2e3, 3e4, 1e6])
def test_against_numpy(in_flight_B):
  system = make_system()
  values = {n.split('.')[1]: float(v) for n, v in system.values().items()}
  mixes = [(1.0, 0.0), (2.0, 1.0), (1.0, 1.0), (0.1, 3.0)]
  got = times_s(system, *np.array(mixes).T, in_flight_B=in_flight_B)
  want = [reference_time_s(values, r, w, in_flight_B, 8.0) for r, w in mixes]
  np.testing.assert_allclose(got, want, rtol=1e-9)


def test_little_holds_and_idle_is_unloaded(x64):
  system = make_system()
  in_flight_B = np.geomspace(1e-2, 1e7, 40)
  cost = predict_jit(system, make_demand(system, 2.0, 1.0, in_flight_B))
  np.testing.assert_allclose(
    cost.bandwidth_Bps * cost.latency_s, in_flight_B, rtol=1e-9
  )
  assert cost.latency_s[0] == pytest.approx(LATENCY_S, rel=1e-6)
  assert np.all(np.diff(cost.latency_s) > 0)
  assert np.all(np.diff(cost.bandwidth_Bps) >= 0)


def test_without_the_flag_nothing_changes():
  contended = make_system()
  plain = dataclasses.replace(
    contended,
    tiers=tuple(
      dataclasses.replace(t, contended=False) for t in contended.tiers
    ),
  )
  before = make_system(read_contention=1e-12, write_contention=1e-12)
  args = (np.array([1.0, 3.0]), np.array([0.0, 2.0]), 2e4)
  np.testing.assert_allclose(
    times_s(plain, *args), times_s(before, *args), rtol=1e-9
  )
  assert np.all(times_s(contended, *args) > 1.02 * times_s(plain, *args))
  assert 'DRAM.read_contention' not in plain.active()
  assert 'DRAM.read_contention' in contended.active()


@given(
  contentions, contentions, bends, bends, bends, knees,
  st.floats(0.0, 0.99), st.sampled_from(['read', 'write']),
)  # fmt: skip
def test_more_bytes_never_cost_less(
  reads, writes, order, bend_read, bend_write, p, share, more
):
  system = make_system(
    read_contention=reads, write_contention=writes, bend_contention=order,
    bend_read=bend_read, bend_write=bend_write, queue_p=p, bend_queue=0.0,
  )  # fmt: skip
  in_flight_B = np.geomspace(1e2, 1e6, 9)
  extra = {'read': 0.01 * (more == 'read'), 'write': 0.01 * (more == 'write')}
  before = times_s(system, 1.0 - share, share, in_flight_B)
  after = times_s(
    system, 1.0 - share + extra['read'], share + extra['write'], in_flight_B
  )
  assert np.all(after >= before * (1 - 1e-9))


@given(contentions, bends, knees)
def test_more_in_flight_never_costs_more(contention, order, p):
  system = make_system(
    read_contention=contention, write_contention=contention,
    bend_contention=order, queue_p=p,
  )  # fmt: skip
  times = times_s(system, 2.0, 1.0, np.geomspace(1e2, 1e7, 60))
  assert np.all(np.diff(times) <= 1e-9 * times[1:])


def test_time_is_homogeneous_in_bytes():
  system = make_system()
  reads, writes = np.array([1.0, 0.3, 2.0]), np.array([0.0, 0.7, 1.0])
  for in_flight_B in (0.0, 2e4):
    once = times_s(system, reads, writes, in_flight_B)
    many = times_s(system, 1e9 * reads, 1e9 * writes, in_flight_B)
    np.testing.assert_allclose(many, 1e9 * once, rtol=1e-9)


def test_gradients_against_finite_differences(x64):
  system = make_system()
  demand = make_demand(
    system, np.array([1.0, 2.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 0.0]),
    np.array([2e3, 2e4, 1e5, 2e4]),
  )  # fmt: skip

  def total(system):
    return predict_jit(system, demand).free_time_s.sum()

  slopes = leaves_by_name(jax.grad(total)(system))
  leaves = leaves_by_name(system)
  for name in (
    'latency_s', 'read_Bps', 'queue_p', 'bend_queue', 'read_contention',
    'write_contention', 'bend_contention',
  ):  # fmt: skip
    name, h = f'DRAM.{name}', 1e-6
    ends = []
    for step in (h, -h):
      tier = system.tier('DRAM')
      field = next(
        f.name
        for f in dataclasses.fields(tier)
        if f.name.removeprefix('log_') == name[5:]
      )
      moved = dataclasses.replace(tier, **{field: leaves[name] + step})
      ends.append(float(total(dataclasses.replace(system, tiers=(moved,)))))
    want = (ends[0] - ends[1]) / (2 * h)
    assert float(slopes[name]) == pytest.approx(want, rel=1e-5, abs=1e-18)
    assert want != 0.0


class TestOpenForm:
  @given(st.floats(0.01, 0.96), knees, st.floats(0.0, 1.3), bends)
  def test_it_inverts_the_closed_loop(self, load, p, growth, order):
    bandwidth = load * CAPACITY_BPS
    args = (LATENCY_S, CAPACITY_BPS, p, growth, order)
    with jax.enable_x64(True):
      latency = float(latency_at_bandwidth_s(bandwidth, *args))
      back = float(bandwidth_Bps(bandwidth * latency, *args))
    assert back == pytest.approx(bandwidth, rel=1e-9)
    assert latency >= LATENCY_S * (1 - 1e-12)

  def test_its_slopes_are_those_of_the_solution(self, x64):
    at = (150e9, LATENCY_S, CAPACITY_BPS, 3.0, 0.8, 0.3)
    slopes = jax.jit(jax.grad(latency_at_bandwidth_s, range(6)))(*at)
    for i, slope in enumerate(slopes):
      h = 1e-6 * at[i]
      ends = [
        float(
          latency_at_bandwidth_s(
            *(x + sign * h * (j == i) for j, x in enumerate(at))
          )
        )
        for sign in (1, -1)
      ]
      assert float(slope) == pytest.approx(
        (ends[0] - ends[1]) / (2 * h), rel=1e-5
      )

  def test_it_is_smooth_beyond_the_wall(self, x64):
    def f(load):
      return latency_at_bandwidth_s(load, 1.0, 1.0, 3.0, 0.9, 0.7)

    edge, slope = service.OPEN_LOAD_LIMIT, jax.jit(jax.grad(f))
    assert float(f(edge - 1e-7)) == pytest.approx(
      float(f(edge + 1e-7)), rel=1e-5
    )
    assert float(slope(edge - 1e-7)) == pytest.approx(
      float(slope(edge + 1e-7)), rel=1e-4
    )

  @pytest.mark.parametrize('growth', [0.0, 0.9])
  @pytest.mark.parametrize('load', [0.05, 0.5, 0.9])
  def test_error_gain_against_a_measurement_that_is_off(
    self, load, growth, x64
  ):
    args = (LATENCY_S, CAPACITY_BPS, 3.0, growth, 0.5)
    in_flight_B = (
      load
      * CAPACITY_BPS
      * float(latency_at_bandwidth_s(load * CAPACITY_BPS, *args))
    )
    off = 1e-5
    measured = float(service.loaded_latency_s(in_flight_B, *args)) * (1 + off)
    said = float(latency_at_bandwidth_s(in_flight_B / measured, *args))
    gain = service.open_error_gain(load * CAPACITY_BPS, *args[1:])
    assert (measured / said - 1) / off == pytest.approx(float(gain), rel=1e-3)
    assert float(gain) >= 1.0
