"""Meshes that fit, and what is said of those that do not."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from diffmem import errors
from diffmem.workloads import check_mesh, load_workload, mesh

LLAMA = load_workload('llama-3.1-8b')  # 32 layers, 32 and 8 heads
DEEPSEEK = load_workload('deepseek-v3')  # 61 layers, 256 experts
QWEN = load_workload('qwen3.5-397b-a17b')  # 32, 2, 64 and 16 heads


def test_meshes_that_fit():
  check_mesh(LLAMA, 1)
  check_mesh(LLAMA, 64, tensor=8, data=2, pipeline=4)
  check_mesh(LLAMA, 32, tensor=32)  # 8 heads of keys, 4 times each
  check_mesh(DEEPSEEK, 128, expert=64, fsdp=2)
  check_mesh(DEEPSEEK, 7, pipeline=7)  # 61 layers, embedding and head
  check_mesh(QWEN, 32, tensor=32)


@pytest.mark.parametrize(
  ('model', 'chips', 'axes', 'message'),
  [
    (LLAMA, 6, {'tensor': 6},
     r'tensor = 6 does not divide the attention heads \(32, 8\) of llama-3.1-'
     r'8b; the nearest that does is 4'),
    (LLAMA, 5, {'pipeline': 5}, r'the layers .*\(32\).*nearest .* is 4'),
    (LLAMA, 64, {'pipeline': 64}, r'pipeline = 64 .* is 32'),
    (LLAMA, 8, {'expert': 8}, r'expert = 8 .*experts \(1\).* is 1'),
    (DEEPSEEK, 24, {'expert': 24}, r'experts \(256\).* nearest .* is 16'),
    (QWEN, 64, {'tensor': 64}, r'heads \(32, 2, 64, 16\) .* is 32'),
    (load_workload('qwen3-30b-a3b').model_copy(
      update={'d_ff': 0}), 1024, {'tensor': 5}, r'nearest .* is 4'),
    (LLAMA, 100, {'tensor': 8, 'data': 12},
     r'tensor 8 x data 12 has 96 devices, not 100; .* data 12 on 96 chips'),
    (LLAMA, 100, {'tensor': 8}, r'tensor 8 has 8 .* data 12 on 96 chips'),
    (LLAMA, 2, {}, r'one rank has 1 devices, not 2; .* data 2 on 2 chips'),
    (LLAMA, 2, {'tensr': 2}, r"no axis 'tensr'; one of tensor, context"),
    (LLAMA, 2, {'tensor': 0}, r'tensor = 0: expected 1 rank or more'),
    (LLAMA, 2, {'tensor': 1.5}, r'tensor = 1.5: expected 1 rank or more'),
  ],
)  # fmt: skip
def test_meshes_that_do_not_fit(model, chips, axes, message):
  with pytest.raises(errors.SpecError, match=message):
    check_mesh(model, chips, **axes)


def test_context_ranks_have_two_chunks_of_a_sequence():
  check_mesh(LLAMA, 8, seq_len=4096, context=8)
  check_mesh(LLAMA, 48, context=48)  # of some sequence
  message = 'context = 3 .* half of a sequence of 4096 tokens; .* is 2'
  with pytest.raises(errors.SpecError, match=message):
    check_mesh(LLAMA, 3, seq_len=4096, context=3)
  with pytest.raises(errors.SpecError, match='nearest that does is 2048'):
    check_mesh(LLAMA, 4096, seq_len=4096, context=4096)


def test_whole_matrices_need_no_heads_nor_widths():
  six = {
    'tensor': np.array([6]),
    'expert': np.array(1),
    'pipeline': np.array(1),
  }
  sliced = mesh.rules(DEEPSEEK, **six)
  assert not any(sliced[r][0] for r in (mesh.HEADS, mesh.WIDTH))
  assert sliced[mesh.EXPERTS][0]
  one = np.array(1)
  whole = mesh.rules(DEEPSEEK, **six, attention_by=one, mlp_by=one)
  assert whole[mesh.HEADS][0] and not whole[mesh.WIDTH][0]
  whole = mesh.rules(DEEPSEEK, **six, mlp_by=one, experts_by=one)
  assert whole[mesh.WIDTH][0] and not whole[mesh.EXPERTS][0]


@pytest.mark.parametrize('tensor', [1, 2, 3])
@pytest.mark.parametrize('context', [1, 2, 5])
def test_sequences_divide_by_those_who_share_them(tensor, context):
  t, c, one = np.array(tensor), np.array(context), np.array(1)
  for length in range(1, 130):
    chunked = length % (2 * context) == 0 or context == 1
    assert mesh.lengths_fit(length, t, c) == chunked
    even = length % (context * tensor) == 0
    found = mesh.lengths_fit(length, t, c, mlp_by=one)
    assert found == (chunked and even)
    both = context * tensor
    found = mesh.lengths_fit(length, t, c, attention_by=one)
    assert found == (both == 1 or length % (2 * both) == 0)


@hypothesis.given(
  tensor=st.integers(1, 40),
  expert=st.integers(1, 40),
  stages=st.integers(1, 70),
)
def test_rules_against_plain_arithmetic(tensor, expert, stages):
  found = mesh.rules(
    QWEN, np.array([tensor]), np.array([expert]), np.array([stages])
  )

  def divides(few):
    return few % tensor == 0 or tensor % few == 0

  heads = 32 % tensor == 0 and divides(2) and 64 % tensor == 0 and divides(16)
  assert found[mesh.HEADS][0] == heads
  assert found[mesh.WIDTH][0] == (1024 % tensor == 0)
  assert found[mesh.EXPERTS][0] == (512 % expert == 0)
  layers = stages <= 60 and (60 % stages == 0 or 62 % stages == 0)
  assert found[mesh.LAYERS][0] == layers
