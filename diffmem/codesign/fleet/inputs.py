"""A fleet under a scenario as arrays: what the linear programme is made of."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from diffmem import errors
from diffmem.codesign.fleet import scenarios, supply
from diffmem.codesign.fleet.schema import Fleet, Scenario
from diffmem.cost import prices as prices_lib

QUARTER_S = 365.25 / 4 * 86400.0
_J_PER_KWH = 3.6e6


class Inputs(NamedTuple):
  """Arrays over quarters q or d, parts p, pools t, soldered s and rates r.

  Money is in USD of the quarter in which it is paid.

  Attributes:
    labels: names of the quarters.
    discount: present value of a USD [q].
    workloads: names.
    demand_tps: tokens/s [workload, q].
    unmet_usd: of a token/s that is unserved for a quarter; infinite where it
      may not be [workload].
    rates: (workload, part) as positions [r, 2].
    variants: names [r].
    served_tps: tokens/s of an accelerator, busy share included [r].
    site_W: at the meter, of an accelerator that works [r].
    pool_GB: that an accelerator fills [r, t].
    parts: names.
    lead: quarters from order to service [p].
    installed: existing less retired, and contracted [p, q].
    part_life: quarters of service [p].
    part_limit: most delivered [p, d]; zero before the first lead time.
    part_payment: what one that is delivered in d costs in each quarter of its
      service, without soldered memory [p, d].
    solder_payment: the same for its soldered memory [p, s, d].
    contracted: deliveries that are ordered already [p, d].
    part_price_usd: with its memory, if ordered in q [p, q].
    assembly: quarters before delivery when soldered memory is needed [p].
    solder_GB: of one part [p, s].
    pools: names.
    pool_lead: quarters [t].
    pool_installed: GB [t, q].
    pool_life: quarters [t].
    pool_limit: most GB delivered [t, d].
    pool_payment: of a GB, in each quarter of its service [t, d].
    soldered: names.
    solder_lead: quarters [s].
    reserved_GB: by quarter [s, q].
    solder_limit: GB that can be ordered on top [s, d].
    reservation_usd: of a GB ordered on top, at its order [s, d].
    memory_price_usd: memory -> of a GB, if ordered in q [q].
    power_W: of the site [q].
    energy_usd_per_J: [q].
    busy_share: of the hours.
  """

  labels: tuple[str, ...]
  discount: np.ndarray
  workloads: tuple[str, ...]
  demand_tps: np.ndarray
  unmet_usd: np.ndarray
  rates: np.ndarray
  variants: tuple[str, ...]
  served_tps: np.ndarray
  site_W: np.ndarray
  pool_GB: np.ndarray
  parts: tuple[str, ...]
  lead: np.ndarray
  installed: np.ndarray
  part_life: np.ndarray
  part_limit: np.ndarray
  part_payment: np.ndarray
  solder_payment: np.ndarray
  contracted: np.ndarray
  part_price_usd: np.ndarray
  assembly: np.ndarray
  solder_GB: np.ndarray
  pools: tuple[str, ...]
  pool_lead: np.ndarray
  pool_installed: np.ndarray
  pool_life: np.ndarray
  pool_limit: np.ndarray
  pool_payment: np.ndarray
  soldered: tuple[str, ...]
  solder_lead: np.ndarray
  reserved_GB: np.ndarray
  solder_limit: np.ndarray
  reservation_usd: np.ndarray
  memory_price_usd: Mapping[str, np.ndarray]
  power_W: np.ndarray
  energy_usd_per_J: np.ndarray
  busy_share: float


def inputs_of(
  fleet: Fleet,
  scenario: Scenario | None = None,
  prices: prices_lib.Prices | None = None,
) -> Inputs:
  """Arrays of a fleet.

  Args:
    fleet: with rates.
    scenario: factors; None for 'flat'.
    prices: of memory and energy, where the fleet has none of its own.

  Raises:
    SpecError: no rates, a workload that may not stay unserved without any, or
      a price that neither the fleet nor the price file has.
  """
  scenario = scenario or Scenario()
  prices = prices or prices_lib.load_prices()
  if not fleet.rates:
    raise errors.SpecError(
      f'{fleet.name}: no rates; write [[rates]] or plan them (rates_file)'
    )
  _check_rates(fleet)
  pools = tuple(n for n, m in fleet.memories.items() if not m.soldered)
  soldered = tuple(n for n, m in fleet.memories.items() if m.soldered)
  pue = fleet.energy_over_device_energy or (
    prices.facility.energy_over_device_energy.value
  )
  return Inputs(
    **_time(fleet, scenario, prices),
    **_demand(fleet, scenario),
    **_rates(fleet, pools, pue),
    **supply.part_arrays(fleet, scenario, soldered, prices),
    **supply.pool_arrays(fleet, scenario, pools, prices),
    **supply.soldered_arrays(fleet, scenario, soldered, prices),
    memory_price_usd={
      name: supply.memory_price(fleet, name, prices)
      * scenarios.factor(scenario.price, name, fleet.quarters)
      for name in fleet.memories
    },
  )


def _check_rates(fleet: Fleet) -> None:
  served = {r.workload for r in fleet.rates}
  for workload in fleet.workloads:
    if workload.hard and workload.name not in served:
      raise errors.SpecError(
        f'workloads.{workload.name}: hard, but no part has a rate for it'
      )


def _time(fleet: Fleet, scenario: Scenario, prices) -> dict:
  quarters = np.arange(fleet.quarters)
  kwh = fleet.energy_usd_per_kWh or prices.of('energy_usd_per_kWh', 'grid')
  factors = scenarios.factor(scenario.price, scenarios.ENERGY, fleet.quarters)
  power = scenarios.by_quarter(fleet.site_MW, fleet.quarters) * 1e6
  more = scenarios.factor(scenario.supply, scenarios.POWER, fleet.quarters)
  return {
    'labels': fleet.labels,
    'discount': (1.0 + fleet.discount_rate) ** (-quarters / 4.0),
    'energy_usd_per_J': kwh / _J_PER_KWH * factors,
    'power_W': power * more,
    'busy_share': fleet.busy_share,
  }


def _demand(fleet: Fleet, scenario: Scenario) -> dict:
  quarters = np.arange(fleet.quarters)
  demand, unmet = [], []
  for workload in fleet.workloads:
    base = scenarios.by_quarter(workload.demand_tokens_per_s, fleet.quarters)
    grown = base * (1.0 + workload.growth_per_quarter) ** quarters
    factors = scenarios.factor(
      scenario.demand, workload.name, fleet.quarters, scenarios.ALL
    )
    demand.append(grown * factors)
    price = workload.unmet_usd_per_Mtok
    unmet.append(math.inf if price is None else price * QUARTER_S / 1e6)
  return {
    'workloads': tuple(w.name for w in fleet.workloads),
    'demand_tps': np.array(demand),
    'unmet_usd': np.array(unmet),
  }


def _rates(fleet: Fleet, pools: tuple[str, ...], pue: float) -> dict:
  workloads = [w.name for w in fleet.workloads]
  parts = list(fleet.parts)
  return {
    'rates': np.array(
      [[workloads.index(r.workload), parts.index(r.part)] for r in fleet.rates]
    ),
    'variants': tuple(r.variant for r in fleet.rates),
    'served_tps': fleet.busy_share
    * np.array([r.tokens_per_s for r in fleet.rates]),
    'site_W': pue
    * np.array([r.power_W + fleet.parts[r.part].host_W for r in fleet.rates]),
    'pool_GB': np.array(
      [[r.memory_GB.get(t, 0.0) for t in pools] for r in fleet.rates]
    ).reshape(len(fleet.rates), len(pools)),
  }
