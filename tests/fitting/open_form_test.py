"""The open form: it undoes the closed loop, knows its wall and its errors."""

import jax
import numpy as np
import pytest

from diffmem.cost import predict_jit
from diffmem.fitting import observe, open_form
from diffmem.system import System, Tier
from diffmem.traces import Traces, from_rows

SCATTER = 0.01


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def make_system(contended: bool) -> System:
  dram = Tier.of(
    'DRAM', latency_s=100e-9, read_Bps=250e9, queue_p=4.0, bend_queue=-0.6,
    bend_read=-0.2, contended=contended, write_contention=0.8,
  )  # fmt: skip
  return System.of('box', [dram], power_cap_W=1.0)


def measured(system: System, scatter: float = 0.0) -> Traces:
  """A sweep of a system whose latencies are off by `scatter`."""
  mixes, loads = np.linspace(0, 0.5, 6), np.geomspace(1e2, 2e5, 25)
  share, in_flight = (x.ravel() for x in np.meshgrid(mixes, loads))
  rows = [
    {
      'system': 'box', 'op': 'loaded_latency', 'tier': 'DRAM',
      'bytes_read': n * (1 - w), 'bytes_written': n * w, 'in_flight_bytes': n,
      'latency_s': 1e-7, 'bandwidth_Bps': n / 1e-7,
    }
    for w, n in zip(share, in_flight, strict=True)
  ]  # fmt: skip
  blank = from_rows(rows)
  latency_s = np.asarray(
    predict_jit(system, observe.demand_of(system, blank)).latency_s
  )
  noise = np.random.default_rng(0).standard_normal(len(rows))
  latency_s = latency_s * np.exp(scatter * noise)
  columns = dict(blank.columns) | {
    'latency_s': latency_s, 'bandwidth_Bps': in_flight / latency_s
  }  # fmt: skip
  return Traces(columns)


def answer_of(system, traces):
  rows = open_form.loaded_rows(traces)
  demand = observe.with_limits(observe.demand_of(system, traces), rows)
  return rows, open_form.answer_jit(
    system, demand, traces.get('bandwidth_Bps')[rows]
  )


@pytest.mark.parametrize('contended', [False, True])
def test_it_undoes_the_closed_loop(contended):
  system = make_system(contended)
  traces = measured(system)
  rows, found = answer_of(system, traces)
  # The power cap, which would throttle this box, is none of its business.
  low = np.asarray(found.load) < 0.95
  assert low.sum() > 80 and len(rows) == len(traces)
  np.testing.assert_allclose(
    np.asarray(found.latency_s)[low], traces['latency_s'][low], rtol=1e-6
  )


def test_rows_at_the_wall_are_not_judged():
  system = make_system(True)
  traces = measured(system)
  rows, found = answer_of(system, traces)
  judged = open_form.judged(traces, rows, found.load)
  highest = {}
  load = np.asarray(found.load)
  share = np.round(traces['bytes_written'] / traces['in_flight_bytes'], 3)
  for w in set(share):
    highest[w] = load[share == w].max()
  below = load < 0.95 * np.array([highest[w] for w in share])
  np.testing.assert_array_equal(judged, below)
  # Where the wall is out of sight, only the model's capacity counts.
  half = traces.select(load < 0.5)
  rows, found = answer_of(system, half)
  assert open_form.judged(half, rows, found.load).all()


@pytest.mark.parametrize('contended', [False, True])
def test_scatter_over_gain_is_that_of_the_closed_loop(contended):
  system = make_system(contended)
  found = open_form.scatter(system, measured(system, SCATTER))
  assert found[open_form.KEY] == pytest.approx(SCATTER, rel=0.25)


def test_other_rows_have_no_open_form():
  row = {'system': 'box', 'op': 'stream', 'bytes_read': 1.0, 'time_s': 1.0}
  assert open_form.scatter(make_system(True), from_rows([row])) == {}
