"""Serving rows answered: every row, honest about those that cannot be."""

import math
import pathlib

import numpy as np
import pytest

from diffmem.runs import serving, serving_stack
from diffmem.runs.machines import Machines

_SHARED = (
  pathlib.Path(__file__).parents[3]
  / 'shared/traces/serving/serving_e2e.parquet'
)
_ROW = {
  'model': 'llama-3.1-8b', 'system': 'h100_sxm', 'mode': 'agg',
  'backend': 'vllm', 'backend_version': '0.1', 'measured_date': '2026-01-01',
  'input_len': 1024, 'output_len': 256, 'concurrency': 8.0, 'tp_size': 1.0,
  'ttft_ms': 60.0, 'tpot_ms': 9.0,
}  # fmt: skip


@pytest.fixture(scope='module')
def machines(root):
  return Machines(root / 'checkpoints')


def _rows():
  rows = [
    _ROW | {'concurrency': c, 'ttft_ms': 60.0 + c, 'tpot_ms': 8.0 + c / 8}
    for c in (1.0, 2.0, 4.0, 8.0)
  ]
  return [*rows, _ROW | {'model': 'no-such-model'}, _ROW | {'tp_size': None}]


def test_no_row_is_lost(machines):
  rows = _rows()
  stacks = serving_stack.prior_stacks()
  answers = serving.predict_serving(rows, machines, stacks)
  pairs = [(a.index, a.observable) for a in answers]
  assert pairs == [(i, n) for i in range(6) for n in ('ttft_s', 'tpot_s')]
  assert [a.is_answered for a in answers[::2]] == [True] * 4 + [False] * 2
  assert 'no-such-model' in answers[8].status
  assert 'tp_size' in answers[10].status
  assert math.isnan(answers[8].predicted) and answers[8].observed == 0.06
  tpot = [a.predicted for a in answers[1:8:2]]
  assert tpot == sorted(tpot) and 4e-3 < tpot[0] < 16e-3
  assert answers[0].log_sd == stacks.log_sd['ttft_s']


def test_what_a_campaign_has_in_common_is_learned_and_known(machines):
  runs = serving.read_runs(_rows()[:4], machines)
  assert set(runs.campaigns) == {'vllm|0.1|2026-01-01|llama-3.1-8b'}
  alone = serving_stack.prior_stacks()
  said = serving.predicted(runs, alone)
  # A setting that nobody wrote down halves the time per token.
  half = runs._replace(
    observed=runs.observed._replace(
      ttft_s=said['ttft_s'], tpot_s=said['tpot_s'] / 2.0
    )
  )
  effect = serving._effects(half, alone)['vllm|0.1|2026-01-01|llama-3.1-8b']
  belief = 4.0 / (4.0 + serving._BELIEF_RUNS)
  assert effect['tpot_s'] == pytest.approx(-math.log(2.0) * belief)
  assert effect['ttft_s'] == pytest.approx(0.0, abs=1e-9)


def test_copies_and_large_campaigns_weigh_less():
  rows = [_ROW, _ROW, *(_ROW | {'ttft_ms': 70.0 + i} for i in range(14))]
  weight = serving._observed(rows, ['a'] * 16).weight
  assert weight[2] == pytest.approx(0.5) and weight[0] == weight[2] / 2.0


def test_held_out_runs_are_predicted_by_fits_without_them(machines):
  runs = serving.read_runs(_rows()[:4], machines)
  errors = serving.held_out_errors(runs, ['a', 'a', 'b', 'b'])
  assert all(np.isfinite(e).all() for e in errors.values())
  alone = serving.held_out_errors(runs, ['a'] * 4)
  said = serving.predicted(runs, serving_stack.prior_stacks())
  expected = np.log(said['tpot_s'] / runs.observed.tpot_s)
  assert alone['tpot_s'] == pytest.approx(expected)


@pytest.mark.skipif(not _SHARED.exists(), reason='no public traces here')
def test_public_runs_by_priors_alone(machines):
  pq = pytest.importorskip('pyarrow.parquet')
  table = pq.read_table(_SHARED).to_pylist()
  rows = [
    r
    for r in table
    if r['system'] == 'h100_sxm' and r['model'] == 'Qwen/Qwen3-32B'
    if r['backend'] == 'vllm' and r['mode'] == 'agg' and r['tp_size'] == 4
  ]
  assert len(rows) > 20
  answers = serving.predict_serving(
    rows, machines, serving_stack.prior_stacks()
  )
  ratio = [
    a.predicted / a.observed for a in answers if a.observable == 'tpot_s'
  ]
  assert np.median(np.abs(np.array(ratio) - 1.0)) < 0.25
