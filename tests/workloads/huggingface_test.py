"""How a config.json is read, and what is refused."""

import json
import logging

import pytest

from diffmem import errors
from diffmem.workloads import find_workload, load_workload
from diffmem.workloads.huggingface import transformer_of

from .public_configs import DEEPSEEK, LLAMA, QWEN3_MOE


def _scaled(base: dict, **changes) -> dict:
  return {**base, **changes}


def _block(group, mult, **attention) -> dict:
  return {
    'attention': {'n_heads_in_group': group, 'no_op': not group, **attention},
    'ffn': {'ffn_mult': mult, 'no_op': not mult},
  }


def test_layers_of_many_shapes_are_evened():
  """As Llama-3.3-Nemotron-Super-49B, whose fields these are."""
  blocks = [_block(8, 5.25), _block(0, 2.625), _block(8, 1.0), _block(8, 0)]
  plain = _scaled(
    LLAMA, model_type='nemotron-nas', num_hidden_layers=5,
    num_key_value_heads=None, intermediate_size=None,
  )  # fmt: skip
  model = transformer_of({**plain, 'block_configs': [*blocks, _block(0, 0)]})
  widths = [14336, 7168, 2816]  # two thirds of each, of 256 columns
  assert model.layers == 4
  assert (model.attention_layers, model.mlp_layers) == (3, 3)
  assert model.attention.kv_heads == 4
  one = model.attention.parameters(4096)
  count = model.parameters()
  assert count.attention == 3 * one
  assert count.mlp == pytest.approx(3 * 4096 * sum(widths), rel=1e-4)
  assert count.norms == 4096 * (3 + 3 + 1)
  for bad in (_block(4, 1.0), _block(8, 1.0, window_length=64)):
    with pytest.raises(errors.SpecError, match='block_configs: expected'):
      transformer_of({**plain, 'block_configs': [*blocks, bad]})


@pytest.mark.parametrize(
  ('changes', 'sparse'),
  [
    ({'decoder_sparse_step': 2}, 24),
    ({'decoder_sparse_step': 5}, 9),
    ({'mlp_only_layers': [0, 5]}, 46),
    ({'first_k_dense_replace': 3}, 45),
    ({'moe_layer_freq': 2, 'first_k_dense_replace': 1}, 23),
    ({'moe_layer_start_index': 3, 'moe_layer_interval': 1}, 45),
    ({'mlp_layer_types': ['dense'] + ['sparse'] * 47}, 47),
    ({'moe_layers': [1, 3, 5]}, 3),
  ],
)
def test_which_layers_have_experts(changes, sparse):
  model = transformer_of(_scaled(QWEN3_MOE, **changes))
  assert model.expert_layers == sparse
  assert model.dense_layers == 48 - sparse


QUANTIZED = {
  'block': ({'quant_method': 'fp8', 'weight_block_size': [128, 128]},
            'fp8_block', 'fp8_block', 'bfloat16'),
  'tensor': ({'quant_method': 'fp8'}, 'float8', 'float8', 'bfloat16'),
  'output only': ({'quant_method': 'fp8', 'weight_block_size': [128, 128],
                   'ignored_layers': ['model.layers.0.self_attn.o_proj']},
                  'fp8_block', 'fp8_block', 'bfloat16'),
  'queries': ({'quant_method': 'fp8', 'ignored_layers':
               ['model.layers.0.self_attn.q_proj']},
              'float8', 'bfloat16', 'bfloat16'),
  'awq': ({'quant_method': 'awq', 'bits': 4}, 'int4_wo', 'int4_wo',
          'bfloat16'),
  'gptq': ({'quant_method': 'gptq', 'bits': 8}, 'int8', 'int8', 'bfloat16'),
  'bitsandbytes': ({'quant_method': 'bitsandbytes', 'load_in_8bit': True},
                   'int8', 'int8', 'bfloat16'),
  'modelopt': ({'quant_method': 'modelopt', 'quant_algo': 'NVFP4',
                'kv_cache_scheme': {'num_bits': 8, 'type': 'float'},
                'ignore': ['lm_head', 'model.layers.0.self_attn*']},
               'nvfp4', 'bfloat16', 'float8'),
  'groups': ({'quant_method': 'compressed-tensors', 'config_groups': {
                'group_0': {'weights': {'num_bits': 4, 'type': 'int'}}},
              'ignore': ['lm_head', 're:.*mlp.gate$']},
             'int4_wo', 'int4_wo', 'bfloat16'),
  'float groups': ({'quant_method': 'compressed-tensors', 'config_groups': {
                     'group_0': {'weights': {'num_bits': 8, 'type': 'float',
                                             'strategy': 'channel'}}}},
                   'float8', 'float8', 'bfloat16'),
}  # fmt: skip


