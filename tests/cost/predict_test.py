"""`predict` against an independent numpy walk, slopes, monotonicity, units."""

import dataclasses

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from diffmem import errors
from diffmem.cost import Demand, predict, predict_jit
from diffmem.system import Engine, System, Tier, leaves_by_name


def make_system(**changes) -> System:
  tiers = [
    Tier.of(
      'L1', home='DRAM', private=True, duplex='turnaround', latency_s=1.4e-9,
      read_Bps=200e9, write_Bps=100e9, mixed_Bps=300e9, capacity_B=32e3,
      cliff_k=8.0,
    ),
    Tier.of(
      'L3', home='DRAM', duplex='turnaround', latency_s=30e-9, read_Bps=90e9,
      capacity_B=30e6, churn_Bps=20e9, cliff_k=5.0, read_in_flight_B=800.0,
    ),
    Tier.of(
      'DRAM', latency_s=100e-9, read_Bps=25e9, read_in_flight_B=1200.0,
      write_in_flight_B=700.0, bend_read=-0.2, bend_write=0.1,
      bend_queue=-0.4,
    ),
    Tier.of('PCIe', link=True, duplex='full_duplex', latency_s=1e-6,
            read_Bps=50e9),
    Tier.of('SSD', via='PCIe', latency_s=80e-6, read_Bps=5e9, granule_B=4e3),
  ]  # fmt: skip
  engines = [
    Engine.of('matrix:float32', rate_FLOPps=1e12, fill_rows=20.0),
    Engine.of('vector:float32', rate_FLOPps=1e10),
  ]
  system = System.of(
    'test',
    tiers,
    engines,
    launch_s=1e-6,
    overlap_p=3.0,
    static_W=50.0,
    tlb_miss_s=2e-9,
    private_loss=0.1,
  )
  return system.with_values(changes)


def make_demand(system: System, n: int = 24, seed: int = 0) -> Demand:
  rng = np.random.default_rng(seed)

  def some(low, high):
    return 10 ** rng.uniform(low, high, n)

  return Demand.of(
    system,
    read_B={'DRAM': some(3, 9), 'SSD': some(3, 9) * (rng.random(n) > 0.5)},
    write_B={'DRAM': some(2, 8)},
    granule_B={'DRAM': some(1.9, 7), 'SSD': some(3.6, 6)},
    in_flight_B={
      'DRAM': some(2, 6) * (rng.random(n) > 0.5), 'SSD': some(4, 7)
    },
    flops={'matrix:float32': some(3, 10), 'vector:float32': some(2, 7)},
    row_flops={'matrix:float32': some(3, 8)},
    working_set_B=some(3, 9),
    participants=rng.integers(1, 9, n).astype(float),
    launches=1.0,
  )  # fmt: skip


def at_least_one(p):
  return (1.0 + p**8) ** (1.0 / 8.0)


