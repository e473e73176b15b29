"""Residuals: what they learn, what they refuse, how sure they are."""

import dataclasses

import jax
import numpy as np
import pytest

from diffmem import fitting
from diffmem.fitting import (
  corrections,
  inputs,
  kernel_rows,
  observe,
  residual,
)
from diffmem.traces import concat

from . import device

OPTIONS = fitting.ResidualOptions(members=3, hidden=24, steps=(1500, 1500))


def quietly(*_):
  """Progress that nobody watches."""


@pytest.fixture(scope='module')
def trained():
  rows, _ = device.products()
  with jax.enable_x64(True):
    found = corrections.train(device.spec().system, rows, OPTIONS, 0, quietly)
  return found


@pytest.fixture(scope='module')
def corrected(trained):
  return dataclasses.replace(device.spec(), residuals=trained)


def test_a_residual_learns_what_the_laws_leave_over(corrected):
  unseen, factor = device.products(seed=1, rows=400)
  found = fitting.predict_traces(corrected, unseen)
  summary = fitting.summary(found)
  # The factor is up to 1.65; its noise alone has a mean error of 0.8 %.
  assert fitting.summary(found.without_residuals())['mape'] > 10.0
  assert summary['mape'] < 3.0
  assert summary['unanswered'] == 0
  np.testing.assert_allclose(found.observed / found.by_laws, factor, rtol=1e-4)


def test_intervals_hold_unseen_rows(corrected):
  unseen, _ = device.products(seed=2, rows=500)
  summary = fitting.summary(fitting.predict_traces(corrected, unseen))
  assert 83.0 <= summary['coverage90'] <= 97.0


def test_rows_without_a_residual_keep_the_laws(corrected):
  rows, _ = device.products(seed=3, rows=20)
  plain = dataclasses.replace(
    rows, columns=dict(rows.columns) | {'n': np.full(20, np.nan)}
  )
  both = concat([rows, plain])
  found = fitting.predict_traces(corrected, both)
  assert list(found.row) == list(range(40))
  same = found.predicted == found.by_laws
  assert not same[:20].any() and same[20:].all()


def test_an_unknown_number_format_is_answered_and_less_sure(corrected):
  rows, _ = device.products(seed=4, rows=50)
  columns = dict(rows.columns) | {'dtype': np.array(['float4'] * 50, object)}
  found = fitting.predict_traces(
    corrected, dataclasses.replace(rows, columns=columns)
  )
  assert np.isfinite(found.predicted).all() and (found.predicted > 0).all()


def test_beyond_training_the_correction_stays_and_the_interval_grows(trained):
  known = trained['gemm.time_s']
  middle = known.mean[None]
  beyond = known.high + 10.0 * known.scale
  edge, far = (
    inputs.Inputs(known.inputs, table, np.full((1, 1), '', object))
    for table in (known.high[None], beyond[None])
  )
  at_edge, sure = residual.correct(known, edge)
  at_far, unsure = residual.correct(known, far)
  np.testing.assert_allclose(at_far, at_edge, rtol=1e-6)
  assert unsure > 5.0 * sure
  assert np.abs(at_far) <= residual._LIMIT
  assert np.isfinite(middle).all()


def test_few_rows_get_no_residual():
  rows, _ = device.products(rows=residual.MIN_ROWS - 1)
  with jax.enable_x64(True):
    found = corrections.train(device.spec().system, rows, OPTIONS, 0, quietly)
  assert not found


