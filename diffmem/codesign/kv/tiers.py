"""What a GB of each tier costs a second, and what a byte of it costs to move.

Memory is paid off over its years of service, at the hours that it is used
(`cost/prices.toml`); flash that is written faster than it is rated for is
replaced earlier. Standing power is a small part: 0.05 W per GB of DRAM is
2.2 kWh in five years, 2 % of its price.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffmem import errors
from diffmem.cost.prices import Prices
from diffmem.system import System
from diffmem.workloads import kv_reuse

GB = 1e9
_SECONDS_PER_YEAR = 365.25 * 86400.0
_J_PER_KWH = 3.6e6

# Power of a GB that nobody reads, refresh and interface included [W/GB].
_STANDING_W_PER_GB = {
  # assumption: a stack of 16 GB at 1.6 W.
  'HBM': 0.1,
  # assumption: a DDR5 RDIMM of 64 GB at 3 W (vendors' power calculators give
  # 2 to 4 W idle; unverified, from memory).
  'DRAM': 0.05,
  # assumption: as DRAM, and 8 W of controller on a module of 256 GB.
  'CXL': 0.08,
  # assumption: a drive of 7.68 TB that idles at 5 W (unverified: data sheets
  # of Micron 7450 and Samsung PM9A3, from memory).
  'SSD': 0.00065,
}
# Full writes a day that read-intensive data-centre drives are rated for, over
# five years (unverified: the same data sheets, from memory).
_WRITES_PER_DAY = {'SSD': 1.0}
_RATED_YEARS = 5.0


class KvTier(NamedTuple):
  """A memory that can be bought to keep keys and values.

  Attributes:
    name: of the system's tier.
    usd_per_GB: price.
    low_usd_per_GB: lowest price of the time.
    high_usd_per_GB: highest.
    service_s: seconds of use that it is paid off over [s].
    standing_W_per_GB: power of a GB that nobody reads [W/GB].
    writes_per_day: full writes a day that it is rated for over five years;
      inf where writing does not wear it out.
    usd_per_J: electricity at the device, the site's share included [USD/J].
    most_B: largest capacity, all accelerators together [B].
    second_use: whether a block is written to it only when it has been used
      again, which spares flash from blocks that nobody wants twice.
  """

  name: str
  usd_per_GB: float
  low_usd_per_GB: float
  high_usd_per_GB: float
  service_s: float
  standing_W_per_GB: float = 0.0
  writes_per_day: float = np.inf
  usd_per_J: float = 0.0
  most_B: float = np.inf
  second_use: bool = False

  @property
  def power_usd_per_GB_s(self) -> float:
    """Electricity of a GB that nobody reads [USD/(GB s)]."""
    return self.standing_W_per_GB * self.usd_per_J

  @property
  def holding_usd_per_GB_s(self) -> float:
    """What a GB costs a second without wear [USD/(GB s)]."""
    return self.usd_per_GB / self.service_s + self.power_usd_per_GB_s

  def paid_off_usd_per_s(
    self, capacity_B: np.ndarray | float, written_Bps: np.ndarray | float
  ) -> np.ndarray:
    """What the memory itself costs a second: paid off, or worn out [USD/s].

    Args:
      capacity_B: bought, of any shape [B].
      written_Bps: bytes written to it a second, of the same shape [B/s].
    """
    rated = self.writes_per_day * 365.25 * _RATED_YEARS
    aged = np.asarray(capacity_B) / GB / self.service_s
    worn = np.asarray(written_Bps) / GB / rated
    bought = np.asarray(capacity_B) > 0
    return self.usd_per_GB * np.where(bought, np.maximum(aged, worn), 0.0)


def kv_tiers(
  system: System,
  prices: Prices,
  names: Sequence[str],
  *,
  most_B: Mapping[str, float] | None = None,
  usd_per_GB: Mapping[str, float] | None = None,
  writes_per_day: Mapping[str, float] | None = None,
  second_use: Sequence[str] = (),
  contract: str = 'grid',
) -> tuple[KvTier, ...]:
  """The tiers that can be bought, with the prices of a price file.

  Args:
    system: the machine, that has tiers of these names.
    prices: dated prices.
    names: tiers, fastest first.
    most_B: limits by tier, all accelerators together [B].
    usd_per_GB: prices that replace those of the file.
    writes_per_day: full writes a day over five years that drives are rated
      for, where not 1 for SSD and without limit for the rest.
    second_use: tiers that take a block only when it has been used again.
    contract: which price of electricity.

  Raises:
    SpecError: a tier that the system or the price file does not have, or a
      limit, price, rating or rule of a tier that is not among them.
  """
  for what, table in (
    ('limit', most_B), ('price', usd_per_GB), ('rating', writes_per_day),
    ('rule', dict.fromkeys(second_use)),
  ):  # fmt: skip
    strange = set(table or {}) - set(names)
    if strange:
      raise errors.SpecError(
        f'a {what} of {min(strange)!r}; expected one of {", ".join(names)}'
      )
  site = prices.facility
  years = site.years_of_service.value * site.share_of_hours_used.value
  usd_per_J = (
    prices.of('energy_usd_per_kWh', contract)
    * site.energy_over_device_energy.value
    / _J_PER_KWH
  )
  ratings = _WRITES_PER_DAY | dict(writes_per_day or {})
  found = []
  for name in names:
    system.tier(name)
    given = (usd_per_GB or {}).get(name)
    value = prices.of('memory_usd_per_GB', name) if given is None else given
    price = prices.memory_usd_per_GB.get(name) if given is None else None
    found.append(
      KvTier(
        name,
        value,
        (price and price.low) or value,
        (price and price.high) or value,
        years * _SECONDS_PER_YEAR,
        _STANDING_W_PER_GB.get(name, 0.0),
        ratings.get(name, np.inf),
        usd_per_J,
        (most_B or {}).get(name, np.inf),
        name in second_use,
      )
    )
  return tuple(found)


class Moving(NamedTuple):
  """What moving bytes to and from a tier takes, one accelerator.

  Attributes:
    read_s_per_B: time of a byte that is reloaded, at length [s/B]; 0 for the
      accelerator's own memory.
    write_Bps: rate at which it can be filled [B/s].
    J_per_B: energy of a byte moved, device and path, the link too [J/B].
  """

  read_s_per_B: float
  write_Bps: float
  J_per_B: float


def moving(
  system: System, name: str, piece_B: float, *, near: str = 'HBM'
) -> Moving:
  """Rates and energy of a tier behind its link, by the system's laws.

  Args:
    system: the machine.
    name: of the tier.
    piece_B: bytes that lie together [B].
    near: the accelerator's memory, where nothing has to be moved.
  """
  if name == near:
    return Moving(0.0, np.inf, 0.0)
  tier = system.tier(name)
  way = [tier] + ([system.tier(tier.via)] if tier.via else [])
  # The difference of two lengths leaves the start of a transfer out.
  lengths_B = np.array([1.0, 2.0]) * 64.0 * max(piece_B, 2.0**20)
  times_s = kv_reuse.reload_s(system, lengths_B, piece_B, tier=name)
  return Moving(
    float(np.diff(times_s)[0] / np.diff(lengths_B)[0]),
    min(float(part.write_Bps) for part in way),
    sum(float(part.device_J_per_B + part.path_J_per_B) for part in way),
  )


def with_tier(system: System, other: System, name: str, via: str) -> System:
  """A system with a memory of another one, behind a link of its own.

  Args:
    system: the machine.
    other: the machine that has the memory, such as the catalog's
      'cxl-expander'.
    name: of the memory.
    via: link of `system` that all of its bytes cross.

  Raises:
    SpecError: no such memory or link, or one of that name is there.
  """
  system.tier(via)
  if name in system.tier_names:
    raise errors.SpecError(f'{system.name} has a tier {name!r} already')
  tier = dataclasses.replace(other.tier(name), via=via)
  return dataclasses.replace(system, tiers=(*system.tiers, tier))
