"""The linear programme over quarters.

Variables, all at least zero:

    x[r, q]   accelerators at work on rate r = (workload, part, variant)
    u[w, q]   tokens/s that stay unserved
    o[p, d]   parts ordered for delivery in d, lead time earlier
    m[t, d]   GB of pools, and of soldered memory beyond what is reserved

Minimise the present value of payments for parts and memory in service, energy
and unserved tokens, subject to

    demand    sum_r rate_r x[r, q] + u[w, q] >= demand[w, q]
    service   sum_{r of p} x[r, q] <= installed[p, q] + o[p, d] still in service
    pool      sum_r GB[r, t] x[r, q] <= installed[t, q] + m[t, d] in service
    soldered  GB of all parts built up to q <= GB reserved and ordered up to q
    power     sum_r site_W_r x[r, q] <= power[q]
    and the suppliers' limits on o and m.

Multi-period capacity expansion as in Luss, Operations Research 30(5), 1982.
HiGHS solves it (Huangfu and Hall, Math. Program. Comput. 10, 2018). Each limit
has a multiplier: what one more unit of it saves.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse
from scipy import optimize

from diffmem import errors
from diffmem.codesign.fleet import rows as rows_lib
from diffmem.codesign.fleet.inputs import QUARTER_S, Inputs
from diffmem.codesign.fleet.rows import (
  DEMAND,
  PART_SUPPLY,
  POOL,
  POOL_SUPPLY,
  POWER,
  SERVICE,
  SOLDERED,
  SOLDERED_SUPPLY,
  Limit,
)
from diffmem.codesign.fleet.supply import service

_USD = 1e6  # in which the solver sees money near one


class Programme(NamedTuple):
  """Minimise `cost @ z + constant`, `matrix @ z <= rhs`, `0 <= z <= upper`.

  Attributes:
    cost: in 1e6 USD.
    matrix: sparse.
    rhs: right-hand sides.
    upper: of each variable.
    unit: of each variable's own unit for one of the solver's.
    blocks: name -> (first, shape) of the variables x, u, o, m and n.
    limits: family -> its limits.
    constant: payments that are decided already [USD].
  """

  cost: np.ndarray
  matrix: scipy.sparse.csr_matrix
  rhs: np.ndarray
  upper: np.ndarray
  unit: np.ndarray
  blocks: rows_lib.Blocks
  limits: Mapping[str, Limit]
  constant: float


class Solution(NamedTuple):
  """A solved programme; None instead of one where nothing is feasible.

  Attributes:
    value_usd: present value, decided payments included [USD].
    x: accelerators at work [r, q].
    u: unserved tokens/s [workload, q].
    o: parts delivered [p, d].
    m: GB of pools delivered [t, d].
    n: GB of soldered memory delivered beyond what was reserved [s, d].
    worth: family -> what one more unit saves [USD], for demand what one more
      costs [i, q].
  """

  value_usd: float
  x: np.ndarray
  u: np.ndarray
  o: np.ndarray
  m: np.ndarray
  n: np.ndarray
  worth: Mapping[str, np.ndarray]


def build(inputs: Inputs) -> Programme:
  """The programme of a fleet's arrays."""
  blocks, size = rows_lib.blocks_of(inputs)
  rows = rows_lib.Rows(size)
  demand_unit = rows_lib.units(inputs.demand_tps)
  limits = {
    DEMAND: rows_lib.demand_rows(inputs, rows, blocks, demand_unit),
    SERVICE: rows_lib.service_rows(inputs, rows, blocks),
    POOL: rows_lib.pool_rows(inputs, rows, blocks),
    SOLDERED: rows_lib.soldered_rows(inputs, rows, blocks),
    POWER: rows_lib.power_rows(inputs, rows, blocks),
  }
  cost, upper, unit = np.zeros(size), np.full(size, np.inf), np.ones(size)

  def fill(target, name, values):
    first, shape = blocks[name]
    flat = np.broadcast_to(values, shape).ravel()
    target[first : first + flat.size] = flat

  fill(unit, 'u', demand_unit)
  fill(unit, 'm', rows_lib.GB)
  fill(unit, 'n', rows_lib.GB)
  for name, usd in _costs(inputs).items():
    fill(cost, name, usd)
  fill(upper, 'u', np.where(np.isinf(inputs.unmet_usd), 0, np.inf)[:, None])
  for family, name, most in (
    (PART_SUPPLY, 'o', inputs.part_limit),
    (POOL_SUPPLY, 'm', inputs.pool_limit),
    (SOLDERED_SUPPLY, 'n', inputs.solder_limit),
  ):
    fill(upper, name, most)
    limits[family] = _bounds(blocks[name], unit, most)
  return Programme(
    cost=cost * unit / _USD,
    matrix=rows.matrix(unit),
    rhs=np.array(rows.rhs),
    upper=upper / unit,
    unit=unit,
    blocks=blocks,
    limits=limits,
    constant=float(_decided(inputs).sum()),
  )


