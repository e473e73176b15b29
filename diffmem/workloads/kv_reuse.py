"""Reuse of KV caches across requests: hits against capacity, reload against
recompute.

Requests come as lists of block hashes, each of a whole prefix, as the Mooncake
traces do (Qin et al., "Mooncake", FAST 2025, section 4.1: 512-token blocks). A
block is of use only when all before it are there too: a hit ends at the first
block that is missing.

The whole curve of an LRU cache comes from one pass (Mattson et al.,
"Evaluation techniques for storage hierarchies", IBM Systems Journal 9(2),
1970): a cache of C blocks holds those whose stack distance is at most C. A
request looks its blocks up first and then touches them, the last one first, so
that a prefix outlives what follows it (vLLM frees blocks in that order: Kwon
et al., SOSP 2023; SGLang evicts leaves: Zheng et al., NeurIPS 2024). With
p(i) the access before to the block of access i, and s(i) the first access of
its request, the distance at look-up is

    d(i) = s(i) - p(i) - #{j < s(i) : p(j) > p(i)}

because every j with p(j) > p(i) repeats a block of that window. The count is
one of inversions, by merging in O(n log^2 n).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffmem.cost import Demand, predict_jit
from diffmem.system import System
from diffmem.workloads.transformer import Transformer

# Stack distance of a block that was never there before.
COLD = np.inf
# Times that are predicted at once at least.
_LEAST_ROW = 64


class Reuse(NamedTuple):
  """What a request trace says about caches of any size.

  Attributes:
    depth: by access, blocks that the cache must hold for a hit; COLD where
      no cache helps; [access].
    request: by access, the request it belongs to; [access].
  """

  depth: np.ndarray
  request: np.ndarray

  def hit_rate(self, capacity_blocks: np.ndarray | float) -> np.ndarray:
    """Share of all blocks that an LRU cache of that size has.

    Args:
      capacity_blocks: sizes of any shape.

    Returns:
      The same shape.
    """
    known = np.sort(self.depth[np.isfinite(self.depth)])
    hits = np.searchsorted(known, np.asarray(capacity_blocks), side='right')
    return hits / len(self.depth)

  def tier_hits(self, capacities_blocks: Sequence[float]) -> np.ndarray:
    """Share of blocks that each tier of a hierarchy serves, fastest first.

    What a tier evicts moves to the next one (exclusive LRU), so that the
    tiers together are one LRU cache. The rest is to be computed.
    """
    rates = self.hit_rate(np.cumsum(capacities_blocks))
    return np.diff(rates, prepend=0.0)

  def hit_blocks(self, capacity_blocks: float) -> np.ndarray:
    """Leading blocks of each request that a cache of that size has."""
    hits = (self.depth <= capacity_blocks).astype(np.int64)
    return np.bincount(self.request, hits, int(self.request.max()) + 1)


def reuse_of(requests: Sequence[Sequence[int]]) -> Reuse:
  """Reads a trace of requests in order of arrival.

  Args:
    requests: block hashes of each request's prompt, from its start; a hash
      stands for the block and all before it. Requests may be empty.

  Returns:
    How deep a cache must be for each block, the blocks before it included.
  """
  lengths = np.array([len(r) for r in requests], np.int64)
  blocks = (
    np.concatenate([np.asarray(r, np.int64) for r in requests])
    if lengths.sum()
    else np.zeros(0, np.int64)
  )
  request = np.repeat(np.arange(len(lengths)), lengths)
  starts = np.cumsum(lengths) - lengths
  # Where each access stands when a request's blocks are touched last to first.
  touched = (2 * starts + lengths - 1)[request] - np.arange(len(blocks))
  depth = _distances(blocks[touched], request, starts[request])[touched]
  return Reuse(_running_max(depth, starts[lengths > 0]), request)


def reload_s(
  system: System,
  cache_B: np.ndarray | float,
  block_B: float,
  *,
  tier: str = 'DRAM',
) -> np.ndarray:
  """Time to bring cached keys and values back to the accelerator [s].

  Args:
    system: the machine.
    cache_B: bytes to reload, of any shape [B].
    block_B: bytes that lie together: one block of one layer, or of all [B].
    tier: where they are.
  """
  shape, (padded_B,) = _padded(cache_B)
  demand = Demand.of(
    system,
    read_B={tier: padded_B},
    granule_B={tier: block_B, **_via(system, tier, block_B)},
    launches=1.0,
  )
  return _first(predict_jit(system, demand).time_s, shape)


def recompute_s(
  system: System,
  model: Transformer,
  tokens: np.ndarray | float,
  *,
  near: str = 'HBM',
  engine: str = 'matrix:bfloat16',
  before: np.ndarray | float = 0.0,
) -> np.ndarray:
  """Time to compute the keys and values of a prompt again [s].

  Args:
    system: the machine.
    model: the transformer.
    tokens: to compute, of any shape.
    near: the accelerator's memory, where the weights are.
    engine: where matrix products run; attention as in `pass_s`.
    before: tokens before them whose keys and values are there.
  """
  tokens = np.asarray(tokens, float)
  return pass_s(
    system, model, tokens, before + tokens / 2.0, near=near, engine=engine
  )


def pass_s(
  system: System,
  model: Transformer,
  tokens: np.ndarray | float,
  keys: np.ndarray | float,
  *,
  near: str = 'HBM',
  engine: str = 'matrix:bfloat16',
) -> np.ndarray:
  """Time of a pass over prompt tokens, of one sequence or of several [s].

  Args:
    system: the machine.
    model: the transformer.
    tokens: that go through every layer together, of any shape.
    keys: tokens before the mean one of them, its own included.
    near: the accelerator's memory, where the weights are.
    engine: where matrix products run; attention runs on the fitted engine
      'prefill:...' ('mla_prefill:...' for latent attention) of the same
      format where the system has it.
  """
  shape, (tokens, keys) = _padded(tokens, keys)
  tables = model.parameters().embeddings
  weights = model.active_parameters() - tables
  core = sum(
    g.layers
    * g.attention.core_flops_per_key
    * np.vectorize(g.keys, otypes=[float])(keys)
    for g in model.attention_groups()
  )
  products = Demand.of(
    system,
    read_B={near: 2.0 * (model.parameters().total - tables)},
    flops={engine: tokens * 2.0 * weights},
    launches=float(model.layers),
  )
  attends = _attention_engine(system, model, engine)
  attention = Demand.of(system, flops={attends: tokens * core})
  time_s = (
    predict_jit(system, products).time_s + predict_jit(system, attention).time_s
  )
  return _first(time_s, shape)


def _attention_engine(system: System, model: Transformer, engine: str) -> str:
  """The fitted engine of the prompt's attention kernel, or the matrix one."""
  names = [engine.replace('matrix:', 'prefill:'), engine]
  if model.attention.kind == 'mla':
    names.insert(0, engine.replace('matrix:', 'mla_prefill:'))
  return next(n for n in names if n in system.engine_names or n == engine)


