import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

import diffmem
from diffmem import checkpoint, errors
from diffmem.checkpoint import arrays, folder
from diffmem.system import (
  Engine,
  FittedSystem,
  Status,
  System,
  Tier,
  load_catalog,
  prior,
)

ROOT = pathlib.Path(__file__).parent.parent


def make_fitted(seed=0, draws=20):
  base = load_catalog('h100-sxm')
  rng = np.random.default_rng(seed)
  shifted = jax.tree.map(lambda x: x + rng.standard_normal(), base.system)
  ensemble = jax.tree.map(
    lambda x: x + 0.1 * rng.standard_normal(draws), shifted
  )
  knowledge = dict(base.knowledge)
  knowledge['HBM.read_Bps'] = dataclasses.replace(
    knowledge['HBM.read_Bps'], status=Status.FITTED, stderr=0.1 + 0.2
  )
  knowledge['HBM.queue_p'] = dataclasses.replace(
    knowledge['HBM.queue_p'], status=Status.UNIDENTIFIED, stderr=np.inf
  )
  scatter = {'stream': 1 / 3, 'copy|cliff': 0.07}
  return FittedSystem(shifted, knowledge, ensemble, scatter)


def make_card(**kwargs):
  trace = checkpoint.TraceFile(file='a.parquet', sha256='0f' * 32, rows=12)
  group = {
    'system': 'h100', 'op': 'stream', 'tier': 'HBM', 'observable': 'time_s',
    'n': 3, 'mape': 1 / 3, 'coverage90': None,
  }  # fmt: skip
  return checkpoint.Card.now(
    traces=[trace], held_out=[group], notes='é', seed=7, **kwargs
  )


def assert_same(one: FittedSystem, other: FittedSystem):
  for field in dataclasses.fields(FittedSystem):
    a, b = getattr(one, field.name), getattr(other, field.name)
    if field.name in ('system', 'ensemble'):
      assert jax.tree.structure(a) == jax.tree.structure(b)
      for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y)
        assert y.dtype == np.float64 and x.shape == y.shape
        assert x.tobytes() == y.tobytes()
    else:
      assert a == b, field.name
      assert list(a) == list(b)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  path = tmp_path_factory.mktemp('checkpoints') / 'good'
  checkpoint.save_checkpoint(path, make_fitted(), make_card())
  return path


@pytest.fixture
def copy(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / 'copy')


def rehash(path):
  (path / folder.CHECKSUMS).unlink()
  folder.write_checksums(path)


def test_round_trip_is_exact(saved):
  loaded = checkpoint.load_checkpoint(saved)
  assert_same(make_fitted(), loaded.fitted)
  assert loaded.fitted.draws == 20
  expected = make_card()
  assert loaded.card.model_copy(update={'created': expected.created}) == (
    expected
  )
  assert loaded.card.created.utcoffset().total_seconds() == 0


def test_round_trip_without_ensemble_and_of_awkward_values(tmp_path):
  tier = Tier.of('a "b"\n', latency_s=5e-324, read_Bps=1e308)
  system = System.of('odd/näme', [tier], [Engine.of('matrix:float32')])
  fitted = prior(system, 'ünknown')
  leaves = jax.tree.map(np.asarray, system)
  leaves = dataclasses.replace(leaves, log_launch_s=np.float64(-0.0))
  fitted = dataclasses.replace(fitted, system=leaves)
  path = tmp_path / 'deep' / 'er' / 'odd.v1'
  checkpoint.save_checkpoint(path, fitted, make_card())
  assert_same(fitted, checkpoint.load_checkpoint(path).fitted)


def test_float32_leaves_come_back_as_float64(tmp_path):
  fitted = load_catalog('a100-sxm')
  system = jax.tree.map(lambda x: jax.numpy.float32(x), fitted.system)
  fitted = dataclasses.replace(fitted, system=system)
  checkpoint.save_checkpoint(tmp_path / 'c', fitted, make_card())
  assert_same(fitted, checkpoint.load_checkpoint(tmp_path / 'c').fitted)


