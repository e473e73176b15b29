"""How sure the answer is: the reported plans under the fit's ensemble, under
other capacities, and under a machine that moves.

Joins the search to `uncertainty` (which plan to take, what to
measure) and `margins` (what would bind or win next).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from diffmem.planning import model, sensitivity
from diffmem.planning.decisions import margins, uncertainty
from diffmem.planning.decisions.decision import Decision
from diffmem.system import System
from diffmem.workloads import Choices, Lowered

# A price that moved by a tenth is told apart by optima of this gap.
_PRICE_GAP = 1e-3
# Parameters without a logarithm: a bend is its own leaf.
_PLAIN = 'bend_'


class Compared(NamedTuple):
  """One reported plan.

  Attributes:
    job: what it was planned for.
    choices: with a plan axis of one.
    lowered: the plan, without plan axis.
    placement: shares [group, memory].
    value: the minimised sum.
    draws: the same under every draw of the fit [draw]; None without one.
  """

  job: model.Job
  choices: Choices
  lowered: Lowered
  placement: np.ndarray
  value: float
  draws: np.ndarray | None


def slopes_of(
  system: System, plans: Sequence[Compared]
) -> dict[str, np.ndarray]:
  """Slopes d ln(minimised sum) / d leaf of every plan, by parameter [plan]."""
  tables = [
    jax.tree.leaves(
      model.slopes(system, p.lowered, p.placement, p.job.objective)
    )
    for p in plans
  ]
  names, active = list(system.infos()), system.active()
  columns = np.array(tables, float).T
  return {
    n: c for n, c in zip(names, columns, strict=True)
    if n in active and c.any()
  }  # fmt: skip


def decision_of(
  system: System,
  ensemble: System | None,
  plans: Sequence[Compared],
  slopes: dict[str, np.ndarray],
) -> Decision:
  """Which plan to take, how sure, and what to measure."""
  names = list(system.infos())
  drawn, values = {}, None
  if ensemble is not None:
    leaves = [np.asarray(x, float).ravel() for x in jax.tree.leaves(ensemble)]
    count = max(x.size for x in leaves)
    drawn = {
      n: np.broadcast_to(x, (count,))
      for n, x in zip(names, leaves, strict=True)
      if n in slopes
    }
    values = np.stack([p.draws for p in plans])
  return uncertainty.decide(values, drawn, system=system, slopes=slopes)


def overtakings_of(
  system: System,
  ensemble: System | None,
  plans: Sequence[Compared],
  slopes: dict[str, np.ndarray],
) -> tuple[margins.Overtaking, ...]:
  """Moves of the machine that let another plan be first; nearest first."""
  if len(plans) < 2:
    return ()
  names = list(system.infos())
  leaves, structure = jax.tree.flatten(system)

  def evaluate(name: str, moves: np.ndarray) -> np.ndarray:
    index = names.index(name)
    moved = [
      leaf + (moves if i == index else 0.0 * moves)
      for i, leaf in enumerate(leaves)
    ]
    systems = jax.tree.unflatten(structure, moved)
    return np.stack([
      model.figures(systems, p.lowered, p.placement[None], p.job.objective, 1)
      .value
      for p in plans
    ])  # fmt: skip

  stderr = {}
  if ensemble is not None:
    spread = [float(np.std(x)) for x in jax.tree.leaves(ensemble)]
    stderr = dict(zip(names, spread, strict=True))
  return margins.overtakings(
    np.array([p.value for p in plans]),
    slopes,
    evaluate,
    without_logarithm=[n for n in slopes if _PLAIN in n],
    stderr=stderr,
  )


def memory_margins_of(
  system: System,
  plan: Compared,
  prices: np.ndarray,
  used_B: np.ndarray,
) -> tuple[margins.MemoryMargin, ...]:
  """How far each memory of the best plan's mesh is from another answer.

  Args:
    system: the machine.
    plan: the best one.
    prices: fall of the minimised sum per byte more [memory].
    used_B: bytes of each memory that it fills [memory].
  """
  machine, found = plan.job.machine, []
  for i, memory in enumerate(machine.memories):
    capacity_B = machine.usable * float(system.tier(memory).capacity_B)

    def solve(room_B: float, i=i, memory=memory):
      moved = system.with_values(
        {f'{memory}.capacity_B': room_B / machine.usable}
      )
      solution = sensitivity.solve_mesh(
        moved, plan.job, plan.choices, target_gap=_PRICE_GAP
      )
      if solution is None:
        return None
      return solution.value, float(solution.prices[i])

    spare_B = max(capacity_B - float(used_B[i]), 0.0)
    found.append(
      margins.memory_margin(
        solve,
        memory,
        capacity_B=capacity_B,
        spare_B=spare_B,
        price=float(prices[i]),
      )
    )
  return tuple(found)
