"""Intel Memory Latency Checker (mlc 3.x), its text; and tables made from it.

The text has parts, each with a headline:

    Measuring idle latencies (in ns)...           matrix, node x node
    Measuring Peak Injection Memory Bandwidths    'ALL Reads  :  225097.1'
    Measuring Memory Bandwidths between nodes     matrix, node x node [MB/s]
    Measuring Loaded Latencies for the system     'delay  ns  MB/s' lines

MB/s are 1e6 B/s. Loaded latencies become rows `loaded_latency` with
in_flight_bytes = bandwidth x latency; the traffic is 'Using Read-only traffic
type' unless the text says another ratio. Idle latencies become `pointer_chase`,
peak bandwidths `stream`, `stream_mix`, `copy` and `triad` (reads to writes as
named, at the memory), node bandwidths `stream`. Tiers: DRAM on a node's own
memory, DRAM-remote on another's, node<j> where a node has no cores (CXL, HBM).
mlc loads from all cores and does not say how many: participants only by option.
Other parts (cache-to-cache) are skipped.

Tables (CSV): `target`, `mix`, `bandwidth_GBps`; or `target`, `buffer_MB` (2^20
B), `latency_ns` of lmbench, where `kind` other than 'measured' is skipped.
"""

import pathlib
import re

import numpy as np

from diffmem import errors
from diffmem.traces.readers import tables, text
from diffmem.traces.readers.ledger import Imported, Ledger, Options

# Mix as mlc names it -> op, parts read, parts written.
_MIXES = {
  'ALL Reads': ('stream', 1, 0),
  '3:1 Reads-Writes': ('stream_mix', 3, 1),
  '2:1 Reads-Writes': ('stream_mix', 2, 1),
  '1:1 Reads-Writes': ('copy', 1, 1),
  'Stream-triad like': ('triad', 2, 1),
}
_PEAK = re.compile(r'\s*([\w: -]+?)\s*:\s+([\d.]+)\s*$')
_MATRIX = re.compile(r'\s*(\d{1,3})((?:\s+(?:\d+(?:\.\d+)?|-))+)\s*$')
_LOADED = re.compile(r'\s*(\d{5,9})\s+(\d[\d.]*)\s+(\d[\d.]*)\s*$')
_RATIO = re.compile(
  r'Using (\d+):(\d+)\s*(?:read[- ]?write|Reads-Writes)', re.I
)
_MIB = 2.0**20
_SOURCE = 'Intel MLC'


def read(path: pathlib.Path, options: Options) -> Imported:
  """Reads mlc's text, or a table.

  Raises:
    TraceError: neither, or a value that makes no sense.
  """
  if path.suffix in tables.SUFFIXES:
    return _read_table(path, options)
  content = text.lines(path)
  if not any(row.strip().startswith('Measuring') for _, row in content):
    raise errors.TraceError(
      path, expected="Intel MLC's text: parts that start with 'Measuring'"
    )
  reader = _TextReader(Ledger(path, options), options, content)
  return reader.read()


