"""The best memory system for a mix, within budgets, of parts that are sold.

    found = design_memory(
      fitted.system, mix, Kit(stack='HBM4'), parse_budgets(['usd=50000'])
    )

Joins the continuous search (`search_design`), the rounding to parts
(`buildable`), and a last search of all plans on what is to be built.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

from diffmem import errors, units
from diffmem.codesign.designs import bill, buildable, design, search_design
from diffmem.codesign.designs.budgets import Budget
from diffmem.codesign.designs.buildable import Built
from diffmem.codesign.designs.design import DesignSpace, Kit
from diffmem.codesign.designs.design_value import DesignValue
from diffmem.codesign.designs.search_design import DesignFound, SearchOptions
from diffmem.codesign.mixes.mix import Mix
from diffmem.codesign.mixes.mix_optimum import MixOptimum, MixSolver
from diffmem.planning.search import Progress
from diffmem.system import System

# Evaluations of designs of parts, for each of the continuous search.
_BUILT_SHARE = 0.5
# What one more of a budget is, where its unit is not what people count in.
_UNITS = {'B': ('GB', 1e9), '1': ('one', 1.0)}


@dataclasses.dataclass(frozen=True)
class DesignedMemory:
  """A memory system, and what it brings.

  Attributes:
    space: base machine and kinds of parts.
    limits: budgets.
    base: best plans on the base machine at the price of its parts.
    found: the continuous search.
    built: the design of parts that are sold; None where nothing was found.
    help: what came out, in one sentence.
  """

  space: DesignSpace
  limits: tuple[Budget, ...]
  base: MixOptimum
  found: DesignFound
  built: Built | None
  help: str

  @property
  def optimum(self) -> MixOptimum | None:
    """Best plans on what is to be built."""
    return self.built.detail if self.built else None

  def table(self) -> list[list[str]]:
    """Parameters and prices of base, continuous and built design, by text."""
    space = self.space
    points = [space.reference, self.found.x]
    points.append(self.built.x if self.built else None)
    rows = [['', 'as the base has it', 'best', 'best of parts']]
    for p in space.parameters:
      rows.append([f'{p.name} ({p.help})', *(
        '-' if x is None else units.format_si(float(space.value(x, p.name)),
                                              p.unit, 3)
        for x in points
      )])  # fmt: skip
    for what, total in (
      ('price, USD', bill.bill),
      ('rated power, W', bill.power_W),
    ):
      rows.append([what, *(
        '-' if x is None else f'{float(bill.total(total(space, x))):,.0f}'
        for x in points
      )])  # fmt: skip
    tokens = self.base.tokens_per_s
    values = [self.base.value, self.found.value]
    values.append(self.built.value if self.built else None)
    rows.append(['USD for a million tokens', *(
      '-' if v is None else f'{1e6 * v / tokens:.4g}' for v in values
    )])  # fmt: skip
    return rows

  def budget_table(self) -> list[list[str]]:
    """What each budget holds, and what more of it is worth, by text."""
    rows = [['budget', 'limit', 'used', 'one more saves, USD/year']]
    per_year = self.found.worth_per_year()
    for b in self.limits:
      used = self.found.used.get(b.name)
      unit, factor = _UNITS.get(b.unit, (b.unit, 1.0))
      rows.append([
        b.name, b.shown(b.limit), '-' if used is None else b.shown(used),
        f'{factor * per_year.get(b.name, 0.0):,.4g} per {unit}',
      ])  # fmt: skip
    return rows

  def to_dict(self) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers."""
    return {
      'help': self.help,
      'outcome': self.found.outcome,
      'base_value_usd_per_s': self.base.value,
      'continuous': dict(self.found.design),
      'continuous_value_usd_per_s': _finite(self.found.value),
      'worth_usd_per_year': self.found.worth_per_year(),
      'at_bounds': dict(self.found.at_bounds),
      'best_so_far_usd_per_s': [_finite(v) for v in self.found.best_so_far],
      'built': dict(self.built.design) if self.built else None,
      'built_value_usd_per_s': _finite(self.built.value)
      if self.built
      else None,
    }


def _finite(value: float) -> float | None:
  return float(value) if abs(value) < float('inf') else None


def design_memory(
  base: System,
  mix: Mix,
  kit: Kit | None = None,
  limits: Sequence[Budget] = (),
  *,
  machine: str | None = None,
  evaluations: int = 60,
  resume_path: str | os.PathLike | None = None,
  on_progress: Progress | None = None,
) -> DesignedMemory:
  """Finds the memory system on which a mix costs least.

  Args:
    base: the machine around whose die it is built.
    mix: workloads and traffic.
    kit: kinds of parts; those of the base where None.
    limits: budgets, from `budgets.parse_budgets`.
    machine: name of what is inside the base, in `parts.toml`; its own name.
    evaluations: most of the continuous search; half as many for the parts.
    resume_path: JSON file of the state, to go on after an interrupt.
    on_progress: called with a stage's name, how much is done and in all.

  Raises:
    PlanError: budgets that nothing can keep, or a mix that does not fit.
    SpecError: unknown parts.
  """
  limits = tuple(limits)
  space = design.design_space(base, kit, machine=machine)
  solver = MixSolver(mix, space.base, on_progress)
  plain = design.design_space(base, machine=machine)
  start = _on_base(solver, space, plain)
  value = DesignValue(space, solver.solve, limits)
  found = search_design.search_design(
    space, value, limits, options=SearchOptions(evaluations=evaluations),
    resume_path=resume_path, on_progress=on_progress,
  )  # fmt: skip
  built = None
  if found.x is not None:
    certify = DesignValue(
      space, functools.partial(solver.solve, whole=True), limits
    )
    built = buildable.build(
      space, value, found, limits, certify=certify,
      evaluations=max(int(_BUILT_SHARE * evaluations), 8),
      on_progress=on_progress,
    )  # fmt: skip
    built = built if built.x is not None else None
  return DesignedMemory(
    space, limits, start, found, built, _help(start, found, built)
  )


def _on_base(solver: MixSolver, space, plain) -> MixOptimum:
  """Best plans on the machine as it is, in the structure of the space."""
  held = {}
  for role in space.added:
    held[f'{space.tiers[role]}.capacity_B'] = 1.0
  system = space.base.with_values(held) if held else space.base
  found = solver.solve(system, bill.rates(plain, plain.origin))
  if found.missing:
    raise errors.PlanError(
      f'{", ".join(found.missing)}: does not fit on {plain.base.name} itself; '
      'give it more chips or smaller batches'
    )
  return found


def _help(start, found, built) -> str:
  if built is None:
    return found.help
  saved = 100 * (1.0 - built.value / start.value)
  return (
    f'{found.help}; of parts that are sold a token costs '
    f'{abs(saved):.1f} % {"less" if saved > 0 else "more"} than on the base, '
    f'and rounding to them costs {100 * max(built.loss, 0.0):.2g} %'
  )
