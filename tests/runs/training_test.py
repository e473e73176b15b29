"""Training runs: rows read or refused, software recovered, levels pooled."""

import dataclasses
import json
import math

import numpy as np
import pytest

from diffmem.runs import training, training_parts
from diffmem.runs.machines import Machines
from diffmem.runs.training_parts import PARAMETERS, step_time_s
from diffmem.runs.training_rows import RefusedError, read_run

_ROW = {
  'dataset': 'ours', 'model': 'a gpt', 'n_layers': 32.0, 'hidden': 4096.0,
  'ffn': 16384.0, 'heads': 32.0, 'kv_heads': 32.0, 'vocab': 51200.0,
  'gated_mlp': False, 'seq_len': 2048.0, 'accelerator': 'A100-80GB-SXM',
  'n_accel': 64, 'accel_per_node': 8.0, 'precision': 'bf16', 'tp': 4.0,
  'pp': 2.0, 'mbs': 2.0, 'gbs': 256.0, 'recompute': 'full',
  'framework': 'Megatron-LM', 'step_time_s': 5.0,
}  # fmt: skip


@pytest.fixture(scope='module')
def machines(root):
  return Machines(root / 'checkpoints')


def test_a_row_becomes_the_job_that_it_describes(machines):
  run = read_run(7, _ROW, machines)
  assert (run.index, run.machine, run.stack) == (7, 'a100-sxm', 'megatron-lm')
  assert run.mesh.data == 8 and run.mesh.per_node == 8
  assert (run.micro_batch, run.sequences, run.recompute) == (2, 256, 'full')
  assert run.is_complete and not run.is_fused
  assert run.model.parameters().total == pytest.approx(6.66e9, rel=0.01)


def test_biases_of_a_dense_model_are_part_of_the_factors(machines):
  """As in tables of runs, which name none: they make no product wider."""
  run = read_run(0, _ROW, machines)
  heads = run.model.attention.model_copy(update={'bias': True})
  biased = run.model.model_copy(update={'attention': heads, 'mlp_bias': True})
  one, other = (
    training_parts.step_of(run._replace(model=m)) for m in (run.model, biased)
  )
  assert one == other
  widths = {k.shape['n'] for k in other.forward.of('gemm')}
  assert widths == {3 * 4096 / 4, 4096, 16384 / 4}


@pytest.mark.parametrize(
  ('changes', 'why'),
  [
    ({'accelerator': 'Gaudi2'}, "unknown accelerator 'Gaudi2'"),
    ({'accelerator': None}, 'incomplete configuration: no accelerator'),
    ({'seq_len': math.nan}, 'incomplete configuration: no seq_len'),
    ({'tp': None, 'pp': None}, 'incomplete configuration: no tp, pp or fsdp'),
    ({'tp': 3.0}, 'does not divide 64 accelerators'),
    ({'gbs': 4.0}, '4 sequences for 8 data ranks'),
    ({'heads': 30.0}, 'incomplete configuration'),
    ({'n_layers': None, 'model': 'no-such-net'}, 'unknown model'),
  ],
)
def test_what_cannot_be_answered_says_why(machines, changes, why):
  with pytest.raises(RefusedError, match=why.replace('(', r'\(')):
    read_run(0, _ROW | changes, machines)


def test_named_models_need_no_figures(machines):
  row = dict.fromkeys(('n_layers', 'hidden', 'ffn', 'heads', 'vocab'))
  run = read_run(0, _ROW | row | {'model': 'Mixtral-8x7B'}, machines)
  assert run.model.experts.count == 8
  assert run.stack == 'megatron-lm-experts' and not run.is_complete


def test_a_depth_that_contradicts_the_parameter_count_gives_way(machines):
  run = read_run(0, _ROW | {'params_b': 3.4}, machines)
  assert run.model.layers == 16
  assert read_run(0, _ROW | {'params_b': 6.7}, machines).model.layers == 32


