"""What a probe will ask of a machine, before anybody has measured it.

A planned row has the columns of the row that the probe would bring home; its
observations stand as 1 where the measurement will be. Beside it stand how
noisy such rows usually are and how long they take.
"""

import math
from typing import Any, NamedTuple

from diffmem.system import System
from diffmem.traces.collect import (
  disk,
  gpu_host,
  gpu_memory,
  gpu_power,
  memory,
  programs,
)
from diffmem.traces.collect import gpu_session as gpu_session_lib
from diffmem.traces.collect import kernels as kernels_lib
from diffmem.traces.collect import machine as machine_lib
from diffmem.traces.collect import session as session_lib

# Relative deviation of a CPU's rows between visits: medians by op of our own
# collection of 245 rows on a quiet 2-core virtual Xeon (experiments.collect).
_CPU_REL_STD = {
  'pointer_chase': 0.010, 'stream': 0.035, 'copy': 0.019, 'triad': 0.024,
  'loaded_latency': 0.067, 'random_read': 0.15, 'sequential_read': 0.21,
  'gemm': 0.062, 'reduce': 0.099, 'gemm_chain': 0.097, 'stream_reduce': 0.069,
}  # fmt: skip
# Assumption: a GPU's repeats of 20 ms agree within a few percent.
_GPU_REL_STD = 0.02
_MOVED_B = 64e6
# Setting up, warming and trying a probe, over the time that counts.
_CPU_OVERHEAD = 2.0
# Rate of a small CPU's products, to guess how long they take: order of
# magnitude (`system.host`).
_CPU_FLOPps = 1e11
# Assumption: XLA compiles a GPU's program in about this time.
_GPU_COMPILE_S = 1.0


class PlannedRow(NamedTuple):
  """A row that nobody has measured yet.

  Attributes:
    columns: as of a trace row, observations as 1.
    rel_std: usual relative deviation of its repeats.
    seconds: about how long the measurement takes [s].
  """

  columns: dict[str, Any]
  rel_std: float
  seconds: float


class _Board(NamedTuple):
  """What the probes of a GPU need of a session to say what they ask."""

  l2_bytes: int


def planned_cpu_row(
  probe: Any,
  system: System,
  machine: machine_lib.Machine,
  options: session_lib.Options,
) -> PlannedRow:
  """The row that a probe of the CPU would give.

  The bytes in flight of a loaded latency are an outcome; they are what the
  system's own parameters say of that load.

  Args:
    probe: of `collect.cpu_probes` or its classes.
    system: the machine as it is known; with a tier 'DRAM'.
    machine: its caches and CPUs.
    options: of the collection.
  """
  columns = _cpu_columns(probe, system, machine, options)
  columns = {
    'system': options.system, 'time_s': 1.0, 'bandwidth_Bps': 1.0, **columns
  }  # fmt: skip
  if columns['op'] in ('pointer_chase', 'loaded_latency'):
    columns['latency_s'] = 1.0
  visits = math.ceil(options.passes / probe.stride)
  if isinstance(probe, disk.FileRead):
    counted_s = visits * options.disk_repeats * options.disk_repeat_s
  elif isinstance(probe, programs.Program):
    call_s = max(columns['flops'] / _CPU_FLOPps, options.repeat_s)
    counted_s = visits * options.repeats / 4 * call_s  # as `Program.measure`
  else:
    counted_s = visits * options.repeats * options.repeat_s
  return PlannedRow(
    columns, _CPU_REL_STD[columns['op']], _CPU_OVERHEAD * counted_s
  )


