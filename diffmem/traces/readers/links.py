"""Tables of host links and remote memories, six layouts told apart by columns.

- nvbandwidth results: `device`, `test`, `row`, `col`, `GBps` (ns for latency
  tests), `buffer_bytes`.
- Copy sweeps between host and device: `device`, `mode` (h2d_pinned,
  d2h_pageable, ...), `transfer_bytes`, `GBps`; rates below ten units of a
  device's last decimal are mostly rounding and are skipped.
- A matrix of processors and memories: `processor`, `memory`, `op` (read, write,
  pointer_chase), `metric` with its unit at the end, `value`, `system`.
- Copies in blocks: `device`, `direction` (cpu_to_gpu, gpu_to_cpu,
  bidirectional: both together), `method`, `block_kib`, `n_blocks` (0 where
  unknown), `throughput_GBps`.
- Drives side by side: `host`, `n_ssd`, `path`, `rw` (read, write), `tool`,
  `transfer_gb`, `GBps` of all drives. Tier SSDs, one participant per drive.
- Triads over CUDA managed memory: `device`, `buffer_MB` (2^20 B), `GBps`.

Copies are rows of the memory at the far end (DRAM), which a link leads to; to
fit the link alone, name it: --tier=PCIe. Copies of few kinds differ more than
a law can say (pinned or pageable, DMA or kernel): fit one, --only=variant=...
"""

import pathlib

import numpy as np

from diffmem.traces.readers import tables
from diffmem.traces.readers.ledger import Imported, Ledger, Options

# nvbandwidth's --bufferSize, unless its output says another.
_DEFAULT_BUFFER_B = 512 * 2.0**20
# How the name of a test starts -> tier of the far end, direction from there.
_TESTS = (
  ('host_to_device', 'DRAM', 'read'),
  ('device_to_host', 'DRAM', 'write'),
  ('device_local', 'HBM', 'both'),
  ('device_to_device', 'NVLink', 'read'),
)
_MEMORIES = {'ddr': 'DRAM', 'hbm': 'HBM'}
_DIRECTIONS = {
  'cpu_to_gpu': ('read',),
  'gpu_to_cpu': ('write',),
  'bidirectional': ('read', 'write'),
}
# A rate of fewer units of its last decimal is rounded by more than 5 %.
_LEAST_UNITS = 10
_KIB = 2.0**10
_MIB = 2.0**20
_BUFFER_B = 8 * 2.0**30  # 'bandwidth_8GiB_GBps'


def read(path: pathlib.Path, options: Options) -> Imported:
  """Reads one of the four tables.

  Raises:
    TraceError: other columns, or a value that makes no sense.
  """
  table = tables.read(path)
  ledger = Ledger(path, options)
  table.use('source_path')
  table.layout(_LAYOUTS)(table, ledger)
  if table.unused():
    ledger.remark(f'columns without use: {", ".join(table.unused())}')
  return ledger.done()


def add_test(
  ledger: Ledger, row, system, test: str, cell: str, value: float,
  buffer_B: float | None = None, is_total: bool = False,
) -> None:  # fmt: skip
  """One cell of a matrix of nvbandwidth; see there.

  Args:
    ledger: of the file.
    row: line or row of the file.
    system: name of the machine.
    test: name of the test, as nvbandwidth has it.
    cell: which row and column of the matrix.
    value: GB/s, or ns of a latency test.
    buffer_B: size of the copy.
    is_total: whether a bidirectional test gives both directions together.
  """
  if 'latency' in test:
    tier = 'NVLink' if test.startswith('device_to_device') else 'DRAM'
    ledger.add(
      row, system=system, op='pointer_chase', tier=ledger.tier(tier),
      latency_s=value * 1e-9, variant=test, source='nvbandwidth', note=cell,
    )  # fmt: skip
    return
  kinds = [kind for kind in _TESTS if test.startswith(kind[0])]
  if not kinds:
    ledger.skip(row, f'{test}: several GPUs share what is measured')
    return
  _, tier, direction = kinds[0]
  if 'write' in test:
    direction = 'write'
  notes = [cell]
  rate = value * 1e9
  if 'bidirectional' in test:
    direction = 'both'
    if not is_total:
      rate *= 2
      notes.append('the opposite direction is taken to be as fast')
  elif direction == 'both':
    rate *= 2
  if buffer_B is None:
    buffer_B = _DEFAULT_BUFFER_B
    notes.append('buffer of 512 MiB, the default')
  ledger.add(
    row,
    system=system,
    op='copy',
    tier=ledger.tier(tier),
    bytes_read=buffer_B if direction != 'write' else 0.0,
    bytes_written=buffer_B if direction != 'read' else 0.0,
    granule_bytes=buffer_B,
    variant=test,
    bandwidth_Bps=rate,
    source='nvbandwidth',
    note='; '.join(notes),
  )


def _nvbandwidth(table, ledger) -> None:
  table.texts('source_repo', '')
  devices = table.texts('device')
  rows, columns = table.counts('row', 0), table.counts('col', 0)
  values = table.positive('GBps', 'GB/s')
  buffers = table.numbers('buffer_bytes', 'B', low=1, nullable=True)
  for i, test in enumerate(table.texts('test')):
    add_test(
      ledger, i + 1, ledger.system(devices[i]), test,
      f'row {rows[i]:.0f} column {columns[i]:.0f}', values[i],
      None if np.isnan(buffers[i]) else buffers[i],
    )  # fmt: skip


