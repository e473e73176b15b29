"""A convex function below the predicted time: what the certificate stands on.

With the demand affine in the placement (`diffmem.workloads.lowered`), the
predicted time is built from p-norms with p >= 1 of non-negative, increasing
terms, which is convex (Boyd and Vandenberghe, Convex Optimization, 2004,
section 3.2.4), wherever a tier's transfer time is convex in the bytes read and
written. That holds for full-duplex links and for linear laws. It does not hold
for the turnaround term r w / ((r + w) M), which is concave, nor for every bend
of a half-duplex bus. With the written share s = w / (r + w), such a law is

    t = (r + w) f(s),

so a line below f over the shares that the placement can reach gives a time
below t that is linear in the bytes, and that a turnaround tier without its
mixed term expresses: r / R' + w / W'. A larger exponent lowers a norm:
exponents below one are raised to one, and a knee that bends with the written
share takes the largest exponent that the placement can reach. Contention only
lengthens waits, and by a growth that levels off in the load, which no convex
function but a constant stays below: the bound leaves it out.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffmem.cost import capacity, predict
from diffmem.planning import objective as objective_lib
from diffmem.system import Duplex, System, Tier
from diffmem.workloads import Lowered
from diffmem.workloads import demand as demand_of

_LOG_NO_TURNAROUND = 70.0  # exp(70) B/s: the mixed term is below 1e-15
_SHARES = 65  # points at which a line is checked against the law
_SAME_SHARE = 1e-9
_NORMS = ('log_overlap_p', 'log_link_overlap_p')


def minorant_parts(
  system: System,
  lowered: Lowered,
  placement: Float[Array, '*plan group memory'],
  objective: objective_lib.Objective,
) -> Float[Array, '*plan op']:
  """A convex lower bound of `objective.parts`, operation by operation.

  Exact where every law is convex already. jit- and differentiable.
  """
  shares = _written_shares(system, lowered)
  demand = demand_of(system, lowered, placement)
  convex = _convex_system(system, shares)
  shape = demand.launches.shape

  def flat(x):
    return jnp.reshape(x, (-1, *x.shape[len(shape) :]))

  # One system per operation and plan: each has its own reachable shares.
  systems = jax.tree.map(lambda x: jnp.broadcast_to(x, shape).ravel(), convex)
  costs = jax.vmap(predict)(systems, jax.tree.map(flat, demand))
  cost = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), costs)
  return objective_lib.parts_of(system, lowered, cost, objective)


def _written_shares(system: System, lowered: Lowered) -> tuple[Array, Array]:
  """Least and greatest written share of each operation and tier.

  In the near memory reads and writes lie in a box, whose corners are
  everything near and everything far. What a far memory or its link carries is
  a mixture of groups, so its share lies between theirs. Network levels carry
  as much in as out.
  """
  near = demand_of(system, lowered, lowered.near_placement())
  nowhere = jnp.zeros_like(lowered.near_placement())
  far = demand_of(system, lowered, nowhere)
  read, write = lowered.group_read_B, lowered.group_write_B
  total = read + write
  share = write / jnp.where(total > 0, total, 1.0)
  least = jnp.where(total > 0, share, 1.0).min(-1)
  greatest = jnp.where(total > 0, share, 0.0).max(-1)
  machine = lowered.machine
  away = {*machine.memories[1:], *machine.vias}
  low, high = [], []
  for i, name in enumerate(system.tier_names):
    if name == machine.near:
      low.append(_share(near.write_B[..., i], far.read_B[..., i]))
      high.append(_share(far.write_B[..., i], near.read_B[..., i]))
    elif name in away:
      low.append(jnp.minimum(least, greatest))
      high.append(greatest)
    else:
      half = _share(near.write_B[..., i], near.read_B[..., i])
      low.append(half)
      high.append(half)
  return jnp.stack(low, -1), jnp.stack(high, -1)


def _share(write_B: Array, read_B: Array) -> Array:
  total = write_B + read_B
  return write_B / jnp.where(total > 0, total, 1.0)


def _convex_system(system: System, shares: tuple[Array, Array]) -> System:
  """The system with convex laws; changed leaves get the shape [plan, op]."""
  tiers = []
  for i, tier in enumerate(system.tiers):
    low, high = shares[0][..., i], shares[1][..., i]
    bend = jnp.tanh(tier.bend_queue)
    log_p = tier.log_queue_p + jnp.maximum(bend * low, bend * high)
    tier = dataclasses.replace(
      tier,
      log_queue_p=jnp.maximum(log_p, 0.0),
      bend_queue=jnp.zeros_like(log_p),
      contended=False,
    )
    if tier.duplex is not Duplex.FULL:
      tier = _linear_tier(tier, low, high)
    tiers.append(tier)
  norms = {n: jnp.maximum(getattr(system, n), 0.0) for n in _NORMS}
  return dataclasses.replace(system, tiers=tuple(tiers), **norms)


def _linear_tier(tier: Tier, low: Array, high: Array) -> Tier:
  """A tier whose transfer time is a line below the law between two shares."""
  width = high - low
  grid = jnp.linspace(0.0, 1.0, _SHARES)
  grid = jnp.expand_dims(grid, range(width.ndim))
  law = _seconds_per_byte(tier, low[..., None] + width[..., None] * grid)
  is_point = width <= _SAME_SHARE
  slope = (law[..., -1] - law[..., 0]) / jnp.where(is_point, 1.0, width)
  slope = jnp.where(is_point, 0.0, slope)
  start = law[..., 0] - slope * low
  if tier.duplex is Duplex.HALF:
    line = law[..., :1] + slope[..., None] * width[..., None] * grid
    # Between two points the law can dip further by its curvature.
    step = width / (_SHARES - 1)
    dip = _half_duplex_curvature(tier) * step**2 / 8
    start = start - jnp.maximum((line - law).max(-1), 0.0) - dip
  return dataclasses.replace(
    tier,
    duplex=Duplex.TURNAROUND,
    log_read_Bps=-jnp.log(start),
    log_write_Bps=-jnp.log(start + slope),
    log_mixed_Bps=jnp.full_like(start, _LOG_NO_TURNAROUND),
  )


def _seconds_per_byte(tier: Tier, share: Array) -> Array:
  """f(s): transfer time of one byte, a share s of it written."""
  if tier.duplex is Duplex.HALF:
    return capacity.half_duplex_s(
      1.0 - share, share, tier.read_Bps, tier.bend_read, tier.bend_write
    )
  return capacity.turnaround_s(
    1.0 - share, share, tier.read_Bps, tier.write_Bps, tier.mixed_Bps
  )


def _half_duplex_curvature(tier: Tier) -> Array:
  """Greatest |f''| where f = exp(-g) / R: |g'^2 - g''| f, with g <= 1."""
  start, end = jnp.tanh(tier.bend_read), jnp.tanh(tier.bend_write)
  slopes = jnp.maximum(start**2, end**2) + jnp.abs(end - start)
  return slopes * jnp.e / tier.read_Bps
