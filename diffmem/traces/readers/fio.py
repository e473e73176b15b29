"""fio results: its JSON (`--output-format=json` or `json+`), or a table.

JSON of fio 3.x (2.x with microseconds is understood): `jobs` is a list, each
with `job options`, `groupid` and the sections `read` and `write` of `io_bytes`,
`bw_bytes` [B/s], `iops`, `runtime` [ms], `total_ios`, `lat_ns.mean`. Options
that all jobs share are in `global options`. Entries of one `groupid` ran side
by side (without `group_reporting`, one for each process) and become one row.

The table has one row per job, as extracted from such files: `device`,
`n_devices`, `op` (read, write), `rw`, `iodepth`, `numjobs`, `outstanding`,
`block_bytes`, `iops`, `bandwidth_MBps` (1e6 B/s), `lat_mean_us`, `total_ios`.

Ops are random_read, sequential_read and so on; `..._mix` where reads and writes
run together. granule_bytes is the block. in_flight_bytes is what was asked for,
block x iodepth x numjobs; synchronous engines have one block per process. Where
Little's law (bandwidth x mean latency) finds less than 95 % of that, the queue
was not kept full and the smaller number is given, with a note.
"""

import collections
import pathlib
import re
from typing import Any

import numpy as np

from diffmem import errors
from diffmem.traces.readers import tables, text
from diffmem.traces.readers.ledger import Imported, Ledger, Options

# ioengines that do one block at a time, whatever iodepth says (fio(1)).
_SYNCHRONOUS = frozenset(
  {'sync', 'psync', 'vsync', 'pvsync', 'pvsync2', 'mmap', 'splice'}
)
_PATTERNS = {
  'read': 'sequential_read',
  'write': 'sequential_write',
  'randread': 'random_read',
  'randwrite': 'random_write',
  'rw': 'sequential_mix',
  'readwrite': 'sequential_mix',
  'randrw': 'random_mix',
}
_SIZE = re.compile(r'(\d{1,15})\s*([kmgt]?)(?:i?b)?', re.IGNORECASE)
_FULL_QUEUE = 0.95


def read(path: pathlib.Path, options: Options) -> Imported:
  """Reads fio's JSON or a table of fio results.

  Raises:
    TraceError: neither, or a value that makes no sense.
  """
  if path.suffix in tables.SUFFIXES:
    return _read_table(path, options)
  return _read_json(path, options)


def _read_table(path: pathlib.Path, options: Options) -> Imported:
  table = tables.read(path)
  ledger = Ledger(path, options)
  table.use(
    'procs', 'spdk', 'source_path', 'op', 'little_check', 'lat_std_us',
    'lat_p50_us', 'lat_p95_us', 'lat_p99_us', 'lat_p999_us', 'lat_min_us',
    'bandwidth_MBps', 'iodepth',
  )  # fmt: skip
  block = table.counts('block_bytes')
  bandwidth = table.positive('iops', '1/s') * block
  latency = table.positive('lat_mean_us', 'us') * 1e-6
  asked = table.counts('outstanding') * block
  in_flight, note = _in_flight(asked, bandwidth * latency)
  devices = table.texts('device')
  several = table.counts('n_devices')
  patterns = table.one_of('rw', _PATTERNS)
  mixed = np.array([_PATTERNS[p].endswith('mix') for p in patterns])
  keep = ledger.keep(mixed, 'a mix of reads and writes in one row')
  reads = np.array(['read' in p for p in patterns])
  total = block * table.counts('total_ios')
  ledger.add_columns(
    {
      'system': [
        ledger.system(f'{n:.0f}x {name}' if n > 1 else name)
        for name, n in zip(devices, several, strict=True)
      ],
      'op': [_PATTERNS[p] for p in patterns],
      'tier': ledger.tier('SSD'),
      'bytes_read': np.where(reads, total, 0.0),
      'bytes_written': np.where(reads, 0.0, total),
      'granule_bytes': block,
      'in_flight_bytes': in_flight,
      'participants': table.counts('numjobs'),
      'variant': [
        ' '.join(p for p in parts if p)
        for parts in zip(
          table.texts('ioengine', ''), table.texts('experiment', ''),
          strict=True,
        )
      ],
      'bandwidth_Bps': bandwidth,
      'latency_s': latency,
      'source': table.texts('source_repo', 'fio'),
      'note': note,
    },
    np.flatnonzero(keep),
  )  # fmt: skip
  if table.unused():
    ledger.remark(f'columns without use: {", ".join(table.unused())}')
  return ledger.done()


def _in_flight(asked, found):
  """Bytes in flight, and a note where the queue was not full."""
  is_short = found < _FULL_QUEUE * asked
  note = [
    f'the queue was {share:.0%} full' if short else ''
    for short, share in zip(is_short, found / asked, strict=True)
  ]
  return np.where(is_short, found, asked), note


