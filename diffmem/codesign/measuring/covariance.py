"""How uncertain the parameters are together: a covariance of the leaves.

From the traces, Fisher's information of the fit's own equations plus the
priors' precision, inverted (Laplace's approximation).

From an ensemble, where the traces are not at hand: deviations are those of the
draws, no wider than the priors; correlations of a few draws are mostly chance
and are shrunk towards none by the share that minimises their expected squared
error (Schaefer and Strimmer, Statistical Applications in Genetics and
Molecular Biology 4(1), article 32, 2005),

  share = sum_ij Var(r_ij) / sum_ij r_ij^2,   i != j.

What no trace touches is independent of everything else, with its prior's
deviation: that is how the ensemble drew it.

Shrunk correlations, and straight lines through bent laws, make single rows
look less certain than the fit knows them to be. `sharpened` mends that: where
the linear deviation of a row, as far as fitted parameters make it, is above
that of the ensemble's own predictions (at the upper end that so many draws
leave open), it adds the observation that makes both equal: the smallest change
of the distribution, in relative entropy, that does.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy import stats

from diffmem import errors
from diffmem.codesign.measuring import row_slopes
from diffmem.fitting import kernel_rows
from diffmem.system import FittedSystem, Status, leaves_by_name
from diffmem.traces import Traces

# Most kernel rows that a covariance is made of, as a fit takes.
_MOST_ROWS = 1500
_LEAST_DRAWS = 8
# Deviation of a prediction below which nothing is known, whatever draws say.
_LEAST_SPREAD = 1e-4


class Covariance(NamedTuple):
  """What is known of the parameters, as a normal distribution of the leaves.

  Attributes:
    names: full names of the parameters that are not known exactly [parameter].
    matrix: covariance of their leaves [parameter parameter].
    source: 'traces', 'ensemble' or 'standard errors'.
    shrinkage: share of the ensemble's correlations that was taken for chance.
  """

  names: tuple[str, ...]
  matrix: Float[np.ndarray, 'parameter parameter']
  source: str
  shrinkage: float = 0.0

  def with_common_errors(self, rows: row_slopes.RowSlopes) -> 'Covariance':
    """The same with the leaves that `rows` has beyond its own, of deviation 1.

    Args:
      rows: with the common errors of families.
    """
    own, every = len(self.names), rows.slopes.shape[1]
    matrix = np.eye(every)
    matrix[:own, :own] = self.matrix
    names = tuple(f'common error {i}' for i in range(every - own))
    return self._replace(names=self.names + names, matrix=matrix)

  def slope_vector(self, slopes) -> Float[np.ndarray, ' parameter']:
    """Slopes by full name, in the order of `names`; 0 where none is given."""
    return np.array([float(slopes.get(name, 0.0)) for name in self.names])


def covariance_of(
  fitted: FittedSystem,
  traces: Traces | None = None,
  common_share: float = row_slopes.COMMON_SHARE,
  seed: int = 0,
) -> Covariance:
  """The covariance of a fitted system's leaves.

  Args:
    fitted: the machine.
    traces: what it was fitted to; without them its ensemble tells, and
      without an ensemble the standard errors alone.
    common_share: of the variance of a row's error that its family of the
      traces has in common.
    seed: of the sample of rows, where there are very many.

  Raises:
    FitError: traces of a part that the machine lacks.
    PlanError: nothing about the machine is uncertain.
  """
  if traces is not None:
    return _from_traces(fitted, traces, common_share, seed)
  if fitted.draws < _LEAST_DRAWS:
    names = _uncertain(fitted)
    sd = np.array([_sd(fitted, name) for name in names])
    return Covariance(names, np.diag(sd**2), 'standard errors')
  return _from_ensemble(fitted)


def sharpened(
  known: Covariance,
  fitted: FittedSystem,
  slopes: Float[np.ndarray, 'equation parameter'],
  spread: Float[np.ndarray, ' equation'],
) -> Covariance:
  """A covariance in which no row is less certain than the ensemble says.

  Args:
    known: from that ensemble.
    fitted: which parameters the traces touch; all others stay as they are.
    slopes: d ln(observation) / d leaf of rows.
    spread: standard deviation of their predictions over the ensemble, of
      those parameters alone (`row_slopes.row_spread`).
  """
  is_told = np.array(
    [fitted.knowledge[n].status is not Status.PRIOR for n in known.names]
  )
  slopes = slopes * is_told
  spread = spread * upper_end(fitted.draws)
  matrix = known.matrix
  linear = np.einsum('ep,pq,eq->e', slopes, matrix, slopes)
  wanted = np.maximum(spread, _LEAST_SPREAD) ** 2
  for i in np.argsort(-linear / wanted):
    column = matrix @ slopes[i]
    variance = float(slopes[i] @ column)
    if variance > wanted[i]:
      share = (variance - wanted[i]) / variance
      matrix = matrix - share / variance * np.outer(column, column)
  return known._replace(matrix=0.5 * (matrix + matrix.T))


def upper_end(draws: int) -> float:
  """Upper 95 % end of a normal deviation over that of so many draws."""
  return float(np.sqrt((draws - 1) / stats.chi2.ppf(0.05, draws - 1)))


def _uncertain(fitted: FittedSystem) -> tuple[str, ...]:
  """Parameters that some law reads and that are not known exactly."""
  active = fitted.system.active()
  names = tuple(
    name
    for name, known in fitted.knowledge.items()
    if known.status is not Status.UNUSED
    and name in active
    and _sd(fitted, name) > 0
  )
  if not names:
    raise errors.PlanError(
      f'{fitted.system.name}: no parameter has a standard error or a prior of '
      'some width, so that nothing is left to measure'
    )
  return names


def _sd(fitted: FittedSystem, name: str) -> float:
  """Standard deviation of a leaf, no wider than its prior."""
  known = fitted.knowledge[name]
  widths = [w for w in (known.stderr, known.prior_sd) if np.isfinite(w)]
  return max(min(widths, default=0.0), 0.0)


def _from_ensemble(fitted: FittedSystem) -> Covariance:
  names = _uncertain(fitted)
  leaves = leaves_by_name(fitted.ensemble)
  drawn = np.stack([np.asarray(leaves[n], float) for n in names], 1)
  prior_sd = np.array([fitted.knowledge[n].prior_sd for n in names])
  is_prior = np.array(
    [fitted.knowledge[n].status is Status.PRIOR for n in names]
  )
  spread = row_slopes.deviation_of(drawn)
  sd = np.where(is_prior, prior_sd, np.minimum(spread, prior_sd))
  correlation = np.eye(len(names))
  moved = ~is_prior & (sd > 1e-12)
  kept, shrinkage = shrunk_correlation(drawn[:, moved])
  correlation[np.ix_(moved, moved)] = kept
  return Covariance(
    names, sd[:, None] * correlation * sd, 'ensemble', shrinkage
  )


def shrunk_correlation(
  drawn: Float[np.ndarray, 'draw parameter'],
) -> tuple[Float[np.ndarray, 'parameter parameter'], float]:
  """Correlations of draws, shrunk towards none, and by what share.

  Args:
    drawn: with a spread of every parameter.
  """
  n, p = drawn.shape
  if p < 2:
    return np.eye(p), 0.0
  z = (drawn - drawn.mean(0)) / drawn.std(0, ddof=1)
  products = z[:, :, None] * z[:, None, :]  # [draw, parameter, parameter]
  mean = products.mean(0)
  variance = n / (n - 1) ** 3 * ((products - mean) ** 2).sum(0)
  correlation = n / (n - 1) * mean
  off = ~np.eye(p, dtype=bool)
  size = (correlation[off] ** 2).sum()
  share = 1.0 if size == 0 else float(min(variance[off].sum() / size, 1.0))
  kept = (1.0 - share) * correlation
  np.fill_diagonal(kept, 1.0)
  return kept, share


def _from_traces(fitted, traces, common_share, seed) -> Covariance:
  names = _uncertain(fitted)
  prior_sd = np.array([fitted.knowledge[n].prior_sd for n in names])
  sample = kernel_rows.sample(fitted.system, traces, _MOST_ROWS, seed)
  with jax.enable_x64(True):
    rows = row_slopes.row_slopes(fitted, names, sample)
  rows = rows.with_common_errors(common_share)
  # In units of the priors, where the matrix is well conditioned.
  unit = np.ones(rows.slopes.shape[1])
  unit[: len(names)] = prior_sd
  scaled = rows.slopes * unit / rows.noise[:, None]
  inverse = np.linalg.inv(scaled.T @ scaled + np.eye(len(unit)))
  inverse = inverse[: len(names), : len(names)]
  matrix = prior_sd[:, None] * inverse * prior_sd
  return Covariance(names, 0.5 * (matrix + matrix.T), 'traces')
