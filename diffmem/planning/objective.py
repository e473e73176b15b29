"""What a plan is judged by: time, energy or cost, as a sum over operations.

All of them are sums over operations of a weight times an operation's time,
plus, for energy, a term that is linear in the bytes: minimising one keeps the
convexity of the operation times (`diffmem.planning.minorant`).
"""

import enum
from typing import NamedTuple

from jaxtyping import Array, Float

from diffmem.cost import Cost, predict
from diffmem.system import System
from diffmem.workloads import Lowered, demand

_SECONDS_PER_HOUR = 3600.0


class Objective(enum.StrEnum):
  """What is optimised."""

  STEP_TIME = 'step_time_s'
  TOKENS_PER_S = 'tokens_per_s'
  ENERGY = 'energy_per_token_J'
  COST = 'cost_per_token_usd'


class Outcome(NamedTuple):
  """Figures of many plans.

  Attributes:
    step_time_s: time of a step [s].
    tokens_per_s: of all devices together [1/s].
    energy_per_token_J: of all devices together [J].
    device_power_W: mean of one device [W].
  """

  step_time_s: Float[Array, '*plan']
  tokens_per_s: Float[Array, '*plan']
  energy_per_token_J: Float[Array, '*plan']
  device_power_W: Float[Array, '*plan']


def busy_s(lowered: Lowered, cost: Cost) -> Float[Array, '*plan op']:
  """Time of each operation in a step, its share of the bubble included."""
  return (lowered.time_weight + lowered.bubble_weight) * cost.time_s


def energy_J(
  system: System, lowered: Lowered, cost: Cost
) -> Float[Array, '*plan op']:
  """Energy of each operation in a step, on one device.

  The fullest pipeline stage stands for all, so a pipeline's energy is too
  high by its imbalance.
  """
  dynamic_J = cost.device_J.sum(-1) + cost.path_J.sum(-1)
  dynamic_J = dynamic_J + cost.engine_J.sum(-1)
  static_J = system.static_W * busy_s(lowered, cost)
  return static_J + lowered.energy_weight * dynamic_J


def parts(
  system: System,
  lowered: Lowered,
  placement: Float[Array, '*plan group memory'],
  objective: Objective,
) -> Float[Array, '*plan op']:
  """What each operation adds to the objective, to be minimised.

  Time, tokens per second and cost per token order plans of one batch on one
  number of chips alike: all three are minimised as the step time [s]; energy
  as joules of a step on one device [J].
  """
  return parts_of(
    system, lowered, predict(system, demand(system, lowered, placement)),
    objective,
  )  # fmt: skip


def parts_of(
  system: System, lowered: Lowered, cost: Cost, objective: Objective
) -> Float[Array, '*plan op']:
  """The same from a cost that is known already."""
  if objective is Objective.ENERGY:
    return energy_J(system, lowered, cost)
  return busy_s(lowered, cost)


def outcome_of(
  system: System, lowered: Lowered, cost: Cost, chips: int
) -> Outcome:
  """All figures of plans whose cost is known."""
  step_time_s = busy_s(lowered, cost).sum(-1)
  energy = energy_J(system, lowered, cost).sum(-1)
  return Outcome(
    step_time_s=step_time_s,
    tokens_per_s=lowered.tokens / step_time_s,
    energy_per_token_J=chips * energy / lowered.tokens,
    device_power_W=energy / step_time_s,
  )


def cost_per_token_usd(
  tokens_per_s, chips: int, usd_per_chip_hour: float | None
):
  """Rent of the chips over the tokens; None without a price."""
  if usd_per_chip_hour is None:
    return None
  return chips * usd_per_chip_hour / _SECONDS_PER_HOUR / tokens_per_s


def gain_per_unit(
  objective: Objective,
  *,
  step_time_s: float,
  tokens: float,
  chips: int,
  usd_per_chip_hour: float | None,
) -> float:
  """How much the objective improves when the minimised sum falls by one."""
  if objective is Objective.ENERGY:
    return chips / tokens
  if objective is Objective.COST:
    return chips * usd_per_chip_hour / _SECONDS_PER_HOUR / tokens
  if objective is Objective.TOKENS_PER_S:
    return tokens / step_time_s**2
  return 1.0
