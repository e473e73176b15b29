"""Budgets: what a design, or a fleet of it, may not exceed.

    stacks=8            stacks beside the die
    phy area=120 mm2    interfaces on the die
    beachfront=66 mm    edge of the die that the stacks take
    board=700 W         power cap of the board
    power=1300 W        rated power, with the share of the host
    usd=45000           price of an accelerator with its memory, host and site
    HBM=192 GB          of one accelerator; DRAM, CXL, HBF, SSD the same
    HBM supply=200 TB   of all accelerators that the traffic keeps busy
    accelerators=1000   that it keeps busy
    site power=2 MW     that these draw, with the site's own

The first are functions of the design alone: a design is moved back into them
(`project`). The last three are of the fleet, which the best plans decide: they
are held by a price on what is short, which the plans pay too (a Lagrange
multiplier: Everett, Operations Research 11(3), 1963).
"""

import dataclasses
import difflib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diffmem import errors, units
from diffmem.codesign.designs import bill
from diffmem.codesign.designs.design import DesignSpace, Point

# Name -> unit of what is limited by the design alone, and by the fleet.
_OF_DESIGN = {
  'stacks': '1', 'phy area': 'mm2', 'beachfront': 'mm', 'board': 'W',
  'power': 'W', 'usd': 'USD', 'HBM': 'B', 'DRAM': 'B', 'CXL': 'B', 'HBF': 'B',
  'SSD': 'B',
}  # fmt: skip
_OF_FLEET = {
  'HBM supply': 'B', 'DRAM supply': 'B', 'CXL supply': 'B', 'HBF supply': 'B',
  'SSD supply': 'B', 'accelerators': '1', 'site power': 'W',
}  # fmt: skip
_HELD = {
  'HBM': ('stacks', 'stack_B'), 'DRAM': ('channels', 'channel_B'),
  'CXL': ('cxl_modules', 'cxl_module_B'), 'SSD': ('drives', 'drive_B'),
}  # fmt: skip
_EXAMPLES = {
  '1': '8', 'mm2': '120 mm2', 'mm': '66 mm', 'W': '1000 W', 'USD': '40000',
  'B': '200 TB',
}  # fmt: skip
_MONEY = re.compile(r'^\$?\s*([\d.]+(?:[eE]\d+)?)\s*([kM]?)\s*(?:USD|\$)?$')
_LENGTH = re.compile(r'^([\d.]+(?:[eE]\d+)?)\s*(mm2|mm)?$')
_SCALE = {'': 1.0, 'k': 1e3, 'M': 1e6}
_PROJECTION_STEPS = 20
_BISECTIONS = 40
_STEP = 1e-30


class Budget(NamedTuple):
  """One limit.

  Attributes:
    name: what is limited.
    limit: in `unit`.
    unit: SI, 'mm', 'mm2' or 'USD'.
    is_of_fleet: whether the plans decide how much is used.
  """

  name: str
  limit: float
  unit: str
  is_of_fleet: bool

  def shown(self, value: float) -> str:
    """A value of this budget, as people read it."""
    if self.unit == 'USD':
      return f'{value:,.0f} USD'
    if self.unit in ('mm', 'mm2'):
      return f'{value:.4g} {self.unit}'
    return units.format_si(value, self.unit)


def parse_budget(text: str) -> Budget:
  """Reads 'name=value' or 'name<=value'.

  Raises:
    SpecError: no such budget, with the nearest, or no positive value.

  Examples:
    >>> parse_budget('power=1 kW').limit
    1000.0
    >>> parse_budget('HBM supply<=200 TB').is_of_fleet
    True
    >>> parse_budget('usd=40k').limit
    40000.0
  """
  name, equals, value = (
    p.strip() for p in text.replace('<=', '=').partition('=')
  )
  known = _OF_DESIGN | _OF_FLEET
  found = {k.lower(): k for k in known}.get(name.lower())
  if found is None:
    near = difflib.get_close_matches(name, known, 1, 0.4)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    raise errors.SpecError(
      f'budget {text!r}: nothing is called {name!r}{hint} (there is '
      f'{", ".join(known)})'
    )
  unit = known[found]
  limit = _quantity(value, unit) if equals else None
  if limit is None or not 0 < limit < np.inf:
    raise errors.SpecError(
      f'budget {text!r}: found {value!r}; expected a positive quantity, such '
      f"as '{found}={_EXAMPLES[unit]}'"
    )
  return Budget(found, limit, unit, found in _OF_FLEET)


