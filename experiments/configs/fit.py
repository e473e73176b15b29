"""How to fit; change single values with --config.draws=200 and so on.

  python -m experiments.fit --traces=runs/this-machine.parquet \
    --out=runs/fitted --config=experiments/configs/fit.py

The defaults take about 7 s after compilation for the 250 rows of one machine,
and reach a median held-out error of 2-4 % away from the cliffs.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Fields of `diffmem.fitting.FitOptions`, and the split."""
  config = ml_collections.ConfigDict()
  config.starts = 8  # starting points, the first read off the data
  config.steps = 60  # most Levenberg-Marquardt steps of each
  config.adam_steps = 0  # Adam before them, for rough priors
  config.draws = 64  # bootstrap refits: the ensemble
  config.draw_steps = 6
  config.max_rows = 1500  # kernel rows behind the laws; residuals see all
  config.residual = ml_collections.ConfigDict()
  config.residual.members = 4  # networks of each residual; 0 for none
  config.residual.hidden = 64
  config.residual.visits = 120.0  # passes over a table, within these steps:
  config.residual.steps = (6000, 13000)
  config.residual.learning_rate = 4e-3
  config.residual.weight_decay = 1e-3
  config.holdout_every = 4  # one size in so many is held out; 0 for none
  return config
