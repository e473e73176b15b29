"""Rows of the fleet's linear programme, one function for each kind of limit."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse

from diffmem.codesign.fleet.inputs import Inputs
from diffmem.codesign.fleet.supply import service

DEMAND, SERVICE, POOL, SOLDERED, POWER = (
  'demand', 'service', 'pool', 'soldered', 'power'
)  # fmt: skip
# Limits on single variables.
PART_SUPPLY, POOL_SUPPLY, SOLDERED_SUPPLY = (
  'part_supply', 'pool_supply', 'soldered_supply'
)  # fmt: skip
FAMILIES = (
  DEMAND, SERVICE, POOL, SOLDERED, POWER,
  PART_SUPPLY, POOL_SUPPLY, SOLDERED_SUPPLY,
)  # fmt: skip
# Units in which the solver sees numbers near one.
GB, W = 1e3, 1e3


class Limit(NamedTuple):
  """Where a family's limits stand.

  Attributes:
    at: rows, or variables for a supply [i, q]; -1 where there is no limit.
    scale: the limit's own unit for one of the solver's [i, q].
    sign: +1 where more of it helps, -1 for demand.
  """

  at: np.ndarray
  scale: np.ndarray
  sign: float = 1.0


# Name -> position of the first, and shape, of a block of variables.
Blocks = Mapping[str, tuple[int, tuple[int, ...]]]


def blocks_of(inputs: Inputs) -> tuple[Blocks, int]:
  """Where the variables x, u, o, m and n stand, and how many there are."""
  n = len(inputs.labels)
  shapes = {
    'x': (len(inputs.rates), n),
    'u': inputs.demand_tps.shape,
    'o': inputs.part_limit.shape,
    'm': inputs.pool_limit.shape,
    'n': inputs.solder_limit.shape,
  }
  blocks, first = {}, 0
  for name, shape in shapes.items():
    blocks[name] = (first, shape)
    first += int(np.prod(shape))
  return blocks, first


class Rows:
  """Rows of a sparse matrix as they come."""

  def __init__(self, size: int):
    self.size = size
    self.rhs: list[float] = []
    self._entries: list[tuple[int, np.ndarray, np.ndarray]] = []

  def add(self, entries, rhs: float, scale: float) -> int:
    """A row of (columns, values), divided by `scale`; its position."""
    row = len(self.rhs)
    for columns, values in entries:
      columns = np.atleast_1d(columns)
      values = np.broadcast_to(np.asarray(values, float), columns.shape)
      self._entries.append((row, columns, values / scale))
    self.rhs.append(rhs / scale)
    return row

  def matrix(self, unit: np.ndarray) -> scipy.sparse.csr_matrix:
    """The matrix for variables in the solver's units."""
    if not self._entries:
      return scipy.sparse.csr_matrix((len(self.rhs), self.size))
    rows = np.concatenate([np.full(len(c), r) for r, c, _ in self._entries])
    columns = np.concatenate([c for _, c, _ in self._entries])
    values = np.concatenate([v for _, _, v in self._entries])
    return scipy.sparse.csr_matrix(
      (values * unit[columns], (rows, columns)), (len(self.rhs), self.size)
    )


def _columns(block, *index) -> np.ndarray:
  first, shape = block
  return first + np.ravel_multi_index(np.broadcast_arrays(*index), shape)


def units(demand_tps: np.ndarray) -> np.ndarray:
  """Of each workload's tokens/s, its most [workload, 1]."""
  most = demand_tps.max(1, keepdims=True)
  return np.where(most > 0, most, 1.0)


def demand_rows(
  inputs: Inputs, rows: Rows, blocks: Blocks, unit: np.ndarray
) -> Limit:
  """What is served and unserved reaches the demand [workload, q]."""
  workloads, n = inputs.demand_tps.shape
  at = np.zeros((workloads, n), int)
  for w in range(workloads):
    mine = np.flatnonzero(inputs.rates[:, 0] == w)
    for q in range(n):
      at[w, q] = rows.add(
        [(_columns(blocks['x'], mine, q), -inputs.served_tps[mine]),
         (_columns(blocks['u'], w, q), -1.0)],
        -inputs.demand_tps[w, q],
        unit[w, 0],
      )  # fmt: skip
  return Limit(at, np.broadcast_to(unit, at.shape), -1.0)


def service_rows(inputs: Inputs, rows: Rows, blocks: Blocks) -> Limit:
  """No more parts work than serve [p, q]."""
  parts, n = inputs.installed.shape
  at = np.zeros((parts, n), int)
  for p in range(parts):
    mine = np.flatnonzero(inputs.rates[:, 1] == p)
    serves = service(int(inputs.part_life[p]), n)
    for q in range(n):
      d = np.flatnonzero(serves[:, q])
      at[p, q] = rows.add(
        [(_columns(blocks['x'], mine, q), 1.0),
         (_columns(blocks['o'], p, d), -1.0)],
        inputs.installed[p, q],
        1.0,
      )  # fmt: skip
  return Limit(at, np.ones(at.shape))


def pool_rows(inputs: Inputs, rows: Rows, blocks: Blocks) -> Limit:
  """No more of a pool is full than serves [t, q]."""
  pools, n = inputs.pool_limit.shape
  at = np.zeros((pools, n), int)
  users = np.arange(len(inputs.rates))
  for t in range(pools):
    serves = service(int(inputs.pool_life[t]), n)
    for q in range(n):
      d = np.flatnonzero(serves[:, q])
      at[t, q] = rows.add(
        [(_columns(blocks['x'], users, q), inputs.pool_GB[:, t]),
         (_columns(blocks['m'], t, d), -1.0)],
        inputs.pool_installed[t, q],
        GB,
      )  # fmt: skip
  return Limit(at, np.full(at.shape, GB))


def soldered_rows(inputs: Inputs, rows: Rows, blocks: Blocks) -> Limit:
  """GB built in up to each quarter; no row where all is free [s, q]."""
  kinds, n = inputs.solder_limit.shape
  at = np.full((kinds, n), -1)
  deliveries = np.arange(n)
  for s in range(kinds):
    reserved = np.cumsum(inputs.reserved_GB[s])
    if np.isinf(reserved).any():
      continue
    for q in range(n):
      entries = [(_columns(blocks['n'], s, deliveries[: q + 1]), -1.0)]
      for p in range(len(inputs.parts)):
        built = np.maximum(deliveries - inputs.assembly[p], 0) <= q
        entries.append(
          (_columns(blocks['o'], p, deliveries[built]), inputs.solder_GB[p, s])
        )
      at[s, q] = rows.add(entries, reserved[q], GB)
  return Limit(at, np.full(at.shape, GB))


def power_rows(inputs: Inputs, rows: Rows, blocks: Blocks) -> Limit:
  """All that works draws no more than the site has [1, q]."""
  n = len(inputs.labels)
  at = np.full((1, n), -1)
  users = np.arange(len(inputs.rates))
  for q in np.flatnonzero(np.isfinite(inputs.power_W)):
    entries = [(_columns(blocks['x'], users, q), inputs.site_W)]
    at[0, q] = rows.add(entries, inputs.power_W[q], W)
  return Limit(at, np.full(at.shape, W))
