"""Placement at a fixed mesh: cutting planes with a certificate.

Minimise f(x) = sum_o f_o(x) over placements x (shares of each group in each
memory, summing to one) within the capacities. Each f_o is bounded from below
by a convex m_o (`diffmem.planning.minorant`), whose gradients support it:

    f_o(x) >= m_o(x_k) + grad m_o(x_k) (x - x_k)   for every k.

A linear programme over x and the t_o above these planes (Kelley, J. SIAM 8(4),
1960, with one t for each term as Birge and Louveaux, EJOR 34(3), 1988) bounds
f from below; its solution is the next x_k. HiGHS solves it (Huangfu and Hall,
Math. Program. Comput. 10, 2018).

**What is proven.** No placement of this mesh in fractions has a predicted
objective below `bound`. The bound is evaluated from the programme's dual
multipliers by weak duality, so it holds for any multipliers and does not rest
on the solver's tolerance; only on floating-point rounding (float64). It says
nothing of other meshes.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize

from diffmem.planning import model
from diffmem.planning.objective import Objective
from diffmem.system import System
from diffmem.workloads import Lowered

_MOST_CUTS = 60
TARGET_GAP = 1e-4
# The programme leaves this share of each memory free, so that what HiGHS calls
# feasible is so in truth; the bound is made for the whole memory.
_SPARE = 1e-6
# Of leaving the ranges by one, in units of the best value.
_SLACK_COST = 100.0


class Limits(NamedTuple):
  """Capacity rows: sum of `weight_B * x` per memory is at most `room_B`.

  Attributes:
    weight_B: bytes that a whole group takes of a memory [group, memory].
    room_B: bytes of each memory that may be filled [memory].
    allowed: whether a group may live in a memory [group, memory].
  """

  weight_B: np.ndarray
  room_B: np.ndarray
  allowed: np.ndarray

  def used_B(self, placement: np.ndarray) -> np.ndarray:
    """Bytes in use, [..., memory], for placements [..., group, memory]."""
    return (self.weight_B * placement).sum(-2)

  def holds(self, placement: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """Whether placements keep within the rooms, to a relative tolerance."""
    slack = tolerance * np.maximum(self.room_B, 1.0)
    fits = (self.used_B(placement) <= self.room_B + slack).all(-1)
    return fits & ~((placement > tolerance) & ~self.allowed).any((-2, -1))


class Planes(NamedTuple):
  """Supporting planes: f_o(x) >= offset + slope x.

  Attributes:
    offsets: [cut, op].
    slopes: [cut, op, group, memory].
  """

  offsets: np.ndarray
  slopes: np.ndarray

  def with_cut(self, cut: model.Cut, placement: np.ndarray) -> 'Planes':
    """One cut more, made at that placement."""
    offsets = cut.parts - (cut.slopes * placement).sum((1, 2))
    return Planes(
      np.concatenate([self.offsets, offsets[None]]),
      np.concatenate([self.slopes, cut.slopes[None]]),
    )


class Rows(NamedTuple):
  """A linear programme over shares, group by group, and one t per operation.

  Attributes:
    cost: of each variable.
    planes: `planes @ variables <= plane_limits`.
    plane_limits: right-hand sides.
    rooms: `rooms @ variables <= 1`, one row for each memory.
    whole: `whole @ variables == 1`, one row for each group.
  """

  cost: np.ndarray
  planes: np.ndarray
  plane_limits: np.ndarray
  rooms: np.ndarray
  whole: np.ndarray


class Ranges(NamedTuple):
  """Further rows: sum of `per_share * x` is at most `limit`.

  Attributes:
    per_share: [row, group, memory].
    limit: [row].
  """

  per_share: np.ndarray
  limit: np.ndarray


class Relaxed(NamedTuple):
  """A solved programme.

  Attributes:
    placement: its solution [group, memory].
    bound: proven by its multipliers.
    prices: multipliers of the capacities [memory].
    on_cuts: multipliers of the planes [cut, op].
  """

  placement: np.ndarray
  bound: float
  prices: np.ndarray
  on_cuts: np.ndarray


class Solution(NamedTuple):
  """The best placement found, and what is proven about it.

  Attributes:
    placement: shares [group, memory].
    value: the model's objective there (the minimised sum).
    bound: no placement of this mesh is below it.
    prices: fall of `bound` per additional byte of each memory [memory].
    planes: what the bound was made from.
  """

  placement: np.ndarray
  value: float
  bound: float
  prices: np.ndarray
  planes: Planes

  @property
  def gap(self) -> float:
    """Certified relative gap."""
    return max(self.value - self.bound, 0.0) / self.value


def limits_of(
  lowered: Lowered, room_B: np.ndarray, allowed: np.ndarray | None = None
) -> Limits:
  """Capacity rows of one plan (no plan axis).

  A group that lives elsewhere needs a fetch buffer in the near memory, so
  moving it out frees its size less the buffer.
  """
  size_B, fetch_B = np.asarray(lowered.size_B), np.asarray(lowered.fetch_B)
  weight_B = np.repeat(size_B[:, None], len(room_B), 1)
  weight_B[:, 0] -= fetch_B
  room_B = np.array(room_B, np.float64)
  room_B[0] -= float(lowered.fixed_B) + fetch_B.sum()
  if allowed is None:
    allowed = np.ones(weight_B.shape, bool)
  return Limits(weight_B, room_B, allowed)


def solve(
  system: System,
  lowered: Lowered,
  limits: Limits,
  start: np.ndarray,
  objective: Objective,
  *,
  give_up_at: float = np.inf,
  target_gap: float = TARGET_GAP,
) -> Solution:
  """Cutting planes from a feasible start; call it with x64 enabled.

  Args:
    system: the machine, numpy float64 leaves.
    lowered: one plan, without plan axis.
    limits: from `limits_of`.
    start: a placement within the limits [group, memory].
    objective: what is minimised.
    give_up_at: stop when the bound shows that the value stays above it.
    target_gap: stop at this certified gap.
  """
  n_ops = lowered.flops.shape[-1]
  planes = Planes(np.zeros((0, n_ops)), np.zeros((0, n_ops, *start.shape)))

  least = np.inf

  def try_at(x):
    nonlocal planes, least
    cut = model.cut(system, lowered, x, objective)
    planes = planes.with_cut(cut, x)
    if limits.holds(x):
      least = min(least, float(cut.parts.sum()))
    return float(cut.value)

  # Everything near is the best that could be, were there room for it.
  near = np.zeros_like(start)
  near[:, 0] = 1.0
  bound, prices = try_at(near), np.zeros(start.shape[1])
  if limits.holds(near):
    return Solution(near, bound, bound, prices, planes)
  best, value = start, try_at(start)
  # At the minorant's own optimum, only other minorants close the gap.
  while min(value, least) - bound > target_gap * value and bound <= give_up_at:
    found = relax(planes, limits, scale=value)
    if found is None or len(planes.offsets) >= _MOST_CUTS:
      break
    if found.bound > bound:
      bound, prices = found.bound, found.prices
    # The point half way to the best damps the method's oscillation.
    for point in (found.placement, 0.5 * (found.placement + best)):
      reached = try_at(point)
      if reached < value and limits.holds(point):
        best, value = point, reached
  return Solution(best, value, min(bound, value), prices, planes)


def rows_of(planes: Planes, limits: Limits, scale: float) -> Rows:
  """The programme over all planes, times in units of `scale`."""
  n_cuts, n_ops, n_groups, n_memories = planes.slopes.shape
  n = n_groups * n_memories
  above = np.zeros((n_cuts * n_ops, n + n_ops))
  above[:, :n] = planes.slopes.reshape(n_cuts * n_ops, n) / scale
  above[:, n:] = -np.tile(np.eye(n_ops), (n_cuts, 1))
  rooms = np.zeros((n_memories, n + n_ops))
  for memory in range(n_memories):
    rooms[memory, memory:n:n_memories] = limits.weight_B[:, memory]
  whole = np.zeros((n_groups, n + n_ops))
  for group in range(n_groups):
    whole[group, group * n_memories : (group + 1) * n_memories] = 1.0
  return Rows(
    cost=np.append(np.zeros(n), np.ones(n_ops)),
    planes=above,
    plane_limits=-planes.offsets.ravel() / scale,
    rooms=rooms / np.maximum(limits.room_B, 1.0)[:, None],
    whole=whole,
  )


def relax(
  planes: Planes,
  limits: Limits,
  scale: float,
  ranges: Ranges | None = None,
) -> Relaxed | None:
  """Solves the programme in fractions; None where HiGHS finds no solution.

  Args:
    planes: that hold where `ranges` do.
    limits: of the capacities.
    scale: of the value.
    ranges: further rows. A programme that cannot keep them leaves them, for a
      price; its bound holds for the placements that do keep them.
  """
  rows = rows_of(planes, limits, scale)
  n_cuts, n_ops, n_groups, n_memories = planes.slopes.shape
  n = n_groups * n_memories
  if ranges is None:
    ranges = Ranges(np.zeros((0, n_groups, n_memories)), np.zeros(0))
  above = np.concatenate(
    [
      np.pad(rows.planes, ((0, 0), (0, 1))),
      np.pad(rows.rooms, ((0, 0), (0, 1))),
      np.pad(ranges.per_share.reshape(-1, n), ((0, 0), (0, n_ops + 1))),
    ]
  )
  above[n_cuts * n_ops + n_memories :, -1] = -1.0
  result = optimize.linprog(
    np.append(rows.cost, _SLACK_COST),
    A_ub=above,
    b_ub=np.concatenate([
      rows.plane_limits, np.full(n_memories, 1.0 - _SPARE), ranges.limit
    ]),
    A_eq=np.pad(rows.whole, ((0, 0), (0, 1))),
    b_eq=np.ones(n_groups),
    bounds=[(0.0, float(a)) for a in limits.allowed.ravel()]
    + [(0.0, None)] * (n_ops + 1),
    method='highs',
  )  # fmt: skip
  if not result.success:
    return None
  placement = _cleaned(result.x[:n].reshape(n_groups, n_memories))
  multipliers = np.maximum(-result.ineqlin.marginals, 0.0)
  on_cuts, on_rooms, on_ranges = np.split(
    multipliers, [n_cuts * n_ops, n_cuts * n_ops + n_memories]
  )
  on_cuts = on_cuts.reshape(n_cuts, n_ops)
  prices = on_rooms * scale / np.maximum(limits.room_B, 1.0)
  bound = dual_bound(planes, on_cuts, prices, limits, ranges, on_ranges * scale)
  return Relaxed(placement, bound, prices, on_cuts)


def dual_bound(
  planes: Planes,
  on_cuts: np.ndarray,
  prices: np.ndarray,
  limits: Limits,
  ranges: Ranges,
  on_ranges: np.ndarray,
) -> float:
  """Weak duality: a bound from any non-negative multipliers.

  For multipliers u of the planes with sum at most one per operation (each
  time is at least zero), v of the capacities and z of the ranges,

      f(x) >= sum u (offset + slope x) + sum v (weight x - room)
              + sum z (row x - limit),

  whose least value over the simplices is taken group by group.
  """
  on_cuts = on_cuts / np.maximum(on_cuts.sum(0), 1.0)
  per_share = np.einsum('ko,kogm->gm', on_cuts, planes.slopes)
  per_share = per_share + limits.weight_B * prices
  per_share = per_share + np.einsum('r,rgm->gm', on_ranges, ranges.per_share)
  per_share = np.where(limits.allowed, per_share, np.inf)
  constant = (on_cuts * planes.offsets).sum() - (prices * limits.room_B).sum()
  constant -= (on_ranges * ranges.limit).sum()
  return float(constant + per_share.min(1).sum())


def _cleaned(placement: np.ndarray) -> np.ndarray:
  """Non-negative shares that sum to one exactly enough."""
  placement = np.clip(placement, 0.0, 1.0)
  return placement / placement.sum(1, keepdims=True)
