"""Where the tensors of a chosen worker live, by the planner's own means.

With room for everything near nothing is better, because staging only adds
bytes. Where there is none, and it would matter, the greedy placement of the
best plan is improved by cutting planes and rounded to whole layers and pages
(`cutting_planes.py`, `rounding.py`); those behind it keep theirs, with its gap.
"""

from typing import NamedTuple

import jax
import numpy as np

from diffmem.planning import cutting_planes, model, rounding
from diffmem.planning import greedy as greedy_lib
from diffmem.planning.objective import Objective
from diffmem.planning.serving import space as space_lib
from diffmem.planning.serving.space import Rows, Steps
from diffmem.planning.serving.tables import Tables
from diffmem.workloads import Lowered

# Where nothing could be quicker by more, the greedy placement stays.
_GOOD_GAP = 1e-3


class Placed(NamedTuple):
  """A step of a worker with its final placement.

  Attributes:
    placement: group -> memory -> share.
    memory_bytes: memory -> bytes of a device, buffers included.
    certified_gap: no placement in fractions is quicker by more than this
      share; 0 where everything is near.
    time_s: of the step [s]; None where the placement is the greedy one.
    energy_J: of the worker's devices beyond rest [J]; None likewise.
  """

  placement: dict[str, dict[str, float]]
  memory_bytes: dict[str, float]
  certified_gap: float
  time_s: float | None
  energy_J: float | None


def place(
  tables: Tables, steps: list[tuple[Rows, Steps, int]], best: int
) -> list[Placed]:
  """Places some steps.

  Args:
    tables: the steps of all workers.
    steps: of each, the rows it is one of, their times, and its index.
    best: how many of the first belong to the best plan.
  """
  rows = [rows.select(np.array([index])) for rows, _, index in steps]
  joined = Rows(*(np.concatenate(column) for column in zip(*rows, strict=True)))
  lowered, placement = space_lib.placed_rows(
    tables.system, tables.job, tables.workers, tables.pieces, joined
  )
  return [
    _place(
      tables,
      jax.tree.map(lambda x, i=i: x[i], lowered),
      placement[i],
      found.select(np.array([index])),
      i < best,
    )
    for i, (_, found, index) in enumerate(steps)
  ]


def _place(
  tables: Tables, lowered: Lowered, placement, steps: Steps, is_best: bool
) -> Placed:
  """Places one step; a gap that is good enough stays."""
  gap = 1.0 - float(steps.least_s[0] / steps.time_s[0])
  time_s = energy_J = None
  if is_best and gap > _GOOD_GAP:
    placement, gap, time_s, energy_J = _improved(tables, lowered, placement)
    energy_J *= float(steps.chips[0])
  return Placed(
    _shares(lowered, placement), _memory_bytes(lowered, placement),
    max(gap, 0.0), time_s, energy_J,
  )  # fmt: skip


def _improved(tables: Tables, lowered: Lowered, greedy):
  """Cutting planes from the greedy placement, then whole pieces."""
  system, time = tables.system, Objective()
  with jax.enable_x64(True):
    room_B = np.asarray(greedy_lib.capacities_B(system, tables.job.machine))
    limits = cutting_planes.limits_of(lowered, room_B)
    solution = cutting_planes.solve(
      system, lowered, limits, greedy, time, target_gap=_GOOD_GAP
    )
    placement = solution.placement
    rounded = rounding.round_placement(system, lowered, limits, solution, time)
    if rounded:
      placement = rounded[0]
    figures = model.figures(system, lowered, placement[None], time, 1)
  outcome = figures.outcome
  time_s = float(outcome.step_time_s[0])
  energy_J = float(outcome.energy_per_token_J[0]) * float(lowered.tokens)
  return (
    placement, solution.gap, time_s, energy_J - float(system.static_W) * time_s
  )  # fmt: skip


def _shares(lowered: Lowered, placement) -> dict[str, dict[str, float]]:
  memories = lowered.machine.memories
  return {
    group: dict(zip(memories, row.tolist(), strict=True))
    for group, row, size_B in zip(
      lowered.groups, placement, lowered.size_B, strict=True
    )
    if size_B > 0
  }


def _memory_bytes(lowered: Lowered, placement) -> dict[str, float]:
  """Bytes of a device in each memory, buffers in the near one."""
  held_B = (lowered.size_B[:, None] * placement).sum(0)
  buffers_B = (lowered.fetch_B * (1.0 - placement[:, 0])).sum()
  held_B[0] += lowered.fixed_B + buffers_B
  return dict(zip(lowered.machine.memories, held_B.tolist(), strict=True))
