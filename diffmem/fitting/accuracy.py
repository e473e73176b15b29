"""Held-out errors beside those of the pure roofline and of published tools."""

from typing import Any

import numpy as np

from diffmem.fitting import baseline
from diffmem.fitting.evaluate import Predictions, predict_traces, summary
from diffmem.system import FittedSystem, System
from diffmem.traces import Traces

_ROUTINES = ('all_reduce', 'all_gather', 'reduce_scatter', 'all_to_all')
# What others reach on shapes, ratios or sizes that they have not seen; mean
# absolute percentage error unless it says otherwise. Kernels: the tables of
# ai-dynamo/aiconfigurator@095f58a, interpolated. Loaded latency: a law of five
# parameters (closed loop) and M/M/1 (open), median / 90th percentile.
_ELSEWHERE = {
  ('h100-sxm', 'gemm'): 'aiconfigurator 6.3',
  ('h200-sxm', 'gemm'): 'aiconfigurator 6.4',
  ('b200-sxm', 'gemm'): 'aiconfigurator 6.9',
  ('h100-sxm', 'prefill_attention'): 'aiconfigurator 5.7',
  ('h200-sxm', 'prefill_attention'): 'aiconfigurator 5.1',
  ('b200-sxm', 'prefill_attention'): 'aiconfigurator 6.1',
  ('h100-sxm', 'decode_attention'): 'aiconfigurator 21',
  ('h200-sxm', 'decode_attention'): 'aiconfigurator 21',
  ('b200-sxm', 'decode_attention'): 'aiconfigurator 35',
}
_ANYWHERE = {
  'moe': 'aiconfigurator refuses',
  'latency_s': 'five parameters 0.6-1.3 / 1.9-4.0',
  'latency_at_bandwidth_s': 'M/M/1 1-4 / 3-10',
} | dict.fromkeys(_ROUTINES, 'alpha-beta 11.8')


def accuracy(
  fitted: FittedSystem, spec: System, held_out: Traces
) -> list[dict[str, Any]]:
  """Errors by op and observable on rows that a fit has not seen.

  Args:
    fitted: the system.
    spec: the same as published, for the roofline.
    held_out: the rows.

  Returns:
    one mapping per group: system, op, observable, the keys of
    `evaluate.summary`, `laws_mape` (without residuals), `roofline_mape` (None
    where there is no roofline) and `elsewhere` (the best published tool, ''
    where none is known).
  """
  predictions = predict_traces(fitted, held_out)
  roofline_s = baseline.roofline_time_s(spec, held_out)
  keys = list(zip(predictions.op, predictions.observable, strict=True))
  found = []
  for op, observable in sorted(set(keys)):
    mask = np.array([key == (op, observable) for key in keys])
    part = predictions.select(mask)
    found.append(
      {'system': fitted.system.name, 'op': op, 'observable': observable}
      | summary(part)
      | {
        'laws_mape': summary(part.without_residuals())['mape'],
        'roofline_mape': _roofline_error(part, roofline_s, observable),
        'elsewhere': _elsewhere(fitted.system.name, op, observable),
      }
    )
  return found


def _roofline_error(
  part: Predictions, roofline_s: np.ndarray, observable: str
) -> float | None:
  if observable != 'time_s':
    return None
  error = np.abs(roofline_s[part.row] / part.observed - 1.0)
  return float(100.0 * np.nanmean(error)) if np.isfinite(error).any() else None


def _elsewhere(system: str, op: str, observable: str) -> str:
  if observable == 'time_s':
    return _ELSEWHERE.get((system, op), _ANYWHERE.get(op, ''))
  return _ANYWHERE.get(observable, '') if op == 'loaded_latency' else ''
