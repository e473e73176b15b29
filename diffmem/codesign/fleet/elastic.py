"""Why a fleet is infeasible, and what would do: limits that may give way.

The elastic programme of Chinneck (Feasibility and Infeasibility in
Optimization, 2008, chapter 6): slack in the rows at a cost, as little of it as
possible. First only demand may give way: that says what stays unserved. Then
one family of limits after the other: that says which of them, raised alone,
would do and by how much.
"""

import numpy as np
import scipy.sparse
from scipy import optimize

from diffmem.codesign.fleet import lp, rows
from diffmem.codesign.fleet.inputs import Inputs
from diffmem.codesign.fleet.result import Binding, Remedy

_UNITS = {
  lp.DEMAND: 'tokens/s', lp.SERVICE: 'parts', lp.POOL: 'GB', lp.SOLDERED: 'GB',
  lp.POWER: 'W', lp.PART_SUPPLY: 'parts', lp.POOL_SUPPLY: 'GB',
  lp.SOLDERED_SUPPLY: 'GB',
}  # fmt: skip
# Slack below this share of a row's scale is the solver's tolerance.
_LEAST = 1e-6


def unserved(programme: lp.Programme, inputs: Inputs) -> tuple[Binding, ...]:
  """The least demand that cannot be served, as shares of each workload's."""
  return _elastic(programme, inputs, lp.DEMAND) or ()


def remedies(programme: lp.Programme, inputs: Inputs) -> tuple[Remedy, ...]:
  """Families that, raised alone, make it feasible, with the least amounts."""
  found = []
  for family in rows.FAMILIES:
    if family == lp.DEMAND:
      continue
    amounts = _elastic(programme, inputs, family)
    if amounts:
      found.append(Remedy(family, amounts))
  return tuple(found)


def _elastic(
  programme: lp.Programme, inputs: Inputs, family: str
) -> tuple[Binding, ...] | None:
  """The least by which a family must give way; None where that cannot do."""
  limit = programme.limits[family]
  here = (limit.at >= 0) & _possible(inputs, family, limit.at.shape)
  if not here.any():
    return None
  slack = int(here.sum())
  bound = family.endswith('supply')
  matrix, rhs, upper = programme.matrix, programme.rhs, programme.upper
  if bound:  # z <= upper becomes a row of its own
    more = scipy.sparse.csr_matrix(
      (np.ones(slack), (np.arange(slack), limit.at[here])),
      (slack, matrix.shape[1]),
    )
    matrix = scipy.sparse.vstack([matrix, more])
    rhs = np.concatenate([rhs, upper[limit.at[here]]])
    upper = upper.copy()
    upper[limit.at[here]] = np.inf
    at = np.arange(matrix.shape[0] - slack, matrix.shape[0])
  else:
    at = limit.at[here]
  give = scipy.sparse.csr_matrix(
    (-np.ones(slack), (at, np.arange(slack))), (matrix.shape[0], slack)
  )
  cost = np.concatenate([np.zeros(len(upper)), np.ones(slack)])
  top = np.concatenate([upper, np.full(slack, np.inf)])
  found = optimize.linprog(
    cost, scipy.sparse.hstack([matrix, give]).tocsr(), rhs,
    bounds=np.stack([np.zeros_like(top), top], 1), method='highs-ds',
  )  # fmt: skip
  if found.status != 0:
    return None
  gives = found.x[len(upper) :]
  names = _names(inputs, family)
  return tuple(
    Binding(
      family, names[i], inputs.labels[q],
      float(lack * limit.scale[i, q]), _UNITS[family],
    )
    for (i, q), lack in zip(np.argwhere(here), gives, strict=True)
    if lack > _LEAST
  )  # fmt: skip


def _possible(
  inputs: Inputs, family: str, shape: tuple[int, ...]
) -> np.ndarray:
  """Whether more can be supplied in a quarter: not before the lead time."""
  leads = {
    lp.PART_SUPPLY: inputs.lead, lp.POOL_SUPPLY: inputs.pool_lead,
    lp.SOLDERED_SUPPLY: inputs.solder_lead,
  }  # fmt: skip
  if family not in leads:
    return np.ones(shape, bool)
  return np.arange(shape[1]) >= leads[family][:, None]


def _names(inputs: Inputs, family: str) -> tuple[str, ...]:
  return {
    lp.DEMAND: inputs.workloads, lp.SERVICE: inputs.parts,
    lp.POOL: inputs.pools, lp.SOLDERED: inputs.soldered, lp.POWER: ('site',),
    lp.PART_SUPPLY: inputs.parts, lp.POOL_SUPPLY: inputs.pools,
    lp.SOLDERED_SUPPLY: inputs.soldered,
  }[family]  # fmt: skip
