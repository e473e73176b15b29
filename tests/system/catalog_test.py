import dataclasses
import pathlib
import re
import tomllib

import jax
import numpy as np
import pytest

import diffmem.system
from diffmem import errors
from diffmem.cost import Demand, predict
from diffmem.system import Duplex, Status, catalog_names, load_catalog, rename

NAMES = (
  'a100-sxm', 'b200-sxm', 'gb200', 'h100-sxm', 'h200-sxm', 'mi300x',
  'tpu-ironwood', 'tpu-v5e', 'tpu-v5p', 'tpu-v6e',
)  # fmt: skip
# Memories without engines -> tiers that a fit of theirs needs.
PLATFORMS = {
  'any-memory': ('DRAM', 'HBM', 'CXL', 'SSD'),
  'cxl-expander': ('DRAM', 'DRAM-remote', 'CXL', 'CXL-remote'),
  'grace-lpddr5x': ('DRAM', 'HBM'),
  'nvme-ssd': ('SSD', 'SSDs'),
  'sapphire-rapids-ddr5': ('DRAM', 'CXL', 'SSD'),
  'xeon-max-hbm': ('HBM', 'DRAM'),
}
# GPUs that nobody has built.
WHAT_IFS = ('hbf-gpu', 'hbm4-gpu')
# Compiled in a hurry: it runs once.
PREDICT = jax.jit(
  predict, compiler_options={'xla_backend_optimization_level': 0}
)
FILES = pathlib.Path(diffmem.system.__file__).parent / 'catalog'

# Typed in from the data sheets a second time, in SI: HBM bytes/s and bytes,
# bfloat16 FLOP/s, board W, scale-up bytes/s per direction and its span, host
# link bytes/s per direction.
DATA_SHEET = {
  'a100-sxm': (2.039e12, 80e9, 312e12, 400, 300e9, 8, 32e9),
  'h100-sxm': (3.35e12, 80e9, 989e12, 700, 450e9, 8, 64e9),
  'h200-sxm': (4.8e12, 141e9, 989e12, 700, 450e9, 8, 64e9),
  'b200-sxm': (7.7e12, 180e9, 2.25e15, 1000, 900e9, 8, 64e9),
  'gb200': (8e12, 186e9, 2.5e15, 1200, 900e9, 72, 225e9),
  'mi300x': (5.3e12, 192e9, 1.307e15, 750, 448e9, 8, 64e9),
  'tpu-v5e': (8.19e11, 16e9, 197e12, 175, 200e9, 256, 15e9),
  'tpu-v5p': (2.765e12, 95 * 2**30, 459e12, 500, 600e9, 8960, 15e9),
  'tpu-v6e': (1.638e12, 32 * 2**30, 918e12, 300, 400e9, 256, 32e9),
  'tpu-ironwood': (7.38e12, 192 * 2**30, 2.307e15, 1200, 600e9, 9216, 32e9),
}

MINE = """
name = 'mine'
[tiers.HBM]
duplex = 'turnaround'
read_Bps = { value = '2 TB/s', source = 'data sheet' }
capacity_B = { value = '64 GB', source = 'data sheet', sd = 0.01 }
[engines.'matrix:bfloat16']
rate_FLOPps = { value = '200 TFLOP/s', source = 'unverified: a talk' }
"""


@pytest.fixture(scope='module')
def machines():
  return {name: load_catalog(name) for name in catalog_names()}


@pytest.fixture
def own(tmp_path):
  def write(text):
    path = tmp_path / 'mine.toml'
    path.write_text(text)
    return path

  return write


def test_names():
  names = catalog_names()
  assert list(names) == sorted(names)
  assert set(names) >= {*NAMES, *PLATFORMS, *WHAT_IFS}
  assert set(DATA_SHEET) == set(NAMES)


@pytest.mark.parametrize('name', PLATFORMS)
def test_memory_platforms(machines, name):
  found = machines[name]
  system = found.system
  assert system.name == name and not system.engines
  memories = [t for t in system.tiers if not t.is_cache and not t.link]
  assert {t.name for t in memories} >= set(PLATFORMS[name])
  for tier in memories:
    is_sharing_cores = tier.name == PLATFORMS[name][0]
    assert tier.contended or not is_sharing_cores or name == 'cxl-expander'
    assert 1e9 < tier.read_Bps < 1e13 and tier.latency_s < 1e-3
  # All of it is to be measured; nothing is said without a source.
  assert all(
    known.status in (Status.PRIOR, Status.UNUSED) and known.source
    for known in found.knowledge.values()
  )


