"""What it is worth to know a parameter: expected drop of regret.

The expected value of partial perfect information (EVPPI) is how much better
one could choose between plans if some parameters were known exactly,

  min_i E[L_i] - E[min_i E[L_i | parameters]],

with L the loss of a plan. The inner expectation is a regression of the losses
on the parameters over one set of draws (Strong, Oakley and Brennan, Medical
Decision Making 34(3), 2014), here of three kinds:

- ridge regression on powers of the parameters, its strength from the marginal
  likelihood (MacKay, Neural Computation 4(3), 1992), so that a few draws of
  many parameters do not find what is not there;
- where the slopes of the losses are known (a model with gradients), the
  first-order change that they say, times a coefficient near one that the
  draws correct: it is less where others that are not known undo the change;
- where plans can be evaluated anew, the mean over crossed draws: the parameters
  from one draw, all others from several. That holds however curved the losses
  are, but takes the parameters as independent of the others, which what no
  trace decides is, and what a fit decided jointly is not.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
from jaxtyping import Float

# Draws from which on curvature is fitted too, and how much less it is believed.
_CURVED_FROM = 60
_POWER_SCALES = (1.0, 0.5, 0.25)
# Signal over noise of one standardised parameter, zero first.
_RATIOS = np.concatenate([[0.0], np.logspace(-1, 6, 36)])
# Prior of the coefficient of a first-order change: mean one, this deviation.
_COEFFICIENT_SD = 0.5
_TINY = 1e-300
# Draws of all other parameters that each draw of some is crossed with.
_OTHERS = 8


def basis(
  columns: Float[np.ndarray, 'draw parameter'],
) -> tuple[Float[np.ndarray, 'draw rank'], Float[np.ndarray, ' rank']]:
  """Orthonormal basis of the powers of some parameters, and their sizes.

  Powers of different parameters add up; parameters without spread add none.
  """
  spread = columns.std(0)
  moved = spread > 1e-12
  z = (columns[:, moved] - columns[:, moved].mean(0)) / spread[moved]
  degree = 3 if len(columns) >= _CURVED_FROM else 1
  # Hermite polynomials, orthogonal where a parameter is normal.
  powers = (z, (z**2 - 1) / np.sqrt(2), (z**3 - 3 * z) / np.sqrt(6))
  scaled = [_POWER_SCALES[i] * powers[i] for i in range(degree)]
  table = np.concatenate([p - p.mean(0) for p in scaled], 1)
  if not table.shape[1]:
    return np.zeros((len(columns), 0)), np.zeros(0)
  u, size, _ = np.linalg.svd(table, full_matrices=False)
  kept = size > 1e-9 * max(size[0], 1.0)
  return u[:, kept], size[kept]


def regressed(
  gaps: Float[np.ndarray, 'draw response'],
  columns: Float[np.ndarray, 'draw parameter'],
) -> Float[np.ndarray, 'draw response']:
  """Conditional mean of each response, by ridge regression."""
  return _ridge(gaps, *basis(columns))


def _ridge(gaps, u, size):
  draws = len(gaps)
  mean = gaps.mean(0)
  if not u.shape[1]:
    return np.broadcast_to(mean, gaps.shape)
  along = u.T @ (gaps - mean)  # [rank, response]
  total = ((gaps - mean) ** 2).sum(0)
  rest = np.maximum(total - (along**2).sum(0), 0.0)
  # [ratio, rank]: variance of the basis' coefficients over that of the noise.
  signal = _RATIOS[:, None] * size**2 / draws
  noise = (1.0 / (1.0 + signal)) @ along**2 + rest  # [ratio, response]
  log_evidence = -0.5 * (draws - 1) * np.log(np.maximum(noise, _TINY))
  log_evidence -= 0.5 * np.log1p(signal).sum(1)[:, None]
  best = signal[np.argmax(log_evidence, 0)].T  # [rank, response]
  return mean + u @ (best / (1.0 + best) * along)


def first_order(
  gaps: Float[np.ndarray, 'draw response'],
  columns: Float[np.ndarray, 'draw parameter'],
  slopes: Float[np.ndarray, 'parameter response'],
) -> Float[np.ndarray, 'draw response']:
  """Conditional mean of each response where its slopes are known."""
  mean = gaps.mean(0)
  said = (columns - columns.mean(0)) @ slopes
  noise = ((gaps - mean - said) ** 2).mean(0) / _COEFFICIENT_SD**2
  above = (said * (gaps - mean)).sum(0) + noise
  below = (said**2).sum(0) + noise
  coefficient = np.where(below > 0, above / np.maximum(below, _TINY), 1.0)
  return mean + np.clip(coefficient, 0.0, 2.0) * said


def crossed(
  evaluate: Callable[[Mapping[str, np.ndarray]], np.ndarray],
  drawn: Mapping[str, Float[np.ndarray, ' draw']],
  names: Collection[str],
  gaps: Float[np.ndarray, 'draw response'],
) -> Float[np.ndarray, 'draw response']:
  """Conditional mean of each response over crossed draws.

  Args:
    evaluate: responses [try, response] under leaves by full name [try].
    drawn: all that was drawn.
    names: the parameters that would be known.
    gaps: responses of the draws as they are; their mean is kept.
  """
  draws = len(gaps)
  others = np.unique(np.linspace(0, draws - 1, _OTHERS).round().astype(int))
  known = np.repeat(np.arange(draws), len(others))
  rest = np.tile(others, draws)
  leaves = {
    name: values[known if name in names else rest]
    for name, values in drawn.items()
  }
  found = evaluate(leaves).reshape(draws, len(others), -1).mean(1)
  return found + gaps.mean(0) - found.mean(0)


def drop(gaps: Float[np.ndarray, '*case draw response']) -> np.ndarray:
  """How much better the choice gets by knowing these conditional gaps.

  Args:
    gaps: loss of every other plan less that of the first.
  """
  best_now = np.minimum(gaps.mean(-2).min(-1), 0.0)
  best_then = np.minimum(gaps.min(-1), 0.0).mean(-1)
  return np.maximum(best_now - best_then, 0.0)


def chance_drops(
  gaps: Float[np.ndarray, 'draw response'],
  groups: list[Float[np.ndarray, 'draw parameter']],
  shuffles: int,
  rng: np.random.Generator,
) -> Float[np.ndarray, ' shuffle']:
  """The largest drop over all groups where nothing is there to be found.

  The draws of the gaps are shuffled against those of the parameters
  (permutation test of the maximum: Westfall and Young, 1993).
  """
  shuffled = np.stack(
    [gaps[rng.permutation(len(gaps))] for _ in range(shuffles)]
  )
  flat = np.moveaxis(shuffled, 0, 1).reshape(len(gaps), -1)
  largest = np.zeros(shuffles)
  for columns in groups:
    fitted = _ridge(flat, *basis(columns)).reshape(len(gaps), shuffles, -1)
    largest = np.maximum(largest, drop(np.moveaxis(fitted, 0, 1)))
  return largest
