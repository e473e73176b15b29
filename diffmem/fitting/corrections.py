"""Residuals of a whole trace: training them, and what they say of its rows."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from diffmem.cost import Cost, Demand, predict_jit
from diffmem.fitting import inputs, observe, residual, resume, split
from diffmem.fitting.compiled import Progress
from diffmem.fitting.residual import ResidualOptions
from diffmem.system import Residual, System
from diffmem.traces import Traces

_CHUNK = 8192


@dataclasses.dataclass(frozen=True)
class Corrections:
  """What residuals say of the equations of a trace.

  Attributes:
    has: whether a residual speaks of the equation [equation].
    log_value: correction of the logarithm, 0 where none does [equation].
    half_width: of the 90 % interval of the logarithm, NaN there [equation].
  """

  has: np.ndarray
  log_value: np.ndarray
  half_width: np.ndarray


def train(
  system: System,
  traces: Traces,
  options: ResidualOptions,
  seed: int,
  on_progress: Progress,
  store: resume.Store | None = None,
) -> dict[str, Residual]:
  """Trains a residual for every family and observable with enough rows.

  Args:
    system: the fitted laws.
    traces: rows to learn from.
    options: how.
    seed: of everything random.
    on_progress: called with stage, done, total.
    store: keeps what is trained, for a fit that is cut off.

  Returns:
    residuals by key, such as 'gemm.time_s'.
  """
  cost = cost_of(system, observe.demand_of(system, traces))
  equations = observe.observations_of(traces)
  log_ratio = equations.log_value - observe.log_of(cost, equations)
  groups = list(inputs.of_groups(system, traces, cost))
  found = {}
  on_progress('residuals', 0, len(groups))
  for done, (family, rows, seen) in enumerate(groups):
    cell = split.shapes(traces.select(rows))
    for name, index, at in _of_rows(equations, rows):
      trained = residual.train(
        family,
        name,
        seen.select(at),
        log_ratio[index],
        cell[at],
        options if name == 'time_s' else options.brief(),
        seed,
        store,
      )
      if trained:
        found[trained.key] = trained
    on_progress('residuals', done + 1, len(groups))
  return found


def of_equations(
  residuals: Mapping[str, Residual],
  system: System,
  traces: Traces,
  cost: Cost,
  equations: observe.Observations,
) -> Corrections:
  """What the residuals say of every equation."""
  n = len(equations)
  has, log_value = np.zeros(n, bool), np.zeros(n)
  half_width = np.full(n, np.nan)
  if residuals:
    for family, rows, seen in inputs.of_groups(system, traces, cost):
      for name, index, at in _of_rows(equations, rows):
        known = residuals.get(f'{family}.{name}')
        if known:
          log_value[index], half_width[index] = residual.correct(
            known, seen.select(at)
          )
          has[index] = True
  return Corrections(has, log_value, half_width)


def _of_rows(equations: observe.Observations, rows: np.ndarray):
  """(observable, its equations, their places among `rows`)."""
  place = np.full(int(rows.max()) + 1, -1)
  place[rows] = np.arange(len(rows))
  is_near = equations.row <= rows.max()
  at = np.where(is_near, place[np.where(is_near, equations.row, 0)], -1)
  names = np.array(equations.names, object)
  for name in dict.fromkeys(names[at >= 0]):
    index = np.flatnonzero((at >= 0) & (names == name))
    yield name, index, at[index]


def cost_of(system: System, demand: Demand) -> Cost:
  """`predict` in numpy, in pieces of one compiled size."""
  rows = len(np.asarray(demand.working_set_B))
  size = min(_CHUNK, 1 << max(rows - 1, 0).bit_length())
  parts = []
  for first in range(0, rows, size):
    index = np.minimum(np.arange(first, first + size), rows - 1)
    piece = jax.tree.map(lambda x, i=index: np.asarray(x)[i], demand)
    parts.append(jax.tree.map(np.asarray, predict_jit(system, piece)))
  return jax.tree.map(lambda *x: np.concatenate(x)[:rows], *parts)
