"""How the best plan's objective moves with the machine.

At the optimum the placement need not be re-solved for the derivative to a
parameter that no constraint contains (envelope theorem: Milgrom and Segal,
Econometrica 70(2), 2002): it is the partial derivative at a fixed placement.
A memory's capacity stands in a constraint; its derivative is the multiplier.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from diffmem.planning import branching, cutting_planes, model
from diffmem.system import System
from diffmem.workloads import Choices

_STEP = math.log(1.01)
# Parameters whose check solves the placement again.
_RESOLVED = 12
# Two optima 2 % apart are compared: each must be sharper than their difference.
_CLOSE_GAP = 1e-7


class Elasticities(NamedTuple):
  """d ln(minimised sum) / d ln(parameter), by full parameter name.

  Attributes:
    gradient: from reverse mode, or a capacity's multiplier.
    checked: from 1 % up and down: with the placement solved again for
      capacities and for parameters that matter, evaluated again for others.
  """

  gradient: dict[str, float | None]
  checked: dict[str, float | None]


def elasticities(
  system: System,
  job: model.Job,
  choices: Choices,
  *,
  verify: bool = False,
) -> Elasticities:
  """Elasticities of the optimum in fractions; call it with x64 enabled.

  Args:
    system: the machine, numpy float64 leaves.
    job: what was planned.
    choices: the best plan's, with a plan axis of one.
    verify: whether the strongest are checked by solving the placement again;
      else they are evaluated at the same placement.
  """
  started = model.start(system, job, choices)
  lowered = started.lowered
  solution = solve_mesh(system, job, choices, target_gap=_CLOSE_GAP)
  names, active = list(system.infos()), system.active()
  slopes = jax.tree.leaves(
    model.slopes(system, lowered, solution.placement, job.objective)
  )
  gradient = {n: float(g) for n, g in zip(names, slopes, strict=True)}
  checked = _evaluated(system, job, lowered, solution.placement, names)
  gradient, checked = (
    {n: v for n, v in table.items() if n in active}
    for table in (gradient, checked)
  )
  strongest = sorted(gradient, key=lambda n: -abs(gradient[n]))[:_RESOLVED]
  for name in strongest if verify else ():
    checked[name] = _resolved(system, job, choices, name)
  _add_capacities(gradient, checked, system, job, choices, started, solution)
  return Elasticities(gradient, checked)


def _evaluated(system, job, lowered, placement, names) -> dict[str, float]:
  """Central differences at a fixed placement."""
  shifts = _STEP * np.concatenate([np.eye(len(names)), -np.eye(len(names))])
  leaves, structure = jax.tree.flatten(system)
  moved = [leaf + shift for leaf, shift in zip(leaves, shifts.T, strict=True)]
  figures = model.figures(
    jax.tree.unflatten(structure, moved), lowered, placement[None],
    job.objective, 1,
  )  # fmt: skip
  up, down = np.split(np.log(figures.value), 2)
  checks = (up - down) / (2 * _STEP)
  return {n: float(c) for n, c in zip(names, checks, strict=True)}


def _add_capacities(
  gradient, checked, system, job, choices, started, solution
) -> None:
  """The memories' capacities, which stand in constraints."""
  limits = cutting_planes.limits_of(
    started.lowered, started.room_B, job.allowed(started.lowered.groups)
  )
  used_B = limits.used_B(solution.placement)
  for i, memory in enumerate(job.machine.memories):
    name = f'{memory}.capacity_B'
    room_B = job.machine.usable * float(system.tier(memory).capacity_B)
    gradient[name] = -float(solution.prices[i]) * room_B / solution.value
    # Without a price, more is of no use; and 1 % less is none the worse
    # while the optimum leaves that much free.
    if solution.prices[i] == 0.0 and used_B[i] <= 0.99 * limits.room_B[i]:
      checked[name] = 0.0
    else:
      checked[name] = _resolved(system, job, choices, name)


def solve_mesh(
  system: System, job: model.Job, choices: Choices, **options: float
) -> cutting_planes.Solution | None:
  """Greedy placement and cutting planes; None where nothing fits.

  Args:
    system: the machine, numpy float64 leaves.
    job: what is planned.
    choices: one mesh, with a plan axis of one.
    **options: as `cutting_planes.solve`.
  """
  started = model.start(system, job, choices)
  if started.greedy.overflow_B > 0:
    return None
  limits = cutting_planes.limits_of(
    started.lowered, started.room_B, job.allowed(started.lowered.groups)
  )
  return cutting_planes.solve(
    system, started.lowered, limits, started.greedy.placement, job.objective,
    **options,
  )  # fmt: skip


def refine_mesh(
  system: System,
  job: model.Job,
  choices: Choices,
  solution: cutting_planes.Solution,
  target_gap: float,
) -> cutting_planes.Solution:
  """Branch and bound from a solution of `solve_mesh`."""
  started = model.start(system, job, choices)
  limits = cutting_planes.limits_of(
    started.lowered, started.room_B, job.allowed(started.lowered.groups)
  )
  return branching.refine(
    system, started.lowered, limits, solution, job.objective, target_gap
  ).solution


def _resolved(system, job, choices, name: str) -> float | None:
  """Central difference over re-solved placements; None where one fails."""
  logs = []
  for sign in (1.0, -1.0):
    moved = _moved(system, name, sign * _STEP)
    solution = solve_mesh(moved, job, choices, target_gap=_CLOSE_GAP)
    if solution is None:
      return None
    logs.append(math.log(solution.value))
  return (logs[0] - logs[1]) / (2 * _STEP)


def _moved(system: System, name: str, shift: float) -> System:
  """The system with one leaf shifted."""
  leaves, structure = jax.tree.flatten(system)
  index = list(system.infos()).index(name)
  leaves = [x + shift if i == index else x for i, x in enumerate(leaves)]
  return jax.tree.unflatten(structure, leaves)
