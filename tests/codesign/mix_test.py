"""A mix against brute force, re-optimised differences and Euler's theorem."""

import math

import numpy as np
import pytest

from diffmem import errors, report
from diffmem.codesign.mixes.mix import Item, Mix, Retrieved, load_mix
from diffmem.codesign.mixes.mix_optimum import MixSolver, Rates, check_fits
from diffmem.codesign.studies import mix_account, value, what_ifs
from diffmem.codesign.studies.answers import ask
from diffmem.codesign.studies.changed import change, roomy
from diffmem.codesign.studies.cost_map import cost_map
from diffmem.codesign.studies.study import study
from diffmem.cost.prices import load_prices
from diffmem.report.codesign import codesign_sections
from diffmem.system import (
  Engine,
  FittedSystem,
  System,
  Tier,
  leaves_by_name,
  to_numpy,
)
from diffmem.system.system import from_leaves
from diffmem.workloads import AnyBatchDecoding, Transformer
from diffmem.workloads.transformer import Attention

RATES = Rates(usd_per_s=1e-3, usd_per_J=4e-8)
STEP = math.log(1.01)


def _system() -> System:
  link = {'duplex': 'full_duplex', 'link': True, 'queue_p': 1.0}
  tiers = [
    Tier.of('L2', home='HBM', read_Bps=5e12, capacity_B=1e6),
    Tier.of(
      'HBM', duplex='turnaround', read_Bps=2e12, latency_s=500e-9,
      capacity_B=8e9, read_in_flight_B=1e7,
    ),
    Tier.of('PCIe', read_Bps=32e9, latency_s=1e-6, **link),
    Tier.of('DRAM', read_Bps=50e9, capacity_B=16e9, via='PCIe'),
  ]  # fmt: skip
  engines = [
    Engine.of('matrix:bfloat16', rate_FLOPps=100e12),
    Engine.of('vector:float32', rate_FLOPps=10e12),
  ]
  return System.of(
    'small', tiers, engines, static_W=50, power_cap_W=400, launch_s=1e-6
  )


@pytest.fixture(scope='module')
def fitted() -> FittedSystem:
  """A machine with four draws, and tiers that what-ifs may add."""
  system = to_numpy(_system())
  rng = np.random.default_rng(0)
  drawn = from_leaves(system, {
    n: v + 0.05 * rng.standard_normal(4)
    for n, v in leaves_by_name(system).items()
  })  # fmt: skip
  return roomy(FittedSystem(system, {}, ensemble=drawn))


def _item(batches=(8, 16, 64), **changes) -> Item:
  model = Transformer(
    name='tiny', source='test', layers=4, d_model=2048, vocab=4096, d_ff=8192,
    attention=Attention(heads=16, kv_heads=4, head_dim=128), max_context=65536,
  )  # fmt: skip
  item = Item(
    'chat',
    model,
    AnyBatchDecoding(32768),
    chips=1,
    tokens_per_s=1e4,
    batches=batches,
  )
  return item._replace(**changes)


SEARCH = Retrieved(
  name='search', queries_per_s=1e3, chips=2, vectors=1e7, vector_B=128
)


@pytest.fixture(scope='module')
def solver(fitted):
  # The cache of the second is larger than the near memory.
  items = _item(), _item((32,), name='long')
  return MixSolver(Mix('one', items, (SEARCH,)), fitted.system)


@pytest.fixture(scope='module')
def best(fitted, solver):
  return solver.solve(fitted.system, RATES, target_gap=1e-8)


def test_the_cache_spills_and_its_size_has_a_price(best):
  chat, long, _ = best.items
  assert chat.used_B['DRAM'] == 0 and long.used_B['DRAM'] > 0
  assert best.slopes['HBM.capacity_B'] < 0
  assert best.bound <= best.value <= best.bound * (1 + 1e-3)


@pytest.mark.parametrize(
  'name',
  ['HBM.read_Bps', 'PCIe.read_Bps', 'HBM.capacity_B', 'DRAM.latency_s',
   'matrix:bfloat16.rate_FLOPps', 'HBM.path_J_per_B', 'system.static_W'],
)  # fmt: skip
def test_slopes_are_those_of_re_optimised_plans(name, fitted, solver, best):
  at = float(fitted.system.values()[name])
  logs = [
    math.log(
      solver.solve(
        fitted.system.with_values({name: at * math.exp(shift)}), RATES,
        target_gap=1e-8,
      ).value
    )
    for shift in (STEP, -STEP)
  ]  # fmt: skip
  difference = (logs[0] - logs[1]) / (2 * STEP)
  assert best.elasticities()[name] == pytest.approx(
    difference, rel=1e-2, abs=1e-5
  )


