"""Presets, their published counts, and names that models have in the wild."""

import pytest

from diffmem import errors
from diffmem.workloads import (
  find_workload,
  load_workload,
  presets,
  workload_names,
)

NAMES = workload_names()


@pytest.mark.parametrize('name', NAMES)
def test_counts_agree_with_the_published_ones(name):
  model = load_workload(name)
  if model.published_parameters:
    published = pytest.approx(model.published_parameters, rel=0.005)
    assert model.parameters().total == published
  assert hash(model) == hash(load_workload(name))
  assert model.source


def test_most_presets_have_a_published_count():
  counted = [n for n in NAMES if load_workload(n).published_parameters]
  assert len(counted) > 80


@pytest.mark.parametrize(
  ('name', 'active'),
  [
    # From the sources of the presets; of two digits where these have two.
    ('mixtral-8x22b', 39e9),
    ('qwen3-30b-a3b', 3.35e9),
    ('qwen3-235b-a22b', 22.2e9),
    ('deepseek-v3', 37.5e9),
    ('kimi-k2', 32.9e9),
    ('llama-4-maverick', 17.2e9),
    ('qwen3.5-397b-a17b', 17.3e9),
    ('nemotron-3-nano-30b-a3b', 3.6e9),
    ('nemotron-3-ultra-550b-a55b', 55e9),
    ('gemma-4-26b-a4b', 3.8e9),
  ],
)
def test_active_parameters(name, active):
  found = load_workload(name).active_parameters()
  assert found == pytest.approx(active, rel=0.02)


def test_size_studies_are_marked_hypothetical():
  sizes = {'500b': 0.5e12, '1t': 1e12, '2t': 2e12, '5t': 5e12}
  studies = [n for n in NAMES if n.startswith('claude-scale')]
  assert len(studies) == 6
  for name in NAMES:
    model = load_workload(name)
    assert model.hypothetical == (name in studies)
    if model.hypothetical:
      assert model.published_parameters is None
      assert model.source.startswith('hypothetical')
      size = sizes[name.rsplit('-', 1)[1]]
      assert model.parameters().total == pytest.approx(size, rel=0.02)
      assert model.max_context == 2**20


@pytest.mark.parametrize(
  ('name', 'preset'),
  [
    ('deepseek-ai/DeepSeek-R1', 'deepseek-v3'),
    ('DeepSeekV3 (w/o MTP)', 'deepseek-v3'),
    ('Llama-3.1-70B', 'llama-3.1-70b'),
    ('meta-llama/Meta-Llama-3.1-405B-Instruct', 'llama-3.1-405b'),
    ('llama31_405b', 'llama-3.1-405b'),
    ('LLAMA2-70B [LoRA]', 'llama-2-70b'),
    ('codellama/CodeLlama-7b-hf', 'codellama-7b'),
    ('OPT-175B', 'opt-175b'),
    ('GPT OSS 120B', 'gpt-oss-120b'),
    ('Qwen3_235B_a22B', 'qwen3-235b-a22b'),
    ('Qwen/Qwen3-30B-A3B-Thinking-2507', 'qwen3-30b-a3b'),
    ('moonshotai/Kimi-K2.5', 'kimi-k2-thinking'),
    ('nvidia/NVIDIA-Nemotron-Nano-12B-v2', 'nemotron-nano-12b-v2'),
    ('google/gemma-3-27b-it', 'gemma-3-27b'),
    ('mistralai/Mistral-7B-Instruct-v0.3', 'mistral-7b'),
    ('Llama4-Maverick-17B-128E-Maxtext', 'llama-4-maverick'),
  ],
)
def test_names_in_the_wild(name, preset):
  assert find_workload(name) == load_workload(preset)
  assert load_workload(name) == load_workload(preset)


@pytest.mark.parametrize(
  ('name', 'weights', 'attention'),
  [
    ('nvidia/Llama-3.1-8B-Instruct-FP8', 'float8', 'float8'),
    ('Qwen/Qwen3-235B-A22B-FP8', 'fp8_block', 'fp8_block'),
    ('Qwen3-Coder-480B-A35B-Instruct-FP8', 'fp8_block', 'fp8_block'),
    ('nvidia/Qwen3-30B-A3B-FP8', 'float8', 'float8'),
    ('nvidia/DeepSeek-R1-NVFP4', 'nvfp4', 'bfloat16'),
    ('Llama-3.1-8B-Instruct-AWQ', 'int4_wo', 'int4_wo'),
    ('deepseek-ai/DeepSeek-R1', 'fp8_block', 'fp8_block'),
    ('Llama-3.1-8B', 'bfloat16', 'bfloat16'),
  ],
)
def test_an_ending_sets_the_format(name, weights, attention):
  formats = find_workload(name).formats
  assert formats.weights == weights
  assert formats.of('attention') == attention
  assert formats.embeddings == 'bfloat16'


def test_no_two_presets_answer_to_one_name():
  tables = presets._tables()
  aliases = [a for t in tables.values() for a in t.get('aliases', ())]
  keys = [presets._key(a) for a in (*tables, *aliases)]
  assert len(set(keys)) == len(keys)


def test_points_tell_models_apart():
  assert find_workload('OPT-1.3B').layers == 24
  assert find_workload('OPT-13B').layers == 40
  assert find_workload('qwen2_5-7b').name == 'qwen2.5-7b'


@pytest.mark.parametrize('order', [['a-1.3b', 'a-13b'], ['a-13b', 'a-1.3b']])
def test_a_name_without_points_is_itself_first(monkeypatch, order):
  monkeypatch.setattr(presets, '_tables', lambda: {n: {} for n in order})
  by_key = presets._by_key.__wrapped__()
  assert by_key == {'a1.3b': 'a-1.3b', 'a13b': 'a-13b'}


@pytest.mark.parametrize(
  ('name', 'near'),
  [
    ('meta-llama/Llama-3.1-7B', 'llama-3.1-70b|llama-3.1-8b'),
    ('Qwen/Qwen3-23B', 'qwen3-32b'),
    ('opt-176b', 'opt-175b'),
  ],
)
def test_unknown_names_get_the_nearest(name, near):
  with pytest.raises(errors.SpecError, match=f"mean '({near})'"):
    find_workload(name)


@pytest.mark.parametrize('name', ['', '/', 'instruct', 'FP8', 'gpt'])
def test_names_of_no_model_are_refused(name):
  with pytest.raises(errors.SpecError, match='no workload'):
    find_workload(name)
