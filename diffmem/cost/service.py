"""Closed-loop service: bandwidth and loaded latency of one tier.

With N bytes in flight, unloaded latency L0 and capacity C (Little's law,
J. D. C. Little, Operations Research 9(3), 1961: N = B L):

    B = ((N / L0)^-p + C^-p)^(-1/p)        L = N / B

Written as times, for an operation that moves `bytes`: it *waits*
`bytes L0 / N` for its accesses, and its bytes need `bytes / C` to be
*transferred*; the p-norm of the two is its time. p -> inf is the roofline of
a latency-bound machine, p = 1 the interactive response-time law of an M/M/1
queue (Lazowska et al., Quantitative System Performance, 1984, ch. 5).
"""

import jax.numpy as jnp
from jaxtyping import ArrayLike, Float

from diffmem.cost import overlap

Array = Float[ArrayLike, '...']

# Above this share of the capacity the open form continues as its tangent: the
# law has a pole at 1, where measured bandwidths scatter on both sides.
OPEN_LOAD_LIMIT = 0.97


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


def bandwidth_Bps(
  in_flight_B: Array, latency_s: Array, capacity_Bps: Array, queue_p: Array
) -> Array:
  """Achieved bandwidth [B/s] with so many bytes in flight (closed loop)."""
  per_byte_s = service_time_s(
    latency_s / in_flight_B, 1.0 / capacity_Bps, queue_p
  )
  return 1.0 / per_byte_s


def loaded_latency_s(
  in_flight_B: Array, latency_s: Array, capacity_Bps: Array, queue_p: Array
) -> Array:
  """Loaded latency [s] with so many bytes in flight (closed loop)."""
  return in_flight_B / bandwidth_Bps(
    in_flight_B, latency_s, capacity_Bps, queue_p
  )


def latency_at_bandwidth_s(
  bandwidth_Bps: Array, latency_s: Array, capacity_Bps: Array, queue_p: Array
) -> Array:
  """Loaded latency [s] at a given bandwidth (open form).

    L = L0 (1 - (B / C)^p)^(-1/p)

  Continued above 97 % of the capacity by its tangent, so that it is finite
  and once differentiable everywhere.
  """
  load = bandwidth_Bps / capacity_Bps
  low = jnp.minimum(load, OPEN_LOAD_LIMIT)
  low = jnp.maximum(low, jnp.finfo(jnp.result_type(low)).tiny)
  power = low**queue_p
  stretch = (1.0 - power) ** (-1.0 / queue_p)
  slope = stretch * power / (low * (1.0 - power))
  excess = jnp.maximum(load - OPEN_LOAD_LIMIT, 0.0)
  return latency_s * (stretch + slope * excess)