def test_every_row_has_one_answer_in_order(machines):
  rows = [_ROW, _ROW | {'accelerator': 'Gaudi2'}, _ROW | {'mbs': None}]
  stacks = training.TrainingStacks.prior()
  answers = training.predict_training(rows, machines, stacks)
  assert [a.index for a in answers] == [0, 1, 2]
  assert [a.is_answered for a in answers] == [True, False, True]
  assert math.isnan(answers[1].predicted) and answers[1].observed == 5.0
  # An A100 does 312 TFLOP/s at most, and hardly below 60 in such a job.
  flops = 8.0 * 6.6e9 * 256 * 2048
  assert flops / (64 * 312e12) < answers[0].predicted < flops / (64 * 60e12)
  # What had to be assumed widens the interval.
  assert answers[2].log_sd > answers[0].log_sd


@pytest.fixture(scope='module')
def made_up(machines):
  """Runs of known software: two clusters, many shapes."""
  rows = []
  for hidden, heads in ((2048, 16), (4096, 32), (6144, 48), (8192, 64)):
    for tensor, pipeline, micro in ((1, 1, 4), (2, 1, 2), (8, 1, 4), (4, 4, 1)):
      shape = {
        'hidden': float(hidden), 'ffn': 4.0 * hidden, 'heads': float(heads),
        'kv_heads': float(heads), 'tp': float(tensor), 'pp': float(pipeline),
        'mbs': float(micro), 'n_layers': 24.0,
      }  # fmt: skip
      rows.append(_ROW | shape)
  runs, refused = training.read_runs(rows, machines)
  assert not refused
  parts = training_parts.parts_of(runs, machines)
  truth = {n: p.median for n, p in PARAMETERS.items()}
  truth |= {'product': 1.35, 'scores': 1.6, 'tensor_link': 1.2}
  noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(len(runs)))
  measured = step_time_s(parts, truth) * noise
  runs = [
    r._replace(observed_s=float(t)) for r, t in zip(runs, measured, strict=True)
  ]
  return runs, parts, truth


def test_the_fit_predicts_models_that_it_has_not_seen(made_up):
  runs, parts, _ = made_up
  errors = training.held_out_errors(runs, parts, folds=4)
  assert np.isfinite(errors).all()
  assert np.abs(errors).mean() < 0.04


def test_the_fit_finds_the_software(made_up):
  runs, parts, truth = made_up
  stacks = training.fit_parts(runs, parts)
  found = stacks.values['megatron-lm@a100-sxm@ours']
  assert found['product'] == pytest.approx(truth['product'], rel=0.1)
  predicted = training.predict_parts(runs, parts, stacks)
  observed = [r.observed_s for r in runs]
  np.testing.assert_allclose(predicted, observed, rtol=0.06)


def test_a_new_cluster_is_predicted_by_the_level_above(made_up):
  runs, parts, _ = made_up
  stacks = training.fit_parts(runs, parts)
  other = runs[0]._replace(source='elsewhere')
  assert stacks.level_of(other) == 'megatron-lm@a100-sxm'
  assert stacks.level_of(other._replace(machine='x')) == 'megatron-lm'
  assert stacks.level_of(other._replace(stack='')) == ''


def test_more_of_anything_takes_longer(made_up):
  _, parts, truth = made_up
  base = step_time_s(parts, truth)
  for name in PARAMETERS:
    more = step_time_s(parts, truth | {name: 1.3 * truth[name]})
    assert (more >= base * (1.0 - 1e-12)).all(), name


def test_stacks_survive_their_document(made_up):
  runs, parts, _ = made_up
  stacks = training.fit_parts(runs, parts)
  stacks = dataclasses.replace(stacks, shapes={'a@b@c': {'1 2': 0.1}})
  text = json.dumps(stacks.document())
  again = training.TrainingStacks.from_document(json.loads(text))
  np.testing.assert_allclose(
    training.predict_parts(runs, parts, again),
    training.predict_parts(runs, parts, stacks),
    rtol=1e-3,
  )
  assert again.shapes == stacks.shapes
