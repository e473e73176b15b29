"""What `uncertainty.decide` answers: the order, how sure, what to measure."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any


class DecisionOutcome(enum.StrEnum):
  """How sure the choice is."""

  SETTLED = 'settled'  # the first is better than every other, probably
  INDIFFERENT = 'indifferent'  # it does not matter which
  TOO_CLOSE = 'too_close'  # it matters and is open
  ONE_PLAN = 'one_plan'  # nothing to choose from
  NO_ENSEMBLE = 'no_ensemble'  # nothing was fitted, nothing is known


@dataclasses.dataclass(frozen=True)
class Ranked:
  """One plan.

  Attributes:
    index: its row in the values.
    mean: over the draws, in the objective's unit.
    upper: its pessimistic quantile, by which plans are ranked: high where less
      is better, low where more is.
    best_share: share of the draws in which it is the best.
  """

  index: int
  mean: float
  upper: float
  best_share: float


@dataclasses.dataclass(frozen=True)
class Beats:
  """How probably the first beats another one.

  Attributes:
    index: the other one.
    probability: share of the draws, a tie as half.
    stderr: Monte Carlo standard error.
    interval90: 5 % and 95 % quantile of the probability.
  """

  index: int
  probability: float
  stderr: float
  interval90: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Worth:
  """What a measurement would bring.

  Attributes:
    text: "op 'gemm' on bfloat16", or a parameter's name without a system.
    op: operation of the trace schema; '' where none is known.
    part: tier, number format or family of kernels.
    observable: 'time_s' or 'power_W'.
    tool: the program that runs or reads it; '' where none does.
    how: sizes and conditions that tell the first of its parameters.
    parameters: what it tells, the most valuable first.
    drop: expected drop of regret if it told them exactly.
    drop_share: the same over the expected regret.
    beyond_chance: whether shuffled draws seldom bring as much.
  """

  text: str
  op: str
  part: str
  observable: str
  tool: str
  how: str
  parameters: tuple[str, ...]
  drop: float
  drop_share: float
  beyond_chance: bool


@dataclasses.dataclass(frozen=True)
class Decision:
  """The choice, how sure it is, and what would settle it.

  Attributes:
    outcome: how sure it is.
    help: one sentence for a person.
    order: plans by their pessimistic quantile, the best first.
    quantile: of the loss, by which they are ranked.
    draws: of the ensemble.
    plans: in that order.
    beats: the first against each other one, in that order.
    regret: expected loss of taking the first, in the objective's unit; the
      most that any measurement could save.
    regret_share: the same over the first's mean.
    measurements: the most valuable first.
    parameters: the most valuable single parameters and their drop of regret.
    fixed: parameters without spread in the ensemble: taken as known.
  """

  outcome: DecisionOutcome
  help: str
  order: tuple[int, ...]
  quantile: float
  draws: int
  plans: tuple[Ranked, ...] = ()
  beats: tuple[Beats, ...] = ()
  regret: float = 0.0
  regret_share: float = 0.0
  measurements: tuple[Worth, ...] = ()
  parameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
  fixed: tuple[str, ...] = ()

  def to_dict(self) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers."""
    return dataclasses.asdict(self)
