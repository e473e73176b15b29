"""Measures a GPU: what, in which order, and how long each part may take.

    device = gpu.open_gpu()
    board, remark = gpu.open_board()
    session = gpu.GpuSession(gpu.GpuOptions(), device, board, remark)
    result = gpu.collect(session, 'h100.parquet')

The parts come in order of value, each probe list from the most to the least
telling. A part that has used up its share waits until the others are done, and
goes on if time remains. What was measured is on disk after each row, beside
the trace, and is not measured again by the next run with the same options.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

from diffmem import errors
from diffmem.traces import files, table
from diffmem.traces.collect import (
  gpu_attention,
  gpu_host,
  gpu_kernels,
  gpu_memory,
  gpu_power,
  gpu_session,
  journal,
  runner,
)
from diffmem.traces.collect.gpu_power import open_board as open_board
from diffmem.traces.collect.gpu_session import GpuOptions as GpuOptions
from diffmem.traces.collect.gpu_session import GpuSession as GpuSession
from diffmem.traces.collect.gpu_session import open_gpu as open_gpu

MIB, GIB = gpu_session.MIB, gpu_session.GIB
# Share of the budget of each part, in the order of the run.
_SHARES = {
  'stream': 0.12, 'chase': 0.08, 'gemm': 0.24, 'attention': 0.16,
  'power': 0.22, 'in flight': 0.08, 'host link': 0.06, 'cast': 0.04,
}  # fmt: skip
_SAVE_EVERY_S = 15.0

_READ_MIB = (1024, 16, 4096, 256, 32, 8, 64, 4, 128, 48, 2, 24, 96, 1)
_MIXES_MIB = (1024, 128, 4096, 32)
_CHASE_MIB = (1024, 16, 256, 32, 4, 64, 4096, 128, 8, 48, 2)
_IN_FLIGHT_KIB = (64, 512, 2048, 8, 256, 4096, 1024, 128, 32, 16)
_WEIGHTS = (  # n, k: an attention's and an expert's projections, long and wide
  (4096, 4096), (14336, 4096), (4096, 14336), (8192, 8192),
)  # fmt: skip
_ROWS = (1, 16, 64, 128, 256, 512)
_SQUARES = (8192, 4096, 2048, 1024)
_PREFILL = (  # sequences, tokens, heads, key-value heads, head's width
  (1, 4096, 32, 8, 128), (1, 16384, 32, 8, 128), (4, 2048, 32, 8, 128),
  (16, 512, 32, 8, 128), (1, 1024, 32, 8, 128), (1, 8192, 64, 8, 128),
  (2, 4096, 32, 32, 128), (1, 8192, 32, 8, 64), (8, 1024, 64, 8, 128),
)  # fmt: skip
_DECODE = (  # sequences, cached tokens, heads, key-value heads, head's width
  (32, 4096, 32, 8, 128), (1, 4096, 32, 8, 128), (128, 2048, 32, 8, 128),
  (8, 16384, 32, 8, 128), (8, 4096, 64, 8, 128), (64, 1024, 32, 8, 128),
  (32, 4096, 32, 32, 128), (1, 32768, 32, 8, 128), (16, 8192, 32, 4, 128),
  (256, 512, 32, 8, 128), (8, 2048, 32, 8, 64), (64, 8192, 64, 8, 128),
)  # fmt: skip
_HOST_MIB = (256, 1, 16, 1024)
_QUICK_STEP = 3


def gpu_probes(
  options: GpuOptions, memory_bytes: int, l2_bytes: int
) -> list[runner.Probe]:
  """All probes of a GPU, most valuable first.

  Args:
    options: of the run.
    memory_bytes: memory that jax may use [B]; larger sets are left out.
    l2_bytes: capacity of the second-level cache [B].
  """
  parts = [
    _streams(), _chases(), _gemms(), _attentions(), _windows(l2_bytes),
    _in_flight(), _host_copies(), _casts(),
  ]  # fmt: skip
  step = _QUICK_STEP if options.quick else 1
  found = [probe for part in parts for probe in part[::step]]
  limit = memory_bytes // 2
  return [p for p in found if getattr(p, 'working_set_bytes', 0) <= limit]


def group_deadlines_s(options: GpuOptions) -> dict[str, float]:
  """When each part's time is over, from the start of the run [s]."""
  passed, deadlines = 0.0, {}
  for group, share in _SHARES.items():
    passed += share * options.budget_s
    deadlines[group] = passed
  return deadlines


