"""Measured serving runs: time to first token and per token of every row.

  rows -> jobs -> steps, priced kernel by kernel -> continuous batching

`fit_serving` learns what software adds; `predict_serving` answers rows, those
of the fit or others. No row is lost: one that cannot be answered says why.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffmem.runs import serving_fit
from diffmem.runs.answer import ANSWERED, Answer, refusal
from diffmem.runs.machines import Machines
from diffmem.runs.serving_engine import Batch, Times, batch_of, times
from diffmem.runs.serving_fit import Observed
from diffmem.runs.serving_job import Job, job_of
from diffmem.runs.serving_stack import Stacks, prior_stacks
from diffmem.runs.serving_steps import priced
from diffmem.workloads import Transformer, find_workload

OBSERVABLES = ('ttft_s', 'tpot_s')
_COLUMNS = {'ttft_s': 'ttft_ms', 'tpot_s': 'tpot_ms'}
# Runs of a campaign beyond which it counts as more than one: errors of runs
# under the same software are alike. Assumption.
_CAMPAIGN_RUNS = 4.0
# A campaign's own deviation is believed after so many runs. Assumption.
_BELIEF_RUNS = 2.0
_PASSES = 2
_FOLDS = 8
# 90 % of a normal distribution lie within so many standard deviations.
_Z90 = 1.6449


class Runs(NamedTuple):
  """Rows that can be answered.

  Attributes:
    index: 0-based row of each.
    jobs: what ran.
    batch: the same as arrays.
    observed: what was measured.
    campaigns: of each, '' where version and date are not known.
    why: of rows that cannot be answered, by index.
  """

  index: np.ndarray
  jobs: list[Job]
  batch: Batch
  observed: Observed
  campaigns: np.ndarray
  why: dict[int, str]

  @property
  def backends(self) -> np.ndarray:
    """Of each run."""
    return np.array([job.backend for job in self.jobs], object)

  def select(self, rows: np.ndarray) -> 'Runs':
    """Some of the runs."""
    return Runs(
      self.index[rows],
      [self.jobs[i] for i in rows],
      self.batch.select(rows),
      self.observed.select(rows),
      self.campaigns[rows],
      {},
    )


def read_runs(
  rows: Sequence[Mapping[str, Any]],
  machines: Machines,
  find: Callable[[str], Transformer] = find_workload,
) -> Runs:
  """Rows of the serving table, with every step priced.

  Args:
    rows: columns of `serving_e2e.parquet`.
    machines: fitted systems.
    find: the model that a row names; raises `SpecError`.
  """
  found: list[tuple[int, Job]] = []
  why: dict[int, str] = {}
  for i, row in enumerate(rows):
    job = job_of(row, find)
    if isinstance(job, str):
      why[i] = job
    else:
      found.append((i, job))
  steps = priced([job for _, job in found], machines)
  kept = []
  for (i, job), step in zip(found, steps, strict=True):
    if isinstance(step, str):
      why[i] = step
    else:
      kept.append((i, job, step))
  index = np.array([i for i, _, _ in kept], int)
  jobs = [job for _, job, _ in kept]
  campaigns = [campaign(rows[i], job) for i, job, _ in kept]
  return Runs(
    index=index,
    jobs=jobs,
    batch=batch_of(jobs, [step for _, _, step in kept]),
    observed=_observed([rows[i] for i in index], campaigns),
    campaigns=np.array(campaigns, object),
    why=why,
  )


def campaign(row: Mapping[str, Any], job: Job) -> str:
  """Runs of one model by one software build on one day; '' if not known."""
  values = (row.get(key) for key in ('backend_version', 'measured_date'))
  known = [value if isinstance(value, str) else '' for value in values]
  if not any(known):
    return ''
  return '|'.join([job.backend, *known, job.model.name])


def _observed(rows, campaigns) -> Observed:
  """Times in seconds, and a weight: runs of one campaign are alike."""
  values = {
    n: np.array([_seconds(r, c) for r in rows]) for n, c in _COLUMNS.items()
  }
  pairs = list(zip(values['ttft_s'], values['tpot_s'], strict=True))
  copies, sizes = collections.Counter(pairs), collections.Counter(campaigns)
  weight = [
    min(1.0, math.sqrt(_CAMPAIGN_RUNS / sizes[c])) / copies[pair]
    for c, pair in zip(campaigns, pairs, strict=True)
  ]
  return Observed(values['ttft_s'], values['tpot_s'], np.array(weight))


def _seconds(row: Mapping[str, Any], column: str) -> float:
  value = row.get(column)
  if value is None or isinstance(value, str) or not value > 0:
    return math.nan
  return float(value) * 1e-3


def fit_serving(
  rows: Sequence[Mapping[str, Any]], machines: Machines
) -> Stacks:
  """Software overheads from measured runs.

  Exact duplicates count once. The spread of predictions is that of runs of
  models that were left out, and of single jobs of campaigns that were not.

  Args:
    rows: columns of `serving_e2e.parquet`.
    machines: fitted systems.
  """
  runs = read_runs([r for r in rows if not r.get('exact_duplicate')], machines)
  stacks = fit_runs(runs)
  by_model = held_out_errors(runs, [job.model.name for job in runs.jobs])
  by_job = held_out_errors(runs, [str(job) for job in runs.jobs])
  is_known = np.array([bool(stacks.campaigns.get(c)) for c in runs.campaigns])
  log_sd = dict(stacks.log_sd)
  for name in OBSERVABLES:
    kinds = {name: by_model[name], f'known {name}': by_job[name][is_known]}
    log_sd |= {k: _spread(e) for k, e in kinds.items() if len(e)}
  return dataclasses.replace(stacks, log_sd=log_sd)


def _spread(errors: np.ndarray) -> float:
  """Standard deviation whose 90 % interval holds 90 % of the errors."""
  return float(np.nanquantile(np.abs(errors), 0.9) / _Z90)


def fit_runs(runs: Runs) -> Stacks:
  """The same of runs that are priced already, spread aside.

  What a campaign has in common is taken out before the second pass, so that
  unrecorded settings do not pass for properties of the software.
  """
  observed, stacks = runs.observed, None
  for _ in range(_PASSES):
    stacks = serving_fit.fit(runs.batch, runs.backends, observed)
    stacks = dataclasses.replace(stacks, campaigns=_effects(runs, stacks))
    factors = {n: np.exp(_effects_of(stacks, runs, n)) for n in OBSERVABLES}
    observed = runs.observed._replace(
      **{n: getattr(runs.observed, n) / factors[n] for n in OBSERVABLES}
    )
  return stacks


def _effects(runs: Runs, stacks: Stacks) -> dict[str, dict[str, float]]:
  """What the runs of each campaign have in common, shrunk by their number."""
  said = _times(runs, stacks)
  ratios = {
    n: -serving_fit.log_ratio(said, runs.observed, n) for n in OBSERVABLES
  }
  found = {}
  for key in sorted(set(runs.campaigns) - {''}):
    at = runs.campaigns == key
    effect = {}
    for name, ratio in ratios.items():
      known = ratio[at][~np.isnan(ratio[at])]
      if len(known):
        belief = len(known) / (len(known) + _BELIEF_RUNS)
        effect[name] = float(np.median(known) * belief)
    found[key] = effect
  return found


def _effects_of(stacks: Stacks, runs: Runs, name: str) -> np.ndarray:
  """Logarithm of each run's campaign effect."""
  effects = [stacks.campaigns.get(key, {}) for key in runs.campaigns]
  return np.array([effect.get(name, 0.0) for effect in effects])


