import numpy as np
import pytest

from diffmem import errors
from diffmem.traces import readers


def aiconfigurator(**more):
  return {
    'system': ['s', 's'],
    'library': ['nccl'] * 2,
    'version': ['2'] * 2,
    'collective': ['alltoall', 'all_gather'],
    'kernel_source': ['NCCL'] * 2,
    'mode': ['eager'] * 2,
    'dtype': ['half', 'int8'],
    'ranks': [8, 4],
    'message_bytes': [1024, 2048],
    'latency_us': [10.0, 20.0],
    'wire_bytes_per_rank': [896.0, 1536.0],
    'bus_gb_s': [1.0, 1.0],
  } | more


def vidur(n=30, copy=True):
  sizes = [1024 * (i + 1) for i in range(n)]
  times = [0.01 * (i + 1) for i in range(n)]
  other = times if copy else [2 * t for t in times]
  return {
    'cluster': ['a'] * n + ['b'] * n,
    'collective': ['send_recv'] * 2 * n,
    'num_workers': [2] * 2 * n,
    'devices_per_node': [1] * 2 * n,
    'size_bytes': sizes * 2,
    'median_ms': times + other,
  }


def test_aiconfigurator(write_parquet):
  path = write_parquet('collectives.parquet', aiconfigurator())
  t = readers.read(path, 'collectives').traces
  assert list(t['op']) == ['all_to_all', 'all_gather']
  assert list(t['dtype']) == ['float16', 'int8']
  np.testing.assert_allclose(t['message_bytes'], [1024, 2048])
  np.testing.assert_allclose(t['participants'], [8, 4])
  np.testing.assert_allclose(t['time_s'], [1e-5, 2e-5])


def test_copied_cluster_is_skipped(write_parquet):
  found = readers.read(write_parquet('v.parquet', vidur()), 'collectives')
  assert set(found.traces['system']) == {'a'}
  assert len(found.skipped) == 30 and 'a copy' in found.summary()


def test_cluster_of_its_own_is_kept(write_parquet):
  columns = vidur(copy=False)
  columns['median_ms'][3] = 0.0
  found = readers.read(write_parquet('v.parquet', columns), 'collectives')
  assert len(found.traces) == 59 and found.skipped[0].row == 4
  assert set(found.traces['ranks_per_node']) == {1.0}


def test_nccl_tests_give_two_rows(write_parquet):
  columns = {
    'hw': ['a100'], 'gpus': [4], 'bytes': [1048576], 'count': [262144],
    'type': ['float'], 'oop_time_ns': [50000], 'oop_busbw_gbs': [31.0],
    'ip_time_ns': [51000], 'ip_busbw_gbs': [30.0], 'source': ['x'],
  }  # fmt: skip
  t = readers.read(write_parquet('a.parquet', columns), 'collectives').traces
  np.testing.assert_allclose(sorted(t['time_s']), [5e-5, 5.1e-5])
  assert set(t['variant']) == {'nccl out of place', 'nccl in place'}


def test_expert_parallel_gives_dispatch_and_combine(write_parquet):
  columns = {
    'system': ['s'], 'mode': ['low_latency'], 'nodes': [1],
    'hidden_size': [4096], 'num_tokens': [16], 'topk': [8],
    'num_experts': [256], 'sms': [0], 'dispatch_us': [20.0],
    'combine_us': [30.0],
  }  # fmt: skip
  path = write_parquet('e.parquet', columns)
  t = readers.read(path, 'collectives').traces
  assert list(t['op']) == ['expert_dispatch', 'expert_combine']
  np.testing.assert_allclose(t['time_s'], [2e-5, 3e-5])
  assert np.isnan(t['sms']).all() and set(t['participants']) == {8.0}
  options = readers.Options(participants=16)
  t = readers.read(path, 'collectives', options).traces
  assert set(t['participants']) == {16.0}


@pytest.mark.parametrize(
  ('columns', 'message'),
  [
    (aiconfigurator(collective=['alltoall', 'gossip']), "row 2.*'gossip'"),
    (aiconfigurator(ranks=[8, 1]), 'row 2.*ranks'),
    (aiconfigurator(message_bytes=[1, -1]), 'row 2.*message_bytes'),
    (aiconfigurator(system=['s', '']), 'system'),
    ({'a': [1]}, 'one of the columns'),
  ],
)
def test_bad_tables(write_parquet, columns, message):
  path = write_parquet('c.parquet', columns)
  with pytest.raises(errors.TraceError, match=message):
    readers.read(path, 'collectives')


def test_shared_collectives(shared):
  kernels = shared / 'kernels'
  found = readers.read(kernels / 'collectives.parquet', 'collectives')
  assert len(found.traces) > 3000 and not found.skipped
  found = readers.read(kernels / 'vidur_collectives.parquet', 'collectives')
  skipped = {skip.reason.split(' repeats')[0] for skip in found.skipped}
  assert skipped == {'send_recv of h100_pairwise_nvlink'}
