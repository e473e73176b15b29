import numpy as np

from diffmem.traces import readers


def test_copies_in_blocks(write_parquet):
  path = write_parquet(
    'blocks.parquet',
    {
      'device': ['H100'] * 3,
      'direction': ['cpu_to_gpu', 'gpu_to_cpu', 'bidirectional'],
      'method': ['dma', 'kernel', 'dma'],
      'block_kib': [8, 16, 2048],
      'n_blocks': [1000, 10, 0],
      'throughput_GBps': [1.1, 4.5, 83.0],
    },
  )
  t = readers.read(path, 'nvbandwidth', readers.Options(tier='PCIe')).traces
  assert set(t['tier']) == {'PCIe'} and set(t['op']) == {'copy'}
  np.testing.assert_allclose(t['granule_bytes'], [8192, 16384, 2**21])
  np.testing.assert_allclose(t['bytes_read'], [8.192e6, 0, 2**20])
  np.testing.assert_allclose(t['bytes_written'], [0, 163840, 2**20])
  np.testing.assert_allclose(t['bandwidth_Bps'], [1.1e9, 4.5e9, 83e9])
  assert list(t['variant']) == ['dma', 'kernel', 'dma']


def test_drives_side_by_side_are_participants(write_parquet):
  path = write_parquet(
    'drives.parquet',
    {
      'host': ['box'] * 2,
      'n_ssd': [1, 4],
      'path': ['nvme<->cpu', 'nvme<->gpu'],
      'rw': ['read', 'write'],
      'tool': ['fio', 'gds'],
      'transfer_gb': [2.0, None],
      'GBps': [3.3, 5.0],
    },
  )
  t = readers.read(path, 'nvbandwidth').traces
  assert list(t['op']) == ['sequential_read', 'sequential_write']
  assert list(t['tier']) == ['SSDs', 'SSDs']
  np.testing.assert_allclose(t['participants'], [1, 4])
  np.testing.assert_allclose(t['bytes_read'], [2e9, 0])
  np.testing.assert_allclose(t['bytes_written'], [0, 5e9])
  assert list(t['note']) == ['nvme<->cpu', 'nvme<->gpu']


def test_rates_of_few_decimals_are_left_out(write_parquet):
  path = write_parquet(
    'sweep.parquet',
    {
      'device': ['fine'] * 2 + ['coarse'] * 2,
      'mode': ['h2d'] * 4,
      'transfer_bytes': [64, 128, 1024, 4096],
      'GBps': [0.011, 0.021, 0.06, 12.35],
    },
  )
  found = readers.read(path, 'nvbandwidth')
  assert list(found.traces['granule_bytes']) == [64, 128, 4096]
  assert 'decimals' in found.summary()
