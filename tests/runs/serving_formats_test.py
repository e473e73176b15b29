"""Number formats of serving runs."""

import pytest

from diffmem import errors
from diffmem.runs.serving_formats import with_cache, with_formats
from diffmem.workloads import find_workload


def _parts(name, *columns):
  formats = with_formats(find_workload(name), *columns).formats
  return tuple(formats.of(part) for part in ('weights', 'experts', 'attention'))


@pytest.mark.parametrize(
  ('name', 'columns', 'expected'),
  [
    ('llama-3.1-70b', ('fp8', '', ''), ('float8',) * 3),
    ('llama-3.1-70b', ('', '', 'fp4'), ('nvfp4',) * 3),
    ('llama-3.1-70b', ('', '', ''), ('bfloat16',) * 3),
    ('deepseek-r1', ('fp8', 'fp8_block', 'fp8'), ('fp8_block',) * 3),
    ('deepseek-r1', ('nvfp4', 'nvfp4', 'fp4'), ('nvfp4', 'nvfp4', 'bfloat16')),
    ('gpt-oss-120b', ('nvfp4', 'nvfp4', 'fp4'), ('bfloat16', 'mxfp4', None)),
    ('qwen3-235b-a22b', ('int4_wo', '', ''), ('bfloat16', 'int4_wo', None)),
  ],
)
def test_formats_that_runs_name(name, columns, expected):
  for found, want in zip(_parts(name, *columns), expected, strict=True):
    assert found == (want or 'bfloat16')


def test_an_unknown_format_is_named():
  with pytest.raises(errors.SpecError, match='fp3'):
    with_formats(find_workload('llama-3.1-8b'), 'fp3', '', '')


@pytest.mark.parametrize(
  ('gemm', 'backend', 'accelerator', 'cache'),
  [
    ('bf16', 'trtllm', 'b200_sxm', 'bfloat16'),
    ('fp8', 'trtllm', 'h100_sxm', 'float8'),
    ('fp8', 'vllm', 'h100_sxm', 'bfloat16'),
    ('fp8', 'vllm', 'b200_sxm', 'float8'),
    ('nvfp4', 'sglang', 'gb300', 'float8'),
  ],
)
def test_the_cache_that_stacks_choose(gemm, backend, accelerator, cache):
  model = with_formats(find_workload('llama-3.1-8b'), gemm, '', '')
  assert with_cache(model, backend, accelerator).formats.kv_cache == cache