@pytest.mark.parametrize('case', QUANTIZED)
def test_number_formats(case):
  quant, weights, attention, cache = QUANTIZED[case]
  formats = transformer_of(_scaled(LLAMA, quantization_config=quant)).formats
  assert formats.weights == weights
  assert formats.of('attention') == attention
  assert formats.kv_cache == cache
  assert formats.embeddings == formats.activations == 'bfloat16'


def test_experts_alone_in_four_bits():
  """Kimi K2.5's: attention, shared experts and dense MLPs are left out."""
  quant = {
    'quant_method': 'compressed-tensors',
    'config_groups': {'group_0': {'weights': {'num_bits': 4, 'type': 'int'}}},
    'ignore': ['lm_head', 're:.*self_attn.*', 're:.*shared_experts.*'],
  }
  config = _scaled(DEEPSEEK, quantization_config=quant)
  formats = transformer_of(config).formats
  assert (formats.weights, formats.experts) == ('bfloat16', 'int4_wo')


def test_files_folders_and_names(tmp_path):
  folder = tmp_path / 'My-Model-FP8'
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(LLAMA))
  by_file = load_workload(folder / 'config.json')
  assert by_file == load_workload(folder)
  assert by_file.name == 'My-Model-FP8'
  assert by_file.formats.weights == 'float8'
  beside = {'quantization': {'quant_algo': 'NVFP4', 'exclude_modules': []}}
  (folder / 'hf_quant_config.json').write_text(json.dumps(beside))
  assert load_workload(folder).formats.weights == 'nvfp4'
  other = tmp_path / 'meta-llama--Some-Model.json'
  other.write_text(json.dumps(LLAMA))
  assert load_workload(other).name == 'meta-llama/Some-Model'
  assert load_workload(other).formats.weights == 'bfloat16'


def test_an_unknown_type_of_known_fields_is_read_like_llama(caplog):
  with caplog.at_level(logging.WARNING):
    model = transformer_of(_scaled(LLAMA, model_type='brandnew'))
  assert "'brandnew' is not known" in caplog.text
  assert 'read as a Llama block' in model.source
  assert model.parameters() == find_workload('llama-3.1-8b').parameters()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model_type': 'lama', 'hidden_act': 'gelu'},
     r"unknown architecture 'lama'; did you mean 'llama'"),
    ({'hidden_size': None, 'hiden_size': 4096},
     r"hidden_size: missing .*did you mean 'hiden_size'"),
    ({'num_key_value_head': 4},
     r"num_key_value_head: unknown .*found 4\); did you mean 'num_key_value_h"),
    ({'num_attention_heads': 31}, r'num_attention_heads: expected a divisor'),
    ({'num_key_value_heads': 5}, r'nearest kv_heads that divides is 4'),
    ({'num_hidden_layers': '32'}, r"expected a whole number.*found '32'"),
    ({'vocab_size': -5}, r'vocab_size: expected a whole number'),
    ({'num_hidden_layers': 0}, r'num_hidden_layers: expected .*above 0'),
    ({'tie_word_embeddings': 'yes'}, r'tie_word_embeddings: expected true'),
    ({'layer_types': ['full_attention']}, r'layer_types: expected 32 layers'),
    ({'layer_types': ['flash_attention'] * 32}, r"place of 'flash_attention'"),
    ({'torch_dtype': 'bfloat17'}, r'torch_dtype: expected one of auto, bfl'),
    ({'quantization_config': {'quant_method': 'fp9'}},
     r"quant_method .*found 'fp9'\); did you mean 'fp8'"),
    ({'quantization_config': {'quant_algo': 'NVFP5'}}, r"mean 'NVFP4'"),
    ({'block_configs': [{'ffn': 1}]}, r'block_configs: expected plain'),
    ({'linear_attn_config': {'kda_layers': [1]}}, r'num_heads: missing'),
    ({'linear_attn_config': {'layers': [1]}}, r'expected a list kda_layers'),
    ({'compress_ratios': [0, 4]}, r'compress_ratios: unknown field'),
    ({'o_lora_rank': 4, 'compress_ratios': [0, 4]}, r'a list of 32 ratios'),
    ({'is_encoder_decoder': True}, r'expected a decoder-only model'),
    ({'num_local_experts': 8}, r'num_experts_per_tok: missing'),
    ({'word_embed_proj_dim': 512}, r'word_embed_proj_dim: expected hidden_si'),
    ({'hybrid_override_pattern': 'MX'}, r'expected letters of M\*-E'),
  ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes, message):
  with pytest.raises(errors.SpecError, match=message):
    transformer_of(_scaled(LLAMA, **changes))