def parse_budgets(texts: Sequence[str]) -> tuple[Budget, ...]:
  """Reads several; SpecError where one is there twice."""
  found = tuple(parse_budget(text) for text in texts)
  names = [b.name for b in found]
  twice = sorted({n for n in names if names.count(n) > 1})
  if twice:
    raise errors.SpecError(f'budget {twice[0]!r} is there twice')
  return found


def _quantity(text: str, unit: str) -> float | None:
  if unit == 'USD':
    match = _MONEY.match(text)
    return float(match[1]) * _SCALE[match[2]] if match else None
  if unit in ('mm', 'mm2'):
    match = _LENGTH.match(text)
    return float(match[1]) if match and match[2] in (None, unit) else None
  try:
    return units.parse(text, unit)
  except errors.UnitError:
    return None


def used(space: DesignSpace, x: Point, name: str) -> Any:
  """What a design uses of a budget of its own [its unit]; differentiable.

  Args:
    space: base machine and kinds of parts.
    x: logarithms of the parameters [parameter].
    name: one of those that the design alone decides.
  """
  if name == 'stacks':
    return space.value(x, 'stacks') + space.value(x, 'hbf_stacks')
  if name == 'phy area':
    return bill.total(bill.phy_mm2(space, x))
  if name == 'beachfront':
    return bill.beachfront_mm(space, x)
  if name == 'board':
    return space.value(x, 'board_W')
  if name == 'power':
    return bill.total(bill.power_W(space, x))
  if name == 'usd':
    return bill.total(bill.bill(space, x))
  if name == 'HBF':
    size_B = 1e9 * space.parts.of('stacks', 'HBF').capacities_GB[0]
    return size_B * space.value(x, 'hbf_stacks')
  count, size = _HELD[name]
  return space.value(x, count) * space.value(x, size)


def used_each(space: DesignSpace, x: Point, name: str) -> Any:
  """What one busy accelerator uses of a fleet's budget [its unit].

  As many are owned as are busy, over the share of hours that they are used.
  Of 'site power' this is the host's part; the board's follows from the plans.
  """
  facility = space.prices.facility
  if name == 'site power':
    drawn = bill.power_W(space, x)
    host_W = bill.total(drawn) - drawn['board']
    return facility.energy_over_device_energy.value * host_W
  owned = 1.0 / facility.share_of_hours_used.value
  if name == 'accelerators':
    return owned + 0.0 * x[0]
  return owned * used(space, x, name.removesuffix(' supply'))


