"""What a request trace asks of caches of every size, by groups of sessions.

Every use of a block has a depth: the bytes that an LRU cache must hold for it
to hit (`workloads.kv_reuse`). A hit spares the accelerator the block's share
of a prompt's pass and takes the time of reloading it; where reloading takes
longer, it is computed.

Sums up to each capacity of a grid are kept for groups of sessions (requests
that continue each other), so that resampled groups give the spread of anything
that follows from them (a bootstrap of clusters: Davison and Hinkley, 1997,
section 3.8). Other sessions also fill the cache otherwise: capacities of the
grid move with the working set of the same age (`workloads.kv_lifetimes`), which
is a sum over sessions as hits are. The rate of prompt tokens is held: the user
knows it. On made-up services nominal 90 % intervals hold 83 to 88 % of the true
hit rates; with resampled slices of time they held 53 to 75 %.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffmem import errors
from diffmem.system import System
from diffmem.traces.requests import Requests
from diffmem.workloads import caches, kv_lifetimes, kv_reuse
from diffmem.workloads.transformer import Transformer

# Tokens of a pass over prompts: the largest batch of prompt tokens of vLLM on
# accelerators with 70 GB and more (vllm-project/vllm, engine/arg_utils.py).
PASS_TOKENS = 8192
# Time of a pass over new tokens after cached ones [s], accelerators together:
# `runs.prompt_pass.PromptPass`, or `kv_reuse.recompute_s` by default.
Compute = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Places of a prompt whose tokens are timed; between them it is linear.
_KNOTS = 12
# A block that more requests have is no session's own.
_RARE_USES, _RARE_SHARE = 30.0, 0.01
# A context beyond every window.
_LONG = 2.0**20


class KvDemand(NamedTuple):
  """Uses of blocks.

  Attributes:
    depth_B: bytes that a cache must hold for a hit; inf where none helps [B];
      [use].
    tokens: of the block; [use].
    compute_s: accelerator time of computing it [s]; [use].
    used_s: when [s]; [use].
    next_s: until the block's next use, inf where there is none [s]; [use].
    proven: whether the block's use before was one of a known block already:
      what admission after a second use asks of a hit; [use].
    session: of the use, a whole number; [use].
    token_B: bytes of a token's keys and values [B].
    rate: how many times the trace's traffic there is.
    duration_s: of the trace [s].
    requests: in the trace.
  """

  depth_B: np.ndarray
  tokens: np.ndarray
  compute_s: np.ndarray
  used_s: np.ndarray
  next_s: np.ndarray
  proven: np.ndarray
  session: np.ndarray
  token_B: float
  rate: float
  duration_s: float
  requests: int


class Sums(NamedTuple):
  """Sums over uses, by group of sessions and up to each capacity of a grid.

  All are per second and scaled by the rate of the service, so that a sum over
  groups is what it sees.

  Attributes:
    grid_B: capacities, from 0 on [B]; [capacity].
    tokens: of all uses [1/s]; [group].
    compute_s: accelerator time to compute all [s/s]; [group].
    hit_tokens: of uses that a cache of that size has [1/s]; [group capacity].
    held_B: of what such a cache holds, by age [B]; [group capacity].
    spared_s: accelerator time, by tier, of hits that are worth reloading,
      less the time that the accelerator waits for them [s/s];
      [group capacity].
    loaded_tokens: by tier, tokens of those hits [1/s]; [group capacity].
    passed_tokens: by tier, tokens that are written to it when the tiers before
      it hold so much [1/s]; [group capacity].
  """

  grid_B: np.ndarray
  tokens: np.ndarray
  compute_s: np.ndarray
  hit_tokens: np.ndarray
  held_B: np.ndarray
  spared_s: Mapping[str, np.ndarray]
  loaded_tokens: Mapping[str, np.ndarray]
  passed_tokens: Mapping[str, np.ndarray]

  def mean(self, weights: np.ndarray | None = None) -> 'Sums':
    """The service with so many of each group, as one group.

    Args:
      weights: how often each group is there, at the same rate of tokens;
        [group]. None for once.
    """
    weights = np.ones(len(self.tokens)) if weights is None else weights
    share = weights * self.tokens.sum() / (weights @ self.tokens)
    held_B = share @ self.held_B
    all_B = self.held_B.sum(0)
    moved = np.where(all_B > 0, held_B / np.where(all_B > 0, all_B, 1.0), 1.0)
    # Ages rise along the grid, and so do capacities.
    grid_B = np.maximum.accumulate(self.grid_B * moved)

    def of(table):
      return (share @ table)[None]

    return Sums(
      grid_B,
      of(self.tokens),
      of(self.compute_s),
      of(self.hit_tokens),
      held_B[None],
      {name: of(table) for name, table in self.spared_s.items()},
      {name: of(table) for name, table in self.loaded_tokens.items()},
      {name: of(table) for name, table in self.passed_tokens.items()},
    )


def token_bytes(
  model: Transformer, kv_B: float | None = None, tokens: int = 4096
) -> float:
  """Bytes that a token keeps in a cache of prefixes, all layers [B].

  A prefix can end at any block, so that layers with a window keep all of
  their tokens here. Compressed attention keeps what it compressed; the few
  tokens of its window are left out. States of linear attention are kept once
  per block and are shared out over its tokens.

  Args:
    model: the transformer.
    kv_B: bytes of a cached value; None for the model's own format.
    tokens: of a block.
  """
  value_B = kv_B or model.formats.part_B('kv_cache')
  total = 0.0
  for group in model.attention_groups():
    attention = group.attention
    kept = attention.kept_values(_LONG) - attention.kept_values(_LONG / 2)
    total += value_B * group.caching_layers * kept / (_LONG / 2)
    # One byte a value of an index, as `caches.decode_caches` has it.
    keys = attention.index_keys(_LONG) / _LONG
    total += group.layers * attention.index_values * keys
  states = caches.decode_caches(model, 1.0, kv_B).get(caches.STATES)
  return total + (float(states.kept_B) / tokens if states else 0.0)


def kv_demand(
  requests: Requests,
  system: System,
  model: Transformer,
  *,
  rate: float = 1.0,
  kv_B: float | None = None,
  compute: Compute | None = None,
) -> KvDemand:
  """Reads a trace as uses of blocks on a machine.

  Args:
    requests: with hashes.
    system: the machine.
    model: the transformer.
    rate: how many times the trace's traffic there is, as more sessions of the
      same kind that share no prefix with those of the trace.
    kv_B: bytes of a cached value; None for the model's own format.
    compute: time of a pass over prompts; by default that of the system's laws,
      of one accelerator that has the whole model.

  Raises:
    SpecError: a trace without hashes, or a rate that is not positive.
  """
  if requests.blocks is None:
    raise errors.SpecError(
      f'{requests.source}: no column hash_ids; without hashes of prefixes '
      'reuse cannot be seen'
    )
  if not rate > 0:
    raise errors.SpecError(f'rate = {rate}: expected more than 0')
  reuse = kv_reuse.reuse_of(requests.blocks)
  lifetimes = kv_lifetimes.lifetimes_of(
    requests.blocks, requests.arrival_s, requests.prompt_tokens,
    requests.block_tokens,
  )  # fmt: skip
  counts = np.array([len(b) for b in requests.blocks], np.int64)
  size = requests.block_tokens
  token_B = token_bytes(model, kv_B, size)
  starts = np.cumsum(counts) - counts
  place = np.arange(len(reuse.depth)) - starts[reuse.request]
  tokens = lifetimes.tokens
  positions = np.arange(int(counts.max())) * size + size / 2.0
  token_s = token_times(compute or laws(system, model), positions)
  return KvDemand(
    reuse.depth * size * token_B * rate,
    tokens,
    tokens * token_s[place],
    requests.arrival_s[reuse.request],
    lifetimes.next_s,
    _proven(requests.blocks, reuse.depth),
    sessions_of(requests.blocks)[reuse.request],
    token_B,
    rate,
    requests.duration_s,
    len(counts),
  )


def sessions_of(blocks: Sequence[Sequence[int]]) -> np.ndarray:
  """Which requests continue each other.

  A session is known by the first block of its prompts that few requests have:
  what comes before is a common beginning, as a system prompt.

  Args:
    blocks: hashes of each prompt's blocks, from its start.

  Returns:
    A whole number for each request, the same for those of a session.
  """
  counts = np.array([len(b) for b in blocks], np.int64)
  names = np.concatenate([np.asarray(b, np.int64) for b in blocks])
  _, block, uses = np.unique(names, return_inverse=True, return_counts=True)
  rare = uses[block] <= max(_RARE_USES, _RARE_SHARE * len(blocks))
  ends = np.cumsum(counts)
  places = np.arange(len(names))
  # The first rare block from each place on, within its request or beyond.
  following = np.where(rare, places, len(names))
  following = np.minimum.accumulate(following[::-1])[::-1]
  first = np.append(following, len(names))[ends - counts]
  first = np.where(first < ends, first, np.maximum(ends - 1, 0))
  return block[first]


def _proven(blocks, depth: np.ndarray) -> np.ndarray:
  """Whether each use follows one of a block that was known already."""
  names = np.concatenate([np.asarray(b, np.int64) for b in blocks])
  order = np.argsort(names, kind='stable')
  same = names[order][1:] == names[order][:-1]
  proven = np.zeros(len(names), bool)
  proven[order[1:][same]] = np.isfinite(depth)[order[:-1][same]]
  return proven


def laws(system: System, model: Transformer) -> Compute:
  """Time of a pass by the system's laws alone, in bfloat16."""

  def compute(tokens, before):
    return kv_reuse.recompute_s(system, model, tokens, before=before)

  return compute