def reference_time_s(s: dict, d: Demand, i: int) -> float:
  """One operation, followed by hand, tier by tier."""
  tiers = ['L1', 'L3', 'DRAM', 'PCIe', 'SSD']
  row = {
    f.name: np.asarray(getattr(d, f.name), np.float64)[i]
    for f in dataclasses.fields(d)
  }
  n, size = row['participants'], row['working_set_B']

  def norm(values, p):
    values = [v for v in values if v > 0]
    return sum(v**p for v in values) ** (1 / p) if values else 0.0

  def full_time(tier, home, law):
    at = tiers.index(home)
    r, w = row['read_B'][at], row['write_B'][at]
    if r + w == 0:
      return 0.0
    g = row['granule_B'][at]
    per_line = min((1 + g / 4096) / (max(g, 64) / 64), 1.0)
    latency = s[f'{tier}.latency_s']
    for reach, cost in (
      ('tlb_reach_B', 'tlb_miss_s'),
      ('page_reach_B', 'page_walk_s'),
    ):
      miss = 1 - (1 + (size / n / s[f'system.{reach}']) ** 4) ** -0.25
      if tier != 'PCIe':
        latency += miss * per_line * s[f'system.{cost}']
    given = row['in_flight_B'][at]
    private = tier == 'L1'
    if given > 0:
      rounds = (r + w) / given
    elif private:
      rounds = 0.0
    else:
      rounds = norm(
        [
          r / (n * s[f'{tier}.read_in_flight_B']),
          w / (n * s[f'{tier}.write_in_flight_B']),
        ],
        s[f'{tier}.wait_p'],
      )
    transfer = law(r, w) * (1 + s[f'{tier}.granule_B'] / g)
    transfer /= n ** (1 - s['system.private_loss']) if private else 1.0
    knee = np.exp(np.tanh(s[f'{tier}.bend_queue']) * w / (r + w))
    return norm([rounds * latency, transfer], s[f'{tier}.queue_p'] * knee)

  def turnaround(tier):
    def law(r, w):
      return (
        r / s[f'{tier}.read_Bps'] + w / s[f'{tier}.write_Bps']
        + r * w / (r + w) / s[f'{tier}.mixed_Bps']
      )  # fmt: skip

    return law

  def half(tier):
    def law(r, w):
      f = w / (r + w)
      a, e = np.tanh(s[f'{tier}.bend_read']), np.tanh(s[f'{tier}.bend_write'])
      return (r + w) / (
        s[f'{tier}.read_Bps'] * np.exp(a * f + (e - a) * f * f / 2)
      )

    return law

  def full(tier):
    def law(r, w):
      return norm(
        [
          r / s[f'{tier}.read_Bps'], w / s[f'{tier}.write_Bps'],
          (r + w) / s[f'{tier}.mixed_Bps'],
        ],
        4.0,
      )  # fmt: skip

    return law

  at = tiers.index('DRAM')
  total = row['read_B'][at] + row['write_B'][at]
  times = {
    'L1': full_time('L1', 'DRAM', turnaround('L1')),
    'L3': full_time('L3', 'DRAM', turnaround('L3')),
    'DRAM': full_time('DRAM', 'DRAM', half('DRAM')),
    'SSD': full_time('SSD', 'SSD', half('SSD')),
  }
  hits = {}
  for tier, scale in (('L1', n), ('L3', 1.0)):
    felt = size * (1 + s[f'{tier}.churn_Bps'] * times[tier] / total)
    c = s[f'{tier}.capacity_B'] * scale
    hits[tier] = 1 / (1 + (felt / c) ** s[f'{tier}.cliff_k'])
  memory = (
    hits['L1'] * times['L1']
    + (1 - hits['L1']) * hits['L3'] * times['L3']
    + (1 - hits['L1']) * (1 - hits['L3']) * times['DRAM']
  )
  # What SSD moves crosses PCIe; the link waits by its own bytes in flight.
  ssd_at = tiers.index('SSD')
  r = row['read_B'][ssd_at]
  if r > 0:
    rounds = r / (n * s['PCIe.read_in_flight_B'])
    transfer = full('PCIe')(r, 0.0) * (1 + s['PCIe.granule_B'] / 1e15)
    link = norm([rounds * s['PCIe.latency_s'], transfer], s['PCIe.queue_p'])
  else:
    link = 0.0
  engines = (
    row['flops'][0] + s['matrix:float32.fill_rows'] * row['row_flops'][0]
  ) / s['matrix:float32.rate_FLOPps'] + row['flops'][1] / s[
    'vector:float32.rate_FLOPps'
  ]
  local = norm([memory, engines], at_least_one(s['system.overlap_p']))
  pipeline = norm([times['SSD'], link], 16.0)
  busy = norm([local, pipeline], at_least_one(s['system.link_overlap_p']))
  return busy + row['launches'] * s['system.launch_s']


def test_against_numpy(x64):
  system = make_system()
  demand = make_demand(system)
  cost = predict_jit(system, demand)
  values = {n: float(v) for n, v in system.values().items()}
  want = [reference_time_s(values, demand, i) for i in range(24)]
  np.testing.assert_allclose(cost.free_time_s, want, rtol=1e-9)


def test_float32_agrees_with_float64():
  system = make_system()
  single = np.asarray(predict_jit(system, make_demand(system)).time_s)
  assert single.dtype == np.float32
  with jax.enable_x64(True):
    double = np.asarray(predict_jit(system, make_demand(system)).time_s)
  assert double.dtype == np.float64
  np.testing.assert_allclose(single, double, rtol=2e-4)


