"""Greedy placement of many plans at once: busiest groups nearest.

Groups are sorted by the bytes that a step moves per byte that they hold, and
fill the memories in turn, splitting where one is full. For a single far tier
and times linear in bytes this is the optimum of the fractional knapsack
(Dantzig, Operations Research 5(2), 1957); with overlap and congestion it is
not, and `diffmem.planning.cutting_planes` improves on it.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffmem.system import System
from diffmem.workloads import Lowered


class Greedy(NamedTuple):
  """Placements, and what found no room.

  Attributes:
    placement: share of each group in each memory; sums to one only where
      `overflow_B` is zero.
    overflow_B: bytes that no memory has room for [B].
  """

  placement: Float[Array, '*plan group memory']
  overflow_B: Float[Array, '*plan']


def capacities_B(system: System, machine) -> Float[Array, ' memory']:
  """Bytes of each memory that tensors may fill [B]."""
  sizes = [system.tier(n).capacity_B for n in machine.memories]
  return machine.usable * jnp.stack([jnp.asarray(s) for s in sizes])


def place(
  system: System,
  lowered: Lowered,
  allowed: Bool[np.ndarray, 'group memory'] | None = None,
) -> Greedy:
  """Fills the memories, nearest first, by traffic per byte held.

  Args:
    system: the machine.
    lowered: the plans.
    allowed: whether each group may live in each memory; those that may not
      live everywhere come first. None for everywhere.
  """
  moved_B = lowered.group_read_B + lowered.group_write_B
  weight = (lowered.time_weight + lowered.bubble_weight)[..., None]
  size_B = lowered.size_B
  density = (weight * moved_B).sum(-2) / jnp.maximum(size_B, 1.0)
  if allowed is None:
    allowed = np.ones((len(lowered.groups), len(lowered.machine.memories)))
  restricted = ~np.asarray(allowed, bool).all(-1)
  first = jnp.where(_last_axis(restricted, density), jnp.inf, 0.0)
  order = jnp.argsort(-(density + first), -1)
  back = jnp.argsort(order, -1)
  # A group outside the near memory needs a buffer there, so that moving it
  # out frees less than its size.
  buffers_B = lowered.fetch_B.sum(-1)
  room_B = capacities_B(system, lowered.machine)
  near_B = room_B[0] - lowered.fixed_B - buffers_B
  missing_B = jnp.maximum(-near_B, 0.0)
  left = jnp.ones_like(size_B)
  shares = []
  for i in range(len(lowered.machine.memories)):
    needed_B = size_B - lowered.fetch_B if i == 0 else size_B
    room = (
      jnp.maximum(near_B, 0.0) if i == 0 else jnp.full_like(near_B, room_B[i])
    )
    may = _last_axis(np.asarray(allowed, float)[:, i], density)
    share = _fill(left * may, needed_B, room, order, back)
    shares.append(share)
    left = left - share
  return Greedy(jnp.stack(shares, -1), (left * size_B).sum(-1) + missing_B)


def _last_axis(values: np.ndarray, like: Array) -> Array:
  """[group] with leading axes of one."""
  return jnp.expand_dims(jnp.asarray(values), range(like.ndim - 1))


def _fill(left, size_B, room_B, order, back):
  """Share of each group that fits, in order, into one memory."""
  wanted = jnp.take_along_axis(left * size_B, order, -1)
  before = jnp.cumsum(wanted, -1) - wanted
  free = jnp.clip(room_B[..., None] - before, 0.0, wanted)
  fits = free >= wanted
  share = jnp.where(fits, 1.0, free / jnp.where(wanted > 0, wanted, 1.0))
  return left * jnp.take_along_axis(share, back, -1)
