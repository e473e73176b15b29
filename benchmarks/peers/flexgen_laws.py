"""diffmem's own prediction of FlexGen's published cases.

Traffic by `diffmem.workloads.offload`, software by the stacks of
`diffmem.runs.offload`: as shipped (these very cases were among the fitted
runs), at their priors (nothing fitted), and, where a table of measured runs is
at hand, with the whole model left out of the fit.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

from benchmarks.peers import flexgen_cases
from diffmem.runs import offload
from diffmem.runs import table as runs_table
from diffmem.runs.offload_rows import OffloadRun
from diffmem.runs.offload_stack import OffloadStacks


def rows_of(cases: Sequence[flexgen_cases.Case]) -> list[dict[str, Any]]:
  """The cases as rows that `evaluate_runs` reads."""
  return [
    {
      'system': 'FlexGen',
      'model': case.name,
      'gpu': 'T4-16GB',
      'n_gpu': 1,
      'storage': 'GCP 1.5TB local SSD',
      'prompt_len': case.job.prompt,
      'gen_len': case.job.generated,
      'batch': case.gpu_batch * case.blocks,
      'weight_bits': 16,
      'policy_percent': f'{percents(case)}; nb={case.blocks}',
      'throughput_tok_s': case.measured_tokens_per_s,
    }
    for case in cases
  ]


def predict(
  cases: Sequence[flexgen_cases.Case], stacks: OffloadStacks
) -> list[float]:
  """Tokens per second of each case."""
  answers = offload.predict_offload(rows_of(cases), None, stacks)
  return [answer.predicted for answer in answers]


def held_out(
  cases: Sequence[flexgen_cases.Case], table: pathlib.Path
) -> list[float]:
  """The same by fits to a table's other models; NaN where it lacks the case."""
  runs = offload.usable_runs(runs_table.read(table))
  errors_log = {
    _key(run): error for run, error in offload.held_out_errors(runs)
  }
  mine = offload.usable_runs(rows_of(cases))
  return [
    run.observed * math.exp(errors_log.get(_key(run), math.nan)) for run in mine
  ]


def _key(run: OffloadRun) -> tuple:
  return run.model.name, run.machine, run.stack, run.job


def percents(case: flexgen_cases.Case) -> str:
  """Six whole percents, as FlexGen takes them."""
  shares = case.fractions[:, :2].ravel()
  return ' '.join(f'{100.0 * share:.0f}' for share in shares)


def relative(predicted: float, case: flexgen_cases.Case) -> float:
  """Signed error against the published measurement."""
  return predicted / case.measured_tokens_per_s - 1.0
