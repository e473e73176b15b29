"""Intel MLC, STREAM and BabelStream."""

import numpy as np
import pytest

from diffmem import errors
from diffmem.traces import readers

OPTIONS = readers.Options(system='box', participants=64)


def by_op(traces, op):
  return traces.select(traces['op'] == op)


def test_mlc(write, samples):
  found = readers.read(write('mlc.txt', samples['mlc']), 'mlc', OPTIONS)
  loaded = by_op(found.traces, 'loaded_latency')
  np.testing.assert_allclose(loaded['latency_s'], [250e-9, 100e-9, 80e-9])
  np.testing.assert_allclose(loaded['bandwidth_Bps'], [2e11, 8e10, 2e9])
  np.testing.assert_allclose(loaded['in_flight_bytes'], [5e4, 8e3, 160])
  np.testing.assert_allclose(loaded['bytes_written'], 0)
  idle = by_op(found.traces, 'pointer_chase')
  assert list(idle['tier']) == [
    'DRAM', 'DRAM-remote', 'node2', 'DRAM-remote', 'DRAM', 'node2'
  ]  # fmt: skip
  np.testing.assert_allclose(idle['latency_s'][:3], [8e-8, 1.405e-7, 2.6e-7])
  assert 'cache-to-cache' in found.summary()


def test_mlc_mixes(write, samples):
  t = readers.read(write('mlc.txt', samples['mlc']), 'mlc', OPTIONS).traces
  mixed = t.select(np.isin(t['op'], ('stream_mix', 'copy', 'triad')))
  share = mixed['bytes_read'] / (mixed['bytes_read'] + mixed['bytes_written'])
  np.testing.assert_allclose(share, [3 / 4, 2 / 3, 1 / 2, 2 / 3])
  assert set(t['participants'][t['op'] == 'stream']) == {64.0}
  assert len(by_op(t, 'stream')) == 1 + 6


def test_mlc_other_traffic(write, samples):
  content = samples['mlc'].replace(
    'Using Read-only traffic type\nInject', 'Using 2:1 Read-Write\nInject'
  )
  t = readers.read(write('mlc.txt', content), 'mlc', OPTIONS).traces
  loaded = by_op(t, 'loaded_latency')
  share = loaded['bytes_read'] / loaded['in_flight_bytes']
  np.testing.assert_allclose(share, 2 / 3)


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    (' 00500\t100.00\t  80000.0', ' 00500\t100.00', 'inject delay'),
    (' 00500\t100.00', ' 00500\tlong', 'inject delay'),
    ('140.5', '14o.5', 'one number for each node'),
    ('Measuring', 'Measured', "start with 'Measuring'"),
  ],
)
def test_bad_mlc(write, samples, old, new, message):
  path = write('mlc.txt', samples['mlc'].replace(old, new))
  with pytest.raises(errors.TraceError, match=message):
    readers.read(path, 'mlc', OPTIONS)


def test_mlc_tables(write):
  mix = 'target,mix,bandwidth_GBps\nCXL Local,ALL Reads,18.0\n'
  mix += 'DDR Remote,3:1 Reads-Writes,24.0\n'
  t = readers.read(write('mix.csv', mix), 'mlc').traces
  assert list(t['tier']) == ['CXL', 'DRAM-remote']
  np.testing.assert_allclose(t['bytes_written'], [0, 6e9])
  size = 'target,kind,buffer_MB,latency_ns\nDDR-L,measured,2,9\n'
  size += 'CXL-ASIC,gem5 simulation,2,9\n'
  found = readers.read(write('size.csv', size), 'mlc')
  assert list(found.traces['working_set_bytes']) == [2 * 2**20]
  assert [s.row for s in found.skipped] == [2]


def test_stream(write, samples):
  found = readers.read(
    write('s.txt', samples['stream']), 'stream', readers.Options(system='box')
  )
  t = found.traces
  assert list(t['op']) == ['copy', 'copy', 'triad', 'triad']
  assert list(t['variant']) == ['copy', 'scale', 'add', 'triad']
  np.testing.assert_allclose(t['bandwidth_Bps'][0], 1.6e10)
  np.testing.assert_allclose(t['bytes_read'][[0, 3]], [8e7, 1.6e8])
  np.testing.assert_allclose(t['bytes_written'][[0, 3]], [8e7, 8e7])
  np.testing.assert_allclose(t['time_s'][3], 0.0125)
  assert set(t['participants']) == {4.0} and set(t['repeats']) == {10.0}


def test_babelstream_text(write, samples):
  t = readers.read(
    write('s.txt', samples['babelstream']), 'stream', OPTIONS
  ).traces
  assert list(t['op']) == ['copy', 'stream']
  np.testing.assert_allclose(t['time_s'], [0.00054, 0.00049])
  assert t['bytes_written'][1] == 0 and set(t['repeats']) == {100.0}


CSV = """phase,n_elements,sizeof,max_mbytes_per_sec,runtime
Init,33554432,8,8000,0.1
function,num_times,n_elements,sizeof,max_mbytes_per_sec,min_runtime,max_runtime,avg_runtime
Copy,100,33554432,8,1000000,0.000536871,0.0006,0.00055
Triad,100,33554432,8,1000000,0.000805306,0.0009,0.00085
"""


def test_babelstream_csv(write):
  found = readers.read(write('s.csv', CSV), 'stream', OPTIONS)
  t = found.traces
  assert list(t['op']) == ['copy', 'triad']
  np.testing.assert_allclose(t['bytes_read'], [2**28, 2**29])
  assert [s.row for s in found.skipped] == [1, 2]


def test_babelstream_mibibytes(write):
  content = CSV.replace('mbytes', 'mibytes').replace('1000000', '953674.3')
  t = readers.read(write('s.csv', content), 'stream', OPTIONS).traces
  np.testing.assert_allclose(t['bandwidth_Bps'], 1e12, rtol=1e-6)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('nothing here\n', "starts with 'Function'"),
    (CSV.replace('Copy,100,', 'Copy,100,1'), 'shortest time'),
    (CSV.replace('0.000536871', 'soon'), "min_runtime.*'soon'"),
    (CSV.replace('Copy,100', 'Copy'), 'row 4.*8 cells'),
  ],
)
def test_bad_stream(write, content, message):
  with pytest.raises(errors.TraceError, match=message):
    readers.read(write('s.txt', content), 'stream', OPTIONS)


def test_shared_cxl(shared):
  cxl = shared / 'memory' / 'cxl'
  found = readers.read(cxl / 'cxl_mlc_bw_by_mix.csv', 'mlc')
  assert 'CXL' in found.traces['tier']
  found = readers.read(cxl / 'cxl_lmbench_latency_vs_size.csv', 'mlc')
  assert {s.reason for s in found.skipped} == {
    'a simulation, not a measurement'
  }
