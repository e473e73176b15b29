"""By when to order: what each quarter of waiting costs, by solving again."""

import numpy as np

from diffmem.codesign.fleet import lp
from diffmem.codesign.fleet.inputs import Inputs
from diffmem.codesign.fleet.result import Deadline
from diffmem.codesign.fleet.schema import quarter

# Waiting that costs less than this share of the plan costs nothing.
_NOTHING = 1e-7
# An order below this many parts or GB is the solver's rounding.
_LEAST = 1e-6


def deadlines_of(
  programme: lp.Programme, inputs: Inputs, solution: lp.Solution
) -> tuple[Deadline, ...]:
  """For each part and memory that can be ordered.

  Waiting by k quarters forbids deliveries in the first k quarters after the
  lead time. Where demand must be met, waiting may be impossible: None.
  """
  found = []
  for family, names, lead, orders in (
    (lp.PART_SUPPLY, inputs.parts, inputs.lead, solution.o),
    (lp.POOL_SUPPLY, inputs.pools, inputs.pool_lead, solution.m),
    (lp.SOLDERED_SUPPLY, inputs.soldered, inputs.solder_lead, solution.n),
  ):
    for i, name in enumerate(names):
      found.append(
        _deadline(programme, inputs, solution, family, i, name, lead[i], orders)
      )
  return tuple(found)


def _deadline(
  programme, inputs, solution, family, i, name, lead, orders
) -> Deadline:
  labels, lead = inputs.labels, int(lead)
  used = np.flatnonzero(orders[i] > _LEAST)
  waiting: dict[str, float | None] = {}
  latest = None
  if used.size:
    for begin in range(used[0] - lead, len(labels) - lead):
      extra = _waiting_usd(programme, solution, family, i, begin + lead)
      if begin >= 0:
        waiting[labels[begin]] = extra
      if extra is not None and extra <= _NOTHING * abs(solution.value_usd):
        latest = quarter(labels[0], begin)
  return Deadline(
    name=name,
    lead_quarters=lead,
    first_order=quarter(labels[0], int(used[0]) - lead) if used.size else None,
    first_service=labels[used[0]] if used.size else None,
    latest_order=latest,
    waiting_usd=waiting,
  )


def _waiting_usd(programme, solution, family, i, first: int) -> float | None:
  """Cost of no delivery before `first` [USD]; None where impossible."""
  limit = programme.limits[family]
  shape = limit.at.shape
  at = programme.blocks[_BLOCK[family]][0] + np.arange(
    int(np.prod(shape))
  ).reshape(shape)
  upper = programme.upper.copy()
  upper[at[i, :first]] = 0.0
  found = lp.solve(programme._replace(upper=upper))
  if found is None:
    return None
  return max(found.value_usd - solution.value_usd, 0.0)


_BLOCK = {lp.PART_SUPPLY: 'o', lp.POOL_SUPPLY: 'm', lp.SOLDERED_SUPPLY: 'n'}
