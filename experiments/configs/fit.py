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
  config.holdout_every = 4  # one size in so many is held out; 0 for none
  return config
