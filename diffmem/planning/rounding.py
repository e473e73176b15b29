"""Rounding a placement to whole pieces, with repair.

A group consists of `units` pieces (layers; an embedding table is one). Pieces
are first dealt out by largest remainder where there is room, then moved one by
one or exchanged in pairs, always the best of all moves as the model sees them,
until none improves. The capacities hold throughout.
"""

import itertools

import numpy as np

from diffmem.planning import model
from diffmem.planning.cutting_planes import Limits
from diffmem.planning.objective import Objective
from diffmem.system import System
from diffmem.workloads import Lowered

_MOST_ROUNDS = 40


def round_placement(
  system: System,
  lowered: Lowered,
  limits: Limits,
  placement: np.ndarray,
  objective: Objective,
  chips: int,
) -> tuple[np.ndarray, float] | None:
  """The best placement in whole pieces near a fractional one.

  Args:
    system: the machine, numpy float64 leaves; x64 enabled.
    lowered: one plan, without plan axis.
    limits: its capacity rows.
    placement: shares [group, memory] within the limits.
    objective: what is minimised.
    chips: devices of the mesh.

  Returns:
    the placement and its value; None where whole pieces find no room.
  """
  units = np.maximum(np.round(np.asarray(lowered.units)), 1.0)
  pieces = _deal(placement, units, limits)
  if pieces is None:
    return None

  def values(tries):
    shares = np.stack([t / units[:, None] for t in tries])
    return model.figures(system, lowered, shares, objective, chips).value

  value = float(values([pieces])[0])
  for _ in range(_MOST_ROUNDS):
    tries = _moves(pieces, units, limits)
    if not tries:
      break
    found = values(tries)
    best = int(np.argmin(found))
    if found[best] >= value * (1.0 - 1e-12):
      break
    pieces, value = tries[best], float(found[best])
  return pieces / units[:, None], value


def _deal(placement, units, limits: Limits) -> np.ndarray | None:
  """Whole pieces by largest remainder, else where there is room."""
  exact = placement * units[:, None]
  pieces = np.floor(exact + 1e-9)
  piece_B = limits.weight_B / units[:, None]
  largest_first = np.argsort(-piece_B.max(1))
  for group in largest_first:
    for _ in range(round(units[group] - pieces[group].sum())):
      room_B = limits.room_B - limits.used_B(pieces / units[:, None])
      fits = np.flatnonzero(piece_B[group] <= room_B * (1 + 1e-9) + 1e-9)
      if not len(fits):
        return None
      remainder = exact[group] - pieces[group]
      memory = max(fits, key=lambda m, r=remainder: (round(r[m], 9), -m))
      pieces[group, memory] += 1.0
  whole = limits.holds(pieces / units[:, None])
  return pieces if whole else None


def _moves(pieces, units, limits: Limits) -> list[np.ndarray]:
  """All single moves and exchanges of two that keep the limits."""
  n_groups, n_memories = pieces.shape
  pairs = list(itertools.permutations(range(n_memories), 2))
  singles = [
    (g, a, b) for g in range(n_groups) for a, b in pairs if pieces[g, a] >= 1.0
  ]
  exchanges = [
    (one, two)
    for one, two in itertools.combinations(singles, 2)
    if one[0] != two[0] and one[1] == two[2] and one[2] == two[1]
  ]
  found = []
  for move in [*((s,) for s in singles), *exchanges]:
    moved = pieces.copy()
    for group, source, target in move:
      moved[group, source] -= 1.0
      moved[group, target] += 1.0
    if limits.holds(moved / units[:, None]):
      found.append(moved)
  return found
