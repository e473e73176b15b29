"""Reads a machine's published specification into a system of priors.

A file describes one accelerator (or processor) with everything it reaches:

    name = 'my-gpu'
    about = 'what it is, and which host it sits in'

    [system]                        # optional: launch_s, static_W, ...
    compute_units = { value = 132, source = 'data sheet: SMs' }
    power_cap_W = { value = '700 W', source = 'data sheet, page 2' }

    [tiers.L2]                      # caches before the memory they cache
    home = 'HBM'
    capacity_B = { value = '50 MB', source = '...' }

    [tiers.HBM]
    duplex = 'turnaround'           # half_duplex, turnaround, full_duplex
    read_Bps = { value = '3.35 TB/s', source = '...', sd = 0.1 }

    [tiers.PCIe]
    link = true                     # links are full duplex, per direction
    [tiers.DRAM]
    via = 'PCIe'                    # its bytes cross that link

    [tiers.NVLink]
    link = true
    span = { value = 8, source = '...' }

    [engines.'matrix:bfloat16']
    rate_FLOPps = { value = '989 TFLOP/s', source = '...' }

Keys are the parameters of `Tier`, `Engine` and `System`; every figure names
its source. *The participant of a catalog system is the whole device*: what a
tier keeps in flight is the device's, not one SM's or core's.

What a file does not say is filled in, in this order: `assumptions.toml` (by
tier name, then for all links), two rules (`_derived`), the defaults of the
classes. A prior's width follows from its source: 0.15 in the logarithm for a
published figure, 0.3 for 'unverified: ...', 0.5 or more for 'assumption: ...'.
"""

import dataclasses
import difflib
import os
import pathlib
from collections.abc import Callable
from typing import Any

from diffmem import errors, units
from diffmem.system import measure, parameters
from diffmem.system.engine import Engine
from diffmem.system.fitted import FittedSystem, Knowledge, Status
from diffmem.system.system import System
from diffmem.system.tier import Duplex, Tier

_HERE = pathlib.Path(__file__).parent
_ASSUMPTIONS = 'assumptions'

_PUBLISHED_SD, _UNVERIFIED_SD, _ASSUMED_SD = 0.15, 0.3, 0.5

# A tier that keeps eight bandwidth-delay products in flight reaches 89 % of
# its capacity under the softest knee (p = 1) and all of it under p = 3.
_IN_FLIGHT_PRODUCTS = 8.0
# Boards slow down before their matrix engines reach the peak: H100 SXM does
# about 700 of 989 TFLOP/s at 700 W.
_PEAK_SHARE_AT_CAP = 0.8


@dataclasses.dataclass(frozen=True)
class _Known:
  """A physical value [SI], its source, and the width of its prior."""

  value: float
  source: str
  sd: float | None = None


def catalog_names() -> tuple[str, ...]:
  """Names of the machines in the catalog, sorted."""
  stems = {path.stem for path in _HERE.glob('*.toml')}
  return tuple(sorted(stems - {_ASSUMPTIONS}))


def load_catalog(name_or_path: str | os.PathLike) -> FittedSystem:
  """A machine as published: every parameter a prior, nothing fitted.

  Args:
    name_or_path: one of `catalog_names()`, or the path of a TOML file of
      your own (it ends in '.toml') in the format of this module.

  Returns:
    The system, with unit, prior, source and what to measure for each of its
    parameters; no ensemble.

  Raises:
    SpecError: an unknown name, with the nearest known one; or every fault of
      the file, with the full path of the field, the value and what was
      expected.

  Examples:
    >>> h100 = load_catalog('h100-sxm')
    >>> round(float(h100.system.tier('HBM').read_Bps) / 1e12, 2)
    3.35
    >>> h100.knowledge['HBM.read_Bps'].status.value
    'prior'
  """
  from diffmem.system.catalog import schema

  path = _path_of(name_or_path)
  machine = schema.read(path, schema.MachineFile)
  assumed = schema.assumptions(_HERE / f'{_ASSUMPTIONS}.toml')
  known = {}
  shared = _known_of(System, 'system', machine.system, [assumed.system])
  tiers = []
  for name, tier in machine.tiers.items():
    fallbacks = [assumed.tiers[name]] if name in assumed.tiers else []
    fallbacks += [assumed.links] if tier.link else []
    values = _known_of(Tier, name, tier, fallbacks)
    known[name] = values
    tiers.append(_tier(name, tier, values))
  engines = []
  for name, engine in machine.engines.items():
    unit = assumed.engines.get(name.split(':')[0])
    values = _known_of(Engine, name, engine, [unit] if unit else [], shared)
    known[name] = values
    engines.append(Engine.of(name, **_values(values)))
  known['system'] = shared
  try:
    system = System.of(
      machine.name,
      tiers,
      engines,
      compute_units=_count(machine.system.compute_units, 1),
      **_values(shared),
    )
  except errors.SpecError as error:
    raise errors.SpecError(f'{path}: {error}') from None
  return FittedSystem(system, _knowledge(system, known))


