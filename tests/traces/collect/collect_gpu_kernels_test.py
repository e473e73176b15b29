import dataclasses
import types

import pytest

from diffmem.traces.collect import gpu_kernels, gpu_programs
from diffmem.traces.collect import session as cpu_session

KIB = 1024


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32', 'float8'])
def test_gemm_rows_have_the_readers_columns(gpu_row, dtype):
  row = gpu_row(gpu_kernels.Gemm(4, 32, 64, dtype))
  size = {'float32': 4, 'float8': 1}.get(dtype, 2)
  out = 4 if dtype == 'float32' else 2
  assert (row['m'], row['n'], row['k']) == (4, 32, 64)
  assert row['flops'] == 2 * 4 * 32 * 64 and row['dtype'] == dtype
  assert row['weight_bytes'] == 32 * 64 * size
  assert row['bytes_read'] == (4 * 64 + 32 * 64) * size
  assert row['bytes_written'] == 4 * 32 * out
  moved = row['bytes_read'] + row['bytes_written']
  assert row['working_set_bytes'] == moved + 5 * row['weight_bytes']
  assert 1e-9 < row['time_s'] < 1e-2


def test_weights_take_turns_until_they_exceed_the_cache(session):
  session.options = dataclasses.replace(session.options, system='h100-sxm')
  counts = [
    gpu_kernels.Gemm(1, n, k).kernels_per_pass(session)
    for n, k in ((1024, 1024), (4096, 4096), (14336, 4096), (8192, 8192))
  ]
  assert counts == [6, 3, 1, 1]


def test_the_library_is_named_and_converted_float8_refused():
  def program(text):
    run = types.SimpleNamespace(as_text=lambda: text)
    return gpu_programs.Program(run, [], [], 1)

  product = program('custom-call __cublas$lt$matmul')
  gpu_kernels._check_library(product, 'bfloat16')
  assert product.implementation == 'cublas'
  with pytest.raises(cpu_session.SkipProbe, match='float8'):
    gpu_kernels._check_library(product, 'float8')
  gpu_kernels._check_library(program('__cublas$lt$matmul$f8'), 'float8')
  own = program('fusion')
  gpu_kernels._check_library(own, 'float32')
  assert own.implementation == 'xla'


def test_cast_and_roofline(gpu_row):
  cast = gpu_row(gpu_kernels.Cast(8, 256))
  assert cast['bytes_read'] == 2 * cast['bytes_written'] == 2 * 8 * 256
  add = gpu_row(gpu_kernels.MultiplyAdd(64 * KIB, 4))
  assert add['op'] == 'roofline' and add['flops'] == 2 * 4 * 16 * KIB
