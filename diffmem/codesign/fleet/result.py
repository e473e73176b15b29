"""What a fleet's plan answers; `to_dict` is the contract of `fleet --json`."""

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Any

# Workloads' names in the account for what serves none of them.
IDLE, SHARED = 'idle', 'shared'


class FleetOutcome(enum.StrEnum):
  """How a plan ended."""

  PLANNED = 'planned'
  INFEASIBLE = 'infeasible'  # demand that must be met cannot be


@dataclasses.dataclass(frozen=True)
class Line:
  """One entry of the account.

  Attributes:
    kind: 'part', 'memory', 'reservation', 'energy' or 'unmet'.
    item: part, memory, or 'unmet'.
    workload: that it serves; 'idle' for parts that wait and memory that is
      empty, 'shared' for reservations.
    part: on which the workload runs; '' where there is none.
    variant: placement; '' where there is none.
    quarter: in which it is paid.
    usd: as paid [USD].
    present_usd: discounted to the first quarter [USD].
  """

  kind: str
  item: str
  workload: str
  part: str
  variant: str
  quarter: str
  usd: float
  present_usd: float


@dataclasses.dataclass(frozen=True)
class Account:
  """All payments within the horizon.

  Attributes:
    lines: one by one.
    balance: their discounted sum against the programme's objective, relative.
    owed_usd: payments for parts and memory that fall due after the horizon.
  """

  lines: tuple[Line, ...]
  balance: float
  owed_usd: float

  @property
  def present_usd(self) -> float:
    """The discounted sum [USD]."""
    return sum(line.present_usd for line in self.lines)

  def by(self, *fields: str) -> dict[tuple[str, ...], float]:
    """Discounted sums [USD] by fields of the lines, such as 'workload'."""
    sums: dict[tuple[str, ...], float] = {}
    for line in self.lines:
      key = tuple(getattr(line, f) for f in fields)
      sums[key] = sums.get(key, 0.0) + line.present_usd
    return sums


@dataclasses.dataclass(frozen=True)
class PartTimeline:
  """One type of part over the quarters; all lists are [quarter].

  Attributes:
    lead_quarters: from order to service.
    ordered: new orders, by quarter of the order.
    delivered: of those, by quarter of delivery.
    contracted: deliveries that were ordered before.
    in_service: at the quarter.
    busy: of those, at work.
    price_usd: with its memory, if ordered in that quarter [USD].
  """

  lead_quarters: int
  ordered: tuple[float, ...]
  delivered: tuple[float, ...]
  contracted: tuple[float, ...]
  in_service: tuple[float, ...]
  busy: tuple[float, ...]
  price_usd: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class MemoryTimeline:
  """One kind of memory over the quarters; all lists are [quarter].

  Attributes:
    soldered: whether it comes with parts.
    lead_quarters: from order to delivery.
    reserved_GB: soldered: reserved already.
    ordered_GB: on top, or of a pool, by quarter of the order.
    delivered_GB: of those, by quarter of delivery.
    used_GB: soldered: built into parts in that quarter; a pool: filled.
    in_service_GB: soldered: in all parts that serve; a pool: bought.
    usd_per_GB: if ordered in that quarter.
  """

  soldered: bool
  lead_quarters: int
  reserved_GB: tuple[float, ...]
  ordered_GB: tuple[float, ...]
  delivered_GB: tuple[float, ...]
  used_GB: tuple[float, ...]
  in_service_GB: tuple[float, ...]
  usd_per_GB: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Served:
  """A workload on a part in a placement; lists are [quarter].

  Attributes:
    workload: what runs.
    part: on what.
    variant: in which placement.
    accelerators: at work.
    tokens_per_s: that they serve, as a mean.
  """

  workload: str
  part: str
  variant: str
  accelerators: tuple[float, ...]
  tokens_per_s: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Demand:
  """A workload's demand; lists are [quarter].

  Attributes:
    tokens_per_s: asked for.
    unmet_tokens_per_s: of those, not served.
    marginal_usd_per_Mtok: what a million tokens more cost in that quarter.
  """

  tokens_per_s: tuple[float, ...]
  unmet_tokens_per_s: tuple[float, ...]
  marginal_usd_per_Mtok: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Worth:
  """What one more unit of a limit saves, discounted; for demand, costs.

  Attributes:
    kind: 'part' (one more in service from the quarter on, for nothing),
      'part_supply' (one more that may be bought), 'memory' (a GB, from the
      quarter on), 'memory_supply' (a GB that may be bought), 'power' (a kW in
      the quarter) or 'demand' (a token/s in the quarter).
    name: part, memory, 'site' or workload.
    quarter: in which it comes.
    usd: the multiplier [USD for one unit].
    price_usd: of a part, what buying one in time costs within the horizon,
      discounted; None where it cannot come in time.
    more_usd: for one, by solving again with a little more; None: not checked.
    fewer_usd: for one, by solving again with a little less.
    holds_to: how many more, at least, at `more_usd` each.
    holds_from: how many fewer, at least, at `fewer_usd` each (negative).
  """

  kind: str
  name: str
  quarter: str
  usd: float
  price_usd: float | None = None
  more_usd: float | None = None
  fewer_usd: float | None = None
  holds_to: float | None = None
  holds_from: float | None = None

  @property
  def one_more_usd(self) -> float:
    """For one more: as solved again where it was, else the multiplier."""
    return self.usd if self.more_usd is None else self.more_usd