def test_gradients_against_finite_differences(x64):
  system = make_system()
  demand = make_demand(system, n=6)

  @jax.jit
  def total(system, demand):
    return jnp.log(predict(system, demand).time_s).sum()

  by_system, by_demand = jax.jit(jax.grad(total, (0, 1)))(system, demand)
  slopes = leaves_by_name(by_system)
  leaves = leaves_by_name(system)
  h = 1e-5
  for name in leaves:
    up = _moved(system, name, h)
    down = _moved(system, name, -h)
    want = (total(up, demand) - total(down, demand)) / (2 * h)
    assert float(slopes[name]) == pytest.approx(
      float(want), rel=2e-4, abs=1e-7
    ), name
  for name in (
    'read_B', 'write_B', 'flops', 'row_flops', 'working_set_B', 'granule_B'
  ):  # fmt: skip
    table = getattr(demand, name)
    up = dataclasses.replace(demand, **{name: table * (1 + h)})
    down = dataclasses.replace(demand, **{name: table * (1 - h)})
    want = (total(system, up) - total(system, down)) / (2 * h)
    got = (getattr(by_demand, name) * table).sum()
    assert float(got) == pytest.approx(float(want), rel=2e-4, abs=1e-7), name


def _moved(system, name, h):
  from diffmem.system import from_leaves

  return from_leaves(
    system, leaves_by_name(system) | {name: leaves_by_name(system)[name] + h}
  )


FASTER = [
  ('DRAM.read_Bps', 1), ('L3.read_Bps', 1), ('SSD.read_Bps', 1),
  ('PCIe.read_Bps', 1), ('DRAM.latency_s', -1), ('L1.latency_s', -1),
  ('SSD.latency_s', -1), ('PCIe.latency_s', -1), ('L3.churn_Bps', -1),
  ('matrix:float32.rate_FLOPps', 1), ('vector:float32.rate_FLOPps', 1),
  ('system.launch_s', -1), ('system.page_walk_s', -1),
  ('system.tlb_miss_s', -1), ('system.private_loss', -1),
  ('system.page_reach_B', 1), ('system.overlap_p', 1),
  ('DRAM.read_in_flight_B', 1), ('SSD.granule_B', -1),
  ('system.power_cap_W', 1), ('DRAM.path_J_per_B', -1),
]  # fmt: skip


@pytest.mark.parametrize(('name', 'sign'), FASTER)
def test_better_parts_never_cost_more(name, sign, x64):
  system = make_system(**{'system.power_cap_W': 60.0})
  demand = make_demand(system, n=64, seed=3)
  value = float(system.values()[name])
  better = system.with_values({name: value * 1.3**sign})
  before = np.asarray(predict_jit(system, demand).time_s)
  after = np.asarray(predict_jit(better, demand).time_s)
  assert np.all(after <= before * (1 + 1e-9))
  assert np.any(after < before)


@given(
  st.sampled_from(['read_B', 'write_B', 'flops', 'launches']),
  st.floats(1.01, 5.0),
)
def test_more_work_never_costs_less(field, factor):
  system = make_system()
  demand = make_demand(system, n=16, seed=5)
  more = dataclasses.replace(demand, **{field: getattr(demand, field) * factor})
  with jax.enable_x64(True):
    before = np.asarray(predict_jit(system, demand).time_s)
    after = np.asarray(predict_jit(system, more).time_s)
  assert np.all(after >= before * (1 - 1e-9))


@given(st.floats(-4, 4), st.floats(0.0, 0.99), st.floats(1, 8))
def test_a_bent_knee_keeps_more_bytes_dearer(bend, share, p):
  system = System.of(
    'bent', [Tier.of('DRAM', bend_queue=bend, queue_p=p, bend_read=0.5)]
  )
  in_flight = {'DRAM': np.geomspace(1e2, 1e6, 9)}
  with jax.enable_x64(True):
    before, after = (
      np.asarray(
        predict_jit(
          system,
          Demand.of(
            system,
            read_B={'DRAM': 1.0 - share},
            write_B={'DRAM': share + more},
            in_flight_B=in_flight,
          ),
        ).free_time_s
      )
      for more in (0.0, 0.01)
    )
  assert np.all(after >= before * (1 - 1e-12))


