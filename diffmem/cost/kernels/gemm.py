"""Matrix product [m k] x [k n] of one device.

The kernel library tries many tiles; the law takes the best of a few, each
charged for its padding, for the last wave, and for the operands that a small
tile loads per operation. Where the tiles do not fill the device, the depth is
split (split-K, Stream-K: Osama et al., PPoPP 2023, arXiv:2301.03598).
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

# Tiles of CUTLASS's sm90 profiles (NVIDIA/cutlass, generator.py): rows,
# columns.
_TILES = ((64, 64), (64, 128), (128, 128), (64, 256), (128, 256), (256, 128))
# A tile of a x b does a b / (a + b) multiply-adds per operand that it loads;
# at this many it runs at half speed. Assumption.
_HALF_SPEED_INTENSITY = 8.0
_SPLITS = (1, 2, 4, 8)
_SPLIT_DEPTH = 512  # least depth of one split; assumption


def work(shape: Shape, units: int) -> Work:
  """Work of matrix products.

  Args:
    shape: m, n, k; optional weight_bytes, element_B and working_set_bytes.
    units: compute units of the device.
  """
  m, n, k = (np.asarray(shape[name], float) for name in ('m', 'n', 'k'))
  element_B = column(shape, 'element_B', 2.0)
  weight_B = column(shape, 'weight_bytes', n * k * element_B)
  flops, busy = best_tile(m, n, k, units)
  read_B = m * k * element_B + weight_B
  write_B = 2.0 * m * n
  moved_B = read_B + write_B
  return Work(
    flops=flops,
    read_B=read_B,
    write_B=write_B,
    working_set_B=column(shape, 'working_set_bytes', moved_B),
    occupancy=busy,
    features=_features(m, n, k, flops, moved_B, weight_B, units),
  )


def best_tile(
  m: np.ndarray,
  n: np.ndarray,
  k: np.ndarray,
  units: int,
  products: np.ndarray | float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
  """Padded operations of the best tile, and the share of busy units.

  Args:
    m: rows.
    n: columns.
    k: depth.
    units: compute units of the device.
    products: of that shape, in one launch.
  """
  flops = np.full(np.shape(m), np.inf)
  busy = np.zeros(np.shape(m))
  for rows, columns in _TILES:
    intensity = rows * columns / (rows + columns)
    slowdown = 1.0 + _HALF_SPEED_INTENSITY / intensity
    tiles = products * np.ceil(m / rows) * np.ceil(n / columns)
    for splits in _SPLITS:
      depth = np.maximum(k / splits, np.minimum(k, _SPLIT_DEPTH))
      of_unit = np.ceil(tiles * splits / units)
      padded = 2.0 * depth * of_unit * units * rows * columns * slowdown
      flops = np.minimum(flops, padded)
      busy = np.maximum(busy, np.minimum(1.0, tiles * k / depth / units))
  return flops, busy


def _features(m, n, k, flops, moved_B, weight_B, units):
  found = {
    'log m': np.log(m),
    'log n': np.log(n),
    'log k': np.log(k),
    'log padding': np.log(flops / (2.0 * m * n * k)),
    'log bytes per unit': np.log(moved_B / units),
    'log operations per unit': np.log(2.0 * m * n * k / units),
    'weight share': weight_B / moved_B,
  }
  for tile in (8, 16, 32, 64, 128, 256):
    found[f'm share of {tile}'] = tile_share(m, tile)
  for tile in (64, 128, 256):
    found[f'n share of {tile}'] = tile_share(n, tile)
  for rows, columns in _TILES:
    tiles = np.ceil(m / rows) * np.ceil(n / columns)
    found |= wave_features(f'{rows}x{columns}', tiles, units)
  for step in (2, 8, 16):
    found[f'm steps of {step}'] = (m % step == 0).astype(float)
  return found


LAW = Law('matrix', ('m', 'n', 'k'), work)
