"""What can be bought, when, and what it costs: parts and memory as arrays."""

from typing import Any

import numpy as np

from diffmem import errors
from diffmem.codesign.fleet import scenarios
from diffmem.codesign.fleet.schema import Fleet, PartType, Scenario
from diffmem.cost import prices as prices_lib


def service(life: int, quarters: int) -> np.ndarray:
  """Whether what is delivered in d serves in q [d, q].

  Examples:
    >>> service(2, 3).astype(int)
    array([[1, 1, 0],
           [0, 1, 1],
           [0, 0, 1]])
  """
  age = np.arange(quarters)[None, :] - np.arange(quarters)[:, None]
  return (age >= 0) & (age < life)


def annuity(rate: float, years: float) -> float:
  """Share of a price that is paid in each quarter of service.

  Payments at the beginnings of quarters whose present value is the price.

  Examples:
    >>> annuity(0.0, 5.0)
    0.05
  """
  quarters = _life(years)
  if rate == 0:
    return 1.0 / quarters
  growth = (1.0 + rate) ** 0.25
  return (1.0 - 1.0 / growth) / (1.0 - growth**-quarters)


def memory_price(fleet: Fleet, name: str, prices: prices_lib.Prices) -> float:
  """USD per GB of a memory, of the fleet or of the price file.

  Raises:
    SpecError: neither has one.
  """
  own = fleet.memories[name].usd_per_GB
  return own or prices.of('memory_usd_per_GB', name)


def part_arrays(
  fleet: Fleet, scenario: Scenario, soldered, prices
) -> dict[str, Any]:
  """Rows of `Inputs` over parts."""
  n = fleet.quarters
  found = {
    name: _part(fleet, scenario, name, spec, soldered, prices)
    for name, spec in fleet.parts.items()
  }
  columns = {
    key: np.array([f[key] for f in found.values()])
    for key in next(iter(found.values()))
  }
  columns['solder_payment'] = columns['solder_payment'].reshape(
    len(found), len(soldered), n
  )
  columns['solder_GB'] = columns['solder_GB'].reshape(len(found), len(soldered))
  return {'parts': tuple(found), **columns}


def _part(
  fleet: Fleet, scenario: Scenario, name: str, spec: PartType, soldered, prices
) -> dict:
  """One part's rows of `Inputs`."""
  n, life = fleet.quarters, _life(spec.years_of_service)
  lead = spec.lead_quarters + scenario.later_quarters.get(name, 0)
  share = annuity(fleet.finance_rate, spec.years_of_service)
  share *= 1.0 + spec.deposit_share * (
    (1.0 + fleet.finance_rate) ** (lead / 4.0) - 1.0
  )
  memory_usd = np.array(
    [spec.memory_GB.get(s, 0.0) * memory_price(fleet, s, prices)
     for s in soldered]
  )  # fmt: skip
  bare_usd = spec.price_usd - memory_usd.sum()
  if bare_usd <= 0:
    raise errors.SpecError(
      f'parts.{name}.price_usd: {spec.price_usd:g} is less than its memory '
      f'costs alone, {memory_usd.sum():.0f}'
    )
  contracted = scenarios.counts(spec.contracted, n)
  retired = np.cumsum(scenarios.counts(spec.retire, n))
  limit = scenarios.by_quarter(spec.supply, n)
  limit = limit * scenarios.factor(scenario.supply, name, n)
  limit[:lead] = 0.0
  own_usd = bare_usd * scenarios.factor(scenario.price, name, n)
  solder_usd = np.array(
    [usd * scenarios.factor(scenario.price, s, n)
     for s, usd in zip(soldered, memory_usd, strict=True)]
  ).reshape(len(soldered), n)  # fmt: skip
  return {
    'lead': lead,
    'installed': spec.existing - retired + contracted @ service(life, n),
    'part_life': life,
    'part_limit': limit,
    'part_payment': share * _ordered(own_usd, lead),
    'solder_payment': share * _ordered(solder_usd, lead),
    'part_price_usd': own_usd + solder_usd.sum(0),
    'contracted': contracted,
    'assembly': spec.assembly_quarters,
    'solder_GB': np.array([spec.memory_GB.get(s, 0.0) for s in soldered]),
  }


def pool_arrays(
  fleet: Fleet, scenario: Scenario, pools: tuple[str, ...], prices
) -> dict[str, Any]:
  """Rows of `Inputs` over pools of memory."""
  n = fleet.quarters
  lead, installed, life, limit, payment = [], [], [], [], []
  for name in pools:
    memory = fleet.memories[name]
    later = memory.lead_quarters + scenario.later_quarters.get(name, 0)
    most = scenarios.by_quarter(memory.supply_GB, n)
    most = most * scenarios.factor(scenario.supply, name, n)
    most[:later] = 0.0
    price = memory_price(fleet, name, prices) * _ordered(
      scenarios.factor(scenario.price, name, n), later
    )
    lead.append(later)
    installed.append(np.full(n, memory.existing_GB))
    life.append(_life(memory.years_of_service))
    limit.append(most)
    payment.append(price * annuity(fleet.finance_rate, memory.years_of_service))
  shape = (len(pools), n)
  return {
    'pools': pools,
    'pool_lead': np.array(lead, int),
    'pool_installed': np.array(installed).reshape(shape),
    'pool_life': np.array(life, int),
    'pool_limit': np.array(limit).reshape(shape),
    'pool_payment': np.array(payment).reshape(shape),
  }


def soldered_arrays(
  fleet: Fleet, scenario: Scenario, soldered: tuple[str, ...], prices
) -> dict[str, Any]:
  """Rows of `Inputs` over soldered memory."""
  n = fleet.quarters
  lead, reserved, limit, usd = [], [], [], []
  for name in soldered:
    memory = fleet.memories[name]
    later = memory.lead_quarters + scenario.later_quarters.get(name, 0)
    factors = scenarios.factor(scenario.supply, name, n)
    most = scenarios.by_quarter(memory.orderable_GB, n) * factors
    most[:later] = 0.0
    price = memory_price(fleet, name, prices) * _ordered(
      scenarios.factor(scenario.price, name, n), later
    )
    lead.append(later)
    reserved.append(scenarios.by_quarter(memory.supply_GB, n) * factors)
    limit.append(most)
    usd.append(memory.reservation_share * price)
  shape = (len(soldered), n)
  return {
    'soldered': soldered,
    'solder_lead': np.array(lead, int),
    'reserved_GB': np.array(reserved).reshape(shape),
    'solder_limit': np.array(limit).reshape(shape),
    'reservation_usd': np.array(usd).reshape(shape),
  }


def _ordered(factors: np.ndarray, lead: int) -> np.ndarray:
  """Values of the order's quarter, for each quarter of delivery."""
  quarters = np.arange(factors.shape[-1])
  return factors[..., np.maximum(quarters - lead, 0)]


def _life(years: float) -> int:
  return max(round(4 * years), 1)