@pytest.mark.parametrize('name', WHAT_IFS)
def test_what_ifs_differ_from_h200_in_memory_alone(machines, name):
  system, h200 = machines[name].system, machines['h200-sxm'].system
  assert system.engine_names == h200.engine_names
  assert system.power_cap_W == h200.power_cap_W
  assert system.tier('NVLink').span == h200.tier('NVLink').span
  hbm, before = system.tier('HBM'), h200.tier('HBM')
  if name == 'hbm4-gpu':
    assert hbm.read_Bps == pytest.approx(12e12)
    assert hbm.capacity_B == pytest.approx(216e9)
    assert hbm.device_J_per_B < before.device_J_per_B
  else:
    flash = system.tier('HBF')
    assert hbm.read_Bps == before.read_Bps
    assert flash.capacity_B > 5 * hbm.capacity_B and not flash.via
    assert flash.write_Bps < 0.1 * flash.read_Bps < 0.1 * hbm.read_Bps
    assert flash.latency_s > 5 * hbm.latency_s


@pytest.mark.parametrize('name', NAMES)
def test_main_figures(machines, name):
  system = machines[name].system
  up = 'ICI' if name.startswith('tpu') else 'NVLink'
  up = system.tier('xGMI' if name == 'mi300x' else up)
  found = (
    system.tier('HBM').read_Bps, system.tier('HBM').capacity_B,
    system.engine('matrix:bfloat16').rate_FLOPps, system.power_cap_W,
    up.read_Bps, up.span, system.tier('PCIe').read_Bps,
  )  # fmt: skip
  np.testing.assert_allclose(found, DATA_SHEET[name], rtol=1e-12)
  assert system.name == name


@pytest.mark.parametrize('name', NAMES)
def test_structure(machines, name):
  system = machines[name].system
  far = system.tier('DCN' if name.startswith('tpu') else 'IB')
  for tier in system.tiers:
    assert (tier.span > 1) == (tier.link and tier.name != 'PCIe')
    assert not tier.link or tier.duplex is Duplex.FULL
  assert far.link and far.span > 9216
  assert system.tier('DRAM').via == 'PCIe'
  assert system.tier('HBM').duplex is Duplex.TURNAROUND
  assert 'vector:float32' in system.engine_names
  assert ('SSD' in system.tier_names) == (not name.startswith('tpu'))
  assert ('L2' in system.tier_names) == (not name.startswith('tpu'))


@pytest.mark.parametrize('name', NAMES)
def test_figures_stand_in_a_plausible_order(machines, name):
  system = machines[name].system
  rate = {t.name: float(t.read_Bps) for t in system.tiers}
  size = {t.name: float(t.capacity_B) for t in system.tiers}
  wait = {t.name: float(t.latency_s) for t in system.tiers}
  assert rate['HBM'] > 5 * rate['PCIe'] and rate['HBM'] > 5 * rate['DRAM']
  assert 10e-9 < wait['HBM'] < 1e-6
  if 'L2' in rate:
    assert rate['L2'] > rate['HBM'] and size['L2'] < size['HBM'] / 100
    assert wait['L2'] < wait['HBM']
    assert rate['SSD'] < rate['DRAM'] and size['SSD'] > size['DRAM']
    assert wait['SSD'] > 100 * wait['DRAM']
  for tier in system.tiers:
    pJ_per_bit = (tier.device_J_per_B + tier.path_J_per_B) / 8 * 1e12
    assert 0.5 < pJ_per_bit < (200 if tier.name == 'SSD' else 30)
  hbm = system.tier('HBM')
  assert 14 < (hbm.device_J_per_B + hbm.path_J_per_B) / 8 * 1e12 < 17
  assert system.static_W < 0.4 * system.power_cap_W


@pytest.mark.parametrize('name', NAMES)
def test_every_figure_has_source_and_width(machines, name):
  fitted = machines[name]
  assert fitted.draws == 0 and not fitted.scatter
  assert set(fitted.knowledge) == set(fitted.system.infos())
  values = fitted.system.values()
  for full, known in fitted.knowledge.items():
    assert known.source, full
    assert not re.search(r'(^|[\s:(])/\w', known.source), full
    assert known.status in (Status.PRIOR, Status.UNUSED)
    assert bool(known.measure) == (known.status is Status.PRIOR), full
    np.testing.assert_allclose(values[full], known.prior, atol=1e-300)
    assert 0 < known.prior_sd == known.stderr
    if known.source.startswith('assumption:'):
      assert known.prior_sd >= 0.05
  unused = set(fitted.named(Status.UNUSED))
  assert not unused & fitted.system.active()


@pytest.mark.parametrize('name', NAMES)
def test_files_hold_nothing_without_a_figure(name):
  data = tomllib.loads((FILES / f'{name}.toml').read_text())
  tables = [data['system'], *data['tiers'].values(), *data['engines'].values()]
  for table in tables:
    for key, value in table.items():
      if key not in ('duplex', 'home', 'via', 'link'):
        assert set(value) >= {'value', 'source'}, (name, key)
  known = load_catalog(name).knowledge
  published = [k for k in known.values() if k.prior_sd <= 0.2]
  assert len(published) >= 8


