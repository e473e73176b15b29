"""nvbandwidth, link tables, gpu-benches' roofline, ML.ENERGY."""

import json

import numpy as np
import pytest

from diffmem import errors
from diffmem.traces import readers


def variant(traces, name):
  return traces.select(traces['variant'] == name)


def test_nvbandwidth_text(write, samples):
  path = write('n.txt', samples['nvbandwidth'])
  found = readers.read(path, 'nvbandwidth')
  t = found.traces
  assert set(t['system']) == {'NVIDIA Example GPU'}
  h2d = variant(t, 'host_to_device_memcpy_ce')
  np.testing.assert_allclose(h2d['bandwidth_Bps'], [5e10, 5.1e10])
  assert set(h2d['tier']) == {'DRAM'} and not h2d['bytes_written'].any()
  d2d = variant(t, 'device_to_device_memcpy_read_ce')
  assert set(d2d['tier']) == {'NVLink'} and len(d2d) == 2
  local = variant(t, 'device_local_copy')
  np.testing.assert_allclose(local['bandwidth_Bps'], [2e12, 2.002e12])
  total = variant(t, 'device_to_device_bidirectional_memcpy_write_sm')
  np.testing.assert_allclose(total['bandwidth_Bps'], 4e11)
  assert (total['bytes_read'] == total['bytes_written']).all()
  chase = variant(t, 'host_device_latency_sm')
  np.testing.assert_allclose(chase['latency_s'], [8e-7, 8.1e-7])
  assert 'several GPUs share' in found.summary()


def nvbandwidth_json(matrix, status='Passed', **more):
  test = {
    'name': 'host_to_device_bidirectional_memcpy_ce',
    'status': status,
    'bandwidth_matrix': matrix,
  } | more
  body = {
    'GPU Device list': ['0: NVIDIA Example GPU (00000000:17:00)'],
    'testcases': [test, {'name': 'all_to_one_read_sm', 'status': 'Waived'}],
  }
  return json.dumps({'nvbandwidth': body})


def test_nvbandwidth_json(write):
  path = write('n.json', nvbandwidth_json([['40.5', 'N/A']], bufferSize=4096))
  found = readers.read(path, 'nvbandwidth')
  t = found.traces
  np.testing.assert_allclose(t['bandwidth_Bps'], [8.1e10])
  np.testing.assert_allclose(t['bytes_read'], [4096])
  np.testing.assert_allclose(t['bytes_written'], [4096])
  assert 'taken to be as fast' in t['note'][0]
  assert 'Waived' in found.summary()


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('n.json', nvbandwidth_json([['fast']]), "row 1.*'fast'"),
    ('n.json', nvbandwidth_json([3]), 'a list of rows'),
    ('n.json', '{"nvbandwidth": 3}', 'list of tests'),
    ('n.json', '{"nvbandwidth": {"testcases": [1]}}', 'a test case'),
    ('n.txt', 'hello\n', 'Running <test>'),
    (
      'n.txt',
      'Running a_memcpy_ce.\nmemcpy CPU(row)\n 0 1\n0 5.0\n',
      '2 values',
    ),
  ],
)
def test_bad_nvbandwidth(write, name, content, message):
  with pytest.raises(errors.TraceError, match=message):
    readers.read(write(name, content), 'nvbandwidth')


def test_link_tables(write):
  sweep = 'device,mode,transfer_bytes,GBps\nG,h2d_pinned,1024,0.5\n'
  sweep += 'G,d2h_pinned,1,0.0\n'
  found = readers.read(write('s.csv', sweep), 'nvbandwidth')
  assert list(found.traces['bytes_read']) == [1024]
  assert [s.row for s in found.skipped] == [2]
  matrix = 'processor,memory,op,metric,value,system\n'
  matrix += 'Grace,ddr_remote,write,bandwidth_8GiB_GBps,60,N\n'
  matrix += 'Grace,hbm,pointer_chase,latency_ns,800,N\n'
  matrix += 'Grace,hbm,"max(read,write)",best_GBps,800,N\n'
  found = readers.read(write('m.csv', matrix), 'nvbandwidth')
  assert list(found.traces['tier']) == ['DRAM-remote', 'HBM']
  np.testing.assert_allclose(found.traces['latency_s'][1], 8e-7)
  assert [s.row for s in found.skipped] == [3]
  triad = 'device,buffer_MB,GBps\nV,24,400\n'
  t = readers.read(write('t.csv', triad), 'nvbandwidth').traces
  assert list(t['working_set_bytes']) == [24 * 2**20]
  with pytest.raises(errors.TraceError, match='one of the columns'):
    readers.read(write('x.csv', 'a,b\n1,2\n'), 'nvbandwidth')


