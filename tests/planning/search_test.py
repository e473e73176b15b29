"""Bounds of whole spaces, interrupts, and programs that are kept."""

import jax
import numpy as np
import pytest

from diffmem.planning import (
  Constraints,
  PlanOutcome,
  dual_bank,
  make_plan,
  model,
  objective,
  programs,
  sensitivity,
  sweep,
)
from diffmem.planning import space as space_lib
from diffmem.planning.fronts.trade_off import trade_off
from diffmem.workloads import Training, machine_of

ASKED = {'chips': 8, 'global_batch_tokens': 2**18, 'seq_len': 4096, 'top': 1}


@pytest.fixture(scope='module')
def tight(make_system):
  """With so little near memory that no plan fits it alone."""
  return make_system(**{'HBM.capacity_B': 5e9})


@pytest.fixture(scope='module')
def result(tight, moe):
  return make_plan(tight, moe, **ASKED, details=False)


@pytest.fixture(scope='module')
def job(tight, moe):
  return model.Job(
    moe, Training(4096, 64), machine_of(tight, 8), objective.Objective()
  )


@pytest.fixture(scope='module')
def space(job):
  return space_lib.space_of(job.model, job.phase, 8, job.machine)


def test_bounds_are_below_and_near_every_optimum(tight, job, space):
  rng = np.random.default_rng(0)
  found = sweep.sweep(tight, job, space, 1)
  fits = np.flatnonzero(found.fits)
  wanted = np.sort(rng.choice(fits, 24, replace=False))
  with jax.enable_x64(True):
    values = [
      sensitivity.solve_mesh(tight, job, space.at(np.array([i]))).value
      for i in wanted
    ]
    groups = model.start(tight, job, space.at(wanted[:1])).lowered.groups
    bounds = dual_bank.lower_bounds(
      tight, job, space, wanted, job.allowed(groups), 10 * max(values)
    )
  values = np.array(values)
  assert (bounds <= values * (1 + 1e-9)).all()
  # Far better than with everything near, which is what the sweep knows.
  assert np.median(bounds / values) > 0.97
  near = found.bound[wanted] / values
  assert np.median(near) < np.median(bounds / values) - 0.05


def test_the_bank_alone_bounds_too(tight, job, space):
  found = sweep.sweep(tight, job, space, 1)
  wanted = np.flatnonzero(found.fits)[:40]
  with jax.enable_x64(True):
    planes = dual_bank.planes_of(tight, job, space, wanted)
    groups = model.start(tight, job, space.at(wanted[:1])).lowered.groups
    allowed = job.allowed(groups)
    own = dual_bank.programme(planes, allowed, 1.0)
    exact = dual_bank.own_bounds(planes, allowed, own)
    bank = dual_bank.Multipliers(*(table[::10] for table in own))
    tried = dual_bank.evaluate(planes, allowed, bank)
  # A programme's own multipliers are the best for its mesh.
  assert (tried <= exact[:, None] + 1e-6 * abs(exact[:, None])).all()
  np.testing.assert_allclose(tried[::10].diagonal(), exact[::10], rtol=1e-9)


def test_an_interrupt_keeps_what_is_known(monkeypatch, tight, moe, result):
  monkeypatch.setattr(sweep, '_BATCHES', {False: 256, True: 256})
  calls = []

  def stop(stage, done, total):
    calls.append(done)
    if stage == 'configurations' and done >= 1024:
      raise KeyboardInterrupt

  found = make_plan(tight, moe, **ASKED, details=False, on_progress=stop)
  assert found.outcome is PlanOutcome.INTERRUPTED
  assert len(found.plans) == 1 and '1024 of' in found.help
  best = result.plans[0].predicted['step_time_s']
  mine = found.plans[0].predicted['step_time_s']
  assert mine >= best * (1 - 1e-6)
  # The gap is proven: the best of all is not below.
  assert found.search.bound <= best * (1 + 1e-9)
  assert 0 < found.search.certified_gap < 1


def test_homes_are_kept_and_cost_something(tight, moe, result):
  homes = Constraints.parse(homes=['optimizer=DRAM'], only=['tensor=2'])
  found = make_plan(tight, moe, **ASKED, details=False, constraints=homes)
  plan = found.plans[0]
  assert plan.placement['optimizer'] == {'HBM': 0, 'DRAM': 1, 'SSD': 0}
  assert plan.mesh['tensor'] == 2
  free = result.plans[0].predicted['step_time_s']
  assert plan.predicted['step_time_s'] > free
  assert found.search.certified_gap < 2e-3


def test_limits_that_leave_nothing_say_what_to_relax(tight, moe):
  limited = Constraints.parse(memory=['HBM=1 GB', 'DRAM=1 GB', 'SSD=1 GB'])
  found = make_plan(tight, moe, **ASKED, constraints=limited)
  assert found.outcome is PlanOutcome.NO_MEMORY
  assert any('raise the limit of HBM' in text for text in found.limit['relax'])
  assert 'Raise the limit of' in found.help


def test_a_front_of_time_and_energy(tight, moe, result):
  asked = {k: v for k, v in ASKED.items() if k != 'chips'}
  front = trade_off(
    tight, moe, ('step_time_s', 'energy_per_token_J'), [8], searches=3, **asked
  )
  times = [p.metrics['step_time_s'] for p in front.points]
  joules = [p.metrics['energy_per_token_J'] for p in front.points]
  assert times == sorted(times) and joules == sorted(joules, reverse=True)
  best = result.plans[0].predicted['step_time_s']
  assert times[0] == pytest.approx(best, rel=2e-3)
  assert all(0 <= p.slack < 0.2 for p in front.points)


def test_programs_are_kept_beside_xlas(tmp_path):
  traced = []

  def double(x, times):
    traced.append(times)
    return {'out': x * times}

  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  try:
    for _ in range(2):  # a second process has a new Program
      program = programs.Program(double, (1,))
      for _ in range(2):
        found = program(np.arange(3.0), 2)
      np.testing.assert_array_equal(found['out'], [0, 2, 4])
    assert traced == [2]
    kept = [p for p in tmp_path.iterdir() if p.name.startswith('diffmem-')]
    kept[0].write_bytes(kept[0].read_bytes()[:100])  # cut short
    found = programs.Program(double, (1,))(np.arange(3.0), 2)
    np.testing.assert_array_equal(found['out'], [0, 2, 4])
    assert traced == [2, 2]
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
