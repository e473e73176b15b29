"""Probes of a GPU's memory: bandwidth, latency, bytes in flight.

What is sound and what is not, probe by probe:

- `Sweep`: time of a pass less that of the same loop over 4 KiB, which is the
  start of its kernels and of the loop; a row whose pass is not at least twice
  that is left out, the note of others says how much was taken off. Reads go
  over a small array many times within one kernel, so that caches are measured
  and not kernel starts. Sets up to a few MB are partly served by the
  first-level caches (32 MB over all SMs of an H100, that allocate on reads).
- `Chase`: two programs that differ in nothing but the hops per kernel; their
  difference has no kernel start in it. A hop has about 13 cycles of address
  arithmetic beside the load. The chains go on from where they were, so that
  no call finds the lines of the last one in a cache.
- `Chase` with many chains keeps chains x granule bytes in flight. A sequential
  walk gives bandwidth against bytes in flight without page or row misses, and
  is how the bandwidth is throttled for power windows.
"""

import dataclasses
import functools
import statistics
from typing import Any

import numpy as np

from diffmem.traces.collect import gpu_programs, memory
from diffmem.traces.collect import gpu_session as session_lib
from diffmem.traces.collect import session as cpu_session

_WORD = 4  # bytes of an element
_OVERHEAD_BYTES = 4096
_LEAST_SHARE = 2  # of a pass over the loop's own time
_PASS_BYTES = 512 * session_lib.MIB
_READ_TOP = -(2**30)
# Mix -> (op, arrays read, arrays written, arrays in all).
MIXES = {
  'read': ('stream', 1, 0, 1),
  'read 3:1': ('stream_mix', 3, 1, 4),
  'triad': ('triad', 2, 1, 3),
  'copy': ('copy', 1, 1, 1),
  'copy to another array': ('copy', 1, 1, 2),
  'read 1:2': ('stream_mix', 1, 2, 2),
  'write': ('stream_mix', 0, 1, 1),
}


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Sequential passes over arrays of `array_bytes` each."""

  mix: str
  array_bytes: int
  pass_bytes: int = _PASS_BYTES  # of one kernel that only reads
  group: str = 'stream'
  stride: int = 1

  @property
  def name(self) -> str:
    """Unique name of the row."""
    return f'{self.mix} {memory.readable(self.working_set_bytes)}'

  @property
  def working_set_bytes(self) -> int:
    """All arrays."""
    return self.array_bytes * MIXES[self.mix][3]

  @property
  def rows(self) -> int:
    """How often one kernel goes over the array; 1 where it writes."""
    if MIXES[self.mix][2]:
      return 1
    return max(1, round(self.pass_bytes / self.array_bytes))

  def program(self, session: session_lib.GpuSession) -> gpu_programs.Program:
    """The compiled loop."""
    return _sweep(session, self.mix, self.array_bytes, self.rows)

  def work(self, session: session_lib.GpuSession) -> dict[str, Any]:
    """Columns of one pass."""
    del session
    _, reads, writes, _ = MIXES[self.mix]
    return {
      'tier': 'HBM',
      'dtype': 'int32',
      'bytes_read': float(reads * self.rows * self.array_bytes),
      'bytes_written': float(writes * self.array_bytes),
      'flops': 0.0,
      'granule_bytes': float(self.array_bytes),
      'working_set_bytes': float(self.working_set_bytes),
    }

  @property
  def op(self) -> str:
    """Operation of the row."""
    return MIXES[self.mix][0]

  def measure(
    self, session: session_lib.GpuSession, repeats: int
  ) -> list[float]:
    """Times of a pass, less the loop's own."""
    key = 'loop', self.mix
    if key not in session.memo:
      empty = _sweep(session, self.mix, _OVERHEAD_BYTES, 1)
      times = session.time_calls(empty, repeats)
      session.memo[key] = statistics.median(times) / empty.passes
    program = self.program(session)
    times = [t / program.passes for t in session.time_calls(program, repeats)]
    if statistics.median(times) < _LEAST_SHARE * session.memo[key]:
      raise cpu_session.SkipProbe('too short to be told from the loop itself')
    return [time_s - session.memo[key] for time_s in times]

  def row(
    self, session: session_lib.GpuSession, visits: list[list[float]]
  ) -> dict[str, Any]:
    """One row per mix and size."""
    columns = session_lib.median_row(visits[0])
    work = self.work(session)
    moved = work['bytes_read'] + work['bytes_written']
    share = session.memo['loop', self.mix] / columns['time_s']
    note = columns.pop('note', None)
    return session.row(
      self.op,
      f'xla, {self.mix}',
      **work,
      bandwidth_Bps=moved / columns['time_s'],
      note='; '.join(filter(None, [note, f'loop of {share:.1%} taken off'])),
      **columns,
    )