def solve(
  programme: Programme, more: Mapping[str, np.ndarray] | None = None
) -> Solution | None:
  """Solves it, with more of some limits; None where nothing is feasible.

  Args:
    programme: from `build`.
    more: family -> what is added to its limits, in their own units [i, q].

  Raises:
    PlanError: the solver stopped for another reason.
  """
  rhs, upper = _with_more(programme, more or {})
  found = optimize.linprog(
    programme.cost, programme.matrix, rhs,
    bounds=np.stack([np.zeros_like(upper), upper], 1), method='highs-ds',
  )  # fmt: skip
  if found.status == 2:
    return None
  if found.status != 0:
    raise errors.PlanError(f'the fleet was not solved: {found.message}')
  z = np.maximum(found.x, 0.0) * programme.unit
  parts = {
    name: z[first : first + int(np.prod(shape))].reshape(shape)
    for name, (first, shape) in programme.blocks.items()
  }
  value = float(programme.cost @ (z / programme.unit)) * _USD
  return Solution(
    value_usd=value + programme.constant,
    worth=_worth(programme, found),
    **parts,
  )


def payments(life: np.ndarray, discount: np.ndarray) -> np.ndarray:
  """Present value of 1 USD in each quarter of service [i, d]."""
  n = len(discount)
  return np.array([service(int(one), n) @ discount for one in life]).reshape(
    len(life), n
  )


def _decided(inputs: Inputs) -> np.ndarray:
  """Present value of what contracted parts cost [p]."""
  paid = inputs.part_payment[:, 0] + inputs.solder_payment[:, :, 0].sum(1)
  worth = payments(inputs.part_life, inputs.discount)
  return paid * (inputs.contracted * worth).sum(1)


def _costs(inputs: Inputs) -> dict[str, np.ndarray]:
  """Present value of one unit of each variable [USD]."""
  energy = inputs.site_W[:, None] * (
    inputs.busy_share * QUARTER_S * inputs.energy_usd_per_J * inputs.discount
  )
  unmet = np.where(np.isinf(inputs.unmet_usd), 0.0, inputs.unmet_usd)
  order = np.arange(len(inputs.discount))[None, :] - inputs.solder_lead[:, None]
  at_order = inputs.discount[np.maximum(order, 0)]
  return {
    'x': energy,
    'u': unmet[:, None] * inputs.discount,
    'o': (inputs.part_payment + inputs.solder_payment.sum(1))
    * payments(inputs.part_life, inputs.discount),
    'm': inputs.pool_payment * payments(inputs.pool_life, inputs.discount),
    'n': inputs.reservation_usd * at_order,
  }


def _bounds(block, unit: np.ndarray, most: np.ndarray) -> Limit:
  first, shape = block
  at = first + np.arange(most.size).reshape(shape)
  return Limit(np.where(np.isfinite(most), at, -1), unit[at])


def _with_more(programme: Programme, more) -> tuple[np.ndarray, np.ndarray]:
  rhs, upper = programme.rhs.copy(), programme.upper.copy()
  for family, amounts in more.items():
    limit = programme.limits[family]
    here = limit.at >= 0
    changed = (limit.sign * np.broadcast_to(amounts, limit.at.shape))[here]
    target = upper if family.endswith('supply') else rhs
    np.add.at(target, limit.at[here], changed / limit.scale[here])
  return rhs, np.maximum(upper, 0.0)


def _worth(programme: Programme, found) -> dict[str, np.ndarray]:
  """Multipliers in USD for one more of each limit's own unit."""
  worth = {}
  for family, limit in programme.limits.items():
    bound = family.endswith('supply')
    raw = found.upper.marginals if bound else found.ineqlin.marginals
    taken = (
      raw[np.maximum(limit.at, 0)] if raw.size else np.zeros(limit.at.shape)
    )
    worth[family] = np.where(limit.at >= 0, -taken, 0.0) * _USD / limit.scale
  return worth
