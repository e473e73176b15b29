"""The comparison's document, and its Calculon part."""

import pathlib

import pytest

from benchmarks.peers import calculon, markdown
from diffmem.runs.answer import ANSWERED, Answer
from diffmem.runs.machines import Machines
from diffmem.runs.software import Software
from diffmem.system import load_catalog
from diffmem.workloads import load_workload

ROOT = pathlib.Path(__file__).parents[2]


def test_tables_are_put_between_their_marks(tmp_path):
  path = tmp_path / 'document.md'
  path.write_text('# A\n\n<!-- one --><!-- end -->\n\nText.\n', 'utf-8')
  markdown.replace(path, {'one': markdown.table(['a', 'b'], [['1', '2']])})
  first = path.read_text('utf-8')
  assert '| a | b |\n| --- | --- |\n| 1 | 2 |' in first
  assert first.startswith('# A') and first.endswith('Text.\n')
  markdown.replace(path, {'one': 'new'})
  assert path.read_text('utf-8') == (
    '# A\n\n<!-- one -->\n\nnew\n\n<!-- end -->\n\nText.\n'
  )
  with pytest.raises(ValueError, match='two'):
    markdown.replace(path, {'two': ''})


def test_the_document_has_every_part():
  text = (ROOT / 'docs/peers.md').read_text('utf-8')
  for name in (
    'flexgen predictions', 'flexgen searches', 'flexgen own',
    'galvatron budgets',
    'calculon memory', 'calculon predictions', 'calculon choices',
  ):  # fmt: skip
    assert f'<!-- {name} -->' in text


def test_published_runs_are_asked_as_published(monkeypatch):
  asked = []

  def answer(runs, machines, stacks):
    asked.extend(runs)
    return [
      Answer(run.index, 'step_time_s', 1.0, 15.0, 0.1, ANSWERED) for run in runs
    ]

  monkeypatch.setattr(calculon, 'predict_training_runs', answer)
  rows = calculon.predictions(Machines(), Software.prior(), ['gpt-3-175b'])
  full, selective = asked
  assert (full.recompute, selective.recompute) == ('full', 'selective')
  assert not full.mesh.sequence and selective.mesh.sequence
  for run in asked:
    assert run.mesh.tensor == run.mesh.pipeline == 8
    assert run.mesh.interleave == 3 and run.mesh.data == 1
    assert (run.sequences, run.micro_batch, run.seq_len) == (64, 1, 2048)
    assert not run.is_fused
  # Korthikanti et al., table 5: 18.13 s and 13.75 s.
  assert [r.error for r in rows] == pytest.approx(
    [15.0 / 18.13 - 1.0, 15.0 / 13.75 - 1.0]
  )
  assert len(calculon.models()) == 4


def test_activations_are_those_that_were_published():
  for row in calculon.memory():
    assert row.our_activations_GiB == pytest.approx(
      row.activations_GiB, rel=1e-3
    )
    # Ours count the embeddings of the first stage too.
    assert 1.0 < row.our_states_GiB / row.states_GiB < 1.09


def test_the_planner_sees_no_host_memory():
  system = calculon.near_alone(load_catalog('a100-sxm').system)
  assert set(system.tier_names) == {'L2', 'HBM', 'NVLink', 'IB'}


def test_biases_are_left_to_the_fitted_software():
  model = calculon.plain(load_workload('megatron-22b'))
  assert not (model.attention.bias or model.mlp_bias or model.norm_bias)
  assert model.layers == 48 and model.attention.heads == 64
