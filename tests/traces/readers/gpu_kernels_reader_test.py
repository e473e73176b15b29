import numpy as np
import pytest

from diffmem import errors
from diffmem.traces import readers


def common(rows, /, **more):
  return {
    'backend': ['vllm'] * rows,
    'version': ['0.1'] * rows,
    'kernel_source': ['k'] * rows,
    'dtype': ['bfloat16'] * rows,
    'flops': [1e9] * rows,
    'latency_us': [10.0] * rows,
  } | more


def gemm(**more):
  return common(
    2,
    dtype=['bfloat16', 'fp8_block'],
    m=[4, 4], n=[256, 256], k=[512, 512],
    weight_bytes=[262144.0, 131072.0],
    bytes_moved=[262144 + 4096 + 2048.0, 131072 + 2048 + 2048.0],
    flops=[1048576.0] * 2,
  ) | more  # fmt: skip


def test_gemm_from_folder_and_file_name(write_parquet):
  path = write_parquet('x100_sxm/gemm.parquet', gemm())
  t = readers.read(path, 'gpu_kernels').traces
  assert set(t['system']) == {'x100_sxm'} and set(t['op']) == {'gemm'}
  assert list(t['dtype']) == ['bfloat16', 'float8']
  assert list(t['quantization']) == ['', 'fp8_block']
  assert set(t['variant']) == {'vllm 0.1 k'}
  np.testing.assert_allclose(t['bytes_written'], [2048, 2048])
  np.testing.assert_allclose(t['bytes_read'], [262144 + 4096, 131072 + 2048])
  np.testing.assert_allclose(t['time_s'], 1e-5)
  moved = t['bytes_read'] + t['bytes_written']
  expected = moved + 5 * t['weight_bytes']
  np.testing.assert_allclose(t['working_set_bytes'], expected)


def test_options_name_system_and_op(write_parquet):
  path = write_parquet('data.parquet', gemm())
  with pytest.raises(errors.TraceError, match="'data'.*--op"):
    readers.read(path, 'gpu_kernels')
  options = readers.Options(system='S', op='gemm')
  t = readers.read(path, 'gpu_kernels', options).traces
  assert set(t['system']) == {'S'} and len(t) == 2


def test_power_counts_over_long_windows_only(write_parquet):
  columns = gemm(
    power_w=[300.0, 500.0],
    power_limit_w=[700.0] * 2,
    energy_mj=[3.0, 5.0],
    power_window_ms=[899.0, 900.0],
  )
  found = readers.read(write_parquet('a/gemm_power.parquet', columns),
                       'gpu_kernels')  # fmt: skip
  t = found.traces
  np.testing.assert_allclose(t['power_W'], [np.nan, 500.0])
  np.testing.assert_allclose(t['time_s'], 1e-5)
  assert 'power left out' in t['note'][0] and t['note'][1] == ''
  assert '1 of 2 rows' in found.summary()


ATTENTION = {
  'kv_cache_dtype': ['fp8'], 'batch_size': [2], 'num_heads': [8],
  'num_kv_heads': [2], 'head_dim': [64], 'window_size': [0],
}  # fmt: skip


@pytest.mark.parametrize(
  ('op', 'columns', 'written'),
  [
    ('prefill_attention', {**ATTENTION, 'seq_len': [16]}, 2 * 2 * 16 * 8 * 64),
    ('decode_attention', {**ATTENTION, 'kv_len': [16]}, 2 * 2 * 8 * 64),
    (
      'mla_prefill',
      {'kv_cache_dtype': ['fp8'], 'batch_size': [2], 'seq_len': [4],
       'num_heads': [8]},
      2 * 128 * 2 * 4 * 8,
    ),
    (
      'mla_decode',
      {'kv_cache_dtype': ['fp8'], 'batch_size': [2], 'kv_len': [4],
       'num_heads': [8]},
      2 * 512 * 2 * 8,
    ),
    (
      'mla_bmm',
      {'op_name': ['mla_gen_pre'], 'num_tokens': [3], 'num_heads': [8]},
      2 * 512 * 3 * 8,
    ),
    ('stream_cast_fp8', {'m': [128], 'k': [256]}, 128 * 256),
  ],
)  # fmt: skip
def test_bytes_written(write_parquet, op, columns, written):
  table = common(1, bytes_moved=[1e6], **columns)
  path = write_parquet(f'a/{op}.parquet', table)
  t = readers.read(path, 'gpu_kernels').traces
  np.testing.assert_allclose(t['bytes_written'], [written])
  np.testing.assert_allclose(t['bytes_read'], [1e6 - written])
  assert t['op'][0] == op.replace('stream_cast_fp8', 'cast')
  if 'kv_cache_dtype' in columns:
    assert t['kv_dtype'][0] == 'float8'


