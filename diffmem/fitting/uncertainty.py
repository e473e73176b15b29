"""How sure a fit is: standard errors, a bootstrap ensemble, what is unknown.

Laplace's covariance (J'J)^-1 gives standard errors and says which parameters
the data decide. Intervals come from a bootstrap instead, because Laplace
intervals cover too little: every draw weighs whole cells of the data at
random (Bayesian bootstrap, Rubin, Annals of Statistics 9(1), 1981), draws its
priors anew (so that what only the prior knows keeps the prior's width), and
refits.
"""

import numpy as np
from jaxtyping import Float, Int

from diffmem.system import Status

# Posterior over prior width, above which the prior and not the data decides.
UNIDENTIFIED_SHRINKAGE = 0.5


def standard_errors(
  normal: Float[np.ndarray, 'parameter parameter'],
) -> Float[np.ndarray, ' parameter']:
  """Laplace standard errors from the normal matrix, priors included."""
  return np.sqrt(np.maximum(np.diag(np.linalg.pinv(normal)), 0.0))


def status_of(stderr: float, prior_sd: float) -> Status:
  """Whether the data or the prior decides a parameter that is in the data."""
  if stderr > UNIDENTIFIED_SHRINKAGE * prior_sd:
    return Status.UNIDENTIFIED
  return Status.FITTED


def cell_weights(
  cell: Int[np.ndarray, ' equation'], draws: int, rng: np.random.Generator
) -> Float[np.ndarray, 'draw equation']:
  """Bayesian bootstrap weights that are equal within a cell, mean 1."""
  n = int(cell.max()) + 1
  weights = rng.dirichlet(np.ones(n), draws) * n
  return weights[:, cell]
