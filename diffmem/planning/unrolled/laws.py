"""The laws of `diffmem.cost.predict`, laid out for many plans at once.

What the planner asks of `predict` is narrow: bytes of tensor groups in a near
memory, in far memories behind their links, on network levels, and FLOPs of
one engine; no cache that could serve them, nothing that waits for a
participant's own bytes in flight. Here those laws alone are computed. Tiers
and groups are unrolled and plans are the innermost, contiguous axis, so that
one compiled loop goes over them; operations are a scan, so that its program
is compiled once. `tests/planning/unrolled_test.py` holds values and gradients
to those of `predict`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffmem.cost import (
  STREAM_B,
  UNCACHED_B,
  capacity,
  energy,
  overlap,
  residency,
  service,
)
from diffmem.planning.objective import Objective
from diffmem.system import Duplex, System, Tier
from diffmem.workloads import Lowered, Machine

# A memory and its link are a pipeline: `predict` joins them by a 16-norm,
# which takes this many squares and square roots.
_PIPELINE_DOUBLINGS = 4

# A placement, [memory][group], each of [*plan].
Shares = Sequence[Sequence[Array]]


class Laid(NamedTuple):
  """Lowered plans by operation: [op, *plan], or [*plan] within `each`.

  Attributes:
    flops: matrix FLOPs.
    row_flops: those of one row of every product.
    launches: framework launches.
    weight: times that an operation runs, its idle turns included.
    energy_weight: times that its dynamic energy is spent.
    phases: dependent kernels.
    near_read_B: placement-independent bytes read [B].
    near_write_B: placement-independent bytes written [B].
    group_read_B: by group, bytes read [B].
    group_write_B: by group, bytes written [B].
    sent_B: by network level, bytes sent, and received [B].
    messages: by network level, dependent messages.
  """

  flops: Array
  row_flops: Array
  launches: Array
  weight: Array
  energy_weight: Array
  phases: Array
  near_read_B: Array
  near_write_B: Array
  group_read_B: tuple[Array, ...]
  group_write_B: tuple[Array, ...]
  sent_B: tuple[Array, ...]
  messages: tuple[Array, ...]


class Carried(NamedTuple):
  """Bytes that depend on the placement, of one operation; [*plan].

  All that an operation costs depends on a placement through these, so that
  slopes are taken of them (`minorant`) and not of every share.

  Attributes:
    near_read_B: read from the near memory [B].
    near_write_B: written to it [B].
    far_read_B: read from each far memory [B]; () where all is near.
    far_write_B: written to each [B].
  """

  near_read_B: Array
  near_write_B: Array
  far_read_B: tuple[Array, ...]
  far_write_B: tuple[Array, ...]


class Moved(NamedTuple):
  """What one tier carries in an operation, and how often it waits; [*plan].

  Attributes:
    read_B: bytes read [B].
    write_B: bytes written [B].
    rounds: latencies that pass one after the other.
  """

  read_B: Array
  write_B: Array
  rounds: Array


def parts(
  system: System,
  lowered: Lowered,
  placement: Float[Array, '*plan group memory'],
  objective: Objective,
) -> Float[Array, '*plan op']:
  """The same as `diffmem.planning.objective.parts`, quicker for many plans.

  Args:
    system: the machine.
    lowered: the plans.
    placement: share of each group in each memory.
    objective: what is minimised.

  Raises:
    ValueError: a tier with contention, or a near memory behind a link: what
      this path leaves out.
  """
  time_s, energy_J = time_and_energy(system, lowered, placement)
  return jnp.moveaxis(weighted(objective, time_s, energy_J), 0, -1)


def time_and_energy(
  system: System,
  lowered: Lowered,
  placement: Float[Array, '*plan group memory'],
) -> tuple[Float[Array, 'op *plan'], Float[Array, 'op *plan']]:
  """Time [s] and energy [J] of each operation in a step, on one device.

  The bubble is included, as in `objective.busy_s` and `objective.energy_J`.

  Args:
    system: the machine.
    lowered: the plans.
    placement: share of each group in each memory.

  Raises:
    ValueError: a tier with contention, or a near memory behind a link: what
      this path leaves out.
  """
  shares = shares_of(placement)

  def one(op):
    return operation(system, lowered.machine, op, carried_by(op, shares))

  return each(one, lay(lowered))


def weighted(objective: Objective, time_s: Array, energy_J: Array) -> Array:
  """What is minimised, from time and energy of a step on one device."""
  return objective.per_s * time_s + objective.per_J * energy_J


def lay(lowered: Lowered, *, as_one_group: bool = False) -> Laid:
  """Operations first, plans last.

  Args:
    lowered: the plans.
    as_one_group: adds up the groups, which is enough, and quicker, where all
      of them are in the near memory.
  """
  groups_read_B = list(map(columns, columns(lowered.group_read_B)))
  groups_write_B = list(map(columns, columns(lowered.group_write_B)))
  if as_one_group:
    groups_read_B = [list(map(sum, zip(*groups_read_B, strict=True)))]
    groups_write_B = [list(map(sum, zip(*groups_write_B, strict=True)))]
  laid = Laid(
    flops=columns(lowered.flops),
    row_flops=columns(lowered.row_flops),
    launches=columns(lowered.launches),
    weight=columns(lowered.time_weight + lowered.bubble_weight),
    energy_weight=columns(lowered.energy_weight),
    phases=columns(lowered.phases),
    near_read_B=columns(lowered.near_read_B),
    near_write_B=columns(lowered.near_write_B),
    group_read_B=tuple(groups_read_B),
    group_write_B=tuple(groups_write_B),
    sent_B=tuple(map(columns, columns(lowered.sent_B))),
    messages=tuple(map(columns, columns(lowered.messages))),
  )
  # Without the barrier XLA computes an operation anew for every row that it
  # is stacked into.
  return _stacked(lax.optimization_barrier(laid))


def _stacked(laid: Laid) -> Laid:
  def stack(field):
    if isinstance(field, tuple):
      return tuple(jnp.stack(one, 0) for one in field)
    return jnp.stack(field, 0)

  return Laid(*map(stack, laid))


def columns(table: Array) -> list[Array]:
  """Slices along the last axis.

  XLA follows them to the values that a table was stacked from, where a
  transposition would write and read the table.
  """
  return [
    lax.index_in_dim(table, i, axis=-1, keepdims=False)
    for i in range(table.shape[-1])
  ]


def shares_of(
  placement: Float[Array, '*plan group memory'],
) -> list[list[Array]]:
  """A placement as [memory][group], each of [*plan]."""
  return [columns(memory) for memory in columns(placement)]


def each(function: Callable[[Laid], Any], laid: Laid) -> Any:
  """Applies a function to every operation; its results get an axis [op]."""
  return lax.scan(lambda none, op: (none, function(op)), None, laid)[1]


def total(function: Callable[[Laid], Any], laid: Laid) -> Any:
  """Sum over operations of what a function says of each."""
  first = Laid(*jax.tree.map(lambda x: x[0], tuple(laid)))
  found = jax.eval_shape(function, first)
  none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)

  def add(before, op):
    return jax.tree.map(jnp.add, before, function(op)), None

  return lax.scan(add, none, laid)[0]


def operation(
  system: System, machine: Machine, op: Laid, carried: Carried
) -> tuple[Float[Array, '*plan'], Float[Array, '*plan']]:
  """Time [s] and energy [J] of one operation in a step.

  Args:
    system: the machine; leaves are scalars or [*plan].
    machine: how it is used.
    op: the operation, fields [*plan].
    carried: bytes of it under a placement.
  """
  time_s, dynamic_J = _spent(
    system, machine, op, moved_by_tier(machine, op, carried)
  )
  time_s = op.weight * time_s
  return time_s, system.static_W * time_s + op.energy_weight * dynamic_J


def carried_near(op: Laid) -> Carried:
  """Bytes with everything in the near memory."""
  near_read_B = op.near_read_B + sum(op.group_read_B)
  return Carried(near_read_B, op.near_write_B + sum(op.group_write_B), (), ())


def carried_by(op: Laid, shares: Shares) -> Carried:
  """Bytes under a placement.

  What lives elsewhere is staged: it passes through the near memory the other
  way, too.
  """
  near = carried_near(op)
  away = [1.0 - share for share in shares[0]]
  return Carried(
    near.near_read_B + _shared_B(op.group_write_B, away),
    near.near_write_B + _shared_B(op.group_read_B, away),
    tuple(_shared_B(op.group_read_B, share) for share in shares[1:]),
    tuple(_shared_B(op.group_write_B, share) for share in shares[1:]),
  )


def slope_to_shares(op: Laid, slope: Carried) -> list[list[Array]]:
  """Slope to a placement, [memory][group], from that to the bytes."""
  pairs = list(zip(op.group_read_B, op.group_write_B, strict=True))
  near = [
    -(slope.near_read_B * write_B + slope.near_write_B * read_B)
    for read_B, write_B in pairs
  ]
  far = [
    [of_read * read_B + of_write * write_B for read_B, write_B in pairs]
    for of_read, of_write in zip(
      slope.far_read_B, slope.far_write_B, strict=True
    )
  ]
  return [near, *far]


def moved_by_tier(
  machine: Machine, op: Laid, carried: Carried
) -> dict[str, Moved]:
  """What every tier carries, as `lowered.demand` says.

  Args:
    machine: memories, links and network levels.
    op: the operation, fields [*plan].
    carried: bytes of it under a placement.

  Returns:
    by name, for every tier that can carry something.

  Raises:
    ValueError: a near memory behind a link, which this path leaves out.
  """
  if machine.vias[0]:
    raise ValueError(f'{machine.near} is behind a link: use predict')
  phases = jnp.maximum(op.phases, 1.0)
  moved_B = sum(op.group_read_B) + sum(op.group_write_B)
  in_flight_B = op.near_read_B + op.near_write_B + 2.0 * moved_B
  near = _moved(
    carried.near_read_B, carried.near_write_B, phases / _positive(in_flight_B)
  )
  tiers, rounds_per_B = {machine.near: near}, phases / _positive(moved_B)
  for read_B, write_B, memory, via in zip(
    carried.far_read_B,
    carried.far_write_B,
    machine.memories[1:] if carried.far_read_B else (),
    machine.vias[1:] if carried.far_read_B else (),
    strict=True,
  ):
    moved = _moved(read_B, write_B, rounds_per_B)
    tiers[memory] = moved
    if via:
      tiers[via] = _added(tiers[via], moved) if via in tiers else moved
  for name, sent_B, messages in zip(
    machine.levels, op.sent_B, op.messages, strict=True
  ):
    sent = Moved(sent_B, sent_B, messages)
    if name in tiers:
      # Far memories are reached over this level, too: its messages decide.
      rounds = jnp.where(messages > 0, messages, tiers[name].rounds)
      sent = _added(tiers[name], sent)._replace(rounds=rounds)
    tiers[name] = sent
  return tiers


def _moved(read_B: Array, write_B: Array, rounds_per_B: Array) -> Moved:
  return Moved(read_B, write_B, rounds_per_B * (read_B + write_B))


def _added(a: Moved, b: Moved) -> Moved:
  return Moved(*(x + y for x, y in zip(a, b, strict=True)))


def _shared_B(by_group: Sequence[Array], shares: Sequence[Array]) -> Array:
  return sum(b * x for b, x in zip(by_group, shares, strict=True))


def _spent(
  system: System, machine: Machine, op: Laid, moved: dict[str, Moved]
) -> tuple[Array, Array]:
  """Time and dynamic energy of one operation each time that it runs."""
  engine = system.engine(machine.engine)
  padded = op.flops + engine.fill_rows * op.row_flops
  dynamic_J = op.flops * engine.energy_J_per_FLOP
  times_s = {}
  for name, carried in moved.items():
    tier = system.tier(name)
    times_s[name] = _tier_s(tier, carried, _access_s(system, tier))
    J_per_B = tier.device_J_per_B + tier.path_J_per_B
    dynamic_J = dynamic_J + (carried.read_B + carried.write_B) * J_per_B
  busy_s = _overlapped_s(system, padded / engine.rate_FLOPps, times_s)
  throttled = energy.throttled(
    busy_s + op.launches * system.launch_s, dynamic_J, system.static_W,
    system.power_cap_W, system.throttle_share,
  )  # fmt: skip
  return throttled.time_s, dynamic_J


def _access_s(system: System, tier: Tier) -> Array:
  """Unloaded latency of one access of a stream that no cache serves."""
  if tier.link:
    return tier.latency_s
  uncached_B = jnp.asarray(UNCACHED_B)
  misses = residency.translation_misses
  return (
    tier.latency_s
    + misses(uncached_B, system.tlb_reach_B, STREAM_B) * system.tlb_miss_s
    + misses(uncached_B, system.page_reach_B, STREAM_B) * system.page_walk_s
  )


def _tier_s(tier: Tier, moved: Moved, access_s: Array) -> Array:
  """Time that one tier alone would need."""
  if tier.contended:
    raise ValueError(f'{tier.name} has contention: use predict')
  laws = {
    Duplex.HALF: (capacity.half_duplex_s, 'bend_read', 'bend_write'),
    Duplex.TURNAROUND: (capacity.turnaround_s, 'write_Bps', 'mixed_Bps'),
    Duplex.FULL: (capacity.full_duplex_s, 'write_Bps', 'mixed_Bps'),
  }
  law, *others = laws[tier.duplex]
  read_B, write_B = moved.read_B, moved.write_B
  times_B = 1.0
  if read_B is write_B:
    # As much out as in: the law of one byte each way, times the bytes.
    times_B, read_B, write_B = read_B, jnp.ones(()), jnp.ones(())
  wire_s = law(
    read_B, write_B, tier.read_Bps, *(getattr(tier, n) for n in others)
  )
  wire_s = wire_s * (1.0 + tier.granule_B / STREAM_B) * times_B
  knee = service.knee_p(read_B, write_B, tier.queue_p, tier.bend_queue)
  return service.service_time_s(moved.rounds * access_s, wire_s, knee)


def _overlapped_s(system: System, engine_s, times_s: dict[str, Array]):
  """Joins engine, memories at hand, and links with what is behind them."""
  local_s, behind = [engine_s], {}
  for name, time_s in times_s.items():
    tier = system.tier(name)
    if tier.link:
      behind.setdefault(name, []).append(time_s)
    elif tier.via:
      behind.setdefault(tier.via, []).append(time_s)
    else:
      local_s.append(time_s)
  parts_s = [_norm(local_s, overlap.at_least_one(system.overlap_p))]
  parts_s += [_pipeline_s(stages) for stages in behind.values()]
  return _norm(parts_s, overlap.at_least_one(system.link_overlap_p))


def _norm(times_s: Sequence[Array], p: Array) -> Array:
  return functools.reduce(lambda a, b: overlap.pair_norm(a, b, p), times_s)


def _pipeline_s(stages_s: Sequence[Array]) -> Array:
  """The 16-norm: eight multiplications and square roots for each."""
  if len(stages_s) == 1:
    return stages_s[0]
  # A norm scales with its terms, so that the scale has no slope.
  scale_s = lax.stop_gradient(functools.reduce(jnp.maximum, stages_s))
  busy = scale_s > 0
  scale_s = jnp.where(busy, scale_s, 1.0)
  p = 2**_PIPELINE_DOUBLINGS
  norm = jnp.where(busy, sum((s / scale_s) ** p for s in stages_s), 1.0)
  for _ in range(_PIPELINE_DOUBLINGS):
    norm = jnp.sqrt(norm)
  return jnp.where(busy, scale_s * norm, 0.0)


def _positive(values: Array) -> Array:
  return jnp.where(values > 0, values, 1.0)