def test_no_member_sees_the_cells_of_its_fold():
  # Cells with values of their own: a network that saw a cell would know it.
  rng = np.random.default_rng(0)
  rows, cells = 1200, 300
  cell = np.repeat(np.arange(cells), rows // cells)
  value = 0.5 * rng.standard_normal(cells)[cell]
  table = np.stack([np.sin(7.0 * cell), np.cos(11.0 * cell)], 1)
  seen = inputs.Inputs(('a', 'b'), table, np.full((rows, 1), '', object))
  found = residual.train('op', 'time_s', seen, value, cell, OPTIONS)
  mean, half_width = residual.correct(found, seen)
  # 90 % of new cells, drawn alike, must lie within what it says.
  fresh = 0.5 * rng.standard_normal(rows)
  inside = np.abs(fresh - mean) <= half_width
  assert inside.mean() > 0.8


def test_training_is_reproducible(trained):
  rows, _ = device.products()
  with jax.enable_x64(True):
    again = corrections.train(device.spec().system, rows, OPTIONS, 0, quietly)
  for name, weights in trained['gemm.time_s'].weights.items():
    np.testing.assert_array_equal(again['gemm.time_s'].weights[name], weights)


def test_engines_are_borrowed_and_scaled():
  rows, _ = device.products(rows=40)
  columns = dict(rows.columns) | {
    'quantization': np.array(['nvfp4'] * 40, object),
    'dtype': np.array(['float4'] * 40, object),
  }
  prior = kernel_rows.with_engines(
    device.spec(), dataclasses.replace(rows, columns=columns)
  )
  engine = prior.system.engine('matrix:nvfp4')
  assert float(engine.rate_FLOPps) == pytest.approx(2 * 1200e12)
  known = prior.knowledge['matrix:nvfp4.rate_FLOPps']
  assert known.source.startswith(kernel_rows.BORROWED)
  assert set(prior.knowledge) == set(prior.system.infos())


def test_a_sample_keeps_every_kind_and_all_other_rows():
  rows, _ = device.products(rows=500)
  rare = rows.select(np.arange(500) < 6)
  rare = dataclasses.replace(
    rare,
    columns=dict(rare.columns) | {'variant': np.array(['rare'] * 6, object)},
  )
  stream = dataclasses.replace(
    rare, columns=dict(rare.columns) | {'op': np.array(['stream'] * 6, object)}
  )
  everything = concat([rows, rare, stream])
  part = kernel_rows.sample(device.spec().system, everything, 100, 0)
  assert (part['op'] == 'stream').sum() == 6
  assert ((part['variant'] == 'rare') & (part['op'] == 'gemm')).sum() == 6
  assert (part['op'] == 'gemm').sum() == 100


def test_a_kernel_demand_is_that_of_its_law():
  rows, _ = device.products(rows=30)
  system = device.spec().system
  demand = observe.demand_of(system, rows)
  (group,) = kernel_rows.groups(system, rows)
  at = np.arange(30)
  np.testing.assert_allclose(demand.flops[at, group.engine], group.work.flops)
  hbm = system.tier_names.index('HBM')
  np.testing.assert_allclose(demand.read_B[:, hbm], group.work.read_B)
  np.testing.assert_allclose(demand.starts.sum(1), group.work.starts)
  assert (demand.launches == 0).all()


def test_collectives_cross_the_link_both_ways():
  from diffmem.traces import from_rows

  rows = from_rows(
    [
      {
        'system': 'sheet', 'op': 'all_reduce', 'message_bytes': 2.0**20,
        'participants': 4, 'variant': 'nccl 2 ring', 'time_s': 1e-4,
      }
    ]
  )  # fmt: skip
  system = kernel_rows.with_engines(device.spec(), rows).system
  demand = observe.demand_of(system, rows)
  link = system.tier_names.index('NVLink')
  # A ring of four sends 2 (4 - 1) / 4 of the vector.
  assert demand.read_B[0, link] == pytest.approx(1.5 * 2**20)
  assert demand.write_B[0, link] == pytest.approx(1.5 * 2**20)
  assert (
    demand.starts[0, system.engine_names.index('collective:nccl ring')] == 1.0
  )


def test_fit_and_evaluate_a_kernel_table():
  rows, _ = device.products(rows=400)
  options = fitting.FitOptions(
    starts=2, steps=10, draws=4, draw_steps=2, max_rows=150, residual=OPTIONS
  )
  found, groups = fitting.fit_held_out(device.spec(), rows, options, 4)
  (group,) = groups
  assert group['op'] == 'gemm' and group['mape'] < 6.0
  assert set(found.fitted.residuals) == {'gemm.time_s'}
  peak = float(device.spec().system.engine('matrix:float8').rate_FLOPps)
  rate = float(found.fitted.system.engine('matrix:float8').rate_FLOPps)
  assert rate < 1.1 * peak  # a published peak is a ceiling
  table = fitting.accuracy(found.fitted, device.spec().system, rows)
  assert table[0]['roofline_mape'] > table[0]['mape']
  assert table[0]['laws_mape'] > 2.0 * table[0]['mape']


def test_a_fit_that_was_cut_off_goes_on_with_its_residuals(tmp_path):
  rows, _ = device.products(rows=300)
  options = fitting.FitOptions(
    starts=2, steps=4, draws=2, draw_steps=2, max_rows=100,
    residual=fitting.ResidualOptions(members=2, hidden=8, steps=(50, 50)),
    resume_path=tmp_path / 'fitting.npz',
  )  # fmt: skip

  def stop(stage, done, total):
    if stage == 'residuals' and done == total:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    fitting.fit(device.spec(), rows, options, stop)
  with np.load(options.resume_path) as kept:
    assert any(name.startswith('residual ') for name in kept.files)
  stages = []
  again = fitting.fit(
    device.spec(), rows, options, lambda stage, *_: stages.append(stage)
  )
  assert 'search' not in stages
  assert not options.resume_path.exists()
  plain = dataclasses.replace(options, resume_path=None)
  whole = fitting.fit(device.spec(), rows, plain)
  for name, weights in whole.fitted.residuals['gemm.time_s'].weights.items():
    found = again.fitted.residuals['gemm.time_s'].weights[name]
    np.testing.assert_array_equal(found, weights)
