"""Kernels of serving stacks, by the labels that a fit has seen."""

import types

import pytest

from diffmem.runs.serving_kernels import Namer
from diffmem.workloads.kernels import Kernel

_VARIANTS = {
  'collective': (
    'nccl 2.29.2 NCCL eager',
    'vllm 0.14.0 vLLM_custom_graph graph',
    'vllm 0.24.0 vLLM_custom_eager eager',
    'vllm 0.24.0 vLLM_custom_graph graph',
  ),
  'gemm': ('trtllm 1 deepgemm', 'trtllm 1 torch_flow', 'vllm 0 default'),
  'moe': ('trtllm 1 torch_flow_cutlass', 'trtllm 1 torch_flow_min_latency'),
  'mla_bmm': ('t bmm_out mla_gen_post', 't bmm_out mla_gen_pre'),
}


@pytest.fixture
def namer():
  residuals = {
    family: types.SimpleNamespace(
      family=family,
      observable='time_s',
      categories=('dtype=float8', *(f'variant={label}' for label in labels)),
    )
    for family, labels in _VARIANTS.items()
  }
  return Namer(types.SimpleNamespace(residuals=residuals), 'vllm')


def _labels(namer, op, **shape):
  return [
    k.shape.get('variant', '') for k in namer(Kernel(op, 'part', 2.0, shape))
  ]


@pytest.mark.parametrize(
  ('shape', 'label'),
  [
    ((65536.0, 8.0, 8.0), 'vllm 0.24.0 vLLM_custom_graph graph'),
    ((2.0**24, 8.0, 8.0), 'nccl 2.29.2 NCCL eager'),
    ((65536.0, 16.0, 8.0), 'nccl 2.29.2 NCCL eager'),
  ],
)
def test_short_messages_of_one_node_have_a_kernel_of_their_own(
  namer, shape, label
):
  names = ('message_bytes', 'participants', 'ranks_per_node')
  columns = dict(zip(names, shape, strict=True))
  assert _labels(namer, 'all_reduce', **columns) == [label]


def test_products_by_format(namer):
  assert _labels(namer, 'gemm', quantization='fp8_block') == [
    'trtllm 1 deepgemm'
  ]
  assert _labels(namer, 'gemm', quantization='') == ['trtllm 1 torch_flow']
  assert _labels(namer, 'mla_bmm', n=512, k=128) == ['t bmm_out mla_gen_pre']
  assert _labels(namer, 'mla_bmm', n=128, k=512) == ['t bmm_out mla_gen_post']


def test_experts_have_a_choice_of_kernels(namer):
  shape = {'dtype': 'float4', 'quantization': 'nvfp4'}
  found = namer(Kernel('moe', 'experts', 3.0, shape))
  assert [k.shape['variant'] for k in found] == list(_VARIANTS['moe'])
  assert all(k.count == 3.0 for k in found)
  # A kernel for more bytes bounds one for fewer.
  narrow = {'dtype': 'bfloat16', 'quantization': 'int4_wo'}
  (only,) = namer(Kernel('moe', 'experts', 1.0, narrow))
  assert only.shape['dtype'] == 'float8' and not only.shape['quantization']


def test_block_scales_cost_time_in_steps_with_many_tokens(namer):
  shape = {'dtype': 'float8', 'quantization': 'fp8_block'}
  few, many = (
    namer(Kernel('moe', 'experts', 1.0, shape | {'num_tokens': n}))
    for n in (64.0, 8192.0)
  )
  assert {k.shape['quantization'] for k in few} == {'fp8_block', ''}
  assert {k.shape['quantization'] for k in many} == {'fp8_block'}


def test_without_labels_kernels_stay_as_they_are():
  namer = Namer(types.SimpleNamespace(residuals={}), '')
  kernel = Kernel('moe', 'experts', 1.0, {'dtype': 'float8'})
  assert namer(kernel) == (kernel,)
  gemm = Kernel('gemm', 'mlp', 1.0, {'dtype': 'float8'})
  assert namer(gemm) == (gemm,)
