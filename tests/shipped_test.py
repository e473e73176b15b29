"""The checkpoints that ship: whole, small, and honest about their origin."""

import json
import pathlib

import numpy as np
import pytest

from diffmem import checkpoint
from diffmem.cost import Demand, predict
from diffmem.runs import machines as machines_lib
from diffmem.runs import software as software_lib
from diffmem.runs import table
from diffmem.system import Status
from diffmem.traces import recipe

FOLDER = pathlib.Path(__file__).parent.parent / 'checkpoints'
RECIPES = recipe.load_recipes(FOLDER / 'recipe.toml')


@pytest.fixture(scope='module')
def shipped():
  return {r.name: checkpoint.load_checkpoint(FOLDER / r.name) for r in RECIPES}


def test_every_recipe_has_its_checkpoint_and_nothing_else_is_there():
  folders = {p.name for p in FOLDER.iterdir() if p.is_dir()}
  assert folders == {r.name for r in RECIPES}


def test_the_folder_is_small():
  size = sum(p.stat().st_size for p in FOLDER.rglob('*') if p.is_file())
  assert size < 20e6


@pytest.mark.parametrize('r', RECIPES, ids=lambda r: r.name)
def test_the_card_says_what_it_was_made_of(shipped, r):
  found = shipped[r.name]
  assert found.card.notes == r.about
  assert [t.file for t in found.card.traces] == [s.path for s in r.source]
  statuses = {k.status for k in found.fitted.knowledge.values()}
  if r.source:
    assert Status.FITTED in statuses and found.card.held_out
    assert all(t.rows > 0 for t in found.card.traces)
  else:
    assert statuses <= {Status.PRIOR, Status.UNUSED}
    assert not found.fitted.residuals and not found.card.held_out


@pytest.mark.parametrize(
  'name', ['a100-sxm', 'h100-sxm', 'h200-sxm', 'b200-sxm']
)
def test_gpus_are_plausible_and_answer_kernels(shipped, name):
  fitted = shipped[name].fitted
  assert {'gemm.time_s', 'decode_attention.time_s', 'moe.time_s'} <= set(
    fitted.residuals
  )
  system = fitted.system
  peak = fitted.knowledge['HBM.read_Bps'].prior
  assert 0.6 * peak < float(system.tier('HBM').read_Bps) < 1.05 * peak
  gigabyte = Demand.of(system, read_B={'HBM': 1e9}, in_flight_B={'HBM': 50e6})
  seconds = float(predict(system, gigabyte).time_s)
  assert 1e9 / peak < seconds < 2e9 / peak
  assert system.compute_units > 100


def test_prior_only_parameters_are_marked_in_the_file():
  content = json.loads((FOLDER / 'tpu-v5p' / 'system.json').read_text())
  statuses = {p['status'] for p in content['parameters'].values()}
  assert statuses <= {'prior', 'unused'}
  assert all(p['source'] for p in content['parameters'].values())


def test_no_checkpoint_holds_rows(shipped):
  for name, found in shipped.items():
    for residual in found.fitted.residuals.values():
      numbers = sum(np.size(w) for w in residual.weights.values())
      assert numbers < 60_000, name


def test_the_software_predicts_published_steps():
  """Narayanan et al., SC 2021, table 1, TFLOP/s by their equation 3."""
  machines = machines_lib.Machines(FOLDER)
  software = software_lib.of_folder(FOLDER)
  common = {
    'dataset': 'megatron_sc21_table1', 'seq_len': 2048, 'vocab': 51200,
    'accelerator': 'A100-80GB-SXM', 'accel_per_node': 8, 'precision': 'fp16',
    'recompute': 'full', 'framework': 'Megatron-LM', 'gated_mlp': False,
  }  # fmt: skip
  names = ('n_layers', 'hidden', 'heads', 'n_accel', 'tp', 'pp', 'vp', 'mbs',
           'gbs', 'tflops')  # fmt: skip
  published = [
    (40, 6144, 48, 256, 8, 1, 1, 8, 1024, 135),
    (80, 12288, 96, 1536, 8, 8, 2, 2, 2304, 148),
    (128, 25600, 160, 3072, 8, 64, 1, 1, 3072, 163),
  ]
  rows = []
  for values in published:
    row = dict(zip(names, values, strict=True)) | common
    layers, h, batch = row['n_layers'], row['hidden'], row['gbs']
    flops = 96.0 * batch * 2048 * layers * h**2
    flops *= 1.0 + 2048 / (6.0 * h) + 51200 / (16.0 * layers * h)
    row['step_time_s'] = flops / (row['n_accel'] * row['tflops'] * 1e12)
    rows.append(row)
  answers = software.predict(table.Kind.TRAINING, rows, machines)
  for answer in answers:
    assert answer.is_answered
    assert answer.predicted == pytest.approx(answer.observed, rel=0.1)
