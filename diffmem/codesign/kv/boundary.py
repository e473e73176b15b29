"""Reload or recompute: the boundary over prefix length and link bandwidth.

A cached prefix of n tokens is worth reloading over a link of B bytes a second
where bytes(n) / B is below the time of computing it again. The boundary

    B*(n) = bytes(n) / recompute_s(n)

falls with n, as attention makes long prefixes dearer to compute, and rises for
short ones on machines whose pass has a floor. A tier whose rate lies above the
boundary is quicker than computing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffmem.codesign.kv import demand as kv_demand
from diffmem.codesign.kv.demand import Compute
from diffmem.system import System
from diffmem.workloads import caches, kv_reuse
from diffmem.workloads.caches import PAGE_TOKENS
from diffmem.workloads.transformer import Transformer


class Boundary(NamedTuple):
  """The boundary of one model on one machine; arrays for a plot.

  Attributes:
    model: its name.
    prefix_tokens: lengths of the prefix; [length].
    prefix_B: bytes of its keys and values [B]; [length].
    recompute_s: time of computing it, one accelerator [s]; [length].
    boundary_Bps: bandwidth above which reloading is quicker [B/s]; [length].
    link_Bps: bandwidths of the map [B/s]; [bandwidth].
    advantage: time of computing over time of reloading, above 1 where
      reloading is quicker; [length bandwidth].
    tier_Bps: by tier, rate at which the system's laws reload such a prefix,
      with the start of a transfer and granules [B/s]; [length].
    crossing_tokens: by tier, length above which reloading is quicker; inf
      where computing always is.
  """

  model: str
  prefix_tokens: np.ndarray
  prefix_B: np.ndarray
  recompute_s: np.ndarray
  boundary_Bps: np.ndarray
  link_Bps: np.ndarray
  advantage: np.ndarray
  tier_Bps: dict[str, np.ndarray]
  crossing_tokens: dict[str, float]

  def to_dict(self) -> dict[str, Any]:
    """For JSON: arrays as lists, infinities as None."""
    found = {
      name: value.tolist() if isinstance(value, np.ndarray) else value
      for name, value in self._asdict().items()
    }
    found['tier_Bps'] = {n: v.tolist() for n, v in self.tier_Bps.items()}
    found['crossing_tokens'] = {
      n: v if np.isfinite(v) else None for n, v in self.crossing_tokens.items()
    }
    return found


def prefix_bytes(
  model: Transformer, tokens: float, kv_B: float | None = None
) -> float:
  """Bytes that a sequence of so many tokens needs to go on [B].

  Layers with a window need their window alone, and states of linear attention
  do not grow.

  Args:
    model: the transformer.
    tokens: of the prefix.
    kv_B: bytes of a cached value; None for the model's own format.
  """
  kept = caches.decode_caches(model, float(tokens), kv_B).values()
  return float(sum(float(cache.kept_B) for cache in kept))


def boundary(
  system: System,
  model: Transformer,
  tiers: Sequence[str],
  *,
  kv_B: float | None = None,
  compute: Compute | None = None,
  page_tokens: int = PAGE_TOKENS,
  most_tokens: int = 1 << 20,
  points: int = 49,
) -> Boundary:
  """Where reloading a prefix is quicker than computing it again.

  Times are of one accelerator that has the whole model; with a model spread
  over several, compute, bytes and links are spread alike, and the boundary
  stays, up to what the exchange between them costs.

  Args:
    system: the machine.
    model: the transformer.
    tiers: whose rates are shown beside the boundary.
    kv_B: bytes of a cached value; None for the model's own format.
    compute: time of a pass over prompts, accelerators together
      (`runs.prompt_pass.PromptPass`); by default by the system's laws.
    page_tokens: tokens whose keys and values of all layers lie together.
    most_tokens: longest prefix, unless the model was made for less.
    points: lengths and bandwidths of the map.

  Raises:
    SpecError: a tier or engine that the system does not have.
  """
  longest = min(most_tokens, model.max_context)
  tokens = np.geomspace(16.0, longest, points)
  prefix_B = np.array([prefix_bytes(model, n, kv_B) for n in tokens])
  compute = compute or kv_demand.laws(system, model)
  recompute_s = np.asarray(compute(tokens, np.zeros(points)), float)
  piece_B = prefix_bytes(model, page_tokens, kv_B)
  links = np.geomspace(1e8, 1e12, points)
  reload = {
    name: kv_reuse.reload_s(system, prefix_B, piece_B, tier=name)
    for name in tiers
  }
  return Boundary(
    model.name,
    tokens,
    prefix_B,
    recompute_s,
    prefix_B / recompute_s,
    links,
    recompute_s[:, None] * links[None, :] / prefix_B[:, None],
    {name: prefix_B / time_s for name, time_s in reload.items()},
    {
      name: _crossing(tokens, recompute_s / time_s)
      for name, time_s in reload.items()
    },
  )


def _crossing(tokens: np.ndarray, advantage: np.ndarray) -> float:
  """Length above which the advantage stays above 1; between points by log."""
  behind = np.flatnonzero(advantage <= 1.0)
  if not len(behind):
    return float(tokens[0])
  last = int(behind[-1])
  if last + 1 == len(tokens):
    return float('inf')
  logs = np.log(advantage[last : last + 2])
  share = -logs[0] / (logs[1] - logs[0])
  ends = np.log(tokens[last : last + 2])
  return float(np.exp(ends[0] + share * (ends[1] - ends[0])))
