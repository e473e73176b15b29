import dataclasses
import itertools
import math

import pytest

from diffmem.traces import table
from diffmem.traces.collect import machine as machine_lib
from diffmem.traces.collect import memory, samples, session

MIB = 2**20
CACHES = (32 * 1024, MIB, 36608 * 1024)


def test_working_sets_stay_clear_of_the_cliffs():
  sizes = memory.working_sets(CACHES, 286 * MIB, 2.0)
  assert sizes == sorted(set(sizes))
  assert sizes[0] == 8192 and sizes[-1] == 286 * MIB
  for size in sizes:
    assert all(abs(math.log(size / cache)) > 0.11 for cache in CACHES)
  steps = [b / a for a, b in itertools.pairwise(sizes)]
  assert max(steps) < 2


def test_the_grid_is_dense_enough_to_hold_sizes_out(machine):
  big = dataclasses.replace(
    machine, cache_bytes=CACHES, available_bytes=24_000 * MIB, cpus=(0, 1)
  )
  probes = memory.memory_probes(session.Options(), big)
  names = [probe.name for probe in probes]
  assert len(set(names)) == len(names)
  chases = {p.bytes_per_thread for p in probes if isinstance(p, memory.Chase)}
  assert len(chases) >= 25
  for op in ('stream', 'copy', 'triad'):
    for threads in (1, 2):
      sweeps = [
        p
        for p in probes
        if isinstance(p, memory.Sweep) and (p.op, p.threads) == (op, threads)
      ]
      assert len(sweeps) >= 15
      assert all(p.array_bytes % 512 == 0 and p.array_bytes for p in sweeps)
  loads = [p for p in probes if isinstance(p, memory.Loaded)]
  assert len(loads) == 16
  assert min(p.delay for p in loads) == 0


@pytest.fixture
def run(tiny_options, machine):
  with session.Session(tiny_options, machine) as made:
    yield made


def _row(run, probe):
  return probe.row(run, [probe.measure(run, 3) for _ in range(2)])


def test_chase_rows_are_consistent(run, kernels):
  row = _row(run, memory.Chase(32 * 1024))
  hops = row['bytes_read'] / 64
  assert row['latency_s'] * hops == pytest.approx(row['time_s'])
  assert row['bandwidth_Bps'] * row['latency_s'] == pytest.approx(64)
  assert row['in_flight_bytes'] == 64
  assert row['working_set_bytes'] == 32 * 1024
  assert 1e-10 < row['latency_s'] < 1e-5
  assert row['repeats'] <= 6
  assert 'no huge pages' in row['note']  # says the test's machine


@pytest.mark.parametrize(
  'op, reads, writes, flops', [('stream', 1, 0, 0), ('triad', 2, 1, 2 / 8)]
)
@pytest.mark.parametrize('size', [16 * 1024, 32 * MIB])
def test_sweep_rows_are_consistent(
  run, kernels, op, reads, writes, flops, size
):
  row = _row(run, memory.Sweep(op, size))
  moved = row['bytes_read'] / reads
  assert row['bytes_written'] == writes * moved
  assert row['flops'] == flops * moved
  total = row['bytes_read'] + row['bytes_written']
  assert row['bandwidth_Bps'] * row['time_s'] == pytest.approx(total)
  assert row['granule_bytes'] == size
  assert row['working_set_bytes'] == size * (reads + writes)
  assert moved % min(size, MIB) == 0


def test_loaded_latency_needs_two_cpus(run):
  with pytest.raises(session.SkipProbe, match='two CPUs'):
    memory.Loaded('stream', 0, 1).measure(run, 3)


def test_loaded_rows_keep_littles_law(run, kernels, machine):
  if len(machine.cpus) < 2:
    pytest.skip('needs two CPUs')
  rows = [_row(run, memory.Loaded(op, 0, 2)) for op in ('stream', 'triad')]
  for row in rows:
    total = row['bytes_read'] + row['bytes_written']
    assert row['bandwidth_Bps'] * row['time_s'] == pytest.approx(total)
    flow = row['in_flight_bytes'] / row['latency_s']
    assert row['bandwidth_Bps'] == pytest.approx(flow)
  assert rows[0]['bytes_written'] == 0
  assert 0.3 < rows[1]['bytes_written'] / rows[1]['bytes_read'] <= 0.5
  assert len(table.from_rows(rows)) == 2


def test_a_starved_load_does_not_count():
  good = [(samples.Timing(1.0, 1.0), 100.0)] * 4
  starved = [(samples.Timing(0.7, 0.7), 10.0)] * 3
  preempted = [(samples.Timing(4.0, 1.0), 400.0)] * 3
  assert memory._undisturbed_load(good + starved + preempted) == good


def test_short_chases_are_walked_and_long_ones_are_not(run):
  cache = run.machine.last_cache_bytes
  assert memory._warm_hops(run, cache, 1, 1e-9) == cache // 64
  assert memory._warm_hops(run, 4 * cache, 1, 1e-9) == 4 * cache // 64 // 32
  slow = memory._warm_hops(run, cache, 1, 1e-3)
  assert slow <= 160


def test_names_are_for_people():
  assert memory.readable(1536) == '1.5 KiB'
  assert memory.readable(3 * 2**30) == '3 GiB'
  one = dataclasses.replace(memory.Chase(MIB), threads=2)
  assert one.name == 'pointer_chase 2 MiB x2'
  assert machine_lib.MIB == MIB
