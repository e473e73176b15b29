"""Throughput of offloaded inference, whole runs: predicted and fitted.

The numbers of a stack (`offload_stack`) are fitted to other runs than those
that are tested: whole models are left out.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize

from diffmem import errors
from diffmem.runs.answer import ANSWERED, Answer, refusal
from diffmem.runs.offload_rows import OffloadRun, read_row
from diffmem.runs.offload_stack import (
  PARAMETERS,
  STACKS,
  near_tier,
  published,
  system_of,
  tokens_per_s,
)
from diffmem.runs.offload_stack import OffloadStacks as OffloadStacks
from diffmem.runs.offload_stack import prior_stacks as prior_stacks
from diffmem.system import System

OBSERVABLE = 'tokens_per_s'

# Two printed decimals: half of the last digit, as a uniform error.
_RESOLUTION = 0.01 / math.sqrt(12.0)
# Scatter of a run beside what the law can tell: tables of one README measured
# twice differ by 2 to 21 % (microsoft/DeepSpeedExamples, zero_inference).
_RUN_SD = 0.12


def predict_offload(
  rows: Sequence[Mapping[str, Any]],
  checkpoints: Mapping[str, System] | None,
  stacks: OffloadStacks,
) -> list[Answer]:
  """Tokens per second of every row, none lost.

  Args:
    rows: columns of `weight_offload_inference_throughput.csv`.
    checkpoints: fitted systems by name; the catalog stands in for the rest.
    stacks: from `fit_offload` or `prior_stacks`.

  Returns:
    One answer per row, in order.
  """
  answers = []
  for index, row in enumerate(rows):
    run, why = _readable(row, index, checkpoints)
    if run is None:
      answers.append(refusal(index, OBSERVABLE, _observed(row), why))
      continue
    need = published([run], checkpoints)
    predicted = float(tokens_per_s(need, stacks.of(run.stack))[0])
    sd = stacks.sd_of(run.stack, run.machine)
    status = f'not judged: {run.doubt}' if run.doubt else ANSWERED
    answers.append(
      Answer(index, OBSERVABLE, run.observed, predicted, sd, status)
    )
  return answers


def fit_offload(
  rows: Sequence[Mapping[str, Any]],
  checkpoints: Mapping[str, System] | None = None,
) -> OffloadStacks:
  """Fits every stack to measured rows, and says how well that predicts.

  Least squares on the logarithm of the throughput (pseudo-Huber loss), with
  the priors as further residuals. `log_sd` is from whole models left out.

  Args:
    rows: measured rows; those without an answer or in doubt are passed over.
    checkpoints: as in `predict_offload`.
  """
  runs = usable_runs(rows, checkpoints)
  models, machines = (
    [miss for _, miss in held_out_errors(runs, checkpoints, key)]
    for key in (_model, _machine)
  )
  log_sd = _robust_sd(models)
  return dataclasses.replace(
    _fit(runs, checkpoints),
    log_sd=log_sd,
    unseen_log_sd=max(log_sd, _robust_sd(machines)),
    machines={
      stack: sorted({r.machine for r in runs if r.stack == stack})
      for stack in STACKS
    },
  )


def usable_runs(
  rows: Sequence[Mapping[str, Any]],
  checkpoints: Mapping[str, System] | None = None,
) -> list[OffloadRun]:
  """Runs of the rows that have an observation without doubt."""
  runs = (
    _readable(row, index, checkpoints)[0] for index, row in enumerate(rows)
  )
  return [r for r in runs if r and r.observed > 0 and not r.doubt]


def _model(run: OffloadRun) -> str:
  return run.model.name


def _machine(run: OffloadRun) -> str:
  return run.machine


def held_out_errors(
  runs: Sequence[OffloadRun],
  checkpoints: Mapping[str, System] | None = None,
  key: Callable[[OffloadRun], str] = _model,
) -> list[tuple[OffloadRun, float]]:
  """Each run with log(predicted / observed), all of its kind left out.

  Args:
    runs: measured runs.
    checkpoints: as in `predict_offload`.
    key: what is left out as a whole; the model by default.
  """
  found = []
  for name in dict.fromkeys(key(r) for r in runs):
    stacks = _fit([r for r in runs if key(r) != name], checkpoints)
    found += errors_log(
      [r for r in runs if key(r) == name], stacks, checkpoints
    )
  return found


def errors_log(
  runs: Sequence[OffloadRun],
  stacks: OffloadStacks,
  checkpoints: Mapping[str, System] | None = None,
) -> list[tuple[OffloadRun, float]]:
  """Each run with log(predicted / observed)."""
  return [
    (r, math.log(float(tokens_per_s(need, stacks.of(r.stack))[0]) / r.observed))
    for r in runs
    for need in [published([r], checkpoints)]
  ]


def _fit(runs, checkpoints) -> OffloadStacks:
  values = {}
  for stack in STACKS:
    values[stack] = _fit_stack(
      [r for r in runs if r.stack == stack], checkpoints
    )
  values['other'] = {
    name: math.exp(np.mean([math.log(values[s][name]) for s in STACKS]))
    for name in PARAMETERS
  }
  return OffloadStacks(values)


def _fit_stack(runs, checkpoints) -> dict[str, float]:
  """One stack's numbers: least squares around the priors."""
  names = list(PARAMETERS)
  start = np.log([PARAMETERS[n].prior for n in names])
  if not runs:
    return dict(zip(names, np.exp(start).tolist(), strict=True))
  widths = np.array([PARAMETERS[n].prior_sd for n in names])
  need = published(runs, checkpoints)
  observed = np.array([r.observed for r in runs])
  sd = np.hypot(_RUN_SD, _RESOLUTION / observed)

  def residuals(point):
    at = dict(zip(names, np.exp(point), strict=True))
    miss = np.log(tokens_per_s(need, at) / observed) / sd
    return np.concatenate([_huber_root(miss), (point - start) / widths])

  found = optimize.least_squares(residuals, start)
  return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def _huber_root(z: np.ndarray) -> np.ndarray:
  """Signed root of the pseudo-Huber loss: linear beyond two deviations."""
  return np.sign(z) * np.sqrt(8.0 * (np.sqrt(1.0 + z * z / 4.0) - 1.0))


def _readable(row, index, checkpoints) -> tuple[OffloadRun | None, str]:
  """A row's run, or None and why not."""

  def memory_B(machine):
    return float(near_tier(system_of(machine, checkpoints)).capacity_B)

  try:
    return read_row(row, index, memory_B), ''
  except errors.DiffmemError as error:
    return None, str(error)


def _observed(row) -> float:
  try:
    return float(row.get('throughput_tok_s'))
  except (TypeError, ValueError):
    return math.nan


def _robust_sd(errors_log: Sequence[float]) -> float:
  """Half of the band that holds 90 % of the errors, as a deviation.

  1.645 deviations hold 90 % of a normal distribution.
  """
  if len(errors_log) < 5:
    return prior_stacks().log_sd
  return float(np.quantile(np.abs(errors_log), 0.9) / 1.645)
