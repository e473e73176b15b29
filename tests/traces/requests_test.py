"""Request traces: read, and refused with row and column."""

import json

import numpy as np
import pytest

from diffmem import errors
from diffmem.traces import requests

ROWS = (
  {'timestamp': 2000, 'input_length': 600, 'output_length': 5,
   'hash_ids': [7, 8]},
  {'timestamp': 2500, 'input_length': 512, 'output_length': 0, 'hash_ids': [7]},
  {'timestamp': 6000, 'input_length': 1025, 'output_length': 9,
   'hash_ids': [7, 8, 9]},
)  # fmt: skip


def written(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def test_json_lines_as_mooncake_has_them(tmp_path):
  found = requests.read_requests(written(tmp_path / 'a.jsonl', ROWS))
  np.testing.assert_allclose(found.arrival_s, [0.0, 0.5, 4.0])
  np.testing.assert_array_equal(found.prompt_tokens, [600, 512, 1025])
  assert found.blocks == ([7, 8], [7], [7, 8, 9])
  assert found.duration_s == 4.0
  assert found.requests_per_s == 0.75
  assert found.tokens_per_s == (600 + 512 + 1025) / 4.0


def test_parquet_without_hashes(tmp_path):
  import pyarrow as pa
  import pyarrow.parquet as pq

  table = {'arrival_s': [1.0, 3.0], 'prompt_tokens': [9, 5],
           'output_tokens': [1, 2]}  # fmt: skip
  pq.write_table(pa.table(table), tmp_path / 'a.parquet')
  found = requests.read_requests(tmp_path / 'a.parquet')
  assert found.blocks is None
  np.testing.assert_allclose(found.arrival_s, [0.0, 2.0])


@pytest.mark.parametrize(
  'row, change, column, expected',
  [
    (2, {'timestamp': 1999}, 'timestamp', 'order of arrival'),
    (1, {'timestamp': None}, 'timestamp', 'number'),
    (3, {'timestamp': float('nan')}, 'timestamp', 'number'),
    (1, {'input_length': 0}, 'input_length', 'at least 1'),
    (1, {'input_length': 5.5}, 'input_length', 'whole'),
    (2, {'output_length': '9'}, 'output_length', 'number'),
    (3, {'hash_ids': [7, 8]}, 'hash_ids', '3: 1025 tokens in blocks of 512'),
    (1, {'hash_ids': [7, 'x']}, 'hash_ids', 'whole numbers'),
    (2, {'hash_ids': None}, 'hash_ids', 'list'),
  ],
)
def test_a_bad_cell_is_named(tmp_path, row, change, column, expected):
  rows = [dict(r) for r in ROWS]
  rows[row - 1] |= change
  with pytest.raises(errors.TraceError, match=expected) as found:
    requests.read_requests(written(tmp_path / 'a.jsonl', rows))
  assert (found.value.row, found.value.column) == (row, column)


@pytest.mark.parametrize(
  'rows, expected',
  [
    (ROWS[:1], 'at least two'),
    ([ROWS[0], ROWS[0]], 'different times'),
    ([{'input_length': 3}, {'input_length': 3}], 'exactly one of the columns'),
  ],
)
def test_traces_without_a_rate_or_a_time(tmp_path, rows, expected):
  with pytest.raises(errors.TraceError, match=expected):
    requests.read_requests(written(tmp_path / 'a.jsonl', rows))


def test_other_files(tmp_path):
  with pytest.raises(errors.TraceError, match='ending in'):
    requests.read_requests(tmp_path / 'a.csv')
  with pytest.raises(errors.TraceError, match='there is none'):
    requests.read_requests(tmp_path / 'a.jsonl')
