"""Board power by NVML, over windows of one kind of work.

A window is longer than a second because NVML averages over about one; its
first part is discarded. The mean power comes from the board's energy counter
where there is one (Volta and later), else from readings. Windows separate

- static power: one window without work, context and clocks kept;
- bytes: reads from HBM at several rates, set by the bytes in flight, so that
  the time of the row is the time that those bytes take (a window of bursts and
  pauses would not say so), writes, and reads from the second-level cache;
- FLOPs: matrix products in each format, and multiply-adds per byte read.

nvidia-ml-py (import name pynvml) is optional: without it no power is measured,
and a remark says so. Only readings are made; no setting is changed.
"""

import dataclasses
import os
import statistics
import time
from typing import Any, NamedTuple

from diffmem.traces.collect import gpu_session as session_lib
from diffmem.traces.collect import session as cpu_session

_LEAST_WINDOW_S = 1.0
_BURST_S = 0.05


class Reading(NamedTuple):
  """One window.

  Attributes:
    calls: program calls within it.
    window_s: its length [s].
    power_W: mean power of the board [W].
    spread: robust relative deviation of single readings.
    note: clocks and limits.
  """

  calls: int
  window_s: float
  power_W: float
  spread: float
  note: str


class Board:
  """One GPU as NVML sees it."""

  def __init__(self, nvml: Any, index: int = 0):
    """Opens a board.

    Args:
      nvml: the module `pynvml`, or what behaves like it.
      index: NVML's number of the board.
    """
    self._nvml = nvml
    nvml.nvmlInit()
    self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
    self.power_W()  # fails here where it is not supported

  def power_W(self) -> float:
    """Power of the board, averaged over about a second [W]."""
    return self._nvml.nvmlDeviceGetPowerUsage(self._handle) * 1e-3

  def energy_J(self) -> float | None:
    """Energy since the driver was loaded [J]; None on old boards."""
    read = getattr(self._nvml, 'nvmlDeviceGetTotalEnergyConsumption', None)
    millijoules = self._asked(read, self._handle)
    return None if millijoules is None else millijoules * 1e-3

  def clocks_MHz(self) -> tuple[float | None, float | None]:
    """Clocks of SMs and memory now [MHz]."""
    read = self._nvml.nvmlDeviceGetClockInfo
    return tuple(
      self._asked(read, self._handle, getattr(self._nvml, name))
      for name in ('NVML_CLOCK_SM', 'NVML_CLOCK_MEM')
    )

  def limit_W(self) -> float | None:
    """The power limit that is in force [W]."""
    read = getattr(self._nvml, 'nvmlDeviceGetEnforcedPowerLimit', None)
    milliwatts = self._asked(read, self._handle)
    return None if milliwatts is None else milliwatts * 1e-3

  @staticmethod
  def _asked(read, *arguments):
    """What NVML answers; None where it does not."""
    if read is None:
      return None
    try:
      return read(*arguments)
    except Exception:  # pynvml.NVMLError, whose class needs the module
      return None


def open_board(nvml: Any = None) -> tuple[Board | None, str]:
  """The board of the first visible GPU, or None and why.

  Args:
    nvml: stands in for the module `pynvml`.
  """
  if nvml is None:
    try:
      import pynvml as nvml
    except ImportError:
      return None, "no pynvml: pip install 'diffmem[gpu]'"
  try:
    return Board(nvml, _visible_index()), ''
  except Exception as error:
    return None, f'NVML does not answer: {error or type(error).__name__}'


def _visible_index() -> int:
  """NVML's number of jax's first GPU; NVML does not know the masking."""
  first = os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')[0].strip()
  return int(first) if first.isdigit() else 0


