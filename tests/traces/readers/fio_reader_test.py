import json

import numpy as np
import pytest

from diffmem import errors
from diffmem.traces import readers

OPTIONS = readers.Options(system='disk')


def part(ios=0, Bps=0, latency_ns=0.0):
  return {
    'io_bytes': 4096 * ios, 'io_kbytes': 4 * ios, 'bw_bytes': Bps,
    'bw': Bps // 1024, 'iops': Bps / 4096, 'runtime': 10000, 'total_ios': ios,
    'lat_ns': {'min': 0, 'max': 0, 'mean': latency_ns, 'stddev': 0.0, 'N': ios},
  }  # fmt: skip


def job(read=None, write=None, groupid=0, error=0, **options):
  options = {'rw': 'randread', 'bs': '4k', 'iodepth': '8'} | options
  return {
    'jobname': 'j', 'groupid': groupid, 'error': error,
    'job options': options, 'read': read or part(), 'write': write or part(),
  }  # fmt: skip


def output(*jobs, **shared):
  shared = {'ioengine': 'libaio'} | shared
  return json.dumps(
    {'fio version': 'fio-3.35', 'global options': shared, 'jobs': list(jobs)}
  )


def test_job(write):
  # 8 blocks of 4 KiB in flight for 80 us: 409.6 MB/s.
  path = write('f.json', output(job(part(1000, 409600000, 80000.0))))
  t = readers.read(path, 'fio', OPTIONS).traces
  assert t['op'][0] == 'random_read' and t['tier'][0] == 'SSD'
  np.testing.assert_allclose(t['latency_s'], [8e-5])
  np.testing.assert_allclose(t['bandwidth_Bps'], [4.096e8])
  np.testing.assert_allclose(t['in_flight_bytes'], [8 * 4096])
  np.testing.assert_allclose(t['bytes_read'], [4096e3])
  assert t['granule_bytes'] == [4096] and t['note'][0] == ''
  assert 'fio-3.35 libaio' in t['variant'][0]


def test_processes_of_one_group_are_summed(write):
  jobs = [job(part(100, 204800000, 80000.0), numjobs='2')] * 2
  t = readers.read(write('f.json', output(*jobs)), 'fio', OPTIONS).traces
  assert len(t) == 1 and t['participants'] == [2]
  np.testing.assert_allclose(t['bandwidth_Bps'], [409600000])
  # 409.6 MB/s x 80 us is half of 2 x 8 blocks: Little's law is believed.
  np.testing.assert_allclose(t['in_flight_bytes'], [8 * 4096])
  assert '50% full' in t['note'][0]


def test_group_reporting_counts_processes(write):
  single = job(part(100, 819200000, 80000.0), numjobs='2', group_reporting='1')
  t = readers.read(write('f.json', output(single)), 'fio', OPTIONS).traces
  np.testing.assert_allclose(t['in_flight_bytes'], [16 * 4096])


def test_groups_are_apart_and_mixes_are_one_row(write):
  mixed = job(
    part(300, 300_000_000, 50000.0), part(100, 100_000_000, 90000.0),
    groupid=1, rw='randrw',
  )  # fmt: skip
  path = write('f.json', output(job(part(10, 4096000, 8e6)), mixed))
  t = readers.read(path, 'fio', OPTIONS).traces
  assert list(t['op']) == ['random_read', 'random_mix']
  np.testing.assert_allclose(t['latency_s'][1], 6e-5)
  np.testing.assert_allclose(t['bandwidth_Bps'][1], 4e8)
  assert t['bytes_written'][1] == 409600


def test_synchronous_engines_have_one_block_in_flight(write):
  content = output(job(part(10, 51200000, 80000.0)), ioengine='psync')
  t = readers.read(write('f.json', content), 'fio', OPTIONS).traces
  np.testing.assert_allclose(t['in_flight_bytes'], [4096])


def test_old_microseconds_and_a_warning_before(write):
  old = job(part(10, 4096000))
  old['read'] = {
    'io_kbytes': 40, 'bw': 400000, 'total_ios': 10, 'lat': {'mean': 80.0}
  }  # fmt: skip
  path = write('f.json', 'fio: a warning\n' + output(old))
  t = readers.read(path, 'fio', OPTIONS).traces
  np.testing.assert_allclose(t['latency_s'], [8e-5])
  np.testing.assert_allclose(t['bandwidth_Bps'], [400000 * 1024])


def test_what_cannot_be_used_is_reported(write):
  good = part(10, 409600000, 80000.0)
  content = output(
    job(good), job(good, groupid=1, error=5), job(groupid=2),
    job(good, groupid=3, rw='trim'), job(good, groupid=4, bssplit='4k/50'),
    job(good, groupid=5), job(good, groupid=5, bs='8k'),
  )  # fmt: skip
  found = readers.read(write('f.json', content), 'fio', OPTIONS)
  assert len(found.traces) == 1
  assert sorted(s.row for s in found.skipped) == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('no json', 'JSON object'),
    ('{"jobs": [', 'JSON'),
    ('{"jobs": []}', 'list of jobs'),
    ('{"jobs": [3]}', 'row 1.*a job'),
    (output(job(part(10, 1000, 1.0), bs='big')), "bs.*'big'"),
    (output(job(part(10, 1000, 1.0), iodepth='x')), "iodepth.*'x'"),
    (output(job(part(10, -5, 1.0))), 'read.bw_bytes.*-5'),
  ],
)
def test_bad_json(write, content, message):
  with pytest.raises(errors.TraceError, match=message):
    readers.read(write('f.json', content), 'fio', OPTIONS)


def test_system_must_be_given(write):
  path = write('f.json', output(job(part(10, 409600000, 80000.0))))
  with pytest.raises(errors.TraceError, match='--system'):
    readers.read(path, 'fio')


TABLE = """device,n_devices,rw,iodepth,numjobs,ioengine,iops,lat_mean_us,total_ios,block_bytes,outstanding
D,1,randread,8,1,libaio,100000,80,1000,4096,8
D,4,write,8,1,libaio,50000,80,1000,4096,8
"""  # noqa: E501


def test_table(write):
  t = readers.read(write('f.csv', TABLE), 'fio').traces
  assert list(t['system']) == ['D', '4x D']
  assert list(t['op']) == ['random_read', 'sequential_write']
  np.testing.assert_allclose(t['in_flight_bytes'], [32768, 16384])
  np.testing.assert_allclose(t['bytes_read'], [4096000, 0])
  np.testing.assert_allclose(t['bytes_written'], [0, 4096000])


def test_bad_table(write):
  path = write('f.csv', TABLE.replace('randread', 'walk'))
  with pytest.raises(errors.TraceError, match="row 1.*rw.*'walk'"):
    readers.read(path, 'fio')
  path = write('f.csv', TABLE.replace('50000,80', '50000'))
  with pytest.raises(errors.TraceError, match='row 2.*11 cells'):
    readers.read(path, 'fio')


def test_shared_table(shared):
  found = readers.read(shared / 'ssd' / 'nvme_fio_sweeps.csv', 'fio')
  assert len(found.traces) > 500 and not found.skipped
  assert set(found.traces['tier']) == {'SSD'}
