"""Fits of machines whose parameters are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from diffmem import errors, fitting
from diffmem.fitting import loss, optimise, split, uncertainty
from diffmem.system import (
  Status,
  cpu_system,
  leaves_by_name,
  what_to_measure,
)

from . import synthetic


@pytest.fixture(scope='module')
def traces():
  return synthetic.measured()


@pytest.fixture(scope='module')
def prior():
  return cpu_system('synthetic', synthetic.CACHES_B, (True, True, False))


@pytest.fixture(scope='module')
def held(traces):
  return fitting.hold_out(traces)


OPTIONS = fitting.FitOptions(starts=8, draws=48)


@pytest.fixture(scope='module')
def result(prior, traces, held):
  return fitting.fit(prior, traces.select(~held), OPTIONS)


def test_held_out_errors_are_at_the_noise(result, traces, held):
  predictions = fitting.predict_traces(result.fitted, traces.select(held))
  plateau = np.array(['|' not in tier for tier in predictions.tier])
  summary = fitting.summary(predictions.select(plateau))
  assert result.converged
  assert summary['unanswered'] == 0
  assert summary['median_ape'] < 2.5  # the noise's own median is 1.35 %
  assert summary['p90_ape'] < 6.0
  everything = fitting.summary(predictions)
  assert 80 <= everything['coverage90'] <= 100


def test_fitted_parameters_are_recovered(result):
  true, system = synthetic.true_system(), result.fitted.system
  misses = []
  for name in result.fitted.named(Status.FITTED):
    error = float(leaves_by_name(system)[name] - leaves_by_name(true)[name])
    stderr = result.fitted.knowledge[name].stderr
    if abs(error) > 3 * stderr + 0.02:
      misses.append((name, error, stderr))
  assert len(misses) <= 1, misses
  for name in ('DRAM.latency_s', 'L2.latency_s', 'disk.read_Bps'):
    assert float(system.values()[name]) == pytest.approx(
      float(true.values()[name]), rel=0.05
    )


def test_what_the_data_cannot_tell_is_named(result):
  unidentified = result.fitted.named(Status.UNIDENTIFIED)
  # Two threads do not saturate the shared cache: its capacity stays open.
  assert 'L3.read_Bps' in unidentified
  assert 'more participants' in result.fitted.knowledge['L3.read_Bps'].measure
  assert any('L3.read_Bps' in line for line in result.help)
  prior_only = result.fitted.named(Status.PRIOR)
  assert 'DRAM.path_J_per_B' in prior_only
  assert 'power' in result.fitted.knowledge['DRAM.path_J_per_B'].measure


def test_ensemble_has_the_width_of_the_knowledge(result):
  ensemble = result.fitted.ensemble
  assert result.fitted.draws == 48
  known = result.fitted.knowledge
  log_latency = np.asarray(ensemble.tier('DRAM').log_latency_s)
  assert log_latency.std() < 3 * known['DRAM.latency_s'].stderr + 0.01
  log_energy = np.asarray(ensemble.tier('DRAM').log_path_J_per_B)
  assert log_energy.std() == pytest.approx(0.5, rel=0.4)


def test_outliers_do_not_move_the_fit(prior, traces, held, result):
  train = traces.select(~held)
  bad = np.random.default_rng(5).random(len(train)) < 0.05
  spoiled = dict(train.columns)
  for name in ('latency_s', 'bandwidth_Bps'):
    is_loaded = train['op'] == 'loaded_latency'
    spoiled[name] = np.where(bad & ~is_loaded, 3.0, 1.0) * train[name]
  options = dataclasses.replace(OPTIONS, draws=0)
  found = fitting.fit(
    prior, dataclasses.replace(train, columns=spoiled), options
  )
  for name in ('DRAM.latency_s', 'L1.latency_s', 'disk.read_Bps'):
    before = float(result.fitted.system.values()[name])
    assert float(found.fitted.system.values()[name]) == pytest.approx(
      before, rel=0.05
    )


def test_interrupted_fits_go_on_to_the_same_end(
  prior, traces, held, result, tmp_path
):
  """Stopped and gone on with, a fit gives what it gave before, bit by bit."""
  path = tmp_path / 'state.npz'
  options = dataclasses.replace(OPTIONS, resume_path=path)
  calls = []

  class StopError(Exception):
    pass

  def stop_in_bootstrap(stage, done, total):
    calls.append(stage)
    if stage == 'bootstrap' and done == 8:
      raise StopError

  train = traces.select(~held)
  with pytest.raises(StopError):
    fitting.fit(prior, train, options, stop_in_bootstrap)
  assert path.exists()
  resumed = []
  found = fitting.fit(
    prior, train, options, lambda stage, done, total: resumed.append(stage)
  )
  assert 'search' in calls and 'search' not in resumed
  assert not path.exists()
  for name in ('system', 'ensemble'):
    assert jax.tree.all(
      jax.tree.map(
        np.array_equal,
        getattr(found.fitted, name),
        getattr(result.fitted, name),
      )
    )
  assert found.loss == result.loss


def test_a_damaged_state_is_started_anew(prior, traces, held, tmp_path):
  path = tmp_path / 'state.npz'
  path.write_bytes(b'rubbish')
  options = fitting.FitOptions(starts=1, steps=3, draws=0, resume_path=path)
  # Of as many rows as the other fits: nothing is compiled again.
  fitting.fit(prior, traces.select(~held), options)
  assert not path.exists()


def test_too_few_rows(prior, traces):
  with pytest.raises(errors.FitError, match='2 rows'):
    fitting.fit(prior, traces.select(np.arange(2)))


def test_unknown_tier_names_the_row(prior, traces):
  rows = traces.rows()
  rows[4]['tier'] = 'HBM'
  from diffmem.traces import from_rows

  with pytest.raises(errors.FitError, match="row 5: tier 'HBM'"):
    fitting.fit(prior, from_rows(rows, 'a.csv'))


class TestOptimisers:
  """Adam and Levenberg-Marquardt against scipy on a small robust problem."""

  rng = np.random.default_rng(0)
  x = np.linspace(0.1, 4.0, 40)
  y = 2.5 * np.exp(-0.7 * x) + 0.3 + 0.01 * rng.standard_normal(40)
  y[7] += 1.0

  def terms(self, theta):
    z = (theta[0] * jnp.exp(-theta[1] * self.x) + theta[2] - self.y) / 0.05
    return optimise.Terms(z, jnp.ones_like(z), jnp.full_like(z, 1.5))

  def reference(self):
    def cost(theta):
      z = (theta[0] * np.exp(-theta[1] * self.x) + theta[2] - self.y) / 0.05
      return np.sum(1.5**2 * (np.sqrt(1 + (z / 1.5) ** 2) - 1))

    return scipy.optimize.minimize(
      cost, [1.0, 1.0, 0.0], method='Nelder-Mead',
      options={'xatol': 1e-9, 'fatol': 1e-12, 'maxiter': 4000},
    )  # fmt: skip

  def test_levenberg_marquardt(self, x64):
    found = jax.jit(
      lambda t: optimise.levenberg_marquardt(
        self.terms, t, steps=100, tolerance=1e-12
      )
    )(jnp.array([1.0, 1.0, 0.0]))
    want = self.reference()
    np.testing.assert_allclose(found.theta, want.x, rtol=1e-4)
    assert float(found.loss) == pytest.approx(want.fun, rel=1e-6)
    assert bool(found.converged)

  def test_adam_gets_close(self, x64):
    found = jax.jit(lambda t: optimise.adam(self.terms, t, steps=800))(
      jnp.array([1.0, 1.0, 0.0])
    )
    assert float(found.loss) == pytest.approx(self.reference().fun, rel=0.02)

  def test_a_lane_that_explodes_does_not_spread(self, x64):
    starts = jnp.array([[1.0, 1.0, 0.0], [jnp.nan, 1.0, 0.0]])
    found = jax.jit(
      jax.vmap(lambda t: optimise.levenberg_marquardt(self.terms, t, steps=60))
    )(starts)
    assert np.isfinite(found.loss[0]) and np.isinf(found.loss[1])

  def test_the_weights_are_the_slope_of_the_loss(self, x64):
    z = jnp.linspace(-30.0, 30.0, 13)
    delta = jnp.full_like(z, 1.5)
    slope = jax.grad(lambda z: loss.pseudo_huber(z, delta).sum())(z)
    np.testing.assert_allclose(slope, 2 * loss.irls_weight(z, delta) * z)
    square = loss.pseudo_huber(z, jnp.full_like(z, jnp.inf))
    np.testing.assert_allclose(square, z**2)


class TestSplit:
  def test_whole_sizes_go_out_together(self, traces):
    held = split.hold_out(traces, every=4, seed=1)
    cells = split.cells(traces)
    assert 0.1 < held.mean() < 0.4
    for cell in set(cells):
      assert len(set(held[cells == cell])) == 1

  def test_ends_stay(self, traces):
    for seed in range(4):
      held = split.hold_out(traces, every=4, seed=seed)
      chase = traces['op'] == 'pointer_chase'
      size = traces['working_set_bytes']
      assert not held[chase & (size == size[chase].min())].any()
      blocks = traces['granule_bytes']
      disk = traces['op'] == 'random_read'
      assert not held[disk & (blocks == blocks[disk].max())].any()

  def test_every_cell_is_held_out_by_some_seed(self, traces):
    ever = np.any([split.hold_out(traces, seed=s) for s in range(4)], axis=0)
    assert ever.mean() > 0.7
    assert not split.hold_out(traces, every=0).any()


class TestUncertainty:
  def test_standard_errors_against_a_known_covariance(self):
    rng = np.random.default_rng(0)
    jacobian = rng.standard_normal((30, 3))
    want = np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian)))
    got = uncertainty.standard_errors(jacobian.T @ jacobian)
    np.testing.assert_allclose(got, want)

  def test_bootstrap_weights_are_equal_within_a_cell(self):
    cell = np.array([0, 0, 1, 2, 2, 2])
    weights = uncertainty.cell_weights(cell, 500, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    np.testing.assert_allclose(weights.mean(0), 1.0, atol=0.15)

  def test_every_parameter_has_something_to_measure(self, prior):
    for name in prior.system.infos():
      text = what_to_measure(prior.system, name)
      assert text and '{' not in text
