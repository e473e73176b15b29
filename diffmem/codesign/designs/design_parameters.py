"""Which parts a design may choose, how many, how large and how fast."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from diffmem.codesign.designs import parts as parts_lib
from diffmem.system import System

_GB, _GBPS, _BITS = 1e9, 1e9, 8.0
# Power caps are settings: any would do.
_STEP_W = 25.0
# Role of a link's tier -> its parameter.
LINKS = {
  'NVLink': 'nvlink_Bps', 'network': 'network_Bps', 'host link': 'host_Bps',
}  # fmt: skip


class Kit(NamedTuple):
  """Kinds of parts; hashable. None: as the base machine has.

  Attributes:
    stack: memory beside the die, a name in `Parts.stacks`.
    channel: memory of the host, a name in `Parts.channels`.
    drive: a name in `Parts.drives`.
    cxl: whether CXL modules hang on the host link.
    hbf: whether stacks of high-bandwidth flash stand beside the others.
  """

  stack: str | None = None
  channel: str | None = None
  drive: str | None = None
  cxl: bool = False
  hbf: bool = False


class Parameter(NamedTuple):
  """One dimension of the design.

  Attributes:
    name: with its unit.
    unit: SI.
    origin: of the base machine.
    reference: where a design of the kit starts: as the base, where the kind
      of part allows it.
    low: smallest that can be chosen.
    high: largest.
    listed: what is sold; () where whole numbers are.
    help: one line.
  """

  name: str
  unit: str
  origin: float
  reference: float
  low: float
  high: float
  listed: tuple[float, ...]
  help: str


def parameters_of(
  base: System,
  kit: Kit,
  parts: parts_lib.Parts,
  inside: parts_lib.Machine,
  tiers: Mapping[str, str],
) -> tuple[Parameter, ...]:
  """Dimensions of a kit on a base machine.

  Args:
    base: the machine, with the tiers that the kit adds.
    kit: kinds of parts, all named.
    parts: what they are.
    inside: what the base machine is built of.
    tiers: role -> tier of the base that plays it.
  """
  stack = parts.of('stacks', kit.stack)
  pin = stack.pin_Gbps

  def gbps(values):
    return tuple(v * _GBPS / _BITS for v in values)

  def sizes(part):
    return tuple(c * _GB for c in part.capacities_GB)

  def number(name, figure, low, high, help):
    return Parameter(name, '1', figure, figure, low, high, (), help)

  def listed(
    name, unit, origin, choices, help, low=None, high=None, start=None
  ):
    low, high = low or min(choices), high or max(choices)
    start = float(np.clip(start or origin, low, high))
    return Parameter(name, unit, origin, start, low, high, tuple(choices), help)

  same = kit.stack == inside.stack
  rate = inside.pin_Gbps.value
  low, high = pin.low or pin.value, pin.high or pin.value
  if same:
    low, high = min(low, rate), max(high, rate)
  size_B = inside.stack_GB.value * _GB
  found = [
    number('stacks', inside.stacks.value, 1.0, 16.0, f'stacks of {kit.stack}'),
    listed('pin_Bps', 'B/s', rate * _GBPS / _BITS, gbps(stack.speeds_Gbps),
           'rate of one pin', *gbps((low, high, rate if same else pin.value))),
    listed('stack_B', 'B', size_B, sizes(stack), 'size of a stack',
           low=min(size_B, *sizes(stack)) if same else None),
  ]  # fmt: skip
  if kit.hbf:
    found.append(number('hbf_stacks', 2.0, 0.5, 8.0, 'stacks of HBF'))
  if 'host' in tiers:
    channel = parts.of('channels', kit.channel)
    found += [
      number('channels', inside.channels.value, 1.0, 8.0,
             f'channels of {kit.channel}, of the host'),
      listed('channel_B', 'B', inside.channel_GB.value * _GB, sizes(channel),
             'memory on each'),
    ]  # fmt: skip
  if kit.cxl:
    module = parts.of('channels', 'CXL')
    found += [
      number('cxl_modules', 1.0, 0.125, 8.0, 'CXL modules of the host'),
      listed('cxl_module_B', 'B', 256 * _GB, sizes(module), 'size of each'),
    ]
  if 'drive' in tiers:
    drive = parts.of('drives', kit.drive)
    found += [
      number('drives', inside.drives.value, 0.25, 8.0, 'NVMe drives'),
      listed('drive_B', 'B', inside.drive_GB.value * _GB, sizes(drive),
             'size of each'),
    ]  # fmt: skip
  for role, name in LINKS.items():
    if role in tiers:
      link = parts.links[role.removesuffix(' link')]
      steps = tuple(s * _GBPS for s in link.steps_GBps)
      own = float(base.tier(tiers[role]).read_Bps)
      nominal = min(steps, key=lambda s: abs(np.log(s / own)))
      found.append(
        listed(name, 'B/s', nominal, steps, f'{role}, one direction')
      )
  cap_W = round(float(base.power_cap_W), 6)
  first, last = np.ceil(0.5 * cap_W / _STEP_W), 2.0 * cap_W / _STEP_W
  caps_W = {*(_STEP_W * np.arange(first, last + 0.5)).tolist(), cap_W}
  found.append(
    listed('board_W', 'W', cap_W, tuple(sorted(caps_W)),
           'power cap of the board')
  )  # fmt: skip
  return tuple(found)
