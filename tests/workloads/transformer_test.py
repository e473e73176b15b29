"""Parameter counts, attention kinds, and what is refused."""

import hypothesis
import hypothesis.strategies as st
import pydantic
import pytest

from diffmem import errors
from diffmem.workloads import Transformer, load_workload
from diffmem.workloads.linear_attention import LinearAttention
from diffmem.workloads.transformer import (
  Attention,
  CompressedAttention,
  Experts,
  LatentAttention,
)

PUBLIC = {
  'llama-3.1-8b': 8.03e9,
  'llama-3.1-70b': 70.6e9,
  'llama-3.1-405b': 405.9e9,
  'mixtral-8x7b': 46.7e9,
}


@pytest.mark.parametrize('name', PUBLIC)
def test_published_parameter_counts(name):
  total = load_workload(name).parameters().total
  assert total == pytest.approx(PUBLIC[name], rel=0.005)


def test_mixtral_active_parameters():
  # Jiang et al., arXiv:2401.04088, section 1: 13B active.
  active = load_workload('mixtral-8x7b').active_parameters()
  assert active == pytest.approx(12.9e9, rel=0.005)


def test_llama_8b_tensor_by_tensor():
  h, f, v = 4096, 14336, 128256
  count = load_workload('llama-3.1-8b').parameters()
  assert count.attention == 32 * (h * h + 2 * h * 1024 + h * h)
  assert count.mlp == 32 * 3 * h * f
  assert count.norms == 65 * h
  assert count.embeddings == 2 * v * h
  assert count.experts == count.router == 0


def test_every_group_is_counted():
  model = Transformer(
    name='small', source='test', layers=3, d_model=8, d_ff=16, vocab=10,
    attention=Attention(heads=4, kv_heads=2, head_dim=2, bias=True),
    experts=Experts(count=4, top_k=2, d_ff=5, shared=2, shared_d_ff=3,
                    dense_layers=1),
    gated=False, tied_embeddings=True, norm_bias=True, max_context=32,
  )  # fmt: skip
  count = model.parameters()
  assert count.attention == 3 * (8 * 8 * 2 + 8 * 4 * 2 + 8 + 4 + 4)
  assert count.mlp == 1 * 2 * 8 * 16 + 2 * 2 * 8 * (2 * 3)
  assert count.experts == 2 * 4 * (2 * 8 * 5)
  assert count.router == 2 * 4 * 8
  assert count.norms == 2 * 8 * 7
  assert count.embeddings == 80
  inactive = 2 * 2 * (2 * 8 * 5)
  assert model.active_parameters() == count.total - inactive


MLA = LatentAttention(
  heads=4, q_rank=6, kv_rank=5, nope_dim=3, rope_dim=2, v_dim=7,
  index_heads=2, index_dim=8, index_top_k=16,
)  # fmt: skip


def small(**changes) -> Transformer:
  fields = {
    'name': 'small', 'source': 'test', 'layers': 6, 'd_model': 8, 'd_ff': 16,
    'vocab': 10, 'max_context': 32, **changes,
  }  # fmt: skip
  heads = Attention(heads=4, kv_heads=2, head_dim=2)
  return Transformer(**{'attention': heads, **fields})


def test_latent_attention_matrix_by_matrix():
  """DeepSeek-V2, arXiv:2405.04434, appendix C, and V3.2's index."""
  d = 10
  down_q, up_q = d * 6, 6 * 4 * (3 + 2)
  down_kv, up_kv = d * (5 + 2), 5 * 4 * (3 + 7)
  out = 4 * 7 * d
  norms = 6 + 5
  index = 6 * 2 * 8 + d * 8 + 2 * 8 + d * 2
  whole = down_q + up_q + down_kv + up_kv + out + norms + index
  assert MLA.parameters(d) == whole
  plain = MLA.model_copy(
    update={'q_rank': 0, 'index_heads': 0, 'index_dim': 0, 'index_top_k': 0}
  )
  direct = d * 4 * (3 + 2)
  assert plain.parameters(d) == direct + down_kv + up_kv + out + 5