def test_roofline_text(write, samples):
  path = write('r.txt', samples['roofline_power'])
  found = readers.read(path, 'roofline_power', readers.Options(system='G'))
  t = found.traces
  read_B = 2 * 4 * 1056 * 256 * 4000
  np.testing.assert_allclose(t['bytes_read'], read_B)
  np.testing.assert_allclose(t['flops'], [read_B / 4, read_B * 2.25])
  # The first line has more digits in GB/s, the second in GF/s.
  expected = [read_B / 3.8e12, read_B * 2.25 / 8.099e12]
  np.testing.assert_allclose(t['time_s'], expected)
  np.testing.assert_allclose(t['power_W'], [570, 610])
  assert set(t['dtype']) == {'float32'} and len(found.skipped) == 3


ROOFLINE = (
  'device,gpu_index,blocks,fma_iters,intensity_flop_per_byte,bandwidth_GBps,'
  'gflops_fp32,clock_MHz,power_W,temp_C\n'
  'G,0,504,1,0.25,1000,250,1000,300,50\n'
)


def test_roofline_table_tells_the_number_format(write):
  t = readers.read(write('r.csv', ROOFLINE), 'roofline_power').traces
  assert t['dtype'][0] == 'float64'
  assert t['bytes_read'] == [2 * 8 * 504 * 256 * 4000]


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (ROOFLINE.replace('250,1000,300', '500,1000,300'), 'row 1.*gflops'),
    (ROOFLINE.replace(',1,0.25', ',1,0.3'), 'row 1.*intensity'),
    (ROOFLINE.replace('300', 'hot'), "row 1.*power_W.*'hot'"),
    (ROOFLINE.replace('clock_MHz', 'clock'), 'clock_MHz'),
  ],
)
def test_bad_roofline(write, content, message):
  with pytest.raises(errors.TraceError, match=message):
    readers.read(write('r.csv', content), 'roofline_power')


def test_broken_roofline_line(write, samples):
  content = samples['roofline_power'].replace('3600 GB/s', 'n/a GB/s')
  with pytest.raises(errors.TraceError, match='row 6.*GB/s'):
    readers.read(
      write('r.txt', content), 'roofline_power', readers.Options(system='G')
    )


ML_ENERGY = (
  'dataset,task,model_id,weight_precision,gpu,num_gpus,tp,pp,ep,dp,max_batch,'
  'avg_batch,avg_output_len,mean_decode_pos,tokens_per_s,energy_per_token_J,'
  'avg_power_W,power_per_gpu_W,median_itl_ms,engine,source\n'
  'v3,chat,org/model-8B,fp8,H100,2,2,1,1,1,8,7.6,100,350.4,380,2,760,380,19,'
  'vLLM,x\n'
  'v2,chat,org/model-8B,bfloat16,A100,1,1,1,1,1,8,8,100,,400,1,400,400,,vLLM,x\n'
)


def test_ml_energy_is_one_decode_step_of_one_gpu(write):
  t = readers.read(write('e.csv', ML_ENERGY), 'ml_energy').traces
  np.testing.assert_allclose(t['time_s'], [0.02, 0.02])
  np.testing.assert_allclose(t['power_W'], [380, 400])
  np.testing.assert_allclose(t['energy_J'], t['power_W'] * t['time_s'])
  np.testing.assert_allclose(t['batch_size'], [8, 8])
  np.testing.assert_allclose(t['kv_len'], [350, np.nan])
  assert list(t['dtype']) == ['float8', 'bfloat16']
  assert set(t['op']) == {'decode_step'}
  assert set(t['model']) == {'org/model-8B'}
  assert 'median between tokens 19.000 ms' in t['note'][0]


def test_bad_ml_energy(write):
  path = write('e.csv', ML_ENERGY.replace(',380,2,760', ',0,2,760'))
  with pytest.raises(errors.TraceError, match='row 1.*tokens_per_s'):
    readers.read(path, 'ml_energy')


@pytest.mark.parametrize(
  ('path', 'format'),
  [
    ('memory/gpu_roofline_power.parquet', 'roofline_power'),
    ('energy/ml_energy.csv', 'ml_energy'),
    ('memory/links/nvbandwidth_rtx5090.csv', 'nvbandwidth'),
    ('memory/links/host_device_copy_sweeps.csv', 'nvbandwidth'),
    ('memory/links/gh200_tier_matrix.csv', 'nvbandwidth'),
    ('memory/links/unified_memory_triad_v100.csv', 'nvbandwidth'),
  ],
)
def test_shared_tables(shared, path, format):
  found = readers.read(shared / path, format)
  assert len(found.traces) >= 10
  assert not [r for r in found.remarks if 'without use' in r]
