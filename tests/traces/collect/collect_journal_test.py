import dataclasses

from diffmem.traces import collect
from diffmem.traces.collect import journal, runner


@dataclasses.dataclass(frozen=True)
class Fake:
  name: str
  group: str = 'a'
  stride: int = 1
  error: type | None = None

  def measure(self, session, repeats):
    session.log.append(self.name)
    if self.error:
      raise self.error(f'{self.name} broke\nand more')
    return [1.0]

  def row(self, session, visits):
    return {'op': self.name, 'time_s': visits[0][0]}


class Session:
  def __init__(self):
    self.log = []

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass


def _run(probes, path, key='k', **changes):
  session, kept = Session(), journal.Journal(path, key)
  result = collect.run_probes(
    probes, collect.Options(passes=1), session=session, journal=kept, **changes
  )
  return result, session.log


def test_finished_rows_are_not_measured_again(tmp_path):
  path = tmp_path / 'j.jsonl'
  probes = [Fake('a'), Fake('stop', error=KeyboardInterrupt), Fake('b')]
  result, log = _run(probes, path)
  assert result.interrupted and log == ['a', 'stop']
  assert result.missing == ['stop', 'b']
  again = [Fake('a'), Fake('stop'), Fake('b')]
  result, log = _run(again, path)
  assert log == ['stop', 'b']  # Ctrl-C is not the probe's fault
  assert [row['op'] for row in result.rows] == ['a', 'stop', 'b']
  assert not result.missing and not result.failures
  _, log = _run(again, path)
  assert log == []
  _, log = _run(again, path, key='another device')
  assert log == ['a', 'stop', 'b']


def test_a_failed_probe_is_tried_again(tmp_path):
  path = tmp_path / 'j.jsonl'
  result, _ = _run([Fake('bad', error=ValueError)], path)
  assert result.failures == [runner.Failure('bad', 'bad broke')]  # one line
  result, log = _run([Fake('bad')], path)
  assert log == ['bad'] and len(result.rows) == 1
  kept = journal.Journal(path, 'k')
  for _ in range(2):  # begun twice, but it ended both times
    kept.begin('shy')
    kept.failed('shy')
  assert not journal.Journal(path, 'k').is_broken('shy')


def test_what_ended_the_program_twice_is_left_alone(tmp_path):
  path = tmp_path / 'j.jsonl'
  for attempt in range(2):
    kept = journal.Journal(path, 'k')
    assert not kept.is_broken('killer')
    kept.begin('killer')  # and the program ends here
    with open(path, 'a', encoding='utf-8') as file:
      file.write('{"done": "torn')
    assert journal.Journal(path, 'k').unended['killer'] == attempt + 1
  result, log = _run([Fake('killer'), Fake('b')], path)
  assert log == ['b']
  assert 'ended the program' in result.failures[0].reason


def test_a_file_that_is_no_journal_is_replaced(tmp_path):
  path = tmp_path / 'j.jsonl'
  path.write_text('[1]\n{"key": "k"}\n')
  assert journal.Journal(path, 'k').rows == {}
  kept = journal.Journal(path, 'k')
  kept.done('a', {'op': 'a'})
  kept.remove()
  assert not path.exists()


def test_probes_come_in_order_and_late_groups_after_the_others(tmp_path):
  probes = [Fake(f'{g}{i}', group=g) for g in 'xyz' for i in range(2)]
  _, log = _run(probes, tmp_path / '1', group_deadline_s={'x': 1e9})
  assert log == ['x0', 'x1', 'y0', 'y1', 'z0', 'z1']
  result, log = _run(probes, tmp_path / '2', group_deadline_s={'x': -1.0})
  assert log == ['y0', 'y1', 'z0', 'z1', 'x0', 'x1']
  assert [row['op'] for row in result.rows] == [p.name for p in probes]
  result, log = _run(probes, tmp_path / '3', deadline_s=-1.0)
  assert log == [] and result.deadline_reached
  assert result.missing == [p.name for p in probes]
