import collections
import dataclasses

import pytest

from diffmem.traces import collect, table
from diffmem.traces.collect import disk, memory, runner

LOG = []


@dataclasses.dataclass(frozen=True)
class Fake:
  name: str
  group: str | None = None
  stride: int = 1
  error: type | None = None
  error_at: int = 0

  def measure(self, session, repeats):
    LOG.append(self.name)
    if self.error and LOG.count(self.name) > self.error_at:
      raise self.error(f'{self.name} broke')
    return [1.0] * repeats

  def row(self, session, visits):
    return {'op': self.name, 'visits': len(visits), 'repeats': len(visits[0])}


@pytest.fixture(autouse=True)
def no_warm_up(monkeypatch):
  LOG.clear()
  monkeypatch.setattr(runner, '_WARM_UP_S', 0.0)


def _options(**changes):
  return collect.Options(passes=4, repeats=3, native=False, **changes)


def test_every_probe_is_visited_in_each_pass_and_rows_keep_their_order():
  probes = [Fake(f'p{i}') for i in range(9)] + [Fake('slow', stride=2)]
  seen, progress = [], []
  result = collect.run_probes(
    probes, _options(), on_row=seen.append, on_progress=progress.append
  )
  assert [row['op'] for row in result.rows] == [p.name for p in probes]
  assert [row['visits'] for row in result.rows] == [4] * 9 + [2]
  assert sorted(row['op'] for row in seen) == sorted(p.name for p in probes)
  assert not (result.missing or result.failures or result.interrupted)
  assert not result.deadline_reached
  assert LOG[:10] != LOG[10:19]  # another order in each pass
  assert [p.index for p in progress] == list(range(38))
  assert all(p.total == 38 and p.eta_s >= 0 for p in progress)


def test_ctrl_c_keeps_what_was_measured():
  stop = Fake('stop', error=KeyboardInterrupt)
  probes = [*(Fake(f'p{i}') for i in range(20)), stop]
  result = collect.run_probes(probes, _options())
  assert result.interrupted
  done = [name for name in LOG if name != 'stop']
  assert 0 < len(done) < 20
  assert sorted(row['op'] for row in result.rows) == sorted(done)
  left = {p.name for p in probes} - set(done)
  assert set(result.missing) == left


def test_ctrl_c_in_a_later_pass_loses_no_row():
  stop = Fake('stop', error=KeyboardInterrupt, error_at=2)
  probes = [Fake('a'), Fake('b'), stop]
  result = collect.run_probes(probes, _options())
  assert result.interrupted and not result.missing
  assert len(result.rows) == 3
  assert result.rows[2]['visits'] == 2


def test_a_failing_probe_is_named_with_its_reason():
  bad = Fake('bad', error=OSError)
  late = Fake('late', error=ValueError, error_at=1)
  result = collect.run_probes([Fake('a'), bad, late], _options())
  assert [row['op'] for row in result.rows] == ['a', 'late']
  reasons = {failure.name: failure.reason for failure in result.failures}
  assert reasons == {'bad': 'bad broke', 'late': 'late broke'}
  assert LOG.count('bad') == 1  # not tried again
  assert not result.missing and not result.interrupted


def test_no_measurement_starts_after_the_deadline():
  result = collect.run_probes([Fake('a')], _options(), deadline_s=-1.0)
  assert result.deadline_reached
  assert result.missing == ['a'] and not LOG


def test_groups_stay_together():
  probes = [Fake(f'{g}{i}', group=g) for g in 'xyz' for i in range(5)]
  probes += [Fake(f'p{i}') for i in range(5)]
  order = runner.shuffled(probes, seed=1)
  assert collections.Counter(order) == collections.Counter(probes)
  for group in 'xyz':
    places = [i for i, probe in enumerate(order) if probe.group == group]
    assert places == list(range(places[0], places[0] + 5))
  assert runner.shuffled(probes, seed=1) == order != probes


@pytest.mark.filterwarnings('ignore:measuring with numpy')
@pytest.mark.parametrize('native', [True, False])
def test_a_real_run_gives_rows_of_the_schema(native, tiny_options, machine):
  options = dataclasses.replace(tiny_options, native=native)
  probes = [
    memory.Chase(64 * 1024),
    memory.Chase(64 * 1024, threads=len(machine.cpus)),
    memory.Sweep('triad', 32 * 1024),
    disk.FileRead('random_read', 4096, 2),
    disk.FileRead('sequential_read', 65536),
  ]
  result = collect.run_probes(probes, options, machine=machine)
  assert len(table.from_rows(result.rows)) == len(result.rows)
  answered = {row['op'] for row in result.rows}
  assert answered == {
    'pointer_chase',
    'triad',
    'random_read',
    'sequential_read',
  }
  assert len(result.rows) + len(result.failures) == len(set(probes))
  if not native:
    assert all('numpy' in row['source'] for row in result.rows)


def test_the_whole_list_covers_the_ops_by_unique_names(machine):
  probes = collect.cpu_probes(collect.Options(), machine)
  probes += collect.jax_program_probes(collect.Options(), machine)
  assert len({probe.name for probe in probes}) == len(probes)
  assert len(set(probes)) == len(probes)
  quick = collect.cpu_probes(collect.Options.quick(), machine)
  assert len(quick) < len(probes) / 2