def token_times(compute: Compute, positions: np.ndarray) -> np.ndarray:
  """Time of a prompt token by its position, in passes of many tokens [s].

  Args:
    compute: time of a pass.
    positions: tokens before it, of any shape.

  Returns:
    Linear between places of the mean token of passes of `PASS_TOKENS`, and
    below the first of them.
  """
  first = PASS_TOKENS / 2.0
  last = max(float(np.max(positions)), 2.0 * first)
  places = np.geomspace(first, last, _KNOTS)
  times_s = compute(np.full(_KNOTS, float(PASS_TOKENS)), places - first)
  times_s = np.asarray(times_s, float) / PASS_TOKENS
  slope = (times_s[1] - times_s[0]) / (places[1] - places[0])
  below = times_s[0] + slope * (np.asarray(positions) - places[0])
  inside = np.interp(positions, places, times_s)
  return np.where(np.asarray(positions) < places[0], below, inside)


def sums_of(
  demand: KvDemand,
  reload_s_per_B: Mapping[str, float],
  *,
  second_use: Collection[str] = (),
  wait_share: float = 1.0,
  warm_up: float = 0.1,
  groups: int = 40,
  points: int = 240,
) -> Sums:
  """Sums up to every capacity, by group of sessions.

  Args:
    demand: uses of blocks.
    reload_s_per_B: by tier, time of a byte that is reloaded [s/B].
    second_use: tiers that a block is written to only when it has been used
      again; the first reuse from such a depth is lost.
    wait_share: share of that time that the accelerator waits; 1 is no
      overlap of loading and computing.
    warm_up: share of the trace, from its start, that fills the cache and is
      not counted.
    groups: of sessions, drawn by chance.
    points: capacities of the grid.

  Raises:
    SpecError: a trace that never uses a block again, or a share outside of
      [0, 1).
  """
  if not 0.0 <= warm_up < 1.0:
    raise errors.SpecError(f'warm_up = {warm_up}: expected 0 to below 1')
  begin = warm_up * demand.duration_s
  counted = demand.used_s >= begin
  depth = demand.depth_B[counted]
  known = np.isfinite(depth)
  if not known.any():
    raise errors.SpecError(
      'no block of the trace is used again: no cache helps'
    )
  grid = grid_of(depth[known], points)
  _, session = np.unique(demand.session, return_inverse=True)
  drawn = np.random.default_rng(0).permutation(int(session.max()) + 1)
  group = drawn[session] % groups
  row = group[counted]
  column = np.searchsorted(grid, depth)  # first capacity that holds it
  cell = row * (points + 1) + np.minimum(column, points)
  scale = demand.rate / (demand.duration_s - begin)
  tokens, compute = demand.tokens[counted], demand.compute_s[counted]

  def table(values):
    sums = np.bincount(cell, values, groups * (points + 1))
    return scale * sums.reshape(groups, -1)[:, :-1].cumsum(1)

  def by_group(values):
    return scale * np.bincount(row, values, groups)

  everything = np.ones(len(tokens), bool)
  proven = demand.proven[counted]
  spared, loaded, passed = {}, {}, {}
  for name, s_per_B in reload_s_per_B.items():
    choosy = name in second_use
    left = compute - wait_share * s_per_B * demand.token_B * tokens
    worth = (left > 0) & (proven if choosy else everything)
    spared[name] = table(np.where(worth, left, 0.0))
    loaded[name] = table(np.where(worth, tokens, 0.0))
    # Each use of a block that is admitted brings it back one day, unless its
    # next use finds it before.
    admitted = by_group(np.where(known, tokens, 0.0) if choosy else tokens)
    kept = table(np.where(proven, tokens, 0.0) if choosy else tokens)
    passed[name] = np.maximum(admitted[:, None] - kept, 0.0)
  return Sums(
    grid,
    by_group(tokens),
    by_group(compute),
    table(tokens),
    _held_B(demand, group, groups, grid),
    spared,
    loaded,
    passed,
  )


def _held_B(demand: KvDemand, group, groups: int, grid_B) -> np.ndarray:
  """Working sets of groups at the ages of capacities; [group capacity]."""

  def part(chosen):
    return kv_lifetimes.Lifetimes(
      demand.used_s[chosen], demand.next_s[chosen], demand.tokens[chosen],
      demand.duration_s, demand.rate,
    )  # fmt: skip

  ages = part(slice(None)).age_of(grid_B / demand.token_B)
  ages = np.minimum(ages, demand.duration_s)
  return demand.token_B * np.stack(
    [part(group == i).working_set(ages) for i in range(groups)]
  )


def grid_of(depth_B: np.ndarray, points: int) -> np.ndarray:
  """Capacities from 0 to the deepest reuse, evenly in their logarithm [B]."""
  lowest, highest = depth_B[depth_B > 0].min(), depth_B.max()
  rising = np.geomspace(lowest, max(highest, lowest * 1.01), points - 1)
  rising[-1] = max(highest, lowest * 1.01)
  return np.concatenate([[0.0], rising])
