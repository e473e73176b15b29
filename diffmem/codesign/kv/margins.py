"""What one GB more of a tier is worth beside a purchase, with intervals."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffmem.codesign.kv import choice as kv_choice
from diffmem.codesign.kv.choice import Hierarchy
from diffmem.codesign.kv.demand import Sums
from diffmem.codesign.kv.patience import patience_s
from diffmem.codesign.kv.tiers import GB, KvTier

# Ends of a 90 % interval.
ENDS = (0.05, 0.95)
# Step of a slope at a purchase: of the tier's capacity, and at least of all.
_STEP, _LEAST_STEP = 0.2, 0.02


class Interval(NamedTuple):
  """A value and its 90 % interval over resampled sessions of the trace."""

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class NextGB:
  """One GB more, or less, of a tier beside a purchase.

  A trace's hits come in steps: the slope upwards is the mean over a fifth more
  of the tier, and downwards over a fifth less. Best is where one is below and
  the other above the price.

  Attributes:
    tier: its name.
    value_usd_per_s: accelerator time that a GB more spares, less the energy
      of moving [USD/(GB s)].
    cost_usd_per_s: what it costs: paid off, and its power [USD/(GB s)]. Its
      power alone for a tier that wears out first: more of it lasts longer.
    breakeven_usd_per_GB: price at which a GB more pays for itself [USD/GB].
    last_usd_per_GB: price at which the last one paid for itself; None where
      there is none [USD/GB].
    patience_s: how long a token may wait there for a sure reuse and still pay
      (`kv_patience`) [s].
  """

  tier: str
  value_usd_per_s: Interval
  cost_usd_per_s: float
  breakeven_usd_per_GB: Interval
  last_usd_per_GB: Interval | None
  patience_s: float


def next_GB(
  mean: Sums,
  resampled: Sequence[Sums],
  hierarchy: Hierarchy,
  token_B: float,
  capacity_B: Mapping[str, float],
) -> tuple[NextGB, ...]:
  """One more GB of each tier.

  Args:
    mean: the service (`Sums.mean`).
    resampled: the same with resampled sessions.
    hierarchy: tiers and prices.
    token_B: bytes of a token's keys and values [B].
    capacity_B: of the purchase, by tier [B].
  """
  found = []
  mean_token_s = float(mean.compute_s[0] / mean.tokens[0])
  for tier in hierarchy.tiers:
    have = capacity_B.get(tier.name, 0.0)
    step = max(
      _STEP * have,
      _LEAST_STEP * (sum(capacity_B.values()) or float(mean.grid_B[-1])),
    )
    ups, downs = (
      [
        _slopes(one, hierarchy, capacity_B, tier.name, *ends)
        for one in (mean, *resampled)
      ]
      for ends in ((have, have + step), (max(have - step, 0.0), have))
    )
    reload_s = hierarchy.moving[tier.name].read_s_per_B * token_B
    spared_s = mean_token_s - hierarchy.wait_share * reload_s
    found.append(
      NextGB(
        tier.name,
        interval_of(ups[0][0], [v for v, _ in ups[1:]]),
        ups[0][1],
        _price(tier, ups),
        _price(tier, downs) if have else None,
        patience_s(tier, spared_s, hierarchy.usd_per_s, token_B),
      )
    )
  return tuple(found)


def _price(tier: KvTier, slopes) -> Interval:
  """Price of a GB at which it pays, from values a second."""
  prices = [
    (value - tier.power_usd_per_GB_s) * tier.service_s for value, _ in slopes
  ]
  return interval_of(prices[0], prices[1:])


def _slopes(
  sums, hierarchy, capacity_B, name, low_B: float, high_B: float
) -> tuple[float, float]:
  """Value and cost of a GB of a tier, the mean between two capacities."""
  if high_B <= low_B:
    return 0.0, 0.0
  low, high = (
    kv_choice.bill(sums, hierarchy, {**capacity_B, name: size})
    for size in (low_B, high_B)
  )
  width = (high_B - low_B) / GB

  def cost(one):
    return one.memory_usd_per_s[name] + one.power_usd_per_s[name]

  rest = [one.usd_per_s - cost(one) for one in (low, high)]
  return (rest[0] - rest[1]) / width, (cost(high) - cost(low)) / width


def interval_of(value: float, others: Sequence[float]) -> Interval:
  """A value with the interval of its replicates."""
  low, high = np.quantile(np.asarray(others, float), ENDS)
  return Interval(float(value), float(low), float(high))