class _TextReader:
  """Reads the parts of mlc's text one after the other."""

  def __init__(self, ledger: Ledger, options: Options, content):
    self._ledger = ledger
    self._options = options
    self._content = content
    rows = [_MATRIX.match(row) for _, row in content]
    self._nodes_with_cores = {int(match[1]) for match in rows if match}
    self._headline = ''
    self._ratio = (1.0, 0.0)

  def read(self) -> Imported:
    """Reads all parts."""
    read_row = None
    for line, row in self._content:
      stripped = row.strip()
      if stripped.startswith('Measuring'):
        self._headline, self._ratio = stripped, (1.0, 0.0)
        read_row = self._reader_of(stripped)
        if read_row is None:
          self._ledger.skip(line, f'{stripped.rstrip(".")}: not used')
      elif found := _RATIO.search(stripped):
        self._ratio = (float(found[1]), float(found[2]))
      elif read_row:
        read_row(line, row)
    return self._ledger.done()

  def _reader_of(self, headline: str):
    for start, reader in (
      ('Measuring idle latenc', self._idle),
      ('Measuring Peak', self._peak),
      ('Measuring Maximum Memory Bandwidths', self._peak),
      ('Measuring Memory Bandwidths', self._node_bandwidth),
      ('Measuring Loaded', self._loaded),
    ):
      if headline.startswith(start):
        return reader
    return None

  def _cells(self, line: int, row: str):
    """(tier, note, value) of the cells of one row of a node matrix."""
    match = _MATRIX.match(row)
    if not match:
      if row.strip()[:1].isdigit() and '.' in row:
        raise errors.TraceError(
          self._ledger.path, row=line, value=row.strip()[:60],
          expected='a node and one number for each node',
        )  # fmt: skip
      return
    source = int(match[1])
    for node, cell in enumerate(match[2].split()):
      note = f'node {source} to node {node}'
      value = 0.0 if cell == '-' else float(cell)
      if value <= 0:
        self._ledger.skip(line, f'{note}: not measured')
        continue
      yield self._tier(source, node), note, value

  def _tier(self, source: int, node: int) -> str | None:
    if node == source:
      return self._ledger.tier('DRAM')
    has_cores = node in self._nodes_with_cores
    return self._ledger.tier('DRAM-remote' if has_cores else f'node{node}')

  def _idle(self, line: int, row: str) -> None:
    walk = 'sequential' if 'sequential' in self._headline else 'random'
    for tier, note, value in self._cells(line, row):
      self._ledger.add(
        line, system=self._ledger.system(), op='pointer_chase', tier=tier,
        latency_s=value * 1e-9, variant=f'{walk} walk', source=_SOURCE,
        note=note,
      )  # fmt: skip

  def _node_bandwidth(self, line: int, row: str) -> None:
    op = 'stream_mix' if self._ratio[1] else 'stream'
    for tier, note, value in self._cells(line, row):
      self._add_rate(line, (op, *self._ratio), value * 1e6, tier, note)

  def _peak(self, line: int, row: str) -> None:
    match = _PEAK.match(row)
    if not match:
      return
    if match[1] not in _MIXES:
      self._ledger.skip(line, f'unknown mix {match[1]!r}')
      return
    value = text.number(self._ledger.path, line, match[1], match[2])
    tier = self._ledger.tier('DRAM')
    self._add_rate(line, _MIXES[match[1]], value * 1e6, tier, match[1])

  def _add_rate(self, line, mix, rate, tier, note) -> None:
    self._ledger.add(
      line,
      system=self._ledger.system(),
      tier=tier,
      participants=self._options.participants,
      source=_SOURCE,
      note=note,
      **_rate(mix, rate),
    )

  def _loaded(self, line: int, row: str) -> None:
    match = _LOADED.match(row)
    if not match:
      if row.strip()[:1].isdigit():
        raise errors.TraceError(
          self._ledger.path, row=line, value=row.strip()[:60],
          expected='inject delay, latency in ns, bandwidth in MB/s',
        )  # fmt: skip
      return
    path = self._ledger.path
    latency = 1e-9 * text.number(path, line, 'Latency', match[2])
    rate = 1e6 * text.number(path, line, 'Bandwidth', match[3])
    if rate < 1 or latency <= 0:
      self._ledger.skip(line, 'no latency or no bandwidth')
      return
    in_flight, share = rate * latency, self._ratio[0] / sum(self._ratio)
    self._ledger.add(
      line,
      system=self._ledger.system(),
      op='loaded_latency',
      tier=self._ledger.tier('DRAM'),
      bytes_read=in_flight * share,
      bytes_written=in_flight * (1 - share),
      in_flight_bytes=in_flight,
      participants=self._options.participants,
      bandwidth_Bps=rate,
      latency_s=latency,
      source=_SOURCE,
      note=f'inject delay {int(match[1])}',
    )


def _rate(mix: tuple, rate_Bps: float) -> dict:
  """Columns of a peak bandwidth; the bytes are those of one second."""
  op, reads, writes = mix
  return {
    'op': op,
    'bytes_read': rate_Bps * reads / (reads + writes),
    'bytes_written': rate_Bps * writes / (reads + writes),
    'bandwidth_Bps': rate_Bps,
  }


def _read_table(path: pathlib.Path, options: Options) -> Imported:
  table = tables.read(path)
  ledger = Ledger(path, options)
  table.use('source_path')
  targets = table.texts('target')
  sources = table.texts('source_repo', _SOURCE)
  if 'mix' in table:
    rates = table.positive('bandwidth_GBps', 'GB/s') * 1e9
    for i, mix in enumerate(table.one_of('mix', _MIXES)):
      system, tier = _target(ledger, targets[i])
      ledger.add(
        i + 1,
        system=system,
        tier=tier,
        participants=options.participants,
        source=sources[i],
        note=mix,
        **_rate(_MIXES[mix], rates[i]),
      )
  else:
    _read_lmbench(table, ledger, targets, sources)
  if table.unused():
    ledger.remark(f'columns without use: {", ".join(table.unused())}')
  return ledger.done()


def _read_lmbench(table, ledger, targets, sources) -> None:
  kinds = table.texts('kind', 'measured')
  keep = ledger.keep(kinds != 'measured', 'a simulation, not a measurement')
  places = [_target(ledger, name) for name in targets]
  ledger.add_columns(
    {
      'system': [system for system, _ in places],
      'op': 'pointer_chase',
      'tier': [tier for _, tier in places],
      'working_set_bytes': table.positive('buffer_MB', 'MiB') * _MIB,
      'latency_s': table.positive('latency_ns', 'ns') * 1e-9,
      'variant': 'lmbench',
      'source': sources,
    },
    np.flatnonzero(keep),
  )


def _target(ledger: Ledger, name: str) -> tuple[str, str | None]:
  """System and tier of 'CXL Local' or 'DDR-R'."""
  kind, _, place = name.replace('-', ' ').partition(' ')
  memory = 'DRAM' if kind == 'DDR' else kind
  is_remote = place in ('Remote', 'R')
  suffix = '' if place in ('Local', 'L', '') else f'-{place}'
  tier = f'{memory}-remote' if is_remote else memory + suffix
  return ledger.system('CXL test host'), ledger.tier(tier)