@dataclasses.dataclass(frozen=True)
class Deadline:
  """By when a part or memory must be ordered.

  Attributes:
    name: part or memory.
    lead_quarters: from order to service.
    first_order: quarter of the first order in the plan; None without orders.
    first_service: when that is delivered.
    latest_order: last quarter in which ordering may begin at no loss.
    waiting_usd: quarter of the first order -> what it costs to wait until
      then, discounted [USD]; None where demand could not be met any more.
  """

  name: str
  lead_quarters: int
  first_order: str | None
  first_service: str | None
  latest_order: str | None
  waiting_usd: Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class Binding:
  """A limit that keeps demand from being met.

  Attributes:
    limit: 'demand', 'service', 'pool', 'soldered', 'power', 'part_supply',
      'pool_supply' or 'soldered_supply'.
    name: workload, part, memory or 'site'.
    quarter: which.
    lacks: how much more would do (for demand: less), in `unit`.
    unit: 'tokens/s', 'parts', 'GB' or 'W'.
  """

  limit: str
  name: str
  quarter: str
  lacks: float
  unit: str


@dataclasses.dataclass(frozen=True)
class Remedy:
  """A family of limits that, raised alone, makes the plan feasible.

  Attributes:
    limit: as in `Binding`.
    amounts: the least that must be changed.
  """

  limit: str
  amounts: tuple[Binding, ...]


@dataclasses.dataclass(frozen=True)
class Move:
  """Demand that runs elsewhere than in another plan.

  Attributes:
    workload: what moves.
    quarter: when.
    source: (part, variant); ('unmet', '') or ('demand', '').
    target: likewise.
    tokens_per_s: that move.
    share: of the workload's demand in that quarter.
    accelerators: that it takes there less those that it took before.
    extra_usd: what they cost there less what they cost here, discounted.
    marginal_usd_per_Mtok: of the workload in that quarter, in the one plan and
      in the other.
  """

  workload: str
  quarter: str
  source: tuple[str, str]
  target: tuple[str, str]
  tokens_per_s: float
  share: float
  accelerators: float
  extra_usd: float
  marginal_usd_per_Mtok: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A plan beside another one.

  Attributes:
    base: scenario of the one.
    other: scenario of the other.
    extra_usd: cost of the other less that of the one, discounted [USD].
    by_workload: the same by workload, idle and shared; adds up to it.
    by_kind: the same by kind of payment; adds up to it.
    moves: what runs elsewhere, the most tokens first.
  """

  base: str
  other: str
  extra_usd: float
  by_workload: Mapping[str, float]
  by_kind: Mapping[str, float]
  moves: tuple[Move, ...]

  def to_dict(self) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class FleetResult:
  """A fleet's plan, or why there is none.

  Attributes:
    outcome: how it ended.
    help: one or two sentences for a person.
    name: of the fleet.
    scenario: its name.
    quarters: names.
    present_usd: all payments within the horizon, discounted [USD].
    parts: name -> its timeline.
    memories: name -> its timeline.
    demand: workload -> demand, unmet and marginal cost.
    served: who runs where; what never runs is left out.
    power_W: drawn by all that is at work, at the meter [quarter].
    power_limit_W: of the site; None without one.
    account: every payment.
    worth: multipliers that are not zero, of each kind the greatest first.
    deadlines: when to order.
    binding: where demand cannot be met: what is lacking.
    remedies: where demand cannot be met: what would do.
    seconds: wall time [s].
  """

  outcome: FleetOutcome
  help: str
  name: str
  scenario: str
  quarters: tuple[str, ...]
  present_usd: float | None = None
  parts: Mapping[str, PartTimeline] = dataclasses.field(default_factory=dict)
  memories: Mapping[str, MemoryTimeline] = dataclasses.field(
    default_factory=dict
  )
  demand: Mapping[str, Demand] = dataclasses.field(default_factory=dict)
  served: tuple[Served, ...] = ()
  power_W: tuple[float, ...] = ()
  power_limit_W: tuple[float, ...] | None = None
  account: Account | None = None
  worth: tuple[Worth, ...] = ()
  deadlines: tuple[Deadline, ...] = ()
  binding: tuple[Binding, ...] = ()
  remedies: tuple[Remedy, ...] = ()
  seconds: float = 0.0

  def to_dict(self) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers."""
    return dataclasses.asdict(self)


def tuples(values: Iterable) -> tuple[float, ...]:
  """Floats of an array."""
  return tuple(float(v) for v in values)
