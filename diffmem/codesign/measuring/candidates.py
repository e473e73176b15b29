"""The rows that `experiments.collect` could add, as nobody has measured them.

More than a collection of its own runs: finer working sets, load levels, bytes
in flight, mixes of reads and writes, shapes of kernels. What the fitted system
has no tier or engine for is left out, and said.
"""

import dataclasses
import math
from typing import Any, NamedTuple

from diffmem import errors
from diffmem.fitting import kernel_rows, observe
from diffmem.system import FittedSystem, System
from diffmem.traces import Traces, from_rows
from diffmem.traces.collect import (
  chosen,
  disk,
  gpu,
  gpu_attention,
  gpu_kernels,
  gpu_memory,
  gpu_power,
  machine,
  memory,
  planned,
  programs,
  runner,
  session,
)

_MIB, _GIB = machine.MIB, machine.GIB
# Finer than a collection of its own.
_FINER_CPU = session.Options(
  chase_per_octave=4.0, sweep_per_octave=2.0, load_levels=16,
  disk_depths=(1, 2, 4, 8, 16, 32, 64),
)  # fmt: skip
_CPU_PRODUCTS = (  # m, n, k: few rows, many, long and short
  (1, 1024, 1024), (4, 1024, 1024), (8, 2048, 2048), (32, 1024, 4096),
  (256, 2048, 2048), (2048, 2048, 2048),
)  # fmt: skip
_READ_MIB = (6, 12, 20, 40, 80, 160, 512, 2048)
_MIXES_MIB = (16, 64, 256, 2048)
_IN_FLIGHT_KIB = (24, 48, 96, 192, 384, 768, 1536, 3072, 6144, 8192)
_ROWS = (2, 4, 8, 32, 96, 192, 1024, 2048)
_WEIGHTS = ((4096, 4096), (14336, 4096), (4096, 14336), (8192, 8192))
_DECODE = (  # sequences, cached tokens
  (4, 2048), (16, 2048), (64, 4096), (256, 1024), (4, 65536), (128, 8192),
)  # fmt: skip
_PREFILL = ((1, 2048), (1, 32768), (8, 4096), (32, 512))
_HEADS = ((32, 8, 128), (64, 8, 128))


class Candidate(NamedTuple):
  """One row that could be measured.

  Attributes:
    probe: what measures it; `chosen.list_text` can write it.
    columns: of the row, observations as 1.
    rel_std: usual relative deviation of its repeats.
    seconds: about how long it takes [s].
  """

  probe: Any
  columns: dict[str, Any]
  rel_std: float
  seconds: float

  @property
  def op(self) -> str:
    """Operation of the trace schema."""
    return self.columns['op']

  @property
  def part(self) -> str:
    """Tier, or number format of a kernel; '' for the whole machine."""
    return self.columns.get('tier') or self.columns.get('dtype', '')

  @property
  def observable(self) -> str:
    """'power_W' where the board's power is read, else 'time_s'."""
    return 'power_W' if 'power_W' in self.columns else 'time_s'


class Candidates(NamedTuple):
  """Rows to choose from.

  Attributes:
    platform: 'cpu' or 'gpu', where the collection would run.
    rows: the candidates.
    left_out: what a collection has and this system does not, and why.
  """

  platform: chosen.Platform
  rows: tuple[Candidate, ...]
  left_out: tuple[str, ...] = ()

  def traces(self) -> Traces:
    """All rows as one trace, observations as 1."""
    return from_rows(
      [row.columns | {'rel_std': row.rel_std} for row in self.rows],
      'planned rows',
    )


def candidates_of(fitted: FittedSystem, cpus: int | None = None) -> Candidates:
  """What a collection on this machine could measure.

  Args:
    fitted: the machine; one with compute units is a GPU.
    cpus: CPUs of a machine without them; by default as many as here.

  Raises:
    PlanError: nothing that a collection runs is part of this system.
  """
  if fitted.system.compute_units > 1:
    platform, rows = 'gpu', _gpu_rows(fitted.system)
  else:
    platform, rows = 'cpu', _cpu_rows(fitted.system, cpus)
  kept, left_out = _known(fitted, rows)
  if not kept:
    raise errors.PlanError(
      f'{fitted.system.name}: a collection measures nothing of this system '
      f'({"; ".join(left_out)}); read measurements of your own with '
      'experiments.import_traces'
    )
  return Candidates(platform, tuple(kept), left_out)