@dataclasses.dataclass(frozen=True)
class Window:
  """A window of one load: a probe with `program` and `work`, None for idle."""

  load: Any
  group: str = 'power'
  stride: int = 1

  @property
  def name(self) -> str:
    """Unique name of the row."""
    return f'power of {self.load.name if self.load else "idle"}'

  def measure(
    self, session: session_lib.GpuSession, repeats: int
  ) -> list[tuple[Reading, int, str]]:
    """One reading, with the kernels of a call and their implementation."""
    del repeats  # the window is long instead
    if session.board is None:
      raise cpu_session.SkipProbe(session.board_remark)
    if session.options.window_s < _LEAST_WINDOW_S:
      raise cpu_session.SkipProbe('NVML averages over about a second')
    if self.load is None:
      return [(watch(session.board, None, session.options), 1, 'idle')]
    program = self.load.program(session)
    reading = watch(session.board, program, session.options)
    kernels = program.passes
    if hasattr(self.load, 'kernels_per_pass'):
      kernels *= self.load.kernels_per_pass(session)
    return [(reading, kernels, program.implementation)]

  def row(
    self,
    session: session_lib.GpuSession,
    visits: list[list[tuple[Reading, int, str]]],
  ) -> dict[str, Any]:
    """Time, bytes and FLOPs of one kernel, and the power beside them.

    The idle row asks for nothing and has no time; its one launch lets time
    pass in a model, whose power is then the static one.
    """
    reading, kernels, implementation = visits[0][0]
    columns = {'power_W': reading.power_W, 'rel_std': reading.spread}
    if self.load is None:
      work = {'bytes_read': 0.0, 'bytes_written': 0.0, 'flops': 0.0}
      work['launches'] = 1
    else:
      work = self.load.work(session)
      columns['repeats'] = reading.calls
      columns['time_s'] = reading.window_s / (reading.calls * kernels)
    return session.row(
      self.load.op if self.load else 'idle',
      f'{implementation}, power window',
      **work,
      **columns,
      note=f'window of {reading.window_s:.2f} s; {reading.note}',
    )


def watch(board: Board, program: Any, options: Any) -> Reading:
  """Runs a program (None: waits) and reads the board.

  Args:
    board: see `Board`.
    program: starts one call and returns what to wait for.
    options: `settle_s` and `window_s`.
  """
  _run_for(program, options.settle_s, None)
  readings: list[tuple[float, tuple]] = []
  start, before_J = time.perf_counter(), board.energy_J()
  calls = _run_for(
    program,
    options.window_s,
    lambda: readings.append((board.power_W(), board.clocks_MHz())),
  )
  after_J, window_s = board.energy_J(), time.perf_counter() - start
  powers = [power for power, _ in readings]
  middle = statistics.median(powers)
  spread = statistics.median(abs(p - middle) for p in powers) / middle
  mean_W, how = statistics.fmean(powers), 'mean of readings'
  if before_J is not None and after_J is not None and after_J > before_J:
    mean_W, how = (after_J - before_J) / window_s, 'energy counter'
  notes = [how, f'readings {min(powers):.0f} to {max(powers):.0f} W']
  for name, clocks in zip(
    ('SM', 'memory'), zip(*(c for _, c in readings), strict=True), strict=True
  ):
    known = [clock for clock in clocks if clock is not None]
    if known:
      notes.append(f'{name} clock {statistics.median(known):.0f} MHz')
  limit_W = board.limit_W()
  if limit_W:
    notes.append(f'limit {limit_W:.0f} W')
  return Reading(calls, window_s, mean_W, spread, '; '.join(notes))


def _run_for(program, duration_s: float, read) -> int:
  """Keeps the device busy for a time; calls made. Reads now and then.

  Calls are started in bursts of `_BURST_S`, with one wait at the end of each:
  a call reuses the memory of the one before, which cannot be waited for.
  """
  import jax

  calls, burst, start = 0, 1, time.perf_counter()
  while True:
    if read:
      read()
    begin = time.perf_counter()
    if program is None:
      time.sleep(min(_BURST_S, duration_s))
    else:
      for _ in range(burst):
        last = program()
      jax.block_until_ready(last)
    calls += burst
    now = time.perf_counter()
    if now - start >= duration_s:
      return calls
    burst = max(1, round(burst * _BURST_S / (now - begin)))
