"""What a design costs, draws and takes of the die's edge.

Money is what the owner of one accelerator pays, line by line. The price of the
base module is published; what of it is neither memory nor package, link or
power supply is the line 'accelerator' and does not change with the design.
Every line is a sum of powers of the parameters with positive coefficients: in
logarithms the bill is convex, and so is every budget (geometric programming:
Boyd et al., Optimization and Engineering 8, 2007).
"""

from typing import Any

from diffmem import errors
from diffmem.codesign.designs.design import DesignSpace, Point
from diffmem.codesign.mixes.mix_optimum import Rates

_GB, _GBPS, _BITS = 1e9, 1e9, 8.0
_SECONDS_PER_YEAR = 8766.0 * 3600.0
_J_PER_KWH = 3.6e6


def bill(space: DesignSpace, x: Point) -> dict[str, Any]:
  """Price of one accelerator with its memory, by part [USD].

  Args:
    space: base machine and kinds of parts.
    x: logarithms of the parameters [parameter].

  Returns:
    'accelerator' (die, package, margin), memories, links, 'board' (its power
    supply), 'host' and 'site', the share of the building that its years of
    service use up.
  """
  value, parts = space.value, space.parts
  relations, inside = parts.relations, space.inside
  found = {'accelerator': _bare_module_usd(space), **_module(space, x)}
  channel = parts.of('channels', space.kit.channel)
  drive = parts.of('drives', space.kit.drive)
  for line, count, size, part in (
    ('DRAM', 'channels', 'channel_B', channel),
    ('CXL', 'cxl_modules', 'cxl_module_B', parts.channels.get('CXL')),
    ('SSD', 'drives', 'drive_B', drive),
  ):
    if count in space.names:
      held_GB = value(x, count) * value(x, size) / _GB
      found[line] = part.usd_per_GB.value * held_GB
  if 'hbf_stacks' in space.names:
    stack = parts.of('stacks', 'HBF')
    each = stack.usd_per_GB.value * stack.capacities_GB[0]
    each = each + relations.package_usd_per_stack.value
    found['HBF'] = inside.over_cost.value * value(x, 'hbf_stacks') * each
  for line, name in (('network', 'network_Bps'), ('host', 'host_Bps')):
    if name in space.names:
      usd = parts.links[line].usd_per_GBps.value
      shown = 'host link' if line == 'host' else line
      found[shown] = usd * value(x, name) / _GBPS
  found['host'] = relations.host_usd.value
  years = space.prices.facility.years_of_service.value
  share = min(1.0, years / relations.site_years.value)
  per_W = relations.site_usd_per_W.value * share
  found['site'] = per_W * total(power_W(space, x))
  return found


def power_W(space: DesignSpace, x: Point) -> dict[str, Any]:
  """Rated power of one accelerator with its share of a host, by part [W]."""
  value, parts = space.value, space.parts
  found = {'board': value(x, 'board_W')}
  channel = parts.of('channels', space.kit.channel)
  for line, count, size, part in (
    ('DRAM', 'channels', 'channel_B', channel),
    ('CXL', 'cxl_modules', 'cxl_module_B', parts.channels.get('CXL')),
  ):
    if count in space.names:
      held_GB = value(x, count) * value(x, size) / _GB
      found[line] = part.W_per_GB.value * held_GB
  if 'drives' in space.names:
    drive = parts.of('drives', space.kit.drive)
    found['SSD'] = drive.W.value * value(x, 'drives')
  for line, name in (('network', 'network_Bps'), ('host', 'host_Bps')):
    if name in space.names:
      shown = 'host link' if line == 'host' else line
      watts = parts.links[line].W_per_GBps.value
      found[shown] = watts * value(x, name) / _GBPS
  found['host'] = parts.relations.host_W.value
  return found


