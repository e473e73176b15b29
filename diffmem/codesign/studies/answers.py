"""What if the memory were another: planned again, with odds and prices.

The mix is planned again on every changed machine; the intervals are those of
the paired difference over the fit's ensemble, at the plans that the best
estimate chose.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffmem.codesign.mixes.mix_optimum import MixOptimum, MixSolver, Rates
from diffmem.codesign.studies import value
from diffmem.codesign.studies.changed import change
from diffmem.codesign.studies.what_ifs import WhatIf
from diffmem.cost.prices import Prices, load_prices
from diffmem.planning.search import Progress
from diffmem.system import FittedSystem

_QUANTILES = (0.05, 0.95)


class Change(NamedTuple):
  """A relative change with its 90 % interval.

  Attributes:
    best: at the best estimate, 0.1 for 10 % more.
    low: 5 % quantile over the ensemble; None without one.
    high: 95 % quantile.
  """

  best: float
  low: float | None
  high: float | None


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a change brings.

  Attributes:
    name: of the change.
    about: one sentence.
    help: what it comes to, in one sentence.
    tokens_per_s: of as many accelerators.
    token_J: joules of a token.
    token_usd: dollars of a token, the price of the change included.
    pays: probability that a token costs less, at that price; None without an
      ensemble.
    extra_usd: what an accelerator costs more [USD].
    worth_usd: what it may cost more before a token costs the same [USD].
    extra_GB: memory that it has more; negative where it has less.
    worth_usd_per_GB: `worth_usd` for each GB of that, or what each GB less
      must save; None where it has as much.
    optimum: the best plans; None where a workload does not fit.
    missing: workloads that do not fit.
    late: workloads whose steps are longer than they may be (`tpot_s`).
  """

  name: str
  about: str
  help: str
  tokens_per_s: Change | None = None
  token_J: Change | None = None
  token_usd: Change | None = None
  pays: float | None = None
  extra_usd: float = 0.0
  worth_usd: float | None = None
  extra_GB: float = 0.0
  worth_usd_per_GB: float | None = None
  optimum: MixOptimum | None = None
  missing: tuple[str, ...] = ()
  late: tuple[str, ...] = ()

  def to_dict(self) -> dict[str, Any]:
    """Plain dictionaries and numbers, without the plans."""
    fields = {f.name for f in dataclasses.fields(self)} - {'optimum'}
    found = {name: getattr(self, name) for name in sorted(fields)}
    return {
      k: v._asdict() if isinstance(v, Change) else v for k, v in found.items()
    }


def ask(
  fitted: FittedSystem,
  solver: MixSolver,
  what_ifs: Sequence[WhatIf],
  rates: Rates,
  *,
  base: MixOptimum | None = None,
  prices: Prices | None = None,
  parts_of: str | None = None,
  seed: int = 0,
  on_progress: Progress | None = None,
) -> tuple[Answer, ...]:
  """Plans the mix again on every changed machine.

  Args:
    fitted: from `roomy`.
    solver: of the mix, made for `fitted.system`.
    what_ifs: changes.
    rates: what the machine costs as it is.
    base: best plans as it is; solved here where None.
    prices: energy and years of service; the shipped ones.
    parts_of: the accelerator whose inside is meant; by default the machine's.
    seed: of what is drawn of new parts.
    on_progress: called with a stage's name, how much is done and in all.

  Raises:
    SpecError: a machine whose inside is not in the parts file, or an unknown
      part or parameter.
  """
  prices = prices or load_prices()
  if base is None:
    base = solver.solve(fitted.system, rates)
  answers = []
  for i, one in enumerate(what_ifs):
    answers.append(
      _answer(fitted, solver, one, rates, base, prices, parts_of, seed)
    )
    if on_progress:
      on_progress('what-ifs', i + 1, len(what_ifs))
  return tuple(answers)


def _answer(fitted, solver, one, rates, base, prices, parts_of, seed):
  made = change(fitted, one, prices, parts_of, seed)
  life_s = value.used_s(prices)
  paid = Rates(
    rates.usd_per_s + made.extra_usd / life_s + made.extra_usd_per_s,
    rates.usd_per_J,
  )
  planned = functools.partial(
    solver.solve, made.system, paid, whole=True,
    homes=_homes(one, solver), phases=one.phases,
  )  # fmt: skip
  found = planned()
  late = found.missing
  if late:
    found = planned(may_be_late=True)
  if found.missing:
    return Answer(
      one.name, one.about,
      f'{", ".join(found.missing)}: fits on no mesh of its devices',
      extra_usd=made.extra_usd, extra_GB=made.extra_GB,
      missing=found.missing,
    )  # fmt: skip
  draws = None
  if made.ensemble is not None:
    draws = (
      value.draws(base, fitted.ensemble, rates),
      value.draws(found, made.ensemble, paid),
    )
  # The cost is concave in the price, so that this much is paid back at least.
  spared = (base.value - found.value) / found.accelerators
  worth_usd = made.extra_usd + spared * life_s
  per_GB = worth_usd / made.extra_GB if abs(made.extra_GB) > 0.1 else None
  token_usd = _changed(base.value, found.value, draws, 'value')
  pays = None
  if draws is not None:
    pays = float(np.mean(draws[1].value < draws[0].value))
  return Answer(
    name=one.name,
    about=one.about,
    help=_help(one.name, token_usd, pays, made.extra_usd, worth_usd, late),
    tokens_per_s=_changed(
      1.0 / base.accelerators, 1.0 / found.accelerators, draws, 'accelerators',
      -1.0,
    ),
    token_J=_changed(base.power_W, found.power_W, draws, 'power_W'),
    token_usd=token_usd,
    pays=pays,
    extra_usd=made.extra_usd,
    worth_usd=worth_usd,
    extra_GB=made.extra_GB,
    worth_usd_per_GB=per_GB,
    optimum=found,
    late=late,
  )  # fmt: skip


def _changed(before, after, draws, field, power=1.0) -> Change:
  if draws is None:
    return Change(after / before - 1.0, None, None)
  ratio = (getattr(draws[1], field) / getattr(draws[0], field)) ** power - 1.0
  low, high = np.quantile(ratio, _QUANTILES)
  return Change(after / before - 1.0, float(low), float(high))


def _help(name, token_usd, pays, extra_usd, worth_usd, late) -> str:
  change = 100 * token_usd.best
  said = f'{name}: a token costs {abs(change):.1f} % '
  said += 'more' if change > 0 else 'less'
  if extra_usd:
    said += f' at {extra_usd:+,.0f} USD an accelerator'
  if late:
    said += f' and {", ".join(late)} take longer than they may'
  if pays is not None:
    said += f'; it pays with probability {pays:.2f}'
  if worth_usd > 0:
    return f'{said}; up to {worth_usd:,.0f} USD more it would pay'
  return f'{said}; it pays only if it saves {-worth_usd:,.0f} USD'


def _homes(one: WhatIf, solver: MixSolver) -> dict[str, tuple[str, ...]]:
  homes = dict(one.homes)
  if 'weights' in homes:
    where = homes.pop('weights')
    homes |= dict.fromkeys(solver.weight_groups, where)
  return homes