def test_system_json_is_readable(saved):
  content = json.loads((saved / 'system.json').read_text())
  fitted = make_fitted()
  assert list(content['parameters']) == list(fitted.system.infos())
  read = content['parameters']['HBM.read_Bps']
  assert read['unit'] == 'B/s' and read['status'] == 'fitted'
  np.testing.assert_allclose(
    read['value'], fitted.system.tier('HBM').read_Bps, rtol=1e-15
  )
  assert read['source'] and read['measure']
  assert content['parameters']['HBM.queue_p']['stderr'] == 'Infinity'
  card = json.loads((saved / 'card.json').read_text())
  assert card['held_out'][0]['coverage90'] is None


def files_of(path):
  return sorted(
    p.relative_to(path).as_posix() for p in path.rglob('*') if p.is_file()
  )


def flip(path):
  data = bytearray(path.read_bytes()) or bytearray(b'\0')
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def truncate(path):
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])


def append(path):
  path.write_bytes(path.read_bytes() + b'\n')


@pytest.mark.parametrize(
  'damage', [flip, truncate, append, pathlib.Path.unlink]
)
def test_every_damage_to_every_file_is_found(saved, tmp_path, damage):
  names = files_of(saved)
  assert len(names) > 8
  for i, name in enumerate(names):
    path = shutil.copytree(saved, tmp_path / str(i))
    if damage is truncate and (path / name).stat().st_size == 0:
      continue
    damage(path / name)
    with pytest.raises(errors.CheckpointError) as caught:
      checkpoint.load_checkpoint(path)
    message = str(caught.value)
    assert str(path / name) in message
    assert 'expected' in message
    assert 'refit (python -m experiments.fit' in message


def test_every_flipped_bit_of_the_checksums_is_found(copy):
  path = copy / folder.CHECKSUMS
  data = path.read_bytes()
  for i in range(0, len(data), 5):
    changed = bytearray(data)
    changed[i] ^= 1 << (i % 8)
    path.write_bytes(changed)
    with pytest.raises(errors.CheckpointError):
      checkpoint.load_checkpoint(copy)


@pytest.mark.parametrize('name', ['system.json', 'card.json', 'checksums.json'])
@pytest.mark.parametrize('version', [0, 1, 'x'])
def test_other_schema_versions_are_refused(copy, name, version):
  path = copy / name
  content = json.loads(path.read_text())
  if name == folder.CHECKSUMS:
    path.write_text(folder._checksums_text(version, content['files']))
  else:
    path.write_text(json.dumps(content | {'schema_version': version}))
    rehash(copy)
  with pytest.raises(errors.CheckpointError) as caught:
    checkpoint.load_checkpoint(copy)
  message = str(caught.value)
  assert str(path) in message and 'refit' in message
  assert f'schema version {version!r}; this code reads 2' in message


def test_a_newer_schema_with_other_keys_is_named_by_its_version(copy):
  path = copy / 'system.json'
  path.write_text('{"schema_version": 9, "all": "new"}')
  rehash(copy)
  with pytest.raises(errors.CheckpointError, match='schema version 9'):
    checkpoint.load_checkpoint(copy)


@pytest.mark.parametrize(
  ('found', 'said'),
  [
    ({'best': np.zeros(3)}, r'\(3,\)'),
    ({'best': np.zeros(3, np.float32)}, 'float32'),
    ({'wurst': np.zeros(3)}, 'wurst'),
    ({'best': np.zeros(3), 'ensemble': np.zeros((2, 3))}, r'\(2, 3\)'),
  ],
)
def test_arrays_that_do_not_match_are_refused(copy, found, said):
  shutil.rmtree(copy / 'arrays')
  arrays.write(copy / 'arrays', found)
  rehash(copy)
  with pytest.raises(errors.CheckpointError, match=said) as caught:
    checkpoint.load_checkpoint(copy)
  assert f'{copy / "arrays"}: ' in str(caught.value)


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    ('"HBM.queue_p": {', '"HBM.kneeness": {'),
    ('"unit": "FLOP/s"', '"unit": "OP/s"'),
    ('"duplex": "turnaround"', '"duplex": "both"'),
    ('"via": "PCIe"', '"via": "USB"'),
    ('"span": 8', '"spam": 8'),
    ('"status": "fitted"', '"status": "guessed"'),
    ('"draws": 20', '"draws": 21'),
  ],
)
def test_documents_that_this_code_cannot_use_are_refused(copy, old, new):
  path = copy / 'system.json'
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))
  rehash(copy)
  with pytest.raises(errors.CheckpointError, match='expected') as caught:
    checkpoint.load_checkpoint(copy)
  assert str(copy) in str(caught.value)


