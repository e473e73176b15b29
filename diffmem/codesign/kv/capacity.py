"""KV capacity economics: what the next GB of a tier is worth, and how much to
buy.

A request trace gives hits against capacity; the system's laws give the time
that a hit spares and the time of reloading it; prices give both sides of the
account in USD a second. Values come with 90 % intervals from resampled sessions
of the trace (`kv_demand`): they say how the same service varies with who comes,
not how another service would differ, and nothing beyond `supported_B`, the
working set of half of its length.

What is not in it: keys and values of answers, which a next turn could use
(the trace's blocks are of prompts, so hits are underestimated); several caches
that do not share (one pool, or routing by prefix, is assumed).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffmem.codesign.kv import choice as kv_choice
from diffmem.codesign.kv import demand as kv_demand
from diffmem.codesign.kv import margins as kv_margins
from diffmem.codesign.kv.choice import Bill, Hierarchy
from diffmem.codesign.kv.demand import Compute, KvDemand, Sums
from diffmem.codesign.kv.margins import Interval, NextGB, interval_of
from diffmem.codesign.kv.tiers import GB, KvTier, moving
from diffmem.system import System
from diffmem.traces.requests import Requests
from diffmem.workloads import kv_lifetimes
from diffmem.workloads.caches import PAGE_TOKENS
from diffmem.workloads.transformer import Transformer

# Half-width of the smoothing of a slope, in the logarithm of the capacity.
_SMOOTH = 0.35


@dataclasses.dataclass(frozen=True)
class Curve:
  """What a cache of each size does; arrays [capacity].

  Attributes:
    capacity_B: all accelerators together [B].
    lifetime_s: how long a block stays after its last use [s]; inf where the
      cache holds all that the trace uses.
    hit: share of prompt tokens that are there; rows are the value, the lower
      and the upper end of its interval; [3 capacity].
    next_usd_per_GB_s: by tier, what one more GB is worth a second if this
      tier held all of the capacity [USD/(GB s)]; [3 capacity].
    worth_usd_per_GB: the same over the years of service: the price below
      which the next GB pays, without wear [USD/GB]; [3 capacity].
  """

  capacity_B: np.ndarray
  lifetime_s: np.ndarray
  hit: np.ndarray
  next_usd_per_GB_s: dict[str, np.ndarray]
  worth_usd_per_GB: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class KvCapacity:
  """The answer of `kv_capacity`.

  Attributes:
    outcome: 'supported', or 'beyond the trace' where the best purchase is
      larger than what the trace can tell.
    help: what to make of it.
    token_B: bytes of a token's keys and values [B].
    rate: how many times the trace's traffic.
    requests_per_s: of the service [1/s].
    supported_B: largest capacity that the trace can tell about [B].
    curve: hits and values against capacity.
    none: without any reuse.
    chosen: the best purchase.
    chosen_B: by tier, capacity with its interval [B].
    saving_usd_per_s: of `chosen` against `none`, prices as given [USD/s].
    next_GB: one more GB of each tier beside `chosen`.
    given: capacities that were asked about; None without.
    given_next_GB: one more GB of each tier beside those.
  """

  outcome: str
  help: str
  token_B: float
  rate: float
  requests_per_s: float
  supported_B: float
  curve: Curve
  none: Bill
  chosen: Bill
  chosen_B: dict[str, Interval]
  saving_usd_per_s: Interval
  next_GB: tuple[NextGB, ...]
  given: Bill | None = None
  given_next_GB: tuple[NextGB, ...] = ()

  def to_dict(self) -> dict[str, Any]:
    """For JSON: arrays as lists, infinities as None."""
    found = dataclasses.asdict(self)
    for name in ('none', 'chosen', 'given'):
      one = getattr(self, name)
      if one is not None:
        found[name] |= {
          'usd_per_s': one.usd_per_s, 'usd_per_token': one.usd_per_token
        }  # fmt: skip
    return _plain(found)


def kv_capacity(
  requests: Requests,
  system: System,
  model: Transformer,
  tiers: Sequence[KvTier],
  usd_per_hour: float,
  *,
  rate: float = 1.0,
  given_B: Mapping[str, float] | None = None,
  kv_B: float | None = None,
  near: str = 'HBM',
  compute: Compute | None = None,
  wait_share: float = 1.0,
  warm_up: float = 0.1,
  page_tokens: int = PAGE_TOKENS,
  replicates: int = 200,
  seed: int = 0,
) -> KvCapacity:
  """Values of capacity and the best purchase for a trace.

  Args:
    requests: with hashes of prefixes.
    system: the accelerator with its tiers; its laws give reload times.
    model: the transformer.
    tiers: what can be bought, fastest first.
    usd_per_hour: of an accelerator with its power [USD/h].
    rate: how many times the trace's traffic there is, as more sessions.
    given_B: capacities to be judged beside the best, by tier [B].
    kv_B: bytes of a cached value; None for the model's own format.
    near: the accelerator's memory: hits there take no time.
    compute: time of a pass over prompts (`runs.prompt_pass.PromptPass`); by
      default that of the system's laws, 20 % too short for vLLM on an H100.
    wait_share: share of the reloading that accelerators wait for. 1, no
      overlap, is what measured serving shows (benchmarks/kv_reload_truth.py);
      1 / layers is the most that loading layer by layer can reach.
    warm_up: share of the trace that only fills the cache.
    page_tokens: tokens whose keys and values of all layers lie together.
    replicates: resampled traces for the intervals.
    seed: of the resampling.

  Raises:
    SpecError: a trace without hashes or without reuse, or tiers that the
      system does not have.
  """
  demand = kv_demand.kv_demand(
    requests, system, model, rate=rate, kv_B=kv_B, compute=compute
  )
  moves = {
    tier.name: moving(
      system, tier.name, page_tokens * demand.token_B, near=near
    )
    for tier in tiers
  }
  sums = kv_demand.sums_of(
    demand,
    {name: m.read_s_per_B for name, m in moves.items()},
    second_use=[tier.name for tier in tiers if tier.second_use],
    wait_share=wait_share,
    warm_up=warm_up,
  )
  mean = sums.mean()
  hierarchy = Hierarchy(
    tuple(tiers), moves, usd_per_hour / 3600.0, demand.token_B,
    max(float(np.ceil(mean.compute_s[0])), 1.0), wait_share,
  )  # fmt: skip
  resampled = _resampled(sums, replicates, seed)
  chosen_B = kv_choice.choose(mean, hierarchy)
  bills = [_best(one, hierarchy) for one in resampled]
  none, chosen = (kv_choice.bill(mean, hierarchy, c) for c in ({}, chosen_B))
  savings = [
    kv_choice.bill(one, hierarchy, {}).usd_per_s - best.usd_per_s
    for one, best in zip(resampled, bills, strict=True)
  ]
  lifetimes = kv_lifetimes.lifetimes_of(
    requests.blocks, requests.arrival_s, requests.prompt_tokens,
    requests.block_tokens, rate,
  )  # fmt: skip
  supported_B = demand.token_B * float(
    lifetimes.working_set(lifetimes.supported_s)
  )

  def next_of(capacity_B):
    return kv_margins.next_GB(
      mean, resampled, hierarchy, demand.token_B, capacity_B
    )

  next_GB = next_of(chosen_B)
  outcome, text = _judged(
    mean, chosen, next_GB, hierarchy, supported_B, lifetimes
  )
  return KvCapacity(
    outcome=outcome,
    help=text,
    token_B=demand.token_B,
    rate=rate,
    requests_per_s=rate * requests.requests_per_s,
    supported_B=supported_B,
    curve=_curve(mean, resampled, hierarchy, demand, lifetimes),
    none=none,
    chosen=chosen,
    chosen_B={
      name: interval_of(chosen_B[name], [b.capacity_B[name] for b in bills])
      for name in hierarchy.names
    },
    saving_usd_per_s=interval_of(none.usd_per_s - chosen.usd_per_s, savings),
    next_GB=next_GB,
    given=None if given_B is None
    else kv_choice.bill(mean, hierarchy, given_B),
    given_next_GB=() if given_B is None else next_of(given_B),
  )  # fmt: skip


def _resampled(sums: Sums, replicates: int, seed: int) -> list[Sums]:
  """Groups of sessions drawn with replacement."""
  count = len(sums.tokens)
  drawn = np.random.default_rng(seed).multinomial(
    count, np.full(count, 1.0 / count), replicates
  )
  return [sums.mean(weights) for weights in drawn]


def _best(sums: Sums, hierarchy: Hierarchy) -> Bill:
  return kv_choice.bill(sums, hierarchy, kv_choice.choose(sums, hierarchy))


def _curve(mean, resampled, hierarchy, demand: KvDemand, lifetimes) -> Curve:
  grid = mean.grid_B[1:]

  def rows(of):
    others = np.quantile([of(one) for one in resampled], kv_margins.ENDS, 0)
    return np.concatenate([of(mean)[None], others])

  def slope(name):
    def of(sums):
      spread = np.exp([_SMOOTH, -_SMOOTH])[:, None] * grid
      high, low = np.interp(spread, sums.grid_B, sums.spared_s[name][0])
      saved = (high - low) * hierarchy.usd_per_s
      return saved / (spread[0] - spread[1]) * GB

    return rows(of)

  slopes = {name: slope(name) for name in hierarchy.names}
  return Curve(
    grid,
    lifetimes.age_of(grid / demand.token_B),
    rows(
      lambda sums: (
        np.interp(grid, sums.grid_B, sums.hit_tokens[0]) / sums.tokens[0]
      )
    ),
    slopes,
    {t.name: slopes[t.name] * t.service_s for t in hierarchy.tiers},
  )


def _judged(mean, chosen, next_GB, hierarchy, supported_B, lifetimes):
  """Outcome and help."""
  total = sum(chosen.capacity_B.values())
  notes = []
  if total > supported_B:
    notes.append(
      f'The best purchase holds {total / GB:,.0f} GB, more than the '
      f'{supported_B / GB:,.0f} GB that the trace uses within half of its '
      f'{lifetimes.duration_s:,.0f} s: its last part is not known; a longer '
      'trace would tell.'
    )
  if chosen.link_busy > 1.0:
    notes.append(
      f'Links would be busy {chosen.link_busy:.1f} times as long as '
      'accelerators: this cannot be served.'
    )
  if chosen.worn:
    notes.append(
      f'{", ".join(chosen.worn)} wears out before its years of service end; '
      'more of it costs nothing but lasts longer.'
    )
  for tier, more in zip(hierarchy.tiers, next_GB, strict=True):
    pays = more.breakeven_usd_per_GB.value > tier.usd_per_GB
    if pays and not chosen.capacity_B[tier.name] and tier.name not in (
      chosen.worn
    ):  # fmt: skip
      passed = np.interp(total, mean.grid_B, mean.passed_tokens[tier.name][0])
      evicted_Bps = float(passed) * hierarchy.token_B
      notes.append(_not_bought(tier, evicted_Bps, hierarchy))
  if not total:
    notes.append('At these prices no tier pays for keys and values.')
  outcome = 'beyond the trace' if total > supported_B else 'supported'
  return outcome, ' '.join(notes)


def _not_bought(tier: KvTier, evicted_Bps: float, hierarchy) -> str:
  """Why a tier whose next GB would pay is not bought."""
  limit_Bps = hierarchy.accelerators * hierarchy.moving[tier.name].write_Bps
  if evicted_Bps > limit_Bps:
    return (
      f'{tier.name} is not bought: {evicted_Bps / GB:.3g} GB/s are evicted, '
      f'and {limit_Bps / GB:.3g} GB/s can be written to it.'
    )
  wear = 3600.0 * float(tier.paid_off_usd_per_s(1.0, evicted_Bps))
  less = '' if tier.second_use else 'admission after a second use, or '
  return (
    f'{tier.name} is not bought although a GB of it would pay at its price: '
    f'{evicted_Bps / GB:.3g} GB/s would be written to it, which wears out '
    f'{wear:.3g} USD/h of drives. What may change that: {less}drives that are '
    'rated for more writes.'
  )


def _plain(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _plain(one) for key, one in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(one) for one in value]
  if isinstance(value, np.ndarray):
    return _plain(value.tolist())
  if isinstance(value, float) and not np.isfinite(value):
    return None
  return value
