"""Multipliers as values, and over which amounts they hold.

A multiplier is the slope of the cost at the plan. Where several plans cost the
same it is one of many between the slope for one more and the slope for one
fewer, and it holds only until another limit begins to bind: both are found by
solving again.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from diffmem.codesign.fleet import lp
from diffmem.codesign.fleet.account import in_service, pools_in_service
from diffmem.codesign.fleet.inputs import Inputs
from diffmem.codesign.fleet.result import Worth
from diffmem.codesign.fleet.supply import service

# Steps of a check, as shares of the amount that there is.
_STEPS = (1e-2, 0.05, 0.2)
# Slopes that differ by less are the same.
_SAME = 1e-4
# Multipliers below this share of the greatest of their kind are not reported.
_LEAST = 1e-9
# Steps are shares of at least so many units.
_LEAST_AMOUNT = 100.0
_KW = 1e3


class _Value(NamedTuple):
  """A value before it is checked.

  Attributes:
    worth: what is reported.
    family: of the limit.
    one: what one unit more adds to the family's limits [i, q].
    amount: how many units there are.
  """

  worth: Worth
  family: str
  one: np.ndarray
  amount: float

  @property
  def is_first(self) -> bool:
    """Whether there is none yet: its multiplier is one of many."""
    return self.amount == 0


def worth_of(
  programme: lp.Programme,
  inputs: Inputs,
  solution: lp.Solution,
  checked: int = 3,
) -> tuple[Worth, ...]:
  """All values that are not zero.

  Args:
    programme: that was solved.
    inputs: what it was made of.
    solution: its solution.
    checked: how many of each kind are checked by solving again; beside them
      those of which there is none yet.
  """
  found = list(_values(inputs, solution))
  answer = []
  for kind in dict.fromkeys(v.worth.kind for v in found):
    mine = [v for v in found if v.worth.kind == kind]
    mine.sort(key=lambda v: -v.worth.usd)
    least = _LEAST * mine[0].worth.usd
    kept = [v for v in mine if v.worth.usd > max(least, 1e-12)]
    answer += [
      _checked(programme, solution, v) if i < checked or v.is_first else v.worth
      for i, v in enumerate(kept)
    ]
  return tuple(answer)


def marginal_usd_per_Mtok(
  inputs: Inputs, solution: lp.Solution, quarter_s: float
) -> np.ndarray:
  """Cost of a million tokens more, in the quarter's money [workload, q]."""
  usd = solution.worth[lp.DEMAND] / inputs.discount
  return usd / (quarter_s / 1e6)


def _values(inputs: Inputs, solution: lp.Solution) -> Iterator[_Value]:
  yield from _parts(inputs, solution)
  yield from _pools(inputs, solution)
  yield from _soldered(inputs, solution)
  yield from _supplies(inputs, solution)
  worth = solution.worth[lp.POWER][0]
  for q, label in enumerate(inputs.labels):
    yield _Value(
      Worth('power', 'site', label, float(worth[q]) * _KW),
      lp.POWER, _one(worth[None, :].shape, 0, q) * _KW,
      inputs.power_W[q] / _KW,
    )  # fmt: skip
  for w, name in enumerate(inputs.workloads):
    for q, label in enumerate(inputs.labels):
      worth = solution.worth[lp.DEMAND]
      yield _Value(
        Worth('demand', name, label, float(worth[w, q])), lp.DEMAND,
        _one(worth.shape, w, q), inputs.demand_tps[w, q],
      )  # fmt: skip


