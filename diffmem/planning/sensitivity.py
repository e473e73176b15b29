"""How the best plan's step time moves with the machine.

At the optimum the placement need not be re-solved for the derivative to a
parameter that no constraint contains (envelope theorem: Milgrom and Segal,
Econometrica 70(2), 2002): it is the partial derivative at a fixed placement.
A memory's capacity stands in a constraint; its derivative is the multiplier.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from diffmem.planning import cutting_planes, model
from diffmem.planning.objective import Objective
from diffmem.system import System
from diffmem.workloads import Choices

_STEP = math.log(1.01)
# Two optima 2 % apart are compared: each must be sharper than their difference.
_CLOSE_GAP = 1e-5


class Elasticities(NamedTuple):
  """By full parameter name.

  Attributes:
    gradient: from reverse mode, or a capacity's multiplier.
    checked: from evaluation 1 % up and down.
  """

  gradient: dict[str, float | None]
  checked: dict[str, float | None]


def elasticities(
  system: System,
  job: model.Job,
  choices: Choices,
  placement: np.ndarray,
  solution: cutting_planes.Solution,
  chips: int,
) -> Elasticities:
  """Elasticities of the step time; call it with x64 enabled.

  Args:
    system: the machine, numpy float64 leaves.
    job: what was planned.
    choices: the best plan's, with a plan axis of one.
    placement: its rounded placement [group, memory].
    solution: its fractional optimum, for the capacities.
    chips: devices of the mesh.
  """
  started = model.start(system, job, choices)
  lowered = started.lowered
  limits = cutting_planes.limits_of(lowered, started.room_B)
  used_B = limits.used_B(solution.placement)
  slopes = jax.tree.leaves(
    jax.device_get(model.slopes(system, lowered, placement))
  )
  names, active = list(system.infos()), system.active()
  shifts = _STEP * np.concatenate([np.eye(len(names)), -np.eye(len(names))])
  leaves, structure = jax.tree.flatten(system)
  moved = [leaf + shift for leaf, shift in zip(leaves, shifts.T, strict=True)]
  figures = model.figures(
    jax.tree.unflatten(structure, moved), lowered, placement[None],
    job.objective, chips,
  )  # fmt: skip
  up, down = np.split(np.log(figures.outcome.step_time_s), 2)
  checks = (up - down) / (2 * _STEP)
  gradient = {n: float(g) for n, g in zip(names, slopes, strict=True)}
  checked = {n: float(c) for n, c in zip(names, checks, strict=True)}
  gradient, checked = (
    {n: v for n, v in table.items() if n in active}
    for table in (gradient, checked)
  )
  for i, memory in enumerate(job.machine.memories):
    name = f'{memory}.capacity_B'
    if job.objective is Objective.ENERGY:
      gradient[name] = checked[name] = None
      continue
    room_B = job.machine.usable * float(system.tier(memory).capacity_B)
    gradient[name] = -float(solution.prices[i]) * room_B / solution.value
    # Without a price, more is of no use; and 1 % less is none the worse
    # while the optimum leaves that much free.
    if solution.prices[i] == 0.0 and used_B[i] <= 0.99 * limits.room_B[i]:
      checked[name] = 0.0
    else:
      checked[name] = _resolved(system, job, choices, name)
  return Elasticities(gradient, checked)


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
  limits = cutting_planes.limits_of(started.lowered, started.room_B)
  return cutting_planes.solve(
    system, started.lowered, limits, started.greedy.placement, job.objective,
    **options,
  )  # fmt: skip


def _resolved(system, job, choices, name: str) -> float | None:
  """Central difference over re-solved placements; None where one fails."""
  logs = []
  for sign in (1.0, -1.0):
    capacity_B = math.exp(sign * _STEP) * float(system.values()[name])
    moved = system.with_values({name: capacity_B})
    solution = solve_mesh(moved, job, choices, target_gap=_CLOSE_GAP)
    if solution is None:
      return None
    logs.append(math.log(solution.value))
  return (logs[0] - logs[1]) / (2 * _STEP)
