"""Attention: causal over a prompt, and of one new token over a cache.

Prompts follow FlashAttention's tiles (Dao, ICLR 2024, arXiv:2307.08691): a
tile of queries goes over the tiles of keys that it may see. New tokens split
the cache over the device (flash-decoding); the heads of a group share one
read of the cache up to 32 heads.
"""

import numpy as np

from diffmem.cost.kernels.work import (
  Law,
  Shape,
  Work,
  column,
  tile_share,
  wave_features,
)

_TILE = 128.0  # queries and keys of a tile, FlashAttention-3 at head_dim 128
# The exponentials of a pair cost as much as so many more values of a head: the
# H100 does 16 of them while its matrix units do 4096 operations (Shah et al.,
# FlashAttention-3, arXiv:2407.08608, section 3.1); half of them are hidden.
_SOFTMAX_DIM = 32.0
# A narrower cache makes the whole product narrower; not twice as fast, since
# the exponentials stay. Assumption, from 520 and 800 TFLOP/s on an H100.
_NARROW_TIME = 0.65
# Largest group whose heads share one read of the cache: beyond it the kernel
# reads it once per head (measured in aiconfigurator's decode tables).
_SHARED_GROUP = 32.0
_GROUP_ROWS = 16.0  # rows of the smallest matrix instruction, mma m16n8k16
# Keys that one block goes over at a time: fewer cost as much.
_KEY_TILE = 256.0
_SPLIT_KEYS = 128.0  # keys of the smallest split of the cache; assumption
# A head that shares nothing runs on vector units: as slow as so many rows of
# matrix units. Assumption, from 7 and 55 TFLOP/s on an H100.
_LONE_ROWS = 8.0

_COLUMNS = ('num_heads', 'num_kv_heads', 'head_dim', 'window_size')


def causal_pairs(length: np.ndarray, window: np.ndarray) -> np.ndarray:
  """Pairs of query and key: query i sees the last `window` of i + 1 keys.

  Args:
    length: tokens of a prompt.
    window: keys that a query sees at most; 0 for all.
  """
  seen = np.where(window > 0, np.minimum(window, length), length)
  return seen * (seen + 1.0) / 2.0 + (length - seen) * seen


def tile_pairs(
  length: np.ndarray, window: np.ndarray, tile: float = _TILE
) -> np.ndarray:
  """Pairs of query tile and key tile that hold a causal pair.

  A tile of queries j sees key tiles j - ceil((window - 1) / tile) .. j.
  """
  tiles = np.ceil(length / tile)
  reach = 1.0 + np.ceil((window - 1.0) / tile)
  seen = np.where(window > 0, np.minimum(reach, tiles), tiles)
  return seen * (seen + 1.0) / 2.0 + (tiles - seen) * seen


def makespan(blocks: np.ndarray, longest: np.ndarray, units: int) -> np.ndarray:
  """Blocks that the device has time for until its last unit is done.

  Short tiles of a causal prompt go first, so that the longest ones start
  late: on average half of one is left when the other units are idle.

  Args:
    blocks: of all tiles.
    longest: of one tile.
    units: compute units of the device.
  """
  return np.maximum(units * longest, blocks + units * longest / 2.0)


