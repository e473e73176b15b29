"""Speed of `predict` and of a fit step: `make bench`.

Prints the table of pytest-benchmark; read it as ratios within one run. On two
cores of a 2.5 GHz Xeon, 10,000 demands take a few milliseconds, value and
gradient together two to four times as long.
"""

import jax
import numpy as np
import pytest

from diffmem.cost import Demand, predict
from diffmem.system import cpu_system

DEMANDS = 10_000


@pytest.fixture(scope='module')
def case():
  system = cpu_system().system
  rng = np.random.default_rng(0)
  size = 10 ** rng.uniform(3, 9, DEMANDS)
  demand = Demand.of(
    system,
    read_B={'DRAM': size},
    write_B={'DRAM': size / 3},
    flops={'matrix:float32': size * 10},
    working_set_B=size,
    participants=rng.integers(1, 8, DEMANDS).astype(float),
  )
  return jax.device_put(system), jax.device_put(demand)


def total_s(system, demand):
  return predict(system, demand).time_s.sum()


FUNCTIONS = {
  'value': total_s,
  'value and gradient to the system': jax.value_and_grad(total_s),
  'value and gradient to both': jax.value_and_grad(total_s, (0, 1)),
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_predict(benchmark, case, name):
  function = jax.jit(FUNCTIONS[name])
  jax.block_until_ready(function(*case))
  benchmark.group = f'{DEMANDS:,} demands'
  benchmark(lambda: jax.block_until_ready(function(*case)))
