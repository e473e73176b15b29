"""The policy that diffmem's own laws choose for FlexGen's cases and limits.

The law (`flexgen_own_law`) is a norm of streams: convex in the fractions at
given batch sizes but, other than FlexGen's equations, not linear in pieces:
cutting planes. A norm lies above every plane

    |s| >= w s    with w the gradient of the norm at some point,

whose q-norm is one; so does any average of such w, which is what the
multipliers of a programme are. They bound every other pair of batch sizes as
well. Memory is FlexGen's: its peaks and its limits.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from benchmarks.peers.flexgen_cases import Case, Published
from benchmarks.peers.flexgen_own_law import STREAMS, Law, law_of, total_s
from benchmarks.peers.flexgen_programme import PLACES
from diffmem.runs.offload_stack import OffloadStacks

TARGET_GAP = 1e-5
_MOST_CUTS = 40
_ROOMS = slice(7, 12)  # in the terms of a `Space`


class Found(NamedTuple):
  """The best policy under the law and the limits; as `flexgen_search.Found`."""

  tokens_per_s: float
  fractions: np.ndarray
  gpu_batch: int
  blocks: int
  bound: float
  pairs: int
  programmes: int
  seconds: float

  @property
  def gap(self) -> float:
    """Certified, relative to the best."""
    return max(self.bound / self.tokens_per_s - 1.0, 0.0)


class Solved(NamedTuple):
  """One pair: its best, and multipliers that bound it and all others.

  Attributes:
    total_s: infinite where nothing fits.
    fractions: [9].
    weights: of the streams, in passes [2, 3].
    prices: of the rooms [5].
  """

  total_s: float
  fractions: np.ndarray
  weights: np.ndarray
  prices: np.ndarray


def best_policy(
  case: Case, published: Published, stacks: OffloadStacks
) -> Found:
  """The best over all batch sizes, with a bound.

  Raises:
    ValueError: nothing fits at any batch size.
  """
  began = time.process_time()
  law = law_of(case, published, stacks)
  tokens = law.space.tokens
  rates = np.full(len(tokens), np.inf)
  best, at, solved, index = None, 0, set(), 0
  while len(rates):
    solved.add(index)
    one = solve(law, index)
    rates = np.minimum(rates, rate_bound(law, one))
    rate = tokens[index] / one.total_s
    if rate > (tokens[at] / best.total_s if best else 0.0):
      best, at = one, index
    waiting = rates.copy()
    waiting[list(solved)] = 0.0
    index = int(np.argmax(waiting))
    reached = tokens[at] / best.total_s if best else 0.0
    if waiting[index] <= reached * (1.0 + TARGET_GAP):
      break
  if best is None:
    raise ValueError('no batch size fits the memories')
  return Found(
    tokens_per_s=float(tokens[at] / best.total_s),
    fractions=best.fractions.reshape(3, 3),
    gpu_batch=int(law.space.gpu_batch[at]),
    blocks=int(law.space.blocks[at]),
    bound=float(max(rates.max(), tokens[at] / best.total_s)),
    pairs=len(rates),
    programmes=len(solved),
    seconds=time.process_time() - began,
  )


@jax.jit
def _norms(streams, p):
  """Norm of each pass, and its gradient to the streams."""

  def norms(s):
    return (s**p).sum(-1) ** (1.0 / p)

  found, backward = jax.vjp(norms, streams)
  return found, backward(jnp.ones_like(found))[0]


def solve(law: Law, index: int) -> Solved:
  """Cutting planes at one pair of batch sizes."""
  cuts, best, value = [], None, np.inf
  bound, weights, prices = -np.inf, np.zeros((2, STREAMS)), np.zeros(5)
  # Equal weights cut somewhere; the first solution cuts where it matters.
  gradient = np.full((2, STREAMS), STREAMS ** (1.0 / law.p - 1.0))
  while len(cuts) < _MOST_CUTS:
    cuts.append(gradient)
    result = _programme(law, index, np.stack(cuts))
    if result is None:
      return Solved(np.inf, np.zeros(PLACES), weights, _no_room(law, index))
    fractions, shares, shadow = result
    mixed = np.einsum('ki,kij->ij', shares, np.stack(cuts))
    lower = _least(law, mixed, shadow)[index]
    if lower > bound:
      bound, weights, prices = lower, mixed, shadow
    reached = total_s(law, index, fractions)
    if reached < value:
      best, value = fractions, reached
    if value - bound <= 0.1 * TARGET_GAP * value:
      break
    streams = law.offsets[index] + law.slopes[index] @ fractions
    with jax.enable_x64(True):
      gradient = np.asarray(_norms(np.maximum(streams, 1e-12), law.p)[1])
  return Solved(value, best, weights, prices)


def _programme(law, index, cuts, excess: bool = False):
  """Fractions, shares of the cuts [cut, 2] and prices; None where none fits."""
  slopes, offsets = law.slopes[index], law.offsets[index]
  rooms = law.space.slopes[index, _ROOMS]
  limits = 1.0 - law.space.offsets[index, _ROOMS]
  n_cuts = len(cuts)
  above = np.zeros((2 * n_cuts + 5, PLACES + 3))
  rights = np.zeros(2 * n_cuts + 5)
  for i in range(2):
    rows = slice(i * n_cuts, (i + 1) * n_cuts)
    above[rows, :PLACES] = cuts[:, i] @ slopes[i]
    above[rows, PLACES + i] = -1.0
    rights[rows] = -cuts[:, i] @ offsets[i]
  above[2 * n_cuts :, :PLACES] = rooms
  above[2 * n_cuts :, -1] = -1.0
  rights[2 * n_cuts :] = limits
  whole = np.zeros((3, PLACES + 3))
  for tensor in range(3):
    whole[tensor, 3 * tensor : 3 * tensor + 3] = 1.0
  scale = float(law.passes @ offsets.max(-1)) or 1.0
  cost = np.append(law.passes / scale, 0.0)
  result = optimize.linprog(
    np.append(np.zeros(PLACES), [0.0, 0.0, 1.0] if excess else cost),
    A_ub=above,
    b_ub=rights,
    A_eq=whole,
    b_eq=np.ones(3),
    bounds=[(0.0, 1.0)] * (PLACES - 1)
    + [(0.0, 0.0)]
    + [(0.0, None)] * 2
    + [(0.0, np.inf if excess else 0.0)],
    method='highs',
  )
  if not result.success:
    return None
  multipliers = np.maximum(-result.ineqlin.marginals, 0.0)
  if not excess:
    multipliers = multipliers * scale
  shares = multipliers[: 2 * n_cuts].reshape(2, n_cuts).T
  return result.x[:PLACES], shares, multipliers[2 * n_cuts :]


def _no_room(law: Law, index: int) -> np.ndarray:
  """Prices of the least excess over the rooms."""
  result = _programme(law, index, np.zeros((1, 2, STREAMS)), excess=True)
  return result[2]


def rate_bound(law: Law, solved: Solved) -> np.ndarray:
  """Tokens per second that no policy of a pair exceeds [pair]."""
  if not np.isfinite(solved.total_s):
    nothing = np.zeros((2, STREAMS))
    excess = _least(law, nothing, solved.prices) - law.fixed_s
    return np.where(excess > 1e-9, 0.0, np.inf)
  least_s = _least(law, solved.weights, solved.prices)
  with np.errstate(divide='ignore'):
    return law.space.tokens / np.maximum(least_s, 0.0)


def _least(law: Law, weights: np.ndarray, prices: np.ndarray) -> np.ndarray:
  """Weak duality: least time of all passes over policies [pair].

  `weights` may sum to no more than the passes in the dual norm; they are
  scaled back where the solver's tolerance has left them above.
  """
  q = law.p / (law.p - 1.0) if law.p > 1.0 else np.inf
  dual = np.linalg.norm(weights, q, axis=1)
  weights = (
    weights * np.minimum(law.passes / np.maximum(dual, 1e-300), 1.0)[:, None]
  )
  offsets = (weights * law.offsets).sum((1, 2))
  offsets = offsets + law.space.offsets[:, _ROOMS] @ prices - prices.sum()
  slopes = np.einsum('ij,pijf->pf', weights, law.slopes)
  slopes = slopes + np.einsum('r,prf->pf', prices, law.space.slopes[:, _ROOMS])
  slopes[:, PLACES - 1] = np.inf
  least = slopes.reshape(-1, 3, 3).min(2).sum(1)
  return offsets + least + law.fixed_s