def test_latent_attention_caches_the_latent_and_the_rotary_key():
  assert MLA.cache_values == 5 + 2
  assert MLA.core_flops_per_key == 2 * 4 * (5 + 7)
  # Absorbed: scores over latent and rotary key, a sum over latent values.
  assert MLA.decode_flops_per_key == 2 * 4 * (5 + 2) + 2 * 4 * 5
  assert MLA.index_flops_per_key == 2 * 2 * 8
  assert (MLA.q_dim, MLA.out_dim, MLA.kv_heads) == (20, 28, 4)
  # DeepSeek-V3 caches 70,272 bytes of a token in bfloat16.
  attention = load_workload('deepseek-v3').attention
  assert 61 * 2 * attention.cache_values == 70272


def test_compressed_attention_matrix_by_matrix():
  """DeepSeek-V4: queries, one key, grouped output, compressor, index."""
  plain = CompressedAttention(
    heads=4, head_dim=6, q_rank=5, o_groups=2, o_rank=3, ratio=8, window=10
  )
  d = 7
  queries = d * 5 + 5 + 5 * 24
  key, sinks = d * 6 + 6, 4
  out = 2 * (12 * 3) + 2 * 3 * d
  compressor = 2 * d * 6 + 8 * 6 + 6
  assert plain.parameters(d) == queries + key + sinks + out + compressor
  indexed = plain.model_copy(
    update={'index_heads': 3, 'index_dim': 2, 'index_top_k': 4}
  )
  wide = 2 * d * 12 + 8 * 12 + 6
  index = 5 * 3 * 2 + d * 3 + 2 * d * 4 + 8 * 4 + 2
  assert indexed.parameters(d) == queries + key + sinks + out + wide + index
  # 100 tokens: 10 of the window, and 12.5 compressed ones or the best 4.
  assert (plain.keys(100), indexed.keys(100)) == (22.5, 14)
  assert plain.kept_values(100) == indexed.kept_values(100) == 6 * 22.5
  assert (plain.index_keys(100), indexed.index_keys(100)) == (0, 12.5)


def test_grouped_query_attention_with_all_that_it_may_have():
  attention = Attention(
    heads=6, kv_heads=2, head_dim=4, v_dim=3, bias=True, output_bias=True,
    output_gate=True, qk_norm=True,
  )  # fmt: skip
  q, k, v, out = 24, 8, 6, 18
  matrices = 10 * (q + out + k + v + out)
  assert attention.parameters(10) == matrices + (q + out + k + v) + 10 + 8
  assert attention.cache_values == 8 + 6
  assert attention.core_flops_per_key == 2 * (q + out)
  shared = Attention(heads=6, kv_heads=2, head_dim=4, shared_kv=True)
  assert shared.parameters(10) == 10 * (24 + 8 + 24)
  assert shared.cache_values == 16


def test_gated_delta_layer_matrix_by_matrix():
  """Qwen3-Next's layer: projections, gates, convolution, rates, norm."""
  linear = LinearAttention(
    layers=1, key_heads=2, value_heads=4, key_dim=3, value_dim=5, conv=4
  )
  keys, values = 6, 20
  projections = 10 * (2 * keys + 2 * values) + 10 * 2 * 4 + values * 10
  small_ones = 4 * (2 * keys + values) + 2 * 4 + values
  assert linear.parameters(10) == projections + small_ones
  assert linear.state_values == 4 * 3 * 5 + 3 * (2 * keys + values)
  assert linear.core_flops == 6 * 4 * 3 * 5 + 2 * 4 * (2 * keys + values)


def test_kimi_delta_layer_matrix_by_matrix():
  """Kimi Linear, arXiv:2510.26692, section 4."""
  linear = LinearAttention(
    kind='kda', layers=1, key_heads=4, value_heads=4, key_dim=3, value_dim=5,
    conv=4,
  )  # fmt: skip
  keys, values = 12, 20
  projections = 10 * (keys + keys + values) + values * 10 + 10 * 4
  decay, gate = 10 * 3 + 3 * keys, 10 * 5 + 5 * values
  small_ones = 4 * (2 * keys + values) + 4 + keys + 5
  assert linear.parameters(10) == projections + decay + gate + small_ones
  assert linear.core_flops == 6 * 4 * 3 * 5 + 2 * 4 * (2 * keys + values)


