"""A placement that no small move improves, and what more room is worth there.

Cutting planes end where the convex bound says little more; where laws are not
convex, that is near the best placement and not at it. From there, linear
programmes within a shrinking box follow the value's own slopes G (successive
linear programming: Palacios-Gomez, Lasdon and Engquist, Management Science
28(10), 1982). At the end x itself solves

    min G y   with the memories' rooms, and each group somewhere,

and the multipliers of its rooms are those of the placement (Karush, Kuhn and
Tucker). The multipliers of the convex bound would say less.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize

from diffmem.planning import cutting_planes, model
from diffmem.planning.objective import Objective
from diffmem.system import System
from diffmem.workloads import Lowered

# Of a group's share, for slopes by differences.
_STEP = 1e-5
# Room that is left, as a share, below which it is full.
_FULL = 1e-5
# Moves of a share at first and at last, and how many.
_RADIUS, _LEAST_RADIUS = 0.1, 1e-6
_MOST_MOVES = 40
# Falls of the value, relative, that are not worth another move.
_LEAST_FALL = 1e-9
_TRIED = 0.5 ** np.arange(8)

Shares = Float[np.ndarray, 'group memory']


class Stationary(NamedTuple):
  """Where no small move helps.

  Attributes:
    placement: shares [group, memory].
    value: the minimised sum there.
    prices: its fall for one more byte of each memory [memory].
  """

  placement: Shares
  value: float
  prices: Float[np.ndarray, ' memory']


def stationary(
  system: System,
  lowered: Lowered,
  limits: cutting_planes.Limits,
  placement: Shares,
  objective: Objective,
) -> Stationary:
  """Moves a placement as far as its value falls.

  Args:
    system: the machine, numpy float64 leaves.
    lowered: one plan, without plan axis.
    limits: its capacity rows.
    placement: where to begin; it keeps the limits.
    objective: what is minimised.
  """

  def values(tries):
    return model.figures(system, lowered, tries, objective, 1).value

  value, radius = float(values(placement[None])[0]), _RADIUS
  left_B = limits.room_B - limits.used_B(placement)
  if (left_B > _FULL * np.maximum(limits.room_B, 1.0)).all():
    return Stationary(placement, value, np.zeros_like(limits.room_B))
  slopes = _slopes(values, placement)
  for _ in range(_MOST_MOVES):
    found = _programme(slopes, limits, placement, radius)
    if not found.success:
      break
    toward = found.x.reshape(placement.shape) - placement
    if -(slopes * toward).sum() < _LEAST_FALL * value:
      break
    tries = placement + _TRIED[:, None, None] * toward
    reached = values(tries)
    best = int(np.argmin(reached))
    if reached[best] < value * (1.0 - _LEAST_FALL):
      placement, value = tries[best], float(reached[best])
      slopes = _slopes(values, placement)
      radius = min(2.0 * radius * _TRIED[best], _RADIUS)
    else:
      radius *= _TRIED[2]
    if radius < _LEAST_RADIUS:
      break
  return Stationary(placement, value, _prices(slopes, limits, placement))


def _programme(slopes, limits, placement, radius):
  """The linear programme within a box around the placement."""
  groups, memories = slopes.shape
  rooms = np.zeros((memories, groups, memories))
  for memory in range(memories):
    rooms[memory, :, memory] = limits.weight_B[:, memory]
  scale_B = np.maximum(limits.room_B, 1.0)
  # What is used already may stay, whatever rounding made of it.
  room_B = np.maximum(limits.room_B, limits.used_B(placement))
  low = np.maximum(placement - radius, 0.0)
  high = np.minimum(placement + radius, np.where(limits.allowed, 1.0, 0.0))
  return optimize.linprog(
    slopes.ravel() / np.abs(slopes).max(),
    A_ub=rooms.reshape(memories, -1) / scale_B[:, None],
    b_ub=room_B / scale_B,
    A_eq=np.repeat(np.eye(groups), memories, 1),
    b_eq=np.ones(groups),
    bounds=np.stack([low.ravel(), np.maximum(high, low).ravel()], 1),
    method='highs',
  )


def _prices(slopes, limits, placement) -> np.ndarray:
  """Multipliers of the rooms, with every move allowed."""
  scale_B = np.maximum(limits.room_B, 1.0)
  left_B = limits.room_B - limits.used_B(placement)
  full = left_B <= _FULL * scale_B
  # A hair of room would be another vertex of the programme.
  tight = limits._replace(
    room_B=np.where(full, limits.used_B(placement), limits.room_B)
  )
  found = _programme(slopes, tight, placement, 1.0)
  if not found.success:
    return np.zeros_like(limits.room_B)
  prices = np.maximum(-found.ineqlin.marginals, 0.0)
  return np.where(full, prices * np.abs(slopes).max() / scale_B, 0.0)


def _slopes(values, placement) -> np.ndarray:
  """Slopes d value / d share [group, memory], by differences."""
  moves = np.eye(placement.size).reshape(-1, *placement.shape)
  # A share cannot fall below nothing.
  down = np.where(placement.ravel() >= _STEP, _STEP, 0.0)
  tries = np.concatenate([
    placement + _STEP * moves, placement - down[:, None, None] * moves
  ])  # fmt: skip
  above, below = np.split(values(tries), 2)
  return ((above - below) / (_STEP + down)).reshape(placement.shape)
