"""What a plan is judged by: a weighted sum of a step's time and energy.

    minimised = per_s * step time + per_J * energy of one device

covers them all: time and tokens per second (1, 0), joules per token (0, 1),
dollars per token (rent, price of electricity), and any weighted sum of these.
Both terms are sums over operations of non-negative weights times an
operation's time, plus a term that is linear in the bytes, so that minimising
keeps the convexity of the operation times (`diffmem.planning.minorant`).

At the board's power cap a lower voltage saves energy (`diffmem.cost.energy`).
What is saved is not convex: the minimised sum counts energy at full voltage,
and only the reported figures (`outcome_of`) take it off.
"""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Array, ArrayLike, Float

from diffmem import errors
from diffmem.cost import Cost, predict
from diffmem.system import System
from diffmem.workloads import Lowered, demand

_SECONDS_PER_HOUR = 3600.0
_J_PER_KWH = 3.6e6

TIME, TOKENS, ENERGY, COST = METRICS = (
  'step_time_s', 'tokens_per_s', 'energy_per_token_J', 'cost_per_token_usd',
)  # fmt: skip
WEIGHTED = 'weighted'


class Objective(NamedTuple):
  """What is minimised; hashable.

  Attributes:
    name: one of `METRICS`, or `WEIGHTED`.
    per_s: weight of the time of a step.
    per_J: weight of the energy of one device in a step.
    scale: figure of that name for one unit of the minimised sum; not used of
      tokens per second, which are not linear in it.
  """

  name: str = TIME
  per_s: float = 1.0
  per_J: float = 0.0
  scale: float = 1.0

  @property
  def weights(self) -> 'Weights':
    """What a compiled program needs of it."""
    return Weights(self.per_s, self.per_J)

  def gain(self, tokens: float, step_time_s: float) -> float:
    """How much the figure improves when the minimised sum falls by one."""
    return tokens / step_time_s**2 if self.name == TOKENS else self.scale


class Weights(NamedTuple):
  """The two weights of an objective, as a compiled program takes them."""

  per_s: Float[ArrayLike, '']
  per_J: Float[ArrayLike, '']


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


def objective_of(
  asked: str | Mapping[str, float],
  *,
  chips: int,
  tokens: float,
  usd_per_chip_hour: float | None = None,
  usd_per_kWh: float | None = None,
) -> Objective:
  """An objective by name, or a weighted sum of several.

  Args:
    asked: one of `METRICS`, or weights by name, each for one unit of its
      figure: seconds of a step, joules per token, dollars per token. Tokens
      per second have no place in a sum; the step time stands for them.
    chips: devices of the mesh.
    tokens: of a step.
    usd_per_chip_hour: rent of a device.
    usd_per_kWh: price of electricity, on top of the rent.

  Raises:
    PlanError: an unknown name, a weight below zero, no positive one, or a
      cost without a price.

  Examples:
    >>> objective_of('step_time_s', chips=8, tokens=1e6).per_s
    1.0
    >>> both = {'step_time_s': 1.0, 'energy_per_token_J': 500.0}
    >>> found = objective_of(both, chips=8, tokens=1e6)
    >>> round(found.per_J, 6)  # 500 J/token for 8 devices and 1e6 tokens
    0.004
  """
  prices = {'usd_per_chip_hour': usd_per_chip_hour, 'usd_per_kWh': usd_per_kWh}
  for name, price in prices.items():
    if price is not None and not price > 0:
      raise errors.PlanError(f'{name} = {price!r}: expected more than 0')
  rent_usd = (usd_per_chip_hour or 0.0) / _SECONDS_PER_HOUR
  power_usd = (usd_per_kWh or 0.0) / _J_PER_KWH
  weights = {asked: 1.0} if isinstance(asked, str) else dict(asked)
  for name in weights:
    errors.check_name('objective', name, METRICS)
  if COST in weights and usd_per_chip_hour is None:
    raise errors.PlanError(f'objective {COST} needs usd_per_chip_hour')
  per_token = chips / tokens
  if isinstance(asked, str):
    return {
      TIME: Objective(TIME),
      TOKENS: Objective(TOKENS),
      ENERGY: Objective(ENERGY, 0.0, 1.0, per_token),
      COST: Objective(COST, rent_usd, power_usd, per_token),
    }[asked]
  _check_weights(weights)
  time, energy, cost = (weights.get(n, 0.0) for n in (TIME, ENERGY, COST))
  return Objective(
    WEIGHTED,
    per_s=time + cost * per_token * rent_usd,
    per_J=per_token * (energy + cost * power_usd),
  )


def _check_weights(weights: Mapping[str, float]) -> None:
  if TOKENS in weights:
    raise errors.PlanError(
      f'{TOKENS} cannot stand in a weighted sum: weigh {TIME} instead'
    )
  for name, weight in weights.items():
    if not weight >= 0:
      raise errors.PlanError(f'weight of {name} = {weight!r}: expected >= 0')
  if not any(weights.values()):
    raise errors.PlanError('every weight of the objective is zero')


def busy_s(lowered: Lowered, cost: Cost) -> Float[Array, '*plan op']:
  """Time of each operation in a step, its share of the bubble included."""
  return (lowered.time_weight + lowered.bubble_weight) * cost.time_s


def energy_J(
  system: System, lowered: Lowered, cost: Cost
) -> Float[Array, '*plan op']:
  """Energy of each operation in a step at full voltage, on one device.

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
  objective: Objective | Weights,
) -> Float[Array, '*plan op']:
  """What each operation adds to the minimised sum."""
  cost = predict(system, demand(system, lowered, placement))
  return parts_of(system, lowered, cost, objective)


def parts_of(
  system: System,
  lowered: Lowered,
  cost: Cost,
  objective: Objective | Weights,
) -> Float[Array, '*plan op']:
  """The same from a cost that is known already."""
  time_s = busy_s(lowered, cost)
  energy = energy_J(system, lowered, cost)
  return objective.per_s * time_s + objective.per_J * energy


def outcome_of(
  system: System, lowered: Lowered, cost: Cost, chips: int
) -> Outcome:
  """All figures of plans whose cost is known."""
  step_time_s = busy_s(lowered, cost).sum(-1)
  energy = energy_J(system, lowered, cost)
  energy = (energy - lowered.energy_weight * cost.saved_J).sum(-1)
  return Outcome(
    step_time_s=step_time_s,
    tokens_per_s=lowered.tokens / step_time_s,
    energy_per_token_J=chips * energy / lowered.tokens,
    device_power_W=energy / step_time_s,
  )


def cost_per_token_usd(
  outcome: Mapping,
  chips: int,
  usd_per_chip_hour: float | None,
  usd_per_kWh: float | None = None,
):
  """Rent and electricity over the tokens; None without a rent."""
  if usd_per_chip_hour is None:
    return None
  rent = chips * usd_per_chip_hour / _SECONDS_PER_HOUR / outcome[TOKENS]
  return rent + (usd_per_kWh or 0.0) / _J_PER_KWH * outcome[ENERGY]
