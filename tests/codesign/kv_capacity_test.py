"""KV capacity: sums, the best purchase and its account, boundary, a golden."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from diffmem import errors
from diffmem.codesign.kv import boundary as kv_boundary
from diffmem.codesign.kv import capacity as kv_capacity
from diffmem.codesign.kv import choice as kv_choice
from diffmem.codesign.kv import demand as kv_demand
from diffmem.codesign.kv import patience as kv_patience
from diffmem.codesign.kv import tiers as kv_tiers
from diffmem.codesign.kv.choice import Hierarchy
from diffmem.codesign.kv.demand import KvDemand
from diffmem.codesign.kv.tiers import KvTier, Moving
from diffmem.cost.prices import load_prices
from diffmem.system import System, Tier, load_catalog
from diffmem.system.engine import Engine
from diffmem.traces.requests import Requests
from diffmem.workloads import kv_reuse, load_workload
from diffmem.workloads.transformer import Attention, Transformer

TOKEN_B = 100.0
MODEL = Transformer(
  name='small', source='of this test', layers=4, d_model=512, d_ff=1024,
  vocab=1000, max_context=1 << 16,
  attention=Attention(heads=8, kv_heads=8, head_dim=64),
)  # fmt: skip
SERVICE_S = 1e7


def demand(seed, uses=300):
  """Uses of blocks at random depths, a third of them never seen before."""
  rng = np.random.default_rng(seed)
  depth = np.exp(rng.uniform(np.log(1e3), np.log(1e6), uses))
  depth[rng.random(uses) < 0.35] = np.inf
  return KvDemand(
    depth, rng.uniform(1.0, 5.0, uses), rng.uniform(0.5, 2.0, uses),
    np.sort(rng.uniform(0.0, 100.0, uses)), rng.exponential(9.0, uses),
    rng.random(uses) < 0.5, rng.integers(0, 60, uses), TOKEN_B, 1.0, 100.0,
    uses,
  )  # fmt: skip


def hierarchy(fast=900.0, slow=60.0, **changes):
  """Two tiers beside an accelerator; the second one wears out."""
  tiers = (
    KvTier('fast', fast * 1e9, 1.0, 1.0, SERVICE_S, 1e8, usd_per_J=1e-3),
    KvTier(
      'slow', slow * 1e9, 1.0, 1.0, SERVICE_S, 0.0,
      changes.get('writes_per_day', 1e6), usd_per_J=1e-3,
      most_B=changes.get('most_B', np.inf),
    ),
  )  # fmt: skip
  moving = {
    'fast': Moving(0.0, np.inf, 1e-9),
    'slow': Moving(2e-3, changes.get('write_Bps', 1e9), 2e-9),
  }
  return Hierarchy(tiers, moving, 50.0, TOKEN_B, 4.0,
                   changes.get('wait_share', 1.0))  # fmt: skip


def sums_of(one, hierarchy, points=14, **options):
  return kv_demand.sums_of(
    one,
    {name: m.read_s_per_B for name, m in hierarchy.moving.items()},
    wait_share=hierarchy.wait_share,
    points=points,
    **options,
  )


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3]))
@settings(max_examples=10)
def test_sums_are_those_of_a_walk_over_uses(seed, warm_up):
  one, h = demand(seed), hierarchy()
  sums = sums_of(one, h, warm_up=warm_up, groups=5)
  mean = sums.mean()
  span_s = 100.0 * (1.0 - warm_up)
  inside = one.used_s >= 100.0 * warm_up
  assert mean.tokens[0] == pytest.approx(one.tokens[inside].sum() / span_s)
  for name, place in itertools.product(('fast', 'slow'), (0, 6, 13)):
    spared = hits = 0.0
    for depth, tokens, compute, used in zip(
      one.depth_B, one.tokens, one.compute_s, one.used_s, strict=True
    ):
      if used < 100.0 * warm_up or depth > mean.grid_B[place]:
        continue
      hits += tokens
      reload_s = h.moving[name].read_s_per_B * TOKEN_B * tokens
      spared += max(compute - reload_s, 0.0)
    assert mean.hit_tokens[0, place] == pytest.approx(hits / span_s)
    assert mean.spared_s[name][0, place] == pytest.approx(spared / span_s)


def test_resampled_groups_are_sessions_at_the_same_rate():
  one = demand(3)
  sums = sums_of(one, hierarchy(), warm_up=0.0, groups=6)
  weights = np.array([2.0, 0.0, 1.0, 1.0, 0.0, 3.0])
  found = sums.mean(weights)
  assert found.tokens[0] == pytest.approx(sums.tokens.sum())
  assert found.compute_s[0] == pytest.approx(
    (weights @ sums.compute_s) * sums.tokens.sum() / (weights @ sums.tokens)
  )
  # Twice the same sessions are the same service at the same rate.
  twice = sums.mean(np.full(6, 2.0))
  np.testing.assert_allclose(twice.grid_B, sums.grid_B)
  np.testing.assert_allclose(twice.hit_tokens[0], sums.hit_tokens.sum(0))
  np.testing.assert_allclose(
    found.grid_B[1:] / sums.grid_B[1:],
    found.held_B[0, 1:] / sums.held_B.sum(0)[1:],
    rtol=0.05,  # where capacities would fall, they stay
  )
  assert (np.diff(found.grid_B) >= 0).all()


def test_sessions_are_told_apart_by_their_first_rare_block():
  # Block 0 is everybody's; requests 0 and 2, and 1 and 4 go on.
  common = [[0, i] for i in range(100, 160)]
  blocks = [[0, 1, 2], [0, 7], [0, 1, 2, 3], [0], [0, 7, 8], *common]
  found = kv_demand.sessions_of(blocks)
  assert found[0] == found[2] and found[1] == found[4]
  assert len({*found[:5]}) == 3 and len({*found[5:]}) == 60


def by_hand(sums, h, sizes):
  """USD a second of capacities on the grid, without the code of `bill`."""
  grid = sums.grid_B
  usd, before = float(sums.compute_s[0]) * h.usd_per_s, 0
  for tier, size in zip(h.tiers, sizes, strict=True):
    after = int(np.argmin(np.abs(grid - grid[before] - size)))
    spared, loaded = sums.spared_s[tier.name][0], sums.loaded_tokens[tier.name]
    usd -= (spared[after] - spared[before]) * h.usd_per_s
    if after > before:
      written_Bps = (sums.tokens[0] - sums.hit_tokens[0, before]) * TOKEN_B
      read_Bps = (loaded[0, after] - loaded[0, before]) * TOKEN_B
      if written_Bps > h.accelerators * h.moving[tier.name].write_Bps:
        return np.inf
      if grid[after] - grid[before] > tier.most_B:
        return np.inf
      life_s = min(
        tier.service_s,
        size * tier.writes_per_day * 365.25 * 5.0 / written_Bps,
      )
      usd += tier.usd_per_GB * size / 1e9 / life_s
      usd += tier.standing_W_per_GB * size / 1e9 * tier.usd_per_J
      usd += (
        (written_Bps + read_Bps) * h.moving[tier.name].J_per_B * tier.usd_per_J
      )
    before = after
  return usd


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'writes_per_day': 1e-4},
    {'most_B': 3e4},
    {'write_Bps': 30.0},
    {'fast': 1e9, 'slow': 1e9},
    {'fast': 1.0},
  ],
)
def test_the_best_of_all_purchases(changes):
  h = hierarchy(**changes)
  for seed in range(4):
    sums = sums_of(demand(seed), h).mean()
    grid = sums.grid_B
    costs = [
      by_hand(sums, h, (grid[i], grid[j] - grid[i]))
      for i in range(len(grid))
      for j in range(i, len(grid))
    ]
    chosen = kv_choice.choose(sums, h)
    found = kv_choice.bill(sums, h, chosen)
    assert found.usd_per_s == pytest.approx(min(costs), rel=1e-9)
    assert by_hand(sums, h, chosen.values()) == pytest.approx(
      found.usd_per_s, rel=1e-9
    )
    assert found.usd_per_s <= kv_choice.bill(sums, h, {}).usd_per_s


def test_what_wears_out_is_said():
  h = hierarchy(writes_per_day=1.0)
  sums = sums_of(demand(1), h).mean()
  worn = kv_choice.bill(sums, h, {'slow': 1e5})
  assert worn.worn == ('slow',)
  more = kv_choice.bill(sums, h, {'slow': 2e5})
  assert more.memory_usd_per_s == worn.memory_usd_per_s
  with pytest.raises(errors.SpecError, match="'HBM'"):
    kv_choice.bill(sums, h, {'HBM': 1.0})


@given(st.integers(0, 10**6), st.floats(1.0, 1e4), st.floats(1.01, 100.0))
@settings(max_examples=15)
def test_dearer_memory_is_bought_less_and_costs_more(seed, price, dearer):
  sums = sums_of(demand(seed), hierarchy()).mean()
  cheap, dear = (hierarchy(fast=p, slow=1e12) for p in (price, price * dearer))
  bought = [kv_choice.choose(sums, h) for h in (cheap, dear)]
  assert bought[0]['fast'] >= bought[1]['fast']
  costs = [
    kv_choice.bill(sums, h, b).usd_per_s
    for h, b in zip((cheap, dear), bought, strict=True)
  ]
  assert costs[0] <= costs[1] * (1 + 1e-12)


def test_links_are_never_busier_than_accelerators():
  h = hierarchy(slow=1e-3, fast=1e12, wait_share=0.0)
  h = h._replace(moving=h.moving | {'slow': Moving(7e-3, 1e9, 0.0)})
  sums = sums_of(demand(2), h, points=60).mean()
  without_limit = kv_choice._path(sums, h, 0.0)
  assert kv_choice.bill(sums, h, without_limit).link_busy > 1.0
  found = kv_choice.bill(sums, h, kv_choice.choose(sums, h))
  assert 0.5 < found.link_busy <= 1.0


def talks(seed=0, count=400):
  """Conversations that come back after a while, each longer than before."""
  rng = np.random.default_rng(seed)
  arrival_s = np.cumsum(rng.exponential(0.5, count))
  owners = rng.integers(0, 40, count)
  turns, blocks = {}, []
  for owner in owners:
    turns[owner] = turns.get(owner, 0) + rng.integers(1, 4)
    blocks.append([0, *(1000 * (owner + 1) + i for i in range(turns[owner]))])
  lengths = np.array([len(b) * 512.0 - 100.0 for b in blocks])
  return Requests(arrival_s - arrival_s[0], lengths, np.ones(count),
                  tuple(blocks), 512, 'talks')  # fmt: skip


@pytest.fixture(scope='module')
def machine():
  """A machine whose times anyone can compute: rates without overlap."""
  link = Tier.of('PCIe', link=True, read_Bps=50e9, latency_s=1e-9,
                 read_in_flight_B=1e9, granule_B=1e-3)  # fmt: skip
  memories = [
    Tier.of('HBM', read_Bps=1e15, latency_s=1e-9, read_in_flight_B=1e9),
    link,
    Tier.of('DRAM', via='PCIe', read_Bps=1e15, latency_s=1e-9,
            read_in_flight_B=1e9, granule_B=1e-3),
  ]  # fmt: skip
  engine = Engine.of('matrix:bfloat16', rate_FLOPps=1e12, start_s=1e-12)
  return System.of('test', memories, [engine], launch_s=1e-12,
                   power_cap_W=1e9)  # fmt: skip


def asked(requests, machine, **options):
  most_B = {'HBM': 3e8 * options.get('rate', 1.0)}
  tiers = kv_tiers.kv_tiers(
    machine, load_prices(), ['HBM', 'DRAM'], most_B=most_B,
    usd_per_GB={'HBM': 20.0, 'DRAM': 10.0},
  )  # fmt: skip
  return kv_capacity.kv_capacity(
    requests, machine, MODEL, tiers, 3.0, replicates=20, **options
  )


@pytest.fixture(scope='module')
def answer(machine):
  return asked(talks(), machine)


def test_the_account_balances(answer):
  for bill in (answer.none, answer.chosen):
    parts = [bill.accelerators_usd_per_s]
    for part in (
      bill.memory_usd_per_s, bill.power_usd_per_s, bill.moving_usd_per_s
    ):  # fmt: skip
      parts += part.values()
    assert sum(parts) == pytest.approx(bill.usd_per_s, rel=1e-12)
  saving = answer.none.usd_per_s - answer.chosen.usd_per_s
  assert answer.saving_usd_per_s.value == pytest.approx(saving, rel=1e-12)
  assert (np.diff(answer.curve.hit[0]) >= 0).all()


def test_admission_after_a_second_use_is_a_walk_over_the_trace(machine):
  found = kv_demand.kv_demand(talks(count=120), machine, MODEL)
  sums = kv_demand.sums_of(
    found, {'DRAM': 0.0}, second_use=['DRAM'], warm_up=0.0, points=9
  ).mean()
  names = [block for blocks in talks(count=120).blocks for block in blocks]
  for place in (0, 3, 8):
    spared = written = 0.0
    before: dict[int, int] = {}
    admitted: dict[int, float] = {}  # tokens to be written unless used again
    for use, name in enumerate(names):
      hits = found.depth_B[use] <= sums.grid_B[place]
      if name in before and np.isfinite(found.depth_B[before[name]]):
        spared += found.compute_s[use] * hits
      leaving = admitted.pop(name, 0.0)
      written += 0.0 if hits else leaving
      if np.isfinite(found.depth_B[use]):
        admitted[name] = found.tokens[use]
      before[name] = use
    written += sum(admitted.values())
    duration_s = found.duration_s
    assert sums.spared_s['DRAM'][0, place] == pytest.approx(
      spared / duration_s, abs=1e-9
    )
    # A block's last tokens may be fewer at one use than at the next.
    assert sums.passed_tokens['DRAM'][0, place] == pytest.approx(
      written / duration_s, rel=0.02
    )


def test_computing_takes_the_flops(machine):
  requests = talks()
  found = kv_demand.kv_demand(requests, machine, MODEL)
  weights = MODEL.active_parameters() - MODEL.parameters().embeddings
  core = MODEL.layers * 4 * 512  # scores and sums over 8 heads of 64
  for place in (0, 5, 700):
    position = place - np.flatnonzero(np.diff(found.used_s, prepend=-1.0) > 0)
    inside = position[position >= 0].min()
    flops = found.tokens[place] * (2 * weights + core * (inside * 512 + 256))
    assert found.compute_s[place] == pytest.approx(flops / 1e12, rel=1e-3)
  assert found.token_B == 2 * 4 * 2 * 512
  deepest = kv_reuse.reuse_of(requests.blocks).depth[700]
  assert found.depth_B[700] == deepest * 512 * found.token_B


def test_the_next_GB_is_a_finite_difference_of_the_account(machine, answer):
  """Bought less than is best, more of it pays; the slope is re-solved."""
  have = {'DRAM': 0.3 * sum(answer.chosen.capacity_B.values())}
  found = asked(talks(), machine, given_B=have)
  more = next(m for m in found.given_next_GB if m.tier == 'DRAM')
  step = 0.2 * have['DRAM']
  other = asked(talks(), machine, given_B={'DRAM': have['DRAM'] + step})

  def paid(bill):
    return bill.memory_usd_per_s['DRAM'] + bill.power_usd_per_s['DRAM']

  rest = [b.usd_per_s - paid(b) for b in (found.given, other.given)]
  slope = (rest[0] - rest[1]) / (step / 1e9)
  assert more.value_usd_per_s.value == pytest.approx(slope, rel=1e-9)
  tier = kv_tiers.kv_tiers(
    machine, load_prices(), ['DRAM'], usd_per_GB={'DRAM': 10.0}
  )[0]
  assert more.cost_usd_per_s == pytest.approx(tier.holding_usd_per_GB_s)
  assert more.breakeven_usd_per_GB.value == pytest.approx(
    (slope - tier.power_usd_per_GB_s) * tier.service_s
  )
  assert found.given.usd_per_s >= found.chosen.usd_per_s
  best = next(m for m in found.next_GB if m.tier == 'DRAM')
  assert best.breakeven_usd_per_GB.value < tier.usd_per_GB


def test_more_sessions_scale_everything(machine, answer):
  many = asked(talks(), machine, rate=7.0)
  assert many.chosen.usd_per_token == pytest.approx(
    answer.chosen.usd_per_token, rel=1e-9
  )
  for name, size in answer.chosen.capacity_B.items():
    assert many.chosen.capacity_B[name] == pytest.approx(7.0 * size)
  np.testing.assert_allclose(many.curve.lifetime_s, answer.curve.lifetime_s)


def test_a_golden_case(answer):
  """Conversations on a machine of 1 TFLOP/s; numbers of the first version."""
  assert answer.outcome == 'beyond the trace' and 'longer trace' in answer.help
  assert answer.supported_B == pytest.approx(1.70044e9, rel=1e-5)
  assert answer.chosen.hit == pytest.approx(
    {'HBM': 0.214363, 'DRAM': 0.654618}, rel=1e-5
  )
  assert answer.chosen.capacity_B == pytest.approx(
    {'HBM': 294.200e6, 'DRAM': 2964.77e6}, rel=1e-5
  )
  assert answer.none.accelerators == pytest.approx(0.766094, rel=1e-4)
  assert answer.chosen.accelerators == pytest.approx(0.131647, rel=1e-4)
  document = answer.to_dict()
  assert document['chosen']['usd_per_token'] == answer.chosen.usd_per_token
  assert document['curve']['hit'][0][-1] == answer.curve.hit[0, -1]


def test_traces_that_cannot_be_judged(machine):
  tiers = kv_tiers.kv_tiers(machine, load_prices(), ['HBM', 'DRAM'])
  requests = talks()._replace(blocks=None)
  with pytest.raises(errors.SpecError, match='no column hash_ids'):
    kv_capacity.kv_capacity(requests, machine, MODEL, tiers, 3.0)
  found = kv_patience.patience(requests, machine, MODEL, tiers, 3.0)
  assert found.outcome == 'reuse not seen'
  dram = found.tiers[1]
  weights = MODEL.active_parameters() - MODEL.parameters().embeddings
  assert dram.spared_s > 2 * weights / 1e12 - 8192 / 50e9
  per_s = dram.spared_s * 3.0 / 3600.0
  assert dram.patience_s == pytest.approx(
    per_s / (tiers[1].holding_usd_per_GB_s * 8192 / 1e9)
  )
  once = talks()._replace(blocks=tuple([i] for i in range(400)))
  once = once._replace(prompt_tokens=np.full(400, 512.0))
  with pytest.raises(errors.SpecError, match='used again'):
    asked(once, machine)


def test_the_boundary_is_bytes_over_compute_time(machine):
  found = kv_boundary.boundary(machine, MODEL, ['DRAM'], points=9)
  weights = MODEL.active_parameters() - MODEL.parameters().embeddings
  tokens = found.prefix_tokens
  seconds = tokens * (2 * weights + 4 * 4 * 512 * tokens / 2) / 1e12
  np.testing.assert_allclose(found.recompute_s, seconds, rtol=1e-3)
  np.testing.assert_allclose(
    found.boundary_Bps, 8192 * tokens / seconds, rtol=1e-3
  )
  np.testing.assert_allclose(found.tier_Bps['DRAM'], 50e9, rtol=1e-2)
  np.testing.assert_allclose(
    found.advantage, found.link_Bps / found.boundary_Bps[:, None], rtol=1e-9
  )
  half = kv_boundary.boundary(machine, MODEL, ['DRAM'], kv_B=1.0, points=9)
  np.testing.assert_allclose(half.boundary_Bps, found.boundary_Bps / 2)
  slow = machine.with_values({'PCIe.read_Bps': 0.3e9})
  crossing = kv_boundary.boundary(slow, MODEL, ['DRAM'], points=60)
  want = kv_reuse.breakeven_tokens(slow, MODEL, block_tokens=16)
  assert crossing.crossing_tokens['DRAM'] == pytest.approx(want, rel=0.1)


@pytest.mark.parametrize(
  'name, kv_B, want',
  [
    ('llama-3.1-70b', None, 2 * 80 * 8 * 128 * 2.0),
    ('llama-3.1-70b', 1.0, 2 * 80 * 8 * 128 * 1.0),
    # Latent keys (512) and rotary ones (64) of 61 layers.
    ('deepseek-v3', None, 61 * 576 * 2.0),
  ],
)
def test_bytes_of_a_token(name, kv_B, want):
  assert kv_demand.token_bytes(load_workload(name), kv_B) == want


def test_prices_limits_and_a_borrowed_tier():
  h100 = load_catalog('h100-sxm').system
  other = load_catalog('cxl-expander').system
  system = kv_tiers.with_tier(h100, other, 'CXL', 'PCIe')
  tiers = kv_tiers.kv_tiers(
    system, load_prices(), ['DRAM', 'CXL', 'SSD'],
    most_B={'CXL': 1e12}, usd_per_GB={'DRAM': 5.0}, writes_per_day={'SSD': 3.0},
  )  # fmt: skip
  assert [t.usd_per_GB for t in tiers] == [5.0, 13.8, 0.33]
  assert tiers[1].most_B == 1e12 and tiers[2].writes_per_day == 3.0
  # Five years at 70 % of the hours.
  assert tiers[0].service_s == pytest.approx(0.7 * 5 * 365.25 * 86400)
  prices = load_prices()
  usd_per_J = prices.of('energy_usd_per_kWh', 'grid') / 3.6e6
  site = prices.facility.energy_over_device_energy.value
  assert tiers[0].power_usd_per_GB_s == pytest.approx(0.05 * site * usd_per_J)
  with pytest.raises(errors.SpecError, match="limit of 'NVM'"):
    kv_tiers.kv_tiers(system, load_prices(), ['DRAM'], most_B={'NVM': 1.0})
  with pytest.raises(errors.SpecError, match='already'):
    kv_tiers.with_tier(system, other, 'CXL', 'PCIe')
