"""The account of a plan sums to what the planner sums."""

import jax
import numpy as np
import pytest

from diffmem.cost import predict_jit
from diffmem.planning import objective
from diffmem.planning.account import account_of
from diffmem.workloads import demand


@pytest.mark.parametrize('seed', [0, 1])
def test_it_sums_to_what_the_planner_sums(make_instance, make_system, seed):
  # A high cap: none of its operations slows down.
  system = make_system(**{'system.power_cap_W': 1e5})
  lowered = make_instance(seed)
  placement = np.random.default_rng(seed).dirichlet(np.ones(3), 3)
  with jax.enable_x64(True):
    found = account_of(system, lowered, placement, 8)
    cost = predict_jit(system, demand(system, lowered, placement))
    outcome = objective.outcome_of(system, lowered, cost, 8)
  assert found.token_J == pytest.approx(
    float(outcome.energy_per_token_J), rel=1e-9
  )
  assert found.step_s == pytest.approx(float(outcome.step_time_s), rel=1e-9)
  assert found.device_power_W == pytest.approx(
    float(outcome.device_power_W), rel=1e-9
  )
  assert found.by_part()['SSD'] > 0 and found.static_J > 0


def test_one_of_several_plans(make_instance, system):
  one, other = make_instance(0), make_instance(1)
  both = jax.tree.map(lambda a, b: np.stack([a, b]), one, other)
  placement = np.stack([one.near_placement(), other.near_placement()])
  with jax.enable_x64(True):
    found = account_of(system, both, placement, 4, plan=1)
    alone = account_of(system, other, placement[1], 4)
  assert found.total_J == pytest.approx(alone.total_J, rel=1e-12)
  assert [x.part for x in found.lines] == [x.part for x in alone.lines]
