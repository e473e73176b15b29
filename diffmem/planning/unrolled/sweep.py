"""Value of many plans, under the greedy placement or with everything near.

The greedy placement is that of `diffmem.planning.greedy`. A group's place in
the queue is found by comparing it with every other group, which for the few
groups of a plan is quicker than sorting them: nothing is moved about.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from diffmem.planning import greedy as greedy_lib
from diffmem.planning.objective import Objective
from diffmem.planning.unrolled import laws as unrolled
from diffmem.system import System
from diffmem.workloads import Lowered


class Swept(NamedTuple):
  """What the sweep finds of each plan.

  Attributes:
    value: minimised sum, everything near or under the greedy placement.
    spilled_B: bytes of a device that the greedy placement holds elsewhere.
    overflow_B: bytes of a device for which it finds no room.
  """

  value: Float[Array, ' plan']
  spilled_B: Float[Array, ' plan']
  overflow_B: Float[Array, ' plan']


def swept(
  system: System,
  lowered: Lowered,
  objective: Objective,
  spill: Float[ArrayLike, ' plan'] | None,
) -> Swept:
  """The value of many lowered plans.

  Args:
    system: the machine; float32 leaves make it fastest.
    lowered: the plans.
    objective: what is minimised.
    spill: 1 for the greedy placement, 0 for everything near; None where all
      are 0, which leaves the laws of the far memories out of the program.

  Raises:
    ValueError: a tier with contention, which this path leaves out.
  """
  shares, overflow_B = place(system, lowered)
  spilled_B = sum(_stacked(lowered.size_B) * (1.0 - shares[0]))
  if spill is None:
    value = near_value(system, lowered, objective)
    return Swept(value, spilled_B, overflow_B)
  near = jnp.zeros_like(shares).at[0].set(1.0)
  placed = near + spill[None, None] * (shares - near)

  def part(op):
    carried = unrolled.carried_by(op, placed)
    found = unrolled.operation(system, lowered.machine, op, carried)
    return unrolled.weighted(objective, *found)

  value = unrolled.total(part, unrolled.lay(lowered))
  return Swept(value, spilled_B, overflow_B)


def near_value(
  system: System, lowered: Lowered, objective: Objective
) -> Float[Array, ' plan']:
  """The minimised sum with everything in the near memory."""

  def part(op):
    carried = unrolled.carried_near(op)
    found = unrolled.operation(system, lowered.machine, op, carried)
    return unrolled.weighted(objective, *found)

  return unrolled.total(part, unrolled.lay(lowered, as_one_group=True))


def place(
  system: System, lowered: Lowered
) -> tuple[Float[Array, 'memory group plan'], Float[Array, ' plan']]:
  """The placement of `greedy.place`, and the bytes that find no room.

  Args:
    system: the machine.
    lowered: the plans.

  Returns:
    shares of each group in each memory, and what no memory has room for
    [B]; to the rounding of sums that are taken in another order.
  """
  size_B, fetch_B = _stacked(lowered.size_B), _stacked(lowered.fetch_B)
  room_B = greedy_lib.capacities_B(system, lowered.machine)
  near_B = room_B[0] - lowered.fixed_B - sum(fetch_B)
  rooms_B = [jnp.maximum(near_B, 0.0)]
  rooms_B += [jnp.full_like(near_B, room) for room in room_B[1:]]
  # A group outside the near memory needs a buffer there, so that moving it
  # out frees less than its size.
  needed_B = jnp.stack([size_B - fetch_B, *[size_B] * (len(rooms_B) - 1)])
  density = _moved_B(lowered) / jnp.maximum(size_B, 1.0)

  def fill(left, memory):
    needed_B, room_B = memory
    wanted_B = left * needed_B
    free_B = jnp.clip(room_B[None] - _before(density, wanted_B), 0.0, wanted_B)
    part = free_B / jnp.where(wanted_B > 0, wanted_B, 1.0)
    share = left * jnp.where(free_B >= wanted_B, 1.0, part)
    return left - share, share

  left, shares = lax.scan(
    fill, jnp.ones_like(size_B), (needed_B, jnp.stack(rooms_B))
  )
  return shares, sum(left * size_B) + jnp.maximum(-near_B, 0.0)


def _stacked(table: Array) -> Array:
  """[group, plan] of [plan, group]."""
  return jnp.stack(unrolled.columns(table))


def _moved_B(lowered: Lowered) -> Array:
  """Bytes that a step moves of each group [group, plan]."""
  columns = unrolled.columns
  weights = columns(lowered.time_weight + lowered.bubble_weight)
  moved_B = columns(lowered.group_read_B + lowered.group_write_B)
  return jnp.stack(
    [
      sum(w * op_B for w, op_B in zip(weights, columns(group_B), strict=True))
      for group_B in moved_B
    ]
  )


def _before(density: Array, wanted_B: Array) -> Array:
  """Bytes of the groups that come before each group; both [group, plan].

  Of two alike the first named comes first.
  """
  place = jnp.arange(len(density))[:, None]
  total_B = jnp.zeros_like(wanted_B)
  for i, (one, one_B) in enumerate(zip(density, wanted_B, strict=True)):
    later = (density < one[None]) | ((density == one[None]) & (place > i))
    total_B = total_B + jnp.where(later, one_B[None], 0.0)
  return total_B