def planned_gpu_row(
  probe: Any, name: str, l2_bytes: int, options: gpu_session_lib.GpuOptions
) -> PlannedRow:
  """The row that a probe of a GPU would give.

  Args:
    probe: of `gpu.gpu_probes` or its classes.
    name: of the board.
    l2_bytes: its second-level cache, as `GpuSession.l2_bytes` [B].
    options: of the collection.
  """
  board = _Board(l2_bytes)
  observed = {'time_s': 1.0}
  seconds = _GPU_COMPILE_S + options.repeats * options.sample_s
  if isinstance(probe, gpu_power.Window):
    load = probe.load
    work = load.work(board) if load else {'launches': 1}
    observed = {'power_W': 1.0} | (observed if load else {})
    op = load.op if load else 'idle'
    seconds = _GPU_COMPILE_S + options.settle_s + options.window_s
  elif isinstance(probe, gpu_host.HostCopy):
    size = float(probe.size_bytes)
    op, work = 'copy', {
      'tier': 'DRAM',
      'variant': probe.mode,
      'bytes_read': size if probe.to_device else 0.0,
      'bytes_written': 0.0 if probe.to_device else size,
      'granule_bytes': size,
      'launches': 1,
    }  # fmt: skip
    observed['bandwidth_Bps'] = 1.0
  else:
    op, work = probe.op, probe.work(board)
    if isinstance(probe, gpu_memory.Sweep | gpu_memory.Chase):
      observed['bandwidth_Bps'] = 1.0
    if isinstance(probe, gpu_memory.Chase):
      observed['latency_s'] = 1.0
      seconds *= 2  # two programs, whose difference counts
  columns = {'system': name, 'op': op, **work, **observed}
  return PlannedRow(columns, _GPU_REL_STD, seconds)


def _cpu_columns(probe, system, machine, options) -> dict[str, Any]:
  """Columns that say what a probe of the CPU asks for."""
  if isinstance(probe, memory.Chase):
    size = float(memory.LINE_BYTES * probe.threads)
    return {
      'op': 'pointer_chase', 'tier': 'DRAM', 'dtype': 'int64',
      'bytes_read': _MOVED_B, 'bytes_written': 0.0, 'flops': 0.0,
      'granule_bytes': memory.LINE_BYTES, 'in_flight_bytes': size,
      'participants': probe.threads,
      'working_set_bytes': float(probe.bytes_per_thread * probe.threads),
    }  # fmt: skip
  if isinstance(probe, memory.Sweep):
    reads, writes = kernels_lib.NativeKernels.traffic[probe.op]
    return {
      'op': probe.op, 'tier': 'DRAM', 'flops': 0.0,
      'bytes_read': reads * _MOVED_B, 'bytes_written': writes * _MOVED_B,
      'granule_bytes': probe.array_bytes, 'participants': probe.threads,
      'working_set_bytes': float(probe.working_set_bytes),
    }  # fmt: skip
  if isinstance(probe, memory.Loaded):
    return _loaded_columns(probe, system, machine, options)
  if isinstance(probe, disk.FileRead):
    in_flight = float(probe.block_bytes * probe.depth)
    return {
      'op': probe.op, 'tier': 'disk', 'bytes_read': in_flight,
      'bytes_written': 0.0, 'flops': 0.0, 'granule_bytes': probe.block_bytes,
      'in_flight_bytes': in_flight, 'participants': probe.depth,
      'working_set_bytes': float(options.disk_bytes), 'latency_s': 1.0,
    }  # fmt: skip
  work = programs.work_of(probe)
  return {
    'op': probe.op, 'dtype': 'float32', 'participants': len(machine.cpus),
    'working_set_bytes': work['bytes_read'] + work['bytes_written'],
    'launches': 1, **work,
  }  # fmt: skip


def _loaded_columns(probe, system, machine, options) -> dict[str, Any]:
  """A chase beside a throttled load, in flight together by Little's law.

  A load that pauses for `delay` turns after each KiB runs at
  1 / (1 + delay / turns of a KiB) of its full rate (`memory.Loaded`); what it
  keeps in flight falls in proportion, to first order.
  """
  reads, writes = kernels_lib.NativeKernels.traffic[probe.op]
  tier = system.tier('DRAM')
  share = 1.0 / (1.0 + probe.delay / memory.CHUNK_TURNS)
  own_B = (
    reads * float(tier.read_in_flight_B)
    + writes * float(tier.write_in_flight_B)
  ) / (reads + writes)
  load_B = share * (probe.threads - 1) * own_B
  moved = reads + writes
  largest = options.largest_bytes or machine.dram_bytes()
  return {
    'op': 'loaded_latency', 'tier': 'DRAM',
    'bytes_read': memory.LINE_BYTES + load_B * reads / moved,
    'bytes_written': load_B * writes / moved,
    'flops': 0.0,
    'granule_bytes': memory.LINE_BYTES,
    'in_flight_bytes': memory.LINE_BYTES + load_B,
    'participants': probe.threads,
    'working_set_bytes': 2.0 * largest,
  }  # fmt: skip
