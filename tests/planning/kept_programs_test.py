"""Programs that are kept: the right arguments, whatever jax remembers."""

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.cost import Demand, predict_jit
from diffmem.planning import programs
from diffmem.system import System, Tier, to_numpy


def _doubled(x):
  return 2.0 * x


def test_a_constant_of_a_trace_without_x64_stays_a_float64_argument():
  x = np.array(0.1)
  # As a traceback keeps one of a test that failed while jax traced.
  kept = jax.make_jaxpr(lambda: jnp.sin(x))()
  with jax.enable_x64(True):
    found = programs.Program(_doubled)(x)
  assert kept.jaxpr.eqns
  assert found.dtype == np.float64 and float(found) == 0.2


def test_predictions_of_such_a_machine_are_float64():
  system = System.of('one', [Tier.of('HBM', read_Bps=np.float64(2e12))])
  system = jax.tree.map(np.asarray, system)
  demand = Demand.of(system, read_B={'HBM': 2e12}, in_flight_B={'HBM': 1e12})
  kept = jax.make_jaxpr(lambda: [jnp.sin(x) for x in jax.tree.leaves(system)])()
  with jax.enable_x64(True):
    time_s = predict_jit(system, demand).time_s
  assert kept.jaxpr.eqns
  assert time_s.dtype == np.float64


def test_a_machine_in_numpy_shares_no_array_with_the_one_it_came_from(system):
  again = to_numpy(system)
  for one, other in zip(
    jax.tree.leaves(system), jax.tree.leaves(again), strict=True
  ):
    assert one is not other and one == other
