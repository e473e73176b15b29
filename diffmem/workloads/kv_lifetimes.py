"""How long cached keys and values wait for their next use.

Capacity and time are one question: to keep every block for an age T after its
last use takes room for the *working set* W(T), the blocks used within the last
T (Denning, "The working set model for program behavior", CACM 11(5), 1968).
With N(t) uses and gaps g to the next use of the same block,

    W(T) = 1/D sum min(g, T)

over a window of D seconds, and a share of P(g <= T) of the uses hits. An LRU
cache of W(T) blocks keeps a block for about T (Che, Tung and Wang, JSAC 20(7),
2002). Ages do not change with the rate of a service that has more sessions of
the same kind, and W is proportional to it; that is how a trace is scaled.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffmem import errors
from diffmem.workloads.decode import Idle


class Lifetimes(NamedTuple):
  """Uses of blocks, each with the time to the next use of the same block.

  Attributes:
    used_s: when a block was used [s]; [use].
    next_s: until its next use, inf where the trace shows none [s]; [use].
    tokens: of the block; [use].
    duration_s: of the trace [s].
    rate: how many times the trace's traffic there is, as more sessions.
  """

  used_s: np.ndarray
  next_s: np.ndarray
  tokens: np.ndarray
  duration_s: float
  rate: float = 1.0

  def working_set(self, age_s: np.ndarray | float) -> np.ndarray:
    """Mean tokens that were used within the last `age_s`, of any shape.

    What was last used before the trace began is unknown and not counted;
    `age_s` well below `duration_s` makes that small.
    """
    ages = np.asarray(age_s, float)
    left = np.minimum(self.next_s, self.duration_s - self.used_s)
    # Sum of min(left, T) from sorted cumulative sums.
    order = np.argsort(left)
    left, tokens = left[order], self.tokens[order]
    below = np.concatenate([[0.0], np.cumsum(left * tokens)])
    above = np.concatenate([[0.0], np.cumsum(tokens)])
    at = np.searchsorted(left, ages, side='right')
    total = below[at] + ages * (above[-1] - above[at])
    return self.rate * total / self.duration_s

  def reused_per_s(self, age_s: np.ndarray | float) -> np.ndarray:
    """Tokens per second that are used again within `age_s`, of any shape."""
    known = np.isfinite(self.next_s)
    gaps, tokens = self.next_s[known], self.tokens[known]
    order = np.argsort(gaps)
    total = np.concatenate([[0.0], np.cumsum(tokens[order])])
    at = np.searchsorted(gaps[order], np.asarray(age_s, float), side='right')
    return self.rate * total[at] / self.duration_s

  def age_of(self, tokens: np.ndarray | float) -> np.ndarray:
    """How long a cache of so many tokens keeps a block [s], of any shape.

    Returns:
      inf where the cache holds all that the trace uses.
    """
    ages = np.concatenate([[0.0], np.geomspace(1e-3, self.duration_s, 400)])
    held = self.working_set(ages)
    wanted = np.asarray(tokens, float)
    found = np.interp(wanted, held, ages)
    return np.where(wanted >= held[-1], np.inf, found)

  def idle(self, splits_s: Sequence[float], step_s: float) -> tuple[Idle, ...]:
    """Silent caches as groups for a plan, by the time since their last use.

    A cache that evicts by age cannot know which blocks come back: a group has
    all blocks of its ages, also those that nobody asks for again.

    Args:
      splits_s: rising ages at which a group ends [s]; what is older is
        dropped.
      step_s: of the decode step that the reads are counted in [s].

    Returns:
      A group for each split, `Decoding.idle` of a plan.

    Raises:
      SpecError: splits that do not rise, or exceed half of the trace.
    """
    splits = np.asarray(splits_s, float)
    if not len(splits) or (np.diff(splits, prepend=0.0) <= 0).any():
      raise errors.SpecError(
        f'splits_s = {list(splits_s)}: expected rising positive ages'
      )
    if splits[-1] > self.supported_s:
      raise errors.SpecError(
        f'splits_s: {splits[-1]:g} s is more than the trace can tell; expected '
        f'at most half of its {self.duration_s:g} s'
      )
    tokens = np.diff(self.working_set(splits), prepend=0.0)
    read = np.diff(self.reused_per_s(splits), prepend=0.0)
    return tuple(
      Idle(float(kept), float(again * step_s / kept) if kept else 0.0)
      for kept, again in zip(tokens, read, strict=True)
    )

  @property
  def supported_s(self) -> float:
    """The longest age that half of the trace can show [s]."""
    return self.duration_s / 2.0


def lifetimes_of(
  requests: Sequence[Sequence[int]],
  arrival_s: np.ndarray,
  prompt_tokens: np.ndarray,
  block_tokens: int,
  rate: float = 1.0,
) -> Lifetimes:
  """Reads a trace of requests in order of arrival.

  Args:
    requests: block hashes of each prompt, from its start.
    arrival_s: of each request, from 0 on [s]; [request].
    prompt_tokens: of each prompt; [request].
    block_tokens: tokens of a block; the last of a prompt may have fewer.
    rate: how many times the trace's traffic there is, as more sessions of the
      same kind that share nothing with those of the trace.
  """
  counts = np.array([len(r) for r in requests], np.int64)
  blocks = np.concatenate([np.asarray(r, np.int64) for r in requests])
  used_s = np.repeat(np.asarray(arrival_s, float), counts)
  order = np.lexsort((np.arange(len(blocks)), blocks))
  same = blocks[order][1:] == blocks[order][:-1]
  following = np.full(len(blocks), np.inf)
  gaps = used_s[order][1:] - used_s[order][:-1]
  following[order[:-1][same]] = gaps[same]
  return Lifetimes(
    used_s,
    following,
    block_sizes(counts, prompt_tokens, block_tokens),
    float(arrival_s[-1]),
    rate,
  )


def block_sizes(
  counts: np.ndarray, prompt_tokens: np.ndarray, block_tokens: int
) -> np.ndarray:
  """Tokens of each block of each prompt; the last has what is left.

  Args:
    counts: blocks of each prompt; [request].
    prompt_tokens: of each prompt; [request].
    block_tokens: of a whole block.

  Returns:
    [block of all prompts].
  """
  counts = np.asarray(counts, np.int64)
  sizes = np.full(int(counts.sum()), float(block_tokens))
  last = np.cumsum(counts)[counts > 0] - 1
  whole = (counts - 1) * block_tokens
  sizes[last] = (np.asarray(prompt_tokens, float) - whole)[counts > 0]
  return sizes
