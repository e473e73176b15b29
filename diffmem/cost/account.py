"""Where the energy and the money of a step go.

Energy: every tier's device and path, every engine, and what flows whatever is
done, while operations run and while they wait (a pipeline's bubble). What a
lower voltage saves at the power cap stands on a line of its own: `predict`
does not say whose it was. The lines sum to the total.

Money: rent of the accelerators, or, for owned ones, energy at the meter;
memory beside them is paid off over its years of service.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from diffmem import errors
from diffmem.cost.demand import Cost
from diffmem.cost.prices import Prices
from diffmem.system import System

_SECONDS_PER_HOUR = 3600.0
_HOURS_PER_YEAR = 8766.0
_J_PER_KWH = 3.6e6


class Line(NamedTuple):
  """One line of the account.

  Attributes:
    part: tier or engine, or 'board' for the rest.
    kind: 'device', 'path', 'arithmetic', 'static busy', 'static idle' or
      'saved at the cap'.
    energy_J: of a step, all devices together [J]; negative when saved.
  """

  part: str
  kind: str
  energy_J: float

  @property
  def is_static(self) -> bool:
    """Whether it flows whatever is done."""
    return self.kind.startswith('static')


@dataclasses.dataclass(frozen=True)
class Account:
  """The energy of one step on all devices.

  Attributes:
    lines: every part and kind; they sum to `total_J`.
    step_s: time of the step, bubble included [s].
    devices: devices that run it.
    tokens: tokens of the step, all devices together.
  """

  lines: tuple[Line, ...]
  step_s: float
  devices: int
  tokens: float

  @property
  def static_J(self) -> float:
    """What flows whatever is done [J]."""
    return sum(line.energy_J for line in self.lines if line.is_static)

  @property
  def dynamic_J(self) -> float:
    """What bytes and operations take, less what is saved [J]."""
    return sum(line.energy_J for line in self.lines if not line.is_static)

  @property
  def total_J(self) -> float:
    """Energy of the step, all devices together [J]."""
    return self.static_J + self.dynamic_J

  @property
  def device_power_W(self) -> float:
    """Mean power of one device [W]."""
    return self.total_J / self.devices / self.step_s

  @property
  def token_J(self) -> float:
    """Energy of one token [J]."""
    return self.total_J / self.tokens

  def by_part(self) -> dict[str, float]:
    """Energy of a step by tier, engine and board [J]."""
    found: dict[str, float] = {}
    for line in self.lines:
      found[line.part] = found.get(line.part, 0.0) + line.energy_J
    return found

  def per_token(self) -> tuple[Line, ...]:
    """The same lines for one token."""
    return tuple(
      line._replace(energy_J=line.energy_J / self.tokens) for line in self.lines
    )


class Bill(NamedTuple):
  """What a step costs; every part in USD of all devices together.

  Attributes:
    accelerators_usd: their rent.
    energy_usd: at the meter, the site's own included.
    memory_usd: paid-off share of further memory, by tier.
    tokens: tokens of the step.
  """

  accelerators_usd: float
  energy_usd: float
  memory_usd: Mapping[str, float]
  tokens: float

  @property
  def total_usd(self) -> float:
    """All of it."""
    return (
      self.accelerators_usd + self.energy_usd + sum(self.memory_usd.values())
    )

  @property
  def token_usd(self) -> float:
    """Cost of one token."""
    return self.total_usd / self.tokens


def account(
  system: System,
  cost: Cost,
  *,
  tokens: float,
  devices: int = 1,
  runs: np.ndarray | float = 1.0,
  idle_runs: np.ndarray | float = 0.0,
  energy_runs: np.ndarray | float | None = None,
) -> Account:
  """The energy of a step, part by part.

  Args:
    system: the machine that `cost` was predicted on.
    cost: of one device's operations, [op] or a single one.
    tokens: tokens of the step, all devices together.
    devices: devices that all do the same.
    runs: times that each operation runs in a step (`Lowered.time_weight`).
    idle_runs: times that it passes idle (`Lowered.bubble_weight`).
    energy_runs: times that its bytes and operations are spent
      (`Lowered.energy_weight`); as `runs` when not given.

  Raises:
    SpecError: several plans at once, or tokens or devices that are not
      positive.
  """
  if not (tokens > 0 and devices > 0):
    raise errors.SpecError(
      f'tokens = {tokens} and devices = {devices} must be positive'
    )
  time_s = np.asarray(cost.time_s, np.float64)
  if time_s.ndim > 1:
    raise errors.SpecError(
      f'an account is of one plan: cost has the shape {time_s.shape}, expected '
      '[op]'
    )
  energy_runs = runs if energy_runs is None else energy_runs
  runs, idle_runs, spent = (
    devices * np.broadcast_to(np.asarray(w, np.float64), time_s.shape)
    for w in (runs, idle_runs, energy_runs)
  )

  def total(parts, weights):
    """Weighted sum over operations of [op] or [op part]."""
    parts = np.asarray(parts, np.float64)
    weights = weights.reshape(weights.shape + (1,) * (parts.ndim - time_s.ndim))
    return (weights * parts).sum(tuple(range(time_s.ndim)))

  lines = []
  for kind, table, names in (
    ('device', cost.device_J, system.tier_names),
    ('path', cost.path_J, system.tier_names),
    ('arithmetic', cost.engine_J, system.engine_names),
  ):
    sums = np.reshape(total(table, spent), (-1,))
    lines += [Line(n, kind, float(J)) for n, J in zip(names, sums, strict=True)]
  static_W = np.float64(system.static_W)
  lines += [
    Line('board', 'static busy', float(total(cost.static_J, runs))),
    Line('board', 'static idle', float(static_W * total(time_s, idle_runs))),
    Line('board', 'saved at the cap', -float(total(cost.saved_J, spent))),
  ]
  step_s = float(total(time_s, runs + idle_runs)) / devices
  return Account(tuple(lines), step_s, devices, float(tokens))


def rented(
  found: Account,
  prices: Prices,
  accelerator: str,
  memory_B: Mapping[str, float] | None = None,
) -> Bill:
  """What a step costs on rented accelerators, whose rent includes energy.

  Args:
    found: the account of the step.
    prices: dated prices.
    accelerator: name in `accelerator_usd_per_hour`.
    memory_B: memory beyond what comes with them, by tier, all devices [B].

  Raises:
    SpecError: a price that is not there.
  """
  rent = prices.of('accelerator_usd_per_hour', accelerator)
  hours = found.step_s / _SECONDS_PER_HOUR
  return Bill(
    accelerators_usd=found.devices * rent * hours,
    energy_usd=0.0,
    memory_usd=_memory_usd(found, prices, memory_B),
    tokens=found.tokens,
  )


def owned(
  found: Account,
  prices: Prices,
  accelerator_usd: float,
  memory_B: Mapping[str, float] | None = None,
  contract: str = 'grid',
) -> Bill:
  """What a step costs on accelerators of one's own.

  Args:
    found: the account of the step.
    prices: dated prices.
    accelerator_usd: price of one accelerator with its share of the host.
    memory_B: memory beyond what comes with them, by tier, all devices [B].
    contract: name in `energy_usd_per_kWh`.

  Raises:
    SpecError: a price that is not there.
  """
  site = prices.facility.energy_over_device_energy.value
  kWh = site * found.total_J / _J_PER_KWH
  share = _paid_off(found.step_s, prices)
  return Bill(
    accelerators_usd=found.devices * accelerator_usd * share,
    energy_usd=kWh * prices.of('energy_usd_per_kWh', contract),
    memory_usd=_memory_usd(found, prices, memory_B),
    tokens=found.tokens,
  )


def _memory_usd(found, prices, memory_B) -> dict[str, float]:
  share = _paid_off(found.step_s, prices)
  return {
    tier: size_B / 1e9 * prices.of('memory_usd_per_GB', tier) * share
    for tier, size_B in (memory_B or {}).items()
  }


def _paid_off(step_s: float, prices: Prices) -> float:
  """Share of a purchase that one step has to earn."""
  facility = prices.facility
  hours = facility.years_of_service.value * _HOURS_PER_YEAR
  used_s = hours * facility.share_of_hours_used.value * _SECONDS_PER_HOUR
  return step_s / used_s
