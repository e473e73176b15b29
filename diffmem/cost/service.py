"""Closed-loop service: bandwidth and loaded latency of one tier.

With N bytes in flight, unloaded latency L0 and capacity C (Little's law,
J. D. C. Little, Operations Research 9(3), 1961: N = B L):

    B = ((N / L0)^-p + C^-p)^(-1/p)        L = N / B

Written as times, for an operation that moves `bytes`: it *waits*
`bytes L0 / N` for its accesses, and its bytes need `bytes / C` to be
*transferred*; the p-norm of the two is its time. p -> inf is the roofline of
a latency-bound machine, p = 1 the interactive response-time law of an M/M/1
queue (Lazowska et al., Quantitative System Performance, 1984, ch. 5).

*Contention.* Where many cores share a memory controller, latency grows before
the capacity binds: accesses meet in banks and in the controller's queues, and
the growth levels off once every queue is in use. With the load offered,
x = transfer / wait, a wait is longer by

    1 + c x^m / (1 + x^m),        m = 2 + tanh(bend) in (1, 3)

where c is what reads (or writes) suffer at full load. On curves of Mess (
Esmaili-Dokht et al., MICRO 2024) m fits as 1 on Sapphire Rapids, 2.8 on Grace,
whose latencies include page walks. c is kept below 4 / 3, so that c m <= 4:
more bytes then never make an operation quicker.
"""

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Float

from diffmem.cost import overlap

Array = Float[ArrayLike, '...']

# Above this share of the capacity the open form continues as its tangent: the
# law has a pole at 1, where measured bandwidths scatter on both sides.
OPEN_LOAD_LIMIT = 0.97
# The largest contention c with c m <= 4 for every m up to 3.
_MOST_CONTENTION = 4.0 / 3.0
_NEWTON_STEPS = 8  # Converges from the start below to 1e-15 in 5.


def service_time_s(wait_s: Array, transfer_s: Array, queue_p: Array) -> Array:
  """Time of an operation at one tier [s], from its two bounds."""
  return overlap.pair_norm(wait_s, transfer_s, queue_p)


def knee_p(
  read_B: Array, write_B: Array, queue_p: Array, bend_queue: Array
) -> Array:
  """Sharpness of the knee at a mix: ln p = ln p0 + tanh(bend) w.

  The bend is bounded so that adding bytes never makes an operation quicker.
  """
  total = read_B + write_B
  w = write_B / jnp.where(total > 0, total, 1.0)
  return queue_p * jnp.exp(jnp.tanh(bend_queue) * w)


def contention(
  wait_s: Array, transfer_s: Array, bend_contention: Array
) -> Array:
  """How much of the contention there is at a load, from 0 to 1."""
  busy = (wait_s > 0) & (transfer_s > 0)
  log_load = jnp.log(jnp.where(busy, transfer_s, 1.0)) - jnp.log(
    jnp.where(busy, wait_s, 1.0)
  )
  return jnp.where(busy, _level(log_load, bend_contention), 0.0)


def latency_growth(contention_at_full: Array, share: Array) -> Array:
  """Factor on a latency: 1 + c share, with c < 4 / 3 whatever is given."""
  bounded = contention_at_full / (1.0 + contention_at_full / _MOST_CONTENTION)
  return 1.0 + bounded * share


def mixed_growth(
  read_B: Array, write_B: Array, read_contention: Array,
  write_contention: Array,
) -> Array:  # fmt: skip
  """Growth of the latency of a mix under full load, less 1."""
  total = read_B + write_B
  w = write_B / jnp.where(total > 0, total, 1.0)
  reads = latency_growth(read_contention, 1.0)
  return reads + w * (latency_growth(write_contention, 1.0) - reads) - 1.0


def _level(log_load, bend_contention):
  return jax.nn.sigmoid((2.0 + jnp.tanh(bend_contention)) * log_load)


def bandwidth_Bps(
  in_flight_B: Array, latency_s: Array, capacity_Bps: Array, queue_p: Array,
  growth: Array = 0.0, bend_contention: Array = 0.0,
) -> Array:  # fmt: skip
  """Achieved bandwidth [B/s] with so many bytes in flight (closed loop).

  Args:
    in_flight_B: bytes in flight [B].
    latency_s: unloaded latency [s].
    capacity_Bps: capacity of the mix [B/s].
    queue_p: sharpness of the knee.
    growth: of the latency under full load (`mixed_growth`); 0 without
      contention.
    bend_contention: see `contention`.
  """
  wait_s, transfer_s = latency_s / in_flight_B, 1.0 / capacity_Bps
  share = contention(wait_s, transfer_s, bend_contention)
  return 1.0 / service_time_s(
    wait_s * (1.0 + growth * share), transfer_s, queue_p
  )