@dataclasses.dataclass(frozen=True)
class Chase:
  """Chains of dependent loads, each of a granule."""

  working_set_bytes: int
  chains: int = 1
  granule_bytes: int = 128
  sequential: bool = False
  hops: tuple[int, int] = (32, 128)  # of a kernel, in the two programs
  group: str = 'chase'
  stride: int = 1

  @property
  def op(self) -> str:
    """Operation of the row."""
    if self.sequential:
      return 'sequential_read'
    return 'pointer_chase' if self.chains == 1 else 'random_read'

  @property
  def name(self) -> str:
    """Unique name of the row."""
    return (
      f'{self.op} {memory.readable(self.working_set_bytes)}, {self.chains} '
      f'chains of {self.granule_bytes} B'
    )

  @property
  def in_flight_bytes(self) -> float:
    """One granule of each chain."""
    return float(self.chains * self.granule_bytes)

  def program(
    self, session: session_lib.GpuSession, hops: int | None = None
  ) -> gpu_programs.Program:
    """The compiled loop, with the larger number of hops."""
    hops = hops or self.hops[1]
    table = session.once(
      ('table', self.working_set_bytes, self.granule_bytes, self.sequential),
      functools.partial(self._table, session),
    )
    lanes = self.granule_bytes // _WORD
    nodes = self.working_set_bytes // self.granule_bytes
    first = np.arange(self.chains) * (nodes // self.chains)
    place = first[:, None] * lanes + np.arange(lanes)
    place = session.put(place.reshape(-1).astype(np.uint32))
    hop_s = max(1e-6, self.in_flight_bytes / session.options.guess_Bps)
    return gpu_programs.build(
      functools.partial(gpu_programs.chase, hops=hops),
      [table], [place], session.passes(hops * hop_s),
    )  # fmt: skip

  def work(self, session: session_lib.GpuSession) -> dict[str, Any]:
    """Columns of one pass of the longer program."""
    del session
    return {
      'tier': 'HBM',
      'dtype': 'uint32',
      'bytes_read': self.in_flight_bytes * self.hops[1],
      'bytes_written': 0.0,
      'flops': 0.0,
      'granule_bytes': float(self.granule_bytes),
      'in_flight_bytes': self.in_flight_bytes,
      'working_set_bytes': float(self.working_set_bytes),
    }

  def measure(
    self, session: session_lib.GpuSession, repeats: int
  ) -> list[float]:
    """Times of a hop, from the difference of the two programs."""
    short, long = self.hops
    programs = [self.program(session, hops) for hops in self.hops]
    _read_all(session, programs[0].fixed[0])
    times = session_lib.time_together(programs, session.options, repeats)
    pairs = zip(*times, strict=True)
    hops = [
      (b / programs[1].passes - a / programs[0].passes) / (long - short)
      for a, b in pairs
    ]
    if statistics.median(hops) <= 0:
      raise cpu_session.SkipProbe('the longer program took no longer: noise')
    return [hop_s for hop_s in hops if hop_s > 0]

  def row(
    self, session: session_lib.GpuSession, visits: list[list[float]]
  ) -> dict[str, Any]:
    """One row; time_s is that of the longer program's hops."""
    columns = session_lib.median_row(visits[0])
    latency_s = columns.pop('time_s')
    work = self.work(session)
    return session.row(
      self.op,
      f'xla, {"sequential" if self.sequential else "random"} chains',
      **work,
      time_s=latency_s * self.hops[1],
      latency_s=latency_s,
      bandwidth_Bps=self.in_flight_bytes / latency_s,
      **columns,
    )

  def _table(self, session: session_lib.GpuSession) -> Any:
    """Element l of node p holds the place of element l of the next node."""
    import jax
    import jax.numpy as jnp

    lanes = self.granule_bytes // _WORD
    nodes = self.working_set_bytes // self.granule_bytes
    following = np.roll(np.arange(nodes, dtype=np.uint32), -1)
    if not self.sequential:
      order = np.random.default_rng(session.options.seed).permutation(nodes)
      following[order] = np.roll(order, -1).astype(np.uint32)

    def spread(following):
      lane = jnp.arange(lanes, dtype=jnp.uint32)
      return (following[:, None] * np.uint32(lanes) + lane[None, :]).reshape(-1)

    return jax.jit(spread)(session.put(following))


def _sweep(session, mix: str, array_bytes: int, rows: int):
  """The loop of a mix over arrays of int32."""
  import jax.numpy as jnp

  _, reads, writes, total = MIXES[mix]
  n = array_bytes // _WORD

  def array(seed: int):
    return (jnp.arange(n, dtype=jnp.int32, device=session.device) + 1) * seed

  moved = (reads * rows + writes) * array_bytes
  passes = session.passes(session.guess_s(moved))
  if not writes:
    return gpu_programs.build(
      functools.partial(gpu_programs.read, rows=rows),
      [array(3)], [session.put(np.int32(_READ_TOP))], passes,
    )  # fmt: skip
  fixed = [array(3 + 2 * i) for i in range(total - writes)]
  carry = [array(101 + 2 * i) for i in range(writes)]
  return gpu_programs.build(
    functools.partial(
      gpu_programs.read_and_write, reads=reads, writes=writes
    ),
    fixed, carry, passes,
  )  # fmt: skip


def _read_all(session, table) -> None:
  """Brings a table to where a long walk would have left it."""
  import jax
  import jax.numpy as jnp

  jax.block_until_ready(jax.jit(jnp.max)(table))
