"""Mess bandwidth-latency curves (bsc-mem/Mess-benchmark).

Three kinds of input:

- A table with one row per measured point, the columns of
  `mess_measured_curves`: `platform`, `memory_technology`, `read_fraction`
  (from traffic counters), `bandwidth_GBps` (reads and writes together, 1e9
  B/s), `latency_ns` of a pointer chase beside the load, and, where known, the
  standard deviations `bandwidth_std` [GB/s] and `latency_std` [ns] of `n_lat`
  repeats. The published smoothed curves have `read_fraction_label` instead,
  and `label_meaning` says whether that label is a share of the traffic.
- Curve files `bwlat_<read%>.txt`, as the Mess simulator and PROFET read them:
  two columns, bandwidth [MB/s, 1e6 B/s] and latency [cycles of the CPU clock].
  The clock comes from `Options.clock_Hz`.
- A folder: of curve files, or a measurement with `bw/` and `lat/` inside (see
  `mess_perf`).

Each point becomes a row `loaded_latency`: bytes in the traffic's ratio, and
by Little's law in_flight_bytes = bandwidth x latency. `kernel_read_pct` is the
ratio of load instructions, not of traffic: it (or the label) only names the
curve, in `variant`, so that whole curves can be held out.
"""

import pathlib
import re

import numpy as np

from diffmem import errors
from diffmem.traces.readers import mess_perf, tables, text
from diffmem.traces.readers.ledger import Imported, Ledger, Options, concat

_CURVE = re.compile(r'bwlat_(\d+(?:\.\d+)?)\.txt$')
_NOT_NEEDED = (
  'read_fraction_est', 'read_fraction_basis', 'latency_ns_uncorrected',
  'n_bw', 'cpu_GHz', 'peak_GBps_nominal', 'source_path',
  'pause', 'cpu_GHz_used', 'point_index', 'latency_cycles', 'freq_note',
)  # fmt: skip


def read(path: pathlib.Path, options: Options) -> Imported:
  """Reads a table, a curve file or a folder.

  Raises:
    TraceError: something else, or a value that makes no sense.
  """
  if path.is_dir():
    return _read_folder(path, options)
  if path.suffix in tables.SUFFIXES:
    return _read_table(path, options)
  return _read_curve(path, options)


def tier_of(technology: str) -> str:
  """'DRAM', 'HBM' or 'CXL' of a text such as 'DDR5-4800 x8ch'."""
  upper = technology.upper()
  for name in ('CXL', 'HBM'):
    if name in upper:
      return name
  return 'DRAM'


def _read_folder(path: pathlib.Path, options: Options) -> Imported:
  curves = sorted(p for p in path.iterdir() if _CURVE.search(p.name))
  if curves:
    return concat([_read_curve(curve, options) for curve in curves])
  if (path / 'bw').is_dir():
    return mess_perf.read(path, options)
  raise errors.TraceError(
    path, expected='bwlat_<read%>.txt files, or the folders bw/ and lat/'
  )