def collect(
  session: GpuSession,
  path: str | os.PathLike,
  *,
  probes: list[runner.Probe] | None = None,
  on_progress: Callable[[runner.Progress], None] | None = None,
) -> runner.Result:
  """Measures a GPU and writes the trace; goes on where a run was cut off.

  Args:
    session: of the device.
    path: trace to write; rows are kept in `<path>.journal.jsonl` until every
      probe has had its turn.
    probes: what to measure, by default everything.
    on_progress: called before each measurement.

  Raises:
    TraceError: the trace cannot be written.
    CollectError: the device does not compute, or no probe could be measured.
  """
  files.check_writable(path)
  options = session.options
  if probes is None:
    memory_bytes = gpu_session.memory_bytes(session.device)
    probes = gpu_probes(options, memory_bytes, session.l2_bytes)
  kept = journal.Journal(f'{path}.journal.jsonl', _key(session))
  saver = _Saver(pathlib.Path(path), kept)
  _warm_up(session)
  result = runner.run_probes(
    probes,
    options,
    on_row=saver.add,
    on_progress=on_progress,
    session=session,
    group_deadline_s=group_deadlines_s(options),
    journal=kept,
  )
  if not result.rows:
    why = [f'{f.name}: {f.reason}' for f in result.failures]
    raise errors.CollectError(
      f'nothing could be measured ({why[0] if why else "no time"})'
    )
  files.write_traces(path, table.from_rows(result.rows, str(path)))
  if not (result.missing or result.interrupted):
    kept.remove()
  return result


class _Saver:
  """Writes the trace now and then, for those who look or pull the plug."""

  def __init__(self, path: pathlib.Path, kept: journal.Journal):
    self._path, self._kept = path, kept
    self._last = time.monotonic()

  def add(self, row: dict[str, Any]) -> None:
    del row  # the journal has it
    if time.monotonic() - self._last > _SAVE_EVERY_S:
      rows = list(self._kept.rows.values())
      files.write_traces(self._path, table.from_rows(rows, str(self._path)))
      self._last = time.monotonic()


def _warm_up(session: GpuSession) -> None:
  """Brings the clocks up, and finds out early whether the device computes."""
  start = time.monotonic()
  try:
    program = gpu_memory.Sweep('read', MIB, MIB).program(session)
    while time.monotonic() - start < session.options.warm_up_s:
      session.time_calls(program, repeats=1)
  except Exception as error:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    raise errors.CollectError(
      f'{session.device} cannot be used ({why}); is its memory taken?'
    ) from error


def _key(session: GpuSession) -> str:
  """What rows of one trace have in common; a longer budget changes nothing."""
  options = dataclasses.replace(session.options, budget_s=0.0, quick=False)
  return f'{session.name} {gpu_session.variant(session.device, "")} {options}'


def _streams() -> list[Any]:
  sweeps = [gpu_memory.Sweep('read', size * MIB) for size in _READ_MIB]
  for size in _MIXES_MIB:
    for mix in ('copy', 'triad', 'write', 'read 1:2', 'read 3:1'):
      arrays = gpu_memory.MIXES[mix][3]
      words = size * MIB // arrays // 4096 * 4096
      sweeps.append(gpu_memory.Sweep(mix, words))
  sweeps.append(gpu_memory.Sweep('copy to another array', 512 * MIB))
  return sweeps


def _chases() -> list[Any]:
  return [gpu_memory.Chase(size * MIB) for size in _CHASE_MIB]


