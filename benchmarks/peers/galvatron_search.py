"""The best plan under Galvatron's cost model, with a bound.

At one depth and batch, a plan gives each layer of a stage a strategy; their
memory shares one room. Without resharding, how many layers take each strategy
is a linear programme with one room, whose dual is exact at one of the slopes
between two strategies: it bounds every plan from below. One room leaves at
most two strategies at an optimum in fractions, so that plans of two blocks,
and one layer between them that fills what is left of the room, are near it;
all of them are tried at once, and resharding between the blocks is paid for.

Galvatron's own dynamic programme over layers, strategies and megabytes is
exact; it is written again here (array operations for its loops over memory)
and run only where the bound leaves something to find.
"""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers import galvatron
from benchmarks.peers.galvatron import Costs


class Blocks(NamedTuple):
  """Two blocks of layers, and one layer between them.

  Attributes:
    time_s: of a step, all stages [s].
    strategies: of the first block, the layer between, the second block.
    layers: of each, in every stage; (count, 1, rest).
  """

  time_s: float
  strategies: tuple[galvatron.Strategy, ...]
  layers: tuple[int, ...]

  def __str__(self) -> str:
    parts: list[list] = []
    for strategy, count in zip(self.strategies, self.layers, strict=True):
      if parts and parts[-1][1] == strategy:
        parts[-1][0] += count
      elif count:
        parts.append([count, strategy])
    return ', '.join(f'{count} x {strategy}' for count, strategy in parts)


class Found(NamedTuple):
  """The best plan for one budget of memory.

  Attributes:
    samples_per_s: of the best plan in two blocks.
    bound: no plan of the space is faster [1/s].
    batch: samples of a step.
    blocks: the plan.
    exact_samples_per_s: of the exact optimum (their dynamic programme).
    programmes: exact programmes that were run, of `problems`.
    problems: depths times batches.
    seconds: processor time of ours.
    exact_seconds: processor time of the exact programmes.
  """

  samples_per_s: float
  bound: float
  batch: int
  blocks: Blocks
  exact_samples_per_s: float
  programmes: int
  problems: int
  seconds: float
  exact_seconds: float

  @property
  def gap(self) -> float:
    """Certified, relative to the plan."""
    return max(self.bound / self.samples_per_s - 1.0, 0.0)


def best_plan(published: Mapping[str, Any], budget_MB: float) -> Found:
  """Searches all depths and batches for one budget.

  Raises:
    ValueError: nothing fits.
  """
  began = time.process_time()
  best, best_batch, best_rate, problems = None, 0, 0.0, []
  for stages in _depths(published):
    for batch in _batches(published):
      costs = galvatron.costs(published, stages, batch)
      room_MB = budget_MB + costs.room_MB
      least_s = bound_s(costs, room_MB)
      if not np.isfinite(least_s):
        break
      problems.append((batch / least_s, batch, costs, room_MB))
      blocks = two_blocks(costs, room_MB)
      if blocks and batch / blocks.time_s > best_rate:
        best, best_batch = blocks, batch
        best_rate = batch / blocks.time_s
  if best is None:
    raise ValueError(f'nothing fits {budget_MB} MB')
  seconds = time.process_time() - began
  exact, count, exact_seconds = _exact(problems, best_rate)
  return Found(
    samples_per_s=best_rate,
    bound=max(best_rate, *(p[0] for p in problems)),
    batch=best_batch,
    blocks=best,
    exact_samples_per_s=exact,
    programmes=count,
    problems=len(problems),
    seconds=seconds,
    exact_seconds=exact_seconds,
  )


def bound_s(costs: Costs, room_MB: float) -> float:
  """Time of a step that no plan is below; infinite where nothing fits.

  The dual of min sum n t, sum n = layers, sum n m <= room: the best of
  layers * min(t + price m) - price * room over prices, at zero or where two
  strategies cost the same.
  """
  time_s, memory_MB = costs.time_s, costs.memory_MB
  if costs.layers * memory_MB.min() > room_MB:
    return np.inf
  with np.errstate(divide='ignore', invalid='ignore'):
    prices = (
      np.subtract.outer(time_s, time_s)
      / np.subtract.outer(memory_MB, memory_MB).T
    )
  prices = np.append(prices[np.isfinite(prices) & (prices > 0.0)], 0.0)
  least = (time_s + prices[:, None] * memory_MB).min(1)
  dual = costs.layers * least - prices * room_MB
  return float(dual.max()) * costs.strategies[0].stages


def two_blocks(costs: Costs, room_MB: float) -> Blocks | None:
  """The best plan of two blocks and a layer between; None where none fits."""
  count = np.arange(costs.layers)[:, None, None, None]
  others = costs.layers - 1 - count

  def summed(of):
    first, middle, last = of[:, None, None], of[:, None], of
    return count * first + middle + others * last

  handed_s = np.where(count > 0, costs.reshard_s[:, :, None], 0.0)
  handed_s = handed_s + np.where(others > 0, costs.reshard_s, 0.0)
  time_s = summed(costs.time_s) + handed_s
  time_s = np.where(summed(costs.memory_MB) <= room_MB, time_s, np.inf)
  at = np.unravel_index(np.argmin(time_s), time_s.shape)
  if not np.isfinite(time_s[at]):
    return None
  return Blocks(
    float(time_s[at]) * costs.strategies[0].stages,
    tuple(costs.strategies[i] for i in at[1:]),
    (int(at[0]), 1, costs.layers - 1 - int(at[0])),
  )


def exact_s(costs: Costs, room_MB: float) -> float:
  """Galvatron's dynamic programme over layers and megabytes: exact [s]."""
  room = int(room_MB)
  weights = costs.memory_MB.astype(int)
  best = np.zeros((room + 1, len(weights)))
  for layer in range(costs.layers):
    after = np.full_like(best, np.inf)
    for s, weight in enumerate(weights):
      if weight > room:
        continue
      before = best[: room + 1 - weight]
      if layer:
        before = before + costs.reshard_s[:, s]
      after[weight:, s] = before.min(1) + costs.time_s[s]
    best = after
  return float(best[room].min()) * costs.strategies[0].stages


def _exact(problems, reached: float) -> tuple[float, int, float]:
  """The exact optimum, by exact programmes where the bound allows more."""
  began = time.process_time()
  best, count = reached, 0
  for rate, batch, costs, room_MB in sorted(problems, key=lambda p: -p[0]):
    if rate <= best:
      break
    best = max(best, batch / exact_s(costs, room_MB))
    count += 1
  return best, count, time.process_time() - began


def _depths(published) -> list[int]:
  gpus = published['machine']['gpus']
  return [2**i for i in range(gpus.bit_length())]


def _batches(published) -> range:
  step = published['software']['batch_step']
  return range(step, published['model']['most_batch'] + 1, step)
