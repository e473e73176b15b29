"""What a workload asks of one device under a plan, before placement.

Lowering a plan gives, per operation, what does not depend on the placement
(FLOPs, messages, bytes of the near memory) and, per tensor group, its size and
the bytes that a step reads and writes of it. `demand` then splits the latter
over the memories. A byte that lives in a far memory is staged: it crosses its
link, is written to the near memory and read from there, and the other way
round when it is written. Every entry of the demand is therefore affine in the
placement, and none is smaller than with everything in the near memory.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffmem.cost import Demand, collective
from diffmem.system import System
from diffmem.workloads import choices as choices_lib


class Operation(NamedTuple):
  """One operation of a step; every value is [plan] or a scalar.

  Attributes:
    name: such as 'layers'.
    flops: matrix FLOPs.
    row_flops: those of one row (token) of every product.
    near_read_B: bytes read from the near memory whatever the placement [B].
    near_write_B: bytes written to it [B].
    group_read_B: by group, bytes read where the group lives [B].
    group_write_B: by group, bytes written where the group lives [B].
    phases: dependent kernels; what they share is in flight at once.
    links: traffic on the network levels [plan, level].
    launches: framework launches.
    time_weight: how often it runs in a step, one after the other.
    bubble_weight: how often the same time passes idle.
    energy_weight: how often its dynamic energy is spent.
  """

  name: str
  flops: Array | float = 0.0
  row_flops: Array | float = 0.0
  near_read_B: Array | float = 0.0
  near_write_B: Array | float = 0.0
  group_read_B: Mapping[str, Array] = {}
  group_write_B: Mapping[str, Array] = {}
  phases: Array | float = 1.0
  links: collective.Traffic | None = None
  launches: Array | float = 0.0
  time_weight: Array | float = 1.0
  bubble_weight: Array | float = 0.0
  energy_weight: Array | float = 1.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lowered:
  """Many plans, lowered; `demand` adds a placement.

  Attributes:
    operations: names along the `op` axis.
    groups: names along the `group` axis.
    machine: memories, levels and engine that are meant.
    flops: matrix FLOPs.
    row_flops: those of one row (token) of every product.
    near_read_B: placement-independent bytes read [B].
    near_write_B: placement-independent bytes written [B].
    group_read_B: bytes that an operation reads of a group [B].
    group_write_B: bytes that an operation writes of a group [B].
    phases: dependent kernels.
    sent_B: bytes sent, and received, on each network level [B].
    messages: dependent messages on each network level.
    launches: framework launches.
    time_weight: times that an operation runs in a step.
    bubble_weight: times that it passes idle in the pipeline's bubble.
    energy_weight: times that its dynamic energy is spent.
    size_B: bytes of each group on one device [B].
    fetch_B: near-memory buffer of a group that lives elsewhere [B].
    fixed_B: near-memory bytes that cannot be placed elsewhere [B].
    units: whole pieces (layers) that a group consists of.
    tokens: tokens of a step, all devices together.
    model_flops: FLOPs of a step without recompute, all devices together.
  """

  operations: tuple[str, ...] = dataclasses.field(metadata={'static': True})
  groups: tuple[str, ...] = dataclasses.field(metadata={'static': True})
  machine: choices_lib.Machine = dataclasses.field(metadata={'static': True})
  flops: Float[Array, '*plan op']
  row_flops: Float[Array, '*plan op']
  near_read_B: Float[Array, '*plan op']
  near_write_B: Float[Array, '*plan op']
  group_read_B: Float[Array, '*plan op group']
  group_write_B: Float[Array, '*plan op group']
  phases: Float[Array, '*plan op']
  sent_B: Float[Array, '*plan op level']
  messages: Float[Array, '*plan op level']
  launches: Float[Array, '*plan op']
  time_weight: Float[Array, '*plan op']
  bubble_weight: Float[Array, '*plan op']
  energy_weight: Float[Array, '*plan op']
  size_B: Float[Array, '*plan group']
  fetch_B: Float[Array, '*plan group']
  fixed_B: Float[Array, '*plan']
  units: Float[Array, '*plan group']
  tokens: Float[Array, '*plan']
  model_flops: Float[Array, '*plan']

  def near_placement(self) -> Float[Array, '*plan group memory']:
    """Everything in the near memory."""
    one = jnp.ones_like(self.size_B)[..., None]
    rest = jnp.zeros((*self.size_B.shape, len(self.machine.memories) - 1))
    return jnp.concatenate([one, rest.astype(one.dtype)], -1)


def assemble(
  operations: Sequence[Operation],
  groups: Sequence[str],
  machine: choices_lib.Machine,
  shape: tuple[int, ...],
  *,
  size_B: Mapping[str, Array],
  fetch_B: Mapping[str, Array],
  units: Mapping[str, Array],
  fixed_B: Array,
  tokens: Array | float,
  model_flops: Array | float,
) -> Lowered:
  """Stacks operations and groups into arrays of shape [plan, ...]."""

  def full(value):
    value = jnp.asarray(value, jnp.result_type(float))
    return jnp.broadcast_to(value, shape)

  def by_op(field):
    return jnp.stack([full(getattr(o, field)) for o in operations], -1)

  def by_group(mapping):
    return jnp.stack([full(mapping.get(g, 0.0)) for g in groups], -1)

  def by_op_and_group(field):
    return jnp.stack([by_group(getattr(o, field)) for o in operations], -2)

  def by_level(field):
    none = jnp.zeros((*shape, len(machine.levels)))
    rows = [none if o.links is None else getattr(o.links, field)
            for o in operations]  # fmt: skip
    return jnp.stack([jnp.broadcast_to(r, none.shape) for r in rows], -2)

  scalars = (
    'flops', 'row_flops', 'near_read_B', 'near_write_B', 'phases', 'launches',
    'time_weight', 'bubble_weight', 'energy_weight',
  )  # fmt: skip
  return Lowered(
    operations=tuple(o.name for o in operations),
    groups=tuple(groups),
    machine=machine,
    **{name: by_op(name) for name in scalars},
    group_read_B=by_op_and_group('group_read_B'),
    group_write_B=by_op_and_group('group_write_B'),
    sent_B=by_level('sent_B'),
    messages=by_level('messages'),
    size_B=by_group(size_B),
    fetch_B=by_group(fetch_B),
    units=by_group(units),
    fixed_B=full(fixed_B),
    tokens=full(tokens),
    model_flops=full(model_flops),
  )


def demand(
  system: System,
  lowered: Lowered,
  placement: Float[Array, '*plan group memory'],
) -> Demand:
  """The demand of every operation under a placement [plan, op].

  Args:
    system: the machine that `lowered.machine` was made from.
    lowered: the plans.
    placement: share of each group in each of `lowered.machine.memories`.
  """
  read, write = lowered.group_read_B, lowered.group_write_B
  away = (1.0 - placement[..., 0])[..., None, :]
  near_read_B = lowered.near_read_B + (read + write * away).sum(-1)
  near_write_B = lowered.near_write_B + (write + read * away).sum(-1)
  machine = lowered.machine
  read_B, write_B = {machine.near: near_read_B}, {machine.near: near_write_B}
  phases = jnp.maximum(lowered.phases, 1.0)
  # All that a kernel touches is in flight together: a rate-limited stream,
  # which waits for one latency per dependent kernel.
  most_near_B = lowered.near_read_B + lowered.near_write_B
  moved_B = (read + write).sum(-1)
  in_flight_B = {machine.near: (most_near_B + 2.0 * moved_B) / phases}
  for i, name in enumerate(machine.memories[1:], start=1):
    share = placement[..., i][..., None, :]
    read_B[name] = (read * share).sum(-1)
    write_B[name] = (write * share).sum(-1)
    in_flight_B[name] = moved_B / phases
    if machine.vias[i]:
      in_flight_B[machine.vias[i]] = moved_B / phases
  messages = {}
  for i, name in enumerate(machine.levels):
    read_B[name] = write_B[name] = lowered.sent_B[..., i]
    messages[name] = lowered.messages[..., i]
  return Demand.of(
    system,
    read_B=read_B,
    write_B=write_B,
    in_flight_B=in_flight_B,
    messages=messages,
    flops={machine.engine: lowered.flops},
    row_flops={machine.engine: lowered.row_flops},
    launches=lowered.launches,
  )
