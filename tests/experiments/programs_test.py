"""The programs as a user runs them: help, bad input, and the whole way."""

import json
import subprocess
import sys

import pytest

from .running import ROOT, assert_refused, run

PROGRAMS = sorted(
  p.stem
  for p in (ROOT / 'experiments').glob('*.py')
  if 'program.run(main)' in p.read_text()
)
GROUP_KEYS = {
  'system', 'op', 'tier', 'observable', 'n', 'mape', 'median_ape', 'p90_ape',
  'bias', 'coverage90', 'unanswered',
}  # fmt: skip
OBSERVABLES = {
  'time_s', 'latency_s', 'latency_at_bandwidth_s', 'bandwidth_Bps', 'power_W',
  'energy_J',
}  # fmt: skip


@pytest.fixture(scope='module')
def quickstart(tmp_path_factory):
  """One quick run of the whole way; the folder that it wrote."""
  out = tmp_path_factory.mktemp('quickstart')
  # A small workload: planning a large one is tested elsewhere.
  done = run(
    'experiments.quickstart', f'--out={out}', '--quick',
    '--workload=llama-3.1-8b', '--chips=8',
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  return out


@pytest.mark.parametrize('name', PROGRAMS)
def test_help_is_quick_and_whole(name):
  done = run(f'experiments.{name}', '--help')
  assert done.returncode == 0
  assert f'python -m experiments.{name}' in done.stdout


@pytest.mark.parametrize('name', PROGRAMS)
def test_flags_are_checked_before_jax_is_loaded(name):
  code = (
    f'import sys; import experiments.{name}; '
    "heavy = {'jax', 'numpy', 'scipy', 'pyarrow'} & set(sys.modules); "
    'sys.exit(str(heavy) if heavy else 0)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, check=False
  )
  assert done.returncode == 0, done.stderr


def test_importing_diffmem_does_not_load_jax():
  code = "import sys, diffmem; sys.exit('jax' in sys.modules)"
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False)
  assert done.returncode == 0


@pytest.mark.parametrize('name', PROGRAMS)
def test_unknown_flags(name):
  assert_refused(run(f'experiments.{name}', '--nonsense=1'), 'nonsense')


def test_stray_arguments():
  done = run('experiments.collect', '--out=a.csv', 'stray')
  assert_refused(done, "unexpected argument 'stray'")


def test_missing_required_flag():
  assert_refused(run('experiments.evaluate'), '--checkpoint')


@pytest.mark.parametrize('name', ['fit', 'evaluate'])
def test_bad_traces(name, tmp_path):
  path = tmp_path / 'bad.csv'
  path.write_text('system,op,latency_s\nx,pointer_chase,-1e-9\n')
  flag = '--out' if name == 'fit' else '--checkpoint'
  target = f'{flag}={tmp_path / "out"}'
  done = run(f'experiments.{name}', f'--traces={path}', target)
  assert_refused(done, path, 'row 1', 'latency_s', '-1e-9', 'not negative')
  assert not (tmp_path / 'out').exists()


def test_missing_checkpoint(quickstart, tmp_path):
  done = run(
    'experiments.evaluate',
    f'--checkpoint={tmp_path / "none"}',
    f'--traces={quickstart / "trace.parquet"}',
  )
  assert_refused(done, tmp_path / 'none')


