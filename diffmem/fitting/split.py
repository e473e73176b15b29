"""Holding out whole sizes, never random rows of a dense grid.

Rows belong to one *cell*: a half octave of working set, a block size, a load
level, a shape. Cells go out together, over all thread counts and mixes, so
that a held-out row has no twin in the training set; the first and the last
cell of every sweep stay, because a fit does not extrapolate.
"""

import numpy as np
from jaxtyping import Bool

from diffmem.traces import Traces

_BLOCK_OPS = frozenset({'random_read', 'sequential_read'})


def cells(traces: Traces) -> np.ndarray:
  """A text for every row that names its sweep and its cell [row].

  Rows of the same cell are held out and resampled together.
  """
  op = traces['op']
  working_set = traces.get('working_set_bytes', 0.0)
  octave = np.round(2 * np.log2(np.maximum(working_set, 1.0)))
  names = []
  for i in range(len(traces)):
    sweep, cell = _cell(traces, i, op[i], octave[i])
    names.append(f'{traces["system"][i]}/{sweep}/{cell:015.3f}')
  return np.array(names, object)


def _cell(traces: Traces, i: int, op: str, octave: float):
  """The sweep that a row belongs to and its place along it."""
  if op in _BLOCK_OPS:
    return 'blocks', traces.get('granule_bytes', 0.0)[i]
  if op == 'loaded_latency':
    written = traces.get('bytes_written', 0.0)[i]
    total = written + traces.get('bytes_read', 0.0)[i]
    mix = round(written / max(total, 1.0), 1)
    return f'load at mix {mix}', np.round(traces.get('bandwidth_Bps')[i] / 5e8)
  if not np.isnan(traces.get('m')[i]):
    return op, traces.get('flops', 0.0)[i] / 1e6
  return 'working sets', octave


def hold_out(
  traces: Traces, *, every: int = 4, seed: int = 0
) -> Bool[np.ndarray, ' row']:
  """Mask of the held-out rows: one inner cell in `every` of each sweep.

  Args:
    traces: all rows.
    every: one cell in so many goes out; 0 for none.
    seed: which of them.
  """
  held = np.zeros(len(traces), bool)
  if every <= 0:
    return held
  names = cells(traces)
  sweeps: dict[str, list[str]] = {}
  for name in sorted(set(names)):
    sweeps.setdefault(name.rsplit('/', 1)[0], []).append(name)
  for sweep in sweeps.values():
    inner = sweep[1:-1]
    out = set(inner[seed % every :: every]) if len(inner) > 1 else set()
    held |= np.isin(names, list(out))
  return held
