"""From answers on KV capacity and retrieval to the data of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffmem.codesign.kv.boundary import Boundary
from diffmem.codesign.kv.capacity import KvCapacity
from diffmem.codesign.kv.tiers import KvTier
from diffmem.codesign.retrieval.tiers import Retrieval
from diffmem.report import codesign_data as data

_SECONDS_PER_YEAR = 8766.0 * 3600.0
# Where a tier stands on the boundary's map: a long chat.
_SHOWN_TOKENS = 16384.0
_MILLION = 1e6
# Capacities whose worth is shown, down from the largest.
_SPAN = 300.0


def kv_part(
  found: KvCapacity,
  tiers: Sequence[KvTier],
  boundary: Boundary | None = None,
  trace: str = '',
) -> data.KvCapacity:
  """Hit rates, the worth of more, and where reloading beats computing.

  Args:
    found: answer of `kv_capacity`; nothing beyond what its trace supports is
      shown.
    tiers: that could be bought, for their prices.
    boundary: of one model.
    trace: which requests were counted.
  """
  curve = found.curve
  keep = curve.capacity_B <= found.supported_B
  x = curve.capacity_B[keep]
  hit = curve.hit[:, keep]
  # Below, a few popular blocks make steps that say nothing of more capacity.
  large = x > found.supported_B / _SPAN
  return data.KvCapacity(
    hit_rates=[
      data.Series(trace or 'these requests', x, hit[0], hit[1], hit[2])
    ],
    next_gb=[_next_gb(one) for one in found.next_GB],
    worth=[
      _worth(name, x[large], values[:, keep][:, large])
      for name, values in curve.worth_usd_per_GB.items()
    ],
    prices={tier.name: tier.usd_per_GB for tier in tiers},
    boundary=None if boundary is None else _regions(boundary),
    trace=trace,
  )


def _next_gb(one) -> data.NextGB:
  year = _SECONDS_PER_YEAR
  value = one.value_usd_per_s
  return data.NextGB(
    one.tier, year * value.value, year * value.low, year * value.high,
    year * one.cost_usd_per_s,
  )  # fmt: skip


def _worth(name: str, x: np.ndarray, values: np.ndarray) -> data.Series:
  """Only what is worth something has a place on a logarithmic axis."""
  worth, low, high = (np.where(v > 0, v, np.nan) for v in values)
  return data.Series(name, x, worth, low, high)


def _regions(boundary: Boundary) -> data.Regions:
  """0 where reloading is quicker, 1 where computing is."""
  tokens = boundary.prefix_tokens
  at = int(np.argmin(np.abs(np.log(tokens / _SHOWN_TOKENS))))
  marks = {
    name: (float(tokens[at]), float(rates[at]))
    for name, rates in boundary.tier_Bps.items()
  }
  return data.Regions(
    f'Reload or recompute, {boundary.model}',
    'Prefix', 'tokens', tokens,
    'Bandwidth', 'B/s', boundary.link_Bps,
    ['reload', 'recompute'], np.where(boundary.advantage.T > 1, 0, 1), marks,
  )  # fmt: skip


def retrieval_part(
  found: Retrieval,
  queries_per_s: float,
  sensitivity: Mapping[str, Any] | None = None,
) -> data.Retrieval:
  """Layouts of a vector index, and what traffic and recall do to the cost.

  Args:
    found: answer of `plan_retrieval`.
    queries_per_s: that were asked for.
    sensitivity: of the cost, as `retrieval_tiers.sensitivity` returns it.
  """
  curves = []
  if sensitivity is not None:
    rates = np.asarray(sensitivity['queries_per_s'], np.float64)
    table = np.array(
      [[np.nan if c is None else c for c in row]
       for row in sensitivity['usd_per_million']], np.float64,
    )  # fmt: skip
    curves = [
      data.Series(f'recall {recall:g}', rates, table[:, j])
      for j, recall in enumerate(sensitivity['recall'])
    ]
  return data.Retrieval(
    data.Metric('Traffic', 'queries/s', True),
    data.Metric('Cost of a million queries', 'USD'),
    curves,
    {d.candidate.layout.name: dict(d.memory_B) for d in found.designs},
    [_row(d, queries_per_s) for d in found.designs],
    found.help,
  )


def _row(design, queries_per_s: float) -> data.RetrievalRow:
  return data.RetrievalRow(
    design.candidate.layout.name,
    design.machines,
    _MILLION * design.usd_per_s / queries_per_s,
    design.query_J,
    design.latency_s,
    ', '.join(
      f'{amount:g} {what}'
      for amount, what in (
        (design.candidate.code_B, 'B codes'),
        (design.drives, 'drives each'),
        (design.modules, 'modules each'),
      )
      if amount
    ),
  )