def _read_json(path: pathlib.Path, options: Options) -> Imported:
  content = text.read_json(path)
  jobs = content.get('jobs')
  if not isinstance(jobs, list) or not jobs:
    raise errors.TraceError(
      path, column='jobs', expected="fio's list of jobs: --output-format=json"
    )
  shared = content.get('global options')
  shared = shared if isinstance(shared, dict) else {}
  ledger = Ledger(path, options)
  groups: dict[Any, list[tuple[int, dict]]] = collections.defaultdict(list)
  for i, job in enumerate(jobs, 1):
    if not isinstance(job, dict):
      raise errors.TraceError(path, row=i, value=job, expected='a job')
    if job.get('error'):
      ledger.skip(i, f'fio reports error {job["error"]}')
      continue
    own = job.get('job options')
    own = own if isinstance(own, dict) else {}
    groups[str(job.get('groupid', i))].append((i, job | {'o': shared | own}))
  for group in groups.values():
    _read_group(ledger, group, str(content.get('fio version', 'fio')))
  return ledger.done()


def _read_group(ledger: Ledger, group, version: str) -> None:
  """One row of the jobs that ran side by side."""
  row, first = group[0]
  choices = first['o']
  same = ('rw', 'bs', 'blocksize', 'iodepth', 'ioengine')
  for other, job in group[1:]:
    if any(job['o'].get(name) != choices.get(name) for name in same):
      for each, _ in group:
        ledger.skip(each, f'jobs {row} and {other} differ, but ran together')
      return
  pattern = str(choices.get('rw', choices.get('readwrite', 'read')))
  pattern = pattern.split(':')[0]
  if pattern not in _PATTERNS:
    ledger.skip(row, f'pattern {pattern!r} is neither reads nor writes')
    return
  if any(name in choices for name in ('bsrange', 'bssplit')):
    ledger.skip(row, 'blocks of several sizes')
    return
  block = _size(ledger.path, row, choices.get('bs', choices.get('blocksize')))
  jobs = _count(ledger.path, row, choices, 'numjobs') if len(group) == 1 else 1
  depth = _count(ledger.path, row, choices, 'iodepth')
  engine = str(choices.get('ioengine', 'psync'))
  depth = 1 if engine in _SYNCHRONOUS else depth
  threads = jobs * len(group)
  sums = {d: _sum(ledger.path, group, d) for d in ('read', 'write')}
  total_ios = sum(s['ios'] for s in sums.values())
  bandwidth = sum(s['Bps'] for s in sums.values())
  if bandwidth < 1 or total_ios < 1:
    ledger.skip(row, 'nothing was read or written')
    return
  latency = sum(s['latency_s'] * s['ios'] for s in sums.values()) / total_ios
  asked = np.array([float(block * depth * threads)])
  in_flight, note = _in_flight(asked, np.array([bandwidth * latency]))
  ledger.add(
    row,
    system=ledger.system(),
    op=_PATTERNS[pattern],
    tier=ledger.tier('SSD'),
    bytes_read=sums['read']['bytes'],
    bytes_written=sums['write']['bytes'],
    granule_bytes=block,
    in_flight_bytes=float(in_flight[0]),
    participants=threads,
    variant=f'{version} {engine} {first.get("jobname", "")}'.strip(),
    bandwidth_Bps=bandwidth,
    latency_s=latency if latency > 0 else None,
    source='fio',
    note=note[0],
  )


def _sum(path: pathlib.Path, group, direction: str) -> dict[str, float]:
  """Totals of one direction over jobs that ran side by side."""
  total = dict.fromkeys(('bytes', 'Bps', 'ios', 'latency_s'), 0.0)
  for row, job in group:
    part = job.get(direction)
    if not isinstance(part, dict):
      continue

    def value(name, part=part, row=row):
      return text.number(path, row, f'{direction}.{name}', part.get(name, 0))

    ios = value('total_ios')
    total['bytes'] += value('io_bytes') or 1024 * value('io_kbytes')
    total['Bps'] += value('bw_bytes') or 1024 * value('bw')
    total['latency_s'] += ios * _latency_s(path, row, part)
    total['ios'] += ios
  if total['ios']:
    total['latency_s'] /= total['ios']
  return total


def _latency_s(path: pathlib.Path, row: int, part: dict) -> float:
  """Mean latency from submission to completion; 0 where it is not given."""
  for name, unit in (
    ('lat_ns', 1e-9), ('clat_ns', 1e-9), ('lat', 1e-6), ('clat', 1e-6)
  ):  # fmt: skip
    found = part.get(name)
    if isinstance(found, dict) and 'mean' in found:
      return unit * text.number(path, row, f'{name}.mean', found['mean'])
  return 0.0


def _size(path: pathlib.Path, row: int, value: Any) -> int:
  """Bytes of '4k' or '128KiB'; fio counts in 1024 by default."""
  first = str(value if value is not None else '4k').split(',')[0].strip()
  match = _SIZE.fullmatch(first)
  if not match or int(match[1]) == 0:
    raise errors.TraceError(
      path, row=row, column='bs', value=value, expected='a block size, as 4k'
    )
  return int(match[1]) * 1024 ** ' kmgt'.index(match[2].lower() or ' ')


def _count(path: pathlib.Path, row: int, choices: dict, name: str) -> int:
  found = text.number(path, row, name, choices.get(name, 1), low=1)
  return int(found)
