"""Programs about whole runs, as a user starts them."""

import json

import pyarrow.parquet as pq
import pytest

from .running import assert_refused, run

_HEADER = (
  'system,model,gpu,n_gpu,host_dram_gb,storage,lowest_tier,prompt_len,gen_len,'
  'batch,weight_bits,kv_offload,policy_percent,prefetch,throughput_tok_s,'
  'throughput_basis,provenance,note\n'
)


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory):
  """Two runs of a made-up table, and one of a model that nobody knows.

  Software is fitted to them and written beside what is predicted.
  """
  folder = tmp_path_factory.mktemp('runs')
  path = folder / 'runs.csv'
  row = 'FlexGen,{},T4-16GB,1,208.0,SSD,cpu,512,32,48,16,,,,{},total,ours,\n'
  rows = [('OPT-6.7B', 20.0), ('OPT-30B', 7.0), ('no-such-net', 1.0)]
  path.write_text(_HEADER + ''.join(row.format(*r) for r in rows))
  done = run(
    'experiments.evaluate_runs', f'--runs={path}',
    f'--predictions={folder / "out.parquet"}', f'--calibrate_on={path}',
    f'--software_out={folder / "software.json"}',
    f'--json={folder / "errors.json"}',
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  return folder, done.stdout


def test_every_row_is_answered_or_says_why(evaluated):
  folder, said = evaluated
  rows = pq.read_table(folder / 'out.parquet').to_pylist()
  assert [r['index'] for r in rows] == [0, 1, 2]
  assert [r['status'] == 'answered' for r in rows] == [True, True, False]
  assert 'no-such-net' in rows[2]['status'] and rows[2]['predicted'] is None
  for row in rows[:2]:
    assert row['lo90'] < row['predicted'] < row['hi90']
  document = json.loads((folder / 'errors.json').read_text())
  everything = document['scores'][-1]
  assert (everything['rows'], everything['judged']) == (3, 2)
  assert 'MAPE' in said and 'no answer for 1' in said


def test_software_is_fitted_and_written(evaluated):
  folder, _ = evaluated
  software = json.loads((folder / 'software.json').read_text())
  assert set(software) == {
    'schema_version', 'training', 'serving', 'offload', 'energy',
  }  # fmt: skip


def test_a_table_of_no_kind_is_refused(tmp_path):
  path = tmp_path / 'table.csv'
  path.write_text('a,b\n1,2\n')
  done = run(
    'experiments.evaluate_runs', f'--runs={path}', '--predictions=x.parquet'
  )
  assert_refused(done, 'table.csv', 'the columns of one kind of runs')


def test_estimate_of_a_training_step(tmp_path):
  out = tmp_path / 'estimate.json'
  done = run(
    'experiments.estimate', '--model=llama-3.1-8b', '--machine=h100-sxm',
    '--devices=8', '--fsdp=8', '--batch=64', f'--json={out}',
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  document = json.loads(out.read_text())
  assert document['times_s']['step_time_s']['best'] > 0
  assert 'Energy of a token' in done.stdout


@pytest.mark.parametrize(
  ('flag', 'said'),
  [
    ('--model=llama-3.1-7b', 'llama-3.1-8b'),
    ('--weights=fp7', 'fp7'),
    ('--tensor=3', 'does not divide'),
  ],
)
def test_estimate_refuses_what_cannot_be(flag, said):
  flags = {'--model': 'llama-3.1-8b', '--machine': 'h100-sxm'}
  name, _, value = flag.partition('=')
  flags |= {name: value}
  done = run('experiments.estimate', *(f'{n}={v}' for n, v in flags.items()))
  assert_refused(done, said)
