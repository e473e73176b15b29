import pytest

from diffmem.traces.collect import machine


@pytest.mark.parametrize(
  'text, size',
  [('32K\n', 32768), ('36608K', 37486592), ('2M', 2**21), ('7', 7)],
)
def test_sizes_of_sysfs(text, size):
  assert machine.parse_size(text) == size


@pytest.mark.parametrize(
  'cpus, counts',
  [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (16, (1, 2, 4, 8, 16))],
)
def test_thread_counts(cpus, counts):
  assert machine.thread_counts(cpus) == counts


def _sysfs(root):
  levels = [
    ('index0', 1, 'Data', '48K', '0'),
    ('index1', 1, 'Instruction', '64K', '0'),
    ('index2', 2, 'Unified', '2048K', '0'),
    ('index3', 3, 'Unified', '32M', '0-7'),
    ('index4', 4, 'Unified', 'broken', '0-7'),
  ]
  for name, level, kind, size, shared in levels:
    folder = root / 'devices/system/cpu/cpu0/cache' / name
    folder.mkdir(parents=True)
    (folder / 'level').write_text(f'{level}\n')
    (folder / 'type').write_text(f'{kind}\n')
    (folder / 'size').write_text(f'{size}\n')
    (folder / 'shared_cpu_list').write_text(f'{shared}\n')


def test_data_caches_are_read_nearest_first(tmp_path, monkeypatch):
  _sysfs(tmp_path)
  monkeypatch.setattr(machine, '_SYSFS', tmp_path)
  found = machine.describe()
  assert found.cache_bytes == (48 * 1024, 2 * 2**20, 32 * 2**20)
  assert found.private == (True, True, False)


def test_a_machine_without_sysfs_still_gets_a_grid(tmp_path, monkeypatch):
  monkeypatch.setattr(machine, '_SYSFS', tmp_path / 'none')
  monkeypatch.setattr(machine, '_PROC', tmp_path / 'none')
  found = machine.describe()
  assert len(found.cache_bytes) == 3
  assert not found.huge_pages
  assert found.dram_bytes() > found.last_cache_bytes


@pytest.mark.parametrize(
  'cache_mib, free_mib, largest_mib',
  [(36, 24_000, 288), (8, 24_000, 256), (480, 64_000, 1024), (36, 1200, 100)],
)
def test_largest_set_fits_caches_and_memory(cache_mib, free_mib, largest_mib):
  made = machine.Machine(
    cpus=(0,),
    cache_bytes=(cache_mib * 2**20,),
    private=(False,),
    available_bytes=free_mib * 2**20,
    memory_bytes=free_mib * 2**20,
    disk_bytes=10**10,
    huge_pages=True,
    cpu_model='',
  )
  assert made.dram_bytes() == largest_mib * 2**20


def test_waiting_is_summed_over_threads(tmp_path, monkeypatch):
  monkeypatch.setattr(machine, '_PROC', tmp_path)
  assert machine.waited_s() == 0
  for thread, text in (('1', '9 2000000000 3'), ('2', '1 500000000 2')):
    (tmp_path / 'self/task' / thread).mkdir(parents=True)
    (tmp_path / 'self/task' / thread / 'schedstat').write_text(text)
  (tmp_path / 'self/task/3').mkdir()
  (tmp_path / 'self/task/3/schedstat').write_text('odd')
  assert machine.waited_s() == 2.5
