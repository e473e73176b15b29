"""Probes of the disk below a folder: block size and queue depth."""

import dataclasses
import statistics
from typing import Any

from diffmem.traces.collect import memory, samples
from diffmem.traces.collect import session as session_lib

_BIG_BLOCK = 1024**2
_MOST_IN_FLIGHT = 64 * 1024**2


@dataclasses.dataclass(frozen=True)
class FileRead:
  """Reads of one block size with `depth` reads in flight."""

  op: str  # 'random_read' or 'sequential_read'
  block_bytes: int
  depth: int = 1
  stride: int = 2
  group = 'disk'

  @property
  def name(self) -> str:
    """Unique name of the row."""
    return f'{self.op} {memory.readable(self.block_bytes)} depth {self.depth}'

  def measure(
    self, session: session_lib.Session, repeats: int
  ) -> list[samples.Reads]:
    """Reads of equal duration; offsets differ from repeat to repeat."""
    del repeats  # disks have their own number
    file = session.scratch_file()
    blocks = file.size // self.block_bytes
    if blocks < self.depth:
      raise session_lib.SkipProbe(f'the file holds only {blocks} blocks')
    done = []
    for _ in range(session.options.disk_repeats):
      if not file.direct:
        file.forget()
      done.append(
        session.kernels.read_file(
          file.fd, self.depth, self.block_bytes, blocks,
          sequential=self.op == 'sequential_read',
          first=session.random.randrange(blocks),
          duration_s=session.options.disk_repeat_s,
          least=2 if self.block_bytes >= _BIG_BLOCK else 4,
          seed=session.random.getrandbits(63),
        )
      )  # fmt: skip
    return done

  def row(
    self, session: session_lib.Session, visits: list[list[samples.Reads]]
  ) -> dict[str, Any]:
    """One row; latency is the mean per read, as Little's law wants it.

    The threads are busy all the time, so that bytes / time_s, bandwidth_Bps
    and in_flight_bytes / latency_s are the same number.
    """
    reads = [one for visit in visits for one in visit]
    latencies = [one.busy_s / one.count for one in reads]
    latency = statistics.median(latencies)
    count = statistics.median(one.count for one in reads)
    in_flight = float(self.block_bytes * self.depth)
    deviation = samples.rel_std(latencies)
    notes = [] if session.scratch_file().direct else ['no O_DIRECT']
    if deviation > samples.NOISY_REL_STD:
      notes.append(f'noisy: rel_std {deviation:.2f}')
    return session.row(
      self.op,
      tier='disk',
      bytes_read=count * self.block_bytes,
      bytes_written=0.0,
      flops=0.0,
      granule_bytes=self.block_bytes,
      in_flight_bytes=in_flight,
      participants=self.depth,
      working_set_bytes=float(session.scratch_file().size),
      time_s=latency * count / self.depth,
      cpu_time_s=statistics.median(one.cpu_s for one in reads) / self.depth,
      bandwidth_Bps=in_flight / latency,
      latency_s=latency,
      repeats=len(reads),
      rel_std=deviation,
      note='; '.join(notes) or None,
    )


def disk_probes(options: session_lib.Options) -> list[FileRead]:
  """Random reads over blocks and depths, sequential ones over blocks."""
  probes = [
    FileRead('random_read', block, depth)
    for block in options.disk_blocks
    for depth in options.disk_depths
    if block * depth <= _MOST_IN_FLIGHT
  ]
  probes += [FileRead('sequential_read', b) for b in options.disk_blocks]
  return probes