def moe(**more):
  return common(
    2,
    num_tokens=[8, 8], hidden_size=[64, 64], inter_size=[32, 32],
    topk=[2, 2], num_experts=[8, 8], moe_tp_size=[1, 2], moe_ep_size=[1, 4],
    distribution=['balanced', 'power_law_1.2'], gated=[True, False],
    weight_bytes=[98304.0] * 2, bytes_moved=[98304.0 + 8192] * 2,
  ) | more  # fmt: skip


def test_moe_routing_and_shards(write_parquet):
  path = write_parquet('a/moe.parquet', moe())
  t = readers.read(path, 'gpu_kernels').traces
  np.testing.assert_allclose(t['routing_skew'], [0, 1.2])
  np.testing.assert_allclose(t['gated'], [1, 0])
  np.testing.assert_allclose(t['tensor_shards'], [1, 2])
  np.testing.assert_allclose(t['expert_shards'], [1, 4])
  # 16 routed tokens: outputs of 64 and intermediates of 32, two bytes each.
  np.testing.assert_allclose(t['bytes_written'], [16 * 192, 4 * 160])


@pytest.mark.parametrize(
  ('columns', 'message'),
  [
    (moe(distribution=['balanced', 'zipf']), "row 2.*distribution.*'zipf'"),
    (moe(gated=['True', 'maybe']), "row 2.*gated.*'maybe'"),
    (moe(topk=[2, 0]), 'row 2.*topk'),
    (moe(topk=[2.0, 2.5]), 'row 2.*topk.*2.5'),
    (moe(latency_us=[1.0, 0.0]), 'row 2.*latency_us.*more than zero'),
    (moe(bytes_moved=[None, 1e6]), 'row 1.*bytes_moved'),
  ],
)
def test_bad_moe(write_parquet, columns, message):
  path = write_parquet('a/moe.parquet', columns)
  with pytest.raises(errors.TraceError, match=message):
    readers.read(path, 'gpu_kernels')


def test_bytes_moved_must_cover_the_output(write_parquet):
  path = write_parquet('a/gemm.parquet', gemm(bytes_moved=[3e5, 100.0]))
  with pytest.raises(errors.TraceError, match='row 2.*bytes_moved.*2048 B'):
    readers.read(path, 'gpu_kernels')


def test_a_folder_is_read_whole(write_parquet):
  write_parquet('a/gemm.parquet', gemm())
  path = write_parquet('a/moe.parquet', moe()).parent
  assert len(readers.read(path, 'gpu_kernels').traces) == 4
  with pytest.raises(errors.TraceError, match='tables named after'):
    readers.read(path.parent, 'gpu_kernels')


@pytest.mark.parametrize('op', ['mla_prefill', 'moe', 'decode_attention'])
def test_shared_kernels(shared, op):
  path = shared / 'kernels' / 'a100_sxm' / f'{op}.parquet'
  found = readers.read(path, 'gpu_kernels')
  assert len(found.traces) > 1000 and not found.skipped
  assert set(found.traces['system']) == {'a100_sxm'}
  assert (found.traces['bytes_read'] > 0).all()


def test_shared_power(shared):
  path = shared / 'kernels' / 'b200_sxm' / 'mla_decode_power.parquet'
  found = readers.read(path, 'gpu_kernels')
  has_power = ~np.isnan(found.traces['power_W'])
  assert 0 < has_power.sum() < len(found.traces)