def _parts(inputs: Inputs, solution: lp.Solution) -> Iterator[_Value]:
  n = len(inputs.labels)
  worth, there = solution.worth[lp.SERVICE], in_service(inputs, solution)
  paid = (inputs.part_payment + inputs.solder_payment.sum(1)) * lp.payments(
    inputs.part_life, inputs.discount
  )
  for p, name in enumerate(inputs.parts):
    serves = service(int(inputs.part_life[p]), n)
    for d, label in enumerate(inputs.labels):
      price = float(paid[p, d]) if d >= inputs.lead[p] else None
      one = np.zeros(worth.shape)
      one[p] = serves[d]
      usd = float(serves[d] @ worth[p])
      yield _Value(
        Worth('part', name, label, usd, price), lp.SERVICE, one, there[p, d]
      )


def _pools(inputs: Inputs, solution: lp.Solution) -> Iterator[_Value]:
  n = len(inputs.labels)
  worth = solution.worth[lp.POOL]
  there = pools_in_service(inputs, solution)
  for t, name in enumerate(inputs.pools):
    serves = service(int(inputs.pool_life[t]), n)
    for d, label in enumerate(inputs.labels):
      one = np.zeros(worth.shape)
      one[t] = serves[d]
      usd = float(serves[d] @ worth[t])
      yield _Value(Worth('memory', name, label, usd), lp.POOL, one, there[t, d])


def _soldered(inputs: Inputs, solution: lp.Solution) -> Iterator[_Value]:
  worth = solution.worth[lp.SOLDERED]
  for s, name in enumerate(inputs.soldered):
    for k, label in enumerate(inputs.labels):
      one = np.zeros(worth.shape)
      one[s, k:] = 1.0
      usd = float(worth[s, k:].sum())
      yield _Value(
        Worth('memory', name, label, usd), lp.SOLDERED, one,
        inputs.reserved_GB[s, k],
      )  # fmt: skip


def _supplies(inputs: Inputs, solution: lp.Solution) -> Iterator[_Value]:
  for family, kind, names, most in (
    (lp.PART_SUPPLY, 'part_supply', inputs.parts, inputs.part_limit),
    (lp.POOL_SUPPLY, 'memory_supply', inputs.pools, inputs.pool_limit),
    (lp.SOLDERED_SUPPLY, 'memory_supply', inputs.soldered, inputs.solder_limit),
  ):
    worth = solution.worth[family]
    for i, name in enumerate(names):
      for d, label in enumerate(inputs.labels):
        if most[i, d] > 0:  # before the lead time nothing can be delivered
          yield _Value(
            Worth(kind, name, label, float(worth[i, d])), family,
            _one(worth.shape, i, d), most[i, d],
          )  # fmt: skip


def _one(shape: tuple[int, ...], i: int, q: int) -> np.ndarray:
  one = np.zeros(shape)
  one[i, q] = 1.0
  return one


def _checked(
  programme: lp.Programme, solution: lp.Solution, value: _Value
) -> Worth:
  """The value with its slopes for more and for fewer."""
  amount = value.amount if np.isfinite(value.amount) else 0.0
  amount = max(amount, _LEAST_AMOUNT)
  sign = -1.0 if value.worth.kind == 'demand' else 1.0
  more, holds_to = _slope(programme, solution, value, amount, sign)
  fewer, holds_from = _slope(programme, solution, value, -amount, sign)
  return dataclasses.replace(
    value.worth,
    more_usd=more,
    fewer_usd=fewer,
    holds_to=holds_to,
    holds_from=holds_from,
  )


def _slope(
  programme: lp.Programme,
  solution: lp.Solution,
  value: _Value,
  amount: float,
  sign: float,
) -> tuple[float | None, float | None]:
  """Savings for one, and up to which amount; None where nothing is feasible."""
  slope, holds = None, None
  for step in _STEPS:
    units = step * amount
    found = lp.solve(programme, {value.family: units * value.one})
    if found is None:
      break
    usd = sign * (solution.value_usd - found.value_usd) / units
    if slope is None:
      slope = usd
    elif abs(usd - slope) > _SAME * max(abs(slope), abs(usd)):
      break
    holds = units
  return _float(slope), _float(holds)


def _float(value: float | None) -> float | None:
  return None if value is None else float(value)
