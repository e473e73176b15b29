"""Every way in which a trace file can be wrong, and that sound ones survive."""

import json
import math

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from diffmem import errors
from diffmem.traces import concat, from_rows, read_traces, write_traces
from diffmem.traces.schema import BY_NAME, COLUMNS, OPS, Kind

ROW = {
  'system': 'x',
  'op': 'stream',
  'tier': 'DRAM',
  'bytes_read': 1e9,
  'participants': 2,
  'working_set_bytes': 1e8,
  'time_s': 0.05,
  'bandwidth_Bps': 20e9,
  'rel_std': 0.01,
}
FORMATS = ['csv', 'jsonl', 'parquet']


@pytest.fixture(params=FORMATS)
def path(request, tmp_path):
  return tmp_path / f'trace.{request.param}'


def write_raw(path, rows):
  """Writes rows as they are, without the schema's checks."""
  names = list(dict.fromkeys(n for row in rows for n in row))
  if path.suffix == '.parquet':
    columns = {n: [row.get(n) for row in rows] for n in names}
    pq.write_table(pa.table(columns), path)
  elif path.suffix == '.csv':
    lines = [','.join(names)]
    for row in rows:
      cells = ['' if row.get(n) is None else str(row[n]) for n in names]
      lines.append(','.join(cells))
    path.write_text('\n'.join(lines) + '\n')
  else:
    path.write_text('\n'.join(json.dumps(row) for row in rows) + '\n')


def test_round_trip(path):
  rows = [ROW, {k: v for k, v in ROW.items() if k != 'tier'} | {'note': 'a,"b'}]
  write_traces(path, from_rows(rows))
  back = read_traces(path)
  assert back.rows() == from_rows(rows).rows()
  assert back.origin == str(path)
  assert list(path.parent.iterdir()) == [path]


_values = {
  Kind.TEXT: st.text(
    st.characters(codec='utf-8', exclude_categories=['Cs', 'Cc']),
    min_size=1, max_size=8,
  ).filter(str.strip),
}  # fmt: skip


def _value_of(column):
  if column.kind is Kind.TEXT:
    return _values[Kind.TEXT]
  if column.kind is Kind.COUNT:
    return st.integers(int(column.low), int(column.high))
  return st.floats(column.low, column.high, allow_subnormal=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
  st.lists(
    st.fixed_dictionaries(
      {'system': _value_of(BY_NAME['system']), 'time_s': st.floats(1e-6, 1.0)},
      optional={
        c.name: _value_of(c)
        for c in COLUMNS
        if c.name not in ('system', 'op', 'time_s')
      },
    ),
    min_size=1,
    max_size=4,
  )
)
def test_any_sound_trace_survives(path, rows):
  rows = [row | {'op': 'stream'} for row in rows]
  write_traces(path, from_rows(rows))
  assert read_traces(path).rows() == from_rows(rows).rows()


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'latency_s': -1e-9}, "row 2, column 'latency_s'.*not negative"),
    ({'bandwidth_Bps': 1e15}, "row 2, column 'bandwidth_Bps'.*plausible"),
    ({'time_s': math.inf}, "row 2, column 'time_s'.*finite"),
    ({'time_s': math.nan}, "row 2, column 'time_s'"),
    ({'time_s': 'fast'}, "row 2, column 'time_s'.*'fast'.*number"),
    ({'time_s': '12 ms'}, "row 2, column 'time_s'.*without unit"),
    ({'participants': 1.5}, "row 2, column 'participants'.*whole"),
    ({'participants': 0}, "row 2, column 'participants'.*plausible"),
    ({'system': ' '}, "row 2, column 'system'"),
    ({'latency_us': 3.0}, "'latency_us'.*SI units.*'latency_s'"),
    ({'bandwith_Bps': 3.0}, "'bandwith_Bps'.*nearest is 'bandwidth_Bps'"),
    ({'zzz': 3.0}, "'zzz'.*a known column: system"),
  ],
)
def test_bad_rows_are_named(path, change, said):
  if path.suffix == '.parquet' and isinstance(change.get('time_s'), str):
    rows = [ROW | {'time_s': '0.1'}, ROW | change]
  else:
    rows = [ROW, ROW | change]
  write_raw(path, rows)
  with pytest.raises(errors.TraceError, match=said) as caught:
    read_traces(path)
  assert str(path) in str(caught.value)


