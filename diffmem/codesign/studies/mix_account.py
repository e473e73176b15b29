"""Where a token's dollars, joules and seconds go: lines that add up.

Energy: device and path of every tier, every engine, and what flows whatever is
done (`diffmem.cost.account`); the site's own on top, in money.

Time: an operation's time is homogeneous in the machine. If all rates (B/s,
FLOP/s, W) are doubled and all times (latencies, launches) halved, it takes half
as long; so by Euler's theorem

    T = sum over rates of -dT/d ln(rate) + sum over times of dT/d ln(time),

which shares the time of overlapping resources among them exactly, by how much
each holds it up. Money for accelerators follows their time.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from diffmem.codesign.mixes.mix_optimum import ItemOptimum, MixOptimum, Rates
from diffmem.codesign.studies.value import RATES, TIMES
from diffmem.planning import Objective, model
from diffmem.planning.account import account_of
from diffmem.planning.objective import COST
from diffmem.system import System

_SEARCHES = 'searches'
_CAP = 'power cap'
_LAUNCHES = 'launches'
# Parts of the board beside tiers and engines.
_BOARD = {'launch_s': _LAUNCHES, 'power_cap_W': _CAP, 'static_W': _CAP}
_TRANSLATION = 'address translation'


class Line(NamedTuple):
  """One line of an account.

  Attributes:
    part: tier, engine, part of the bill, or 'board'.
    kind: what of it: 'device', 'path', 'arithmetic', 'static', 'purchase',
      'time' or 'site'.
    amount: of one token of the mix, in the account's unit.
  """

  part: str
  kind: str
  amount: float


class Accounts(NamedTuple):
  """The same token in three units.

  Attributes:
    time: accelerator-seconds, by what holds them up.
    energy: joules at full voltage.
    money_by_part: dollars, accelerators by what was bought.
    money_by_resource: dollars, accelerators by what holds them up.
  """

  time: tuple[Line, ...]
  energy: tuple[Line, ...]
  money_by_part: tuple[Line, ...]
  money_by_resource: tuple[Line, ...]


def accounts_of(
  system: System,
  optimum: MixOptimum,
  rates: Rates,
  bill: Mapping[str, float] | None = None,
) -> Accounts:
  """Accounts of the mix at its best plans.

  Args:
    system: the machine.
    optimum: best plans, made with these rates.
    rates: what is paid.
    bill: price of an accelerator by part, for its shares; one line 'rent'
      where None.

  Returns:
    lines that sum to accelerators, power and value per token.
  """
  with jax.enable_x64(True):
    time = _time(system, optimum)
    energy = _energy(system, optimum)
  electricity = [
    line._replace(amount=rates.usd_per_J * line.amount)
    for line in energy
    if rates.usd_per_J
  ]
  purchase = rates.usd_per_s * optimum.accelerators / optimum.tokens_per_s
  total = sum(bill.values()) if bill else 1.0
  bought = [
    Line(part, 'purchase', purchase * usd / total)
    for part, usd in (bill or {'rent': 1.0}).items()
  ]
  held_up = [
    line._replace(amount=rates.usd_per_s * line.amount) for line in time
  ]
  return Accounts(
    tuple(time), tuple(energy), (*bought, *electricity),
    (*held_up, *electricity),
  )  # fmt: skip


def _time(system: System, optimum: MixOptimum) -> list[Line]:
  """Accelerator-seconds of a token by what holds them up."""
  shares: dict[str, float] = {}
  for item in optimum.items:
    seconds = item.accelerators / optimum.tokens_per_s
    for part, share in _held_up(system, item).items():
      shares[part] = shares.get(part, 0.0) + share * seconds
  return [Line(part, 'time', amount) for part, amount in shares.items()]


def _held_up(system: System, item: ItemOptimum) -> dict[str, float]:
  """Shares of an item's time by part; they sum to one."""
  if item.lowered is None:
    return {_SEARCHES: 1.0}
  slopes = jax.tree.leaves(
    model.slopes(system, item.lowered, item.shares, Objective(COST, 1.0, 0.0))
  )
  shares: dict[str, float] = {}
  for (name, info), slope in zip(system.infos().items(), slopes, strict=True):
    sign = -1.0 if info.unit in RATES else 1.0 if info.unit in TIMES else 0.0
    if not sign:
      continue
    part, _, parameter = name.rpartition('.')
    if part == 'system':
      part = _BOARD.get(parameter, _TRANSLATION)
    shares[part] = shares.get(part, 0.0) + sign * float(slope)
  return {part: share for part, share in shares.items() if share}


def _energy(system: System, optimum: MixOptimum) -> list[Line]:
  """Joules of a token at full voltage, tier by tier."""
  sums: dict[tuple[str, str], float] = {}
  for item in optimum.items:
    for part, kind, joules in _joules(system, item):
      amount = joules * item.rate_per_s / optimum.tokens_per_s
      sums[part, kind] = sums.get((part, kind), 0.0) + amount
  return [Line(*key, amount) for key, amount in sums.items() if amount]


def _joules(system: System, item: ItemOptimum):
  """Lines of one token (or query) of an item."""
  if item.lowered is None:
    yield _SEARCHES, 'all', item.power_W / item.rate_per_s
    return
  chips = int(np.prod([v for k, v in item.mesh.items() if k != 'interleave']))
  found = account_of(system, item.lowered, item.shares, chips)
  for line in found.per_token():
    # Plans are minimised at full voltage.
    if line.kind != 'saved at the cap':
      kind = 'static' if line.is_static else line.kind
      yield line.part, kind, line.energy_J