def prefill(shape: Shape, units: int) -> Work:
  """Work of causal attention over prompts.

  Args:
    shape: batch_size, seq_len, num_heads, num_kv_heads, head_dim,
      window_size; optional kv_B, element_B and working_set_bytes.
    units: compute units of the device.
  """
  batch, length = _columns(shape, 'batch_size', 'seq_len')
  heads, kv_heads, dim, window = _columns(shape, *_COLUMNS)
  kv_B = column(shape, 'kv_B', 2.0)
  blocks = tile_pairs(length, window)
  per_block = 4.0 * _TILE**2 * (dim + _SOFTMAX_DIM)
  narrow = kv_B < column(shape, 'element_B', 2.0)
  per_block = per_block * np.where(narrow, _NARROW_TIME, 1.0)
  tiles = np.ceil(length / _TILE)
  reach = np.where(window > 0, 1.0 + np.ceil((window - 1.0) / _TILE), tiles)
  longest = np.minimum(tiles, reach)
  flops = per_block * makespan(batch * heads * blocks, longest, units)
  values = batch * length * dim
  # Rotation and the write to the cache, then attention from the cache.
  read_B = values * (4.0 * heads + (4.0 + 2.0 * kv_B) * kv_heads)
  write_B = values * (4.0 * heads + 2.0 * kv_B * kv_heads)
  seen = np.where(window > 0, np.minimum(window, length), length)
  useful = 4.0 * dim * batch * heads * causal_pairs(length, window)
  features = {
    'log batch': np.log(batch),
    'log length': np.log(length),
    'log heads': np.log(heads),
    'log kv heads': np.log(kv_heads),
    'log head dim': np.log(dim),
    'log seen': np.log(seen),
    'log group': np.log(heads / kv_heads),
    'windowed': (window > 0).astype(float),
    'log padding': np.log(flops / useful),
    'log bytes per unit': np.log((read_B + write_B) / units),
    'log operations per unit': np.log(useful / units),
  }
  for tile in (64, 128, 256):
    features[f'length share of {tile}'] = tile_share(length, tile)
  for tile in (64, 128, 192):
    counts = batch * heads * np.ceil(length / tile)
    features |= wave_features(f'query {tile}', counts, units)
  return Work(
    flops=flops,
    read_B=read_B,
    write_B=write_B,
    working_set_B=column(shape, 'working_set_bytes', read_B + write_B),
    occupancy=np.minimum(1.0, batch * heads * tiles / units),
    features=features,
  )


def decode(shape: Shape, units: int) -> Work:
  """Work of attention of one new token per sequence.

  Args:
    shape: batch_size, kv_len, num_heads, num_kv_heads, head_dim,
      window_size; optional kv_B and working_set_bytes.
    units: compute units of the device.
  """
  batch, length = _columns(shape, 'batch_size', 'kv_len')
  heads, kv_heads, dim, window = _columns(shape, *_COLUMNS)
  kv_B = column(shape, 'kv_B', 2.0)
  seen = np.where(window > 0, np.minimum(window, length), length)
  seen = np.maximum(seen, 1.0)
  group = heads / kv_heads
  cache_B = 2.0 * batch * kv_heads * seen * dim * kv_B
  reads = np.where(group > _SHARED_GROUP, group, 1.0)
  is_alone = (group > _SHARED_GROUP) | (group <= 1.0)
  shared_rows = np.ceil(group / _GROUP_ROWS) * _GROUP_ROWS
  rows = np.where(is_alone, _LONE_ROWS * group, shared_rows)
  own_B = 2.0 * batch * heads * dim
  splits = np.ceil(seen / _SPLIT_KEYS)
  streams = batch * kv_heads
  read_B = cache_B * reads + own_B
  features = {
    'log batch': np.log(batch),
    'log length': np.log(np.maximum(length, 1.0)),
    'log seen': np.log(seen),
    'log heads': np.log(heads),
    'log kv heads': np.log(kv_heads),
    'log head dim': np.log(dim),
    'log group': np.log(group),
    'windowed': (window > 0).astype(float),
    'log cache': np.log(cache_B / units),
    'log bytes per unit': np.log((read_B + own_B) / units),
  }
  for size in (1, 2, 4, 8, 16, 32):
    features[f'group up to {size}'] = (group <= size).astype(float)
  for size in (8, 16, 32, 64):
    features[f'group share of {size}'] = tile_share(group, size)
  features |= wave_features('stream', streams, units)
  features |= wave_features('head', batch * heads, units)
  for tile in (64, 128, 256):
    counts = streams * np.ceil(seen / tile)
    features |= wave_features(f'key {tile}', counts, units)
  return Work(
    flops=4.0 * streams * rows * dim * np.ceil(seen / _KEY_TILE) * _KEY_TILE,
    read_B=read_B,
    write_B=own_B,
    working_set_B=column(shape, 'working_set_bytes', cache_B + 2.0 * own_B),
    occupancy=np.minimum(1.0, streams * splits / units),
    features=features,
  )


def _columns(shape: Shape, *names: str) -> list[np.ndarray]:
  return [np.asarray(shape[name], float) for name in names]


PREFILL = Law('prefill', ('batch_size', 'seq_len', *_COLUMNS), prefill)
DECODE = Law('decode', ('batch_size', 'kv_len', *_COLUMNS), decode)
