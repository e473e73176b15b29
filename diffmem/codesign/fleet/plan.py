"""`plan_fleet`: a fleet under a scenario, solved, accounted and explained."""

import time
from collections.abc import Iterator

import numpy as np

from diffmem.codesign.fleet import deadlines as deadlines_lib
from diffmem.codesign.fleet import elastic, lp, scenarios
from diffmem.codesign.fleet import worth as worth_lib
from diffmem.codesign.fleet.account import (
  account_of,
  in_service,
  pools_in_service,
)
from diffmem.codesign.fleet.inputs import QUARTER_S, Inputs, inputs_of
from diffmem.codesign.fleet.result import (
  Binding,
  Demand,
  FleetOutcome,
  FleetResult,
  MemoryTimeline,
  PartTimeline,
  Remedy,
  Served,
  tuples,
)
from diffmem.codesign.fleet.schema import Fleet
from diffmem.cost import prices as prices_lib

# Work below this many accelerators in every quarter is the solver's rounding.
_LEAST = 1e-6


def plan_fleet(
  fleet: Fleet,
  scenario: str = scenarios.FLAT,
  *,
  prices: prices_lib.Prices | None = None,
  checked: int = 3,
  deadlines: bool = True,
) -> FleetResult:
  """Allocates, orders and prices a fleet.

  Args:
    fleet: with rates.
    scenario: name of a scenario, built in or the fleet's own.
    prices: of memory and energy, where the fleet has none of its own.
    checked: how many multipliers of each kind are checked by solving again.
    deadlines: whether the cost of waiting is computed.

  Returns:
    the plan; where demand cannot be met, `binding` and `remedies` say why.

  Raises:
    SpecError: a scenario or price that is missing, or a fleet without rates.
    PlanError: the solver failed.
  """
  began = time.monotonic()
  inputs = inputs_of(fleet, scenarios.scenario_of(fleet, scenario), prices)
  programme = lp.build(inputs)
  solution = lp.solve(programme)
  named = {
    'name': fleet.name, 'scenario': scenario, 'quarters': inputs.labels
  }  # fmt: skip
  if solution is None:
    binding = elastic.unserved(programme, inputs)
    remedies = elastic.remedies(programme, inputs)
    return FleetResult(
      outcome=FleetOutcome.INFEASIBLE,
      help=_refusal(binding, remedies),
      binding=binding,
      remedies=remedies,
      seconds=time.monotonic() - began,
      **named,
    )
  answer = {
    'worth': worth_lib.worth_of(programme, inputs, solution, checked),
    'deadlines': deadlines_lib.deadlines_of(programme, inputs, solution)
    if deadlines
    else (),
  }
  return FleetResult(
    outcome=FleetOutcome.PLANNED,
    help=_help(inputs, solution),
    present_usd=solution.value_usd,
    parts=_parts(inputs, solution),
    memories=_memories(inputs, solution),
    demand=_demand(inputs, solution),
    served=_served(inputs, solution),
    power_W=tuples(inputs.site_W @ solution.x),
    power_limit_W=tuples(inputs.power_W)
    if np.isfinite(inputs.power_W).all()
    else None,
    account=account_of(inputs, solution),
    seconds=time.monotonic() - began,
    **named,
    **answer,
  )


def _ordered(delivered: np.ndarray, lead: int) -> tuple[float, ...]:
  """Deliveries by the quarter of their order."""
  orders = np.zeros_like(delivered)
  orders[: max(len(orders) - lead, 0)] = delivered[lead:]
  return tuples(orders)


def _parts(inputs: Inputs, solution: lp.Solution) -> dict[str, PartTimeline]:
  there = in_service(inputs, solution)
  return {
    name: PartTimeline(
      lead_quarters=int(inputs.lead[p]),
      ordered=_ordered(solution.o[p], int(inputs.lead[p])),
      delivered=tuples(solution.o[p]),
      contracted=tuples(inputs.contracted[p]),
      in_service=tuples(there[p]),
      busy=tuples(solution.x[inputs.rates[:, 1] == p].sum(0)),
      price_usd=tuples(inputs.part_price_usd[p]),
    )
    for p, name in enumerate(inputs.parts)
  }


def _memories(
  inputs: Inputs, solution: lp.Solution
) -> dict[str, MemoryTimeline]:
  n = len(inputs.labels)
  found = {}
  there = in_service(inputs, solution)
  for s, name in enumerate(inputs.soldered):
    used = np.zeros(n)
    for p in range(len(inputs.parts)):
      built = np.maximum(np.arange(n) - inputs.assembly[p], 0)
      np.add.at(used, built, solution.o[p] * inputs.solder_GB[p, s])
    found[name] = MemoryTimeline(
      soldered=True,
      lead_quarters=int(inputs.solder_lead[s]),
      reserved_GB=tuples(np.nan_to_num(inputs.reserved_GB[s], posinf=0.0)),
      ordered_GB=_ordered(solution.n[s], int(inputs.solder_lead[s])),
      delivered_GB=tuples(solution.n[s]),
      used_GB=tuples(used),
      in_service_GB=tuples(inputs.solder_GB[:, s] @ there),
      usd_per_GB=tuples(inputs.memory_price_usd[name]),
    )
  pools = pools_in_service(inputs, solution)
  for t, name in enumerate(inputs.pools):
    found[name] = MemoryTimeline(
      soldered=False,
      lead_quarters=int(inputs.pool_lead[t]),
      reserved_GB=tuples(np.zeros(n)),
      ordered_GB=_ordered(solution.m[t], int(inputs.pool_lead[t])),
      delivered_GB=tuples(solution.m[t]),
      used_GB=tuples(inputs.pool_GB[:, t] @ solution.x),
      in_service_GB=tuples(pools[t]),
      usd_per_GB=tuples(inputs.memory_price_usd[name]),
    )
  return found


