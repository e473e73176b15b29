"""Errors of a system on traces, per op, tier and observable.

Loaded latency is judged twice. *Closed loop*: given the bytes in flight,
predict the latency (`latency_s`). *Open*: given the bandwidth, predict the
latency (`latency_at_bandwidth_s`), on rows below 95 % of the capacity; near
the wall 1 % of bandwidth is tens of percent of latency, so the two are never
compared.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmem.cost import predict
from diffmem.fitting import observe
from diffmem.system import FittedSystem, System
from diffmem.traces import Traces

OPEN_LATENCY = 'latency_at_bandwidth_s'
# 90 % of a normal distribution lies within so many standard deviations.
_Z90 = 1.645


@dataclasses.dataclass(frozen=True)
class Predictions:
  """One equation per row of these columns.

  Attributes:
    row: row of the trace [equation].
    op: operation.
    tier: the tier that served it, 'L2|L3' on a cliff.
    observable: what was observed.
    observed: its value, SI.
    predicted: the model's value, SI; NaN where it has no answer.
    lo90: lower end of the 90 % interval for the observation.
    hi90: upper end.
  """

  row: np.ndarray
  system: np.ndarray
  op: np.ndarray
  tier: np.ndarray
  observable: np.ndarray
  observed: np.ndarray
  predicted: np.ndarray
  lo90: np.ndarray
  hi90: np.ndarray

  def error(self) -> Float[np.ndarray, ' equation']:
    """Signed relative error of the predictions [1]."""
    return self.predicted / self.observed - 1.0

  def select(self, mask: np.ndarray) -> 'Predictions':
    """The equations of a mask."""
    return Predictions(
      **{f.name: getattr(self, f.name)[mask] for f in dataclasses.fields(self)}
    )


def predict_traces(fitted: FittedSystem, traces: Traces) -> Predictions:
  """What a fitted system says of every observation of a trace.

  Raises:
    FitError: rows that name a tier or format which the system lacks.
  """
  with jax.enable_x64(True):
    return _predict_traces(fitted, traces)


def _predict_traces(fitted: FittedSystem, traces: Traces) -> Predictions:
  observations = observe.observations_of(traces)
  candidates = _loaded_rows(traces)
  bandwidth_Bps = traces.get('bandwidth_Bps')[candidates]
  demand = observe.with_limits(
    observe.demand_of(fitted.system, traces), candidates
  )

  logs, load, served_B = jax.tree.map(
    np.asarray,
    _answers(
      _with_draws(fitted), demand, observations.which, observations.row,
      bandwidth_Bps,
    ),
  )  # fmt: skip
  served_B = served_B[:, : len(traces)]
  labels = observe.tier_labels(fitted.system, served_B[0])
  # Open rows count only below the wall, as the best estimate sees it.
  is_open = load[0] < observe.OPEN_LOAD_LIMIT
  keep = np.concatenate([np.ones(len(observations), bool), is_open])
  logs = logs[:, keep]
  row = np.concatenate([observations.row, candidates])[keep]
  names = [*observations.names, *[OPEN_LATENCY] * len(candidates)]
  observed = np.concatenate(
    [np.exp(observations.log_value), traces.get('latency_s')[candidates]]
  )
  scatter = np.array(
    [_scatter(fitted, traces['op'][r], labels[r]) for r in row]
  )
  spread = (
    np.hypot(scatter, np.nanstd(logs[1:], 0)) if len(logs) > 1 else scatter
  )
  return Predictions(
    row=row,
    system=traces['system'][row],
    op=traces['op'][row],
    tier=labels[row],
    observable=np.array(names, object)[keep],
    observed=observed[keep],
    predicted=np.exp(logs[0]),
    lo90=np.exp(logs[0] - _Z90 * spread),
    hi90=np.exp(logs[0] + _Z90 * spread),
  )


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None, None, None, None))
def _answers(system, demand, which, row, bandwidth_Bps):
  """Logs of all predictions, load of the open ones, bytes served."""
  cost = predict(system, demand)
  closed = observe.predicted_log(cost, which, row)
  latency_s, load = observe.open_latency_s(system, demand, cost, bandwidth_Bps)
  return jnp.concatenate([closed, jnp.log(latency_s)]), load, cost.served_B


def _with_draws(fitted: FittedSystem) -> System:
  """The best estimate, then the ensemble, along one axis."""
  if fitted.ensemble is None:
    return jax.tree.map(lambda x: np.asarray(x, float)[None], fitted.system)
  return jax.tree.map(
    lambda x, draws: np.concatenate([np.asarray(x, float)[None], draws]),
    fitted.system,
    fitted.ensemble,
  )


def evaluate(fitted: FittedSystem, traces: Traces) -> list[dict[str, Any]]:
  """Errors by group, in percent: the `evaluate --json` contract."""
  return group_errors(predict_traces(fitted, traces))


def group_errors(predictions: Predictions) -> list[dict[str, Any]]:
  """Summarises predictions per system, op, tier and observable."""
  keys = list(
    zip(
      predictions.system, predictions.op, predictions.tier,
      predictions.observable, strict=True,
    )
  )  # fmt: skip
  groups = []
  for key in sorted(set(keys)):
    part = predictions.select(np.array([k == key for k in keys]))
    names = ('system', 'op', 'tier', 'observable')
    groups.append(dict(zip(names, key, strict=True)) | summary(part))
  return groups


def summary(part: Predictions) -> dict[str, Any]:
  """n, mape, median, p90, bias, coverage (percent) and unanswered rows."""
  answered = np.isfinite(part.predicted)
  error = 100.0 * part.error()[answered]
  if not len(error):
    blank = dict.fromkeys(
      ('mape', 'median_ape', 'p90_ape', 'bias', 'coverage90')
    )
    return {'n': len(part.row)} | blank | {'unanswered': len(part.row)}
  size = np.abs(error)
  inside = (part.lo90 <= part.observed) & (part.observed <= part.hi90)
  return {
    'n': len(part.row),
    'mape': float(size.mean()),
    'median_ape': float(np.median(size)),
    'p90_ape': float(np.quantile(size, 0.9)),
    'bias': float(error.mean()),
    'coverage90': float(100.0 * inside[answered].mean()),
    'unanswered': int((~answered).sum()),
  }


def _loaded_rows(traces: Traces) -> np.ndarray:
  known = ~np.isnan(traces.get('latency_s') + traces.get('bandwidth_Bps'))
  return np.flatnonzero(known & (traces['op'] == 'loaded_latency'))


def _scatter(fitted: FittedSystem, op: str, label: str) -> float:
  key = observe.scatter_key(f'{op}@{label}')
  known = fitted.scatter
  return known.get(key, known.get(op, max(known.values(), default=0.0)))
