"""`make_plan` as a whole."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from diffmem import errors
from diffmem.planning import PlanOutcome, make_plan, model, sweep
from diffmem.planning import space as space_lib
from diffmem.planning.objective import Objective
from diffmem.system import FittedSystem
from diffmem.workloads import (
  RECOMPUTE,
  SHARDING,
  Choices,
  Training,
  load_workload,
  lower_train,
  machine_of,
)

ASKED = {'chips': 8, 'global_batch_tokens': 2**18, 'seq_len': 4096, 'top': 3}


@pytest.fixture(scope='module')
def system(make_system):
  """A machine whose near memory is too small for the model."""
  return make_system(**{'HBM.capacity_B': 5e9})


@pytest.fixture(scope='module')
def fitted(system):
  """The system with an ensemble whose engine varies by 10 %."""
  rng = np.random.default_rng(0)
  leaves = {n: np.full(40, v) for n, v in system.values().items()}
  leaves['matrix:bfloat16.rate_FLOPps'] *= np.exp(0.1 * rng.normal(size=40))
  ensemble = system.with_values(leaves)
  return FittedSystem(system=system, knowledge={}, ensemble=ensemble)


@pytest.fixture(scope='module')
def result(fitted, moe):
  seen = []
  found = make_plan(
    fitted, moe, **ASKED, usd_per_chip_hour=2.0, verify=True,
    on_progress=lambda *at: seen.append(at),
  )  # fmt: skip
  whole = found.search.configurations
  assert ('configurations', whole, whole) in seen
  return found


def test_json_keeps_the_contract(result):
  told = json.loads(result.to_json())
  assert told['outcome'] == 'planned'
  assert {'plans', 'elasticities', 'shadow_prices', 'search'} <= told.keys()
  assert {'configurations', 'seconds'} <= told['search'].keys()
  for plan in told['plans']:
    assert {
      'mesh', 'micro_batch', 'recompute', 'placement', 'predicted',
      'interval90', 'certified_gap', 'rounding_loss',
    } <= plan.keys()  # fmt: skip
    assert {
      'step_time_s', 'tokens_per_s', 'energy_per_token_J',
      'cost_per_token_usd', 'memory_bytes',
    } <= plan['predicted'].keys()  # fmt: skip
    for shares in plan['placement'].values():
      assert sum(shares.values()) == pytest.approx(1.0)


def test_plans_are_legal_ordered_and_fit(result, system):
  times = [p.predicted['step_time_s'] for p in result.plans]
  assert times == sorted(times) and len(times) == 3
  for plan in result.plans:
    mesh = dict(plan.mesh)
    mesh.pop('interleave')
    assert np.prod(list(mesh.values())) == 8
    for memory, used_B in plan.predicted['memory_bytes'].items():
      assert used_B <= 0.9 * float(system.tier(memory).capacity_B) * (1 + 1e-9)
    assert 0.0 <= plan.certified_gap < 0.02
    assert plan.rounding_loss >= -plan.certified_gap - 1e-9
  # This model does not fit near memory alone: the test tests placement.
  assert any(
    shares['HBM'] < 1.0 for shares in result.plans[0].placement.values()
  )


def test_figures_agree_with_each_other(result):
  for plan in result.plans:
    told, parts = plan.predicted, plan.breakdown
    step_time_s = sum(parts.operations_s.values()) + parts.bubble_s
    assert told['step_time_s'] == pytest.approx(step_time_s, rel=1e-9)
    assert told['tokens_per_s'] == pytest.approx(2**18 / step_time_s)
    power_W = told['energy_per_token_J'] * told['tokens_per_s'] / 8
    assert told['device_power_W'] == pytest.approx(power_W)
    assert 50 < power_W < 400 * 1.05
    usd = 8 * 2.0 / 3600 / told['tokens_per_s']
    assert told['cost_per_token_usd'] == pytest.approx(usd)
    assert 0 < told['engine_use'] < 1


def test_memory_adds_up(result, system, moe):
  for plan in result.plans:
    told = plan.predicted
    for memory, groups in told['group_memory_bytes'].items():
      assert told['memory_bytes'][memory] == pytest.approx(sum(groups.values()))
    # Group by group as the workload lowers, whatever the memory.
    sharding = {
      f'{kind}_by': float(SHARDING[f'{kind}_by'].index(name))
      for kind, name in plan.sharding.items()
    }
    choices = Choices.of(
      **plan.mesh,
      **sharding,
      micro_batch=np.array([float(plan.micro_batch)]),
      recompute=float(RECOMPUTE.index(plan.recompute)),
    )
    lowered = lower_train(
      moe, Training(4096, 64), choices, machine_of(system, 8)
    )
    tables = told['group_memory_bytes'].values()
    for group, size_B in zip(lowered.groups, lowered.size_B[0], strict=True):
      held_B = sum(t[group] for t in tables)
      assert held_B == pytest.approx(float(size_B), rel=1e-5)
    near = told['group_memory_bytes']['HBM']
    assert near['working_buffers'] == pytest.approx(
      float(lowered.fixed_B[0]), rel=1e-5
    )


def test_intervals_come_from_the_ensemble(result):
  for plan in result.plans:
    for metric, (low, high) in plan.interval90.items():
      assert low <= plan.predicted[metric] * 1.05
      assert high >= plan.predicted[metric] * 0.95
      assert low < high
    low, high = plan.interval90['step_time_s']
    assert 1.01 < high / low < 1.5


def test_elasticities_agree_with_reevaluation(result):
  gradient, checked = result.elasticities, result.elasticities_checked
  assert gradient.keys() == checked.keys()
  for name, value in gradient.items():
    assert value == pytest.approx(checked[name], rel=0.01, abs=1e-3), name
  assert gradient['matrix:bfloat16.rate_FLOPps'] < -0.02
  assert gradient['HBM.capacity_B'] < 0.0
  assert result.shadow_prices['HBM'] > 0.0
  assert result.shadow_prices['SSD'] == 0.0
  assert result.spare_bytes['SSD'] > 0.0


def test_the_space_bound_holds(result, system, moe):
  search = result.search
  assert 0 <= search.certified_gap < 1
  # Fewer candidates can only be worse, and no further than the bound says.
  one = make_plan(system, moe, **(ASKED | {'top': 1}))
  best = result.plans[0].predicted['step_time_s']
  alone = one.plans[0].predicted['step_time_s']
  assert alone >= best * (1 - 1e-6)
  assert alone * (1 - one.search.certified_gap) <= best * (1 + 1e-6)
  assert one.plans[0].interval90 is None
  assert one.plans[0].predicted['cost_per_token_usd'] is None


def test_the_sweep_leaves_out_only_what_is_no_better(monkeypatch, system, moe):
  monkeypatch.setattr(sweep, '_BATCHES', {False: 16, True: 16})
  machine = machine_of(system, 8)
  job = model.Job(moe, Training(4096, 64), machine, Objective())
  space = space_lib.space_of(moe, job.phase, 8, machine)
  few, all_ = (
    sweep.sweep(system, job, space, keep) for keep in (4, len(space))
  )
  np.testing.assert_allclose(
    np.sort(few.value)[:4], np.sort(all_.value)[:4], rtol=1e-6
  )
  found = np.isfinite(all_.value)
  assert np.isfinite(few.value).sum() < found.sum()  # it does leave some out
  assert (all_.bound[found] <= all_.value[found] * (1 + 1e-5)).all()
  assert (all_.overflow_B[found] == 0).all()


def test_decode_for_energy(system, moe):
  found = make_plan(
    system, moe, chips=4, phase='decode', batch=64, context=2048,
    objective='energy_per_token_J', top=2,
  )  # fmt: skip
  energies = [p.predicted['energy_per_token_J'] for p in found.plans]
  assert energies == sorted(energies)
  assert found.plans[0].recompute is None
  assert found.plans[0].placement['kv_cache']
  assert found.elasticities['HBM.capacity_B'] <= 0
  assert found.elasticities['HBM.read_Bps'] < 0


def test_nothing_fits(system):
  found = make_plan(
    system, 'llama-3.1-405b', chips=4, global_batch_tokens=2**15, seq_len=8192
  )
  assert found.outcome is PlanOutcome.NO_MEMORY
  assert found.plans == () and found.elasticities is None
  limit = found.limit
  lacking_B = limit['needed_B'] - sum(limit['room_B'].values())
  # States alone: 18 bytes for each of 405.85e9 parameters, over four chips.
  assert limit['needed_B'] > 18 * 405.85e9 / 4
  assert limit['overflow_B'] == pytest.approx(lacking_B, rel=0.05)
  assert 'lacks' in found.help and 'HBM' in found.help
  json.loads(found.to_json())


def test_no_legal_mesh_names_the_nearest(system, moe):
  found = make_plan(system, moe, chips=7, global_batch_tokens=2**18)
  assert found.outcome is PlanOutcome.NO_MESH
  assert found.limit['nearest_chips'] in (6, 8)
  assert str(found.limit['nearest_chips']) in found.help


def test_no_network(system, moe):
  found = make_plan(system, moe, chips=128)
  assert found.outcome is PlanOutcome.NO_NETWORK
  assert found.limit['nearest_chips'] == 64
  lonely = dataclasses.replace(
    system, tiers=tuple(t for t in system.tiers if not t.span)
  )
  found = make_plan(lonely, moe, chips=2)
  assert found.outcome is PlanOutcome.NO_NETWORK
  assert found.limit['reach'] == 1


@pytest.mark.parametrize(
  ('asked', 'message'),
  [
    ({'chips': 0}, r'chips = 0: expected a whole number'),
    ({'phase': 'trian'}, r"did you mean 'train'"),
    ({'objective': 'step_time'}, r"did you mean 'step_time_s'"),
    ({'objective': 'cost_per_token_usd'}, r'needs usd_per_chip_hour'),
    ({'usd_per_chip_hour': -1.0}, r'usd_per_chip_hour = -1.0'),
    ({'global_batch_tokens': 10_000}, r'the nearest is 8192'),
    ({'seq_len': 16384}, r'beyond the context of small-moe, 8192'),
    ({'phase': 'decode', 'context': 8193}, r'context = 8193 is beyond'),
    ({'top': 2.5}, r'top = 2.5'),
  ],
)
def test_bad_requests_say_what_fits(system, moe, asked, message):
  with pytest.raises(errors.PlanError, match=message):
    make_plan(system, moe, **({'chips': 8} | asked))


def test_unknown_workload(system):
  with pytest.raises(errors.SpecError, match='llama-3'):
    make_plan(system, 'llama-3-9b', chips=8)


def test_presets_lower_on_every_shape_of_machine(system):
  # Every preset has legal meshes on round chip counts.
  for name in (
    'llama-3.1-405b',
    'claude-scale-moe-1t',
    'claude-scale-dense-1t',
  ):
    preset = load_workload(name)
    big = jax.tree.map(lambda x: x, system)
    tiers = tuple(
      dataclasses.replace(t, span=65536 if t.name == 'IB' else t.span)
      for t in big.tiers
    )
    machine = machine_of(dataclasses.replace(big, tiers=tiers), 4096)
    assert (
      len(space_lib.training_space(preset, Training(8192, 2048), 4096, machine))
      > 1000
    )