def _demand(inputs: Inputs, solution: lp.Solution) -> dict[str, Demand]:
  marginal = worth_lib.marginal_usd_per_Mtok(inputs, solution, QUARTER_S)
  return {
    name: Demand(
      tokens_per_s=tuples(inputs.demand_tps[w]),
      unmet_tokens_per_s=tuples(solution.u[w]),
      marginal_usd_per_Mtok=tuples(marginal[w]),
    )
    for w, name in enumerate(inputs.workloads)
  }


def _served(inputs: Inputs, solution: lp.Solution) -> tuple[Served, ...]:
  return tuple(
    Served(
      workload=inputs.workloads[w],
      part=inputs.parts[p],
      variant=inputs.variants[r],
      accelerators=tuples(solution.x[r]),
      tokens_per_s=tuples(solution.x[r] * inputs.served_tps[r]),
    )
    for r, (w, p) in enumerate(inputs.rates)
    if solution.x[r].max() > _LEAST
  )


def _help(inputs: Inputs, solution: lp.Solution) -> str:
  """What is scarce, in a sentence."""
  short = [
    f'{name} ({solution.u[w].sum() / inputs.demand_tps[w].sum():.1%})'
    for w, name in enumerate(inputs.workloads)
    if solution.u[w].sum() > 1e-6 * inputs.demand_tps[w].sum()
  ]
  unserved = f'Not all is served: {", ".join(short)}.' if short else (
    'All demand is served.'
  )  # fmt: skip
  scarce = list(_scarce(inputs, solution))
  if not scarce:
    return f'{unserved} Nothing but its cost limits the fleet.'
  return f'{unserved} What limits the fleet: {", ".join(scarce)}.'


def _scarce(inputs: Inputs, solution: lp.Solution) -> Iterator[str]:
  """Limits with a multiplier; before the lead time it is that which binds."""
  for i, name in enumerate(inputs.soldered):
    if _worth_something(solution.worth[lp.SOLDERED][i]):
      yield f'the {name} that is reserved'
  if _worth_something(solution.worth[lp.POWER][0]):
    yield 'the power of the site'
  for family, names, most in (
    (lp.PART_SUPPLY, inputs.parts, inputs.part_limit),
    (lp.POOL_SUPPLY, inputs.pools, inputs.pool_limit),
    (lp.SOLDERED_SUPPLY, inputs.soldered, inputs.solder_limit),
  ):
    for i, name in enumerate(names):
      worth = solution.worth[family][i]
      if _worth_something(worth[most[i] > 0]):
        yield f'the supply of {name}'
      if _worth_something(worth[most[i] == 0]):
        yield f'the lead time of {name}'


def _worth_something(worth: np.ndarray) -> bool:
  return bool((worth > 1e-6).any())


def _refusal(binding: tuple[Binding, ...], remedies: tuple[Remedy, ...]) -> str:
  """Which demand cannot be met, and what to change."""
  if not binding:
    return (
      'Nothing is feasible even without demand: contracted parts or retirement '
      'contradict each other.'
    )
  worst = max(binding, key=lambda b: b.lacks)
  text = (
    f'Demand that must be met cannot be: {worst.name} in {worst.quarter} lacks '
    f'{worst.lacks:.4g} {worst.unit}'
    + (f' ({len(binding)} such quarters).' if len(binding) > 1 else '.')
  )
  ways = [_way(r) for r in remedies]
  if not ways:
    return f'{text} No single limit, raised alone, would do.'
  return f'{text} Any one of these would do: {"; ".join(ways)}.'


def _way(remedy: Remedy) -> str:
  what = {
    lp.SERVICE: 'more parts in service', lp.POOL: 'more memory in service',
    lp.SOLDERED: 'more memory reserved by then', lp.POWER: 'more power',
    lp.PART_SUPPLY: 'more parts delivered', lp.POOL_SUPPLY: 'more memory '
    'delivered', lp.SOLDERED_SUPPLY: 'more memory ordered on top',
  }[remedy.limit]  # fmt: skip
  most = max(remedy.amounts, key=lambda b: b.lacks)
  more = len(remedy.amounts) - 1
  and_more = f' and {more} more' if more else ''
  return (
    f'{what} ({most.lacks:.4g} {most.unit} of {most.name} in '
    f'{most.quarter}{and_more})'
  )
