"""Two plans side by side: what runs elsewhere, and what that costs."""

from collections.abc import Iterator

from diffmem import errors
from diffmem.codesign.fleet.result import Comparison, FleetResult, Move

_UNMET, _DEMAND = ('unmet', ''), ('demand', '')
# Less than this share of a workload's demand is the solver's rounding.
_LEAST = 1e-6


def compare(base: FleetResult, other: FleetResult) -> Comparison:
  """What another plan of the same fleet does differently.

  Tokens that leave one place are matched with those that arrive elsewhere, in
  proportion. A move costs what its tokens cost there less what they cost here,
  each at the mean cost of its workload in that place and plan. A move onto
  parts that are paid for saves money; what it displaces pays, and the marginal
  costs say how scarce the quarter is. The moves alone do not add up to the
  difference; the workloads and kinds do.

  Raises:
    PlanError: plans of different quarters, or one without a solution.
  """
  if base.account is None or other.account is None:
    raise errors.PlanError('a plan without a solution cannot be compared')
  if base.quarters != other.quarters or set(base.demand) != set(other.demand):
    raise errors.PlanError('the plans are of different fleets')
  moves = sorted(_moves(base, other), key=lambda m: -m.tokens_per_s)
  return Comparison(
    base=base.scenario,
    other=other.scenario,
    extra_usd=other.account.present_usd - base.account.present_usd,
    by_workload=_difference(base, other, 'workload'),
    by_kind=_difference(base, other, 'kind'),
    moves=tuple(moves),
  )


def _difference(base, other, field: str) -> dict[str, float]:
  before, after = base.account.by(field), other.account.by(field)
  return {
    key: after.get((key,), 0.0) - before.get((key,), 0.0)
    for (key,) in dict.fromkeys((*before, *after))
  }


def _moves(base: FleetResult, other: FleetResult) -> Iterator[Move]:
  before, after = _places(base), _places(other)
  before_usd, after_usd = _usd_per_token(base), _usd_per_token(other)
  for workload in base.demand:
    for q, label in enumerate(base.quarters):
      asked = other.demand[workload].tokens_per_s[q]
      old = before[workload, q]
      new = after[workload, q]
      change = {
        place: new.get(place, (0.0, 0.0))[0] - old.get(place, (0.0, 0.0))[0]
        for place in dict.fromkeys((*old, *new))
      }
      change[_DEMAND] = -sum(change.values())
      least = _LEAST * max(asked, 1.0)
      leaves = {p: -c for p, c in change.items() if c < -least}
      arrives = {p: c for p, c in change.items() if c > least}
      whole = max(sum(leaves.values()), sum(arrives.values()))
      for source, lost in leaves.items():
        for target, gained in arrives.items():
          tokens = lost * gained / whole
          usd = after_usd.get((workload, *target, label), 0.0)
          usd -= before_usd.get((workload, *source, label), 0.0)
          yield Move(
            workload=workload,
            quarter=label,
            source=source,
            target=target,
            tokens_per_s=tokens,
            share=tokens / max(asked, 1e-30),
            accelerators=tokens * (_per(new, target) - _per(old, source)),
            extra_usd=usd * tokens,
            marginal_usd_per_Mtok=tuple(
              plan.demand[workload].marginal_usd_per_Mtok[q]
              for plan in (base, other)
            ),
          )


def _places(result: FleetResult) -> dict:
  """(workload, quarter) -> place -> (tokens/s, accelerators)."""
  found = {
    (name, q): {_UNMET: (demand.unmet_tokens_per_s[q], 0.0)}
    for name, demand in result.demand.items()
    for q in range(len(result.quarters))
  }
  for one in result.served:
    for q, tokens in enumerate(one.tokens_per_s):
      place = (one.part, one.variant)
      found[one.workload, q][place] = (tokens, one.accelerators[q])
  return found


def _per(places: dict, place: tuple[str, str]) -> float:
  """Accelerators for a token/s."""
  tokens, accelerators = places.get(place, (0.0, 0.0))
  return accelerators / tokens if tokens > 0 else 0.0


def _usd_per_token(result: FleetResult) -> dict:
  """(workload, part, variant, quarter) -> discounted USD of a token/s."""
  usd = result.account.by('workload', 'part', 'variant', 'quarter')
  places = _places(result)
  found = {}
  for (workload, part, variant, label), cost in usd.items():
    if workload in result.demand:
      q = result.quarters.index(label)
      tokens = places[workload, q].get((part, variant), (0.0, 0.0))[0]
      if tokens > 0:
        found[workload, part, variant, label] = cost / tokens
  return found
