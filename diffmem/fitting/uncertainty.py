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

from diffmem.system import ParameterInfo, Status

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


# What to measure to learn a parameter, by its name without the tier.
_MEASURE = {
  'latency_s': 'pointer chase with a working set inside {tier}',
  'read_Bps': 'read bandwidth of {tier} with more threads or bytes in flight, '
  'until it no longer rises',
  'write_Bps': 'copy or write bandwidth of {tier} with more threads',
  'mixed_Bps': 'read, copy and triad bandwidth of {tier} with all threads',
  'bend_read': 'bandwidth of {tier} with a small share of writes, saturated',
  'bend_write': 'bandwidth of {tier} with mostly writes, saturated',
  'queue_p': 'loaded latency of {tier} between half and full load',
  'bend_queue': 'loaded latency of {tier} at several shares of writes',
  'granule_B': 'saturated random reads of {tier} with small granules',
  'read_in_flight_B': 'read bandwidth of {tier} with one thread',
  'write_in_flight_B': 'copy or write bandwidth of {tier} with one thread',
  'capacity_B': 'latency and bandwidth at working sets around {tier}',
  'churn_Bps': 'chases and streams with working sets around {tier}',
  'wait_p': 'copy and triad bandwidth of {tier} with one thread',
  'cliff_k': 'a dense sweep of working sets around the size of {tier}',
  'device_J_per_B': 'power of the memory device of {tier} against bandwidth',
  'path_J_per_B': 'board power against bandwidth of {tier}, windows over 1 s',
  'rate_FLOPps': 'large matrix products on {tier}',
  'fill_rows': 'matrix products with few rows on {tier}',
  'energy_J_per_FLOP': 'board power against FLOP/s of {tier}',
  'launch_s': 'very small operations through the framework',
  'overlap_p': 'operations whose arithmetic and memory times are close',
  'link_overlap_p': 'a program whose transfers and work take equally long',
  'page_reach_B': 'pointer chases between 1 MB and 100 MB',
  'page_walk_s': 'pointer chases with small and with huge pages',
  'static_W': 'board power when idle but clocked up',
  'power_cap_W': 'board power in the heaviest kernel',
}


def what_to_measure(full_name: str, info: ParameterInfo) -> str:
  """One line that says which measurement would decide a parameter."""
  tier, name = full_name.rsplit('.', 1)
  return _MEASURE.get(name, info.help).format(tier=tier)
