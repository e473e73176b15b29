"""What rows of a trace would say of the parameters: Fisher's information.

Each observation of a row is one equation of the fit. Its slopes are those of
the logarithm of the predicted observation to every leaf, through the fit's own
`observe` path; its noise is how far single rows of its kind lie from the laws
(`FittedSystem.scatter`, which holds the noise of their repeats too), or the
deviation of its own repeats where that is more.

What the laws get wrong of one row they get wrong of its neighbours too. Rows of
a family (one op, tier, format and width, at several sizes) share a part of
their errors: of the laws' residuals on public H100 rows 0.47 of the variance
for matrix products (28 families of three rows at least), 0.43 for decode and
0.40 for prefill attention (58 and 90 families), by the intraclass correlation
(Fisher, Statistical Methods for Research Workers, 1925). For memories it is
assumed to be the same.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from diffmem.codesign.measuring import choosing
from diffmem.cost import predict
from diffmem.fitting import compiled, observe
from diffmem.fitting.problem import SCALE_FLOOR, make_problem
from diffmem.system import (
  FittedSystem,
  Status,
  from_leaves,
  leaves_by_name,
)
from diffmem.traces import Traces

# Scatter of a kind of rows that the fit has not seen: what a fit starts from.
UNSEEN_SCATTER = 0.05
# Share of the variance of a row's error that its family has in common.
COMMON_SHARE = 0.4
_FAMILY = (
  'op', 'tier', 'dtype', 'quantization', 'participants', 'n', 'k', 'num_heads',
  'num_kv_heads', 'head_dim',
)  # fmt: skip


class RowSlopes(NamedTuple):
  """The equations of some rows.

  Attributes:
    slopes: d ln(observation) / d leaf [equation parameter].
    noise: standard deviation of each equation's logarithm [equation].
    row: row of each equation [equation].
    family: number of its family, from 0 [equation].
  """

  slopes: Float[np.ndarray, 'equation parameter']
  noise: Float[np.ndarray, ' equation']
  row: Int[np.ndarray, ' equation']
  family: Int[np.ndarray, ' equation']

  def with_common_errors(self, share: float) -> 'RowSlopes':
    """The same with one more leaf for each family: its common error.

    That leaf has deviation one. The noise is what is left to single rows.

    Args:
      share: of the variance of an error that its family has in common; for
        none of it no leaf is added.
    """
    if share == 0.0:
      return self
    common = np.eye(self.family.max() + 1)[self.family]
    common = np.sqrt(share) * self.noise[:, None] * common
    return self._replace(
      slopes=np.concatenate([self.slopes, common], 1),
      noise=np.sqrt(1.0 - share) * self.noise,
    )


def row_slopes(
  fitted: FittedSystem, names: tuple[str, ...], traces: Traces
) -> RowSlopes:
  """Slopes and noise of a trace's observations; call it with x64 enabled.

  What the rows observe does not matter, only that they do.

  Args:
    fitted: where the slopes are taken.
    names: full names of the parameters [parameter].
    traces: rows, measured or planned.

  Raises:
    FitError: a tier or number format that the system lacks, with the row.
  """
  # Any width will do: it says which parameters take part.
  problem = make_problem(fitted.system, dict.fromkeys(names, 1.0), traces)
  found, served_B = _slopes(compiled.Key(problem))(
    problem.data.prior, problem.data
  )
  slopes = np.zeros((len(problem.observations), len(names)))
  column = [names.index(name) for name in problem.names]
  slopes[:, column] = np.nan_to_num(np.asarray(found))
  row = np.asarray(problem.observations.row)
  labels = observe.tier_labels(problem.system, np.asarray(served_B))
  repeats = np.nan_to_num(problem.observations.rel_std, nan=0.0)
  noise = [
    _noise(fitted, f'{traces["op"][r]}@{labels[r]}', deviation)
    for r, deviation in zip(row, repeats, strict=True)
  ]
  return RowSlopes(
    slopes, np.array(noise), row, _families(traces, problem.observations)
  )


def _families(traces: Traces, observations) -> Int[np.ndarray, ' equation']:
  """Number of the family of each equation."""
  read, written = (traces.get(n, 0.0) for n in ('bytes_read', 'bytes_written'))
  moved = np.maximum(read + written, 1.0)
  columns = [traces.get(name).astype(str) for name in _FAMILY]
  columns.append(np.round(read / moved, 2).astype(str))
  labels = np.array(['|'.join(parts) for parts in zip(*columns, strict=True)])
  kinds = np.char.add(
    np.array(observations.names, str), labels[observations.row]
  )
  return np.unique(kinds, return_inverse=True)[1]


def row_spread(
  fitted: FittedSystem, traces: Traces
) -> Float[np.ndarray, ' equation']:
  """How far the ensemble's predictions of each observation lie apart.

  Deviation of the logarithm over the draws of what the traces touch, with all
  else at its best estimate, in the order of `row_slopes`; call it with x64
  enabled.

  Args:
    fitted: with an ensemble.
    traces: rows, measured or planned.

  Raises:
    FitError: a tier or number format that the system lacks, with the row.
  """
  observations = observe.observations_of(traces)
  demand = observe.demand_of(fitted.system, traces)
  drawn = leaves_by_name(fitted.ensemble)
  for name, leaf in leaves_by_name(fitted.system).items():
    if fitted.knowledge[name].status is Status.PRIOR:
      drawn[name] = np.full_like(drawn[name], leaf)
  found = _predictions(
    from_leaves(fitted.ensemble, drawn),
    demand,
    observations.which,
    observations.row,
  )
  return deviation_of(np.asarray(found))


def deviation_of(
  drawn: Float[np.ndarray, 'draw column'],
) -> Float[np.ndarray, ' column']:
  """The normal deviation whose 90 % interval holds the middle 90 % of draws.

  A refit that went astray counts for no more than its place in the order.
  """
  low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
  return (high - low) / (2 * choosing.Z90)


@jax.jit
def _predictions(ensemble, demand, which, row):
  """ln(observation) of every draw [draw equation]."""
  return jax.vmap(
    lambda system: observe.predicted_log(predict(system, demand), which, row)
  )(ensemble)


@functools.lru_cache(maxsize=4)
def _slopes(key: compiled.Key):
  """Compiled: slopes of every equation, and bytes that every tier serves."""
  problem = key.problem

  def log_ratio(theta, data):
    cost = predict(problem.system_at(theta, data), data.demand)
    return problem.log_ratio_of(cost, data), cost.served_B

  return jax.jit(jax.jacfwd(log_ratio, has_aux=True))


def _noise(fitted: FittedSystem, kind: str, repeats: float) -> float:
  """Standard deviation of a row of a kind around the laws."""
  key = observe.scatter_key(kind)
  known = fitted.scatter.get(key, fitted.scatter.get(key.split('|')[0]))
  if known is None:
    return float(np.hypot(UNSEEN_SCATTER, repeats))
  return max(known, repeats, SCALE_FLOOR)
