"""Bandwidth and latency probes on the CPU device, at small sizes."""

import numpy as np
import pytest

from diffmem.traces.collect import gpu_memory, gpu_programs, gpu_session
from diffmem.traces.collect import session as cpu_session

KIB, MIB = 1024, 1024**2


@pytest.mark.parametrize(
  'mix, op, read, written, arrays',
  [
    ('read', 'stream', 1, 0, 1),
    ('copy', 'copy', 1, 1, 1),
    ('copy to another array', 'copy', 1, 1, 2),
    ('triad', 'triad', 2, 1, 3),
    ('read 3:1', 'stream_mix', 3, 1, 4),
    ('read 1:2', 'stream_mix', 1, 2, 2),
    ('write', 'stream_mix', 0, 1, 1),
  ],
)
def test_sweeps(gpu_row, mix, op, read, written, arrays):
  probe = gpu_memory.Sweep(mix, 4 * MIB, pass_bytes=8 * MIB)
  row = gpu_row(probe)
  rows = 2 if mix == 'read' else 1  # the array is read twice by one kernel
  assert row['op'] == op and row['tier'] == 'HBM'
  assert row['bytes_read'] == rows * read * 4 * MIB
  assert row['bytes_written'] == written * 4 * MIB
  assert row['working_set_bytes'] == arrays * 4 * MIB
  assert 1e8 < row['bandwidth_Bps'] < 1e12
  moved = row['bytes_read'] + row['bytes_written']
  assert row['bandwidth_Bps'] == pytest.approx(moved / row['time_s'])
  assert mix in row['variant'] and 'taken off' in row['note']


def test_the_loop_itself_is_subtracted_or_the_row_left_out(
  session, monkeypatch
):
  times = {}  # program -> seconds of a call
  monkeypatch.setattr(
    session,
    'time_calls',
    lambda program, repeats: [times[id(program)]] * repeats,
  )
  programs = {}
  for size, call_s in ((4096, 1e-4), (8192, 1.9e-4), (16384, 6e-4)):
    programs[size] = gpu_programs.Program(None, [], [], passes=10)
    times[id(programs[size])] = call_s
  monkeypatch.setattr(
    gpu_memory, '_sweep', lambda session, mix, size, rows: programs[size]
  )
  with pytest.raises(cpu_session.SkipProbe, match='too short'):
    gpu_memory.Sweep('copy', 8192).measure(session, 2)
  found = gpu_memory.Sweep('copy', 16384).measure(session, 2)
  assert found == pytest.approx([5e-5, 5e-5])


@pytest.mark.parametrize('granule', [32, 128])
@pytest.mark.parametrize('sequential', [False, True])
def test_every_chain_visits_every_node(session, granule, sequential):
  nodes = 24  # not a power of two
  probe = gpu_memory.Chase(nodes * granule, 2, granule, sequential, (1, 2))
  lanes = granule // 4
  steps = np.asarray(probe._table(session))
  assert steps.shape == (nodes * lanes,)
  place, seen = np.arange(lanes), []
  for _ in range(nodes):
    place = steps[place]
    assert (np.diff(place) == 1).all() and place[0] % lanes == 0
    seen.append(place[0] // lanes)
  assert sorted(seen) == list(range(nodes))
  if sequential:
    assert seen == [*range(1, nodes), 0]
  (first,) = probe.program(session).carry
  starts = np.asarray(first).reshape(2, lanes)
  np.testing.assert_array_equal(starts[:, 0] // lanes, [0, nodes // 2])
  assert (np.diff(starts) == 1).all()


def test_chases(gpu_row):
  one = gpu_row(gpu_memory.Chase(256 * KIB, hops=(8, 200)))
  assert one['op'] == 'pointer_chase'
  assert 1e-10 < one['latency_s'] < 1e-5
  assert one['in_flight_bytes'] == one['granule_bytes'] == 128
  assert one['bytes_read'] == 200 * 128
  assert one['time_s'] == pytest.approx(200 * one['latency_s'])
  many = gpu_row(gpu_memory.Chase(256 * KIB, 512, 32, hops=(8, 40)))
  assert many['op'] == 'random_read'
  assert many['in_flight_bytes'] == 512 * 32
  # Little's law
  assert many['bandwidth_Bps'] * many['latency_s'] == pytest.approx(512 * 32)
  walk = gpu_row(gpu_memory.Chase(256 * KIB, 512, 32, True, (8, 40)))
  assert walk['op'] == 'sequential_read'


def test_latency_is_the_slope_between_two_programs(session, monkeypatch):
  """What a kernel costs beside its hops does not count."""

  def together(programs, options, repeats):
    kernel_s = [p.passes * (5e-6 + hops * 3e-7)
                for p, hops in zip(programs, (8, 40), strict=True)]  # fmt: skip
    return [[kernel_s[0]] * 2, [kernel_s[1]] * 2]

  monkeypatch.setattr(gpu_session, 'time_together', together)
  probe = gpu_memory.Chase(64 * KIB, hops=(8, 40))
  assert probe.measure(session, 2) == pytest.approx([3e-7, 3e-7])
  monkeypatch.setattr(
    gpu_session, 'time_together', lambda *_: [[1.0, 1.0], [1e-9, 1e-9]]
  )
  with pytest.raises(cpu_session.SkipProbe, match='noise'):
    probe.measure(session, 2)
