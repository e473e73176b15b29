"""What a token costs over two parameters of the machine, planned anew.

What a machine can do, one with more bandwidth and larger memories can too with
the same plans, at the same price: each cell is at most its neighbours with
less. That mends cells whose search missed a plan.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffmem.codesign.mixes.mix_optimum import MixSolver, Rates
from diffmem.planning.search import Progress
from diffmem.system import System
from diffmem.workloads import machine_of

_MORE_IS_BETTER = ('_Bps', '_FLOPps', 'capacity_B')
FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)


class CostMap(NamedTuple):
  """A grid of machines; the price of an accelerator stays.

  Attributes:
    x_name: parameter along the columns, by full name.
    x: its values, ascending, SI.
    y_name: parameter along the rows.
    y: its values, ascending, SI.
    token_usd: [y, x]; NaN where a workload does not fit.
  """

  x_name: str
  x: Float[np.ndarray, ' x']
  y_name: str
  y: Float[np.ndarray, ' y']
  token_usd: Float[np.ndarray, 'y x']


def cost_map(
  solver: MixSolver,
  system: System,
  rates: Rates,
  x_name: str,
  y_name: str,
  x_factors: Sequence[float] = FACTORS,
  y_factors: Sequence[float] = FACTORS,
  on_progress: Progress | None = None,
) -> CostMap:
  """Plans the mix on every machine of the grid.

  Args:
    solver: of the mix.
    system: the machine.
    rates: what is paid, on every machine.
    x_name: parameter along the columns; a tier's read rate moves its write
      and mixed rates too.
    y_name: parameter along the rows.
    x_factors: of its value, ascending.
    y_factors: likewise.
    on_progress: called with a stage's name, how much is done and in all.

  Raises:
    SpecError: an unknown parameter, with the nearest known one.
  """
  values = system.values()
  cells = np.full((len(y_factors), len(x_factors)), np.nan)
  for i, y in enumerate(y_factors):
    for j, x in enumerate(x_factors):
      moved = _moved(_moved(system, x_name, x), y_name, y)
      found = solver.solve(moved, rates)
      if not found.missing:
        cells[i, j] = found.per_token
      if on_progress:
        on_progress('map', i * len(x_factors) + j + 1, cells.size)
  for axis, name in ((0, y_name), (1, x_name)):
    if name.endswith(_MORE_IS_BETTER):
      cells = np.fmin.accumulate(cells, axis)
  return CostMap(
    x_name, float(values[x_name]) * np.asarray(x_factors, np.float64),
    y_name, float(values[y_name]) * np.asarray(y_factors, np.float64), cells,
  )  # fmt: skip


def near_memory(system: System) -> str:
  """The memory behind the caches, or the fastest at hand."""
  return machine_of(system, 1).near


def _moved(system: System, name: str, factor: float) -> System:
  part, _, parameter = name.rpartition('.')
  values = system.values()
  names = [name]
  if parameter == 'read_Bps':
    names += [f'{part}.write_Bps', f'{part}.mixed_Bps']
  if name not in values:
    system.with_values({name: 1.0})  # which says what there is
  return system.with_values({n: float(values[n]) * factor for n in names})