def test_damaged_checkpoint(quickstart, tmp_path):
  import shutil

  copy = tmp_path / 'checkpoint'
  shutil.copytree(quickstart / 'checkpoint', copy)
  system = copy / 'system.json'
  data = bytearray(system.read_bytes())
  data[len(data) // 2] ^= 1
  system.write_bytes(bytes(data))
  done = run(
    'experiments.evaluate', f'--checkpoint={copy}',
    f'--traces={quickstart / "trace.parquet"}',
  )  # fmt: skip
  assert_refused(done, 'system.json')


def test_unknown_trace_ending_costs_no_measurement(tmp_path):
  done = run('experiments.collect', f'--out={tmp_path / "a.xlsx"}')
  assert_refused(done, 'a.xlsx', '.parquet')


def test_quickstart_writes_everything(quickstart):
  page = (quickstart / 'report.html').read_text()
  for heading in (
    'Memory latency', 'Memory bandwidth', 'Roofline', 'Held-out errors',
    'Programs', 'Parameters', 'The plan', 'Provenance',
  ):  # fmt: skip
    assert f'>{heading}</h2>' in page
  assert {'arrays', 'card.json', 'system.json', 'checksums.json'} <= {
    p.name for p in (quickstart / 'checkpoint').iterdir()
  }


def test_evaluate_json_is_the_contract(quickstart, tmp_path):
  path = tmp_path / 'errors.json'
  done = run(
    'experiments.evaluate', f'--checkpoint={quickstart / "checkpoint"}',
    f'--traces={quickstart / "trace.parquet"}', f'--json={path}',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  groups = json.loads(path.read_text())['groups']
  assert len(groups) > 10
  for group in groups:
    assert set(group) == GROUP_KEYS
    assert group['observable'] in OBSERVABLES
    assert group['unanswered'] == 0
  from diffmem import read_traces

  rows = read_traces(quickstart / 'trace.parquet')
  closed = [g for g in groups if g['observable'] != 'latency_at_bandwidth_s']
  assert sum(g['n'] for g in closed) == len(rows)
  # DRAM is far above the noise of any machine: within a factor of 1.5.
  dram = [
    g for g in groups
    if g['tier'] == 'DRAM' and g['op'] in ('pointer_chase', 'stream')
  ]  # fmt: skip
  assert dram and all(g['median_ape'] < 50 for g in dram)


def test_the_card_holds_the_held_out_errors(quickstart):
  card = json.loads((quickstart / 'checkpoint/card.json').read_text())
  assert card['held_out'] and set(card['held_out'][0]) == GROUP_KEYS
  assert card['traces'][0]['file'] == 'trace.parquet'


def test_plan_json_is_the_contract(quickstart):
  document = json.loads((quickstart / 'plan.json').read_text())
  assert {'plans', 'elasticities', 'shadow_prices', 'search'} <= set(document)
  assert document['search']['configurations'] > 0
  assert document['search']['seconds'] > 0
  for plan in document['plans']:
    assert {
      'mesh', 'micro_batch', 'recompute', 'placement', 'predicted',
      'interval90', 'certified_gap', 'rounding_loss',
    } <= set(plan)  # fmt: skip
    assert {
      'step_time_s', 'tokens_per_s', 'energy_per_token_J',
      'cost_per_token_usd', 'memory_bytes',
    } <= set(plan['predicted'])  # fmt: skip
    assert plan['predicted']['cost_per_token_usd'] is None
    for shares in plan['placement'].values():
      assert sum(shares.values()) == pytest.approx(1.0)


def test_fit_and_plan_from_the_files(quickstart, tmp_path):
  out = tmp_path / 'fitted'
  done = run(
    'experiments.fit', f'--traces={quickstart / "trace.parquet"}',
    f'--out={out}', '--config.draws=8', '--config.starts=2',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert 'Held-out errors' in done.stdout
  done = run(
    'experiments.plan', f'--checkpoint={out}', '--workload=llama-3.1-8b',
    '--chips=8', '--phase=decode', '--dtype=float32', '--json=-',
    f'--report={tmp_path / "plan.html"}',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  document = json.loads(done.stdout[: done.stdout.rindex('}') + 1])
  assert document['plans'][0]['interval90']['step_time_s'][0] > 0
  assert '>The plan</h2>' in (tmp_path / 'plan.html').read_text()


def test_plan_refuses_what_cannot_be(tmp_path):
  plan = ['experiments.plan', '--checkpoint=h100-sxm']
  done = run(*plan, '--workload=llama-3.1-405', '--chips=64')
  assert_refused(done, 'llama-3.1-405b')
  path = tmp_path / 'plan.json'
  done = run(*plan, '--workload=llama-3.1-405b', '--chips=1', f'--json={path}')
  assert_refused(done)
  assert json.loads(path.read_text())['plans'] == []
  done = run(
    'experiments.plan', '--checkpoint=h100', '--workload=llama-3.1-8b',
    '--chips=8',
  )  # fmt: skip
  assert_refused(done, 'h100-sxm')
