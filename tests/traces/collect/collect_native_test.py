import os
import stat

import pytest

from diffmem.traces.collect import kernels, machine, native

needs_compiler = pytest.mark.skipif(
  native.find_compiler() is None, reason='no C compiler here'
)


def _script(path, text):
  path.write_text('#!/bin/sh\n' + text)
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  return str(path)


@needs_compiler
def test_the_library_is_built_once(tmp_path, monkeypatch):
  native.load_library(tmp_path)
  assert len(list(tmp_path.iterdir())) == 1  # no temporary file stays

  def refuse(*_):
    raise AssertionError('compiled again')

  monkeypatch.setattr(native, '_compile', refuse)
  assert native.load_library(tmp_path).dm_abi() == 1


@needs_compiler
def test_a_damaged_library_is_built_again(tmp_path):
  compiler = native.find_compiler()
  path = tmp_path / f'kernels-{native._key(compiler, native._FLAGS[0])}.so'
  path.write_bytes(b'no library')
  assert native.load_library(tmp_path).dm_abi() == 1
  assert path.stat().st_size > 1000


@needs_compiler
def test_flags_that_a_compiler_lacks_are_dropped(tmp_path, monkeypatch):
  real = native.find_compiler()[0]
  log = tmp_path / 'log'
  wrapped = _script(
    tmp_path / 'fake-cc',
    f'echo "$@" >> {log}\n'
    'case "$*" in *-march=native*) echo unknown >&2; exit 1;; esac\n'
    f'exec {real} "$@"\n',
  )
  monkeypatch.setenv('CC', wrapped)
  assert native.load_library(tmp_path / 'cache').dm_abi() == 1
  assert len(log.read_text().splitlines()) == len(native._FLAGS)


def test_a_broken_compiler_warns_and_falls_back(tmp_path, monkeypatch):
  broken = _script(tmp_path / 'cc', 'echo "internal error" >&2; exit 4\n')
  monkeypatch.setenv('CC', broken)
  with pytest.warns(RuntimeWarning, match='internal error'):
    assert kernels.open_kernels(machine.describe(), tmp_path / 'c') is None
  assert list((tmp_path / 'c').iterdir()) == []


def test_a_compiler_that_makes_rubbish_falls_back(tmp_path, monkeypatch):
  monkeypatch.setenv('CC', _script(tmp_path / 'cc', 'exit 0\n'))
  with pytest.warns(RuntimeWarning, match='cannot be loaded'):
    assert kernels.open_kernels(machine.describe(), tmp_path / 'c') is None


def test_no_compiler_at_all(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  monkeypatch.delenv('CC', raising=False)
  with pytest.raises(native.BuildError, match='install cc'):
    native.load_library(tmp_path)


def test_an_unusable_cache_gives_a_private_folder(tmp_path):
  blocked = tmp_path / 'file'
  blocked.write_text('')
  folder = native._usable(blocked / 'cache')
  assert folder.is_dir() and blocked not in folder.parents
  assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_the_key_depends_on_flags_and_machine(monkeypatch):
  first = native._key(['cc'], ['-O3'])
  assert native._key(['cc'], ['-O2']) != first
  assert native._key(['clang'], ['-O3']) != first
  monkeypatch.setattr(machine, '_cpu_model', lambda: 'another')
  assert native._key(['cc'], ['-O3']) != first
