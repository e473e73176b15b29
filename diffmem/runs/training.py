"""Step times of training runs: predicted, and the software fitted to runs.

Software is described by the few factors of `training_parts.PARAMETERS`. They
are pooled level by level: all runs, a framework, a framework on a machine, and
one source's runs on it (a cluster). Each level starts from the one above and
departs from it as far as its runs say; a run whose cluster, machine or
framework is new is predicted by the nearest level above. What is left of a
cluster's layer shapes is learned apart (`shapes`).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize

from diffmem.runs import shapes as shapes_lib
from diffmem.runs.answer import ANSWERED, Answer, refusal
from diffmem.runs.machines import Machines
from diffmem.runs.training_parts import (
  PARAMETERS,
  Parts,
  parts_of,
  step_time_s,
)
from diffmem.runs.training_rows import (
  OBSERVABLE,
  RefusedError,
  Row,
  TrainingRun,
  number,
  read_run,
)

# How far a level departs from the one above, in units of the prior's width.
_DEPARTURE = 0.7
# Deviation of one run that is no surprise, in the logarithm.
_NOISE = 0.04
# Runs beyond which further ones of one level count less at the levels above.
_ENOUGH = 10.0
_Z90 = 1.645
_FOLDS = 6


@dataclasses.dataclass(frozen=True)
class TrainingStacks:
  """Parameters of software stacks.

  Attributes:
    values: level -> parameter -> value; '' is the level of all runs,
      'nemo', 'nemo@h100-sxm' and 'nemo@h100-sxm@source' those below.
    log_sd: level -> standard deviation of the logarithm of a step time that
      was held out.
    shapes: level of a cluster -> layer shape -> addition to the logarithm.
  """

  values: Mapping[str, Mapping[str, float]]
  log_sd: Mapping[str, float]
  shapes: Mapping[str, Mapping[str, float]] = dataclasses.field(
    default_factory=dict
  )

  @classmethod
  def prior(cls) -> 'TrainingStacks':
    """What is believed before any run is seen."""
    return cls({'': {n: p.median for n, p in PARAMETERS.items()}}, {'': 0.3})

  def document(self) -> dict[str, Any]:
    """What a JSON file holds: every number, with units, priors and help."""
    return {
      'parameters': {n: p._asdict() for n, p in PARAMETERS.items()},
      'values': _rounded(self.values),
      'log_sd': _rounded({'': self.log_sd})[''],
      'shapes': _rounded(self.shapes),
    }

  @classmethod
  def from_document(cls, document: Mapping[str, Any]) -> 'TrainingStacks':
    """The stacks of a document.

    Raises:
      KeyError: an entry that is missing.
    """
    values = {
      level: {name: float(found[name]) for name in PARAMETERS}
      for level, found in document['values'].items()
    }
    return cls(values, document['log_sd'], document['shapes'])

  def level_of(self, run: TrainingRun) -> str:
    """The lowest level that a run belongs to and that has been fitted."""
    return next(l for l in reversed(levels(run)) if l in self.values)


def _rounded(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict]:
  return {
    key: {name: float(f'{value:.5g}') for name, value in found.items()}
    for key, found in table.items()
  }


def levels(run: TrainingRun) -> tuple[str, ...]:
  """Levels of a run, from all runs to its own cluster."""
  if not run.stack:
    return ('',)
  machine = f'{run.stack}@{run.machine}'
  return ('', run.stack, machine, f'{machine}@{run.source}')


def predict_training(
  rows: Sequence[Row], machines: Machines, stacks: TrainingStacks
) -> list[Answer]:
  """Step times of rows; one answer per row, in their order.

  Args:
    rows: of a table of training runs.
    machines: fitted systems.
    stacks: parameters of the software.
  """
  runs, answers = read_runs(rows, machines)
  answers += predict_training_runs(runs, machines, stacks)
  return sorted(answers, key=lambda a: a.index)


def predict_training_runs(
  runs: Sequence[TrainingRun], machines: Machines, stacks: TrainingStacks
) -> list[Answer]:
  """Step times of runs, in their order."""
  answers = []
  if runs:
    parts = parts_of(runs, machines)
    predicted_s = predict_parts(runs, parts, stacks)
    for run, value_s in zip(runs, predicted_s, strict=True):
      log_sd = _log_sd(run, stacks)
      answers.append(
        Answer(
          run.index,
          OBSERVABLE,
          run.observed_s,
          float(value_s),
          log_sd,
          ANSWERED,
        )
      )
  return answers


def read_runs(
  rows: Sequence[Row], machines: Machines
) -> tuple[list[TrainingRun], list[Answer]]:
  """The runs of a table, and a refusal for every row that is none."""
  runs, refused = [], []
  for index, row in enumerate(rows):
    try:
      runs.append(read_run(index, row, machines))
    except RefusedError as error:
      observed = number(row, OBSERVABLE, np.nan)
      refused.append(refusal(index, OBSERVABLE, observed, str(error)))
  return runs, refused


def predict_parts(
  runs: Sequence[TrainingRun], parts: Parts, stacks: TrainingStacks
) -> np.ndarray:
  """Step times of runs whose parts are known [run] [s]."""
  level = [stacks.level_of(run) for run in runs]
  q = {
    name: np.array([stacks.values[l][name] for l in level])
    for name in PARAMETERS
  }
  own = [
    stacks.shapes.get(levels(run)[-1], {}).get(shapes_lib.shape_of(run), 0.0)
    for run in runs
  ]
  return step_time_s(parts, q) * np.exp(own)


def _log_sd(run: TrainingRun, stacks: TrainingStacks) -> float:
  level = next(l for l in reversed(levels(run)) if l in stacks.log_sd)
  assumed = 0.0 if run.is_complete else 0.1
  return float(np.hypot(stacks.log_sd[level], assumed))


def fit_training(rows: Sequence[Row], machines: Machines) -> TrainingStacks:
  """Fits the software's parameters, and their errors on runs held out.

  Args:
    rows: of a table of training runs; those without a measured step time, of
      fine-tuning or without an answer are left out.
    machines: fitted systems.
  """
  runs, _ = read_runs(rows, machines)
  runs = [r for r in runs if np.isfinite(r.observed_s) and r.is_pretraining]
  if not runs:
    return TrainingStacks.prior()
  parts = parts_of(runs, machines)
  stacks = fit_parts(runs, parts)
  errors = held_out_errors(runs, parts)
  return dataclasses.replace(stacks, log_sd=_spreads(runs, errors))


def held_out_errors(
  runs: Sequence[TrainingRun], parts: Parts, folds: int = _FOLDS
) -> np.ndarray:
  """log(predicted / observed) of every run, its whole model held out [run]."""
  groups = sorted({run.group for run in runs})
  fold_of = {g: i % folds for i, g in enumerate(groups)}
  fold = np.array([fold_of[run.group] for run in runs])
  errors = np.full(len(runs), np.nan)
  for k in range(folds):
    test, train = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
    if len(test) and len(train):
      stacks = fit_parts([runs[i] for i in train], parts.select(train))
      tested = [runs[i] for i in test]
      predicted = predict_parts(tested, parts.select(test), stacks)
      observed = np.array([run.observed_s for run in tested])
      errors[test] = np.log(predicted / observed)
  return errors


def _spreads(runs, errors) -> dict[str, float]:
  """Half-width of 90 % of the held-out errors, per level, as a deviation."""
  found = {}
  for level in _all_levels(runs):
    own = np.array([level in levels(run) for run in runs])
    size = np.abs(errors[own & np.isfinite(errors)])
    if len(size) >= _ENOUGH or (level == '' and len(size)):
      found[level] = float(np.quantile(size, 0.9) / _Z90)
  found.setdefault('', 0.3)
  return found


def _all_levels(runs: Iterable[TrainingRun]) -> list[str]:
  """All levels, a higher one before those below it."""
  found = {level for run in runs for level in levels(run)}
  return sorted(found, key=lambda l: (l.count('@') + bool(l), l))


def fit_parts(runs: Sequence[TrainingRun], parts: Parts) -> TrainingStacks:
  """Fits every level, from the top."""
  log_observed = np.log([run.observed_s for run in runs])
  names = list(PARAMETERS)
  width = np.array([p.log_sd for p in PARAMETERS.values()])
  values: dict[str, np.ndarray] = {}
  top = np.log([p.median for p in PARAMETERS.values()])
  for level in _all_levels(runs):
    own = np.array([level in levels(run) for run in runs])
    above = level.rpartition('@')[0] if '@' in level else ''
    start = values[above] if level else top
    values[level] = _fit_level(
      parts.select(own),
      log_observed[own],
      _weights([r for r, is_own in zip(runs, own, strict=True) if is_own]),
      start,
      width * (_DEPARTURE if level else 1.0),
    )
  stacks = TrainingStacks(
    {
      level: dict(zip(names, np.exp(value).tolist(), strict=True))
      for level, value in values.items()
    },
    {'': 0.3},
  )
  log_missed = log_observed - np.log(predict_parts(runs, parts, stacks))
  cluster = np.array([levels(run)[-1] for run in runs])
  found = {}
  for level in sorted(set(cluster)):
    own = np.flatnonzero(cluster == level)
    found[level] = shapes_lib.effects([runs[i] for i in own], log_missed[own])
  return dataclasses.replace(
    stacks, shapes={l: e for l, e in found.items() if e}
  )


def _weights(runs) -> np.ndarray:
  """Runs of a large source count less, so that no source drowns the others."""
  source = [levels(run)[-1] for run in runs]
  size = {name: source.count(name) for name in set(source)}
  return np.array([min(1.0, (_ENOUGH / size[s]) ** 0.5) for s in source])


def _fit_level(parts, log_observed, weights, start, width) -> np.ndarray:
  """Least squares with a prior around `start`; outliers count linearly."""
  names = list(PARAMETERS)
  if len(set(weights)) == 1:
    weights = np.ones_like(weights)

  def residuals(x):
    predicted = step_time_s(parts, dict(zip(names, np.exp(x), strict=True)))
    miss = (np.log(predicted) - log_observed) / _NOISE
    robust = np.sign(miss) * np.sqrt(4.0 * (np.sqrt(1 + miss**2 / 2) - 1))
    return np.concatenate([weights * robust, (x - start) / width])

  return optimize.least_squares(residuals, start, x_scale=width).x
