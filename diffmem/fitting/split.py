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
  mix = _written_tenths(traces)
  level = _load_levels(traces, mix)
  names = []
  for i in range(len(traces)):
    if op[i] in _BLOCK_OPS:
      sweep, cell = 'blocks', traces.get('granule_bytes', 0.0)[i]
    elif op[i] == 'loaded_latency':
      sweep, cell = f'load at mix {mix[i]:.0f}', level[i]
    elif not np.isnan(traces.get('m')[i]):
      sweep, cell = op[i], traces.get('flops', 0.0)[i] / 1e6
    else:
      sweep, cell = 'working sets', octave[i]
    names.append(f'{traces["system"][i]}/{sweep}/{cell:015.3f}')
  return np.array(names, object)


def _written_tenths(traces: Traces) -> np.ndarray:
  """Written share of the bytes, in tenths [row]."""
  written = traces.get('bytes_written', 0.0)
  total = written + traces.get('bytes_read', 0.0)
  return np.round(10 * written / np.where(total > 0, total, 1.0))


def _load_levels(traces: Traces, mix: np.ndarray) -> np.ndarray:
  """Place of a loaded latency among those of its machine and mix [row]."""
  level = np.zeros(len(traces))
  loaded = traces['op'] == 'loaded_latency'
  bandwidth = traces.get('bandwidth_Bps', 0.0)
  for key in set(zip(traces['system'][loaded], mix[loaded], strict=True)):
    rows = np.flatnonzero(
      loaded & (traces['system'] == key[0]) & (mix == key[1])
    )
    level[rows[np.argsort(bandwidth[rows])]] = np.arange(len(rows))
  return level


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
