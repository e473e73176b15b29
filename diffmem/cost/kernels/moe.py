"""Routed experts of one device: two grouped products and what joins them.

The device is the one with most rows (`routing`). Each expert's rows are padded
to tiles; its weights are read once if it has a row at all. Tokens are gathered
to rows, pass [hidden, inter] matrices (two of them where gated), an activation
and the [inter, hidden] matrix, and are summed per token.
"""

import numpy as np

from diffmem.cost.kernels import routing
from diffmem.cost.kernels.work import (
  Law,
  Shape,
  Work,
  column,
  tile_share,
  wave_features,
)

_COLUMNS = (
  'num_tokens',
  'hidden_size',
  'inter_size',
  'topk',
  'num_experts',
  'tensor_shards',
  'expert_shards',
)

# Rows of a tile: CUTLASS's grouped profiles have 64 and 128, swapped operands
# and the kernels of Triton and TensorRT-LLM go down to 16.
_ROW_TILES = (16, 32, 64, 128)
_COLUMN_TILE = 128.0
# As in the law of plain products.
_HALF_SPEED_INTENSITY = 8.0


def work(shape: Shape, units: int) -> Work:
  """Work of routed experts, on the busiest device.

  Args:
    shape: num_tokens (of all devices that share the experts), hidden_size,
      inter_size, topk, num_experts, tensor_shards, expert_shards; optional
      gated, routing_skew, element_B, working_set_bytes and weight_bytes, the
      weights of one device that uniformly random choices would read.
    units: compute units of the device.
  """
  tokens, hidden, inter, topk, experts, tensor, shards = (
    np.asarray(shape[name], float) for name in _COLUMNS
  )
  skew = column(shape, 'routing_skew', 0.0)
  element_B = column(shape, 'element_B', 2.0)
  up = 1.0 + column(shape, 'gated', 1.0)
  inter = inter / tensor
  routed = routing.busiest_device(
    tokens, topk, experts, shards, skew, _ROW_TILES
  )
  weights = (up + 1.0) * hidden * inter
  uniform = routing.uniform_active(tokens, topk, experts, shards)
  plain_B = uniform * weights * element_B
  weight_B = column(shape, 'weight_bytes', plain_B) / uniform
  read_B = routed.active * weight_B
  # Gather, two products, activation, sum over the choices of a token.
  row_read_B = hidden * (4.0 + element_B) + inter * (2.0 * up + element_B)
  row_write_B = hidden * (2.0 + element_B) + inter * (2.0 * up + element_B)
  read_B = read_B + routed.rows * row_read_B
  write_B = routed.rows * row_write_B + 2.0 * tokens * hidden
  flops, busy = _best_tile(routed, hidden, inter, up, units)
  return Work(
    flops=flops,
    read_B=read_B,
    write_B=write_B,
    working_set_B=column(shape, 'working_set_bytes', read_B + write_B),
    occupancy=busy,
    features=_features(
      shape, routed, flops, read_B + write_B, weight_B, inter, up, units
    ),
  )


def _best_tile(routed, hidden, inter, up, units):
  """Padded operations of both products at the best row tile; busy share."""
  flops = np.full(np.shape(hidden), np.inf)
  busy = np.zeros(np.shape(hidden))
  for rows in _ROW_TILES:
    padded = 0.0
    intensity = rows * _COLUMN_TILE / (rows + _COLUMN_TILE)
    slowdown = 1.0 + _HALF_SPEED_INTENSITY / intensity
    for width, depth in ((up * inter, hidden), (hidden, inter)):
      tiles = routed.tiles[rows] * np.ceil(width / _COLUMN_TILE)
      full = np.maximum(np.ceil(tiles / units), 1.0)
      padded += 2.0 * depth * rows * _COLUMN_TILE * full * units * slowdown
      busy = np.maximum(busy, np.minimum(1.0, tiles / units))
    flops = np.minimum(flops, padded)
  return flops, busy


def _features(shape, routed, flops, moved_B, expert_B, inter, up, units):
  tokens, hidden, _, topk, experts, _, shards = (
    np.asarray(shape[name], float) for name in _COLUMNS
  )
  each = routed.rows / np.maximum(routed.active, 1.0)
  useful = 2.0 * routed.rows * hidden * inter * (up + 1.0)
  found = {
    'log tokens': np.log(tokens),
    'log hidden': np.log(hidden),
    'log inter': np.log(inter),
    'log topk': np.log(topk),
    'log local experts': np.log(experts / shards),
    'log shards': np.log(shards),
    'log active': np.log(routed.active),
    'log rows': np.log(routed.rows),
    'log rows per expert': np.log(each),
    'log busiest expert': np.log(routed.most),
    'log expert per unit': np.log(np.maximum(expert_B, 1.0) / units),
    'log padding': np.log(flops / useful),
    'log bytes per unit': np.log(moved_B / units),
    'log operations per unit': np.log(useful / units),
    'skew': column(shape, 'routing_skew', np.zeros_like(tokens)),
  }
  for tile in (64, 128, 256):
    found[f'inter share of {tile}'] = tile_share(inter, tile)
  for rows in (16, 64, 128):
    for name, width in (('up', up * inter), ('down', hidden)):
      tiles = routed.tiles[rows] * np.ceil(width / _COLUMN_TILE)
      found |= wave_features(f'{name} {rows}', np.maximum(tiles, 1.0), units)
  return found


LAW = Law('moe', _COLUMNS, work)
