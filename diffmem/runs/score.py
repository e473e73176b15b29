"""How well answers agree with what was measured, and what a choice costs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffmem.runs.answer import ANSWERED, Answer
from diffmem.runs.table import Z90, Kind

Row = Mapping[str, Any]

# Columns that say of two runs that they are the same job, differently laid
# out or run by other software.
_JOB = {
  Kind.TRAINING: (
    'dataset', 'model', 'n_layers', 'hidden', 'heads', 'seq_len', 'gbs',
    'n_accel', 'accelerator', 'precision', 'framework',
  ),
  Kind.SERVING: (
    'model', 'system', 'precision', 'mode', 'input_len', 'output_len',
    'concurrency', 'backend',
  ),
  Kind.OFFLOAD: (
    'model', 'gpu', 'n_gpu', 'host_dram_gb', 'storage', 'prompt_len',
    'gen_len', 'weight_bits', 'throughput_basis',
  ),
  Kind.ENERGY: ('dataset', 'model_id', 'task', 'weight_precision', 'gpu'),
}  # fmt: skip
# What a job wants: the observable, and whether less of it is better.
_WANTED = {
  Kind.TRAINING: ('step_time_s', True),
  Kind.SERVING: ('tpot_s', True),
  Kind.OFFLOAD: ('tokens_per_s', False),
  Kind.ENERGY: ('energy_per_token_J', True),
}


def dataset_of(kind: Kind, row: Row) -> str:
  """What a row is reported under."""
  names = {
    Kind.TRAINING: ('dataset',),
    Kind.SERVING: ('system', 'backend', 'mode'),
    Kind.OFFLOAD: ('system',),
    Kind.ENERGY: ('dataset', 'gpu'),
  }[kind]
  return ' '.join(str(row.get(name) or '?') for name in names)


def scores(
  kind: Kind, rows: Sequence[Row], answers: Sequence[Answer]
) -> list[dict[str, Any]]:
  """Errors per dataset and observable, in percent; all rows last."""
  groups: dict[tuple[str, str], list[Answer]] = {}
  for answer in answers:
    name = dataset_of(kind, rows[answer.index])
    groups.setdefault((answer.observable, name), []).append(answer)
  found = [
    {'observable': observable, 'dataset': name} | summary(group)
    for (observable, name), group in sorted(groups.items())
  ]
  for observable in dict.fromkeys(a.observable for a in answers):
    of_all = [a for a in answers if a.observable == observable]
    found.append({'observable': observable, 'dataset': 'all'} | summary(of_all))
  return found


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
  """Rows, answered, mape, median, p90, bias and coverage (percent)."""
  judged = [
    a for a in answers if a.status == ANSWERED and math.isfinite(a.observed)
  ]
  counts = {
    'rows': len(answers),
    'answered': sum(a.status == ANSWERED for a in answers),
    'judged': len(judged),
  }
  names = ('mape', 'median_ape', 'p90_ape', 'bias', 'coverage90')
  if not judged:
    return counts | dict.fromkeys(names)
  miss = np.array([math.log(a.predicted / a.observed) for a in judged])
  error = 100.0 * np.expm1(miss)
  inside = np.abs(miss) <= Z90 * np.array([a.log_sd for a in judged])
  values = (
    np.abs(error).mean(),
    np.median(np.abs(error)),
    np.quantile(np.abs(error), 0.9),
    error.mean(),
    100.0 * inside.mean(),
  )
  return counts | {n: float(v) for n, v in zip(names, values, strict=True)}


def refusals(answers: Sequence[Answer]) -> dict[str, int]:
  """Why answers are missing, and how many for each reason."""
  why = [a.status for a in answers if a.status != ANSWERED]
  return {w: why.count(w) for w in sorted(set(why), key=why.count)[::-1]}


def regrets(
  kind: Kind, rows: Sequence[Row], answers: Sequence[Answer]
) -> dict[str, float] | None:
  """What following our ranking costs, over jobs that were run in several ways.

  Returns:
    jobs, median, p90 and worst of how much slower the configuration that we
    rank first is than the best that was measured, in percent; None where no
    job was run in two ways.
  """
  observable, is_less_better = _WANTED[kind]
  jobs: dict[tuple, list[Answer]] = {}
  for a in answers:
    if a.observable == observable and a.is_answered and a.observed > 0:
      job = tuple(str(rows[a.index].get(name)) for name in _JOB[kind])
      jobs.setdefault(job, []).append(a)
  sign = 1.0 if is_less_better else -1.0
  lost = [
    _lost(runs, lambda a: sign * math.log(a.observed),
          lambda a: sign * math.log(a.predicted))
    for runs in jobs.values()
    if len({round(a.predicted, 9) for a in runs}) > 1
  ]  # fmt: skip
  if not lost:
    return None
  return {
    'jobs': len(lost),
    'median': float(np.median(lost)),
    'p90': float(np.quantile(lost, 0.9)),
    'worst': float(np.max(lost)),
  }


def _lost(
  runs: Sequence[Answer],
  measured: Callable[[Answer], float],
  predicted: Callable[[Answer], float],
) -> float:
  """Percent lost by the run that is predicted best."""
  first = min(predicted(a) for a in runs)
  chosen = [measured(a) for a in runs if predicted(a) <= first + 1e-9]
  best = min(measured(a) for a in runs)
  return 100.0 * math.expm1(float(np.mean(chosen)) - best)
