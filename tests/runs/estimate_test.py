"""One job's estimate: its parts add up, and bad input names the way out."""

import pytest

from diffmem import errors
from diffmem.runs import estimate
from diffmem.runs.machines import Machines
from diffmem.runs.software import Software
from diffmem.workloads import load_workload
from diffmem.workloads.train_kernels import Mesh


@pytest.fixture(scope='module')
def common(root):
  return {
    'machines': Machines(root / 'checkpoints'),
    'software': Software.prior(),
  }


def _train(common, mesh=None, **changes):
  mesh = mesh or Mesh(devices=64, tensor=8, sharded=8)
  asked = {'seq_len': 4096, 'sequences': 64, 'micro_batch': 1} | changes
  model = load_workload('llama-3.1-8b')
  return estimate.estimate_training(model, 'h100-sxm', mesh, **asked, **common)


@pytest.fixture(scope='module')
def trained(common):
  return _train(common)


def test_a_step_is_between_the_peak_and_a_tenth_of_it(trained):
  best, low, high = trained.times_s['step_time_s']
  assert low < best < high
  flops = 6.0 * 7.5e9 * 64 * 4096
  assert 1.0 < best * 64 * 989e12 / flops < 10.0
  assert trained.tokens_per_s == pytest.approx(64 * 4096 / best)


def test_the_account_balances(trained):
  found = trained.account
  total = sum(line.energy_J for line in found.lines)
  assert total == pytest.approx(found.total_J, rel=1e-9)
  best = trained.times_s['step_time_s'][0]
  assert found.step_s == pytest.approx(best, rel=1e-9)
  assert 150.0 < found.device_power_W < 701.0
  assert trained.bill.token_usd == pytest.approx(
    64 * 2.95 / 3600.0 / trained.tokens_per_s
  )


def test_the_document_holds_it_all(trained):
  document = trained.document()
  assert document['fits'] is True
  peak_B = sum(document['memory_B'].values())
  assert peak_B < document['capacity_B'] == pytest.approx(80e9)
  assert document['times_s']['step_time_s']['best'] > 0


def test_what_does_not_fit_says_what_fills_it(common):
  found = _train(common, Mesh(devices=8))
  assert not found.fits and 'does not fit' in found.help
  assert 'mostly' in found.help


def test_a_machine_that_was_never_measured_says_so(common):
  found = estimate.estimate_training(
    load_workload('llama-3.1-8b'), 'tpu-v5p', Mesh(devices=8, sharded=8),
    seq_len=2048, sequences=8, micro_batch=1, **common,
  )  # fmt: skip
  assert 'never measured' in found.help


@pytest.mark.parametrize(
  ('mesh', 'changes', 'match'),
  [
    (None, {'seq_len': 200_000}, 'exceed the context'),
    (Mesh(devices=64, tensor=5), {}, 'does not divide 64'),
    (None, {'sequences': 60}, 'the nearest batch is 64'),
    (Mesh(devices=64, sharded=6), {}, 'does not divide'),
    (Mesh(devices=64, tensor=8, expert=12), {}, 'the nearest is 16'),
  ],
)
def test_bad_input_names_the_nearest_valid(common, mesh, changes, match):
  with pytest.raises(errors.SpecError, match=match):
    _train(common, mesh, **changes)


def test_an_unknown_accelerator_is_named(common):
  with pytest.raises(errors.SpecError, match='Gaudi'):
    estimate.estimate_training(
      load_workload('llama-3.1-8b'), 'Gaudi2', Mesh(devices=8), seq_len=64,
      sequences=8, micro_batch=1, **common,
    )  # fmt: skip


def test_serving_answers_with_both_latencies(common):
  model = load_workload('llama-3.1-8b')
  found = estimate.estimate_serving(
    model, 'h100-sxm', input_len=1024, output_len=256, concurrency=16, **common
  )
  assert set(found.times_s) == {'ttft_s', 'tpot_s'}
  tpot_s = found.times_s['tpot_s'][0]
  # At least the weights are read for every token, at most ten times that.
  weights_s = 2.0 * 8.03e9 / 3.35e12
  assert 0.8 * weights_s < tpot_s < 10.0 * weights_s
  assert 5.0 < found.tokens_per_s * tpot_s <= 16.0
  assert found.fits


def test_good_guesses_shorten_the_time_of_a_token(common):
  model = load_workload('llama-3.1-8b')
  tpot_s = {}
  for accepted in (0.0, 0.8):
    found = estimate.estimate_serving(
      model, 'h100-sxm', input_len=1024, output_len=256, concurrency=4,
      drafted=3, accepted=accepted, **common,
    )  # fmt: skip
    tpot_s[accepted] = found.times_s['tpot_s'][0]
  # The same steps yield 1 token, or 1 + 0.8 + 0.64 + 0.512.
  assert tpot_s[0.0] / tpot_s[0.8] == pytest.approx(2.952)
