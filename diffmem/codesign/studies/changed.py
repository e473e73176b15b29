"""The machine that a what-if makes, what it costs, and how sure that is.

All changes are made on one structure, a machine with every tier that a change
may add, so that nothing is compiled for each. What is not known of a new part
is drawn beside the fit's ensemble.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from diffmem import errors
from diffmem.codesign.designs import bill, design
from diffmem.codesign.studies import value
from diffmem.codesign.studies.what_ifs import WhatIf
from diffmem.cost.prices import Prices
from diffmem.fitting.transfer import WIDENING
from diffmem.system import (
  FittedSystem,
  System,
  from_leaves,
  leaves_by_name,
  load_catalog,
)

# Tiers that a change may add, and the catalog entry of each.
_ADDED = {'CXL': 'cxl-expander', 'HBF': 'hbf-gpu'}
# What a tier that is not there holds [B].
_NOTHING_B = 1.0
# Half the width of a 90 % interval, in standard deviations.
_Z90 = 1.645
_GB = 1e9


def roomy(fitted: FittedSystem) -> FittedSystem:
  """The machine with every tier that a change may add, holding nothing.

  All changes then have one structure, so that nothing is compiled for each.
  """
  system = _with_tiers(fitted.system)
  ensemble = fitted.ensemble
  if ensemble is not None:
    ensemble = _with_tiers(ensemble, fitted.draws)
  knowledge = dict(fitted.knowledge)
  for name, catalog in _ADDED.items():
    if name not in fitted.system.tier_names:
      known = load_catalog(catalog).knowledge
      knowledge |= {k: v for k, v in known.items() if k.startswith(f'{name}.')}
  return dataclasses.replace(
    fitted, system=system, ensemble=ensemble, knowledge=knowledge
  )


def _with_tiers(system: System, draws: int = 0) -> System:
  added, tiers = [], list(system.tiers)
  for name, catalog in _ADDED.items():
    if name in system.tier_names:
      continue
    tier = load_catalog(catalog).system.tier(name)
    if name == 'CXL':
      tier = dataclasses.replace(tier, via=_host_link(system))
    tiers.append(tier)
    added.append(name)
  # In one order, whichever of them was there.
  tiers.sort(
    key=lambda t: list(_ADDED).index(t.name) if t.name in _ADDED else -1
  )
  grown = dataclasses.replace(system, tiers=tuple(tiers))
  leaves = {
    k: np.asarray(v, np.float64) for k, v in leaves_by_name(grown).items()
  }
  for name in added:
    leaves[f'{name}.capacity_B'] = np.log(_NOTHING_B)
    for key in leaves:
      if draws and key.startswith(f'{name}.'):
        leaves[key] = np.full(draws, leaves[key])
  return from_leaves(grown, leaves)


def _host_link(system: System) -> str:
  links = [t.via for t in system.tiers if t.via]
  if not links:
    raise errors.SpecError(f'{system.name} has no link to a host for CXL')
  return links[0]


class Changed(NamedTuple):
  """A changed machine and what it costs more.

  Attributes:
    system: of the roomy structure.
    ensemble: likewise; None without one.
    extra_usd: purchase of an accelerator [USD].
    extra_usd_per_s: what its host draws more [USD/s].
    extra_GB: memory of an accelerator.
  """

  system: System
  ensemble: System | None
  extra_usd: float
  extra_usd_per_s: float
  extra_GB: float


def change(
  fitted: FittedSystem,
  one: WhatIf,
  prices: Prices,
  parts_of: str | None = None,
  seed: int = 0,
) -> Changed:
  """The machine that a what-if makes of another.

  Args:
    fitted: from `roomy`.
    one: the change.
    prices: energy and years of service.
    parts_of: the accelerator whose inside is meant; the machine's own.
    seed: of what is drawn of new parts.

  Raises:
    SpecError: a machine whose inside is not in the parts file, or an unknown
      part or parameter.
  """
  plain = _without(fitted.system)
  space = design.design_space(
    plain, design.Kit(**one.kit.model_dump()), machine=parts_of, prices=prices
  )
  before = design.design_space(plain, machine=parts_of, prices=prices)
  x, origin = space.point(**one.point), before.origin
  made = _times(design.machine(space, x), one, space.tiers['near'])
  lines = bill.bill(space, x), bill.bill(before, origin)
  usd = [bill.total(each) for each in lines]
  own = [bill.rates(space, x), bill.rates(before, origin)]
  life_s = value.used_s(prices)
  extra_usd = float(usd[0] - usd[1])
  host_usd_per_s = float(own[0].usd_per_s - own[1].usd_per_s)
  host_usd_per_s -= extra_usd / life_s
  factor = one.times.get('near.capacity_B', 1.0)
  extra_usd += (factor - 1.0) * float(lines[0]['HBM'])
  system = _with_tiers(made)
  sizes = [_held_GB(s) for s in (system, fitted.system)]
  ensemble = None
  if fitted.ensemble is not None:
    ensemble = _drawn(fitted, system, space, seed)
  return Changed(
    system, ensemble, extra_usd, host_usd_per_s, sizes[0] - sizes[1]
  )


def _without(system: System) -> System:
  """The machine without tiers that hold nothing."""
  held = tuple(
    t
    for t in system.tiers
    if t.name not in _ADDED or float(t.capacity_B) > 2 * _NOTHING_B
  )
  return dataclasses.replace(system, tiers=held)


def _times(system: System, one: WhatIf, near: str) -> System:
  named = {k.replace('near.', f'{near}.'): f for k, f in one.times.items()}
  values = system.values()
  for name in named:
    if name not in values:
      system.with_values({name: 1.0})  # which says what there is
  return system.with_values({k: float(values[k]) * f for k, f in named.items()})


def _held_GB(system: System) -> float:
  held = [t for t in system.tiers if not (t.is_cache or t.link)]
  return sum(float(t.capacity_B) for t in held) / _GB


def _drawn(fitted, system, space, seed) -> System:
  """The ensemble, moved as the best estimate is, and what new parts add."""
  rng = np.random.default_rng(seed)
  own = leaves_by_name(fitted.system)
  drawn, best = leaves_by_name(fitted.ensemble), leaves_by_name(system)
  leaves = {
    name: drawn[name] + np.float64(leaf) - np.float64(own[name])
    for name, leaf in best.items()
  }
  for name, sd in _unknown(fitted, system, space).items():
    noise = sd * rng.standard_normal(fitted.draws)
    for each in name.split('|'):
      leaves[each] = leaves[each] + noise
  return from_leaves(system, leaves)


def _unknown(fitted, system, space) -> dict[str, float]:
  """What is not known of new parts: 'name|name' -> deviation of their log.

  Rates of one tier are off together.
  """
  found = {}
  near, stack = space.tiers['near'], space.stack
  rates = '|'.join(
    f'{near}.{r}' for r in ('read_Bps', 'write_Bps', 'mixed_Bps')
  )
  if space.kit.stack != space.inside.stack:
    found[rates] = WIDENING
    found[f'{near}.device_J_per_B'] = _spread(stack.device_pJ_per_bit)
    found[f'{near}.path_J_per_B'] = _spread(stack.path_pJ_per_bit)
  now = set(_without(fitted.system).tier_names)
  for name in set(_without(system).tier_names) - now:
    known = load_catalog(_ADDED[name]).knowledge
    for parameter in system.tier(name).active_parameters():
      full = f'{name}.{parameter}'
      found[full] = known[full].prior_sd
  return found


def _spread(figure) -> float:
  """Deviation of a logarithm whose 90 % interval is from low to high."""
  low, high = figure.low or figure.value, figure.high or figure.value
  return float(np.log(high / low)) / (2 * _Z90)