def test_layers_of_every_kind_add_up():
  """A layer of one block each, as in Nemotron: 3 mixers, 2 MLPs, 1 both."""
  linear = LinearAttention(
    kind='mamba2', layers=2, key_heads=1, value_heads=4, key_dim=3, value_dim=5
  )
  model = small(linear=linear, mlp_only_layers=2, mixer_only_layers=3)
  assert (model.attention_layers, model.mlp_layers) == (2, 3)
  count = model.parameters()
  mamba = 8 * (2 * 20 + 2 * 3 + 4) + 20 * 8 + 3 * 4 + 20
  assert count.attention == 2 * (8 * (8 + 8) + 2 * 8 * 4) + 2 * mamba
  assert count.mlp == 3 * 3 * 8 * 16
  assert count.norms == 8 * (3 + 2 + 2 * 1 + 1)


def test_experts_in_every_other_layer():
  experts = Experts(count=4, top_k=1, d_ff=5, every=2)
  model = small(experts=experts)
  assert (model.expert_layers, model.dense_layers) == (3, 3)
  assert model.parameters().experts == 3 * 4 * 3 * 8 * 5
  assert model.parameters().mlp == 3 * 3 * 8 * 16
  later = small(experts=Experts(count=4, top_k=1, d_ff=5, every=2,
                                dense_layers=2))  # fmt: skip
  assert (later.expert_layers, later.dense_layers) == (2, 4)


def test_latent_experts_work_on_a_narrow_stream():
  model = small(experts=Experts(count=4, top_k=1, d_ff=5, latent_dim=2))
  assert model.parameters().experts == 6 * 4 * 3 * 2 * 5
  assert model.parameters().mlp == 6 * 2 * 8 * 2
  assert (model.expert_width, small().expert_width) == (2, 8)


def test_windowed_layers_and_others():
  heads = Attention(
    heads=4, kv_heads=2, head_dim=2, window=8, windowed_layers=4
  )
  full = Attention(heads=4, kv_heads=1, head_dim=4)
  model = small(attention=heads, full_attention=full)
  found = [(g.layers, g.attention, g.window) for g in model.attention_groups()]
  assert found == [(4, heads, 8), (2, full, 0)]
  want = 4 * heads.parameters(8) + 2 * full.parameters(8)
  assert model.parameters().attention == want
  assert model.cache_values(20) == 4 * 8 * 8 + 2 * 8 * 20


@hypothesis.given(
  tokens=st.integers(1, 4096), window=st.integers(1, 512), linear=st.booleans()
)
def test_cache_grows_up_to_the_windows_and_never_shrinks(
  tokens, window, linear
):
  heads = Attention(
    heads=4, kv_heads=2, head_dim=2, window=window, windowed_layers=3
  )
  state = LinearAttention(
    layers=2, key_heads=1, value_heads=2, key_dim=3, value_dim=4
  )
  model = small(attention=heads, linear=state if linear else None)
  kept = model.cache_values(tokens + 1) - model.cache_values(tokens)
  layers = model.attention_layers - (3 if tokens >= window else 0)
  assert kept == layers * 8
  assert model.cache_values(0) == (48 if linear else 0)


def test_models_are_static_arguments():
  one = load_workload('qwen3.5-397b-a17b')
  assert hash(one) == hash(one.model_copy(deep=True))
  assert one != one.model_copy(update={'layers': 59})


