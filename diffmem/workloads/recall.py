"""Recall against work: how many reads or probes a search needs.

One law serves graphs, inverted lists, codes and re-ranking: the odds of
finding a neighbour, below a ceiling, are a power of the work w,

    recall = c w^b / (w^b + h^b)          (Hill's law)

with the ceiling c that more work does not pass, the work h for half of it and
the steepness b. On the DiskANN runs of the NeurIPS'21 billion-vector challenge
(Simhadri et al., PMLR 176, 2022) w are the reads of a query: b fits as 2.00
on all three data sets apart (1.96 to 2.00), with residuals of 0.05 points of
recall at most, so that a new data set needs two measured points only. On
inverted lists the odds of two searches multiply: a neighbour's list has to be
among those probed, and the search for the lists, with so many candidates, has
to find it,

    recall = c p^b / (p^b + h^b) x e^g / (e^g + k^g)

with p lists probed and e candidates (efSearch of a graph over the centroids).
On 176 runs of the FAISS baseline and 68 of three other teams (the same source)
b fits as 0.82 and g as 1.2, shared by five data sets, with mean residuals of
0.1 to 1.6 points.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike
from scipy import optimize

from diffmem import errors

# Fitted, shared by bigann-1B, msturing-1B and msspacev-1B: reads of a graph.
GRAPH_STEEPNESS = 2.0
# Fitted, shared by five data sets: lists probed, and candidates for lists.
LISTS_STEEPNESS = 0.82
CANDIDATES_STEEPNESS = 1.2
# A ceiling closer to 1 than this is 1: no run tells them apart.
_MOST_LOGIT = 9.0


class RecallLaw(NamedTuple):
  """Recall against work.

  Attributes:
    ceiling: recall that more work does not pass.
    half_work: work that finds half of the ceiling, in reads or probes.
    steepness: how fast the odds grow with work.
  """

  ceiling: ArrayLike
  half_work: ArrayLike
  steepness: ArrayLike = GRAPH_STEEPNESS

  def recall(self, work: ArrayLike) -> np.ndarray:
    """Recall at a work; any shape."""
    odds = (np.asarray(work) / self.half_work) ** self.steepness
    return self.ceiling * odds / (1.0 + odds)

  def work(self, recall: ArrayLike) -> np.ndarray:
    """Least work for a recall; any shape.

    Raises:
      SpecError: a recall that no work reaches.
    """
    recall = np.asarray(recall)
    ceiling = np.real(self.ceiling)
    if np.any(recall.real <= 0) or np.any(recall.real >= ceiling):
      raise errors.SpecError(
        f'recall = {recall}: expected above 0 and below {np.min(ceiling):.4g}, '
        'the most that this search approaches by its law'
      )
    odds = recall / (self.ceiling - recall)
    return self.half_work * odds ** (1.0 / self.steepness)


def fit_recall(
  work: Sequence[float],
  recall: Sequence[float],
  *,
  steepness: float | None = GRAPH_STEEPNESS,
) -> RecallLaw:
  """The law through measured points, by least squares in recall.

  Args:
    work: reads or probes of each point; [point].
    recall: what they found, 0 to 1; [point].
    steepness: known steepness; None to fit it too.

  Raises:
    SpecError: too few different points, or points outside of 0 to 1.
  """
  work, recall = np.asarray(work, float), np.asarray(recall, float)
  needed = 2 if steepness else 3
  if work.shape != recall.shape or len(np.unique(work)) < needed:
    raise errors.SpecError(
      f'{len(np.unique(work))} different works with {recall.size} recalls: '
      f'expected at least {needed} measured points'
    )
  if np.any(work <= 0) or np.any((recall <= 0) | (recall >= 1)):
    raise errors.SpecError('expected works above 0 and recalls within 0 to 1')

  def law(z) -> RecallLaw:
    ceiling = 1.0 / (1.0 + np.exp(-z[0]))
    return RecallLaw(
      ceiling, np.exp(z[1]), steepness if steepness else np.exp(z[2])
    )

  def misses(z):
    return law(z).recall(work) - recall

  starts = [
    np.array([logit, np.log(work.min() / 2), 0.0])[:needed]
    for logit in (0.5, 2.0, 5.0)
  ]
  low = np.array([-4.0, np.log(work.min()) - 8.0, np.log(0.2)])[:needed]
  high = np.array([_MOST_LOGIT, np.log(work.max()) + 4.0, np.log(6.0)])[:needed]
  found = min(
    (
      optimize.least_squares(
        misses, start, bounds=(low, high), xtol=1e-12, ftol=1e-12
      )
      for start in starts
    ),
    key=lambda result: result.cost,
  )
  fitted = law(found.x)
  top = fitted.ceiling if found.x[0] < 0.99 * _MOST_LOGIT else 1.0
  return RecallLaw(float(top), float(fitted.half_work), float(fitted.steepness))


class ListsLaw(NamedTuple):
  """Recall of inverted lists.

  Attributes:
    ceiling: recall with all lists probed: what the codes tell apart.
    half_probes: probed lists that find half of it.
    half_candidates: candidates that find half of the lists.
  """

  ceiling: ArrayLike
  half_probes: ArrayLike
  half_candidates: ArrayLike

  def recall(self, probes: ArrayLike, candidates: ArrayLike) -> np.ndarray:
    """Recall with so many lists probed and candidates for them."""
    law = RecallLaw(self.ceiling, self.half_probes, LISTS_STEEPNESS)
    return law.recall(probes) * self.lists_found(candidates)

  def lists_found(self, candidates: ArrayLike) -> np.ndarray:
    """Share of the nearest lists that a search with candidates finds."""
    return RecallLaw(1.0, self.half_candidates, CANDIDATES_STEEPNESS).recall(
      candidates
    )

  def probes(self, recall: ArrayLike, candidates: ArrayLike) -> np.ndarray:
    """Least probes for a recall with so many candidates.

    Raises:
      SpecError: a recall that no number of probes reaches.
    """
    ceiling = self.ceiling * self.lists_found(candidates)
    return RecallLaw(ceiling, self.half_probes, LISTS_STEEPNESS).work(recall)


def fit_lists(
  probes: Sequence[float],
  candidates: Sequence[float],
  recall: Sequence[float],
) -> ListsLaw:
  """The law of inverted lists through measured points.

  Args:
    probes: lists probed; [point].
    candidates: of the search for lists; [point].
    recall: found, 0 to 1; [point].

  Raises:
    SpecError: fewer than three points, or of one probes or candidates only.
  """
  probes, candidates = np.asarray(probes, float), np.asarray(candidates, float)
  recall = np.asarray(recall, float)
  if len(recall) < 3 or len(set(probes)) < 2 or len(set(candidates)) < 2:
    raise errors.SpecError(
      'expected at least three points, of different probes and candidates'
    )

  def law(z) -> ListsLaw:
    return ListsLaw(1.0 / (1.0 + np.exp(-z[0])), np.exp(z[1]), np.exp(z[2]))

  top = np.log(recall.max() / (1.0 - recall.max()))
  found = min(
    (
      optimize.least_squares(
        lambda z: law(z).recall(probes, candidates) - recall,
        [top + more, 1.0, 1.0],
        bounds=([top - 1.0, -4.0, -4.0], [top + 6.0, 8.0, 8.0]),
        loss='soft_l1',
        f_scale=0.01,
      )
      for more in (0.2, 1.5)
    ),
    key=lambda result: result.cost,
  )
  return ListsLaw(*(float(v) for v in law(found.x)))
