import numpy as np
import pytest

from diffmem import errors
from diffmem.traces import readers

OPTIONS = readers.Options(system='box', clock_Hz=2e9)


def measured(**changes):
  columns = {
    'platform': ['A', 'A', 'B'],
    'memory_technology': ['DDR5-4800 x8ch', 'DDR5-4800 x8ch', 'HBM2e'],
    'read_fraction': [1.0, 0.75, 0.5],
    'bandwidth_GBps': [100.0, 200.0, 1000.0],
    'latency_ns': [100.0, 200.0, 400.0],
    'bandwidth_std': [0.5, None, None],
    'latency_std': [2.0, 1.0, None],
    'n_lat': [3, 3, 1],
    'kernel_read_pct': [100, 50, 0],
    'source_repo': ['bsc-mem/Mess-Results'] * 3,
    'shoe_size': [1, 2, 3],
  }
  return columns | changes


def test_table_gives_bytes_by_littles_law(write_parquet):
  found = readers.read(write_parquet('m.parquet', measured()), 'mess')
  t = found.traces
  assert list(t['system']) == ['A', 'A', 'B']
  assert list(t['tier']) == ['DRAM', 'DRAM', 'HBM']
  np.testing.assert_allclose(t['in_flight_bytes'], [1e4, 4e4, 4e5])
  np.testing.assert_allclose(t['bytes_read'], [1e4, 3e4, 2e5])
  np.testing.assert_allclose(t['bytes_written'], [0, 1e4, 2e5])
  np.testing.assert_allclose(t['latency_s'], [1e-7, 2e-7, 4e-7])
  np.testing.assert_allclose(t['rel_std'], [0.02, 0.005, np.nan])
  assert 'shoe_size' in found.summary()


def test_options_override_system_and_tier(write_parquet):
  options = readers.Options(system='X', tier='CXL')
  path = write_parquet('m.parquet', measured())
  t = readers.read(path, 'mess', options).traces
  assert set(t['system']) == {'X'} and set(t['tier']) == {'CXL'}


@pytest.mark.parametrize(
  ('column', 'values', 'message'),
  [
    ('read_fraction', [1.0, 75.0, 0.5], 'row 2.*75.*from 0 to 1'),
    ('bandwidth_GBps', [1.0, -2.0, 3.0], 'row 2.*bandwidth_GBps.*-2'),
    ('latency_ns', [1.0, float('nan'), 3.0], 'row 2.*latency_ns'),
    ('latency_ns', ['1', 'fast', '3'], "row 2.*latency_ns.*'fast'"),
    ('platform', [1, 2, 3], 'row 1.*platform.*a text'),
    ('bandwidth_GBps', [1.0, 2.0, 3e9], 'row 3.*plausible'),
  ],
)
def test_bad_values_name_row_and_column(write_parquet, column, values, message):
  path = write_parquet('m.parquet', measured(**{column: values}))
  with pytest.raises(errors.TraceError, match=message):
    readers.read(path, 'mess')


def test_missing_column_is_named(write_parquet):
  columns = measured()
  del columns['latency_ns']
  with pytest.raises(errors.TraceError, match='latency_ns'):
    readers.read(write_parquet('m.parquet', columns), 'mess')


def test_smoothed_table_keeps_measured_traffic_ratios_only(write_parquet):
  columns = {
    'platform': ['A'] * 4,
    'memory_technology': ['DDR4'] * 4,
    'origin': ['measured (smoothed)'] * 3 + ['vendor model (M)'],
    'read_fraction_label': [0.5, 0.6, 0.7, 0.8],
    'label_meaning': [
      'traffic read fraction', 'unknown: traffic or kernel ratio',
      'traffic read fraction', 'traffic read fraction',
    ],
    'bandwidth_GBps': [10.0, 10.0, 1e-9, 10.0],
    'latency_ns': [100.0] * 4,
  }  # fmt: skip
  found = readers.read(write_parquet('s.parquet', columns), 'mess')
  assert len(found.traces) == 1
  assert sorted(s.row for s in found.skipped) == [2, 3, 4]
  assert 'simulation' in found.summary()


