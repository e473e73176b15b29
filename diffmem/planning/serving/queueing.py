"""How long requests wait for a pool of servers.

Erlang's formula gives the probability that all of c servers are busy; for
service times that are not exponential the mean wait is scaled by their
variation (Allen and Cunneen: Allen, "Probability, Statistics, and Queueing
Theory", 1990, section 5.7; Kimura, "A two-moment approximation for the mean
waiting time in the GI/G/s queue", Management Science 32(6), 1986), and the
wait of those who wait is taken as exponential, which is exact for M/M/c and
the tail of most others in heavy traffic (Abate, Choudhury and Whitt,
"Exponential approximations for tail probabilities in queues", Operations
Research 43(5), 1995):

    P(W > t) = P_wait exp(-t P_wait / E[W]).

Arrivals are Poisson. All functions are numpy, broadcast, and are in float64.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float
from scipy import special

_One = Float[ArrayLike, '...']


class Wait(NamedTuple):
  """The wait in front of a pool.

  Attributes:
    probability: that an arrival waits at all.
    mean_s: over all arrivals [s]; infinite where the pool cannot keep up.
  """

  probability: Float[np.ndarray, '...']
  mean_s: Float[np.ndarray, '...']

  def at(self, percentile: _One) -> Float[np.ndarray, '...']:
    """The wait that this share of the arrivals does not exceed [s]."""
    late = 1.0 - np.asarray(percentile)
    waits = self.probability > late
    safe = np.where(waits, self.probability, 1.0)
    with np.errstate(invalid='ignore'):
      found_s = self.mean_s / safe * np.log(safe / late)
    found_s = np.where(waits, found_s, 0.0)
    return np.where(np.isfinite(self.mean_s), found_s, np.inf)


def erlang_c(servers: _One, load: _One) -> Float[np.ndarray, '...']:
  """Probability that all servers of an M/M/c queue are busy.

  From the Poisson distribution: Erlang's B is its probability at c over its
  distribution function, C = B / (1 - rho (1 - B)) (Cooper, "Introduction to
  Queueing Theory", 1981, section 3.4). Stable for thousands of servers, and
  for numbers of them that are not whole.

  Args:
    servers: c, one or more.
    load: offered load in servers, rate times service time; 1 is returned
      where it is `servers` or more.
  """
  c, a = np.broadcast_arrays(
    np.asarray(servers, float), np.asarray(load, float)
  )
  busy = a >= c
  a = np.where(busy | (a <= 0.0), 0.5 * c, a)
  at_c = np.exp(c * np.log(a) - a - special.gammaln(c + 1.0))
  blocked = at_c / special.gammaincc(c + 1.0, a)
  found = blocked / (1.0 - a / c * (1.0 - blocked))
  found = np.where(np.asarray(load) <= 0.0, 0.0, found)
  return np.where(busy, 1.0, found)


def wait(
  servers: _One, rate_per_s: _One, service_s: _One, variation: _One = 0.0
) -> Wait:
  """The wait of an M/G/c queue.

  Args:
    servers: of the pool.
    rate_per_s: arrivals [1/s].
    service_s: mean service time [s].
    variation: squared coefficient of variation of the service time; 0 where
      all are alike, 1 for exponential ones.
  """
  load = np.asarray(rate_per_s * np.asarray(service_s), float)
  all_busy = erlang_c(servers, load)
  free = np.asarray(servers, float) - load
  with np.errstate(divide='ignore', invalid='ignore'):
    mean_s = all_busy * np.asarray(service_s) / free * (1.0 + variation) / 2.0
  return Wait(all_busy, np.where(free > 0.0, mean_s, np.inf))
