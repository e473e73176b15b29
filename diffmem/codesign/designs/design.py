"""A memory system as continuous parameters, and the machine that it makes.

A `Kit` names the kinds of parts (which stacks, whether there is CXL), a point
x holds the logarithms of how many, how large and how fast. `machine` moves the
leaves of a base system by the logarithm of what changed:

    read, write, mixed capacity     stacks x pins x rate of a pin
    bytes in flight                 as the rate: queues are sized for it
    capacity                        stacks x size
    device energy per bit           by generation, and (rate of a pin)^e
    path energy per bit             by generation
    static power                    W of every stack and link more or less
    power cap                       the board's

so that the configuration of the base gives the base back, bit for bit, and a
fitted machine keeps its fitted efficiencies. Latencies stay: no source tells
the generations apart. What each relation rests on is in `parts.toml`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from diffmem import errors
from diffmem.codesign.designs import parts as parts_lib
from diffmem.codesign.designs.design_parameters import (
  LINKS,
  Kit,
  Parameter,
  parameters_of,
)
from diffmem.cost import prices as prices_lib
from diffmem.system import System, load_catalog
from diffmem.system import system as system_lib

Point = Float[ArrayLike, ' parameter']

_CXL, _HBF = 'CXL', 'HBF'
_GBPS = 1e9


@dataclasses.dataclass(frozen=True, eq=False)
class DesignSpace:
  """Every design of a kit on a base machine. Build with `design_space`.

  Attributes:
    base: the machine, with the tiers that the kit adds; numpy leaves.
    kit: kinds of parts, all named.
    parts: what they are and cost.
    prices: energy, years of service.
    inside: what the base machine is built of.
    parameters: dimensions of a point, in order.
    tiers: role ('near', 'host', 'drive', 'CXL', 'HBF', 'NVLink', 'network',
      'host link') -> tier of the base that plays it.
    added: roles that the kit added.
  """

  base: System
  kit: Kit
  parts: parts_lib.Parts
  prices: prices_lib.Prices
  inside: parts_lib.Machine
  parameters: tuple[Parameter, ...]
  tiers: Mapping[str, str]
  added: frozenset[str] = frozenset()

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    """Names along a point."""
    return tuple(p.name for p in self.parameters)

  @property
  def origin(self) -> Float[np.ndarray, ' parameter']:
    """The base machine's own configuration (logarithms)."""
    return np.log([p.origin for p in self.parameters])

  @property
  def reference(self) -> Float[np.ndarray, ' parameter']:
    """Where designs of the kit start (logarithms)."""
    return np.log([p.reference for p in self.parameters])

  @functools.cached_property
  def low(self) -> Float[np.ndarray, ' parameter']:
    """Smallest of each parameter (logarithms)."""
    return np.log([p.low for p in self.parameters])

  @functools.cached_property
  def high(self) -> Float[np.ndarray, ' parameter']:
    """Largest of each parameter (logarithms)."""
    return np.log([p.high for p in self.parameters])

  def point(self, **values: float) -> Float[np.ndarray, ' parameter']:
    """A point by name, in SI; the reference where nothing is given.

    Raises:
      SpecError: an unknown parameter, with the nearest, or one outside its
        bounds.
    """
    x = self.reference
    for name, value in values.items():
      at = system_lib.index_of(self.names, name, 'parameter', 'the design')
      p = self.parameters[at]
      if not p.low * (1 - 1e-9) <= value <= p.high * (1 + 1e-9):
        raise errors.SpecError(
          f'{name} = {value!r}: expected {p.low:g} to {p.high:g} {p.unit} '
          f'({p.help})'
        )
      x[at] = np.log(value)
    return x

  def values(self, x: Point) -> dict[str, Any]:
    """Physical values of a point, by name [SI]."""
    exp = jnp.exp if isinstance(x, jax.Array) else np.exp
    return {name: exp(x[i]) for i, name in enumerate(self.names)}

  def value(self, x: Point, name: str) -> Any:
    """One physical value [SI]; 0 where the kit has no such part."""
    if name not in self.names:
      return 0.0
    exp = jnp.exp if isinstance(x, jax.Array) else np.exp
    return exp(x[self.names.index(name)])

  @property
  def stack(self) -> parts_lib.Stack:
    """The kind of stack."""
    return self.parts.of('stacks', self.kit.stack)