def test_time_scales_with_the_unit_of_time(x64):
  """All rates down and all latencies up by ten: ten times as long."""
  system = make_system(**{'system.power_cap_W': 1e9})
  demand = make_demand(system)
  slower = {}
  for name, value in system.values().items():
    unit = system.infos()[name].unit
    if unit == 's':
      slower[name] = float(value) * 10
    if unit in ('B/s', 'FLOP/s'):
      slower[name] = float(value) / 10
  before = predict_jit(system, demand).free_time_s
  after = predict_jit(system.with_values(slower), demand).free_time_s
  np.testing.assert_allclose(after, before * 10, rtol=1e-9)


def test_bytes_scale_with_the_unit_of_bytes(x64):
  """Everything in bytes a thousand times larger changes no time."""
  system = make_system(**{'system.power_cap_W': 1e9})
  # Page and line sizes are absolute: leave walks out.
  system = system.with_values(
    {'system.page_walk_s': 1e-30, 'system.tlb_miss_s': 1e-30}
  )
  demand = make_demand(system)
  larger = {
    n: float(v) * 1e3
    for n, v in system.values().items()
    if system.infos()[n].unit in ('B', 'B/s')
  }
  scaled = dataclasses.replace(
    demand,
    **{
      f: getattr(demand, f) * 1e3
      for f in ('read_B', 'write_B', 'granule_B', 'in_flight_B',
                'working_set_B')
    },
  )  # fmt: skip
  before = predict_jit(system, demand).free_time_s
  after = predict_jit(system.with_values(larger), scaled).free_time_s
  np.testing.assert_allclose(after, before, rtol=1e-6)


def test_energy_account_balances(x64):
  system = make_system()
  cost = predict_jit(system, make_demand(system))
  parts = (
    cost.static_J
    + cost.device_J.sum(-1)
    + cost.path_J.sum(-1)
    + cost.engine_J.sum(-1)
  )
  np.testing.assert_allclose(cost.energy_J, parts, rtol=1e-12)
  np.testing.assert_allclose(cost.power_W * cost.time_s, parts, rtol=1e-12)


def test_power_never_exceeds_the_cap(x64):
  system = make_system(**{'system.power_cap_W': 55.0})
  cost = predict_jit(system, make_demand(system, n=64))
  assert np.all(cost.power_W <= 55.0 * (1 + 1e-6))
  assert np.any(cost.time_s > 1.05 * cost.free_time_s)


def test_messages_pay_latency_each(x64):
  system = make_system()
  demand = Demand.of(system, read_B={'PCIe': 1.0}, messages={'PCIe': 1000.0})
  time_s = float(predict_jit(system, demand).time_s)
  assert time_s == pytest.approx(1000 * 1e-6, rel=1e-6)


def test_vmap_over_systems_and_demands(x64):
  system = make_system()
  demand = make_demand(system)
  ensemble = jax.tree.map(
    lambda x: np.asarray(x) + np.array([0.0, 0.1, -0.2]), system
  )
  batch = jax.jit(jax.vmap(predict, (0, None)))(ensemble, demand)
  assert batch.time_s.shape == (3, 24)
  np.testing.assert_allclose(
    batch.time_s[0], predict_jit(system, demand).time_s, rtol=1e-12
  )
  pairs = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), demand)
  batch = jax.jit(jax.vmap(predict, (None, 0)))(system, pairs)
  assert batch.time_s.shape == (2, 24)


def test_demand_refuses_unknown_tiers():
  with pytest.raises(errors.SpecError, match="did you mean 'DRAM'"):
    Demand.of(make_system(), read_B={'DRAN': 1.0})
  with pytest.raises(errors.SpecError, match='no engine'):
    Demand.of(make_system(), flops={'quantum': 1.0})


def test_nothing_asked_costs_nothing_but_stays_finite():
  system = make_system()
  cost = predict_jit(system, Demand.of(system, launches=jnp.zeros(2)))
  assert np.all(np.asarray(cost.time_s) == 0)
  gradient = jax.jit(
    jax.grad(lambda s: predict(s, Demand.of(s, launches=0.0)).energy_J)
  )(system)
  assert np.all(np.isfinite(jax.tree.leaves(gradient)))
