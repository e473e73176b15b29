"""GPU roofline sweeps with board power (RRZE-HPC/gpu-benches, gpu-roofline).

The tool streams two arrays and does N fused multiply-adds per element pair.
Its text has one line for each N and GPU:

    0 1056 blocks     8 its      2.250 Fl/B       3760 GB/s       8459 GF/s
      1980 Mhz   615 W   60 degrees C          (one line in the file)

The table has the same columns: `device`, `gpu_index`, `blocks`, `fma_iters`,
`intensity_flop_per_byte`, `bandwidth_GBps`, `gflops_fp32`, `clock_MHz`,
`power_W`, `temp_C`. Intensity = (2 + 2 N) / (2 x bytes of an element) tells the
number format.

A row `roofline` covers one kernel launch: main.cu gives each of `blocks` blocks
256 threads and 4000 pairs per thread. time_s follows from the rate that was
printed with more digits. power_W is the tool's: the highest of 21 NVML readings
0.1 s apart. Boards at their cap or below their top clock are kept; the clock is
in the note. `variant` names the board: boards of one node differ by 5 W and
more at the same rates.
"""

import pathlib
import re

import numpy as np

from diffmem import errors
from diffmem.traces.readers import tables, text
from diffmem.traces.readers.ledger import Imported, Ledger, Options

_LINE = re.compile(
  r'\s*(?P<gpu>\d+)\s+(?P<blocks>\d+)\s+blocks\s+(?P<its>\d+)\s+its'
  r'\s+(?P<intensity>[\d.]+)\s+Fl/B\s+(?P<GBps>\d+)\s+GB/s\s+(?P<GFps>\d+)'
  r'\s+GF/s\s+(?P<MHz>\d+)\s+Mhz\s+(?P<W>\d+)\s+W\s+(?P<C>\d+)',
  re.IGNORECASE,
)
_PAIRS_PER_BLOCK = 256 * 4000
_DTYPES = {4: 'float32', 8: 'float64', 2: 'float16'}
_SOURCE = 'RRZE-HPC/gpu-benches'


def read(path: pathlib.Path, options: Options) -> Imported:
  """Reads the table or the tool's text.

  Raises:
    TraceError: neither, or rates that contradict each other.
  """
  if path.suffix in tables.SUFFIXES:
    return _read_table(path, options)
  return _read_text(path, options)


def _read_table(path: pathlib.Path, options: Options) -> Imported:
  table = tables.read(path)
  ledger = Ledger(path, options)
  table.use('temp_C', 'source_path')
  devices = table.texts('device')
  columns = [
    table.numbers(name, unit)
    for name, unit in (
      ('gpu_index', ''), ('blocks', ''), ('fma_iters', ''),
      ('intensity_flop_per_byte', 'FLOP/B'), ('bandwidth_GBps', 'GB/s'),
      ('gflops_fp32', 'GFLOP/s'), ('clock_MHz', 'MHz'), ('power_W', 'W'),
    )
  ]  # fmt: skip
  for i, values in enumerate(np.stack(columns, 1)):
    _add(ledger, i + 1, devices[i], *map(float, values))
  table.texts('source_repo', _SOURCE)
  if table.unused():
    ledger.remark(f'columns without use: {", ".join(table.unused())}')
  return ledger.done()


def _read_text(path: pathlib.Path, options: Options) -> Imported:
  ledger = Ledger(path, options)
  for line, content in text.lines(path):
    match = _LINE.match(content)
    if match:
      values = [
        text.number(path, line, name, match[name])
        for name in (
          'gpu', 'blocks', 'its', 'intensity', 'GBps', 'GFps', 'MHz', 'W'
        )
      ]  # fmt: skip
      _add(ledger, line, None, *values)
    elif 'blocks' in content and 'its' in content:
      raise errors.TraceError(
        path, row=line, value=content[:80],
        expected='<gpu> <n> blocks <n> its <n> Fl/B <n> GB/s <n> GF/s '
        '<n> Mhz <n> W <n>',
      )  # fmt: skip
    else:
      ledger.skip(line, 'not a measurement')
  return ledger.done()


def _add(
  ledger, row, device, gpu, blocks, its, intensity, GBps, GFps, MHz, power_W
) -> None:
  """One row, `roofline`."""
  dtype = _dtype(ledger, row, its, intensity)
  # Both rates are printed without decimals, and the intensity with three.
  if abs(GFps - GBps * intensity) > 0.001 * GFps + 0.51 * (intensity + 1):
    raise errors.TraceError(
      ledger.path, row=row, column='gflops_fp32', value=GFps,
      expected=f'{GBps:g} GB/s times {intensity:g} FLOP/B',
    )  # fmt: skip
  if min(blocks, GBps, power_W) <= 0:
    ledger.skip(row, 'no blocks, no bandwidth or no power')
    return
  size = next(B for B, name in _DTYPES.items() if name == dtype)
  read_B = 2.0 * size * blocks * _PAIRS_PER_BLOCK
  flops = read_B * intensity
  time_s = flops / (GFps * 1e9) if GFps > GBps else read_B / (GBps * 1e9)
  ledger.add(
    row,
    system=ledger.system(device),
    op='roofline',
    tier=ledger.tier(),
    dtype=dtype,
    bytes_read=read_B,
    bytes_written=0.0,
    flops=flops,
    launches=1,
    variant=f'GPU {gpu:g}',
    time_s=time_s,
    bandwidth_Bps=read_B / time_s,
    power_W=power_W,
    source=_SOURCE,
    note=f'{its:g} FMAs, clock {MHz:g} MHz',
  )


def _dtype(ledger, row, its, intensity) -> str:
  """The number format whose size gives this intensity."""
  for size, name in _DTYPES.items():
    if abs((1 + its) / size - intensity) <= 0.001:
      return name
  raise errors.TraceError(
    ledger.path, row=row, column='intensity_flop_per_byte', value=intensity,
    expected=f'(2 + 2 x {its:g} FMAs) / (2 elements of 2, 4 or 8 B)',
  )  # fmt: skip
