"""Holding out whole sizes and ratios, never random rows of a dense grid.

Rows belong to one *cell*: a half octave of working set, a block size, a size
of copy, a mix of reads and writes, a shape. Cells go out together, over all
thread counts and loads, so that a held-out row has no twin in the training
set; the first and the last cell of every sweep stay, because a fit does not
extrapolate. Where a sweep has too few mixes (or block sizes) to do without
one, its load levels are the cells.
"""

import numpy as np
from jaxtyping import Bool

from diffmem.traces import Traces

_BLOCK_OPS = frozenset(
  {'random_read', 'sequential_read', 'random_write', 'sequential_write'}
)
_SHAPE = (
  'm', 'n', 'k', 'batch_size', 'seq_len', 'kv_len', 'num_heads',
  'num_kv_heads', 'head_dim', 'window_size', 'num_tokens', 'hidden_size',
  'inter_size', 'num_experts', 'topk', 'tensor_shards', 'expert_shards',
  'message_bytes', 'participants', 'ranks_per_node', 'sms',
)  # fmt: skip
_OF_KERNELS = ('m', 'num_heads', 'num_tokens', 'message_bytes')
# So many shapes are a grid.
_MANY_SHAPES = 40
_MIXED_OPS = frozenset({'stream', 'stream_mix', 'copy', 'triad'})
# So many mixes or block sizes make a sweep of their own.
_FEWEST_CELLS = 4
# Written shares that differ by less than half of this are one mix.
_SHARE_STEP = 0.02


def cells(traces: Traces) -> np.ndarray:
  """A text for every row that names its sweep and its cell [row].

  Rows of the same cell are held out and resampled together.
  """
  op, system, tier = traces['op'], traces['system'], traces['tier']
  granule_B = traces.get('granule_bytes', 0.0)
  octave = _octaves(traces.get('working_set_bytes', 0.0))
  sweep = np.array(['working sets'] * len(traces), object)
  cell = octave.astype(float)

  sweep, cell = _by_shape(traces, sweep, cell)

  is_sized = (op == 'copy') & np.isnan(traces.get('working_set_bytes'))
  is_sized &= granule_B > 0
  sweep[is_sized] = [f'copies of {name}' for name in tier[is_sized]]
  cell[is_sized] = _octaves(granule_B)[is_sized]

  mix = _mix_index(traces, written_share(traces))
  is_plain = np.isin(op, list(_MIXED_OPS)) & ~is_sized
  is_plain &= np.isnan(traces.get('working_set_bytes'))
  for name, rows, kind in (
    ('blocks', np.isin(op, list(_BLOCK_OPS)), np.round(granule_B)),
    ('load', op == 'loaded_latency', mix),
    ('mixes', is_plain, mix),
  ):
    for where in set(zip(system[rows], tier[rows], strict=True)):
      same = rows & (system == where[0]) & (tier == where[1])
      label = f'{name} of {where[1]}'
      if len(set(kind[same])) >= _FEWEST_CELLS:
        sweep[same], cell[same] = label, kind[same]
      elif name != 'mixes':
        sweep[same] = [f'{label} at {k:g}' for k in kind[same]]
        cell[same] = _levels(traces, same, kind)
  return np.array(
    [
      f'{s}/{w}/{c:015.3f}' for s, w, c in zip(system, sweep, cell, strict=True)
    ],
    object,
  )


