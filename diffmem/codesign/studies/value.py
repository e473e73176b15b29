"""What one more GB/s, GB, ns or pJ/bit is worth to a mix.

At the best plans the slope of the total cost to a parameter's logarithm is
known (`mix_optimum`). Divided by the parameter it says what one unit more, or
less, saves on the whole fleet; divided by the busy accelerators too, what may
be paid for it on each: more would not pay, less would.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from diffmem.codesign.mixes.mix_optimum import ItemOptimum, MixOptimum, Rates
from diffmem.cost.prices import Prices, load_prices
from diffmem.planning import Objective, model
from diffmem.planning.objective import COST
from diffmem.system import System, leaves_by_name

_SECONDS_PER_HOUR = 3600.0
_SECONDS_PER_YEAR = 8766.0 * _SECONDS_PER_HOUR
_J_PER_KWH = 3.6e6
# SI unit -> what engineers say, and how much of SI it is.
_EDGE = {
  'B/s': ('GB/s', 1e9), 'B': ('GB', 1e9), 's': ('ns', 1e-9),
  'J/B': ('pJ/bit', 8e-12), 'FLOP/s': ('TFLOP/s', 1e12),
  'J/FLOP': ('pJ/FLOP', 1e-12), 'W': ('W', 1.0), '1': ('1', 1.0),
}  # fmt: skip
# Units of which more is better, and of which less is.
RATES, TIMES = ('B/s', 'FLOP/s', 'W'), ('s',)
_QUANTILES = (0.05, 0.95)
# Elasticities below this are rounding.
_LEAST = 1e-6


class Worth(NamedTuple):
  """What one parameter is worth.

  Attributes:
    name: full name, such as 'HBM.read_Bps'.
    kind: 'rate', 'size', 'time', 'energy', 'power' or 'shape'.
    unit: of engineers, such as 'GB/s'.
    value: of the parameter, in that unit.
    elasticity: percent of the cost per percent of the parameter.
    interval90: 5 % and 95 % quantile of it over the fit's ensemble, at the
      same plans; None without one, and for sizes of memories.
    by_time: elasticity of accelerators needed, at the plans that need fewest.
    by_energy: elasticity of joules, at the plans that need fewest.
    better: 'more' or 'less' of it saves.
    usd_per_year: what one unit better saves, for each busy accelerator and
      year of use [USD].
    usd_at_most: the same over the years of service: what one unit better may
      cost when the accelerator is bought [USD].
  """

  name: str
  kind: str
  unit: str
  value: float
  elasticity: float
  interval90: tuple[float, float] | None
  by_time: float
  by_energy: float
  better: str
  usd_per_year: float
  usd_at_most: float


class Draws(NamedTuple):
  """The same plans on every draw of a fit's ensemble, [draw].

  Attributes:
    value: what the traffic costs [USD/s].
    accelerators: that it keeps busy.
    power_W: that these draw, at full voltage [W].
  """

  value: Float[np.ndarray, ' draw']
  accelerators: Float[np.ndarray, ' draw']
  power_W: Float[np.ndarray, ' draw']


def rented(usd_per_hour: float) -> Rates:
  """Rates of accelerators whose rent includes energy."""
  return Rates(usd_per_hour / _SECONDS_PER_HOUR, 0.0)


def owned(
  accelerator_usd: float, prices: Prices | None = None, contract: str = 'grid'
) -> Rates:
  """Rates of accelerators of one's own, paid off over their service.

  Args:
    accelerator_usd: price of one with its share of the host.
    prices: dated prices; the shipped ones.
    contract: name in `energy_usd_per_kWh`.
  """
  prices = prices or load_prices()
  site = prices.facility.energy_over_device_energy.value
  kWh = prices.of('energy_usd_per_kWh', contract)
  return Rates(accelerator_usd / used_s(prices), site * kWh / _J_PER_KWH)


def used_s(prices: Prices) -> float:
  """Seconds that a part is used in its years of service [s]."""
  facility = prices.facility
  years = facility.years_of_service.value
  return years * facility.share_of_hours_used.value * _SECONDS_PER_YEAR


def worths(
  system: System,
  by_cost: MixOptimum,
  by_time: MixOptimum,
  by_energy: MixOptimum,
  rates: Rates,
  *,
  ensemble: System | None = None,
  prices: Prices | None = None,
  most_draws: int = 32,
) -> tuple[Worth, ...]:
  """What every parameter is worth, the strongest first.

  Args:
    system: the machine.
    by_cost: best plans by cost.
    by_time: best plans with rates (1, 0).
    by_energy: best plans with rates (0, 1).
    rates: of `by_cost`.
    ensemble: the machine with a leading axis of draws; None for no intervals.
    prices: years of service; the shipped ones.
    most_draws: of the ensemble that are used, for each workload some 20 ms.
  """
  spread = {}
  if ensemble is not None:
    spread = _intervals(system, by_cost, rates, ensemble, most_draws)
  life_s = used_s(prices or load_prices())
  infos, values = system.infos(), system.values()
  cost, time, energy = (o.elasticities() for o in (by_cost, by_time, by_energy))
  found = []
  for name, slope in by_cost.slopes.items():
    if max(abs(t.get(name, 0.0)) for t in (cost, time, energy)) < _LEAST:
      continue
    unit = infos[name].unit
    edge, factor = _EDGE[unit]
    value = float(values[name])
    # A bend is its own leaf, not a logarithm.
    per_si = slope if name.split('.')[-1].startswith('bend_') else slope / value
    saved_per_s = abs(per_si) * factor / by_cost.accelerators
    found.append(
      Worth(
        name=name,
        kind=_kind(name, unit),
        unit=edge,
        value=value / factor,
        elasticity=cost.get(name, 0.0),
        interval90=spread.get(name),
        by_time=time.get(name, 0.0),
        by_energy=energy.get(name, 0.0),
        better='more' if slope < 0 else 'less',
        usd_per_year=saved_per_s * _SECONDS_PER_YEAR,
        usd_at_most=saved_per_s * life_s,
      )
    )
  return tuple(sorted(found, key=lambda w: -abs(w.elasticity)))


def _kind(name: str, unit: str) -> str:
  if name.endswith('capacity_B'):
    return 'size'
  kinds = {
    'B/s': 'rate', 'FLOP/s': 'rate', 's': 'time', 'J/B': 'energy',
    'J/FLOP': 'energy', 'W': 'power', 'B': 'shape', '1': 'shape',
  }  # fmt: skip
  return kinds[unit]


def draws(optimum: MixOptimum, ensemble: System, rates: Rates) -> Draws:
  """The plans of an optimum on every draw of an ensemble.

  Searches of vector indexes, a small part of a mix, keep their cost.

  Args:
    optimum: plans that were chosen on the best estimate.
    ensemble: the machine with a leading axis of draws.
    rates: what is paid.
  """
  with jax.enable_x64(True):
    parts = [_item_draws(item, ensemble, rates) for item in optimum.items]
  return Draws(*(sum(p[i] for p in parts) for i in range(3)))


def _item_draws(item: ItemOptimum, ensemble: System, rates: Rates) -> Draws:
  if item.lowered is None:
    count = np.shape(jax.tree.leaves(ensemble)[0])[0]
    constant = item.value, item.accelerators, item.power_W
    return Draws(*(np.full(count, v) for v in constant))
  tokens, chips = float(item.lowered.tokens), _chips(item)
  figures = model.figures(
    ensemble, item.lowered, item.shares[None], Objective(COST, 0.0, 1.0), chips
  )
  per_step = item.rate_per_s * chips / tokens
  busy = per_step * figures.outcome.step_time_s
  power_W = per_step * figures.value
  value = rates.usd_per_s * busy + rates.usd_per_J * power_W
  return Draws(value, busy, power_W)


def _chips(item: ItemOptimum) -> int:
  return int(np.prod([v for k, v in item.mesh.items() if k != 'interleave']))


def _intervals(system, optimum, rates, ensemble, most) -> dict:
  """5 % and 95 % quantiles of the mix's elasticities over the ensemble."""
  leaves = leaves_by_name(ensemble)
  count = min(most, np.shape(next(iter(leaves.values())))[0])
  objective = Objective(COST, rates.usd_per_s, rates.usd_per_J)
  names, weighted, total = list(system.infos()), 0.0, 0.0
  with jax.enable_x64(True):
    for item in optimum.items:
      if item.lowered is None:
        continue
      value = _item_draws(item, ensemble, rates).value[:count]
      table = np.array([
        jax.tree.leaves(
          model.slopes(
            jax.tree.map(lambda x, d=d: np.asarray(x, np.float64)[d], ensemble),
            item.lowered, item.shares, objective,
          )
        )
        for d in range(count)
      ])  # fmt: skip
      weighted = weighted + value[:, None] * table
      total = total + value
  spread = np.quantile(weighted / total[:, None], _QUANTILES, axis=0).T
  return {
    name: (float(low), float(high))
    for name, (low, high) in zip(names, spread, strict=True)
    if not name.endswith('.capacity_B')
  }