def _copy_sweep(table, ledger) -> None:
  devices, modes = table.texts('device'), table.texts('mode')
  size = table.positive('transfer_bytes', 'B')
  rate = table.numbers('GBps', 'GB/s') * 1e9
  is_read = np.array([mode.startswith('h2d') for mode in modes])
  is_write = np.array([mode.startswith('d2h') for mode in modes])
  if not (is_read | is_write).all():
    i = int(np.argmin(is_read | is_write))
    raise table.refuse('mode', i, 'h2d_... or d2h_...')
  least = np.array([_least_Bps(rate[devices == name]) for name in devices])
  keep = ledger.keep(
    rate < least, 'the decimals of the file are too few for the rate'
  )
  ledger.add_columns(
    {
      'system': [ledger.system(name) for name in devices],
      'op': 'copy',
      'tier': ledger.tier('DRAM'),
      'bytes_read': np.where(is_read, size, 0.0),
      'bytes_written': np.where(is_write, size, 0.0),
      'granule_bytes': size,
      'launches': 1,
      'variant': modes,
      'bandwidth_Bps': rate,
      'source': table.texts('source_repo', ''),
    },
    np.flatnonzero(keep),
  )


def _least_Bps(rates_Bps: np.ndarray) -> float:
  """Ten units of the last decimal of GB/s, the second or third [B/s]."""
  has_two = np.allclose(np.round(rates_Bps / 1e9, 2) * 1e9, rates_Bps)
  return _LEAST_UNITS * (1e7 if has_two else 1e6)


def _block_sweep(table, ledger) -> None:
  table.texts('link', '')
  devices, methods = table.texts('device'), table.texts('method')
  directions = table.one_of('direction', _DIRECTIONS)
  block_B = table.positive('block_kib', 'KiB') * _KIB
  blocks = np.maximum(table.counts('n_blocks', 0), 1)
  rate = table.positive('throughput_GBps', 'GB/s') * 1e9
  ways = [_DIRECTIONS[direction] for direction in directions]
  share = block_B * blocks / [len(way) for way in ways]
  ledger.add_columns(
    {
      'system': [ledger.system(name) for name in devices],
      'op': 'copy',
      'tier': ledger.tier('DRAM'),
      'bytes_read': share * ['read' in way for way in ways],
      'bytes_written': share * ['write' in way for way in ways],
      'granule_bytes': block_B,
      'variant': methods,
      'bandwidth_Bps': rate,
      'source': table.texts('provenance', ''),
      'note': directions,
    }
  )


def _drives(table, ledger) -> None:
  hosts, paths = table.texts('host'), table.texts('path')
  rate = table.positive('GBps', 'GB/s') * 1e9
  size = table.numbers('transfer_gb', 'GB', nullable=True) * 1e9
  size = np.where(size > 0, size, rate)  # Where unknown, a second's worth.
  reads = table.one_of('rw', ('read', 'write')) == 'read'
  table.use('peak_read_GBps_each')
  ledger.add_columns(
    {
      'system': [ledger.system(name) for name in hosts],
      'op': np.where(reads, 'sequential_read', 'sequential_write'),
      'tier': ledger.tier('SSDs'),
      'bytes_read': np.where(reads, size, 0.0),
      'bytes_written': np.where(reads, 0.0, size),
      'participants': table.counts('n_ssd'),
      'variant': table.texts('tool', ''),
      'bandwidth_Bps': rate,
      'source': table.texts('provenance', ''),
      'note': paths,
    }
  )


def _memory_matrix(table, ledger) -> None:
  processors, memories = table.texts('processor'), table.texts('memory')
  systems, metrics = table.texts('system', ''), table.texts('metric')
  values = table.positive('value')
  sources = table.texts('source_repo', '')
  for i, op in enumerate(table.texts('op')):
    common = {
      'system': ledger.system(f'{processors[i]} of {systems[i] or "a node"}'),
      'tier': ledger.tier(_memory_name(memories[i])),
      'source': sources[i],
      'note': metrics[i],
    }
    if op == 'pointer_chase' and metrics[i].endswith('_ns'):
      ledger.add(i + 1, op=op, latency_s=values[i] * 1e-9, **common)
    elif op in ('read', 'write') and metrics[i].endswith('_GBps'):
      ledger.add(
        i + 1,
        op='stream',
        bytes_read=_BUFFER_B if op == 'read' else 0.0,
        bytes_written=_BUFFER_B if op == 'write' else 0.0,
        variant=op,
        bandwidth_Bps=values[i] * 1e9,
        **common,
      )
    else:
      ledger.skip(i + 1, f'{op} as {metrics[i]}: reads or writes, unsaid')


def _memory_name(name: str) -> str:
  """'DRAM-remote' of 'ddr_remote'."""
  kind, _, place = name.partition('_')
  kind = _MEMORIES.get(kind, kind)
  return f'{kind}-{place}' if place else kind


def _managed_triad(table, ledger) -> None:
  table.use('time_ms', 'spread_pct')  # Rounded to 0.1 ms; the rate is not.
  size = table.positive('buffer_MB', 'MiB') * _MIB
  ledger.add_columns(
    {
      'system': [ledger.system(name) for name in table.texts('device')],
      'op': 'triad',
      'tier': ledger.tier(),
      'bytes_read': size * 2 / 3,
      'bytes_written': size / 3,
      'working_set_bytes': size,
      'variant': 'CUDA managed memory',
      'bandwidth_Bps': table.positive('GBps', 'GB/s') * 1e9,
      'source': table.texts('source_repo', ''),
    }
  )


# A column that only this layout has -> what reads it.
_LAYOUTS = {
  'test': _nvbandwidth,
  'transfer_bytes': _copy_sweep,
  'processor': _memory_matrix,
  'block_kib': _block_sweep,
  'n_ssd': _drives,
  'buffer_MB': _managed_triad,
}