def _known(fitted, rows) -> tuple[list[Candidate], tuple[str, ...]]:
  """Rows whose tier and engine the system has, and why others are not."""
  faults: dict[tuple, str] = {}
  largest_B = max(_walked_B(row) for row in rows)
  kept = []
  for row in rows:
    key = tuple(row.columns.get(n) for n in ('op', 'tier', 'dtype'))
    if key not in faults:
      faults[key] = _fault(fitted, row)
    if not faults[key] and _is_cached_in_nothing(fitted.system, row, largest_B):
      faults[(*key, 'cached')] = (
        f'{row.op} within caches: the system has none in front of {row.part}'
      )
    elif not faults[key]:
      kept.append(row)
  said = [fault for fault in faults.values() if fault]
  return kept, tuple(dict.fromkeys(said))


def _fault(fitted: FittedSystem, row: Candidate) -> str:
  """Why a system cannot predict a row; '' where it can."""
  one = from_rows([row.columns])
  tier = row.columns.get('tier')
  if tier and tier not in fitted.system.tier_names:
    return f'{row.op} on {tier}: no such tier'
  via = tier and fitted.system.tier(tier).via
  if via and fitted.system.compute_units == 1:
    return f'{row.op} on {tier}: behind {via}; its host is a system of its own'
  extended = kernel_rows.with_engines(fitted, one).system
  new = set(extended.engine_names) - set(fitted.system.engine_names)
  if new:
    return f'{row.op} in {row.part}: no engine {", ".join(sorted(new))}'
  try:
    observe.demand_of(fitted.system, one)
  except errors.FitError:
    return f'{row.op} {"on" if tier else "in"} {row.part}: no engine for it'
  return ''


def _walked_B(row: Candidate) -> float:
  """Working set of a walk through memory [B]; 0 for anything else."""
  walks = ('pointer_chase', 'stream', 'copy', 'triad')
  if row.op not in walks:
    return 0.0
  return row.columns.get('working_set_bytes', 0.0)


def _is_cached_in_nothing(
  system: System, row: Candidate, largest_B: float
) -> bool:
  """Whether a row needs caches that the system does not describe.

  The largest sets of a collection are several last-level caches.
  """
  tier = row.columns.get('tier')
  has_cache = any(t.home == tier for t in system.tiers)
  return not has_cache and 0.0 < _walked_B(row) < largest_B / 2


def _machine_of(system: System, cpus: int | None) -> machine.Machine:
  """This machine with the caches of the system and so many CPUs."""
  here = machine.describe()
  caches = [t for t in system.tiers if t.is_cache and t.home == 'DRAM']
  caches.sort(key=lambda t: float(t.capacity_B))
  if caches:
    here = dataclasses.replace(
      here,
      cache_bytes=tuple(round(float(t.capacity_B)) for t in caches),
      private=tuple(t.private for t in caches),
    )
  if cpus is not None:
    here = dataclasses.replace(here, cpus=tuple(range(cpus)))
  return here


def _cpu_rows(system: System, cpus: int | None) -> list[Candidate]:
  here = _machine_of(system, cpus)
  probes = runner.cpu_probes(session.Options(), here)
  probes += memory.memory_probes(_FINER_CPU, here)
  probes += disk.disk_probes(_FINER_CPU)
  probes += [programs.Program('gemm', shape) for shape in _CPU_PRODUCTS]
  probes = [
    p
    for p in dict.fromkeys(probes)
    if not isinstance(p, memory.Loaded) or p.threads > 1
  ]
  options = session.Options(system=system.name)
  if 'DRAM' not in system.tier_names:
    probes = [p for p in probes if not isinstance(p, memory.Loaded)]
  return [
    Candidate(p, *planned.planned_cpu_row(p, system, here, options))
    for p in probes
  ]