def test_a_row_without_observation(path):
  bare = {'system': 'x', 'op': 'stream', 'bytes_read': 1.0}
  write_raw(path, [ROW, bare | {'time_s': None}])
  with pytest.raises(errors.TraceError, match='row 2.*one of time_s'):
    read_traces(path)


def test_missing_required_column(path):
  write_raw(path, [{k: v for k, v in ROW.items() if k != 'op'}])
  with pytest.raises(errors.TraceError, match="'op'.*required"):
    read_traces(path)


def test_empty_file(path):
  path.write_bytes(b'')
  with pytest.raises(errors.TraceError, match='empty'):
    read_traces(path)


def test_no_rows(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('system,op,time_s\n')
  with pytest.raises(errors.TraceError, match='at least one row'):
    read_traces(path)


@pytest.mark.parametrize('keep', [0.3, 0.7, 0.99])
def test_truncated_parquet(tmp_path, keep):
  path = tmp_path / 'a.parquet'
  write_traces(path, from_rows([ROW] * 50))
  whole = path.read_bytes()
  path.write_bytes(whole[: int(keep * len(whole))])
  with pytest.raises(errors.TraceError, match='damaged'):
    read_traces(path)


def test_broken_json_names_the_row(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text(json.dumps(ROW) + '\n{"system": "x", \n')
  with pytest.raises(errors.TraceError, match='row 2'):
    read_traces(path)
  path.write_text('[1, 2]\n')
  with pytest.raises(errors.TraceError, match='JSON object'):
    read_traces(path)


def test_csv_of_uneven_rows(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('system,op,time_s\nx,stream,0.1\nx,stream\n')
  with pytest.raises(errors.TraceError, match='row 2.*3 cells.*it has 2'):
    read_traces(path)
  path.write_text('system,op,op,time_s\nx,a,b,0.1\n')
  with pytest.raises(errors.TraceError, match="'op'.*once"):
    read_traces(path)


def test_binary_rubbish(tmp_path):
  for name in ('a.csv', 'a.jsonl', 'a.parquet'):
    (tmp_path / name).write_bytes(bytes(range(256)) * 4)
    with pytest.raises(errors.TraceError, match=name):
      read_traces(tmp_path / name)


def test_missing_file_and_unknown_ending(tmp_path):
  with pytest.raises(errors.TraceError, match='there is none'):
    read_traces(tmp_path / 'none.csv')
  with pytest.raises(errors.TraceError, match='ending'):
    read_traces(tmp_path / 'a.xlsx')
  with pytest.raises(errors.TraceError, match='ending'):
    write_traces(tmp_path / 'a.xlsx', from_rows([ROW]))


def test_select_and_concat_keep_every_row():
  first = from_rows([ROW, ROW | {'time_s': 0.1}])
  second = from_rows([ROW | {'latency_s': 1e-7}])
  both = concat([first, second])
  assert len(both) == 3
  assert np.isnan(both['latency_s'][:2]).all()
  assert both.select(both['time_s'] == 0.1).rows() == [first.rows()[1]]
  assert both.get('latency_s', 5.0).tolist() == [5.0, 5.0, 1e-7]


def test_the_schema_is_coherent():
  for column in COLUMNS:
    assert column.help and (column.kind is Kind.TEXT) == (column.unit == '')
    assert column.low <= column.high
  assert len(BY_NAME) == len(COLUMNS)
  assert {'gemm', 'moe', 'step', 'all_reduce'} <= set(OPS)
