"""Where tokens go: experts and rows of the busiest device.

A step waits for the device with most rows, and a device reads the weights of
those experts only that have rows. Two loads of experts:

- even (skew 0): every expert has the same number of rows, and few tokens
  choose experts that lie far apart, as routers trained for balance do;
- skewed: loads are draws from a density x^-skew between 1 and 0.8 tokens (0.01
  and 2 where there are fewer choices than experts), scaled to all choices; an
  expert has a token at most once, and what rounding leaves over goes to idle
  experts. This is how ai-dynamo/aiconfigurator draws 'power_law_<skew>'
  (collector/helper.py), which found 1.01 for DeepSeek-V3 and 1.2 for Qwen3.

Expectations over the draws are means over fixed stratified samples, so that
the same shape always costs the same.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

_DRAWS = 32
_CHUNK = 128  # routings that are drawn at once
# Range of a load: tokens x this where there are more choices than experts.
_MOST_TOKENS = 0.8
_FEW_RANGE = (0.01, 2.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routing:
  """The busiest device; expectations [op].

  Attributes:
    rows: pairs of token and expert that it computes.
    active: experts that have a row.
    most: rows of its busiest expert.
    tiles: tiles of so many rows, summed over its experts, by tile.
  """

  rows: np.ndarray
  active: np.ndarray
  most: np.ndarray
  tiles: Mapping[int, np.ndarray]


def uniform_active(tokens, topk, experts, shards) -> np.ndarray:
  """Expected experts of one device with a row, were every choice random."""
  idle = np.exp(tokens * np.log1p(-np.minimum(topk / experts, 1.0 - 1e-12)))
  return experts / shards * (1.0 - idle)


def busiest_device(
  tokens: np.ndarray,
  topk: np.ndarray,
  experts: np.ndarray,
  shards: np.ndarray,
  skew: np.ndarray,
  tiles: tuple[int, ...],
) -> Routing:
  """Routing of the device that has most rows.

  Args:
    tokens: of all devices [op].
    topk: experts that a token chooses [op].
    experts: of all devices [op].
    shards: devices that share the experts [op].
    skew: exponent of the density of expert loads; 0 for even loads [op].
    tiles: row tiles to count.
  """
  columns = [
    np.asarray(c, float) for c in (tokens, topk, experts, shards, skew)
  ]
  cases, back = np.unique(
    np.stack(np.broadcast_arrays(*columns), 1), axis=0, return_inverse=True
  )
  found = np.empty((len(cases), 3 + len(tiles)))
  is_even = cases[:, 4] == 0
  found[is_even] = _even(cases[is_even], tiles)
  groups, group_of = np.unique(cases[:, 2:4], axis=0, return_inverse=True)
  for i, (count, spread) in enumerate(groups):
    picked = np.flatnonzero((group_of.ravel() == i) & ~is_even)
    for first in range(0, len(picked), _CHUNK):
      part = picked[first : first + _CHUNK]
      found[part] = _skewed(cases[part], int(count), int(spread), tiles)
  rows, active, most, *counts = found[back.ravel()].T
  return Routing(
    rows=rows,
    active=active,
    most=most,
    tiles=dict(zip(tiles, counts, strict=True)),
  )


def _even(cases, tiles):
  tokens, topk, experts, shards, _ = cases.T
  local = np.ceil(experts / shards)
  active = np.minimum(local, np.ceil(tokens * topk / shards))
  rows = np.maximum(tokens * topk / shards, active)
  each = rows / np.maximum(active, 1.0)
  counts = [active * np.ceil(each / tile) for tile in tiles]
  return np.stack([rows, active, np.ceil(each), *counts], 1)


def _skewed(cases, experts, shards, tiles):
  """Means over the draws [case, 3 + tile]; cases share experts and shards."""
  counts = _loads(cases, experts, shards)
  busiest = counts.sum(-1).argmax(-1)
  counts = np.take_along_axis(counts, busiest[..., None, None], 2)[:, :, 0]
  found = [counts.sum(-1), (counts > 0).sum(-1), counts.max(-1)]
  found += [np.ceil(counts / tile).sum(-1) for tile in tiles]
  return np.stack([f.mean(1) for f in found], 1)


def _loads(cases, experts, shards):
  """Whole rows of every expert [case, draw, device, expert], any order."""
  tokens, topk, skew = (cases[:, i, None, None] for i in (0, 1, 4))
  shards = min(shards, experts)
  local = -(-experts // shards)
  many = tokens * topk > experts
  low = np.where(many, 1.0, _FEW_RANGE[0])
  high = np.where(many, np.maximum(_MOST_TOKENS * tokens, 1.0), _FEW_RANGE[1])
  power = np.where(np.abs(1.0 - skew) < 1e-6, 1e-6, 1.0 - skew)
  quantile = _strata(experts)
  draws = ((high**power - low**power) * quantile + low**power) ** (1.0 / power)
  draws *= tokens * topk / draws.sum(-1, keepdims=True)
  counts = np.minimum(np.round(draws), tokens)
  missing = (tokens * topk)[..., 0] - counts.sum(-1)
  spare = shards * local - experts
  counts = np.pad(counts, ((0, 0), (0, 0), (0, spare)))
  counts = counts.reshape(*counts.shape[:2], shards, local)
  return _settled(counts, missing, tokens[..., None])


def _strata(experts):
  """[draw, expert]: each expert's draws, one per stratum, in random order."""
  order = np.random.default_rng(0).random((_DRAWS, experts)).argsort(0)
  return (order + 0.5) / _DRAWS


def _settled(counts, missing, tokens):
  """Spreads what is missing (or too much) over devices, evenly.

  A device gives rows to its idlest experts, and takes them from its busiest.
  """
  local = counts.shape[-1]
  total = counts.sum(-1)
  free = total < local * tokens[..., 0]
  able = np.where(missing[..., None] > 0, free, total > 0)
  able_count = np.maximum(able.sum(-1), 1)[..., None]
  size = np.abs(missing)[..., None]
  turn = np.cumsum(able, -1) - 1
  share = np.where(able, np.floor((size - turn - 1) / able_count) + 1, 0.0)
  share = np.maximum(share, 0.0)[..., None]
  ascending = np.sort(counts, -1)
  rank = np.arange(local)
  given = _poured(ascending, share)
  taken = np.maximum(ascending - (rank >= local - share), 0.0)
  return np.where(missing[..., None, None] >= 0, given, taken)


def _poured(ascending, share):
  """Fills the lowest counts with `share` rows, to one level and a rest."""
  local = ascending.shape[-1]
  rank = np.arange(local)
  levels = (ascending.cumsum(-1) + share) / (rank + 1.0)
  last = (ascending <= levels).sum(-1, keepdims=True) - 1
  level = np.floor(np.take_along_axis(levels, last, -1))
  filled = np.maximum(ascending, level)
  rest = share - (filled - ascending).sum(-1, keepdims=True)
  return filled + (rank < rest)
