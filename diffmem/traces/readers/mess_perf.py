"""The raw counters of a Mess measurement (bsc-mem/Mess-Results).

A folder with `bw/bw_<read%>_<pause>.txt` and `lat/lat_<read%>_<pause>.txt`,
each the output of `perf stat`, several repeats one after the other:

    S0  8  21734663  unc_m_cas_count.rd      1037151472  cycles
    S0  8    524590  unc_m_cas_count.wr         3072000  accesses
        0.05 seconds time elapsed            0.40582 seconds time elapsed

Bandwidth is counted lines over elapsed time: 64 B for Intel's CAS counts,
32 B for Grace's `cmem_rd_data`, bytes for its `cmem_wr_total_bytes`. Latency
is elapsed time over accesses of the pointer chase: it includes TLB misses,
which the tool's own processing subtracts with constants of each platform.
On GPUs one file `bw/bw__<read%>_<pause>.txt` holds both ("average access
latency: 834 ns" and CUPTI's `fbpa__dram_{read,write}_bytes.sum.per_second`).
"""

import pathlib
import re
import statistics
from typing import NamedTuple

from diffmem import errors
from diffmem.traces.readers import text
from diffmem.traces.readers.ledger import Imported, Ledger, Options

_NAME = re.compile(r'bw_+(?:perf_)?(\d+)_(\d+)\.txt$')
_COUNT = re.compile(r'([\d.,]+)\s+(\S+)\s*$')
_GPU_RATE = re.compile(
  r'(\d+)\s+-->\s*\S*dram_(read|write)_bytes\.sum\.per_second'
)
_GPU_LATENCY = re.compile(r'average access latency:\s*(\d+(?:\.\d+)?)\s*ns')
# Counter -> (direction, bytes of one count).
_COUNTERS = {
  'unc_m_cas_count.rd': ('read', 64.0),
  'unc_m_cas_count.wr': ('write', 64.0),
  'unc_m_cas_count.all': ('both', 64.0),
  'nvidia_scf_pmu/cmem_rd_data/': ('read', 32.0),
  'nvidia_scf_pmu/cmem_wr_total_bytes/': ('write', 1.0),
  'dram_channel_data_controller_total': ('both', 64.0),
}


class Traffic(NamedTuple):
  """Traffic of one repeat [B/s]; `both` where reads and writes are one."""

  read: float
  write: float
  both: float


def point(ledger: Ledger, fraction: float, bandwidth_Bps: float, latency_s):
  """The columns of one point of a curve."""
  in_flight = bandwidth_Bps * latency_s
  return {
    'system': ledger.system(),
    'op': 'loaded_latency',
    'tier': ledger.tier('DRAM'),
    'bytes_read': in_flight * fraction,
    'bytes_written': in_flight * (1 - fraction),
    'in_flight_bytes': in_flight,
    'bandwidth_Bps': bandwidth_Bps,
    'latency_s': latency_s,
  }


def read(path: pathlib.Path, options: Options) -> Imported:
  """Reads the folder of a measurement.

  Raises:
    TraceError: no such files, or counters that make no sense.
  """
  ledger = Ledger(path, options)
  for file in sorted((path / 'bw').glob('bw_*.txt')):
    if not _NAME.search(file.name):
      ledger.skip(None, f'{file.name}: not named bw_<read%>_<pause>.txt')
      continue
    _read_point(file, path, ledger)
  return ledger.done()


def _read_point(file: pathlib.Path, folder: pathlib.Path, ledger: Ledger):
  content = text.read(file)
  if 'average access latency' in content:
    traffic, latency = _gpu_repeats(content)
  else:
    traffic = _traffic(file, content)
    latency = _latencies(folder / 'lat' / file.name.replace('bw', 'lat', 1))
  if not traffic or not latency:
    missing = 'latency' if traffic else 'known traffic counters'
    ledger.skip(None, f'{file.name}: no {missing}')
    return
  if any(t.both for t in traffic):
    ledger.skip(
      None, f'{file.name}: the counter does not tell reads from writes'
    )
    return
  totals = [t.read + t.write for t in traffic]
  bandwidth = statistics.fmean(totals)
  fraction = statistics.fmean(t.read for t in traffic) / bandwidth
  values = point(ledger, fraction, bandwidth, statistics.fmean(latency))
  values['repeats'] = min(len(traffic), len(latency))
  if len(latency) > 1 and len(totals) > 1:
    values['rel_std'] = max(_relative_std(totals), _relative_std(latency))
  ledger.add(None, note=file.name, **values)


def _traffic(file: pathlib.Path, content: str) -> list[Traffic]:
  """Traffic of every repeat, from counters and elapsed times."""
  found, counted = [], dict.fromkeys(('read', 'write', 'both'), 0.0)
  for line, row in enumerate(content.splitlines(), 1):
    elapsed = row.split()
    if 'seconds time elapsed' in row:
      seconds = text.number(file, line, 'seconds', elapsed[0], low=1e-9)
      if any(counted.values()):
        found.append(Traffic(*(v / seconds for v in counted.values())))
      counted = dict.fromkeys(counted, 0.0)
      continue
    match = _COUNT.search(row)
    if match and match[2] in _COUNTERS:
      direction, line_B = _COUNTERS[match[2]]
      count = match[1].replace(',', '')
      counted[direction] += line_B * text.number(file, line, match[2], count)
  return found


def _latencies(file: pathlib.Path) -> list[float]:
  """Latency of every repeat [s]; none where the file is absent."""
  if not file.is_file():
    return []
  found, accesses = [], 0.0
  for line, row in text.lines(file):
    cells = row.split()
    if len(cells) > 1 and cells[1] == 'accesses':
      accesses = text.number(file, line, 'accesses', cells[0].replace(',', ''))
    elif 'seconds time elapsed' in row:
      seconds = text.number(file, line, 'seconds', cells[0], low=1e-9)
      if accesses < 1:
        raise errors.TraceError(
          file, row=line, column='accesses', value=accesses,
          expected='the number of accesses before the elapsed time',
        )  # fmt: skip
      found.append(seconds / accesses)
      accesses = 0.0
  return found


def _gpu_repeats(content: str) -> tuple[list[Traffic], list[float]]:
  rates: dict[str, list[float]] = {'read': [], 'write': []}
  for value, direction in _GPU_RATE.findall(content):
    rates[direction].append(float(value))
  pairs = zip(rates['read'], rates['write'], strict=False)
  traffic = [Traffic(r, w, 0.0) for r, w in pairs if r + w > 0]
  latency = [1e-9 * float(v) for v in _GPU_LATENCY.findall(content)]
  return traffic, [v for v in latency if v > 0]


def _relative_std(values: list[float]) -> float:
  return statistics.stdev(values) / statistics.fmean(values)
