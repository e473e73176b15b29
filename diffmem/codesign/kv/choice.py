"""How much of each tier to buy for keys and values: the exact best on a grid.

Tiers form one exclusive LRU cache: what one evicts moves to the next, so that
tier i serves reuse of depths between the capacities before it, C', and with
it, C. With spared accelerator time S_i(C), the cost a second is

    accelerators (X - sum_i (S_i(C_i) - S_i(C'_i))) + sum_i memory_i(C', C)

where the second has what the tier is paid off with or worn out by (what the
tiers before let through is written to it), its power and the energy of moving
bytes. Each term knows two cumulative capacities alone, so that the best
purchase is a shortest path over tiers (Bellman, 1957): all local optima of the
trace's staircase are seen, where the condition "marginal value = marginal
cost" would stop at the first.

Loading takes the accelerator's link. Where it waits for its loads
(`wait_share` = 1 in `kv_demand.sums_of`) links are never busier than
accelerators; where loads overlap with computing, link time gets a price that
keeps it so, the multiplier of that limit, found by bisection.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from diffmem import errors
from diffmem.codesign.kv.demand import Sums
from diffmem.codesign.kv.tiers import GB, KvTier, Moving

_BISECTIONS = 20


class Hierarchy(NamedTuple):
  """Tiers that can be bought, and the accelerators that they serve.

  Attributes:
    tiers: fastest first.
    moving: by tier, what moving bytes takes.
    usd_per_s: of an accelerator, its power included [USD/s].
    token_B: bytes of a token's keys and values [B].
    accelerators: whose links fill the tiers.
    wait_share: share of the reloading that accelerators wait for.
  """

  tiers: tuple[KvTier, ...]
  moving: Mapping[str, Moving]
  usd_per_s: float
  token_B: float
  accelerators: float
  wait_share: float = 1.0

  @property
  def names(self) -> tuple[str, ...]:
    """Of the tiers, fastest first."""
    return tuple(tier.name for tier in self.tiers)


@dataclasses.dataclass(frozen=True)
class Bill:
  """What serving the prompts costs a second with so much of each tier.

  Attributes:
    capacity_B: by tier, all accelerators together [B].
    hit: by tier, share of all tokens that it serves.
    accelerators: busy, on average.
    link_busy: share of the accelerators' time that their links load.
    accelerators_usd_per_s: of the busy accelerators [USD/s].
    memory_usd_per_s: by tier, paid off or worn out [USD/s].
    power_usd_per_s: by tier, standing power [USD/s].
    moving_usd_per_s: by tier, energy of bytes read and written [USD/s].
    written_Bps: by tier, bytes written to it [B/s].
    worn: tiers that wear out before their years of service end.
    tokens_per_s: of prompts, those that hit too [1/s].
  """

  capacity_B: dict[str, float]
  hit: dict[str, float]
  accelerators: float
  link_busy: float
  accelerators_usd_per_s: float
  memory_usd_per_s: dict[str, float]
  power_usd_per_s: dict[str, float]
  moving_usd_per_s: dict[str, float]
  written_Bps: dict[str, float]
  worn: tuple[str, ...]
  tokens_per_s: float

  @property
  def usd_per_s(self) -> float:
    """All of it [USD/s]."""
    return self.accelerators_usd_per_s + sum(
      sum(part.values())
      for part in (
        self.memory_usd_per_s, self.power_usd_per_s, self.moving_usd_per_s
      )
    )  # fmt: skip

  @property
  def usd_per_token(self) -> float:
    """Of a prompt token [USD]."""
    return self.usd_per_s / self.tokens_per_s


def bill(
  sums: Sums, hierarchy: Hierarchy, capacity_B: Mapping[str, float]
) -> Bill:
  """What given capacities cost a second.

  Args:
    sums: of one slice (`Sums.mean`); between capacities of its grid they are
      taken as linear.
    hierarchy: tiers and prices.
    capacity_B: by tier; what is absent is 0 [B].

  Raises:
    SpecError: a tier that is not in the hierarchy.
  """
  strange = set(capacity_B) - set(hierarchy.names)
  if strange:
    raise errors.SpecError(
      f'capacity of {min(strange)!r}; expected one of '
      f'{", ".join(hierarchy.names)}'
    )

  def at(table, capacity):
    return float(np.interp(capacity, sums.grid_B, table[0]))

  total = float(sums.tokens[0])
  spared, loading_s, before = 0.0, 0.0, 0.0
  parts: dict[str, dict[str, float]] = {
    name: {} for name in ('hit', 'memory', 'power', 'moving', 'written')
  }
  worn = []
  for tier in hierarchy.tiers:
    name, moves = tier.name, hierarchy.moving[tier.name]
    size = float(capacity_B.get(name, 0.0))
    after = before + size
    loaded = at(sums.loaded_tokens[name], after) - at(
      sums.loaded_tokens[name], before
    )
    passed = at(sums.passed_tokens[name], before)
    written = passed * hierarchy.token_B if size else 0.0
    spared += at(sums.spared_s[name], after) - at(sums.spared_s[name], before)
    loading_s += loaded * hierarchy.token_B * moves.read_s_per_B
    moved = written + loaded * hierarchy.token_B
    memory = float(tier.paid_off_usd_per_s(size, written))
    if memory > tier.usd_per_GB * size / GB / tier.service_s * (1 + 1e-9):
      worn.append(name)
    parts['hit'][name] = loaded / total
    parts['memory'][name] = memory
    parts['power'][name] = size / GB * tier.power_usd_per_GB_s
    parts['moving'][name] = moved * moves.J_per_B * tier.usd_per_J
    parts['written'][name] = written
    before = after
  busy = float(sums.compute_s[0]) - spared
  return Bill(
    {tier.name: float(capacity_B.get(tier.name, 0.0))
     for tier in hierarchy.tiers},
    parts['hit'],
    busy,
    loading_s / busy if busy > 0 else np.inf,
    busy * hierarchy.usd_per_s,
    parts['memory'],
    parts['power'],
    parts['moving'],
    parts['written'],
    tuple(worn),
    total,
  )  # fmt: skip


def choose(sums: Sums, hierarchy: Hierarchy) -> dict[str, float]:
  """The cheapest capacities of the grid [B], by tier.

  Args:
    sums: of one slice (`Sums.mean`).
    hierarchy: tiers and prices.

  Returns:
    0 where a tier does not pay. A tier whose link could not be filled as fast
    as blocks are evicted into it is not bought.
  """
  best = _path(sums, hierarchy, 0.0)
  if bill(sums, hierarchy, best).link_busy <= 1.0:
    return best
  # A price at which nobody loads: what loading can spare, for no time at all.
  low, high = 0.0, (1.0 - hierarchy.wait_share) * hierarchy.usd_per_s
  best = _path(sums, hierarchy, high)
  for _ in range(_BISECTIONS):
    price = (low + high) / 2.0
    found = _path(sums, hierarchy, price)
    if bill(sums, hierarchy, found).link_busy <= 1.0:
      high, best = price, found
    else:
      low = price
  return best


def _path(sums: Sums, hierarchy: Hierarchy, link_usd_per_s: float):
  """Dynamic programme over tiers; [capacity before, capacity after]."""
  count = len(sums.grid_B)
  value = np.full(count, -np.inf)
  value[0] = 0.0
  steps = []
  for tier in hierarchy.tiers:
    reached = value[:, None] + _gain(sums, hierarchy, tier, link_usd_per_s)
    steps.append(reached.argmax(0))
    value = reached.max(0)
  place = int(value.argmax())
  capacities = {}
  for tier, step in zip(reversed(hierarchy.tiers), reversed(steps),
                        strict=True):  # fmt: skip
    before = int(step[place])
    capacities[tier.name] = float(sums.grid_B[place] - sums.grid_B[before])
    place = before
  return {name: capacities[name] for name in hierarchy.names}


def _gain(sums, hierarchy, tier: KvTier, link_usd_per_s: float) -> np.ndarray:
  """USD a second that a tier saves, by the capacities before and with it."""
  moves, grid = hierarchy.moving[tier.name], sums.grid_B
  token_B = hierarchy.token_B

  def between(table):
    return table[0][None, :] - table[0][:, None]

  size = grid[None, :] - grid[:, None]
  loaded_B = between(sums.loaded_tokens[tier.name]) * token_B
  passed_B = sums.passed_tokens[tier.name][0][:, None] * token_B
  written_B = np.where(size > 0, passed_B, 0.0)
  gain = (
    between(sums.spared_s[tier.name]) * hierarchy.usd_per_s
    - loaded_B * moves.read_s_per_B * link_usd_per_s
    - (loaded_B + written_B) * moves.J_per_B * tier.usd_per_J
    - tier.paid_off_usd_per_s(size, written_B)
    - size / GB * tier.power_usd_per_GB_s
  )
  too_fast = written_B > hierarchy.accelerators * moves.write_Bps
  refused = (size < 0) | (size > tier.most_B * (1 + 1e-9)) | too_fast
  return np.where(refused, -np.inf, gain)