def design_space(
  base: System,
  kit: Kit | None = None,
  *,
  machine: str | None = None,
  parts: parts_lib.Parts | None = None,
  prices: prices_lib.Prices | None = None,
) -> DesignSpace:
  """What can be designed around the die of a machine.

  Args:
    base: the machine, from the catalog or fitted.
    kit: kinds of parts; those of the base where None.
    machine: name of what is inside it, in `Parts.machines`; the base's own.
    parts: published relations; the shipped ones.
    prices: energy and years of service; the shipped ones.

  Raises:
    SpecError: a machine whose inside is not in the parts file, an unknown
      part, a base without near memory, or a price of the accelerator below
      that of what is in it.
  """
  kit, parts = kit or Kit(), parts or parts_lib.load_parts()
  inside = parts.of('machines', machine or base.name)
  kit = kit._replace(
    stack=kit.stack or inside.stack,
    channel=kit.channel or inside.channel,
    drive=kit.drive or inside.drive,
  )
  for table, name in (
    ('stacks', kit.stack), ('channels', kit.channel), ('drives', kit.drive)
  ):  # fmt: skip
    parts.of(table, name)
  tiers = _roles(base)
  base = system_lib.to_numpy(base)
  wanted = {role for role, is_in in ((_CXL, kit.cxl), (_HBF, kit.hbf)) if is_in}
  added = frozenset(wanted - set(tiers))
  for role in sorted(added):
    base, tiers = _with_tier(base, tiers, role), {**tiers, role: role}
  found = DesignSpace(
    base=base,
    kit=kit,
    parts=parts,
    prices=prices or prices_lib.load_prices(),
    inside=inside,
    parameters=parameters_of(base, kit, parts, inside, tiers),
    tiers=tiers,
    added=added,
  )
  from diffmem.codesign.designs import bill

  bill.check(found)
  return found


def machine(space: DesignSpace, x: Point) -> System:
  """The system that a design makes; differentiable in x, jittable.

  Args:
    space: base machine and kinds of parts.
    x: logarithms of the parameters [parameter].
  """
  leaves = system_lib.leaves_by_name(space.base)
  for name, shift in _shifts(space, x).items():
    leaves[name] = leaves[name] + shift
  return system_lib.from_leaves(space.base, leaves)


def _shifts(space: DesignSpace, x: Point) -> dict[str, Any]:
  """Leaf of the base -> what the design adds to it."""
  moved = dict(zip(space.names, x - space.origin, strict=True))
  shifts = _stack_shifts(space, moved, x)
  tiers, inside, kit = space.tiers, space.inside, space.kit
  old, new = (
    space.parts.of('channels', k) for k in (inside.channel, kit.channel)
  )
  shifts |= _count_shifts(
    tiers.get('host'), moved, 'channels', 'channel_B', _ratio(new, old, 'GBps')
  )
  shifts |= _energy_shift(
    tiers.get('host'), _ratio(new, old, 'device_pJ_per_bit')
  )
  old, new = (space.parts.of('drives', k) for k in (inside.drive, kit.drive))
  shifts |= _count_shifts(
    tiers.get('drive'), moved, 'drives', 'drive_B', _ratio(new, old, 'GBps')
  )
  shifts |= _energy_shift(tiers.get('drive'), _ratio(new, old, 'pJ_per_bit'))
  shifts |= _count_shifts(tiers.get(_CXL), moved, 'cxl_modules', 'cxl_module_B')
  shifts |= _count_shifts(tiers.get(_HBF), moved, 'hbf_stacks')
  for role, name in LINKS.items():
    shifts |= _count_shifts(tiers.get(role), moved, name)
  shifts['system.power_cap_W'] = moved['board_W']
  shifts['system.static_W'] = _static_shift(space, x)
  return shifts