def test_rates_and_times_sum_to_minus_one(fitted, solver):
  found = solver.solve(fitted.system, Rates(1.0, 0.0))
  infos, total, rates = fitted.system.infos(), 0.0, 0.0
  for name, slope in found.slopes.items():
    unit = infos[name].unit
    sign = 1.0 if unit in value.RATES else -1.0 if unit in value.TIMES else 0.0
    total += sign * slope
    rates += slope if unit in value.RATES else 0.0
  assert total / found.value == pytest.approx(-1.0, abs=1e-6)
  # Bound by memory: what is left are latencies and launches.
  assert rates / found.value == pytest.approx(-1.0, abs=0.06)


def test_the_best_batch_is_the_best_of_each(fitted, solver, best):
  each = {
    b: MixSolver(Mix('one', (_item((b,)),)), fitted.system)
    .solve(fitted.system, RATES)
    .value
    for b in (8, 16, 64)
  }
  least = min(each, key=each.get)
  assert best.items[0].batch == least
  assert best.items[0].value == pytest.approx(each[least], rel=1e-3)


def test_a_longest_step_forbids_batches(fitted):
  def solved(tpot_s):
    mix = Mix('one', (_item(tpot_s=tpot_s),))
    return MixSolver(mix, fitted.system).solve(fitted.system, RATES)

  free = solved(math.inf)
  short = solved(0.6 * free.items[0].step_time_s)
  assert short.items[0].step_time_s <= 0.6 * free.items[0].step_time_s
  assert short.value > free.value
  never = solved(1e-9)
  assert never.missing == ('chat',) and never.value == math.inf
  with pytest.raises(errors.PlanError, match='chat: fits on no mesh'):
    check_fits(never)


def test_value_and_accounts_balance(fitted, solver, best):
  assert best.value == pytest.approx(
    RATES.usd_per_s * best.accelerators + RATES.usd_per_J * best.power_W,
    rel=1e-9,
  )
  bill = {'HBM': 3.0, 'rest': 7.0}
  found = mix_account.accounts_of(fitted.system, best, RATES, bill)
  tokens = best.tokens_per_s
  for lines, total in (
    (found.time, best.accelerators / tokens),
    (found.energy, best.power_W / tokens),
    (found.money_by_part, best.per_token),
    (found.money_by_resource, best.per_token),
  ):
    assert math.fsum(x.amount for x in lines) == pytest.approx(total, rel=1e-9)


def test_worth_of_a_unit_is_what_a_unit_saves(fitted, solver, best):
  worths = {
    w.name: w
    for w in value.worths(
      fitted.system, best, best, best, RATES, ensemble=fitted.ensemble
    )
  }
  bandwidth = worths['PCIe.read_Bps']
  at = float(fitted.system.values()['PCIe.read_Bps'])
  faster = fitted.system.with_values({'PCIe.read_Bps': at + 1e8})
  saved = best.value - solver.solve(faster, RATES, target_gap=1e-8).value
  per_year = 10 * saved / best.accelerators * 8766 * 3600
  assert bandwidth.usd_per_year == pytest.approx(per_year, rel=0.02)
  assert bandwidth.better == 'more' and bandwidth.unit == 'GB/s'
  low, high = bandwidth.interval90
  assert low < bandwidth.elasticity < high
  assert worths['PCIe.latency_s'].better == 'less'


def test_what_ifs_do_what_they_say(fitted, solver, best):
  asked = {w.name: w for w in what_ifs.load_what_ifs()}
  names = ('device-energy', 'cxl', 'hbm4')
  away = what_ifs.WhatIf(
    name='away', about='caches on the host', homes={'kv': ('DRAM',)}
  )
  less = what_ifs.WhatIf(
    name='less', about='less HBM', times={'near.capacity_B': 0.75}
  )
  answers = {
    a.name: a
    for a in ask(
      fitted, solver, [less, away, *(asked[n] for n in names)], RATES,
      base=best,
      parts_of='h100-sxm',
    )
  }  # fmt: skip
  energy = answers['device-energy']
  assert energy.token_J.best < 0 and energy.pays == 1.0
  assert energy.extra_usd == pytest.approx(0.0, abs=1e-6)
  assert answers['less'].tokens_per_s.best < 0
  assert answers['less'].extra_GB == pytest.approx(-2.0)
  assert answers['less'].extra_usd < 0
  assert answers['away'].token_usd.best > 1.0
  placement = answers['away'].optimum.items[0].placement
  assert placement['kv_cache']['DRAM'] == pytest.approx(1.0)
  # More of it cannot hurt but for its price, and pays up to its worth.
  assert answers['cxl'].tokens_per_s.best > -1e-6
  assert answers['cxl'].extra_usd > 0
  assert answers['hbm4'].tokens_per_s.best > 0.2
  low, high = answers['hbm4'].token_usd.low, answers['hbm4'].token_usd.high
  assert low < answers['hbm4'].token_usd.best < high


