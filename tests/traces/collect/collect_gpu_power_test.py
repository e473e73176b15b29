"""Power windows with a board that a small object stands in for."""

import dataclasses
import time
import types

import pytest

from diffmem.traces.collect import gpu_kernels, gpu_memory, gpu_power
from diffmem.traces.collect import session as cpu_session

KIB, MIB = 1024, 1024**2


class FakeNvml:
  """A board of 300 W whose energy counter runs at 250 W."""

  NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

  def __init__(self, counter=True, index=0):
    self.index, self.asked_J = index, 0.0
    if not counter:
      self.nvmlDeviceGetTotalEnergyConsumption = None

  def nvmlInit(self):
    pass

  def nvmlDeviceGetHandleByIndex(self, index):
    assert index == self.index
    return 'handle'

  def nvmlDeviceGetPowerUsage(self, handle):
    assert handle == 'handle'
    return 300_000

  def nvmlDeviceGetTotalEnergyConsumption(self, handle):
    return time.perf_counter() * 250e3

  def nvmlDeviceGetClockInfo(self, handle, clock):
    if clock == self.NVML_CLOCK_MEM:
      raise RuntimeError('not supported')
    return 1980

  def nvmlDeviceGetEnforcedPowerLimit(self, handle):
    return 700_000


@pytest.fixture
def session(session):
  session.board = gpu_power.Board(FakeNvml())
  return session


def test_the_idle_window_shows_static_power(gpu_row):
  row = gpu_row(gpu_power.Window(None))
  assert row['power_W'] == pytest.approx(250, rel=0.05)  # from the counter
  assert 'time_s' not in row
  assert 'SM clock 1980 MHz' in row['note'] and 'limit 700 W' in row['note']
  assert 'memory clock' not in row['note']  # the board does not say


@pytest.mark.parametrize(
  'load',
  [
    gpu_memory.Sweep('read', MIB, MIB),
    gpu_memory.Chase(64 * KIB, 8, 32, True, (8, 16)),
    gpu_kernels.Gemm(4, 32, 64),
  ],
)
def test_windows_of_work(gpu_row, session, load):
  row = gpu_row(gpu_power.Window(load))
  assert row['op'] == load.op and row['power_W'] > 0
  work = load.work(session)
  assert row['bytes_read'] == work['bytes_read']
  assert 1e6 < row['bytes_read'] / row['time_s'] < 1e12
  assert 'power window' in row['variant']


def test_power_is_the_energy_over_the_window(options):
  options = dataclasses.replace(options, window_s=0.2)
  reading = gpu_power.watch(gpu_power.Board(FakeNvml()), None, options)
  assert reading.power_W == pytest.approx(250, rel=0.05)
  assert 'energy counter' in reading.note


def test_power_without_a_counter_is_the_mean_of_readings(options):
  board = gpu_power.Board(FakeNvml(counter=False))
  assert board.energy_J() is None
  reading = gpu_power.watch(board, None, options)
  assert reading.power_W == pytest.approx(300)
  assert reading.window_s >= options.window_s
  assert 'mean of readings' in reading.note


def test_no_board_is_a_remark_and_short_windows_are_refused(session):
  board, remark = gpu_power.open_board(types.SimpleNamespace())
  assert board is None and 'NVML does not answer' in remark
  session.options = dataclasses.replace(session.options, window_s=0.5)
  with pytest.raises(cpu_session.SkipProbe, match='about a second'):
    gpu_power.Window(None).measure(session, 1)
  session.board, session.board_remark = None, 'no pynvml'
  with pytest.raises(cpu_session.SkipProbe, match='no pynvml'):
    gpu_power.Window(None).measure(session, 1)


def test_nvml_counts_boards_without_the_mask(monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,1')
  board, remark = gpu_power.open_board(FakeNvml(index=3))
  assert board.power_W() == 300 and not remark
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
  assert gpu_power.open_board(FakeNvml())[0] is not None