@pytest.mark.parametrize(
  ('text', 'message'),
  [('{', 'not JSON'), ('[]', 'expected an object'), (None, 'No such file')],
)
def test_files_that_cannot_be_read(tmp_path, text, message):
  path = tmp_path / 'config.json'
  if text:
    path.write_text(text)
  with pytest.raises(errors.SpecError, match=message) as caught:
    load_workload(path)
  assert 'config.json' in str(caught.value)


def test_fields_that_say_nothing_of_shapes_are_passed_over():
  changes = {
    'attention_dropout': 0.1, 'bos_token_id': 1, 'rope_theta': 1e6,
    'initializer_range': 0.02, '_attn_implementation': 'eager',
    'id2label': {'0': 'a'}, 'num_beams': 4, 'max_length': 20, 'top_k': 50,
    'pretraining_tp': 8, 'new_float': 0.5, 'hidden_size_of_nothing': 0,
  }  # fmt: skip
  plain = transformer_of(LLAMA)
  assert transformer_of(_scaled(LLAMA, **changes)) == plain


# Figures of model cards: 1e9 parameters, and the configuration.
TOTALS = {
  'ernie-4.5-21b': (21.8, {
    'model_type': 'ernie4_5_moe', 'hidden_size': 2560,
    'intermediate_size': 12288, 'moe_intermediate_size': 1536,
    'num_hidden_layers': 28, 'num_attention_heads': 20,
    'num_key_value_heads': 4, 'moe_num_experts': 64, 'moe_k': 6,
    'moe_num_shared_experts': 2, 'moe_layer_start_index': 1,
    'moe_layer_end_index': 27, 'moe_capacity': [64, 64, 64],
    'moe_gate': 'topk', 'vocab_size': 103424, 'tie_word_embeddings': True,
    'max_position_embeddings': 131072,
  }),
  'granite-4.0-h-small': (32.2, {
    'model_type': 'granitemoehybrid', 'hidden_size': 4096,
    'num_hidden_layers': 40, 'num_attention_heads': 32,
    'num_key_value_heads': 8, 'num_local_experts': 72,
    'num_experts_per_tok': 10, 'shared_intermediate_size': 1536,
    'intermediate_size': 768, 'mamba_d_state': 128, 'mamba_d_conv': 4,
    'mamba_expand': 2, 'mamba_d_head': 64, 'mamba_n_heads': 128,
    'mamba_n_groups': 1, 'layer_types': (['mamba'] * 9 + ['attention']) * 4,
    'vocab_size': 100352, 'tie_word_embeddings': True,
    'max_position_embeddings': 131072, 'embedding_multiplier': 12,
  }),
  'exaone-4.0-32b': (32.0, {
    'model_type': 'exaone4', 'hidden_size': 5120, 'head_dim': 128,
    'intermediate_size': 27392, 'num_hidden_layers': 64,
    'num_attention_heads': 40, 'num_key_value_heads': 8,
    'sliding_window': 4096, 'sliding_window_pattern': 'LLLG',
    'vocab_size': 102400, 'max_position_embeddings': 131072,
  }),
  'mimo-v2-flash': (309, {
    'model_type': 'mimo_v2_flash', 'hidden_size': 4096, 'head_dim': 192,
    'v_head_dim': 128, 'intermediate_size': 16384,
    'moe_intermediate_size': 2048, 'num_hidden_layers': 48,
    'num_attention_heads': 64, 'num_key_value_heads': 4,
    'swa_num_attention_heads': 64, 'swa_num_key_value_heads': 8,
    'swa_head_dim': 192, 'swa_v_head_dim': 128, 'sliding_window': 128,
    'hybrid_layer_pattern': [0, 1, 1, 1, 1, 0] + [1, 1, 1, 1, 1, 0] * 7,
    'moe_layer_freq': [0] + [1] * 47, 'n_routed_experts': 256,
    'num_experts_per_tok': 8, 'vocab_size': 152576,
    'max_position_embeddings': 262144,
  }),
  'phi-4-mini': (3.84, {
    'model_type': 'phi3', 'hidden_size': 3072, 'intermediate_size': 8192,
    'num_hidden_layers': 32, 'num_attention_heads': 24,
    'num_key_value_heads': 8, 'vocab_size': 200064, 'full_attn_mod': 1,
    'tie_word_embeddings': True, 'max_position_embeddings': 131072,
  }),
  'command-r7b': (8.03, {
    'model_type': 'cohere2', 'hidden_size': 4096, 'head_dim': 128,
    'intermediate_size': 14336, 'num_hidden_layers': 32,
    'num_attention_heads': 32, 'num_key_value_heads': 8,
    'layer_switch': 4, 'sliding_window': 4096, 'vocab_size': 256000,
    'use_embedding_sharing': True, 'max_position_embeddings': 132096,
  }),
  'qwen2-57b-a14b': (57.4, {
    'model_type': 'qwen2_moe', 'hidden_size': 3584,
    'intermediate_size': 18944, 'moe_intermediate_size': 2560,
    'shared_expert_intermediate_size': 20480, 'num_experts': 64,
    'num_experts_per_tok': 8, 'num_hidden_layers': 28,
    'num_attention_heads': 28, 'num_key_value_heads': 4,
    'vocab_size': 151936, 'max_position_embeddings': 32768,
    'sliding_window': 65536, 'max_window_layers': 28,
  }),
  'phi-2': (2.78, {
    'model_type': 'phi', 'hidden_size': 2560, 'intermediate_size': 10240,
    'num_hidden_layers': 32, 'num_attention_heads': 32,
    'vocab_size': 51200, 'max_position_embeddings': 2048,
  }),
}  # fmt: skip


