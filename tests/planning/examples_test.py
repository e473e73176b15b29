"""The examples run as a user runs them, from a plan in a file."""

import pytest
from hand_made_plans import plan_of

from diffmem.planning.export import plan_to_json
from tests.experiments.running import run


@pytest.fixture
def write(tmp_path):
  def one(plan):
    path = tmp_path / 'plan.json'
    path.write_text(plan_to_json(plan))
    return f'--plan={path}'

  return one


def test_training_with_a_plan_has_the_losses_of_training_without(write):
  away = {'HBM': 0.0, 'DRAM': 1.0}
  half = {'HBM': 0.5, 'DRAM': 0.5}
  plan = plan_of(
    {'optimizer': away, 'mlp_weights': half},
    micro_batch=4, tensor=2, fsdp=2, data=2,
  )  # fmt: skip
  done = run('examples.train_with_plan', write(plan), '--steps=3')
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'optimizer states live in: pinned_host\n' in done.stdout
  first, last = done.stdout.split('without:')[1].split()[::2][:2]
  assert float(last) < float(first)


def test_serving_with_a_tiered_cache_gives_the_same_tokens(write):
  plan = plan_of(
    {'kv_cache': {'HBM': 0.25, 'DRAM': 0.75}, 'mlp_weights': {'DRAM': 1.0}},
    tensor=2, data=4,
  )  # fmt: skip
  done = run('examples.serve_with_plan', write(plan), '--tokens=4')
  assert done.returncode == 0, done.stdout + done.stderr
  assert '25 % in device, 75 % in pinned_host' in done.stdout
  assert 'equal tokens: 64 of 64\n' in done.stdout