def loaded_latency_s(
  in_flight_B: Array, latency_s: Array, capacity_Bps: Array, queue_p: Array,
  growth: Array = 0.0, bend_contention: Array = 0.0,
) -> Array:  # fmt: skip
  """Loaded latency [s] with so many bytes in flight (closed loop)."""
  return in_flight_B / bandwidth_Bps(
    in_flight_B, latency_s, capacity_Bps, queue_p, growth, bend_contention
  )


def latency_at_bandwidth_s(
  bandwidth_Bps: Array, latency_s: Array, capacity_Bps: Array, queue_p: Array,
  growth: Array = 0.0, bend_contention: Array = 0.0,
) -> Array:  # fmt: skip
  """Loaded latency [s] at a given bandwidth (open form).

  Without contention

    L = L0 (1 - (B / C)^p)^(-1/p)

  With it, L = L0 x C / B where x solves x = x0 (1 + c x^m / (1 + x^m)) and
  x0 is what the formula above gives. Continued above 97 % of the capacity by
  its tangent, so that it is finite and once differentiable everywhere.

  Args:
    bandwidth_Bps: reads and writes together [B/s].
    latency_s: unloaded latency [s].
    capacity_Bps: capacity of the mix [B/s].
    queue_p: sharpness of the knee.
    growth: see `bandwidth_Bps`.
    bend_contention: see `contention`.
  """
  load = bandwidth_Bps / capacity_Bps
  low, log_x = _offered_load(load, queue_p, growth, bend_contention)
  slope = _stiffness(log_x, queue_p, growth, bend_contention)
  slope = slope / (1.0 - slope)
  excess = jnp.maximum(load - OPEN_LOAD_LIMIT, 0.0)
  return latency_s * jnp.exp(log_x) / low * (1.0 + slope * excess / low)


def open_error_gain(
  bandwidth_Bps: Array, capacity_Bps: Array, queue_p: Array,
  growth: Array = 0.0, bend_contention: Array = 0.0,
) -> Array:  # fmt: skip
  """By how much the open form magnifies a relative error of the closed loop.

  A latency that is off by d at the same bytes in flight moves the bandwidth
  by -d (Little's law), and the open form by d / (1 - s), with s the slope
  dlnL / dlnN of the closed loop: 1 when idle, without bound at the wall.
  """
  load = bandwidth_Bps / capacity_Bps
  _, log_x = _offered_load(load, queue_p, growth, bend_contention)
  return 1.0 / (1.0 - _stiffness(log_x, queue_p, growth, bend_contention))


def _offered_load(load, queue_p, growth, bend_contention):
  """The load, at most 97 %, and log of the offered load x that makes it."""
  low = jnp.minimum(load, OPEN_LOAD_LIMIT)
  low = jnp.maximum(low, jnp.finfo(jnp.result_type(low)).tiny)
  log_x0 = jnp.log(low) - jnp.log1p(-(low**queue_p)) / queue_p

  def residual(log_x):
    share = _level(log_x, bend_contention)
    m = 2.0 + jnp.tanh(bend_contention)
    slope = growth * m * share * (1.0 - share) / (1.0 + growth * share)
    return log_x - log_x0 - jnp.log1p(growth * share), 1.0 - slope

  def newton(_, log_x):
    error, slope = residual(log_x)
    low_end, high_end = log_x0, log_x0 + jnp.log1p(growth)
    return jnp.clip(log_x - error / slope, low_end, high_end)

  found = jax.lax.stop_gradient(
    jax.lax.fori_loop(0, _NEWTON_STEPS, newton, jax.lax.stop_gradient(log_x0))
  )
  # One more step from the solution has its exact slopes (implicit function).
  error, slope = residual(found)
  return low, found - error / slope


def _stiffness(log_x, queue_p, growth, bend_contention):
  """Slope of ln L over ln N, closed loop, at an offered load."""
  m = 2.0 + jnp.tanh(bend_contention)
  share = _level(log_x, bend_contention)
  grown = 1.0 + growth * share
  wait_slope = growth * m * share * (1.0 - share) / grown
  full = jax.nn.sigmoid(queue_p * (log_x - jnp.log(grown)))
  return (1.0 - full) * wait_slope + full
