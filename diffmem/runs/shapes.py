"""What a source's runs say of a layer's shape beyond the laws.

All runs with the same layer shape run the same kernels, however deep, wide or
long the job is, and deviate from the laws alike. Where a source has timed many
shapes several times, and its shapes differ by more than its repeats, each
shape gets an effect of its own: its mean deviation, shrunk by the ratio of the
two variances (one-way random effects; Searle, Casella and McCulloch, Variance
Components, 1992, chapter 3).
"""

from collections.abc import Sequence

import numpy as np

from diffmem.runs.training_rows import TrainingRun

# How much larger the variance between shapes must be than within them, times
# the runs of a shape: an F of 4 is beyond chance with ten shapes or more.
_LEAST_F = 4.0
_LEAST_REPEATS = 10


def shape_of(run: TrainingRun) -> str:
  """A run's layer shape as text: equal where the same kernels run."""
  model, mesh = run.model, run.mesh
  return ' '.join(
    str(part)
    for part in (
      model.d_model, model.d_ff, model.attention.heads, mesh.tensor,
      run.micro_batch, run.seq_len // mesh.context, run.recompute,
      model.formats.weights,
    )
  )  # fmt: skip


def effects(
  runs: Sequence[TrainingRun], log_missed: np.ndarray
) -> dict[str, float]:
  """Shape -> addition to the logarithm of its step times.

  Args:
    runs: of one source.
    log_missed: log(observed / predicted) of each [run].
  """
  shape = np.array([shape_of(run) for run in runs])
  groups = {s: log_missed[shape == s] for s in dict.fromkeys(shape)}
  repeats = len(runs) - len(groups)
  if repeats < _LEAST_REPEATS or len(groups) < 2:
    return {}
  within = sum(((g - g.mean()) ** 2).sum() for g in groups.values()) / repeats
  sizes = np.array([len(g) for g in groups.values()], float)
  mean = log_missed.mean()
  between = sum(len(g) * (g.mean() - mean) ** 2 for g in groups.values())
  between /= len(groups) - 1
  if between < _LEAST_F * within:
    return {}
  typical = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(groups) - 1)
  of_shapes = (between - within) / typical
  return {
    s: float(g.sum() / (len(g) + within / of_shapes)) for s, g in groups.items()
  }
