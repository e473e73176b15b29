"""Which observations to buy, for one linear question under a normal prior.

The leaves x are normal with covariance P; the question is q = g x, of variance
g P g. A block of observations with slopes J and noise R lowers that by

  (g P J') (J P J' + R)^-1 (J P g)

(the Kalman update: Kalman, Journal of Basic Engineering 82(1), 1960), whatever
is observed. Blocks are chosen one after the other, each for what it adds to
those before it: greedy sequential design, exact for the first, near the best
for few (Krause, Singh and Guestrin, JMLR 9, 2008).

Where the question is a choice, q is the gap between two options, normal with
mean m. Then

- the wrong one is taken with probability Phi(-|m| / s), s the deviation of q;
- what is lost by that on average is s L(|m| / s), with the unit normal loss
  integral L(u) = phi(u) - u Phi(-u) (Raiffa and Schlaifer, Applied Statistical
  Decision Theory, 1961, section 5): the expected value of perfect information;
- a measurement that lowers the variance from s^2 to t^2 is worth the same with
  sqrt(s^2 - t^2) in the place of s, and afterwards the wrong one is taken with
  the probability that the posterior mean and q differ in sign.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special, stats

# Half the width of a normal's 90 % interval over its deviation.
Z90 = 1.6449
# A block that adds less than this share of the deviation is not bought.
LEAST_DROP = 1e-3


class Block(NamedTuple):
  """Observations that are made together.

  Attributes:
    slopes: of each to the leaves [observation parameter].
    noise: standard deviation of each [observation].
    cost: what it takes, in any unit; 1 where blocks are counted.
  """

  slopes: Float[np.ndarray, 'observation parameter']
  noise: Float[np.ndarray, ' observation']
  cost: float = 1.0


class Bought(NamedTuple):
  """One step of a greedy choice.

  Attributes:
    index: of the block.
    variance: of the question with it and all before it.
  """

  index: int
  variance: float


def variance_drop(
  matrix: Float[np.ndarray, 'parameter parameter'],
  question: Float[np.ndarray, ' parameter'],
  block: Block,
) -> float:
  """How much a block lowers the variance of the question."""
  spread = block.slopes @ matrix
  told = spread @ question
  total = spread @ block.slopes.T + np.diag(block.noise**2)
  return float(max(told @ np.linalg.solve(total, told), 0.0))


def joined(blocks: Sequence[Block]) -> Block:
  """Several blocks as one, made of all their observations."""
  return Block(
    np.concatenate([b.slopes for b in blocks]),
    np.concatenate([b.noise for b in blocks]),
    sum(b.cost for b in blocks),
  )


def updated(
  matrix: Float[np.ndarray, 'parameter parameter'], block: Block
) -> Float[np.ndarray, 'parameter parameter']:
  """The covariance of the leaves with a block observed."""
  spread = block.slopes @ matrix
  total = spread @ block.slopes.T + np.diag(block.noise**2)
  found = matrix - spread.T @ np.linalg.solve(total, spread)
  return 0.5 * (found + found.T)


def greedy(
  matrix: Float[np.ndarray, 'parameter parameter'],
  question: Float[np.ndarray, ' parameter'],
  blocks: Sequence[Block],
  most: int,
) -> list[Bought]:
  """The blocks that lower the variance most for their cost, in order.

  Args:
    matrix: covariance of the leaves.
    question: slopes of the question.
    blocks: to choose from; each is bought once.
    most: how many to buy; fewer where the next adds next to nothing.
  """
  first = float(question @ matrix @ question)
  left = dict(enumerate(blocks))
  bought: list[Bought] = []
  variance = first
  while left and len(bought) < most and variance > 0:
    drops = {i: variance_drop(matrix, question, b) for i, b in left.items()}
    best = max(left, key=lambda i: drops[i] / left[i].cost)
    after = max(variance - drops[best], 0.0)
    if np.sqrt(variance) - np.sqrt(after) < LEAST_DROP * np.sqrt(first):
      break
    matrix = updated(matrix, left.pop(best))
    variance = after
    bought.append(Bought(best, variance))
  return bought


def loss_integral(u: float) -> float:
  """The unit normal loss integral L(u) = phi(u) - u Phi(-u), for u >= 0."""
  return float(stats.norm.pdf(u) - u * special.ndtr(-u))


def wrong_now(gap: float, sd: float) -> float:
  """Probability that the option with the better mean is not the better one."""
  if sd == 0:
    return 0.0
  return float(special.ndtr(-abs(gap) / sd))


def regret_now(gap: float, sd: float) -> float:
  """Expected loss of taking it: the value of perfect information."""
  return sd * loss_integral(abs(gap) / sd) if sd > 0 else 0.0


def regret_drop(gap: float, sd: float, sd_after: float) -> float:
  """Expected loss that a measurement saves, as the deviation falls."""
  return regret_now(gap, np.sqrt(max(sd**2 - sd_after**2, 0.0)))


def wrong_after(gap: float, sd: float, sd_after: float) -> float:
  """Expected probability of a wrong choice once the measurement is made.

  The posterior mean is normal with mean `gap` and variance sd^2 - sd_after^2;
  its correlation with the truth is the root of the share of variance that the
  measurement takes away.
  """
  if sd_after <= 0 or sd == 0:
    return 0.0
  told = 1.0 - (sd_after / sd) ** 2
  if told <= 1e-12:
    return wrong_now(gap, sd)
  both = stats.multivariate_normal(
    [0.0, 0.0],
    [[1.0, np.sqrt(told)], [np.sqrt(told), 1.0]],
    allow_singular=True,
  )
  # Signs differ: P(mean < 0 < q) + P(q < 0 < mean).
  u, v = gap / np.sqrt(sd**2 - sd_after**2), gap / sd
  together = float(both.cdf([-u, -v]))
  wrong = special.ndtr(-u) + special.ndtr(-v) - 2.0 * together
  return float(np.clip(wrong, 0.0, 1.0))