def prompt_s(
  system: System,
  model: Transformer,
  tokens: np.ndarray | float,
  hit_share: np.ndarray | float,
  *,
  tier: str = 'DRAM',
  block_tokens: int = 16,
  **recompute,
) -> np.ndarray:
  """Time until a prompt's keys and values are there, a part of it cached [s].

  Reloading comes first, as the rest attends to it.

  Args:
    system: the machine.
    model: the transformer.
    tokens: of the prompt.
    hit_share: of its tokens, from the start, that are cached.
    tier: where they are.
    block_tokens: tokens of a block; one layer's keys and values of it lie
      together.
    **recompute: `near`, `engine` of `recompute_s`.
  """
  tokens = np.asarray(tokens, float)
  cached = tokens * hit_share
  computed = recompute_s(
    system, model, tokens - cached, before=cached, **recompute
  )
  reloaded = reload_s(
    system, _cache_B(model, cached), _block_B(model, block_tokens), tier=tier
  )
  return np.where(cached < tokens, computed, 0.0) + np.where(
    cached > 0, reloaded, 0.0
  )


def breakeven_tokens(
  system: System,
  model: Transformer,
  *,
  tier: str = 'DRAM',
  block_tokens: int = 16,
  most_tokens: int = 1 << 20,
  **recompute,
) -> float:
  """Prefix length above which reloading is quicker than computing again.

  Args:
    system: the machine.
    model: the transformer.
    tier: where the cache is.
    block_tokens: tokens of a block; one layer's keys and values of it lie
      together.
    most_tokens: longest prefix that is looked at.
    **recompute: `near`, `engine` of `recompute_s`.

  Returns:
    Tokens, from a grid of 16 per doubling; inf when computing always wins.
  """
  longest = min(most_tokens, model.max_context)
  tokens = np.unique(np.round(2.0 ** np.arange(0, np.log2(longest), 1 / 16)))
  reload = reload_s(
    system, _cache_B(model, tokens), _block_B(model, block_tokens), tier=tier
  )
  wins = reload < recompute_s(system, model, tokens, **recompute)
  lost = np.flatnonzero(~wins)
  if not len(lost):
    return float(tokens[0])
  return float(tokens[lost[-1] + 1]) if lost[-1] + 1 < len(tokens) else np.inf