def _read_table(path: pathlib.Path, options: Options) -> Imported:
  table = tables.read(path)
  ledger = Ledger(path, options)
  table.use(*_NOT_NEEDED)
  keep, fraction, note = _read_fraction(table, ledger)
  if (fraction > 1).any():
    i = int(np.argmax(fraction > 1))
    name = 'read_fraction' if 'read_fraction' in table else 'label'
    raise errors.TraceError(
      path, row=i + 1, column=name, value=float(fraction[i]),
      expected='a fraction from 0 to 1',
    )  # fmt: skip
  bandwidth = table.positive('bandwidth_GBps', 'GB/s') * 1e9
  latency = table.positive('latency_ns', 'ns') * 1e-9
  platform = table.texts('platform')
  technology = table.texts('memory_technology', '')
  origin = table.texts('origin', '')
  in_flight = bandwidth * latency
  keep &= ledger.keep(keep & (in_flight < 1), 'less than a byte in flight')
  spread = _relative_std(table, bandwidth, latency)
  repeats = table.numbers('n_lat', low=1, nullable=True)
  loads = table.numbers('kernel_read_pct', nullable=True)
  ledger.add_columns(
    {
      'system': [ledger.system(name) for name in platform],
      'op': 'loaded_latency',
      'tier': [ledger.tier(tier_of(name)) for name in technology],
      'bytes_read': in_flight * fraction,
      'bytes_written': in_flight * (1 - fraction),
      'in_flight_bytes': in_flight,
      'bandwidth_Bps': bandwidth,
      'latency_s': latency,
      'variant': ['' if np.isnan(k) else f'{k:g} % loads' for k in loads],
      'repeats': repeats,
      'rel_std': spread,
      'source': table.texts('source_repo', ''),
      'note': _join([technology, origin, note]),
    },
    np.flatnonzero(keep),
  )
  if table.unused():
    ledger.remark(f'columns without use: {", ".join(table.unused())}')
  return ledger.done()


def _read_fraction(table: tables.Table, ledger: Ledger):
  """Mask of rows that count, read fraction of the traffic, a note."""
  silent = np.array([''] * len(table), object)
  if 'read_fraction' in table:
    table.use('read_fraction_label', 'label_meaning')
    return (
      np.ones(len(table), bool),
      table.numbers('read_fraction'),
      silent,
    )
  fraction = table.numbers('read_fraction_label')
  meaning = table.texts('label_meaning', 'unknown')
  origin = table.texts('origin', '')
  is_model = np.array(['model' in text for text in origin])
  is_traffic = np.array([m.startswith('traffic') for m in meaning])
  keep = ledger.keep(is_model, 'a simulation, not a measurement')
  keep &= ledger.keep(
    ~is_traffic & ~is_model,
    'read_fraction_label may not be the share of reads in the traffic',
  )
  return keep, fraction, meaning


def _relative_std(table, bandwidth, latency) -> np.ndarray:
  """The larger relative deviation of the two, NaN where unknown."""
  parts = [
    table.numbers('bandwidth_std', 'GB/s', nullable=True) * 1e9 / bandwidth,
    table.numbers('latency_std', 'ns', nullable=True) * 1e-9 / latency,
  ]
  # Without load the bandwidth is noise: its deviation has no upper end.
  return np.minimum(np.fmax(*parts), 10.0)


def _read_curve(path: pathlib.Path, options: Options) -> Imported:
  """Reads `bwlat_<read%>.txt`: MB/s and cycles."""
  match = _CURVE.search(path.name)
  if not match or float(match[1]) > 100:
    raise errors.TraceError(
      path,
      expected='a Parquet or CSV table, a file bwlat_<read%>.txt with the '
      'percentage of reads in its name, or a folder',
    )
  if not options.clock_Hz:
    raise errors.TraceError(
      path,
      column='latency',
      expected='the clock that its cycles count: give --clock_GHz',
    )
  fraction = float(match[1]) / 100
  ledger = Ledger(path, options)
  for line, content in text.lines(path):
    cells = content.replace(',', ' ').split()
    if len(cells) != 2:
      raise errors.TraceError(
        path, row=line, value=content[:60],
        expected='two numbers: bandwidth in MB/s, latency in cycles',
      )  # fmt: skip
    bandwidth = 1e6 * text.number(path, line, 'bandwidth', cells[0])
    latency = text.number(path, line, 'latency', cells[1]) / options.clock_Hz
    if bandwidth * latency < 1:
      ledger.skip(line, 'less than a byte in flight')
      continue
    ledger.add(line, **mess_perf.point(ledger, fraction, bandwidth, latency))
  ledger.remark('the percentage in the name is taken as reads in the traffic')
  return ledger.done()


def _join(parts) -> np.ndarray:
  return np.array(
    ['; '.join(p for p in row if p) for row in zip(*parts, strict=True)], object
  )
