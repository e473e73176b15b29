"""A small machine, a small model, and synthetic plans for the planner."""

import numpy as np
import pytest

from diffmem.system import Engine, System, Tier, to_numpy
from diffmem.workloads import Transformer, lowered, machine_of
from diffmem.workloads.transformer import Attention, Experts


def small_system(**changes) -> System:
  """Three memories of 8, 16 and 128 GB and a network of 4 and 64 devices."""
  link = {'duplex': 'full_duplex', 'link': True, 'queue_p': 1.0}
  tiers = [
    Tier.of(
      'HBM', duplex='turnaround', read_Bps=1e12, write_Bps=0.9e12,
      mixed_Bps=8e12, latency_s=500e-9, capacity_B=8e9,
    ),
    Tier.of('PCIe', read_Bps=32e9, latency_s=1e-6, **link),
    Tier.of('DRAM', read_Bps=50e9, capacity_B=16e9, via='PCIe'),
    Tier.of(
      'SSD', duplex='turnaround', read_Bps=6e9, write_Bps=4e9,
      latency_s=70e-6, capacity_B=128e9, via='PCIe',
    ),
    Tier.of('NVLink', read_Bps=200e9, latency_s=2e-6, span=4, **link),
    Tier.of('IB', read_Bps=25e9, latency_s=5e-6, span=64, **link),
  ]  # fmt: skip
  engine = Engine.of(
    'matrix:bfloat16', rate_FLOPps=100e12, energy_J_per_FLOP=1e-12
  )
  system = System.of('small', tiers, [engine], static_W=50, power_cap_W=400)
  return to_numpy(system.with_values(changes))


@pytest.fixture(scope='session')
def system() -> System:
  return small_system()


@pytest.fixture(scope='session')
def make_system():
  return small_system


@pytest.fixture(scope='session')
def moe() -> Transformer:
  """1.7e9 parameters, four layers."""
  return Transformer(
    name='small-moe', source='test', layers=4, d_model=2048, vocab=32768,
    attention=Attention(heads=16, kv_heads=4, head_dim=128),
    experts=Experts(count=16, top_k=2, d_ff=4096, shared=1),
    max_context=8192,
  )  # fmt: skip


@pytest.fixture(scope='session')
def make_instance(system):
  """Random plans of two operations and three groups, as the solver sees one."""

  def make(seed: int):
    rng = np.random.default_rng(seed)
    names = ('weights', 'states', 'cache')
    size_B = dict(zip(names, rng.uniform(1e9, 6e9, 3), strict=True))

    def moved(low, high):
      # Some groups rest in some operations.
      return {
        g: b * rng.uniform(low, high) * rng.integers(2)
        for g, b in size_B.items()
      }

    operations = [
      lowered.Operation(
        'work', flops=rng.uniform(0.1, 100) * 1e12,
        near_read_B=rng.uniform(0, 40e9), near_write_B=rng.uniform(0, 20e9),
        group_read_B=moved(0, 4), group_write_B=moved(0, 1), phases=20.0,
      ),
      lowered.Operation(
        'update', group_read_B=moved(0, 1), group_write_B=moved(0, 1),
        time_weight=rng.uniform(0.5, 2), near_read_B=1e6,
      ),
    ]  # fmt: skip
    made = lowered.assemble(
      operations, names, machine_of(system, 1), (), size_B=size_B,
      fetch_B={'weights': 0.1 * size_B['weights']},
      units=dict.fromkeys(names, 3.0), fixed_B=1e8, tokens=1e4,
      model_flops=1e12,
    )  # fmt: skip
    import jax

    return jax.tree.map(lambda x: np.asarray(x, np.float64), made)

  return make