def _cache_B(model: Transformer, tokens: np.ndarray) -> np.ndarray:
  """Bytes of the keys and values of so many tokens, in 16 bits."""
  return 2.0 * np.vectorize(model.cache_values, otypes=[float])(tokens)


def _block_B(model: Transformer, block_tokens: int) -> float:
  """Bytes of one layer's keys and values of a block."""
  return 2.0 * model.cache_values(block_tokens) / model.attention_layers


def _padded(
  *values: np.ndarray | float,
) -> tuple[tuple[int, ...], list[np.ndarray]]:
  """Values in one row, as many as a power of two: few compiled programs.

  Returns:
    The shape that they broadcast to, and each of them with its last element
    repeated.
  """
  arrays = np.broadcast_arrays(*(np.asarray(v, float) for v in values))
  size = arrays[0].size
  more = max(_LEAST_ROW, 1 << max(size - 1, 0).bit_length()) - size
  rows = [np.pad(a.reshape(-1), (0, more), 'edge') for a in arrays]
  return arrays[0].shape, rows


def _first(time_s, shape: tuple[int, ...]) -> np.ndarray:
  """What is not padding."""
  return np.asarray(time_s)[: int(np.prod(shape))].reshape(shape)


def _via(system: System, tier: str, block_B: float) -> dict[str, float]:
  via = system.tier(tier).via
  return {via: block_B} if via else {}


def _distances(
  blocks: np.ndarray, request: np.ndarray, start: np.ndarray
) -> np.ndarray:
  """Stack distance of each block when its request arrives.

  Args:
    blocks: names in order of touching; [access].
    request: of each access, not falling; [access].
    start: first access of that request; [access].
  """
  last = _last_seen(blocks)
  of_the_same = _greater_before(last + request * (len(blocks) + 1))
  distance = start - last - (_greater_before(last) - of_the_same)
  # A block that its own request repeats is there by then.
  distance = np.where(last >= start, 1, distance)
  return np.where(last >= 0, distance, COLD)


def _last_seen(blocks: np.ndarray) -> np.ndarray:
  """Index of the access before to the same block, -1 at the first."""
  order = np.argsort(blocks, kind='stable')
  same = blocks[order][1:] == blocks[order][:-1]
  last = np.full(len(blocks), -1)
  last[order[1:][same]] = order[:-1][same]
  return last


def _greater_before(values: np.ndarray) -> np.ndarray:
  """How many elements before each one are greater; bottom-up merging."""
  n = len(values)
  count = np.zeros(n, np.int64)
  index = np.arange(n)
  width = 1
  while width < n:
    pair = index // (2 * width)
    order = np.lexsort((values, pair))
    is_left = index[order] // width % 2 == 0
    # Left elements up to here, less those of the pairs before.
    seen = np.cumsum(is_left)
    in_pair = np.bincount(pair, index // width % 2 == 0).astype(np.int64)
    before = (np.cumsum(in_pair) - in_pair)[pair[order]]
    greater = in_pair[pair[order]] - (seen - before)
    right = order[~is_left]
    count[right] += greater[~is_left]
    width *= 2
  return count


def _running_max(depth: np.ndarray, starts: np.ndarray) -> np.ndarray:
  """Largest depth so far within each request, which starts at `starts`."""
  if not len(depth):
    return depth
  finite = depth[np.isfinite(depth)]
  top = float(finite.max()) + 1.0 if len(finite) else 1.0
  level = np.zeros(len(depth))
  level[starts] = 1.0
  # Each request on a floor of its own, above all of the one before.
  floor = (np.cumsum(level) - 1.0) * (2.0 * top)
  capped = np.minimum(depth, top)
  found = np.maximum.accumulate(capped + floor) - floor
  return np.where(found >= top, COLD, found)
