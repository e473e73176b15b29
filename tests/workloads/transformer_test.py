"""Parameter counts, presets and what is refused."""

import pytest

from diffmem import errors
from diffmem.workloads import Transformer, load_workload, workload_names
from diffmem.workloads.transformer import Attention, Experts

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


def test_size_studies_are_marked_hypothetical():
  for name in workload_names():
    model = load_workload(name)
    assert model.hypothetical == name.startswith('claude-scale')
    if model.hypothetical:
      assert model.published_parameters is None
      assert 'hypothetical' in model.source
      assert model.parameters().total == pytest.approx(1e12, rel=0.02)


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