def _by_shape(traces: Traces, sweep: np.ndarray, cell: np.ndarray):
  """Sweeps and cells with those of kernels put in: whole shapes.

  A grid of many shapes goes out in a shuffled order, because every fifth one
  of a regular grid would always be the same size of its last axis.
  """
  op, shape = traces['op'], shapes(traces)
  known = [~np.isnan(traces.get(name)) for name in _OF_KERNELS]
  is_kernel = np.any(known, axis=0) | (op == 'roofline')
  for name in sorted(set(op[is_kernel])):
    rows = is_kernel & (op == name)
    sweep[rows] = name
    different, index = np.unique(shape[rows], return_inverse=True)
    if len(different) >= _MANY_SHAPES:
      order = np.random.default_rng(len(different)).permutation(len(different))
      cell[rows] = order[index.ravel()]
    else:
      moved = traces.get('bytes_read', 0.0) + traces.get('bytes_written', 0.0)
      per_B = traces.get('flops', 0.0) / np.where(moved > 0, moved, 1.0)
      flops = traces.get('flops', 0.0) / 1e6
      cell[rows] = np.round(
        (per_B * 1e3 if name == 'roofline' else flops)[rows]
      )
  return sweep, cell


def shapes(traces: Traces) -> np.ndarray:
  """Index of every row's shape, number formats and kernels aside [row]."""
  known = [traces.get(n, -1.0) for n in _SHAPE if n in traces.columns]
  if not known:
    return np.zeros(len(traces), int)
  return np.unique(np.stack(known, 1), axis=0, return_inverse=True)[1].ravel()


def written_share(traces: Traces) -> np.ndarray:
  """Written share of the bytes of each row, 0 where there are none [row]."""
  written_B = traces.get('bytes_written', 0.0)
  total_B = written_B + traces.get('bytes_read', 0.0)
  return written_B / np.where(total_B > 0, total_B, 1.0)


def mixes(traces: Traces) -> np.ndarray:
  """A text for every row that names its machine, tier and mix [row]."""
  index = _mix_index(traces, written_share(traces))
  return np.array(
    [
      f'{system}/{tier}/{i:.0f}'
      for system, tier, i in zip(
        traces['system'], traces['tier'], index, strict=True
      )
    ],
    object,
  )


def _mix_index(traces: Traces, shares: np.ndarray) -> np.ndarray:
  """The mix of each row, counted from all reads to all writes [row].

  A curve that says which one it is (`variant`) is one mix: the counters'
  ratio drifts with the load. Others are told apart by their written share.
  """
  variant = traces['variant']
  index = np.round(shares / _SHARE_STEP)
  named = (traces['op'] == 'loaded_latency') & (variant != '')
  for system in set(traces['system'][named]):
    rows = named & (traces['system'] == system)
    middle = {
      name: np.median(shares[rows & (variant == name)])
      for name in set(variant[rows])
    }
    place = {n: i for i, n in enumerate(sorted(middle, key=middle.get))}
    index[rows] = [place[name] for name in variant[rows]]
  return index


def _octaves(size_B: np.ndarray) -> np.ndarray:
  return np.round(2 * np.log2(np.maximum(size_B, 1.0)))


def _levels(
  traces: Traces, rows: Bool[np.ndarray, ' row'], kind: np.ndarray
) -> np.ndarray:
  """Place of each of these rows among those of its kind, by load."""
  load = traces.get('in_flight_bytes', traces.get('bandwidth_Bps', 0.0))
  level = np.zeros(len(traces))
  for one in set(kind[rows]):
    same = np.flatnonzero(rows & (kind == one))
    level[same[np.argsort(load[same])]] = np.arange(len(same))
  return level[rows]


def hold_out(
  traces: Traces, *, every: int = 4, seed: int = 0
) -> Bool[np.ndarray, ' row']:
  """Mask of the held-out rows: one inner cell in `every` of each sweep.

  Args:
    traces: all rows.
    every: one cell in so many goes out; 0 for none.
    seed: which of them.
  """
  if every <= 0:
    return np.zeros(len(traces), bool)
  names, index = np.unique(cells(traces).astype(str), return_inverse=True)
  sweeps: dict[str, list[int]] = {}
  for i, name in enumerate(names):
    sweeps.setdefault(name.rsplit('/', 1)[0], []).append(i)
  is_out = np.zeros(len(names), bool)
  for sweep in sweeps.values():
    inner = sweep[1:-1]
    if len(inner) > 1:
      is_out[inner[seed % every :: every]] = True
  return is_out[index.ravel()]
