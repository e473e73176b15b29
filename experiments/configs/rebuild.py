"""How the shipped checkpoints are fitted.

  python -m experiments.rebuild_checkpoints --traces_dir=DIR

As `fit.py`, with one shape in five held out, half as many starts and a third
of the bootstrap draws.
"""

import ml_collections

from experiments.configs import fit


def get_config() -> ml_collections.ConfigDict:
  """Fields of `experiments/configs/fit.py`."""
  config = fit.get_config()
  config.starts = 4
  config.draws = 24
  config.holdout_every = 5
  return config
