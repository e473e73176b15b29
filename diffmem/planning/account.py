"""The energy account of a plan: the parts of what the planner sums."""

import jax
from jaxtyping import Array, Float

from diffmem.cost import account as account_lib
from diffmem.cost import predict_jit
from diffmem.system import System
from diffmem.workloads import Lowered, demand


def account_of(
  system: System,
  lowered: Lowered,
  placement: Float[Array, '*plan group memory'],
  chips: int,
  plan: int = 0,
) -> account_lib.Account:
  """The energy of a plan's step on all chips, tier by tier.

  Where no operation is at the power cap it sums to what
  `objective.outcome_of` gives; there, `objective` leaves out what the lower
  voltage saves, so that it stays convex, and the account has a line for it.

  Args:
    system: the machine that `lowered.machine` was made from.
    lowered: one plan or several.
    placement: share of each group in each memory.
    chips: devices of the mesh.
    plan: which of them, by its index; 0 for the first.
  """
  cost = predict_jit(system, demand(system, lowered, placement))
  several = lowered.tokens.ndim > 0

  def pick(values):
    return values[plan] if several else values

  return account_lib.account(
    system,
    jax.tree.map(pick, cost),
    tokens=float(pick(lowered.tokens)),
    devices=chips,
    runs=pick(lowered.time_weight),
    idle_runs=pick(lowered.bubble_weight),
    energy_runs=pick(lowered.energy_weight),
  )
