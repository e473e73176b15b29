"""A whole study of one machine and one mix: what a token costs, and why.

    fitted = checkpoint.load_system('checkpoints/h100-sxm')
    found = study(fitted, load_mix('mix.toml'))
    found.by_cost.per_token, found.worths[0], found.answers

Best plans by cost, time and energy; what each parameter is worth; where the
money goes; named what-ifs. `search_design` and `measure_next` take it further.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from diffmem import errors
from diffmem.codesign.designs import bill as bill_lib
from diffmem.codesign.designs import design
from diffmem.codesign.measuring.measure_next import Target
from diffmem.codesign.mixes.mix import Mix
from diffmem.codesign.mixes.mix_optimum import (
  MixOptimum,
  MixSolver,
  Rates,
  check_fits,
)
from diffmem.codesign.studies import answers as answers_lib
from diffmem.codesign.studies import mix_account, value
from diffmem.codesign.studies.answers import Answer
from diffmem.codesign.studies.changed import roomy
from diffmem.codesign.studies.mix_account import Accounts
from diffmem.codesign.studies.value import Worth
from diffmem.codesign.studies.what_ifs import WhatIf
from diffmem.cost.prices import Prices, load_prices
from diffmem.planning.search import Progress
from diffmem.system import FittedSystem

# Elasticities below this are of tiers that hold nothing.
_LEAST_SLOPE = 1e-9


@dataclasses.dataclass(frozen=True)
class Study:
  """What a machine costs a mix.

  Attributes:
    mix: workloads and traffic.
    fitted: the machine, as it was planned for.
    rates: what was paid.
    bill: price of an accelerator by part [USD]; None for rented ones.
    by_cost: best plans by cost.
    by_time: plans that need fewest accelerators.
    by_energy: plans that need fewest joules.
    worths: what every parameter is worth, the strongest first.
    accounts: where a token's dollars, joules and seconds go.
    answers: what-ifs.
    solver: of the mix, to ask more.
  """

  mix: Mix
  fitted: FittedSystem
  rates: Rates
  bill: Mapping[str, float] | None
  by_cost: MixOptimum
  by_time: MixOptimum
  by_energy: MixOptimum
  worths: tuple[Worth, ...]
  accounts: Accounts
  answers: tuple[Answer, ...]
  solver: MixSolver

  def to_dict(self) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers."""
    best = self.by_cost
    return {
      'system': self.fitted.system.name,
      'mix': self.mix.name,
      'tokens_per_s': best.tokens_per_s,
      'rates': self.rates._asdict(),
      'bill_usd': dict(self.bill) if self.bill else None,
      'usd_per_token': best.per_token,
      'usd_per_token_bound': best.bound / best.tokens_per_s,
      'accelerators': best.accelerators,
      'power_W': best.power_W,
      'least_accelerators': self.by_time.value,
      'least_power_W': self.by_energy.value,
      'workloads': [
        {
          'name': i.name,
          'rate_per_s': i.rate_per_s,
          'usd_per_unit': i.value / i.rate_per_s,
          'joule_per_unit': i.power_W / i.rate_per_s,
          'accelerators': i.accelerators,
          'step_time_s': i.step_time_s,
          'batch': i.batch,
          'mesh': dict(i.mesh),
          'placement': {g: dict(row) for g, row in i.placement.items()},
          'used_B': dict(i.used_B),
        }
        for i in best.items
      ],
      'worths': [w._asdict() for w in self.worths],
      'accounts': {
        name: [line._asdict() for line in lines]
        for name, lines in self.accounts._asdict().items()
      },
      'what_ifs': [a.to_dict() for a in self.answers],
    }


def study(
  fitted: FittedSystem,
  mix: Mix,
  *,
  usd_per_chip_hour: float | None = None,
  asked: Sequence[WhatIf] = (),
  parts_of: str | None = None,
  prices: Prices | None = None,
  on_progress: Progress | None = None,
) -> Study:
  """Plans a mix on a machine, and says what matters.

  Args:
    fitted: the machine; one with an ensemble gives intervals.
    mix: workloads and traffic.
    usd_per_chip_hour: rent, energy included; None for accelerators of one's
      own at the price of their parts.
    asked: what-ifs.
    parts_of: the accelerator of `parts.toml` whose inside is meant; the
      machine's own by default.
    prices: energy and years of service; the shipped ones.
    on_progress: called with a stage's name, how much is done and in all.

  Raises:
    PlanError: a workload that does not fit.
    SpecError: a machine whose parts are not known, where they are needed.
  """
  prices = prices or load_prices()
  rates, parts = _rates(fitted, usd_per_chip_hour, parts_of, prices)
  if asked:
    fitted = roomy(fitted)
  solver = MixSolver(mix, fitted.system, on_progress)
  by_cost = solver.solve(fitted.system, rates)
  check_fits(by_cost)
  by_time = solver.solve(fitted.system, Rates(1.0, 0.0))
  by_energy = solver.solve(fitted.system, Rates(0.0, 1.0))
  worths = value.worths(
    fitted.system, by_cost, by_time, by_energy, rates,
    ensemble=fitted.ensemble, prices=prices,
  )  # fmt: skip
  answers = answers_lib.ask(
    fitted, solver, asked, rates, base=by_cost, prices=prices,
    parts_of=parts_of, on_progress=on_progress,
  )  # fmt: skip
  return Study(
    mix, fitted, rates, parts, by_cost, by_time, by_energy, worths,
    mix_account.accounts_of(fitted.system, by_cost, rates, parts),
    answers, solver,
  )  # fmt: skip


def target_of(found: Study) -> Target:
  """The cost of a token, as a question for `measure_next`."""
  slopes = found.by_cost.elasticities()
  slopes = {name: e for name, e in slopes.items() if abs(e) > _LEAST_SLOPE}
  return Target(f'ln USD per token of {found.mix.name}', slopes)


def _rates(fitted, usd_per_chip_hour, parts_of, prices):
  """What is paid, and for which parts."""
  if usd_per_chip_hour is not None:
    if not usd_per_chip_hour > 0:
      raise errors.PlanError(
        f'usd_per_chip_hour = {usd_per_chip_hour!r}: expected more than 0'
      )
    return value.rented(usd_per_chip_hour), None
  space = design.design_space(fitted.system, machine=parts_of, prices=prices)
  lines = bill_lib.bill(space, space.origin)
  paid = bill_lib.rates(space, space.origin)
  parts = {part: float(usd) for part, usd in lines.items()}
  # What the host draws whatever the board does is paid by the hour.
  life_s = value.used_s(prices)
  parts['host energy'] = float(paid.usd_per_s) * life_s - sum(parts.values())
  return Rates(float(paid.usd_per_s), float(paid.usd_per_J)), parts