def test_the_worth_of_a_change_is_its_break_even(fitted, solver, best):
  (one,) = (w for w in what_ifs.load_what_ifs() if w.name == 'hbm4')
  (answer,) = ask(fitted, solver, [one], RATES, base=best, parts_of='h100-sxm')
  more = (answer.worth_usd - answer.extra_usd) / value.used_s(load_prices())
  changed = change(fitted, one, load_prices(), 'h100-sxm', 0)
  life_s = value.used_s(load_prices())
  paid = RATES.usd_per_s + answer.extra_usd / life_s + more
  paid += changed.extra_usd_per_s
  even = solver.solve(changed.system, Rates(paid, RATES.usd_per_J))
  assert even.value == pytest.approx(best.value, rel=2e-3)


def test_a_change_that_is_too_slow_is_told_and_priced(fitted):
  mix = Mix('one', (_item((16,), tpot_s=0.05),))
  solver = MixSolver(mix, fitted.system)
  away = what_ifs.WhatIf(
    name='away', about='caches on the host', homes={'kv': ('DRAM',)}
  )
  asked = [away, away.model_copy(update={'phases': ('train',)})]
  far, near = ask(fitted, solver, asked, RATES, parts_of='h100-sxm')
  assert far.late == ('chat',) and far.token_usd.best > 1.0
  assert 'take longer' in far.help
  assert not near.late and near.token_usd.best == pytest.approx(0.0, abs=1e-6)


def test_a_map_is_of_whole_searches(fitted, solver):
  found = cost_map(
    solver, fitted.system, RATES, 'HBM.read_Bps', 'HBM.capacity_B',
    (0.5, 1.0, 2.0), (1.0, 1.5),
  )  # fmt: skip
  for row, column in ((0, 0), (1, 2)):
    values = {
      'HBM.read_Bps': found.x[column], 'HBM.capacity_B': found.y[row],
      'HBM.write_Bps': found.x[column], 'HBM.mixed_Bps': 2 * found.x[column],
    }  # fmt: skip
    whole = solver.solve(fitted.system.with_values(values), RATES, whole=True)
    assert found.token_usd[row, column] == pytest.approx(
      whole.per_token, rel=1e-3
    )
  assert found.token_usd[1, 2] < 0.9 * found.token_usd[0, 0]


def test_a_study_holds_together(fitted):
  mix = Mix('one', (_item(),), (SEARCH,))
  found = study(fitted, mix, usd_per_chip_hour=3.0)
  document = found.to_dict()
  assert document['usd_per_token'] == pytest.approx(
    sum(x['amount'] for x in document['accounts']['money_by_part']), rel=1e-9
  )
  assert found.by_time.value <= found.by_cost.accelerators * (1 + 1e-6)
  shown = report.codesign_part(found)
  assert shown.mix[0].accelerators == found.by_cost.items[0].accelerators
  assert [a.quantity for a in shown.accounts][-1] == 'Energy'
  assert len(codesign_sections(shown)) >= 3


GOOD = """
[[workload]]
name = 'chat'
model = 'llama-3.1-8b'
phase = 'decode'
chips = 8
tokens_per_s = 1e6
batch = [8, 16]
"""


def test_a_file_is_read(tmp_path):
  path = tmp_path / 'mix.toml'
  path.write_text(GOOD)
  mix = load_mix(path)
  assert mix.items[0].batches == (8, 16)
  assert mix.only(('chat',)).items == mix.items
  with pytest.raises(errors.SpecError, match="did you mean 'chat'"):
    mix.only(('chet',))


@pytest.mark.parametrize(
  ('old', 'new', 'said'),
  [
    ('chips = 8', 'chips = 0', 'workload.0.chips'),
    ('chips = 8', 'chip = 8', 'workload.0.chip'),
    ("'decode'", "'train'", 'batch says nothing of phase'),
    ("'llama-3.1-8b'", "'lama-3.1-8b'", 'llama-3.1-8b'),
    ('batch = [8, 16]', 'context = 10000000', 'beyond the context'),
    ('[[workload]]', '[[workload', 'not TOML'),
  ],
)
def test_a_bad_file_says_where(tmp_path, old, new, said):
  path = tmp_path / 'mix.toml'
  path.write_text(GOOD.replace(old, new))
  with pytest.raises(errors.SpecError, match=said):
    load_mix(path)
