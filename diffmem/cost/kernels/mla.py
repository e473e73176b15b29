"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434).

A token caches one latent of 512 values and one rotated key of 64, shared by
all heads. Prompts expand it to keys of 192 and values of 128 per head; new
tokens attend to the latents themselves, and two batched products take each
head's query to the latent space ('pre') and its result back ('post').
"""

import numpy as np

from diffmem.cost.kernels import gemm
from diffmem.cost.kernels.attention import causal_pairs, tile_pairs
from diffmem.cost.kernels.work import (
  Law,
  Shape,
  Work,
  column,
  tile_share,
  wave_features,
)

# DeepSeek-V2, table 1 and section 2.1.
_LATENT = 512.0
_ROTATED = 64.0
_KEY = 192.0
_VALUE = 128.0

_TILE = 128.0  # queries and keys of a tile
_HEAD_TILE = 64.0  # heads of a tile (deepseek-ai/FlashMLA)
_SPLIT_KEYS = 64.0  # keys of a block of the cache (deepseek-ai/FlashMLA)


def prefill(shape: Shape, units: int) -> Work:
  """Work of causal latent attention over prompts, keys expanded.

  Args:
    shape: batch_size, seq_len, num_heads; optional working_set_bytes.
    units: compute units of the device.
  """
  batch, length, heads = _columns(shape, 'batch_size', 'seq_len', 'num_heads')
  no_window = np.zeros_like(length)
  tiles = np.ceil(length / _TILE)
  blocks = batch * heads * tile_pairs(length, no_window, _TILE)
  per_block = 2.0 * _TILE**2 * (_KEY + _VALUE)
  flops = per_block * np.maximum(blocks, units * tiles)
  useful = 2.0 * (_KEY + _VALUE) * batch * heads
  useful = useful * causal_pairs(length, no_window)
  values = batch * length * heads
  read_B = 2.0 * values * (2.0 * _KEY + _VALUE)
  write_B = 2.0 * values * _VALUE
  features = {
    'log batch': np.log(batch),
    'log length': np.log(length),
    'log heads': np.log(heads),
    'log padding': np.log(flops / useful),
    'log bytes per unit': np.log((read_B + write_B) / units),
    'log operations per unit': np.log(useful / units),
  }
  for tile in (64, 128):
    features[f'length share of {tile}'] = tile_share(length, tile)
  features |= wave_features('query', batch * heads * tiles, units)
  return Work(
    flops=flops,
    read_B=read_B,
    write_B=write_B,
    working_set_B=column(shape, 'working_set_bytes', read_B + write_B),
    occupancy=np.minimum(1.0, batch * heads * tiles / units),
    features=features,
  )


def decode(shape: Shape, units: int) -> Work:
  """Work of latent attention of one new token per sequence.

  Args:
    shape: batch_size, kv_len, num_heads; optional kv_B, working_set_bytes.
    units: compute units of the device.
  """
  batch, length, heads = _columns(shape, 'batch_size', 'kv_len', 'num_heads')
  length = np.maximum(length, 1.0)
  kv_B = column(shape, 'kv_B', 2.0)
  cache_B = batch * length * (_LATENT + _ROTATED) * kv_B
  head_tiles = np.ceil(heads / _HEAD_TILE)
  splits = np.ceil(length / _SPLIT_KEYS)
  pairs = batch * head_tiles * _HEAD_TILE * splits * _SPLIT_KEYS
  own_B = 2.0 * batch * heads
  read_B = cache_B * head_tiles + own_B * (_LATENT + _ROTATED)
  write_B = own_B * _LATENT
  features = {
    'log batch': np.log(batch),
    'log length': np.log(length),
    'log heads': np.log(heads),
    'log cache per unit': np.log(cache_B / units),
    'log operations per unit': np.log(batch * heads * length / units),
    'head share of 64': tile_share(heads, 64.0),
    'head share of 16': tile_share(heads, 16.0),
  }
  streams = batch * head_tiles
  features |= wave_features('stream', streams, units)
  for tile in (64, 256):
    counts = streams * np.ceil(length / tile)
    features |= wave_features(f'key {tile}', counts, units)
  return Work(
    flops=2.0 * pairs * (2.0 * _LATENT + _ROTATED),
    read_B=read_B,
    write_B=write_B,
    working_set_B=column(
      shape, 'working_set_bytes', cache_B + own_B * (2 * _LATENT + _ROTATED)
    ),
    occupancy=np.minimum(1.0, streams * splits / units),
    features=features,
  )


def bmm(shape: Shape, units: int) -> Work:
  """Work of num_heads products [m k] x [k n], in one launch.

  Args:
    shape: m (tokens), n, k, num_heads; optional element_B, weight_bytes and
      working_set_bytes.
    units: compute units of the device.
  """
  m, n, k, heads = _columns(shape, 'm', 'n', 'k', 'num_heads')
  element_B = column(shape, 'element_B', 2.0)
  weight_B = column(shape, 'weight_bytes', heads * n * k * element_B)
  tiles = heads * np.ceil(m / _TILE) * np.ceil(n / _TILE)
  flops, busy = gemm.best_tile(m, n, k, units, heads)
  useful = 2.0 * m * n * k * heads
  # A narrow format is made from two-byte values by a kernel of its own.
  narrow_B = np.where(element_B < 2.0, element_B, 0.0)
  read_B = heads * m * k * (2.0 + narrow_B) + weight_B
  write_B = heads * m * (2.0 * n + narrow_B * k)
  features = {
    'log m': np.log(m),
    'log heads': np.log(heads),
    'to the latents': (n > k).astype(float),
    'log padding': np.log(flops / useful),
    'log bytes per unit': np.log((read_B + write_B) / units),
    'log operations per unit': np.log(useful / units),
  }
  features |= wave_features('tile', tiles, units)
  moved_B = read_B + write_B
  return Work(
    flops=flops,
    read_B=read_B,
    write_B=write_B,
    working_set_B=column(shape, 'working_set_bytes', moved_B),
    occupancy=busy,
    features=features,
  )


def _columns(shape: Shape, *names: str) -> list[np.ndarray]:
  return [np.asarray(shape[name], float) for name in names]


PREFILL = Law('mla_prefill', ('batch_size', 'seq_len', 'num_heads'), prefill)
DECODE = Law('mla_decode', ('batch_size', 'kv_len', 'num_heads'), decode)
BMM = Law('mla_bmm', ('m', 'n', 'k', 'num_heads'), bmm)