@pytest.mark.parametrize('name', NAMES)
def test_predict_is_finite_and_near_the_published_rates(machines, name):
  # Without names and spans, machines of one structure share a compilation.
  system = rename(machines[name].system, 'any')
  flat = tuple(dataclasses.replace(t, span=0) for t in system.tiers)
  system = dataclasses.replace(system, tiers=flat)
  tiers = [t for t in system.tiers if not t.is_cache]
  rates = np.array([*(t.read_Bps for t in tiers), *(
    e.rate_FLOPps for e in system.engines
  )])  # fmt: skip
  asked = np.diag(rates)  # one operation per tier and engine: a second's work
  n = len(tiers)
  cost = PREDICT(system, Demand.of(
    system,
    read_B={t.name: asked[:, i] for i, t in enumerate(tiers)},
    flops={e.name: asked[:, n + i] for i, e in enumerate(system.engines)},
  ))  # fmt: skip
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(cost))
  assert (cost.time_s > 0.99).all() and (cost.energy_J > 0).all()
  assert (cost.power_W < 1.01 * system.power_cap_W).all()
  # Behind a link, the slower of tier and link decides; PCIe is slow beside a
  # host's memory.
  behind = np.array([bool(t.via) for t in tiers])
  assert (cost.time_s[:n][~behind] < 1 / 0.8).all()
  assert (cost.time_s[:n][behind] < 10).all()
  assert (cost.time_s[n:] < 2).all()


def test_own_file_is_filled_in(own):
  fitted = load_catalog(own(MINE))
  known = fitted.knowledge
  assert known['HBM.read_Bps'].prior_sd == 0.15
  assert known['HBM.capacity_B'].prior_sd == 0.01
  assert known['matrix:bfloat16.rate_FLOPps'].prior_sd == 0.3
  assert known['HBM.latency_s'].source.startswith('assumption:')
  assert known['HBM.latency_s'].prior_sd >= 0.5
  hbm = fitted.system.tier('HBM')
  np.testing.assert_allclose(
    hbm.read_in_flight_B, 8 * hbm.latency_s * hbm.read_Bps
  )
  engine = fitted.system.engine('matrix:bfloat16')
  headroom = fitted.system.power_cap_W - fitted.system.static_W
  np.testing.assert_allclose(
    engine.energy_J_per_FLOP * engine.rate_FLOPps * 0.8, headroom
  )
  assert known['HBM.bend_read'].status is Status.UNUSED


def test_every_fault_is_reported_with_its_path(own):
  path = own("""
name = 'mine'
speed = 3
[system]
power_cap_W = { value = '700 GB', source = 'abc' }
launchs_s = { value = '3 us', source = 'abc' }
[tiers.HBM]
duplex = 'both'
read_Bps = { value = '3.35 TX/s', source = 'abc' }
write_Bps = { value = true, source = 'abc' }
mixed_Bps = '3 GB/s'
latency_s = { value = '3 s', source = '' }
granule_B = { value = '-3 B', source = 'abc' }
queue_p = { valeu = 3, source = 'abc', sd = 'wide' }
capacity_B = { value = '8e30 B', source = 'abc' }
""")
  with pytest.raises(errors.SpecError) as caught:
    load_catalog(path)
  lines = str(caught.value).splitlines()
  assert all(line.startswith(f'{path}: ') for line in lines)
  for expected in (
    'speed: found 3; expected no such key',
    "system.power_cap_W.value: found '700 GB'",
    "did you mean 'launch_s'?",
    "tiers.HBM.duplex: found 'both'; expected 'half_duplex'",
    "tiers.HBM.read_Bps.value: found '3.35 TX/s'",
    'tiers.HBM.write_Bps.value: found True; expected a number',
    "tiers.HBM.mixed_Bps: found '3 GB/s'; expected a table",
    "tiers.HBM.latency_s.source: found ''",
    "tiers.HBM.granule_B.value: found '-3 B'",
    'tiers.HBM.queue_p.value: expected this key',
    "tiers.HBM.queue_p.valeu: found 3; expected no such key; did you mean 'v",
    "tiers.HBM.queue_p.sd: found 'wide'",
    "tiers.HBM.capacity_B.value: found '8e30 B'",
  ):
    assert any(expected in line for line in lines), expected
  assert len(lines) == 13


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('name =', 'expected TOML'),
    ("name = 'x'", 'tiers: expected this key'),
    ("name = 'x'\n[tiers]", 'tiers: found'),
    ("name = 'x'\n[tiers.A]\nvia = 'B'", "A.via is 'B'"),
    ("name = 'x'\n[tiers.A]\nhome = 'A'", "A.home is 'A'"),
  ],
)
def test_other_faults(own, text, expected):
  path = own(text)
  with pytest.raises(errors.SpecError) as caught:
    load_catalog(path)
  assert str(path) in str(caught.value) and expected in str(caught.value)


def test_unknown_names(tmp_path):
  with pytest.raises(errors.SpecError, match="did you mean 'h100-sxm'"):
    load_catalog('H100')
  with pytest.raises(errors.SpecError, match='there is none'):
    load_catalog(tmp_path / 'none.toml')
  with pytest.raises(errors.SpecError, match=r'readable|none'):
    (tmp_path / 'folder.toml').mkdir()
    load_catalog(tmp_path / 'folder.toml')
  with pytest.raises(errors.SpecError, match='no machine'):
    load_catalog('assumptions')
