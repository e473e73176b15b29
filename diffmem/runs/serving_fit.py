"""Fits what serving software adds to kernels.

Least squares on logarithms with Huber's loss (Huber, 1964), priors as further
rows. A backend's numbers are those of all backends and a deviation, which has
a prior of its own: what GPUs do hardly differs, what hosts do may.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize

from diffmem.runs.serving_engine import Batch, Times, times
from diffmem.runs.serving_stack import (
  NAMES,
  OVERHEADS,
  Stacks,
  prior,
  prior_stacks,
)

# Scatter at which runs of the same configuration differ (software versions):
# what one residual is measured in.
SCATTER = {'ttft_s': 0.4, 'tpot_s': 0.15}
_PRIOR = np.log([OVERHEADS[n].prior for n in NAMES])
_PRIOR_SD = np.array([OVERHEADS[n].prior_sd for n in NAMES])
_APART_SD = np.array([OVERHEADS[n].apart_sd for n in NAMES])
_DIFFERENCE = 1e-4
_MOST_STEPS = 15
_CLOSE = 1e-4


class Observed(NamedTuple):
  """What runs measured [job]; NaN where they did not.

  Attributes:
    ttft_s: mean time to the first token.
    tpot_s: mean time per further token.
    weight: of the run, 1 for one that is like no other.
  """

  ttft_s: Float[np.ndarray, ' job']
  tpot_s: Float[np.ndarray, ' job']
  weight: Float[np.ndarray, ' job']

  def select(self, rows: np.ndarray) -> 'Observed':
    """Some of the runs."""
    return Observed(*(values[rows] for values in self))


class Part(NamedTuple):
  """Runs of one stack.

  Attributes:
    batch: the jobs.
    observed: what was measured.
    own: prior of its logarithms over those of all stacks [name].
  """

  batch: Batch
  observed: Observed
  own: np.ndarray


def fit(batch: Batch, backends: Sequence[str], observed: Observed) -> Stacks:
  """Overheads of every backend.

  Args:
    batch: the jobs.
    backends: of each job; jobs with '' are not fitted.
    observed: what was measured.
  """
  backends = np.asarray(backends, object)
  names = sorted(set(backends) - {''})
  parts = []
  for name in names:
    at = np.flatnonzero(backends == name)
    own = np.log([prior(name, n) for n in NAMES]) - _PRIOR
    parts.append(Part(batch.select(at), observed.select(at), own))
  start = np.concatenate([_PRIOR, *(part.own for part in parts)])
  found = optimize.least_squares(
    lambda theta: _residuals(theta, parts),
    start,
    jac=lambda theta: _slopes(theta, parts),
    loss='huber',
    f_scale=1.0,
    ftol=_CLOSE,
    xtol=_CLOSE,
    max_nfev=_MOST_STEPS,
  )
  slopes = _slopes(found.x, parts)
  spread = np.linalg.inv(slopes.T @ slopes)
  common, apart = _split(found.x)
  values, stderr = {}, {}
  for i, name in enumerate(names):
    values[name] = dict(
      zip(NAMES, np.exp(common + apart[i]).tolist(), strict=True)
    )
    sd = np.sqrt(np.diag(_of_stack(spread, i)))
    stderr[name] = dict(zip(NAMES, sd.tolist(), strict=True))
  rows = {n: len(p.batch.requests) for n, p in zip(names, parts, strict=True)}
  return Stacks(values, stderr, rows, prior_stacks().log_sd, {})


def _split(theta) -> tuple[np.ndarray, np.ndarray]:
  """Logarithms common to all stacks [name], and their own [stack name]."""
  table = theta.reshape(-1, len(NAMES))
  return table[0], table[1:]


def _of_stack(spread, i: int) -> np.ndarray:
  """Covariance of one stack's logarithms: common and own part together."""
  n = len(NAMES)
  common, own = slice(0, n), slice((i + 1) * n, (i + 2) * n)
  across = spread[common, own]
  return spread[common, common] + spread[own, own] + across + across.T


def _residuals(theta, parts) -> np.ndarray:
  common, apart = _split(theta)
  found = [(common - _PRIOR) / _PRIOR_SD]
  found += [(a - p.own) / _APART_SD for a, p in zip(apart, parts, strict=True)]
  for own, part in zip(apart, parts, strict=True):
    found.append(_misfit(common + own, part))
  return np.concatenate(found)


def _slopes(theta, parts) -> np.ndarray:
  """Derivatives of the residuals, by differences within each stack."""
  common, apart = _split(theta)
  n = len(NAMES)
  widths = np.concatenate([_PRIOR_SD, *[_APART_SD] * len(apart)])
  blocks = [np.diag(1.0 / widths)]
  for i, (own, part) in enumerate(zip(apart, parts, strict=True)):
    at = common + own
    here = _misfit(at, part)
    steps = np.eye(n) * _DIFFERENCE
    slope = [(_misfit(at + step, part) - here) / _DIFFERENCE for step in steps]
    block = np.zeros((len(here), theta.size))
    block[:, :n] = block[:, (i + 1) * n : (i + 2) * n] = np.stack(slope, 1)
    blocks.append(block)
  return np.concatenate(blocks)


def _misfit(logs, part: Part) -> np.ndarray:
  """What one stack says against what was observed, in scatters."""
  batch, observed = part.batch, part.observed
  jobs = len(batch.requests)
  values = zip(NAMES, np.exp(np.clip(logs, -30.0, 5.0)), strict=True)
  said = times(batch, {name: np.full(jobs, v) for name, v in values})
  parts = []
  for name, scatter in SCATTER.items():
    ratio = log_ratio(said, observed, name) / scatter
    parts.append(np.sqrt(observed.weight) * np.nan_to_num(ratio))
  return np.concatenate(parts)


def log_ratio(said: Times, observed: Observed, name: str) -> np.ndarray:
  """Logarithm of predicted over observed [job]."""
  return np.log(getattr(said, name)) - np.log(getattr(observed, name))


def stack_of(stacks: Stacks, backends: Sequence[str]) -> dict[str, np.ndarray]:
  """Overheads by name, one value for each job."""
  by_backend = {b: stacks.of(b) for b in set(backends)}
  return {n: np.array([by_backend[b][n] for b in backends]) for n in NAMES}
