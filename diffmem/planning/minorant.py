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
mixed term expresses: r / R' + w / W'. A larger exponent lowers a norm: a knee
that bends with the written share takes the largest exponent that the placement
can reach, and at least one. Contention only lengthens waits, and by a growth
that levels off in the load, which no convex function but a constant stays
below: it is left out.

Both are too low by an amount that more cutting planes do not mend. With the
bytes in flight given, though, a tier's whole time, wait and growth included, is
(r + w) h(s) too, and a line below h can take the place of the knee
(`served=True`). All of these lines close up with the law as the shares narrow
to a `Box`, which is what `diffmem.planning.branching` needs.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffmem.cost import Cost, capacity, predict, residency, service
from diffmem.cost.demand import STREAM_B, UNCACHED_B
from diffmem.planning import objective as objective_lib
from diffmem.system import Duplex, System, Tier
from diffmem.workloads import Lowered
from diffmem.workloads import demand as demand_of

_LOG_NOTHING = 70.0  # exp(70) B/s: the mixed term is below 1e-15
_SHARES = 65  # points at which a line is checked against the law
_SAME_SHARE = 1e-9


class Box(NamedTuple):
  """Written shares w / (r + w) between which placements are looked at.

  Attributes:
    low: least share of each operation and tier [op, tier].
    high: greatest share.
  """

  low: Float[Array, '*plan op tier']
  high: Float[Array, '*plan op tier']


def minorant_parts(
  system: System,
  lowered: Lowered,
  placement: Float[Array, '*plan group memory'],
  objective: objective_lib.Objective,
  box: Box | None = None,
) -> Float[Array, '*plan op']:
  """A convex lower bound of `objective.parts`, operation by operation.

  Exact where every law is convex already. jit- and differentiable.

  Args:
    system: the machine.
    lowered: the plans.
    placement: where the bound is wanted.
    objective: what is minimised.
    box: the bound holds for placements with written shares in the box; None
      for all placements.
  """
  cost = minorant_cost(system, lowered, placement, box)
  return objective_lib.parts_of(system, lowered, cost, objective)


def minorant_cost(
  system: System,
  lowered: Lowered,
  placement: Float[Array, '*plan group memory'],
  box: Box | None = None,
  served: bool = False,
) -> Cost:
  """The cost that `minorant_parts` is made from.

  Args:
    system: the machine.
    lowered: the plans.
    placement: where it is wanted.
    box: as there.
    served: whether lines below all of a tier's time are tried too, which only
      waits that are not convex need (`has_curved_waits`).
  """
  shares = reachable(system, lowered)
  if box is not None:
    low = jnp.clip(box.low, shares.low, shares.high)
    shares = Box(low, jnp.clip(box.high, low, shares.high))
  demand = demand_of(system, lowered, placement)
  convex = _convex_system(system, shares)
  if served:
    convex = _served_system(system, convex, shares, demand.in_flight_B)
  shape = demand.launches.shape

  def flat(x):
    return jnp.reshape(x, (-1, *x.shape[len(shape) :]))

  # One system per operation and plan: each has its own reachable shares.
  systems = jax.tree.map(lambda x: jnp.broadcast_to(x, shape).ravel(), convex)
  costs = jax.vmap(predict)(systems, jax.tree.map(flat, demand))
  return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), costs)


def has_curved_waits(system: System) -> bool:
  """Whether a memory has contention or an exponent below one; not for jit."""
  return any(
    t.contended or t.log_queue_p < 0.0
    for t in system.tiers
    if t.duplex is not Duplex.FULL
  )


def reachable(system: System, lowered: Lowered) -> Box:
  """Least and greatest written share of each operation and tier.

  What a far memory or its link carries is a mixture of groups, so its share
  lies between theirs. Network levels carry as much in as out.
  """
  near = demand_of(system, lowered, lowered.near_placement())
  read, write = lowered.group_read_B, lowered.group_write_B
  total = read + write
  share = _share(write, read)
  least = jnp.where(total > 0, share, 1.0).min(-1)
  greatest = jnp.where(total > 0, share, 0.0).max(-1)
  machine = lowered.machine
  away = {*machine.memories[1:], *machine.vias}
  low, high = [], []
  for i, name in enumerate(system.tier_names):
    half = _share(near.write_B[..., i], near.read_B[..., i])
    if name == machine.near:
      ends = _near_shares(lowered)
    elif name in away:
      ends = jnp.minimum(least, greatest), greatest
    else:
      ends = half, half
    low.append(ends[0])
    high.append(ends[1])
  return Box(jnp.stack(low, -1), jnp.stack(high, -1))


def _near_shares(lowered: Lowered) -> tuple[Array, Array]:
  """Least and greatest written share of the near memory.

  With a share a of group g elsewhere, which is staged, it is

      (w + sum a r_g) / (r + w + sum a (r_g + w_g)),

  largest with all groups elsewhere whose r_g / (r_g + w_g) is above some
  threshold, and least with all below one: the mediant lies between its parts.
  """
  read, write = lowered.group_read_B, lowered.group_write_B
  total = read + write
  near_write_B = lowered.near_write_B + write.sum(-1)
  near_B = lowered.near_read_B + lowered.near_write_B + total.sum(-1)
  ratio = _share(read, write)
  ends = []
  for sign in (1.0, -1.0):
    beyond = sign * ratio[..., None, :] >= sign * ratio[..., :, None]
    some_B = jnp.where(beyond, read[..., None, :], 0.0).sum(-1)
    all_B = jnp.where(beyond, total[..., None, :], 0.0).sum(-1)
    found = _share(
      near_write_B[..., None] + some_B,
      near_B[..., None] - near_write_B[..., None] + all_B - some_B,
    )
    nothing = _share(near_write_B, near_B - near_write_B)
    ends.append(sign * jnp.maximum((sign * found).max(-1), sign * nothing))
  return ends[1], ends[0]


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
  return dataclasses.replace(system, tiers=tuple(tiers))


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
    log_mixed_Bps=jnp.full_like(start, _LOG_NOTHING),
  )


