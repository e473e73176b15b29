"""Loaded latency from a given bandwidth: the law, which rows, how sure.

Near the wall one percent of bandwidth is tens of percent of latency. So the
open form is judged on rows below 95 % of the capacity, where the capacity is
the model's, or the highest bandwidth that was measured at that mix where that
is less and yet near it: rows at the wall stay at the wall if the model's
asymptote lies above them. And an interval for the open form is that of the
closed loop, widened by `service.open_error_gain`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from diffmem.cost import Cost, Demand, predict, service
from diffmem.fitting import observe, split
from diffmem.system import System
from diffmem.traces import Traces

# The open form is judged only below this share of the capacity.
LOAD_LIMIT = 0.95
# Name of the open form's own deviation among those of a fit.
KEY = 'loaded_latency|open'
_Z90 = 1.645  # 90 % of a normal distribution lies within so many deviations
# Bandwidths that reach this share of the model's capacity show the wall.
_AT_THE_WALL = 0.8


class Answer(NamedTuple):
  """What the model says of loaded latencies from their bandwidths.

  Attributes:
    latency_s: loaded latency [s].
    load: bandwidth over the model's capacity [1].
    gain: relative error of the latency for one of the closed loop [1].
  """

  latency_s: Float[Array, ' open']
  load: Float[Array, ' open']
  gain: Float[Array, ' open']


def answer(
  system: System,
  demand: Demand,
  cost: Cost,
  bandwidth_Bps: Float[ArrayLike, ' open'],
) -> Answer:
  """Loaded latency from a given bandwidth.

  Args:
    system: the machine.
    demand: made by `observe.with_limits`.
    cost: its cost.
    bandwidth_Bps: of the rows that were appended there [B/s].
  """
  n = bandwidth_Bps.shape[0]
  first = cost.time_s.shape[0] - 2 * n
  idle, full = slice(first, first + n), slice(first + n, None)
  home = jnp.argmax(cost.served_B[idle], -1)[:, None]

  def at_home(values):
    return jnp.take_along_axis(values, home, -1)[:, 0]

  def of_tier(name):
    column = jnp.stack([jnp.asarray(getattr(t, name)) for t in system.tiers])
    return column[home[:, 0]]

  mix = at_home(demand.read_B[idle]), at_home(demand.write_B[idle])
  queue_p = service.knee_p(*mix, of_tier('queue_p'), of_tier('bend_queue'))
  growth = jnp.where(
    of_tier('contended'),
    service.mixed_growth(
      *mix, of_tier('read_contention'), of_tier('write_contention')
    ),
    0.0,
  )
  # Not `cost.bandwidth_Bps`: the closed loop knows no power cap either.
  asked_B = (demand.read_B + demand.write_B).sum(-1)
  capacity_Bps = asked_B[full] / cost.free_time_s[full]
  knee = (queue_p, growth, of_tier('bend_contention'))
  return Answer(
    service.latency_at_bandwidth_s(
      bandwidth_Bps, cost.latency_s[idle], capacity_Bps, *knee
    ),
    bandwidth_Bps / capacity_Bps,
    service.open_error_gain(bandwidth_Bps, capacity_Bps, *knee),
  )


@jax.jit
def answer_jit(
  system: System, demand: Demand, bandwidth_Bps: Float[ArrayLike, ' open']
) -> Answer:
  """`answer` with its own cost, compiled."""
  return answer(system, demand, predict(system, demand), bandwidth_Bps)


def judged(
  traces: Traces,
  rows: Int[np.ndarray, ' open'],
  load: Float[np.ndarray, ' open'],
) -> Bool[np.ndarray, ' open']:
  """Which loaded latencies lie below 95 % of the capacity.

  Args:
    traces: all rows.
    rows: which of them are loaded latencies with a bandwidth.
    load: bandwidth over the model's capacity [1].
  """
  mixes = split.mixes(traces)[rows]
  load = np.asarray(load)
  wall = np.ones(len(rows))
  for mix in set(mixes):
    highest = load[mixes == mix].max()
    if highest > _AT_THE_WALL:
      wall[mixes == mix] = min(highest, 1.0)
  return load < LOAD_LIMIT * wall


def scatter(system: System, traces: Traces) -> dict[str, float]:
  """Deviation of single rows in the open form, over the gain, by `KEY`.

  That of the closed loop would be too large: it holds the rows at the wall.

  Args:
    system: the fitted machine; call under `jax.enable_x64`.
    traces: the rows that it was fitted to.

  Returns:
    The normal deviation whose 90 % interval holds 90 % of the judged rows;
    nothing where there are none.
  """
  rows = loaded_rows(traces)
  loaded = traces.select(rows)
  if not len(rows):
    return {}
  everywhere = np.arange(len(rows))
  demand = observe.with_limits(observe.demand_of(system, loaded), everywhere)
  found = answer_jit(system, demand, loaded.get('bandwidth_Bps'))
  keep = judged(loaded, everywhere, np.asarray(found.load))
  error = np.log(np.asarray(found.latency_s) / loaded.get('latency_s'))
  size = np.abs(error / np.asarray(found.gain))[keep]
  return {KEY: float(np.quantile(size, 0.9) / _Z90)} if len(size) else {}


def loaded_rows(traces: Traces) -> Int[np.ndarray, ' open']:
  """Rows of loaded latency whose latency and bandwidth are both known."""
  known = ~np.isnan(traces.get('latency_s') + traces.get('bandwidth_Bps'))
  return np.flatnonzero(known & (traces['op'] == 'loaded_latency'))
