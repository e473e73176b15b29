"""Transfer: only what the data sheets change, and less sure of it."""

import dataclasses

import jax
import numpy as np
import pytest

from diffmem import checkpoint, errors, fitting
from diffmem.system import Status, leaves_by_name

from . import device


@pytest.fixture(scope='module')
def relative():
  """A 'fitted' part: 8 % below its data sheet, with a small ensemble."""
  sheet = device.spec()
  hbm = float(sheet.system.tier('HBM').read_Bps)
  system = sheet.system.with_values(
    {'HBM.read_Bps': 0.92 * hbm, 'matrix:bfloat16.start_s': 5e-6}
  )
  rng = np.random.default_rng(0)
  ensemble = jax.tree.map(lambda x: x + 0.01 * rng.standard_normal(50), system)
  return dataclasses.replace(
    sheet, system=system, ensemble=ensemble, scatter={'gemm': 0.05}
  )


def test_the_achieved_share_of_the_peak_is_carried_over(relative):
  sheet, faster = device.spec(), device.spec('faster', 4e12)
  found = fitting.transfer(relative, sheet, faster)
  system = found.fitted.system
  assert system.name == 'faster'
  assert float(system.tier('HBM').read_Bps) == pytest.approx(0.92 * 4e12)
  # What the data sheets state alike stays as it was measured.
  assert float(system.engine('matrix:bfloat16').start_s) == pytest.approx(5e-6)
  changed = {change.name for change in found.changes}
  assert changed == {'HBM.read_Bps', 'HBM.write_Bps', 'HBM.mixed_Bps'}


def test_the_same_part_changes_nothing(relative):
  found = fitting.transfer(relative, device.spec(), device.spec())
  assert not found.changes
  before, after = (
    leaves_by_name(s) for s in (relative.system, found.fitted.system)
  )
  for name in before:
    np.testing.assert_allclose(after[name], before[name])


def test_nothing_of_the_new_part_counts_as_measured(relative):
  found = fitting.transfer(relative, device.spec(), device.spec('b', 4e12))
  statuses = {k.status for k in found.fitted.knowledge.values()}
  assert statuses <= {Status.PRIOR, Status.UNUSED}
  known = found.fitted.knowledge['HBM.read_Bps']
  assert 'times 2' in known.source and 'transferred from' in known.source


def test_a_part_swap_is_the_transfer_to_changed_figures(relative):
  sheet, faster = device.spec(), device.spec('sheet', 4e12)
  changed = fitting.with_figures(sheet, {'HBM.read_Bps': 4e12}, 'a rumour')
  swapped = fitting.part_swap(relative, sheet, changed)
  expected = fitting.transfer(relative, sheet, faster).fitted
  for name, leaf in leaves_by_name(expected.system).items():
    got = leaves_by_name(swapped.system)[name]
    np.testing.assert_allclose(got, leaf, rtol=1e-12, err_msg=name)
  assert 'a rumour' in swapped.knowledge['HBM.read_Bps'].source
  assert 'a rumour' in changed.knowledge['HBM.write_Bps'].source


def test_figures_that_make_no_sense_are_refused():
  with pytest.raises(errors.SpecError, match='did you mean .HBM.read_Bps'):
    fitting.with_figures(device.spec(), {'HBM.read_Bp': 1e12}, 'typo')
  with pytest.raises(errors.SpecError, match='above 0'):
    fitting.with_figures(device.spec(), {'HBM.read_Bps': 0.0}, 'nothing')


def test_h200_from_h100_takes_two_figures_from_its_data_sheet():
  """No H200 measurement that the catalog quotes (L2, watts) gets in."""
  old, new = (checkpoint.load_system(n) for n in ('h100-sxm', 'h200-sxm'))
  sheet = fitting.with_figures(
    old, {'HBM.read_Bps': 4.8e12, 'HBM.capacity_B': 141e9}, 'NVIDIA'
  )
  whole = leaves_by_name(fitting.transfer(old, old, new).fitted.system)
  stated = leaves_by_name(fitting.part_swap(old, old, sheet).system)
  assert whole.keys() == stated.keys()
  for name, leaf in whole.items():
    np.testing.assert_allclose(stated[name], leaf, rtol=1e-12, err_msg=name)


def test_intervals_widen(relative):
  found = fitting.transfer(relative, device.spec(), device.spec('b', 4e12))
  for name, leaf in leaves_by_name(found.fitted.ensemble).items():
    before = np.std(leaves_by_name(relative.ensemble)[name])
    assert np.std(leaf) > 3.0 * before, name
  assert found.fitted.scatter['gemm'] == pytest.approx(np.hypot(0.05, 0.1))


def test_compute_units_scale_what_is_in_flight(relative):
  sheet = device.spec('big')
  system = dataclasses.replace(sheet.system, compute_units=150)
  big = dataclasses.replace(sheet, system=system)
  found = fitting.transfer(relative, device.spec(), big)
  ratio = float(found.fitted.system.tier('HBM').read_in_flight_B) / float(
    relative.system.tier('HBM').read_in_flight_B
  )
  assert ratio == pytest.approx(1.5)
  assert found.fitted.system.compute_units == 150


def test_another_generation_is_less_certain(relative):
  sheet = device.spec()
  known = dict(sheet.knowledge)
  name = 'matrix:bfloat16.rate_FLOPps'
  known[name] = dataclasses.replace(known[name], prior=2 * known[name].prior)
  newer = dataclasses.replace(sheet, knowledge=known)
  near = fitting.transfer(relative, sheet, sheet)
  far = fitting.transfer(relative, sheet, newer)
  assert near.fitted.scatter['gemm'] == pytest.approx(np.hypot(0.05, 0.1))
  assert far.fitted.scatter['gemm'] > 2 * near.fitted.scatter['gemm']