def _served_system(
  system: System, convex: System, shares: Box, in_flight_B: Array
) -> System:
  """The convex system, or a line below all of a tier's time where nearer.

  With the bytes in flight given, waiting too is (r + w) times a function of
  the share, contention included. A line takes the place of the knee: a tier
  that never waits.
  """
  tiers = []
  for i, (law, tier) in enumerate(zip(system.tiers, convex.tiers, strict=True)):
    access_s = _access_s(system, law)
    tier = dataclasses.replace(tier, log_latency_s=jnp.log(access_s))
    if law.duplex is not Duplex.FULL and not law.is_cache:
      in_flight = in_flight_B[..., i]
      wait_s = access_s / jnp.where(in_flight > 0, in_flight, jnp.inf)
      low, high = shares.low[..., i], shares.high[..., i]
      tier = _served_tier(law, tier, wait_s, low, high)
    tiers.append(tier)
  nothing = jnp.full_like(system.log_tlb_miss_s, -_LOG_NOTHING)
  return dataclasses.replace(
    convex,
    tiers=tuple(tiers),
    log_tlb_miss_s=nothing,
    log_page_walk_s=nothing,
  )


def _access_s(system: System, tier: Tier) -> Array:
  """Latency of one access of a stream, translation included."""
  if tier.link:
    return tier.latency_s
  misses = [
    residency.translation_misses(UNCACHED_B, reach_B, STREAM_B)
    for reach_B in (system.tlb_reach_B, system.page_reach_B)
  ]
  extra_s = misses[0] * system.tlb_miss_s + misses[1] * system.page_walk_s
  return tier.latency_s + extra_s


def _served_tier(
  law: Tier, tier: Tier, wait_s: Array, low: Array, high: Array
) -> Tier:
  """`tier`, or a line below the service time of `law` where that is nearer."""
  grid = jnp.expand_dims(jnp.linspace(0.0, 1.0, _SHARES), range(low.ndim))
  share = low[..., None] + (high - low)[..., None] * grid
  wait_s = wait_s[..., None]
  transfer_s = _seconds_per_byte(law, share)
  knee_p = service.knee_p(1.0 - share, share, law.queue_p, law.bend_queue)
  time_s = _service_s(law, share, wait_s, transfer_s, knee_p)
  # Between two points: the least transfer, the least growth, the sharpest knee.
  least_s = jnp.minimum(transfer_s[..., 1:], transfer_s[..., :-1])
  if law.duplex is Duplex.HALF:
    step = (high - low) / (_SHARES - 1)
    least_s = least_s - (_half_duplex_curvature(law) * step**2 / 8)[..., None]
  sharpest = jnp.maximum(knee_p[..., 1:], knee_p[..., :-1])
  under_s = jnp.minimum(*(
    _service_s(law, end, wait_s, least_s, sharpest)
    for end in (share[..., 1:], share[..., :-1])
  ))  # fmt: skip
  start_s, end_s = _line_below(share, time_s, under_s)
  line_s = start_s + (end_s - start_s) * share
  bent_s = service.service_time_s(
    wait_s,
    (1.0 - share) / tier.read_Bps[..., None]
    + share / tier.write_Bps[..., None],
    tier.queue_p[..., None],
  )
  is_nearer = (time_s - line_s).max(-1) < (time_s - bent_s).max(-1)
  leaves = {
    'log_read_Bps': -jnp.log(start_s[..., 0]),
    'log_write_Bps': -jnp.log(end_s[..., 0]),
    'log_latency_s': -_LOG_NOTHING,
  }
  return dataclasses.replace(
    tier,
    **{n: jnp.where(is_nearer, x, getattr(tier, n)) for n, x in leaves.items()},
  )


def _service_s(law: Tier, share, wait_s, transfer_s, knee_p) -> Array:
  """Time of one byte, a share of it written, with contention."""
  if law.contended:
    level = service.contention(wait_s, transfer_s, law.bend_contention)
    reads, writes = (
      service.latency_growth(x, level)
      for x in (law.read_contention, law.write_contention)
    )
    wait_s = wait_s * ((1.0 - share) * reads + share * writes)
  return service.service_time_s(wait_s, transfer_s, knee_p)


def _line_below(share, time_s, under_s) -> tuple[Array, Array]:
  """A line at shares of zero and one, below `under_s` between the points."""
  low, high = share[..., :1], share[..., -1:]
  width = high - low
  is_point = width <= _SAME_SHARE
  slope = (time_s[..., -1:] - time_s[..., :1]) / jnp.where(is_point, 1.0, width)
  slope = jnp.where(is_point, 0.0, slope)
  start = time_s[..., :1] - slope * low

  def lowered(start, slope):
    line = start + slope * share
    above = jnp.maximum(line[..., 1:], line[..., :-1]) - under_s
    return start - jnp.maximum(above.max(-1, keepdims=True), 0.0)

  start = lowered(start, slope)
  least = 1e-3 * time_s.min(-1, keepdims=True)
  is_time = (start > least) & (start + slope > least)
  flat = lowered(under_s.min(-1, keepdims=True), 0.0)
  start = jnp.where(is_time, start, flat)
  return start, jnp.where(is_time, start + slope, flat)


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
