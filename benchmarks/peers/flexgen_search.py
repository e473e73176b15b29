"""The best policy under FlexGen's equations, proven over its whole space.

At given batch sizes the problem is a linear programme (`flexgen_programme`).
Products of fractions with batch sizes are the only non-linear part; batch sizes
are whole numbers and enumerated, so nothing is relaxed there. A bank of
multipliers bounds the whole space in array operations, and pairs are solved in
the order of what they could still reach (the planner's own method).
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.peers import flexgen
from benchmarks.peers.flexgen_programme import (
  PLACES,
  Solved,
  Space,
  one_pair,
  rate_bound,
  solve,
  space_of,
)

TARGET_GAP = 1e-6
# Pairs whose policies are rounded to whole percents.
_ROUNDED = 64


class Found(NamedTuple):
  """The best policy and what is proven.

  Attributes:
    tokens_per_s: of the policy in fractions.
    fractions: [tensor, place].
    gpu_batch: of the policy.
    blocks: of the policy.
    bound: no policy of the space is faster [1/s].
    whole: the best near policy in whole percents, which the runtime takes.
    pairs: of batch sizes, all of them.
    programmes: that were solved.
    seconds: processor time, rounding included.
  """

  tokens_per_s: float
  fractions: np.ndarray
  gpu_batch: int
  blocks: int
  bound: float
  whole: 'Whole'
  pairs: int
  programmes: int
  seconds: float

  @property
  def gap(self) -> float:
    """Certified, relative to the best."""
    return max(self.bound / self.tokens_per_s - 1.0, 0.0)


class Whole(NamedTuple):
  """A policy in whole percents."""

  tokens_per_s: float
  fractions: np.ndarray
  gpu_batch: int
  blocks: int


def best_policy(
  job: flexgen.Job, hardware: flexgen.Hardware, room_B: np.ndarray
) -> Found:
  """Searches the whole space.

  Raises:
    ValueError: nothing fits at any batch size.
  """
  began = time.process_time()
  space = space_of(job, hardware, room_B)
  rates = np.full(len(space.blocks), np.inf)
  best, at, solved, index = None, 0, {}, 0
  while len(rates):
    solved[index] = one = solve(space, index)
    rates = np.minimum(rates, rate_bound(space, one))
    if one.tokens_per_s == 0.0:
      rates[index] = 0.0
    elif best is None or one.tokens_per_s > best.tokens_per_s:
      best, at = one, index
    open_rates = rates.copy()
    open_rates[list(solved)] = 0.0
    index = int(np.argmax(open_rates))
    reached = best.tokens_per_s if best else 0.0
    if open_rates[index] <= reached * (1.0 + TARGET_GAP):
      break
  if best is None:
    raise ValueError('no batch size fits the memories')
  return Found(
    tokens_per_s=best.tokens_per_s,
    fractions=best.fractions,
    gpu_batch=int(space.gpu_batch[at]),
    blocks=int(space.blocks[at]),
    bound=max(float(rates.max()), best.tokens_per_s),
    whole=_whole(space, rates, solved),
    pairs=len(rates),
    programmes=len(solved),
    seconds=time.process_time() - began,
  )


def shipped_search(
  job: flexgen.Job, hardware: flexgen.Hardware, room_B: np.ndarray
) -> Whole:
  """FlexGen's own walk over batch sizes: what it finds, in fractions.

  GPU batches 1, 2, 3, 4, 8, 16, ...; for each, more blocks until the
  throughput falls; stops at a GPU batch that does not fit at all.
  """
  best = Whole(0.0, np.zeros((3, 3)), 0, 0)
  for gpu_batch in _shipped_batches():
    blocks, before = 1, 0.0
    while True:
      one = solve(one_pair(gpu_batch, blocks, job, hardware, room_B), 0)
      if one.tokens_per_s <= before:
        break
      before = one.tokens_per_s
      if before > best.tokens_per_s:
        best = Whole(before, one.fractions, gpu_batch, blocks)
      blocks += 1
    if blocks == 1:
      return best
  return best


def _whole(space: Space, rates: np.ndarray, solved: dict[int, Solved]) -> Whole:
  """The best policy in whole percents found near the most hopeful pairs."""
  best = Whole(0.0, np.zeros((3, 3)), 0, 0)
  hopeful = np.argsort(-rates, kind='stable')[:_ROUNDED].tolist()
  for index in dict.fromkeys([*solved, *hopeful]):
    if rates[index] <= best.tokens_per_s:
      continue
    one = solved.get(index) or solve(space, index)
    if one.tokens_per_s <= best.tokens_per_s:
      continue
    tried = _near_percents(one.fractions)
    found = space.offsets[index] + tried.reshape(-1, PLACES) @ (
      space.slopes[index].T
    )
    costs = space.longest
    time_s = costs[0] * found[:, :3].max(1) + costs[1] * found[:, 3:7].max(1)
    time_s[(found[:, 7:] > 1.0).any(1)] = np.inf
    first = int(np.argmin(time_s))
    rate = float(space.tokens[index] / time_s[first])
    if rate > best.tokens_per_s:
      pair = int(space.gpu_batch[index]), int(space.blocks[index])
      best = Whole(rate, tried[first], *pair)
  return best


def _near_percents(fractions: np.ndarray) -> np.ndarray:
  """Whole percents beside the fractions, nearest first."""
  rows = []
  for tensor in range(3):
    centre = np.floor(100.0 * fractions[tensor])
    shifts = np.arange(-1.0, 3.0)
    gpu, host = np.meshgrid(centre[0] + shifts, centre[1] + shifts)
    pairs = np.stack([gpu.ravel(), host.ravel()], 1)
    row = np.column_stack([pairs, 100.0 - pairs.sum(1)])
    keep = (row >= 0.0).all(1) & ((tensor < 2) | (row[:, 2] == 0.0))
    rows.append(row[keep] / 100.0)
  picks = np.meshgrid(*(np.arange(len(r)) for r in rows), indexing='ij')
  found = np.stack([r[p.ravel()] for r, p in zip(rows, picks, strict=True)], 1)
  nearest = np.argsort(((found - fractions) ** 2).sum((1, 2)), kind='stable')
  return found[nearest]


def _shipped_batches() -> Iterator[int]:
  yield from (1, 2, 3)
  batch = 4
  while True:
    yield batch
    batch *= 2
