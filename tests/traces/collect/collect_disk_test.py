import os
import shutil

import pytest

from diffmem.traces.collect import disk, disk_file, samples, session

MIB = 2**20


def test_the_file_leaves_no_name_behind(tmp_path):
  file = disk_file.ScratchFile(tmp_path, 8 * MIB)
  assert list(tmp_path.iterdir()) == []
  assert os.fstat(file.fd).st_size == file.size == 8 * MIB
  file.close()


def test_an_interrupt_while_writing_removes_the_file(tmp_path, monkeypatch):
  def interrupt(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(disk_file, '_fill', interrupt)
  with pytest.raises(KeyboardInterrupt):
    disk_file.ScratchFile(tmp_path, 8 * MIB)
  assert list(tmp_path.iterdir()) == []


def test_a_full_file_system_is_an_error(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=8 * MIB)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
  with pytest.raises(OSError, match='only 8388608 bytes free'):
    disk_file.ScratchFile(tmp_path, 256 * MIB)


def test_a_scarce_file_system_gives_a_smaller_file(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=64 * MIB)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
  file = disk_file.ScratchFile(tmp_path, 256 * MIB)
  assert file.size == 16 * MIB
  file.close()


def test_without_o_direct_the_row_says_so(tmp_path, monkeypatch, tiny_options):
  monkeypatch.delattr(os, 'O_DIRECT', raising=False)
  probe = disk.FileRead('random_read', 4096, 2)
  with session.Session(tiny_options) as run:
    row = probe.row(run, [probe.measure(run, 1)])
  assert 'no O_DIRECT' in row['note']


def test_rows_keep_littles_law(tiny_options):
  reads = [samples.Reads(0.8, 0.1, 100), samples.Reads(0.9, 0.2, 100)]
  probe = disk.FileRead('random_read', 65536, 8)
  with session.Session(tiny_options) as run:
    row = probe.row(run, [reads, [samples.Reads(1.0, 0.1, 100)]])
  assert row['latency_s'] == pytest.approx(0.009)
  assert row['in_flight_bytes'] == 8 * 65536
  flow = row['in_flight_bytes'] / row['latency_s']
  assert row['bandwidth_Bps'] == pytest.approx(flow)
  assert row['bytes_read'] / row['time_s'] == pytest.approx(flow)
  assert row['repeats'] == 3
  assert row['tier'] == 'disk'


def test_the_grid_bounds_memory_and_skips_small_files(tiny_options):
  probes = disk.disk_probes(tiny_options)
  assert max(p.block_bytes * p.depth for p in probes) <= 64 * MIB
  assert len({p.name for p in probes}) == len(probes)
  with session.Session(tiny_options) as run, pytest.raises(session.SkipProbe):
    disk.FileRead('random_read', 4 * MIB, 8).measure(run, 1)
