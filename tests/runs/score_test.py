"""Scores against numbers worked out by hand, and the file of predictions."""

import math

import pyarrow.parquet as pq
import pytest

from diffmem import errors
from diffmem.runs import score, table
from diffmem.runs.answer import ANSWERED, Answer, refusal
from diffmem.runs.table import Kind


def _answer(index, observed, predicted, log_sd=0.1):
  return Answer(index, 'step_time_s', observed, predicted, log_sd, ANSWERED)


_ROWS = [
  {'dataset': 'a', 'model': 'm', 'gbs': 8},
  {'dataset': 'a', 'model': 'm', 'gbs': 8},
  {'dataset': 'a', 'model': 'n', 'gbs': 8},
  {'dataset': 'b', 'model': 'm', 'gbs': 8},
]
_ANSWERS = [
  _answer(0, 2.0, 2.2),
  _answer(1, 1.0, 1.5),
  _answer(2, 1.0, 0.9),
  refusal(3, 'step_time_s', 1.0, 'unknown model'),
]


def test_errors_per_dataset():
  a, b, everything = score.scores(Kind.TRAINING, _ROWS, _ANSWERS)
  assert (a['dataset'], b['dataset']) == ('a', 'b')
  assert (a['rows'], a['answered'], a['judged']) == (3, 3, 3)
  assert a['mape'] == pytest.approx((10 + 50 + 10) / 3)
  assert a['median_ape'] == pytest.approx(10.0)
  assert a['bias'] == pytest.approx((10 + 50 - 10) / 3)
  # ln 1.1 and ln 0.9 are within 1.645 x 0.1, ln 1.5 is not.
  assert a['coverage90'] == pytest.approx(200 / 3)
  assert (b['answered'], b['mape']) == (0, None)
  assert everything['rows'] == 4 and everything['judged'] == 3
  assert score.refusals(_ANSWERS) == {'unknown model': 1}


def test_regret_is_what_our_first_choice_loses():
  # Job (a, m): we would choose row 1, which is the best measured.
  assert score.regrets(Kind.TRAINING, _ROWS, _ANSWERS)['worst'] == 0.0
  wrong = [_answer(0, 2.0, 1.4), *_ANSWERS[1:]]
  found = score.regrets(Kind.TRAINING, _ROWS, wrong)
  assert found['jobs'] == 1 and found['median'] == pytest.approx(100.0)
  assert score.regrets(Kind.TRAINING, _ROWS[:1], _ANSWERS[:1]) is None


def test_more_throughput_is_better():
  rows = [{'model': 'm'}, {'model': 'm'}]
  answers = [
    Answer(0, 'tokens_per_s', 10.0, 30.0, 0.1, ANSWERED),
    Answer(1, 'tokens_per_s', 12.5, 20.0, 0.1, ANSWERED),
  ]
  found = score.regrets(Kind.OFFLOAD, rows, answers)
  assert found['worst'] == pytest.approx(25.0)


def test_the_file_has_one_row_per_answer(tmp_path):
  path = tmp_path / 'sub' / 'out.parquet'
  table.write(path, _ANSWERS)
  read = pq.read_table(path).to_pylist()
  assert [r['index'] for r in read] == [0, 1, 2, 3]
  assert read[0]['lo90'] == pytest.approx(2.2 * math.exp(-0.16448536))
  assert read[0]['hi90'] == pytest.approx(2.2 * math.exp(0.16448536))
  assert read[3]['predicted'] is None and read[3]['status'] == 'unknown model'
  assert list(read[0]) == [
    'index', 'observable', 'observed', 'predicted', 'lo90', 'hi90', 'status',
  ]  # fmt: skip


def test_the_columns_tell_the_kind():
  training = {'n_accel': 8, 'accelerator': 'A100', 'step_time_s': 1.0}
  assert table.kind_of([training], 'x') is Kind.TRAINING
  serving = {'input_len': 8, 'concurrency': 4}
  assert table.kind_of([serving], 'x') is Kind.SERVING
  offload = {'prompt_len': 8, 'gen_len': 4}
  assert table.kind_of([offload], 'x') is Kind.OFFLOAD
  with pytest.raises(errors.TraceError, match='the columns of one kind'):
    table.kind_of([{'time_s': 1.0}], 'x.parquet')


def test_files_that_are_no_tables_are_refused(tmp_path):
  with pytest.raises(errors.TraceError, match='there is none'):
    table.read(tmp_path / 'none.parquet')
  path = tmp_path / 'text.parquet'
  path.write_text('no table')
  with pytest.raises(errors.TraceError, match='a Parquet or CSV table'):
    table.read(path)
