"""Energy: static power, bits moved, operations, and the board's power cap.

    E = P_static T + E_dynamic,
    E_dynamic = sum_tiers (device + path) bytes + sum_engines e FLOPs

Device and path are apart because different people can change them: of the
15-16 pJ per HBM bit that boards show, the DRAM device is 4-9 (O'Connor et
al., Fine-Grained DRAM, MICRO 2017, table 3, gives 3.9 for HBM2).

A board at its cap P_cap slows its clock until its dynamic power fits. If every
operation kept its energy, it would need

    T_cap = max(T_free, E_dynamic / (P_cap - P_static)),  smoothed by a p-norm.

But with the clock falls the voltage, and with it the energy of an operation:
dynamic power goes with the clock to a power of two to three (Mudge, Computer
34(4), 2001), so that only a share k of the excess becomes time:

    T = (1 - k) T_free + k T_cap,        E_saved = E_dynamic (1 - T / T_cap).

The second keeps the dynamic power at the headroom. Published rooflines of
boards at their caps (RRZE-HPC/gpu-benches, gpu-roofline) give k = 0.43 for an
A40 and 0.41 for an MI300X; k = 1 is a board that cannot lower its voltage. For
k up to 1 the time is convex in T_free and E_dynamic, as planning needs.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import ArrayLike, Float

from diffmem.cost import overlap

Array = Float[ArrayLike, '...']

# Sharpness of the cap: 3 % early at the corner, gone 20 % away from it.
_CAP_P = 24.0


class Throttled(NamedTuple):
  """What the power cap does to an operation.

  Attributes:
    time_s: its time [s].
    saved_J: dynamic energy that the lower voltage saves [J].
  """

  time_s: Array
  saved_J: Array


def throttled(
  free_time_s: Array,
  dynamic_J: Array,
  static_W: Array,
  power_cap_W: Array,
  throttle_share: Array = 1.0,
) -> Throttled:
  """Time and saved energy with the board's power cap.

  Args:
    free_time_s: time without the cap [s].
    dynamic_J: energy of bytes and operations at full voltage [J].
    static_W: static power [W].
    power_cap_W: the cap [W]; at least 2 % above the static power is assumed.
    throttle_share: share of the excess that becomes time; above 1 it is 1.
  """
  headroom_W = jnp.maximum(power_cap_W - static_W, 0.02 * power_cap_W)
  capped_s = overlap.pair_norm(free_time_s, dynamic_J / headroom_W, _CAP_P)
  share = jnp.minimum(throttle_share, 1.0)
  time_s = (1.0 - share) * free_time_s + share * capped_s
  kept = time_s / jnp.where(capped_s > 0, capped_s, 1.0)
  saved_J = jnp.where(capped_s > 0, dynamic_J * (1.0 - kept), 0.0)
  return Throttled(time_s, saved_J)