def test_tokens_beyond_the_context():
  model = load_workload('llama-3-8b')
  model.check_context(8192)
  with pytest.raises(errors.SpecError, match='max_context = 8192'):
    model.check_context(8193)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'experts': {'count': 2, 'top_k': 3, 'd_ff': 4}}, 'top_k = 3 exceeds'),
    ({'experts': {'count': 2, 'top_k': 1, 'd_ff': 4, 'dense_layers': 7}},
     'dense_layers = 7 exceeds layers = 6'),
    ({'mixer_only_layers': 7}, 'mixer_only_layers = 7 exceeds'),
    ({'mlp_only_layers': 7}, 'leave -1 with attention'),
    ({'attention': {'heads': 4, 'kv_heads': 2, 'head_dim': 2, 'window': 8}},
     'must both be given'),
    ({'attention': {'heads': 4, 'kv_heads': 2, 'head_dim': 2, 'window': 8,
                    'windowed_layers': 7}}, 'fewer than .*windowed_layers = 7'),
    ({'attention': {'kind': 'mla', 'heads': 4, 'kv_rank': 2, 'nope_dim': 2,
                    'rope_dim': 2, 'v_dim': 2, 'index_heads': 1}}, 'index_dim'),
    ({'attention': {'heads': 4, 'kv_heads': 2, 'head_dim': 2,
                    'borrowing_layers': 6}}, 'fewer than the 6 layers'),
    ({'linear': {'layers': 1, 'key_heads': 3, 'value_heads': 4, 'key_dim': 1,
                 'value_dim': 1}}, 'value_heads = 4 must be a multiple'),
    ({'formats': {'weights': 'bfloat8'}}, 'no number format'),
    ({'attention': {'kind': 'csa', 'heads': 4, 'head_dim': 2, 'q_rank': 2,
                    'o_groups': 3, 'o_rank': 2, 'ratio': 4, 'window': 8}},
     'multiple of o_groups = 3'),
  ],
)  # fmt: skip
def test_shapes_that_do_not_fit(changes, message):
  with pytest.raises(pydantic.ValidationError, match=message):
    small(**changes)


def test_unknown_name_gets_the_nearest():
  with pytest.raises(errors.SpecError, match=r"did you mean 'llama-3.1-70b'"):
    load_workload('llama-3.1-70')


GOOD = """
layers = 2
d_model = 64
d_ff = 128
vocab = 100
attention = { heads = 4, kv_heads = 2, head_dim = 16 }
max_context = 1024
"""


def _written(tmp_path, text):
  path = tmp_path / 'mine.toml'
  path.write_text(text)
  return path


def test_a_file_of_ones_own(tmp_path):
  model = load_workload(_written(tmp_path, GOOD))
  assert model.name == 'mine'
  assert model.parameters().mlp == 2 * 3 * 64 * 128


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    ('kv_heads', 'kv_head', r"attention.kv_head: .*did you mean 'kv_heads'"),
    ('d_ff', 'd_f', r"d_f: unknown field; did you mean 'd_ff'"),
    ('layers = 2', 'layers = -2', r'layers: .*greater than or equal to 1'),
    ('kv_heads = 2', 'kv_heads = 3', r'attention: heads = 4 must be a mult'),
    ('layers = 2', '', r'layers: missing'),
    ('d_ff = 128', '', r'd_ff must be given'),
    ('kv_heads = 2', 'kv_heads = 3', r'nearest kv_heads that divides is 2'),
    (
      '{ heads',
      "{ kind = 'mqa', heads",
      r'attention.kind: expected gqa, mla',
    ),
    ('{ heads', '{ kind = 5, heads', r"attention.kind: expected .*found '5'"),
    ('{ heads = 4, kv_heads = 2, head_dim = 16 }', "'x'", r'attention: Input '),
    ('{ heads', "{ kind = 'mla', heads", r'attention.kv_rank: missing'),
    ('d_ff', "formats = { kv_cach = 'int8' }\nd_ff", r"mean 'kv_cache'"),
    (
      'd_ff',
      "formats = { weights = 'fp8' }\nd_ff",
      r'formats.weights: no numb',
    ),
    ('layers = 2', 'layers = 2 2', r'not TOML'),
    ('layers = 2', 'layers = 2.5', r'layers: .*integer'),
  ],
)
def test_faults_name_file_and_field(tmp_path, old, new, message):
  path = _written(tmp_path, GOOD.replace(old, new))
  with pytest.raises(errors.SpecError, match=message) as caught:
    load_workload(path)
  assert 'mine.toml' in str(caught.value)


def test_missing_file():
  with pytest.raises(errors.SpecError, match=r'nowhere\.toml'):
    load_workload('nowhere.toml')
