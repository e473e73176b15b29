"""Prompts kernel by kernel, on the shipped H100."""

import pathlib

import numpy as np
import pytest

from diffmem import checkpoint
from diffmem.runs import prompt_pass
from diffmem.workloads import load_workload

SHIPPED = pathlib.Path(__file__).parents[2] / 'checkpoints'


@pytest.fixture(scope='module')
def h100():
  return checkpoint.load_system(str(SHIPPED / 'h100-sxm'))


def test_a_prompt_takes_more_than_its_flops(h100):
  model = load_workload('llama-3.1-8b')
  tokens = np.array([[2048.0], [10_000.0]])
  before = np.array([[0.0, 16384.0]])
  found = prompt_pass.PromptPass(h100, model)(tokens, before)
  assert found.shape == (2, 2)
  assert (found[:, 1] > found[:, 0]).all() and (found[1] > found[0]).all()
  weights = model.active_parameters() - model.parameters().embeddings
  peak_s = tokens[:, 0] * 2 * weights / 989e12  # NVIDIA's figure, bfloat16
  assert (found[:, 0] > 1.3 * peak_s).all() and (found[:, 0] < 2 * peak_s).all()
  # Prompts of 10,000 tokens: 259 ms in vLLM (vLLM blog, 8 January 2026).
  assert found[1, 0] == pytest.approx(0.259, rel=0.05)


def test_accelerators_that_a_model_needs(h100):
  wanted = {'llama-3.1-8b': 1, 'llama-3.1-70b': 4, 'llama-3.1-405b': 8}
  for name, tensor in wanted.items():
    assert prompt_pass.least_tensor(h100, load_workload(name)) == tensor
  narrow = load_workload('llama-3.1-70b').with_weights('float8')
  assert prompt_pass.least_tensor(h100, narrow) == 2
