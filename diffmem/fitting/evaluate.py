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
from diffmem.fitting import corrections, observe, open_form, residual
from diffmem.system import FittedSystem, System
from diffmem.traces import Traces

OPEN_LATENCY = 'latency_at_bandwidth_s'
_TEXTS = ('system', 'op', 'tier', 'observable')


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
    by_laws: the same without residuals.
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
  by_laws: np.ndarray
  lo90: np.ndarray
  hi90: np.ndarray

  def error(self) -> Float[np.ndarray, ' equation']:
    """Signed relative error of the predictions [1]."""
    return self.predicted / self.observed - 1.0

  def without_residuals(self) -> 'Predictions':
    """What the laws alone say; the intervals stay those with residuals."""
    return dataclasses.replace(self, predicted=self.by_laws)

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
    corrected, rows = _by_residuals(fitted, traces)
    parts = [corrected]
    if len(rows):
      by_laws = _by_laws(fitted, traces.select(rows))
      by_laws = dataclasses.replace(by_laws, row=rows[by_laws.row])
      done = set(zip(corrected.row, corrected.observable, strict=True))
      pairs = zip(by_laws.row, by_laws.observable, strict=True)
      parts.append(by_laws.select(np.array([p not in done for p in pairs])))
  joined = {
    f.name: np.concatenate([getattr(part, f.name) for part in parts])
    for f in dataclasses.fields(Predictions)
  }
  order = np.argsort(joined['row'], kind='stable')
  return Predictions(**joined).select(order)


def _by_residuals(
  fitted: FittedSystem, traces: Traces
) -> tuple[Predictions, np.ndarray]:
  """Equations that a residual corrects, and the rows that have others."""
  equations = observe.observations_of(traces)
  if fitted.residuals:
    demand = observe.demand_of(fitted.system, traces)
    cost = corrections.cost_of(fitted.system, demand)
    found = corrections.of_equations(
      fitted.residuals, fitted.system, traces, cost, equations
    )
    has, logs = found.has, observe.log_of(cost, equations)
  else:
    has = np.zeros(len(equations), bool)
  rows = np.unique(equations.row[~has])
  row = equations.row[has]
  if not has.any():
    return _no_predictions(), rows
  log_value = (logs + found.log_value)[has]
  memories = [
    t.name for t in fitted.system.tiers if not t.is_cache and not t.link
  ]
  return Predictions(
    row=row,
    system=traces['system'][row],
    op=traces['op'][row],
    tier=traces.get('tier', memories[0])[row],
    observable=np.array(equations.names, object)[has],
    observed=np.exp(equations.log_value[has]),
    predicted=np.exp(log_value),
    by_laws=np.exp(logs[has]),
    lo90=np.exp(log_value - found.half_width[has]),
    hi90=np.exp(log_value + found.half_width[has]),
  ), rows


def _no_predictions() -> Predictions:
  kinds = {'row': int} | dict.fromkeys(_TEXTS, object)
  return Predictions(
    **{
      f.name: np.empty(0, kinds.get(f.name, float))
      for f in dataclasses.fields(Predictions)
    }
  )


def _by_laws(fitted: FittedSystem, traces: Traces) -> Predictions:
  observations = observe.observations_of(traces)
  candidates = open_form.loaded_rows(traces)
  bandwidth_Bps = traces.get('bandwidth_Bps')[candidates]
  demand = observe.with_limits(
    observe.demand_of(fitted.system, traces), candidates
  )

  logs, load, gain, served_B = jax.tree.map(
    np.asarray,
    _answers(
      _with_draws(fitted), demand, observations.which, observations.row,
      bandwidth_Bps,
    ),
  )  # fmt: skip
  served_B = served_B[:, : len(traces)]
  labels = observe.tier_labels(fitted.system, served_B[0])
  # Open rows count only below the wall, as the best estimate sees it.
  is_open = open_form.judged(traces, candidates, load[0])
  keep = np.concatenate([np.ones(len(observations), bool), is_open])
  logs = logs[:, keep]
  row = np.concatenate([observations.row, candidates])[keep]
  names = [*observations.names, *[OPEN_LATENCY] * len(candidates)]
  observed = np.concatenate(
    [np.exp(observations.log_value), traces.get('latency_s')[candidates]]
  )
  closed = [_scatter(fitted, traces['op'][r], labels[r]) for r in row]
  scatter = np.array(closed, float)
  if open_form.KEY in fitted.scatter:
    open_scatter = fitted.scatter[open_form.KEY] * gain[0]
    scatter[len(observations) :] = open_scatter[is_open]
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
    by_laws=np.exp(logs[0]),
    lo90=np.exp(logs[0] - residual.Z90 * spread),
    hi90=np.exp(logs[0] + residual.Z90 * spread),
  )


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None, None, None, None))
def _answers(system, demand, which, row, bandwidth_Bps):
  """Logs of all predictions, load and gain of the open ones, bytes served."""
  cost = predict(system, demand)
  closed = observe.predicted_log(cost, which, row)
  found = open_form.answer(system, demand, cost, bandwidth_Bps)
  logs = jnp.concatenate([closed, jnp.log(found.latency_s)])
  return logs, found.load, found.gain, cost.served_B


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


def _scatter(fitted: FittedSystem, op: str, label: str) -> float:
  key = observe.scatter_key(f'{op}@{label}')
  known = fitted.scatter
  return known.get(key, known.get(op, max(known.values(), default=0.0)))
