"""Probes of caches and main memory: latency, bandwidth, loaded latency."""

import dataclasses
import math
import statistics
from typing import Any

from diffmem.traces.collect import machine as machine_lib
from diffmem.traces.collect import samples
from diffmem.traces.collect import session as session_lib

LINE_BYTES = 64
_ALIGN = 512  # the C kernels take arrays in steps of eight vectors
_SMALLEST = 8 * machine_lib.KIB
_GAP = 0.12  # no working set within 12 % of a cache's size
_WARM_LIMIT_S = 0.15
_TRAVERSED_CACHES = 3  # larger sets start with a swept, not a walked, cache
_ARRAYS = {'stream': 1, 'copy': 2, 'triad': 3}
_DTYPE = {'stream': 'int64', 'copy': 'float64', 'triad': 'float64'}
CHUNK_TURNS = 300  # loop turns in the time that a KiB takes
_IDLE_DELAY = 100 * CHUNK_TURNS
_USUAL_LOAD = 0.85  # of the upper quartile of a row's repeats
_WINDOW = machine_lib.MIB

Visits = list[list[samples.Timing]]


def working_sets(
  caches: tuple[int, ...], largest: int, per_octave: float
) -> list[int]:
  """Geometric working sets in bytes that stay clear of the cliffs.

  Args:
    caches: Cache capacities, bytes.
    largest: Upper end, bytes (included).
    per_octave: Points per factor of two.

  Returns:
    Sizes in bytes, ascending, multiples of 1 KiB.
  """
  octaves = math.log2(max(largest / _SMALLEST, 1))
  count = max(round(octaves * per_octave), 1)
  sizes = set()
  for i in range(count + 1):
    size = _SMALLEST * 2 ** (octaves * i / count)
    for cache in caches:
      if abs(math.log(size / cache)) < _GAP:
        size = cache * math.exp(math.copysign(_GAP, size - cache))
    sizes.add(min(round(size), largest) // 1024 * 1024)
  return sorted(size for size in sizes if size)


@dataclasses.dataclass(frozen=True)
class Chase:
  """Dependent loads around a random cycle: latency per hop."""

  bytes_per_thread: int
  threads: int = 1
  stride: int = 1
  group = None

  @property
  def name(self) -> str:
    """Unique name of the row."""
    size = readable(self.bytes_per_thread * self.threads)
    return f'pointer_chase {size} x{self.threads}'

  def measure(
    self, session: session_lib.Session, repeats: int
  ) -> list[samples.Timing]:
    """Timings of the same number of hops."""
    run = session.kernels.chase
    size, n = self.bytes_per_thread, self.threads
    if self not in session.memo:
      trial = run(n, size, _rounded(min(size // LINE_BYTES, 16_000)), 8_000, 3)
      hop_s = min(timing.wall_s for timing in trial) / 8_000
      session.memo[self] = _rounded(session.options.repeat_s / hop_s), hop_s
    hops, hop_s = session.memo[self]
    return run(n, size, _warm_hops(session, size, n, hop_s), hops, repeats)

  def row(self, session: session_lib.Session, visits: Visits) -> dict[str, Any]:
    """One `pointer_chase` row."""
    hops, _ = session.memo[self]
    summary = samples.summarise(visits)
    moved = hops * LINE_BYTES * self.threads
    return session.row(
      'pointer_chase',
      tier='DRAM',
      dtype='int64',
      bytes_read=float(moved),
      bytes_written=0.0,
      flops=0.0,
      granule_bytes=LINE_BYTES,
      in_flight_bytes=float(LINE_BYTES * self.threads),
      participants=self.threads,
      working_set_bytes=float(self.bytes_per_thread * self.threads),
      bandwidth_Bps=moved / summary.time_s,
      latency_s=summary.time_s / hops,
      **_observed(session, summary),
    )


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Sequential passes over arrays: `stream`, `copy` or `triad`."""

  op: str
  array_bytes: int  # of one array of one thread
  threads: int = 1
  stride: int = 1
  group = None

  @property
  def working_set_bytes(self) -> int:
    """All arrays of all threads."""
    return self.array_bytes * _ARRAYS[self.op] * self.threads

  @property
  def name(self) -> str:
    """Unique name of the row."""
    return f'{self.op} {readable(self.working_set_bytes)} x{self.threads}'

  def measure(
    self, session: session_lib.Session, repeats: int
  ) -> list[samples.Timing]:
    """Timings of the same number of passes."""
    run = session.kernels.sweep
    size, n, window = self.array_bytes, self.threads, self._window(session)
    if self not in session.memo:
      trial = max(1, machine_lib.MIB // size)
      timings = run(self.op, n, size, window, 0, trial, trial, 3)
      pass_s = min(timing.wall_s for timing in timings) / trial
      passes = max(1, round(session.options.repeat_s / pass_s))
      session.memo[self] = passes
    passes = session.memo[self]
    offset = session.random.randrange(size // window) * window
    warm = max(2, passes // 2)
    return run(self.op, n, size, window, offset, warm, passes, repeats)

  def row(self, session: session_lib.Session, visits: Visits) -> dict[str, Any]:
    """One row of the op; bytes as the program asks for them."""
    summary = samples.summarise(visits)
    reads, writes = session.kernels.traffic[self.op]
    passes = session.memo[self] * self.threads
    moved = float(self._window(session) * passes)
    triad_flops = 2 * moved / 8 if self.op == 'triad' else 0.0
    return session.row(
      self.op,
      tier='DRAM',
      dtype=_DTYPE[self.op],
      bytes_read=reads * moved,
      bytes_written=writes * moved,
      flops=triad_flops,
      granule_bytes=self.array_bytes,
      participants=self.threads,
      working_set_bytes=float(self.working_set_bytes),
      bandwidth_Bps=(reads + writes) * moved / summary.time_s,
      **_observed(session, summary),
    )

  def _window(self, session: session_lib.Session) -> int:
    """Bytes of each array in one pass: long arrays are taken in pieces.

    Beyond two last-level caches nothing is left when a pass returns to its
    start, so that a piece at a time costs the same and repeats are short.
    """
    if self.working_set_bytes > 2 * session.machine.last_cache_bytes:
      return min(_WINDOW, self.array_bytes)
    return self.array_bytes


@dataclasses.dataclass(frozen=True)
class Loaded:
  """Latency of a chase in main memory beside n - 1 busy threads."""

  op: str  # what the load threads do: 'stream' or 'triad'
  delay: int  # loop turns between two KiB of the load
  threads: int
  stride: int = 1
  group = None

  @property
  def name(self) -> str:
    """Unique name of the row."""
    return f'loaded_latency {self.op} delay {self.delay} x{self.threads}'

  def measure(
    self, session: session_lib.Session, repeats: int
  ) -> list[tuple[samples.Timing, float]]:
    """Timings of the chase, each with the bytes per array of the load."""
    if self.threads < 2:
      raise session_lib.SkipProbe('needs two CPUs: one chases, one loads')
    chain, array = self._sizes(session)
    run = session.kernels.loaded
    arguments = (self.op, self.threads, chain, array, self.delay)
    if self not in session.memo:
      trial = run(*arguments, 4_000, 8_000, 3)
      hop_s = min(timing.wall_s for timing, _ in trial) / 8_000
      session.memo[self] = _rounded(1.5 * session.options.repeat_s / hop_s)
    hops = session.memo[self]
    return run(*arguments, hops, hops, repeats)

  def row(
    self,
    session: session_lib.Session,
    visits: list[list[tuple[samples.Timing, float]]],
  ) -> dict[str, Any]:
    """One `loaded_latency` row; the bandwidth counts load and chase."""
    hops = session.memo[self]
    kept = _undisturbed_load([pair for visit in visits for pair in visit])
    # The median: bandwidth and latency must come from the same moments.
    summary = samples.summarise([[timing for timing, _ in kept]], quantile=0.5)
    reads, writes = session.kernels.traffic[self.op]
    rate = statistics.median(moved / t.wall_s for t, moved in kept)
    loaded = rate * summary.time_s
    read, written = loaded * reads + hops * LINE_BYTES, loaded * writes
    bandwidth = (read + written) / summary.time_s
    latency = summary.time_s / hops
    chain, array = self._sizes(session)
    arrays = _ARRAYS[self.op] * array * (self.threads - 1)
    return session.row(
      'loaded_latency',
      tier='DRAM',
      dtype=_DTYPE[self.op],
      bytes_read=read,
      bytes_written=written,
      flops=0.0,
      granule_bytes=LINE_BYTES,
      in_flight_bytes=bandwidth * latency,
      participants=self.threads,
      working_set_bytes=float(chain + arrays),
      bandwidth_Bps=bandwidth,
      latency_s=latency,
      **_observed(session, summary),
    )

  def _sizes(self, session: session_lib.Session) -> tuple[int, int]:
    """Bytes of the chain and of each array of a load thread."""
    largest = session.largest_bytes()
    array = largest // _ARRAYS[self.op] // max(self.threads - 1, 1)
    return largest, max(array, machine_lib.MIB) // 4096 * 4096


def memory_probes(
  options: session_lib.Options, machine: machine_lib.Machine
) -> list[Any]:
  """All memory probes: chases, sweeps, loaded latency."""
  caches, largest = machine.cache_bytes, options.largest_bytes
  largest = largest or machine.dram_bytes()
  counts = machine_lib.thread_counts(len(machine.cpus))
  probes: list[Any] = []
  for n in counts:
    sizes = working_sets(caches, largest // n, options.chase_per_octave)
    for size in sizes[:: 1 if n == 1 else 3]:
      stride = 2 if size * n > machine.last_cache_bytes else 1
      probes.append(Chase(size, n, stride))
  for op, arrays in _ARRAYS.items():
    for n in counts:
      sizes = working_sets(caches, largest // n, options.sweep_per_octave)
      step = 1 if n in (1, counts[-1]) else 3
      lengths = [size // arrays // _ALIGN * _ALIGN for size in sizes[::step]]
      probes += [Sweep(op, length, n) for length in lengths]
  for op in ('stream', 'triad'):
    delays = _delays(options.load_levels)
    probes += [Loaded(op, delay, len(machine.cpus)) for delay in delays]
  return probes


def _observed(
  session: session_lib.Session, summary: samples.Summary
) -> dict[str, Any]:
  """Columns of a summary; small pages add page walks and are noted."""
  columns = summary.columns()
  if not session.machine.huge_pages:
    columns['note'] = '; '.join(filter(None, [summary.note, 'no huge pages']))
  return columns


def _undisturbed_load(
  pairs: list[tuple[samples.Timing, float]],
) -> list[tuple[samples.Timing, float]]:
  """Repeats in which chase and load kept their CPUs, where there are some.

  A load thread that lost its CPU shows as a load below the usual one.
  """
  pairs = [pair for pair in pairs if not pair[0].preempted] or pairs
  rates = sorted(moved / timing.wall_s for timing, moved in pairs)
  usual = rates[3 * (len(rates) - 1) // 4]
  return [
    (timing, moved)
    for timing, moved in pairs
    if moved / timing.wall_s >= _USUAL_LOAD * usual
  ]


def _delays(levels: int) -> list[int]:
  """Loop turns from almost idle to none: even steps of the load."""
  steps = [i / (levels - 1) for i in range(1, levels)]
  return [_IDLE_DELAY] + [round(CHUNK_TURNS * (1 / s - 1)) for s in steps]


def _rounded(hops: float) -> int:
  """Hops in steps of eight, as the kernel takes them."""
  return max(8, round(hops / 8) * 8)


def _warm_hops(
  session: session_lib.Session, size: int, n: int, hop_s: float
) -> int:
  """Hops that bring the caches to the steady state of a long walk."""
  hops = size // LINE_BYTES
  if size * n > _TRAVERSED_CACHES * session.machine.last_cache_bytes:
    hops //= 32
  return _rounded(min(hops, _WARM_LIMIT_S / hop_s))


def readable(size: float) -> str:
  """Bytes for people: `'1.5 MiB'`."""
  for unit in ('B', 'KiB', 'MiB'):
    if size < 1024:
      return f'{size:.4g} {unit}'
    size /= 1024
  return f'{size:.4g} GiB'