@pytest.mark.parametrize('name', TOTALS)
def test_totals_of_models_without_a_preset(name):
  total, config = TOTALS[name]
  found = transformer_of(config).parameters().total
  assert found == pytest.approx(total * 1e9, rel=0.005)


def test_layers_that_borrow_keys_and_have_tables_of_their_own():
  """As Gemma 4 E2B: 5.1e9 parameters, 0.45e9 of them in its encoders."""
  text = {
    'model_type': 'gemma4_text', 'num_hidden_layers': 35,
    'hidden_size': 1536, 'intermediate_size': 6144, 'head_dim': 256,
    'global_head_dim': 512, 'num_attention_heads': 8,
    'num_key_value_heads': 1, 'num_kv_shared_layers': 20,
    'use_double_wide_mlp': True, 'hidden_size_per_layer_input': 256,
    'vocab_size_per_layer_input': 262144, 'vocab_size': 262144,
    'layer_types': (['sliding_attention'] * 4 + ['full_attention']) * 7,
    'sliding_window': 512, 'max_position_embeddings': 131072,
  }  # fmt: skip
  model = transformer_of(text)
  windowed, full = model.attention_groups()
  assert (windowed.layers, windowed.caching_layers) == (28, 12)
  assert (full.layers, full.caching_layers) == (7, 3)
  count = model.parameters()
  table = 262144 * 1536 + 262144 * 35 * 256
  assert count.embeddings == table
  layered = 35 * 3 * 256 * 1536
  assert count.mlp == pytest.approx(
    (15 * 6144 + 20 * 12288) * 3 * 1536 + layered, rel=1e-4
  )
  queries = 2 * 1536 * 8 * (28 * 256 + 7 * 512)
  keys = 2 * 1536 * (12 * 256 + 3 * 512)
  assert count.attention == pytest.approx(queries + keys, rel=1e-4)
  assert count.total == pytest.approx(5.1e9 - 0.45e9, rel=0.01)
  assert model.cache_values(2048) == 2 * (12 * 256 * 512 + 3 * 512 * 2048)
