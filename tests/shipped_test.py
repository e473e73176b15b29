"""The checkpoints that ship: whole, small, and honest about their origin."""

import json
import pathlib

import numpy as np
import pytest

from diffmem import checkpoint
from diffmem.cost import Demand, predict
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