@dataclasses.dataclass(frozen=True, eq=False)
class Feasible:
  """The designs that keep the budgets of a design. Build with `feasible`.

  Attributes:
    space: base machine and kinds of parts.
    budgets: of the design alone.
  """

  space: DesignSpace
  budgets: tuple[Budget, ...]

  def overuse(
    self, x: Float[np.ndarray, ' parameter']
  ) -> tuple[np.ndarray, np.ndarray]:
    """ln(used / limit) of each budget [budget], and its slopes.

    Slopes by complex steps, which are exact (Squire and Trapp, SIAM Review
    40(1), 1998): there is nothing to compile, and projections ask often.
    """
    if not self.budgets:
      return np.zeros(0), np.zeros((0, len(x)))
    steps = x[:, None] + 1j * _STEP * np.eye(len(x))
    values, slopes = [], []
    for budget in self.budgets:
      value = used(self.space, x, budget.name)
      moved = np.broadcast_to(used(self.space, steps, budget.name), len(x))
      values.append(np.log(value / budget.limit))
      slopes.append(moved.imag / (_STEP * value))
    return np.array(values), np.array(slopes)

  def is_kept(
    self, x: Float[np.ndarray, ' parameter'], by: float = 1e-6
  ) -> bool:
    """Whether a design keeps all budgets and bounds, but for a little."""
    within = (x >= self.space.low - by) & (x <= self.space.high + by)
    return bool(within.all() and (self.overuse(x)[0] <= by).all())

  def project(
    self, x: Float[np.ndarray, ' parameter']
  ) -> Float[np.ndarray, ' parameter']:
    """The nearest design that keeps all budgets and bounds.

    Budgets are convex in the logarithms, so that there is one; found by
    repeated quadratic programs on their tangents.
    """
    low, high = self.space.low, self.space.high
    found = np.clip(x, low, high)
    if not self.budgets:
      return found
    for _ in range(_PROJECTION_STEPS):
      over, slopes = self.overuse(found)
      if (over <= 1e-9).all() and np.allclose(
        found, np.clip(x, low, high), atol=1e-12
      ):
        return found
      step = _nearest(x, low, high, slopes, slopes @ found - over)
      moved = np.abs(step - found).max()
      found = step
      if moved < 1e-7:
        break
    return self._pulled(found)

  def _pulled(self, x):
    """What is over by the last digits moves towards the smallest design."""
    low = self.space.low
    if (self.overuse(x)[0] <= 1e-9).all():
      return x
    inside, outside = 0.0, 1.0
    for _ in range(_BISECTIONS):
      half = 0.5 * (inside + outside)
      kept = (self.overuse(low + half * (x - low))[0] <= 1e-9).all()
      inside, outside = (half, outside) if kept else (inside, half)
    return low + inside * (x - low)

  def _refuse(self):
    """Says which budget even the smallest design exceeds."""
    over, _ = self.overuse(self.space.low)
    worst = int(np.argmax(over))
    budget = self.budgets[worst]
    least = float(np.exp(over[worst])) * budget.limit
    raise errors.PlanError(
      f'no design keeps {budget.name} = {budget.shown(budget.limit)}: the '
      f'smallest of this kit needs {budget.shown(least)}'
    )


def feasible(space: DesignSpace, budgets: Sequence[Budget]) -> Feasible:
  """The designs of a space within the budgets that a design alone decides.

  Raises:
    SpecError: a budget of something that the kit has not.
    PlanError: not even the smallest design keeps one of them.
  """
  for budget in budgets:
    if budget.name == 'site power':
      continue
    if not float(used_each(space, space.low, budget.name)) > 0:
      raise errors.SpecError(
        f'budget {budget.name!r}: the kit has no {budget.name.split()[0]}'
      )
  own = tuple(b for b in budgets if not b.is_of_fleet)
  found = Feasible(space, own)
  if own and (found.overuse(space.low)[0] > 1e-9).any():
    found._refuse()
  return found


def _nearest(x, low, high, rows, limits) -> np.ndarray:
  """The y nearest x with low <= y <= high and rows y <= limits.

  Least distance programming by non-negative least squares (Lawson and Hanson,
  Solving Least Squares Problems, 1974, chapter 23).
  """
  import scipy.optimize

  one = np.eye(len(x))
  sides = np.concatenate([one, -one, -rows])
  least = np.concatenate([low - x, x - high, rows @ x - limits])
  system = np.vstack([sides.T, least])
  target = np.append(np.zeros(len(x)), 1.0)
  m = scipy.optimize.nnls(system, target, maxiter=10 * len(target) ** 2)[0]
  residual = system @ m - target
  return np.clip(x - residual[:-1] / residual[-1], low, high)