def _gpu_rows(system: System) -> list[Candidate]:
  options = gpu.GpuOptions()
  memory_B = max(
    float(t.capacity_B)
    for t in system.tiers
    if not (t.is_cache or t.link or t.via)
  )
  l2_B = gpu.gpu_session.l2_bytes(system.name)
  probes = gpu.gpu_probes(options, int(memory_B), l2_B) + _finer_gpu()
  fits = [
    p
    for p in dict.fromkeys(probes)
    if getattr(p, 'working_set_bytes', 0) <= memory_B / 2
  ]
  return [
    Candidate(p, *planned.planned_gpu_row(p, system.name, l2_B, options))
    for p in fits
  ]


def _finer_gpu() -> list[Any]:
  """Sizes, bytes in flight, mixes and shapes between a collection's own."""
  probes: list[Any] = [
    gpu_memory.Sweep('read', size * _MIB) for size in _READ_MIB
  ]
  for size in _MIXES_MIB:
    for mix, (_, _, _, arrays) in gpu_memory.MIXES.items():
      if mix not in ('read', 'copy to another array'):
        words = size * _MIB // arrays // 4096 * 4096
        probes.append(gpu_memory.Sweep(mix, words))
  for size in _IN_FLIGHT_KIB:
    for is_sequential in (True, False):
      probes.append(
        gpu_memory.Chase(
          _GIB, size * 1024 // 128, 128, is_sequential, group='in flight'
        )
      )
  for m in _ROWS:
    for n, k in _WEIGHTS:
      probes += [
        gpu_kernels.Gemm(m, n, k, 'bfloat16'),
        gpu_kernels.Gemm(m, n, k, 'float8'),
      ]
  for heads in _HEADS:
    probes += [
      gpu_attention.Attention('decode_attention', *shape, *heads)
      for shape in _DECODE
    ]
    probes += [
      gpu_attention.Attention('prefill_attention', *shape, *heads)
      for shape in _PREFILL
    ]
  loads = [
    gpu_memory.Chase(_GIB, chains * 8, 128, True)
    for chains in (16, 32, 128, 512, 2048)
  ]
  loads += [gpu_memory.Sweep('read', size * _MIB) for size in (8, 32, 4096)]
  loads += [
    gpu_kernels.Gemm(4096, 4096, 4096, 'bfloat16'),
    gpu_kernels.Gemm(2048, 8192, 8192, 'float8'),
  ]
  return probes + [gpu_power.Window(load) for load in loads]


def size_text(row: Candidate) -> str:
  """Size, level and mix of a row for a person: '1 GiB, 2 threads'."""
  columns = row.columns
  shape = [
    f'{name} {columns[name]:g}'
    for name in ('m', 'n', 'k', 'batch_size', 'seq_len', 'kv_len', 'num_heads')
    if name in columns
  ]
  found = [', '.join(shape)] if shape else []
  size = columns.get('working_set_bytes')
  if size and not shape:
    found.append(f'over {memory.readable(size)}')
  if columns.get('in_flight_bytes'):
    found.append(f'{memory.readable(columns["in_flight_bytes"])} in flight')
  if row.op in ('random_read', 'sequential_read'):
    found.append(f'granules of {memory.readable(columns["granule_bytes"])}')
  share = read_share(row)
  if share is not None and share < 1.0 and not shape:
    found.append(f'{share:.0%} reads')
  if columns.get('participants', 1) > 1 and columns['op'] != 'gemm':
    found.append(f'{columns["participants"]} at once')
  return ', '.join(found)


def read_share(row: Candidate) -> float | None:
  """Share of the row's bytes that is read; None where it moves none."""
  read = row.columns.get('bytes_read', 0.0)
  moved = read + row.columns.get('bytes_written', 0.0)
  return read / moved if moved > 0 and not math.isnan(moved) else None
