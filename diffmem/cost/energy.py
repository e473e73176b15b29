"""Energy: static power, bits moved, operations, and the board's power cap.

    E = P_static T + sum_tiers (device + path) bytes + sum_engines e FLOPs

Device and path are apart because different people can change them: of the
15-16 pJ per HBM bit that boards show, the DRAM device is 4-9 (O'Connor et
al., Fine-Grained DRAM, MICRO 2017, table 3, gives 3.9 for HBM2).

A board at its cap P_cap slows down until its dynamic energy fits:

    T = max(T_free, E_dynamic / (P_cap - P_static)),   smoothed by a p-norm
"""

import jax.numpy as jnp
from jaxtyping import ArrayLike, Float

from diffmem.cost import overlap

Array = Float[ArrayLike, '...']

# Sharpness of the cap: 3 % early at the corner, gone 20 % away from it.
_CAP_P = 24.0


def capped_time_s(
  free_time_s: Array, dynamic_J: Array, static_W: Array, power_cap_W: Array
) -> Array:
  """Time [s] with the board's power cap.

  Args:
    free_time_s: time without the cap [s].
    dynamic_J: energy of bytes and operations [J].
    static_W: static power [W].
    power_cap_W: the cap [W]; at least 2 % above the static power is assumed.
  """
  headroom_W = jnp.maximum(power_cap_W - static_W, 0.02 * power_cap_W)
  return overlap.pair_norm(free_time_s, dynamic_J / headroom_W, _CAP_P)