def _in_flight() -> list[Any]:
  """A sequential walk, then random ones of a sector, a line and more."""
  found = [
    gpu_memory.Chase(GIB, size * 1024 // 128, 128, True, group='in flight')
    for size in _IN_FLIGHT_KIB
  ]
  for granule in (128, 32, 512):
    found += [
      gpu_memory.Chase(
        GIB, size * 1024 // granule, granule, group='in flight'
      )
      for size in (2048, 256, 32)
    ]  # fmt: skip
  found += [
    gpu_memory.Chase(16 * MIB, size * 1024 // 128, 128, group='in flight')
    for size in (512, 2048, 64)
  ]
  return found


def _gemms() -> list[Any]:
  found = []
  for size in _SQUARES:
    for dtype in ('bfloat16', 'float8'):
      found.append(gpu_kernels.Gemm(size, size, size, dtype))
  for m in _ROWS:
    for n, k in _WEIGHTS:
      found.append(gpu_kernels.Gemm(m, n, k, 'bfloat16'))
  found += [gpu_kernels.Gemm(m, 14336, 4096, 'float8') for m in (16, 128, 512)]
  for dtype in ('float16', 'float32'):
    found += [
      gpu_kernels.Gemm(size, size, size, dtype) for size in (4096, 2048)
    ]
    found.append(gpu_kernels.Gemm(64, 14336, 4096, dtype))
  found += [
    gpu_kernels.Gemm(m, n, k, 'bfloat16')
    for m, n, k in (
      (4096, 14336, 4096), (2048, 4096, 14336), (1024, 8192, 8192),
      (4096, 4096, 1024), (4096, 1024, 4096), (3000, 5000, 4096),
    )
  ]  # fmt: skip
  return found


def _attentions() -> list[Any]:
  decode = [gpu_attention.Attention('decode_attention', *s) for s in _DECODE]
  prefill = [gpu_attention.Attention('prefill_attention', *s) for s in _PREFILL]
  mixed = [p for pair in zip(decode, prefill, strict=False) for p in pair]
  return mixed + decode[len(prefill) :]


def _windows(l2_bytes: int) -> list[Any]:
  """Static power, bytes at several rates, FLOPs in each format, mixed."""
  big = 1024 * MIB
  loads = [
    None,
    gpu_memory.Sweep('read', big),
    gpu_kernels.Gemm(8192, 8192, 8192, 'bfloat16'),
    gpu_memory.Chase(GIB, 256 * 8, 128, True),
    gpu_memory.Sweep('read', l2_bytes // 3 // MIB * MIB),
    gpu_kernels.Gemm(8192, 8192, 8192, 'float8'),
    gpu_memory.Sweep('write', big),
    gpu_kernels.MultiplyAdd(big, 64),
    gpu_memory.Chase(GIB, 64 * 8, 128, True),
    gpu_memory.Sweep('copy', big),
    gpu_kernels.Gemm(4096, 4096, 4096, 'float32'),
    gpu_kernels.Gemm(64, 14336, 4096, 'bfloat16'),
    gpu_kernels.Gemm(8192, 8192, 8192, 'float16'),
    gpu_memory.Chase(GIB, 1024 * 8, 128, True),
    gpu_kernels.MultiplyAdd(big, 16),
    gpu_memory.Sweep('triad', 512 * MIB),
    gpu_attention.Attention('prefill_attention', 1, 8192, 32, 8, 128),
    gpu_attention.Attention('decode_attention', 64, 4096, 32, 8, 128),
    gpu_memory.Chase(GIB, 256 * 8, 128),
  ]
  return [gpu_power.Window(load) for load in loads]


def _host_copies() -> list[Any]:
  return [
    gpu_host.HostCopy(size * MIB, to_device, pinned)
    for size in _HOST_MIB
    for pinned in (True, False)
    for to_device in (True, False)
  ]


def _casts() -> list[Any]:
  casts = [gpu_kernels.Cast(m, 8192) for m in (16384, 1024, 4096, 131072)]
  adds = [
    gpu_kernels.MultiplyAdd(1024 * MIB, fmas) for fmas in (128, 8, 32, 64, 16)
  ]
  return [*casts, *adds]
