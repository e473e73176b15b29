"""Capacity of a tier against its mix of reads and writes.

Three laws, one per way in which the two directions share the wires. Each is
given as the time that the bytes need, so that more bytes never cost less.

*Half duplex* (DDR, HBM behind a controller): with w the written share,

    ln C(w) = ln R + a w + (e - a) w^2 / 2,   a, e = tanh(bends) in (-1, 1)

a quadratic as on measured platforms (Mess, Esmaili-Dokht et al., MICRO 2024,
fig. 3-5), in the logarithm so that it stays positive. Slopes within (-1, 1)
are exactly what keeps `bytes / C(w)` from falling when bytes are added.

*Turnaround* (GPU HBM): every byte has its time, and changing direction costs:

    1 / C = r / R + w / W + r w / M

*Full duplex* (NVLink, PCIe, CXL, UPI; load and store ports of a core's L1):
each direction has its wires, and a common limit T on both together:

    1 / C = ((r / R)^q + (w / W)^q + (1 / T)^q)^(1/q),    q = 4

q = 4 is within 2 % of the hard maximum away from the corners.
"""

import jax.numpy as jnp
from jaxtyping import ArrayLike, Float

Array = Float[ArrayLike, '...']


def half_duplex_s(
  read_B: Array, write_B: Array, read_Bps: Array, bend_read: Array,
  bend_write: Array,
) -> Array:  # fmt: skip
  """Transfer time [s] on one bus whose capacity bends with the mix.

  Args:
    read_B: bytes read [B].
    write_B: bytes written [B].
    read_Bps: capacity when all is read [B/s].
    bend_read: atanh of d ln C / dw at w = 0.
    bend_write: atanh of d ln C / dw at w = 1.
  """
  total = read_B + write_B
  w = write_B / jnp.where(total > 0, total, 1.0)
  start, end = jnp.tanh(bend_read), jnp.tanh(bend_write)
  log_gain = start * w + 0.5 * (end - start) * w**2
  return total / (read_Bps * jnp.exp(log_gain))


def turnaround_s(
  read_B: Array, write_B: Array, read_Bps: Array, write_Bps: Array,
  mixed_Bps: Array,
) -> Array:  # fmt: skip
  """Transfer time [s] on one bus that pays to change direction."""
  total = read_B + write_B
  mix = read_B * write_B / jnp.where(total > 0, total, 1.0)
  return read_B / read_Bps + write_B / write_Bps + mix / mixed_Bps


def full_duplex_s(
  read_B: Array, write_B: Array, read_Bps: Array, write_Bps: Array,
  mixed_Bps: Array,
) -> Array:  # fmt: skip
  """Transfer time [s] over two directions with a common limit."""
  read_s, write_s = read_B / read_Bps, write_B / write_Bps
  both_s = (read_B + write_B) / mixed_Bps
  peak_s = jnp.maximum(jnp.maximum(read_s, write_s), both_s)
  scale_s = jnp.where(peak_s > 0, peak_s, 1.0)
  fourth = (
    (read_s / scale_s) ** 4 + (write_s / scale_s) ** 4 + (both_s / scale_s) ** 4
  )
  norm = jnp.sqrt(jnp.sqrt(jnp.where(peak_s > 0, fourth, 1.0)))
  return jnp.where(peak_s > 0, scale_s * norm, 0.0)
