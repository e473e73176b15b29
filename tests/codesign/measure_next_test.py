"""What to measure next: slopes, covariances, the whole answer and its list."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from diffmem import errors
from diffmem.codesign.measuring import candidates as candidates_lib
from diffmem.codesign.measuring import choosing, covariance
from diffmem.codesign.measuring.measure_next import NextOutcome as Outcome
from diffmem.codesign.measuring.measure_next import Target, measure_next
from diffmem.codesign.measuring.row_slopes import (
  UNSEEN_SCATTER,
  RowSlopes,
  deviation_of,
  row_slopes,
  row_spread,
)
from diffmem.cost import predict
from diffmem.fitting import observe
from diffmem.system import (
  FittedSystem,
  Status,
  Tier,
  cpu_system,
  from_leaves,
  leaves_by_name,
  to_numpy,
)
from diffmem.traces import from_rows
from diffmem.traces.collect import chosen, disk, memory, programs


@pytest.fixture(scope='module')
def fitted():
  """A CPU without caches, of which all but two parameters are prior."""
  prior = cpu_system('small', (), ())
  known = dict(prior.knowledge)
  for name in ('DRAM.latency_s', 'DRAM.read_Bps'):
    known[name] = dataclasses.replace(
      known[name], status=Status.FITTED, stderr=0.05
    )
  scatter = {'stream': 0.03, 'stream|cliff': 0.09}
  return FittedSystem(to_numpy(prior.system), known, None, scatter)


@pytest.fixture(scope='module')
def candidates(fitted):
  """Two rows of every kind."""
  everything = candidates_lib.candidates_of(fitted, cpus=2)
  kinds = {}
  for row in everything.rows:
    kinds.setdefault(row.op, []).append(row)
  rows = [r for group in kinds.values() for r in (group[0], group[-1])]
  return everything._replace(rows=tuple(rows))


@pytest.fixture(scope='module')
def known(fitted):
  return covariance.covariance_of(fitted)


@pytest.fixture(scope='module')
def rows(fitted, known, candidates):
  with jax.enable_x64(True):
    return row_slopes(fitted, known.names, candidates.traces())


def test_candidates_are_what_a_collection_can_run(fitted, candidates):
  assert candidates.platform == 'cpu'
  said = {text.split(':')[0] for text in candidates.left_out}
  assert 'stream within caches' in said and len(said) == 4
  assert {type(row.probe) for row in candidates.rows} == {
    memory.Chase, memory.Sweep, memory.Loaded, disk.FileRead, programs.Program
  }  # fmt: skip
  assert len({row.probe.name for row in candidates.rows}) == len(
    candidates.rows
  )
  traces = candidates.traces()
  assert len(traces) == len(candidates.rows) and (traces['rel_std'] > 0).all()


def test_what_a_system_lacks_is_left_out_and_said(fitted):
  tiers = [t for t in fitted.system.tiers if t.name in ('disk',)]
  bare = dataclasses.replace(fitted.system, tiers=tuple(tiers), engines=())
  known = {n: k for n, k in fitted.knowledge.items() if n in bare.infos()}
  found = candidates_lib.candidates_of(FittedSystem(bare, known), cpus=2)
  assert {row.part for row in found.rows} == {'disk'}
  assert 'stream on DRAM: no such tier' in found.left_out
  assert any('gemm' in said and 'engine' in said for said in found.left_out)
  behind = (Tier.of('bus', link=True), Tier.of('DRAM', via='bus'), *tiers)
  host = dataclasses.replace(bare, tiers=behind)
  found = candidates_lib.candidates_of(FittedSystem(host, known), cpus=2)
  assert any('on DRAM: behind bus' in said for said in found.left_out)
  assert {row.part for row in found.rows} == {'disk'}
  other = dataclasses.replace(bare, tiers=(Tier.of('tape'),))
  with pytest.raises(errors.PlanError, match='measures nothing of this'):
    candidates_lib.candidates_of(FittedSystem(other, {}), cpus=2)


def test_slopes_are_those_of_finite_differences(
  fitted, known, candidates, rows
):
  traces = candidates.traces()
  observations = observe.observations_of(traces)
  with jax.enable_x64(True):
    demand = observe.demand_of(fitted.system, traces)
    log_of = jax.jit(
      lambda system: observe.predicted_log(
        predict(system, demand), observations.which, observations.row
      )
    )
    leaves = leaves_by_name(fitted.system)
    for name in (
      'DRAM.latency_s', 'DRAM.read_in_flight_B', 'disk.queue_p',
      'matrix:float32.rate_FLOPps', 'DRAM.bend_read',
    ):  # fmt: skip
      up, down = (
        np.asarray(log_of(from_leaves(
          fitted.system, leaves | {name: leaves[name] + step}
        )))
        for step in (1e-5, -1e-5)
      )  # fmt: skip
      found = rows.slopes[:, known.names.index(name)]
      np.testing.assert_allclose(found, (up - down) / 2e-5, atol=2e-6)
  np.testing.assert_array_equal(rows.row, observations.row)


def test_noise_is_the_scatter_of_the_kind_or_of_the_repeats(candidates, rows):
  for i, noise in zip(rows.row, rows.noise, strict=True):
    row = candidates.rows[i]
    if row.op == 'stream':
      repeats = row.rel_std
      assert any(noise == pytest.approx(max(s, repeats)) for s in (0.03, 0.09))
    else:
      assert noise == pytest.approx(math.hypot(UNSEEN_SCATTER, row.rel_std))


def test_traces_tell_by_fishers_information(fitted, candidates, known, rows):
  found = covariance.covariance_of(fitted, candidates.traces(), 0.3)
  assert found.source == 'traces' and found.names == known.names
  precision = np.diag(
    [1.0 / fitted.knowledge[n].prior_sd ** 2 for n in found.names]
  )
  # Errors of a family are correlated by 0.3.
  noise = np.outer(rows.noise, rows.noise)
  same = rows.family[:, None] == rows.family
  noise *= np.where(same, 0.3, 0.0) + 0.7 * np.eye(len(noise))
  precision += rows.slopes.T @ np.linalg.solve(noise, rows.slopes)
  sd = np.sqrt(np.diag(found.matrix))
  np.testing.assert_allclose(
    found.matrix / np.outer(sd, sd),
    np.linalg.inv(precision) / np.outer(sd, sd),
    atol=1e-6,
  )


def test_families_are_sizes_of_one_thing(candidates, rows):
  families = {}
  for i, family in zip(rows.row, rows.family, strict=True):
    families.setdefault(int(family), []).append(candidates.rows[i])
  assert sorted(families) == list(range(len(families)))
  for members in families.values():
    assert len({(m.op, m.columns.get('participants')) for m in members}) == 1
  assert any(len(members) > 1 for members in families.values())
  shared = rows.with_common_errors(0.4)
  one = shared.slopes[:, rows.slopes.shape[1] :]
  total = (one**2).sum(1) + shared.noise**2
  np.testing.assert_allclose(total, rows.noise**2)
  assert rows.with_common_errors(0.0) is rows


def test_common_errors_make_many_rows_of_a_kind_tell_less(fitted, candidates):
  # Two rows that say the same, of noise 0.5: with a common share r their mean
  # has the variance 0.25 (1 + r) / 2.
  two = RowSlopes(
    np.ones((2, 1)), np.full(2, 0.5), np.arange(2), np.zeros(2, int)
  )
  known = covariance.Covariance(('x',), np.ones((1, 1)), 'traces')
  for share in (0.0, 0.4, 0.9):
    shared = two.with_common_errors(share)
    wide = known.with_common_errors(shared)
    assert len(wide.names) == len(wide.matrix) == shared.slopes.shape[1]
    after = choosing.updated(
      wide.matrix, choosing.Block(shared.slopes, shared.noise)
    )
    mean = 0.25 * (1 + share) / 2
    assert after[0, 0] == pytest.approx(1 / (1 + 1 / mean))
  with pytest.raises(errors.PlanError, match='common_share: found 1.0'):
    measure_next(
      fitted, Target('x', {}), candidates=candidates, common_share=1.0
    )


def test_the_covariance_of_an_ensemble(fitted):
  names = ('DRAM.latency_s', 'DRAM.read_Bps')
  rng = np.random.default_rng(0)
  z = rng.standard_normal((2, 400))
  leaves = {
    n: np.full(400, float(v)) for n, v in leaves_by_name(fitted.system).items()
  }
  leaves[names[0]] = leaves[names[0]] + 0.1 * z[0]
  leaves[names[1]] = leaves[names[1]] - 0.1 * (0.8 * z[0] + 0.6 * z[1])
  drawn = dataclasses.replace(
    fitted, ensemble=from_leaves(fitted.system, leaves)
  )
  found = covariance.covariance_of(drawn)
  assert found.source == 'ensemble' and found.shrinkage < 0.05
  i, j = (found.names.index(n) for n in names)
  matrix = found.matrix
  assert matrix[i, i] == pytest.approx(0.01, rel=0.2)
  assert matrix[i, j] == pytest.approx(-0.008, rel=0.2)
  prior = found.names.index('DRAM.write_in_flight_B')
  assert matrix[prior, prior] == pytest.approx(1.5**2)
  assert np.count_nonzero(matrix[prior]) == 1
  assert np.linalg.eigvalsh(matrix).min() > -1e-12


@pytest.mark.parametrize('draws', [12, 48, 2000])
def test_chance_correlations_are_shrunk(draws):
  rng = np.random.default_rng(draws)
  drawn = rng.standard_normal((draws, 20))
  kept, share = covariance.shrunk_correlation(drawn)
  off = ~np.eye(20, dtype=bool)
  plain = np.corrcoef(drawn.T)
  assert share > 0.8
  assert np.abs(kept[off]).max() < 0.3 * np.abs(plain[off]).max()
  drawn[:, 1:10] = drawn[:, :1] + 0.01 * drawn[:, 1:10]
  kept, share = covariance.shrunk_correlation(drawn)
  assert share < 0.5 and kept[0, 1] > 0.5


@pytest.fixture(scope='module')
def answer(fitted, candidates):
  slopes = {
    'DRAM.read_in_flight_B': -0.6, 'DRAM.latency_s': 0.4,
    'matrix:float32.rate_FLOPps': -0.3, 'Ethernet.latency_s': 0.05,
    'system.static_W': 0.2,
  }  # fmt: skip
  target = Target('ln time', slopes, gap=0.4)
  return measure_next(fitted, target, candidates=candidates, most=5)


def test_the_whole_answer(fitted, candidates, known, rows, answer, tmp_path):
  assert answer.outcome in (Outcome.HELPS, Outcome.SETTLES)
  assert 2 <= len(answer.rows) <= 5 and answer.known_from == 'standard errors'
  # In flight 0.6 * 1.5 dominates; only a bandwidth row tells it.
  assert answer.rows[0].tells[0] == 'DRAM.read_in_flight_B'
  widths = [answer.half_width90] + [
    row.half_width90_after for row in answer.rows
  ]
  assert widths == sorted(widths, reverse=True)
  assert answer.half_width90_after == widths[-1]
  assert answer.half_width90_least <= widths[-1]
  falls = [row.drop for row in answer.rows]
  assert sum(falls) == pytest.approx(1 - widths[-1] / widths[0])
  assert answer.rows[0].alone == answer.rows[0].drop
  assert all(row.alone <= answer.rows[0].alone for row in answer.rows)
  assert answer.wrong_share_after < answer.wrong_share < 0.5
  assert answer.regret_after < answer.regret
  untold = {u.parameter: u for u in answer.untold}
  assert set(untold) == {'Ethernet.latency_s', 'system.static_W'}
  assert 'send_recv' in untold['Ethernet.latency_s'].how
  shares = sum(u.share for u in answer.untold)
  assert answer.untold_share == pytest.approx(shares)
  assert answer.sets[0].alone >= answer.rows[0].alone
  json.dumps(answer.to_dict())

  # The golden end: a list that holds exactly these rows.
  path = tmp_path / 'next.toml'
  answer.to_recipe(path)
  here = dataclasses.replace(candidates_lib.machine.describe(), cpus=(0, 1))
  listed = chosen.load_list(path, here)
  assert listed.platform == 'cpu'
  assert [p.name for p in listed.probes] == [
    row.probe.name for row in answer.rows
  ]
  with pytest.raises(errors.SpecError, match='cannot be written'):
    answer.to_recipe(tmp_path / 'no' / 'next.toml')


def test_outcomes_follow_the_gap(fitted, candidates):
  slopes = {'DRAM.read_in_flight_B': -0.6}
  ask = lambda **kw: measure_next(  # noqa: E731
    fitted, Target('gap', **kw), candidates=candidates, most=3
  )
  assert ask(slopes=slopes, gap=5.0).outcome is Outcome.SETTLED
  assert ask(slopes=slopes, gap=0.3).outcome is Outcome.SETTLES
  figure = ask(slopes=slopes)
  assert figure.outcome is Outcome.HELPS and figure.wrong_share is None
  blind = ask(slopes={'system.static_W': 0.5})
  assert blind.outcome is Outcome.UNTOLD and not blind.rows
  assert 'system.static_W' in blind.help
  assert blind.untold_share == pytest.approx(1.0)
  with pytest.raises(errors.PlanError, match='nothing to measure'):
    blind.to_recipe('x.toml')
  flat = ask(slopes={'DRAM.latency_s': 0.0})
  assert flat.outcome is Outcome.CERTAIN and flat.half_width90 == 0.0


@pytest.mark.parametrize(
  ('target', 'said'),
  [
    (Target('x', {'HBM.latency_s': 1.0}), 'HBM.latency_s'),
    (Target('x', {'DRAM.latency_s': math.nan}), 'found nan'),
    (Target('x', {'DRAM.latency_s': 1.0}, math.inf), 'found inf'),
  ],
)
def test_wrong_targets_are_refused(fitted, candidates, target, said):
  with pytest.raises(errors.PlanError, match=said):
    measure_next(fitted, target, candidates=candidates)


def test_the_gap_between_two_plans():
  first, second = {'a': 1.0, 'b': 2.0}, {'b': 0.5, 'c': 1.0}
  target = Target.between('gap', first, second, 0.1)
  assert target.slopes == {'a': -1.0, 'b': -1.5, 'c': 1.0}
  assert target.gap == 0.1


def test_a_machine_of_which_all_is_known_has_nothing_to_measure(fitted):
  known = {
    n: dataclasses.replace(k, stderr=0.0) for n, k in fitted.knowledge.items()
  }
  with pytest.raises(errors.PlanError, match='nothing\nis left|nothing is'):
    covariance.covariance_of(dataclasses.replace(fitted, knowledge=known))


def test_a_gpu_has_its_own_rows():
  from diffmem.system import load_catalog

  found = candidates_lib.candidates_of(load_catalog('h100-sxm'))
  assert found.platform == 'gpu'
  assert {'gemm', 'stream', 'pointer_chase', 'idle'} <= {
    row.op for row in found.rows
  }
  assert {row.observable for row in found.rows} == {'time_s', 'power_W'}
  text = candidates_lib.size_text(
    next(row for row in found.rows if row.op == 'sequential_read')
  )
  assert 'in flight' in text and 'granules of 128 B' in text
  assert len(from_rows([row.columns for row in found.rows])) > 200


def test_rows_are_no_less_certain_than_the_ensemble(
  fitted, candidates, known, rows
):
  rng = np.random.default_rng(0)
  leaves = {
    n: np.full(64, float(v)) for n, v in leaves_by_name(fitted.system).items()
  }
  leaves['disk.latency_s'] = leaves['disk.latency_s'] + 0.1 * (
    rng.standard_normal(64)
  )
  leaves['DRAM.latency_s'] = leaves['DRAM.latency_s'] + rng.standard_normal(64)
  status = {'disk.latency_s': Status.FITTED, 'DRAM.latency_s': Status.PRIOR}
  told = fitted.knowledge | {
    n: dataclasses.replace(fitted.knowledge[n], status=s)
    for n, s in status.items()
  }
  drawn = dataclasses.replace(
    fitted, ensemble=from_leaves(fitted.system, leaves), knowledge=told
  )
  with jax.enable_x64(True):
    spread = row_spread(drawn, candidates.traces())
  sd = deviation_of(leaves['disk.latency_s'][:, None])[0]
  assert sd == pytest.approx(0.1, rel=0.3)
  slope = rows.slopes[:, known.names.index('disk.latency_s')]
  np.testing.assert_allclose(spread, np.abs(slope) * sd, atol=0.02 * sd)

  # All but DRAM's latency is as if some trace had touched it.
  told = {
    n: dataclasses.replace(k, status=Status.UNIDENTIFIED)
    for n, k in told.items()
    if n != 'DRAM.latency_s'
  } | {'DRAM.latency_s': told['DRAM.latency_s']}
  drawn = dataclasses.replace(drawn, knowledge=told)
  free = known.names.index('DRAM.latency_s')
  slopes = rows.slopes.copy()
  slopes[:, free] = 0.0

  def deviations(matrix):
    return np.sqrt(np.einsum('ep,pq,eq->e', slopes, matrix, slopes))

  wanted = 0.3 * deviations(known.matrix)
  wanted[0] *= 100.0  # known worse than the covariance has it
  found = covariance.sharpened(known, drawn, rows.slopes, wanted)
  after = deviations(found.matrix)
  upper = covariance.upper_end(64)
  assert 1.1 < upper < 1.2
  assert (after <= np.maximum(upper * wanted, 1e-4) * (1 + 1e-9)).all()
  assert np.linalg.eigvalsh(found.matrix).min() > -1e-12
  assert (np.diag(found.matrix) <= np.diag(known.matrix) + 1e-12).all()
  np.testing.assert_array_equal(found.matrix[free], known.matrix[free])
  one = covariance.sharpened(known, drawn, rows.slopes[1:2], wanted[1:2])
  assert deviations(one.matrix)[1] == pytest.approx(upper * wanted[1])
