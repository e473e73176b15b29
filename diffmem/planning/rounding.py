"""Rounding a placement to whole pieces.

A group consists of `units` pieces (layers; an embedding table is one). The
planes that bound the objective from below (`diffmem.planning.cutting_planes`)
hold for whole pieces too, so the same programme with integer variables gives
the best whole placement as the planes see it; its value adds a plane, and so
on: outer approximation (Duran and Grossmann, Math. Program. 36, 1986). HiGHS
solves the programmes by branch and bound. Where it finds no whole placement
within the capacities, none exists.

Where the planes lie too far below laws that are not convex, the same programmes
are solved in boxes of written shares (`diffmem.planning.branching`).
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize

from diffmem.planning import branching, cutting_planes, model
from diffmem.planning.cutting_planes import Limits, Planes, Ranges, Relaxed
from diffmem.planning.objective import Objective
from diffmem.system import System
from diffmem.workloads import Lowered

_MOST_ROUNDS = 8
_GAP = 1e-3
_SECONDS = 2.0  # for one programme; the best found by then is taken
_BRANCHING_SECONDS = 1.0


class Rounded(NamedTuple):
  """A placement in whole pieces.

  Attributes:
    placement: [group, memory].
    value: the model's objective there.
    bound: no placement in whole pieces is below it, as HiGHS finds.
  """

  placement: np.ndarray
  value: float
  bound: float


def round_placement(
  system: System,
  lowered: Lowered,
  limits: Limits,
  solution: cutting_planes.Solution,
  objective: Objective,
) -> tuple[np.ndarray, float] | None:
  """Placement and value of `round_whole`; None where nothing fits."""
  found = round_whole(system, lowered, limits, solution, objective)
  return None if found is None else (found.placement, found.value)


def round_whole(
  system: System,
  lowered: Lowered,
  limits: Limits,
  solution: cutting_planes.Solution,
  objective: Objective,
) -> Rounded | None:
  """The best placement in whole pieces.

  Args:
    system: the machine, numpy float64 leaves; x64 enabled.
    lowered: one plan, without plan axis.
    limits: its capacity rows.
    solution: the optimum in fractions.
    objective: what is minimised.

  Returns:
    what was found; None where whole pieces find no room.
  """
  units = np.maximum(np.round(lowered.units), 1.0)
  pieces = solution.placement * units[:, None]
  if np.allclose(pieces, np.round(pieces), rtol=0.0, atol=1e-9):
    placement = np.abs(np.round(pieces)) / units[:, None]
    return Rounded(placement, solution.value, solution.bound)
  planes, best, value, seen = solution.planes, None, np.inf, set()
  bound = -np.inf
  for _ in range(_MOST_ROUNDS):
    found = _whole_programme(planes, units, limits, solution.value)
    if found is None:
      break
    pieces, bound = found[0], max(bound, found[1])
    if pieces.tobytes() in seen:
      break
    seen.add(pieces.tobytes())
    share = pieces / units[:, None]
    cut = model.cut(system, lowered, share, objective)
    if cut.value < value:
      best, value = share, float(cut.value)
    if bound >= value * (1.0 - _GAP):
      break
    planes = planes.with_cut(cut, share)
  if best is None:
    return None
  bound = max(bound, solution.bound)
  if bound >= value * (1.0 - _GAP):
    return Rounded(best, value, min(bound, value))

  def programme(planes: Planes, ranges: Ranges) -> Relaxed | None:
    found = _whole_programme(planes, units, limits, solution.value, ranges)
    placement, bound = solution.placement, np.inf
    if found is not None:
      placement, bound = found[0] / units[:, None], found[1]
    none = np.zeros(planes.offsets.shape)
    return Relaxed(placement, bound, np.zeros(len(limits.room_B)), none)

  tree = branching.Tree(system, lowered, limits, objective, programme)
  tree.best, tree.value = best, value
  bound = tree.grow(planes, bound, _GAP, _BRANCHING_SECONDS)
  return Rounded(tree.best, tree.value, min(bound, tree.value))


def _whole_programme(
  planes: Planes,
  units: np.ndarray,
  limits: Limits,
  scale: float,
  ranges: Ranges | None = None,
) -> tuple[np.ndarray, float] | None:
  """The programme in whole pieces: the pieces, and a bound of the value."""
  rows = cutting_planes.rows_of(planes, limits, scale)
  n_groups, n_memories = limits.weight_B.shape
  n_ops = rows.planes.shape[1] - n_groups * n_memories
  per_piece = np.ones(rows.planes.shape[1])
  per_piece[: n_groups * n_memories] = 1.0 / np.repeat(units, n_memories)
  constraints = [
    optimize.LinearConstraint(rows.planes * per_piece, ub=rows.plane_limits),
    optimize.LinearConstraint(rows.rooms * per_piece, ub=1.0),
    optimize.LinearConstraint(rows.whole * per_piece, lb=1.0, ub=1.0),
  ]
  if ranges is not None and len(ranges.limit):
    above = ranges.per_share.reshape(len(ranges.limit), -1)
    above = np.pad(above, ((0, 0), (0, n_ops))) * per_piece
    constraints.append(optimize.LinearConstraint(above, ub=ranges.limit))
  result = optimize.milp(
    rows.cost,
    integrality=np.repeat([1, 0], [n_groups * n_memories, n_ops]),
    bounds=optimize.Bounds(
      0.0,
      np.append(
        np.repeat(units, n_memories) * limits.allowed.ravel(),
        np.full(n_ops, np.inf),
      ),
    ),
    constraints=constraints,
    options={'time_limit': _SECONDS, 'mip_rel_gap': _GAP / 2},
  )
  if result.x is None:
    return None
  pieces = np.abs(np.round(result.x[: n_groups * n_memories]))
  pieces = pieces.reshape(n_groups, n_memories)
  if not limits.holds(pieces / units[:, None], tolerance=1e-6):
    return None
  return pieces, scale * float(result.mip_dual_bound)
