"""What a memory system is built of, and what it costs: `parts.toml`.

    [stacks.HBM3E]
    pins = { value = 1024, source = 'who says so' }
    usd_per_GB = { value = 18.1, low = 7.0, high = 20.0, date = '2026-06',
                   source = '...' }

Tables: `stacks` beside the die, `channels` of memory of the host (and CXL),
`drives`, `links`, `relations` that hold everywhere, and `machines`: what is
inside the accelerators of the catalog. A GB is 1e9 bytes; units are in the
names, as people write them.
"""

import difflib
import functools
import os
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Annotated

import pydantic

from diffmem import errors

_FILE = pathlib.Path(__file__).with_name('parts.toml')
_Positive = Annotated[float, pydantic.Field(gt=0)]
_Listed = Annotated[tuple[_Positive, ...], pydantic.Field(min_length=1)]


class _Strict(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(frozen=True, extra='forbid')


class Figure(_Strict):
  """One figure and who says so.

  Attributes:
    value: what is used, in the unit of its name.
    low: lowest that a source gives; None for `value`.
    high: highest; None for `value`.
    date: of a price, as in the source: '2026', '2026-05' or a day.
    source: where it was read; 'unverified: ...' or 'assumption: ...' where
      nobody publishes it.
  """

  value: Annotated[float, pydantic.Field(ge=0)]
  low: Annotated[float, pydantic.Field(ge=0)] | None = None
  high: Annotated[float, pydantic.Field(ge=0)] | None = None
  date: Annotated[str, pydantic.Field(pattern=r'^\d{4}(-\d{2}){0,2}$')] = '2026'
  source: Annotated[str, pydantic.Field(min_length=3)]

  @pydantic.model_validator(mode='after')
  def _ordered(self):
    low = self.value if self.low is None else self.low
    high = self.value if self.high is None else self.high
    if not low <= self.value <= high:
      raise ValueError('expected low <= value <= high')
    return self

  @property
  def is_assumed(self) -> bool:
    """Whether nobody publishes it."""
    return self.source.startswith('assumption:')


class Stack(_Strict):
  """A stack of memory beside the die.

  Attributes:
    pins: data pins.
    pin_Gbps: rate of a pin at which prices and energies hold; low and high
      bound what can be built.
    speeds_Gbps: rates that are sold.
    capacities_GB: sizes that are sold.
    device_pJ_per_bit: energy inside the stack.
    path_pJ_per_bit: energy from there to the engines.
    usd_per_GB: what the accelerator's maker pays.
  """

  pins: Figure
  pin_Gbps: Figure
  speeds_Gbps: _Listed
  capacities_GB: _Listed
  device_pJ_per_bit: Figure
  path_pJ_per_bit: Figure
  usd_per_GB: Figure


class Channel(_Strict):
  """A memory channel of the host, or a CXL module.

  Attributes:
    GBps: its bandwidth.
    capacities_GB: sizes that are sold, one or two modules a channel.
    device_pJ_per_bit: energy inside the modules.
    usd_per_GB: price.
    W_per_GB: power at rest.
  """

  GBps: Figure
  capacities_GB: _Listed
  device_pJ_per_bit: Figure
  usd_per_GB: Figure
  W_per_GB: Figure


class Drive(_Strict):
  """An NVMe drive.

  Attributes:
    GBps: rate of sequential reads.
    capacities_GB: sizes that are sold.
    pJ_per_bit: energy of the drive over what it reads.
    usd_per_GB: price.
    W: power at rest.
  """

  GBps: Figure
  capacities_GB: _Listed
  pJ_per_bit: Figure
  usd_per_GB: Figure
  W: Figure


class Link(_Strict):
  """A link of an accelerator; rates are of one direction.

  Attributes:
    steps_GBps: rates that are sold.
    usd_per_GBps: price, with its share of switches and cables.
    W_per_GBps: power, whether it is used or not.
    mm2_per_GBps: area on the die.
  """

  steps_GBps: _Listed
  usd_per_GBps: Figure
  W_per_GBps: Figure
  mm2_per_GBps: Figure


class Relations(_Strict):
  """What holds for every machine; the file says where each is from.

  Attributes:
    phy_mm2_per_1024_pins: area on the die for the pins of a stack.
    stack_width_mm: edge of the die that a stack takes.
    package_usd_per_stack: cost of packaging one more stack.
    stack_W: power of a stack at rest.
    price_speed_exponent: of the price of a stack in its rate of a pin.
    energy_speed_exponent: of a stack's energy per bit in its rate of a pin.
    board_usd_per_W: price of the board's power supply and cooling.
    host_usd: share of the server without memory, drives and network.
    host_W: its power.
    site_usd_per_W: price of the building per watt.
    site_years: years over which the building is paid off.
  """

  phy_mm2_per_1024_pins: Figure
  stack_width_mm: Figure
  package_usd_per_stack: Figure
  stack_W: Figure
  price_speed_exponent: Figure
  energy_speed_exponent: Figure
  board_usd_per_W: Figure
  host_usd: Figure
  host_W: Figure
  site_usd_per_W: Figure
  site_years: Figure


class Machine(_Strict):
  """What is inside an accelerator of the catalog, with its share of a host.

  Attributes:
    stack: name in `stacks`.
    stacks: how many.
    stack_GB: size of each; more than what a user sees.
    pin_Gbps: rate at which it runs them.
    channel: name in `channels`.
    channels: of the host, per accelerator.
    channel_GB: on each.
    drive: name in `drives`.
    drives: per accelerator.
    drive_GB: size of each.
    module_usd: price of the accelerator with its memory.
    over_cost: price of its memory over what its maker pays.
  """

  stack: str
  stacks: Figure
  stack_GB: Figure
  pin_Gbps: Figure
  channel: str
  channels: Figure
  channel_GB: Figure
  drive: str
  drives: Figure
  drive_GB: Figure
  module_usd: Figure
  over_cost: Figure


class Parts(_Strict):
  """Everything of a parts file.

  Attributes:
    stacks: memory beside the die, by generation.
    channels: memory of the host, by kind.
    drives: by generation.
    links: 'NVLink' (the inner network), 'network', 'host'.
    relations: what holds everywhere.
    machines: by catalog name.
  """

  stacks: Mapping[str, Stack]
  channels: Mapping[str, Channel]
  drives: Mapping[str, Drive]
  links: Mapping[str, Link]
  relations: Relations
  machines: Mapping[str, Machine]

  @pydantic.model_validator(mode='after')
  def _known(self):
    for link in ('NVLink', 'network', 'host'):
      if link not in self.links:
        raise ValueError(f'expected a table links.{link}')
    for name, machine in self.machines.items():
      for table, part in (
        ('stacks', machine.stack), ('channels', machine.channel),
        ('drives', machine.drive),
      ):  # fmt: skip
        if part not in getattr(self, table):
          raise ValueError(
            f'machines.{name}: {part!r} is not in {table} '
            f'({", ".join(getattr(self, table))})'
          )
    return self

  def of(self, table: str, name: str):
    """A part by table and name.

    Raises:
      SpecError: none of that name, with the nearest.
    """
    found = getattr(self, table)
    if name not in found:
      near = difflib.get_close_matches(name, found, 1, 0.4)
      hint = f'; did you mean {near[0]!r}?' if near else ''
      raise errors.SpecError(
        f'no {name!r} in {table} of the parts file{hint} '
        f'(there is {", ".join(found)})'
      )
    return found[name]


def load_parts(path: str | os.PathLike | None = None) -> Parts:
  """Reads a parts file; the shipped one without a path.

  Raises:
    SpecError: unreadable, or a field that does not fit: file, path of the
      field, value, what was expected.

  Examples:
    >>> load_parts().of('stacks', 'HBM4').pins.value
    2048.0
  """
  return _shipped() if path is None else _read(pathlib.Path(path))


@functools.cache
def _shipped() -> Parts:
  return _read(_FILE)


def _read(path: pathlib.Path) -> Parts:
  try:
    return Parts.model_validate(tomllib.loads(path.read_text(encoding='utf-8')))
  except OSError as error:
    raise errors.SpecError(f'{path}: {error.strerror or error}') from None
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise errors.SpecError(f'{path}: not TOML: {error}') from None
  except pydantic.ValidationError as error:
    raise errors.SpecError(
      '\n'.join(f'{path}: {_fault(fault)}' for fault in error.errors())
    ) from None


def _fault(fault) -> str:
  """One line about one fault: path, what was found, what was expected."""
  where = '.'.join(str(key) for key in fault['loc'])
  message = fault['msg'].removeprefix('Value error, ')
  if fault['type'] == 'missing':
    return f'{where}: expected this key; it is not there'
  if fault['type'] == 'extra_forbidden':
    return f'{where}: found {fault["input"]!r}; expected no such key'
  found = fault['input']
  if isinstance(found, dict | pydantic.BaseModel):
    shown = '' if not where else f'{where}: '
    return f'{shown}{message}'
  message = message.replace('Input should be', 'expected')
  return f'{where}: found {found!r}; {message}'