def phy_mm2(space: DesignSpace, x: Point) -> dict[str, Any]:
  """Area on the die for the interfaces, by part [mm2]."""
  value, parts = space.value, space.parts
  each = parts.relations.phy_mm2_per_1024_pins.value / 1024.0
  found = {'HBM': each * space.stack.pins.value * value(x, 'stacks')}
  if 'hbf_stacks' in space.names:
    pins = parts.of('stacks', 'HBF').pins.value
    found['HBF'] = each * pins * value(x, 'hbf_stacks')
  for line, name in (('NVLink', 'nvlink_Bps'), ('host', 'host_Bps')):
    if name in space.names:
      area = parts.links[line].mm2_per_GBps.value
      shown = 'host link' if line == 'host' else line
      found[shown] = area * value(x, name) / _GBPS
  return found


def beachfront_mm(space: DesignSpace, x: Point) -> Any:
  """Edge of the die that the stacks take [mm]."""
  stacks = space.value(x, 'stacks') + space.value(x, 'hbf_stacks')
  return space.parts.relations.stack_width_mm.value * stacks


def rates(space: DesignSpace, x: Point) -> Rates:
  """What owning the design costs by second and joule.

  The purchase is paid off over the hours that are used of its years of
  service (`diffmem.cost.account`), and the host draws its power in all of
  them, whatever the board does.
  """
  facility = space.prices.facility
  used_s = facility.years_of_service.value * _SECONDS_PER_YEAR
  used_s *= facility.share_of_hours_used.value
  site = facility.energy_over_device_energy.value
  usd_per_J = site * space.prices.of('energy_usd_per_kWh', 'grid') / _J_PER_KWH
  drawn = power_W(space, x)
  host_W = total(drawn) - drawn['board']
  return Rates(total(bill(space, x)) / used_s + usd_per_J * host_W, usd_per_J)


def total(lines: dict[str, Any]) -> Any:
  """Sum of lines."""
  return sum(lines.values())


def check(space: DesignSpace) -> None:
  """Refuses a base whose price is below that of what is in it.

  Raises:
    SpecError: nothing of the price is left for the die.
  """
  left = _bare_module_usd(space)
  if left <= 0:
    raise errors.SpecError(
      f'{space.base.name}: module_usd = {space.inside.module_usd.value:g} is '
      f'less than its memory, links and board cost ({-left:.0f} USD less): '
      'lower over_cost, or give the price of the whole module'
    )


def _module(space, x) -> dict[str, Any]:
  """What the maker of the accelerator buys in or sizes by the design."""
  value, relations = space.value, space.parts.relations
  inside, stack = space.inside, space.stack
  found = {
    'HBM': _stacks_usd(
      space, stack, value(x, 'stacks'), value(x, 'stack_B') / _GB,
      value(x, 'pin_Bps') * _BITS / _GBPS,
    ),
    'packaging': inside.over_cost.value
    * relations.package_usd_per_stack.value
    * value(x, 'stacks'),
    'board': relations.board_usd_per_W.value * value(x, 'board_W'),
  }  # fmt: skip
  if 'nvlink_Bps' in space.names:
    usd = space.parts.links['NVLink'].usd_per_GBps.value
    found['NVLink'] = usd * value(x, 'nvlink_Bps') / _GBPS
  return found


def _stacks_usd(space, stack, count, size_GB, pin_Gbps):
  exponent = space.parts.relations.price_speed_exponent.value
  speed = (pin_Gbps / stack.pin_Gbps.value) ** exponent
  per_GB = stack.usd_per_GB.value * speed
  return space.inside.over_cost.value * per_GB * size_GB * count


def _bare_module_usd(space) -> float:
  """Price of the base module less what the design sizes."""
  inside, relations = space.inside, space.parts.relations
  count = inside.stacks.value
  own = space.parts.of('stacks', inside.stack)
  size_GB, pin_Gbps = inside.stack_GB.value, inside.pin_Gbps.value
  sized = _stacks_usd(space, own, count, size_GB, pin_Gbps)
  package = relations.package_usd_per_stack.value
  sized += inside.over_cost.value * package * count
  sized += relations.board_usd_per_W.value * float(space.base.power_cap_W)
  if 'nvlink_Bps' in space.names:
    usd = space.parts.links['NVLink'].usd_per_GBps.value
    sized += usd * float(space.value(space.origin, 'nvlink_Bps')) / _GBPS
  return inside.module_usd.value - float(sized)
