import dataclasses

import jax
import numpy as np
import pytest

from diffmem import errors
from diffmem.system import (
  Duplex,
  Engine,
  Status,
  System,
  Tier,
  cpu_system,
  from_leaves,
  leaves_by_name,
)


@pytest.fixture
def system():
  return System.of(
    'one',
    [
      Tier.of('L2', home='HBM', private=True),
      Tier.of('HBM', read_Bps=3e12, latency_s=500e-9),
      Tier.of('PCIe', duplex='full_duplex', link=True),
      Tier.of('DRAM', via='PCIe'),
    ],
    [Engine.of('matrix:bfloat16', rate_FLOPps=1e15)],
    static_W=90.0,
  )


def test_physical_values_are_exponentials(system):
  assert system.tier('HBM').read_Bps == pytest.approx(3e12)
  assert system.tier('HBM').log_read_Bps == pytest.approx(np.log(3e12))
  assert system.values()['system.static_W'] == pytest.approx(90.0)


def test_names_follow_the_leaves(system):
  leaves = jax.tree.leaves(system)
  assert list(leaves_by_name(system).values()) == leaves
  assert len(system.infos()) == len(leaves)
  marked = from_leaves(system, {n: i for i, n in enumerate(system.infos())})
  names = list(system.infos())
  assert marked.tier('DRAM').log_latency_s == names.index('DRAM.latency_s')
  assert marked.log_static_W == names.index('system.static_W')


def test_with_values_sets_only_what_is_named(system):
  changed = system.with_values({'HBM.latency_s': 1e-6, 'L2.bend_read': -0.5})
  assert changed.values()['HBM.latency_s'] == pytest.approx(1e-6)
  assert changed.values()['L2.bend_read'] == -0.5
  same = set(system.values()) - {'HBM.latency_s', 'L2.bend_read'}
  assert all(changed.values()[n] == system.values()[n] for n in same)


def test_unknown_names_get_the_nearest(system):
  with pytest.raises(errors.SpecError, match="did you mean 'HBM'"):
    system.tier('HBN')
  with pytest.raises(errors.SpecError, match="did you mean 'HBM.latency_s'"):
    system.with_values({'HBM.latency': 1.0})
  with pytest.raises(errors.SpecError, match='no engine'):
    system.engine('tensor')


@pytest.mark.parametrize(
  ('tiers', 'said'),
  [
    ([Tier.of('A'), Tier.of('A')], 'twice'),
    ([Tier.of('A', home='B')], 'no other tier'),
    ([Tier.of('A', via='A')], 'no other tier'),
    (
      [Tier.of('A', home='B'), Tier.of('B', home='C'), Tier.of('C')],
      'must be a memory',
    ),
  ],
)
def test_structure_is_checked(tiers, said):
  with pytest.raises(errors.SpecError, match=said):
    System.of('bad', tiers)


def test_systems_are_frozen_pytrees(system):
  doubled = jax.tree.map(lambda x: x + np.log(2.0), system)
  assert doubled.tier('HBM').read_Bps == pytest.approx(6e12)
  assert doubled.tier_names == system.tier_names
  with pytest.raises(dataclasses.FrozenInstanceError):
    system.name = 'two'


def test_active_parameters_follow_the_law():
  half = Tier.of('A').active_parameters()
  full = Tier.of('A', duplex=Duplex.FULL).active_parameters()
  assert 'bend_read' in half and 'write_Bps' not in half
  assert 'write_Bps' in full and 'bend_read' not in full
  cache = Tier.of('A', home='B').active_parameters()
  assert 'capacity_B' in cache and 'capacity_B' not in half


def test_cpu_prior_is_all_prior():
  prior = cpu_system('x', (32e3, 1e6, 3e7), (True, True, False))
  assert prior.system.tier_names == (
    'L1', 'L2', 'L3', 'DRAM', 'disk', 'Ethernet',
  )  # fmt: skip
  assert set(prior.knowledge) == set(prior.system.infos())
  assert not prior.named(Status.FITTED, Status.UNIDENTIFIED)
  assert 'disk.bend_read' in prior.named(Status.PRIOR)
  assert 'DRAM.capacity_B' in prior.named(Status.UNUSED)