def _path_of(name_or_path: str | os.PathLike) -> pathlib.Path:
  text = os.fspath(name_or_path)
  if text in catalog_names():
    return _HERE / f'{text}.toml'
  path = pathlib.Path(text).expanduser()
  if path.suffix == '.toml':
    if not path.is_file():
      raise errors.SpecError(f'{path}: expected a TOML file; there is none')
    return path
  names = catalog_names()
  near = difflib.get_close_matches(text.lower(), names, 1, 0.4)
  hint = f'; did you mean {near[0]!r}?' if near else ''
  raise errors.SpecError(
    f'no machine {text!r} in the catalog{hint} (it has {", ".join(names)}; '
    'a file of your own ends in .toml)'
  )


def _known_of(
  cls: type,
  name: str,
  given: Any,
  fallbacks: list[Any],
  shared: dict[str, _Known] | None = None,
) -> dict[str, _Known]:
  """Value and source of every parameter of a tier, an engine or a system."""
  known = {}
  infos = parameters.parameter_infos(cls)
  for parameter, info in infos.items():
    for table in (given, *fallbacks):
      figure = getattr(table, parameter)
      if figure is not None:
        value = units.parse(figure.value, info.unit)
        known[parameter] = _Known(value, figure.source, figure.sd)
        break
  is_link = cls is Tier and given.link
  derived = _derived(cls, name, known, shared or {}, is_link)
  for parameter, rule in derived.items():
    if parameter not in known:
      known[parameter] = rule()
  for parameter, info in infos.items():
    if parameter not in known:
      source = f'assumption: default of {cls.__name__} ({info.help})'
      known[parameter] = _Known(info.default, source)
  return {parameter: known[parameter] for parameter in infos}


def _derived(
  cls: type,
  name: str,
  known: dict[str, _Known],
  shared: dict[str, _Known],
  is_link: bool,
) -> dict[str, Callable[[], _Known]]:
  """Rules for what follows from other figures, in order."""
  if cls is Engine:
    if not name.startswith('matrix:') or 'rate_FLOPps' not in known:
      return {}
    return {'energy_J_per_FLOP': lambda: _energy_at_cap(known, shared)}
  if cls is not Tier or 'read_Bps' not in known:
    return {}
  read = known['read_Bps']
  if is_link:
    write, both = read, 'assumption: both directions at full rate at once'
  else:
    write = _Known(read.value, 'assumption: writes are as fast as reads')
    both = 'assumption: an even mix of reads and writes loses 11 %'
  rules = {
    'write_Bps': lambda: write,
    'mixed_Bps': lambda: _Known(read.value + known['write_Bps'].value, both),
  }
  if 'latency_s' in known:
    rules['read_in_flight_B'] = lambda: _in_flight(known)
    rules['write_in_flight_B'] = lambda: known['read_in_flight_B']
  return rules


def _in_flight(known: dict[str, _Known]) -> _Known:
  product = known['latency_s'].value * known['read_Bps'].value
  return _Known(
    _IN_FLIGHT_PRODUCTS * product,
    f'assumption: {_IN_FLIGHT_PRODUCTS:g} times latency x bandwidth, enough '
    'to come near the capacity',
  )


def _energy_at_cap(
  known: dict[str, _Known], shared: dict[str, _Known]
) -> _Known:
  headroom_W = shared['power_cap_W'].value - shared['static_W'].value
  return _Known(
    headroom_W / (_PEAK_SHARE_AT_CAP * known['rate_FLOPps'].value),
    f'assumption: the board meets its power cap at {_PEAK_SHARE_AT_CAP:.0%} '
    'of the peak rate',
  )


def _tier(name: str, given: Any, known: dict[str, _Known]) -> Tier:
  duplex = given.duplex or (Duplex.FULL if given.link else Duplex.HALF)
  return Tier.of(
    name,
    duplex=duplex,
    home=given.home,
    via=given.via,
    private=given.private,
    link=given.link,
    span=_count(given.span, 0),
    contended=given.contended,
    **_values(known),
  )


def _count(given: Any, absent: int) -> int:
  return given.value if given else absent


def _values(known: dict[str, _Known]) -> dict[str, float]:
  return {name: figure.value for name, figure in known.items()}


def _knowledge(
  system: System, known: dict[str, dict[str, _Known]]
) -> dict[str, Knowledge]:
  active = system.active()
  found = {}
  for full, info in system.infos().items():
    part, parameter = full.rsplit('.', 1)
    figure = known[part][parameter]
    sd = _width(figure, info)
    is_default = figure.source.startswith('assumption:')
    unused = full not in active and is_default
    found[full] = Knowledge(
      status=Status.UNUSED if unused else Status.PRIOR,
      prior=figure.value,
      prior_sd=sd,
      stderr=sd,
      source=figure.source,
      measure=''
      if unused
      else measure.what_to_measure(system, f'{part}.{parameter}'),
    )
  return found


def _width(figure: _Known, info: parameters.ParameterInfo) -> float:
  """Standard deviation of a prior, in leaf units, from its source."""
  if figure.sd is not None:
    return float(figure.sd)
  if figure.source.startswith('assumption:'):
    return max(_ASSUMED_SD, info.prior_sd)
  if figure.source.startswith('unverified:'):
    return _UNVERIFIED_SD
  return min(_PUBLISHED_SD, info.prior_sd)