def test_curve_files_of_the_simulator(write):
  write('curves/bwlat_50.txt', '40000.5\t400\n20000\t200\n')
  path = write('curves/bwlat_100.txt', '50000 500\n').parent
  found = readers.read(path, 'mess', OPTIONS)
  t = found.traces
  assert len(t) == 3
  np.testing.assert_allclose(sorted(t['latency_s']), [1e-7, 2e-7, 2.5e-7])
  share = t['bytes_read'] / (t['bytes_read'] + t['bytes_written'])
  np.testing.assert_allclose(sorted(share), [0.5, 0.5, 1.0])


@pytest.mark.parametrize(
  ('name', 'content', 'options', 'message'),
  [
    ('bwlat_50.txt', '1 2\n', readers.Options(system='a'), 'clock_GHz'),
    ('bwlat_50.txt', '1 2 3\n', OPTIONS, 'row 1.*two numbers'),
    ('bwlat_50.txt', '9000 90\nx 2\n', OPTIONS, "row 2.*bandwidth.*'x'"),
    ('bwlat_500.txt', '1 2\n', OPTIONS, 'percentage'),
    ('curve.txt', '1 2\n', OPTIONS, 'bwlat_'),
    ('bwlat_50.txt', '9000 90\n', readers.Options(clock_Hz=1e9), '--system'),
  ],
)
def test_bad_curves(write, name, content, options, message):
  with pytest.raises(errors.TraceError, match=message):
    readers.read(write(name, content), 'mess', options)


def test_raw_counters(write, samples):
  write('run/bw/bw_67_100.txt', samples['perf_bw'])
  write('run/bw/bw_67_200.txt', samples['perf_bw'])
  path = write('run/lat/lat_67_100.txt', samples['perf_lat']).parents[1]
  found = readers.read(path, 'mess', OPTIONS)
  t = found.traces
  assert len(t) == 1
  expected = 64 * (30e6 + 30.3e6) / 2 / 0.05
  np.testing.assert_allclose(t['bandwidth_Bps'], [expected])
  np.testing.assert_allclose(t['latency_s'], [0.131e-6])
  np.testing.assert_allclose(t['bytes_read'] / t['in_flight_bytes'], [2 / 3])
  assert t['repeats'] == [2] and 0 < t['rel_std'][0] < 0.02
  assert 'bw_67_200.txt: no latency' in found.summary()


def test_raw_counters_of_a_gpu(write):
  content = (
    'average access latency: 800 ns\n'
    ' 100000000000 \t --> cuda:::fbpa__dram_read_bytes.sum.per_second:dev=0\n'
    ' 300000000000 \t --> cuda:::fbpa__dram_write_bytes.sum.per_second:d=0\n'
    ' 300000000000 \t\t --> cuda:::fbpa__dram_write_bytes.sum:device=0\n'
  )
  path = write('gpu/bw/bw__25_0.txt', content).parents[1]
  t = readers.read(path, 'mess', OPTIONS).traces
  np.testing.assert_allclose(t['bandwidth_Bps'], [4e11])
  np.testing.assert_allclose(t['bytes_read'] / t['in_flight_bytes'], [0.25])


def test_counter_without_direction_is_reported(write, samples):
  counter = samples['perf_bw'].replace(
    'unc_m_cas_count.rd', 'dram_channel_data_controller_total'
  )
  write('run/bw/bw_67_100.txt', counter)
  path = write('run/lat/lat_67_100.txt', samples['perf_lat']).parents[1]
  with pytest.raises(errors.TraceError, match='reads from writes'):
    readers.read(path, 'mess', OPTIONS)


def test_shared_curves(shared):
  path = shared / 'memory' / 'mess_measured_curves.parquet'
  found = readers.read(path, 'mess')
  assert len(found.traces) > 5000 and not found.skipped
  assert set(found.traces['tier']) == {'DRAM', 'HBM'}
