"""Probes of the link between a GPU and the host's memory.

A row is one copy and the wait for it, as a program that needs the data sees
it, the software of jax included. Pageable copies start from (end in) a numpy
array, pinned ones in the memory kind `pinned_host`.
"""

import dataclasses
import time
from typing import Any

import numpy as np

from diffmem.traces.collect import gpu_session as session_lib
from diffmem.traces.collect import memory
from diffmem.traces.collect import session as cpu_session

_WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class HostCopy:
  """One copy between the host's memory and the device's."""

  size_bytes: int
  to_device: bool
  pinned: bool
  group: str = 'host link'
  stride: int = 1

  @property
  def name(self) -> str:
    """Unique name of the row."""
    return f'{self.mode} {memory.readable(self.size_bytes)}'

  @property
  def mode(self) -> str:
    """'h2d_pinned' and so on, as in other tools' tables."""
    direction = 'h2d' if self.to_device else 'd2h'
    return f'{direction}_{"pinned" if self.pinned else "pageable"}'

  def measure(
    self, session: session_lib.GpuSession, repeats: int
  ) -> list[float]:
    """Times of a copy, each waited for."""
    import jax

    places = {m.kind for m in session.device.addressable_memories()}
    if self.pinned and 'pinned_host' not in places:
      raise cpu_session.SkipProbe('the device has no memory kind pinned_host')
    data = np.resize(np.arange(251, dtype=np.uint8), self.size_bytes)
    step = jax.jit(lambda x, i: x + i)
    here = session.put(data)
    there = _placed(data, session, 'pinned_host') if self.pinned else data
    times = []
    for i in range(repeats + _WARM_UP):
      # A new array each time: jax keeps the host's copy of an array it knows.
      source = there if self.to_device else step(here, np.uint8(i))
      jax.block_until_ready(source)
      start = time.perf_counter()
      if self.pinned:
        kind = 'device' if self.to_device else 'pinned_host'
        jax.block_until_ready(_placed(source, session, kind))
      elif self.to_device:
        jax.block_until_ready(session.put(source))
      else:
        np.asarray(source)
      times.append(time.perf_counter() - start)
    return times[_WARM_UP:]

  def row(
    self, session: session_lib.GpuSession, visits: list[list[float]]
  ) -> dict[str, Any]:
    """One row; the bytes are the host's."""
    columns = session_lib.median_row(visits[0])
    size = float(self.size_bytes)
    return session.row(
      'copy',
      self.mode,
      tier='DRAM',
      bytes_read=size if self.to_device else 0.0,
      bytes_written=0.0 if self.to_device else size,
      granule_bytes=size,
      launches=1,
      bandwidth_Bps=size / columns['time_s'],
      **columns,
    )


def _placed(value, session, kind: str):
  """The value in a kind of memory of the device."""
  import jax

  sharding = jax.sharding.SingleDeviceSharding(session.device, memory_kind=kind)
  return jax.device_put(value, sharding)