def _ratio(new, old, field) -> float:
  return float(np.log(getattr(new, field).value / getattr(old, field).value))


def _count_shifts(tier, moved, count, size=None, rate=0.0) -> dict[str, Any]:
  """Rates follow the number of parts, capacity their number and size."""
  if tier is None or count not in moved:
    return {}
  faster = moved[count] + rate
  names = 'read_Bps', 'write_Bps', 'mixed_Bps'
  names += ('read_in_flight_B', 'write_in_flight_B')
  found = {f'{tier}.{name}': faster for name in names}
  found[f'{tier}.capacity_B'] = moved[count] + (moved[size] if size else 0.0)
  return found


def _energy_shift(tier, ratio: float) -> dict[str, Any]:
  return {} if tier is None else {f'{tier}.device_J_per_B': ratio}


def _stack_shifts(space, moved, x) -> dict[str, Any]:
  tier = space.tiers['near']
  old, new = space.parts.stacks[space.inside.stack], space.stack
  faster = moved['pin_Bps'] + _ratio(new, old, 'pins')
  found = _count_shifts(tier, moved, 'stacks', 'stack_B', faster)
  at = space.names.index('pin_Bps')
  # Rate of a pin over that at which each generation's energy holds.
  over = x[at] - space.origin[at] + _ratio(old, new, 'pin_Gbps')
  exponent = space.parts.relations.energy_speed_exponent.value
  found[f'{tier}.device_J_per_B'] = (
    _ratio(new, old, 'device_pJ_per_bit') + exponent * over
  )
  found[f'{tier}.path_J_per_B'] = _ratio(new, old, 'path_pJ_per_bit')
  return found


def _static_shift(space, x):
  """Power at rest on the board; the host's is in the bill of energy."""
  log1p = jnp.log1p if isinstance(x, jax.Array) else np.log1p
  relations, links = space.parts.relations, space.parts.links

  def more(name):
    return space.value(x, name) - space.value(space.origin, name)

  flash = space.value(x, 'hbf_stacks')
  flash = flash if _HBF in space.added else more('hbf_stacks')
  found = relations.stack_W.value * (more('stacks') + flash)
  watts = links['NVLink'].W_per_GBps.value / _GBPS
  found = found + watts * more('nvlink_Bps')
  return log1p(found / float(space.base.static_W))


def _roles(base: System) -> dict[str, str]:
  """Which tier plays which part, by what the tier is."""
  held = [t for t in base.tiers if not (t.is_cache or t.link)]
  near = [t for t in held if not t.via]
  if not near:
    raise errors.SpecError(f'{base.name} has no memory beside its engines')
  best = max(near, key=lambda t: float(t.read_Bps))
  roles = {'near': best.name}
  for role, name in (
    ('host', 'DRAM'),
    ('drive', 'SSD'),
    (_CXL, _CXL),
    (_HBF, _HBF),
  ):
    if name in base.tier_names:
      roles[role] = name
  levels = sorted((t for t in base.tiers if t.span > 1), key=lambda t: t.span)
  if levels:
    roles['NVLink'] = levels[0].name
  if len(levels) > 1:
    roles['network'] = levels[-1].name
  vias = [base.tier(roles[r]).via for r in ('host', 'drive') if r in roles]
  if any(vias):
    roles['host link'] = next(v for v in vias if v)
  return roles


def _with_tier(base: System, tiers: Mapping[str, str], role: str) -> System:
  """The base with a tier of the catalog beside its own."""
  catalog = {_CXL: 'cxl-expander', _HBF: 'hbf-gpu'}[role]
  tier = load_catalog(catalog).system.tier(role)
  if role == _CXL:
    if 'host link' not in tiers:
      raise errors.SpecError(f'{base.name} has no host link for CXL modules')
    tier = dataclasses.replace(tier, via=tiers['host link'])
  added = dataclasses.replace(base, tiers=(*base.tiers, tier))
  return system_lib.to_numpy(added)