def test_files_that_are_not_ours_are_named(copy):
  (copy / 'notes.txt').write_text('hello')
  with pytest.raises(errors.CheckpointError, match=r'notes\.txt'):
    checkpoint.load_checkpoint(copy)


def test_no_checkpoint(tmp_path):
  with pytest.raises(errors.CheckpointError, match='there is none'):
    checkpoint.load_checkpoint(tmp_path / 'nothing')
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.CheckpointError, match='a file'):
    checkpoint.load_checkpoint(tmp_path / 'file')
  with pytest.raises(errors.CheckpointError, match='none of these files'):
    checkpoint.load_checkpoint(tmp_path)


def test_saving_replaces_only_checkpoints(saved, copy, tmp_path):
  newer = make_fitted(seed=1)
  checkpoint.save_checkpoint(copy, newer, make_card())
  assert_same(newer, checkpoint.load_checkpoint(copy).fitted)
  (copy / 'thesis.tex').write_text('')
  with pytest.raises(errors.CheckpointError, match=r'thesis\.tex'):
    checkpoint.save_checkpoint(copy, newer, make_card())
  assert (copy / 'thesis.tex').exists()
  (tmp_path / 'file').write_text('mine')
  for path in (tmp_path / 'file', tmp_path / 'file' / 'under'):
    with pytest.raises(errors.CheckpointError):
      checkpoint.save_checkpoint(path, newer, make_card())
  assert (tmp_path / 'file').read_text() == 'mine'
  assert sorted(p.name for p in tmp_path.iterdir()) == ['copy', 'file']


def test_a_failed_save_leaves_the_old_one(copy, monkeypatch):
  def fail(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(folder, 'write_checksums', fail)
  with pytest.raises(errors.CheckpointError, match='No space left'):
    checkpoint.save_checkpoint(copy, make_fitted(seed=1), make_card())
  assert_same(make_fitted(), checkpoint.load_checkpoint(copy).fitted)
  assert [p.name for p in copy.parent.iterdir()] == ['copy']


def test_without_exchange_of_names(copy, monkeypatch):
  monkeypatch.setattr(folder, '_exchange', lambda *_: False)
  newer = make_fitted(seed=1)
  checkpoint.save_checkpoint(copy, newer, make_card())
  assert_same(newer, checkpoint.load_checkpoint(copy).fitted)
  # Killed between the two renames: the old one is found, and kept.
  copy.rename(copy.with_name('.copy.old'))
  copy.with_name('.copy.123.tmp').mkdir()
  assert_same(newer, checkpoint.load_checkpoint(copy).fitted)
  assert_same(newer, checkpoint.load_system(copy))
  newest = make_fitted(seed=2)
  checkpoint.save_checkpoint(copy, newest, make_card())
  assert_same(newest, checkpoint.load_checkpoint(copy).fitted)
  assert [p.name for p in copy.parent.iterdir()] == ['copy']


def test_an_ensemble_is_not_saved_as_a_system(tmp_path):
  fitted = make_fitted()
  wrong = dataclasses.replace(fitted, system=fitted.ensemble)
  with pytest.raises(errors.CheckpointError, match=r'shape \(20,\)'):
    checkpoint.save_checkpoint(tmp_path / 'c', wrong, make_card())
  assert not list(tmp_path.iterdir())


def test_relative_paths(saved, monkeypatch):
  monkeypatch.chdir(saved.parent)
  loaded = checkpoint.load_checkpoint('good')
  assert_same(make_fitted(), loaded.fitted)
  assert_same(make_fitted(), checkpoint.load_system('good'))


def test_load_system(saved, tmp_path):
  assert checkpoint.load_system('gb200').system.name == 'gb200'
  assert_same(make_fitted(), checkpoint.load_system(saved))
  own = tmp_path / 'own.toml'
  own.write_text("name = 'own'\n[tiers.HBM]\n")
  assert checkpoint.load_system(own).system.name == 'own'
  with pytest.raises(errors.SpecError, match=r"'h100-sxm'.*checkpoint"):
    checkpoint.load_system('h100')
  with pytest.raises(errors.CheckpointError, match='there is none'):
    checkpoint.load_system(tmp_path / 'gone')


def test_the_users_logging_is_left_alone(saved, caplog):
  caplog.set_level('DEBUG')
  checkpoint.load_checkpoint(saved)
  assert not [r for r in caplog.records if 'orbax' in r.pathname]
  assert arrays._is_worth_showing not in logging.getLogger('absl').filters


def run(code, *arguments, **environment):
  return subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code), *map(str, arguments)],
    env=os.environ | {'JAX_PLATFORMS': 'cpu'} | environment,
    cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
  )  # fmt: skip


