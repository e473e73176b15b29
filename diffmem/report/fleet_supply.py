"""A fleet's plan as the report's supply: timelines, orders, moves."""

import numpy as np

from diffmem.codesign.fleet.result import (
  Comparison,
  FleetResult,
  MemoryTimeline,
  PartTimeline,
)
from diffmem.report.supply_data import (
  Move,
  Order,
  PartSupply,
  Service,
  Supply,
)

# Moves that are listed, the largest shares first.
_MOST_MOVES = 12
_TB = 1e3  # GB
# Below this an amount is the solver's rounding.
_LEAST = 1e-6


def supply_of(
  result: FleetResult, comparison: Comparison | None = None
) -> Supply:
  """Timelines of all parts and memories that serve in some quarter.

  Args:
    result: of `plan_fleet`, with a solution.
    comparison: with another plan, for the moves.
  """
  parts = [_part(result, n, p) for n, p in result.parts.items()]
  parts += [_memory(result, n, m) for n, m in result.memories.items()]
  return Supply(
    quarters=result.quarters,
    parts=[p for p in parts if (p.held + p.delivered).any()],
    moves=_moves(comparison),
    scenario=result.scenario,
    services=[_service(result, name) for name in result.demand],
    base=comparison.base if comparison else '',
    extra_usd=comparison.extra_usd if comparison else None,
  )


def _part(result: FleetResult, name: str, part: PartTimeline) -> PartSupply:
  delivered = np.add(part.delivered, part.contracted)
  return PartSupply(
    name=name,
    unit='accelerators',
    held=_not_negative(np.array(part.in_service) - delivered),
    delivered=_not_negative(delivered),
    price=np.array(part.price_usd),
    worth=_worth(result, 'part', name),
    orders=_orders(delivered, part.lead_quarters),
    busy=np.array(part.busy),
  )


def _service(result: FleetResult, workload: str) -> Service:
  """Where a workload runs."""
  return Service(
    workload=workload,
    places={
      f'{s.part} {s.variant}'.strip(): _not_negative(np.array(s.tokens_per_s))
      for s in result.served
      if s.workload == workload
    },
    unmet=_not_negative(np.array(result.demand[workload].unmet_tokens_per_s)),
  )


def _memory(
  result: FleetResult, name: str, memory: MemoryTimeline
) -> PartSupply:
  """Soldered memory comes with parts: its orders are those on top."""
  there = np.array(memory.in_service_GB) / _TB
  new = np.array(memory.delivered_GB) / _TB
  if memory.soldered:
    new = np.maximum(np.diff(there, prepend=there[0]), 0.0)
  return PartSupply(
    name=name,
    unit='TB',
    held=_not_negative(there - new),
    delivered=_not_negative(new),
    price=np.array(memory.usd_per_GB) * _TB,
    worth=_worth(result, 'memory', name) * _TB,
    orders=_orders(np.array(memory.delivered_GB) / _TB, memory.lead_quarters),
  )


def _worth(result: FleetResult, kind: str, name: str) -> np.ndarray:
  found = {
    w.quarter: w.one_more_usd
    for w in result.worth
    if w.kind == kind and w.name == name
  }
  return np.array([found.get(q, 0.0) for q in result.quarters])


def _orders(delivered: np.ndarray, lead: int) -> list[Order]:
  return [
    Order(d - lead, d, float(amount))
    for d, amount in enumerate(delivered)
    if amount > _LEAST
  ]


def _not_negative(values: np.ndarray) -> np.ndarray:
  return np.where(values > _LEAST, values, 0.0)


def _moves(comparison: Comparison | None) -> list[Move]:
  if comparison is None:
    return []
  largest = sorted(comparison.moves, key=lambda m: -m.share)
  return [
    Move(
      quarter=m.quarter,
      workload=m.workload,
      from_part=_place(m.source),
      to_part=_place(m.target),
      share=min(m.share, 1.0),
      usd=m.extra_usd,
    )
    for m in largest[:_MOST_MOVES]
  ]


def _place(place: tuple[str, str]) -> str:
  """'' where it is not served."""
  return '' if place[0] == 'unmet' else ' '.join(place).strip()
