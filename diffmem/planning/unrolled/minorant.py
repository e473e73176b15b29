"""The convex bound of `diffmem.planning.minorant`, for many plans at once.

The same functions below the predicted time, with the layout and the laws of
`diffmem.planning.unrolled`: within an operation each plan has a convex machine
of its own, made for the written shares that its placements can reach.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffmem.planning import minorant
from diffmem.planning.objective import Objective
from diffmem.planning.unrolled import laws as unrolled
from diffmem.system import System
from diffmem.workloads import Lowered, Machine


class Cuts(NamedTuple):
  """Supporting planes of the convex bound, operation by operation.

  Attributes:
    parts: the bound at a placement [plan, op].
    slopes: its derivative to the placement [plan, op, group, memory].
  """

  parts: Float[Array, '*plan op']
  slopes: Float[Array, '*plan op group memory']


class Bound(NamedTuple):
  """The same, summed over operations.

  Attributes:
    value: the bound at a placement [plan].
    slope: its derivative to the placement [plan, group, memory].
  """

  value: Float[Array, '*plan']
  slope: Float[Array, '*plan group memory']


def parts(
  system: System,
  lowered: Lowered,
  placement: Float[Array, '*plan group memory'],
  objective: Objective,
) -> Float[Array, '*plan op']:
  """The same as `minorant.minorant_parts`, quicker for many plans.

  Args:
    system: the machine.
    lowered: the plans.
    placement: share of each group in each memory.
    objective: what is minimised.

  Raises:
    ValueError: a near memory behind a link, which this path leaves out.
  """
  shares = unrolled.shares_of(placement)

  def one(op):
    convex = _convex_system(system, lowered.machine, op)
    carried = unrolled.carried_by(op, shares)
    found = unrolled.operation(convex, lowered.machine, op, carried)
    return unrolled.weighted(objective, *found)

  return jnp.moveaxis(unrolled.each(one, unrolled.lay(lowered)), 0, -1)


def cuts(
  system: System,
  lowered: Lowered,
  placement: Float[Array, '*plan group memory'],
  objective: Objective,
) -> Cuts:
  """Value and slopes of every operation's bound; as `parts`."""
  laid = unrolled.lay(lowered)
  found, slopes = _slopes(system, lowered, laid, placement, objective)
  slopes = unrolled.slope_to_shares(laid, slopes)
  return Cuts(jnp.moveaxis(found, 0, -1), jnp.moveaxis(_stacked(slopes), 0, -3))


def bound(
  system: System,
  lowered: Lowered,
  placement: Float[Array, '*plan group memory'],
  objective: Objective,
) -> Bound:
  """Value and slope of the bound, summed over the operations; as `parts`."""
  laid = unrolled.lay(lowered)
  found, slopes = _slopes(system, lowered, laid, placement, objective)

  def add(total, one):
    op, value, slope = one
    slope = unrolled.slope_to_shares(op, slope)
    return jax.tree.map(jnp.add, total, (value, slope)), None

  none = jnp.zeros_like(found[0])
  start = none, [[none] * placement.shape[-2]] * placement.shape[-1]
  (value, slope), _ = lax.scan(add, start, (laid, found, slopes))
  return Bound(value, _stacked(slope))


def _stacked(slopes: list[list[Array]]) -> Array:
  """[..., group, memory] from [memory][group]."""
  return jnp.stack([jnp.stack(groups, -1) for groups in slopes], -1)


def _slopes(system, lowered, laid, placement, objective):
  """Value and slope to the bytes carried of every operation [op, *plan]."""
  shares = unrolled.shares_of(placement)

  def one(op):
    convex = _convex_system(system, lowered.machine, op)

    def value(carried):
      found = unrolled.operation(convex, lowered.machine, op, carried)
      return unrolled.weighted(objective, *found)

    # Plans are independent: the slope of their sum is that of each.
    found, backward = jax.vjp(value, unrolled.carried_by(op, shares))
    return found, backward(jnp.ones_like(found))[0]

  return unrolled.each(one, laid)


def _convex_system(system: System, machine: Machine, op: unrolled.Laid):
  """A machine with convex laws, leaves of [*plan]."""
  low, high = _written_shares(system, machine, op)
  return minorant._convex_system(
    system, (jnp.stack(low, -1), jnp.stack(high, -1))
  )


def _written_shares(
  system: System, machine: Machine, op: unrolled.Laid
) -> tuple[list[Array], list[Array]]:
  """Least and greatest written share of each tier, as in `minorant`."""
  near_alone = unrolled.carried_near(op)
  moved = unrolled.moved_by_tier(machine, op, near_alone)
  near = moved[machine.near]
  least, greatest = _of_groups(op)
  away = {*machine.memories[1:], *machine.vias}
  low, high = [], []
  for name in system.tier_names:
    if name == machine.near:
      ends = _of_near(op, near)
      low.append(ends[0])
      high.append(ends[1])
    elif name in away:
      low.append(jnp.minimum(least, greatest))
      high.append(greatest)
    else:
      carried = moved.get(name)
      half = _share(carried.write_B, carried.read_B) if carried else 0.0 * least
      low.append(half)
      high.append(half)
  return low, high


def _of_near(op: unrolled.Laid, near: unrolled.Moved) -> tuple[Array, Array]:
  """Least and greatest written share of the near memory.

  As in `minorant`: with everything elsewhere whose share of reads is above
  some threshold, or below one.
  """
  read_B, write_B = jnp.stack(op.group_read_B), jnp.stack(op.group_write_B)
  total_B = read_B + write_B
  ratio = _share(read_B, write_B)
  nothing = _share(near.write_B, near.read_B)
  ends = []
  for sign in (-1.0, 1.0):
    beyond = sign * ratio[None] >= sign * ratio[:, None]
    some_B = jnp.where(beyond, read_B[None], 0.0).sum(1)
    all_B = jnp.where(beyond, total_B[None], 0.0).sum(1)
    found = _share(
      near.write_B[None] + some_B, near.read_B[None] + all_B - some_B
    )
    ends.append(sign * jnp.maximum((sign * found).max(0), sign * nothing))
  return ends[0], ends[1]


def _of_groups(op: unrolled.Laid) -> tuple[Array, Array]:
  """Least and greatest written share of the groups that move at all."""
  pairs = list(zip(op.group_read_B, op.group_write_B, strict=True))
  least = greatest = None
  for read_B, write_B in pairs:
    share, moves = _share(write_B, read_B), read_B + write_B > 0
    lower, upper = jnp.where(moves, share, 1.0), jnp.where(moves, share, 0.0)
    least = lower if least is None else jnp.minimum(least, lower)
    greatest = upper if greatest is None else jnp.maximum(greatest, upper)
  return least, greatest


def _share(write_B: Array, read_B: Array) -> Array:
  total_B = write_B + read_B
  return write_B / jnp.where(total_B > 0, total_B, 1.0)