def test_loads_on_another_number_of_devices(saved):
  done = run(
    """
    import hashlib, sys, jax, numpy as np
    from diffmem import checkpoint
    fitted = checkpoint.load_checkpoint(sys.argv[1]).fitted
    leaves = jax.tree.leaves((fitted.system, fitted.ensemble))
    assert all(isinstance(x, (np.ndarray, np.float64)) for x in leaves)
    data = b''.join(np.asarray(x).tobytes() for x in leaves)
    print(jax.device_count(), hashlib.sha256(data).hexdigest())
    """,
    saved,
    JAX_NUM_CPU_DEVICES='4',
  )
  fitted = make_fitted()
  leaves = jax.tree.leaves((fitted.system, fitted.ensemble))
  data = b''.join(np.asarray(x).tobytes() for x in leaves)
  assert done.stdout.split() == ['4', hashlib.sha256(data).hexdigest()]
  assert not done.stderr


# A child saves two systems in turn until it is killed; after each kill the
# checkpoint is whole, and it is one of the two.
KILL = """
import os, pathlib, random, signal, sys, time, warnings
warnings.simplefilter('ignore')
import orbax.checkpoint.experimental.v1
from diffmem import checkpoint
from diffmem.checkpoint import folder
from diffmem.system import load_catalog
path = pathlib.Path(sys.argv[1])
systems = [load_catalog(name) for name in ('h100-sxm', 'tpu-v5e')]
card = checkpoint.Card.now()
random.seed(int(sys.argv[2]))
read_end, write_end = os.pipe()
for _ in range(int(sys.argv[3])):
  child = os.fork()
  if not child:
    while True:
      for system in systems:
        checkpoint.save_checkpoint(path, system, card)
        os.write(write_end, b'.')
  os.read(read_end, 1)
  time.sleep(random.uniform(0, 0.2))
  os.kill(child, signal.SIGKILL)
  os.waitpid(child, 0)
  folder.verify(path)
  left = sorted(p.name for p in path.parent.iterdir() if p != path)
  print(len(left), (path / 'system.json').read_text().count('NVLink.'))
"""


def test_kill_9_loses_nothing(tmp_path):
  path = tmp_path / 'c'
  done = run(KILL, path, 1, 12)
  states = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
  assert len(states) == 12
  assert all(left <= 1 for left, _ in states)
  assert any(left == 1 for left, _ in states), 'no kill hit a save'
  loaded = checkpoint.load_checkpoint(path).fitted
  assert loaded.system.name in ('h100-sxm', 'tpu-v5e')
  assert_same(load_catalog(loaded.system.name), loaded)
  checkpoint.save_checkpoint(path, make_fitted(), make_card())
  assert [p.name for p in tmp_path.iterdir()] == ['c']


def test_public_face():
  assert diffmem.save_checkpoint is checkpoint.save_checkpoint
  assert diffmem.load_checkpoint is checkpoint.load_checkpoint
  assert re.fullmatch(r'\d+\.\d+\.\d+', make_card().jax_version)
