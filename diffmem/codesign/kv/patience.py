"""What a request trace without hashes tells: rates, lengths and patience.

Reuse cannot be seen without hashes of prefixes. What can be said is how long
a token may wait in a tier for a reuse that is sure, and still pay (Gray and
Putzolu, "The five-minute rule for trading memory for disc accesses", SIGMOD
1987): the accelerator time that the reuse spares, over what keeping the token
costs a second,

    patience = (compute - reload) USD/s of an accelerator / (bytes x USD/(B s))

and how much room it takes to keep all that arrives for that long.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffmem.codesign.kv import demand as kv_demand
from diffmem.codesign.kv.demand import Compute
from diffmem.codesign.kv.tiers import GB, KvTier, moving
from diffmem.system import System
from diffmem.traces.requests import Requests
from diffmem.workloads.caches import PAGE_TOKENS
from diffmem.workloads.transformer import Transformer


class TierPatience(NamedTuple):
  """One tier.

  Attributes:
    tier: its name.
    spared_s: accelerator time that the reuse of a token spares [s].
    patience_s: how long it may wait for a sure reuse [s]; 0 where reloading
      takes longer than computing.
    room_B: to keep all prompt tokens that arrive within that time, as if none
      were shared [B].
  """

  tier: str
  spared_s: float
  patience_s: float
  room_B: float


@dataclasses.dataclass(frozen=True)
class Patience:
  """The answer of `patience`.

  Attributes:
    outcome: 'reuse not seen': the trace has no hashes.
    help: what would show it.
    requests_per_s: of the service [1/s].
    tokens_per_s: of prompts [1/s].
    prompt_tokens: mean, median and 90th percentile of the lengths.
    accelerators: busy with prompts, without any reuse.
    usd_per_token: of prompts, without any reuse [USD].
    tiers: one by one.
  """

  outcome: str
  help: str
  requests_per_s: float
  tokens_per_s: float
  prompt_tokens: tuple[float, float, float]
  accelerators: float
  usd_per_token: float
  tiers: tuple[TierPatience, ...]

  def to_dict(self) -> dict[str, Any]:
    """For JSON."""
    found = dataclasses.asdict(self)
    return found | {'tiers': [tier._asdict() for tier in self.tiers]}


def patience(
  requests: Requests,
  system: System,
  model: Transformer,
  tiers: Sequence[KvTier],
  usd_per_hour: float,
  *,
  rate: float = 1.0,
  kv_B: float | None = None,
  near: str = 'HBM',
  compute: Compute | None = None,
  wait_share: float = 1.0,
) -> Patience:
  """How long keys and values may wait in each tier.

  Args:
    requests: a trace; hashes are not needed.
    system: the accelerator with its tiers.
    model: the transformer.
    tiers: what can be bought, fastest first.
    usd_per_hour: of an accelerator with its power [USD/h].
    rate: how many times the trace's traffic there is.
    kv_B: bytes of a cached value; None for the model's own format.
    near: the accelerator's memory: hits there take no time.
    compute: time of a pass over prompts; by default by the system's laws.
    wait_share: share of the reloading that accelerators wait for.
  """
  lengths = requests.prompt_tokens
  # The mean token of a prompt of n tokens has n / 2 before it.
  token_s = kv_demand.token_times(
    compute or kv_demand.laws(system, model), lengths / 2.0
  )
  mean_s = float(np.average(token_s, weights=lengths))
  token_B = kv_demand.token_bytes(model, kv_B, requests.block_tokens)
  tokens_per_s = rate * requests.tokens_per_s
  found = []
  for tier in tiers:
    moves = moving(system, tier.name, PAGE_TOKENS * token_B, near=near)
    spared_s = mean_s - wait_share * moves.read_s_per_B * token_B
    wait_s = patience_s(tier, spared_s, usd_per_hour / 3600.0, token_B)
    found.append(
      TierPatience(tier.name, spared_s, wait_s, tokens_per_s * wait_s * token_B)
    )
  quantiles = np.quantile(lengths, [0.5, 0.9])
  return Patience(
    'reuse not seen',
    f'{requests.source} has no hash_ids: it cannot say how often prefixes come '
    'back. Traces with a hash per block of the prompt (Mooncake) can.',
    rate * requests.requests_per_s,
    tokens_per_s,
    (float(lengths.mean()), float(quantiles[0]), float(quantiles[1])),
    tokens_per_s * mean_s,
    mean_s * usd_per_hour / 3600.0,
    tuple(found),
  )


def patience_s(
  tier: KvTier, spared_s: float, usd_per_s: float, token_B: float
) -> float:
  """How long a token may wait for a sure reuse and still pay [s].

  Args:
    tier: where it waits.
    spared_s: accelerator time that the reuse spares [s].
    usd_per_s: of an accelerator [USD/s].
    token_B: bytes of the token's keys and values [B].
  """
  held_usd_per_s = tier.holding_usd_per_GB_s * token_B / GB
  return max(spared_s, 0.0) * usd_per_s / held_usd_per_s