def _times(runs: Runs, stacks: Stacks) -> Times:
  return times(runs.batch, serving_fit.stack_of(stacks, runs.backends))


def predicted(runs: Runs, stacks: Stacks) -> dict[str, np.ndarray]:
  """Times of runs by observable, what is known of their campaigns included."""
  said = _times(runs, stacks)
  return {
    name: getattr(said, name) * np.exp(_effects_of(stacks, runs, name))
    for name in OBSERVABLES
  }


def predict_serving(
  rows: Sequence[Mapping[str, Any]],
  machines: Machines,
  stacks: Stacks,
  find: Callable[[str], Transformer] = find_workload,
) -> list[Answer]:
  """Two answers for every row, in order.

  Args:
    rows: columns of `serving_e2e.parquet`.
    machines: fitted systems.
    stacks: software overheads.
    find: the model that a row names; raises `SpecError`.
  """
  runs = read_runs(rows, machines, find)
  said = predicted(runs, stacks)
  place = {int(i): k for k, i in enumerate(runs.index)}
  answers = []
  for i, row in enumerate(rows):
    for name in OBSERVABLES:
      observed = _seconds(row, _COLUMNS[name])
      if i in place:
        at = place[i]
        is_known = name in stacks.campaigns.get(runs.campaigns[at], {})
        sd = stacks.log_sd[f'known {name}' if is_known else name]
        value = float(said[name][at])
        answers.append(Answer(i, name, observed, value, sd, ANSWERED))
      else:
        answers.append(refusal(i, name, observed, runs.why[i]))
  return answers


def held_out_errors(runs: Runs, groups: Sequence[str]) -> dict[str, np.ndarray]:
  """Logarithm of predicted over observed, each run by a fit without its group.

  Args:
    runs: priced runs.
    groups: of each; whole groups are left out together, in a few folds.
  """
  names = sorted(set(groups))
  sizes = collections.Counter(groups)
  folds: list[list[str]] = [[] for _ in range(min(_FOLDS, len(names)))]
  for name in sorted(names, key=lambda n: -sizes[n]):
    min(folds, key=lambda f: sum(sizes[n] for n in f)).append(name)
  errors = {n: np.full(len(runs.index), math.nan) for n in OBSERVABLES}
  for fold in folds:
    out = np.array([g in fold for g in groups])
    if out.all():
      stacks = prior_stacks()
    else:
      stacks = fit_runs(runs.select(np.flatnonzero(~out)))
    part = runs.select(np.flatnonzero(out))
    for name, value in predicted(part, stacks).items():
      errors[name][out] = np.log(value / getattr(part.observed, name))
  return errors
