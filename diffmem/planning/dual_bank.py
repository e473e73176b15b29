"""Bounds for every mesh of a space: what no placement of it can beat.

A mesh whose placement is not solved needs a bound from below. For one mesh the
cutting planes of `diffmem.planning.cutting_planes` give it; for thousands:

1. *Planes.* The convex minorant and its gradient at a few reference placements
   (everything near, everything in one far memory, the greedy one, mixtures),
   of many meshes in one compiled call. They hold for every placement.
2. *Bank.* By weak duality any non-negative multipliers, u of the planes with a
   sum of at most one per operation and v of the capacities, give a bound,

       f(x) >= sum u (offset + slope x) + sum v (weight x - room),

   whose least value over the simplices is a sum of minima. Multipliers that
   were optimal for one mesh are good for others alike: each entry of the bank
   is tried on every open mesh.
3. *Programmes.* The meshes that are still open and have the least bounds are
   solved: their linear programmes are the blocks of one, which HiGHS takes at
   about a millisecond each. Their multipliers join the bank, and so on.

A bound is evaluated from multipliers, in float64; it does not rest on the
solver. A block has a slack for its capacities, so that one mesh that does not
fit does not spoil the others: the multipliers of such a block still bound.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, sparse

from diffmem.planning import greedy as greedy_lib
from diffmem.planning import model, programs
from diffmem.planning.objective import Weights
from diffmem.planning.space import Space
from diffmem.planning.unrolled import minorant as unrolled_minorant
from diffmem.system import System
from diffmem.workloads import Choices

_BATCH = 256  # meshes of one compiled call
_CHUNK = 4096  # meshes whose planes are held at once
_BLOCKS = 256  # blocks of one linear programme
_JOIN = 8  # multipliers that join the bank from each programme
_BANK = 96  # multipliers that are kept, the newest
_SLACK_COST = 1e4  # in units of the best value, for a whole memory


class Planes(NamedTuple):
  """Supporting planes and capacities of many meshes.

  Attributes:
    offsets: [plan, cut, op].
    slopes: [plan, cut, op, group, memory].
    weight_B: bytes that a group takes of a memory [plan, group, memory].
    room_B: bytes that may be filled [plan, memory].
  """

  offsets: np.ndarray
  slopes: np.ndarray
  weight_B: np.ndarray
  room_B: np.ndarray

  def at(self, index: np.ndarray) -> 'Planes':
    """Some of the meshes."""
    return Planes(*(table[index] for table in self))


class Multipliers(NamedTuple):
  """Of many bounds.

  Attributes:
    on_cuts: at most one per operation [entry, cut, op].
    prices: of a byte of each memory [entry, memory].
  """

  on_cuts: np.ndarray
  prices: np.ndarray


def lower_bounds(
  system: System,
  job: model.Job,
  space: Space,
  wanted: np.ndarray,
  allowed: np.ndarray,
  target: float,
  on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
  """Bounds of the minimised sum; call it with x64 enabled.

  Args:
    system: the machine, numpy float64 leaves.
    job: what is planned.
    space: the configurations.
    wanted: indices of the configurations to bound.
    allowed: whether each group may live in each memory [group, memory].
    target: work on a mesh ends when its bound reaches this.
    on_progress: called with meshes done and in all.

  Returns:
    a bound for each of `wanted`.
  """
  bounds = np.zeros(len(wanted))
  bank = None
  for first in range(0, len(wanted), _CHUNK):
    chunk = wanted[first : first + _CHUNK]
    planes = planes_of(system, job, space, chunk)
    found, bank = _chunk_bounds(planes, allowed, target, bank)
    # Weights are positive: without room for the buffers nothing helps.
    found[(planes.room_B < 0).any(1)] = np.inf
    bounds[first : first + len(chunk)] = found
    if on_progress:
      on_progress(first + len(chunk), len(wanted))
  return bounds


def _chunk_bounds(planes, allowed, target, bank):
  """Bank and programmes in turn, until every bound is known or enough."""
  bounds = np.full(len(planes.offsets), -np.inf)
  if bank is not None:
    bounds = evaluate(planes, allowed, bank).max(1)
  is_open = bounds < target
  while is_open.any():
    index = np.flatnonzero(is_open)
    index = index[np.argsort(bounds[index], kind='stable')][:_BLOCKS]
    solved = planes.at(index)
    multipliers = programme(solved, allowed, target)
    bounds[index] = np.maximum(
      bounds[index], own_bounds(solved, allowed, multipliers)
    )
    is_open[index] = False
    bank = _join(bank, multipliers)
    index = np.flatnonzero(is_open)
    news = Multipliers(*(table[-_JOIN:] for table in bank))
    found = evaluate(planes.at(index), allowed, news).max(1, initial=-np.inf)
    bounds[index] = np.maximum(bounds[index], found)
    is_open &= bounds < target
  return bounds, bank


def _join(bank, found: Multipliers) -> Multipliers:
  """A spread of the new multipliers at the end of the bank."""
  spread = np.linspace(0, len(found.prices) - 1, _JOIN).astype(int)
  news = Multipliers(*(table[spread] for table in found))
  if bank is None:
    return news
  return Multipliers(
    *(np.concatenate(pair)[-_BANK:] for pair in zip(bank, news, strict=True))
  )


def evaluate(
  planes: Planes, allowed: np.ndarray, bank: Multipliers
) -> np.ndarray:
  """Bounds of every mesh from every entry of a bank [plan, entry]."""
  per_share = np.einsum(
    'eco,pcogm->pegm', bank.on_cuts, planes.slopes, optimize=True
  )
  per_share += planes.weight_B[:, None] * bank.prices[:, None]
  per_share = np.where(allowed, per_share, np.inf)
  constant = np.einsum('eco,pco->pe', bank.on_cuts, planes.offsets)
  constant -= planes.room_B @ bank.prices.T
  return constant + per_share.min(-1).sum(-1)


def own_bounds(
  planes: Planes, allowed: np.ndarray, multipliers: Multipliers
) -> np.ndarray:
  """Bounds of meshes from an entry for each [plan]."""
  per_share = np.einsum('pco,pcogm->pgm', multipliers.on_cuts, planes.slopes)
  per_share += planes.weight_B * multipliers.prices[:, None]
  per_share = np.where(allowed, per_share, np.inf)
  constant = (multipliers.on_cuts * planes.offsets).sum((1, 2))
  constant -= (planes.room_B * multipliers.prices).sum(1)
  return constant + per_share.min(-1).sum(-1)


def programme(planes: Planes, allowed: np.ndarray, scale: float) -> Multipliers:
  """The linear programmes of many meshes as one; multipliers of each."""
  n_plans, n_cuts, n_ops, n_groups, n_memories = planes.slopes.shape
  n = n_groups * n_memories
  width = n + n_ops + 1
  # Bytes in units of what there is, or of what is asked for.
  rooms_B = np.maximum(np.abs(planes.room_B), planes.weight_B.max(1))
  above = np.zeros((n_plans, n_cuts * n_ops + n_memories, width))
  above[:, : n_cuts * n_ops, :n] = planes.slopes.reshape(n_plans, -1, n) / scale
  above[:, : n_cuts * n_ops, n:-1] = -np.tile(np.eye(n_ops), (n_cuts, 1))
  for memory in range(n_memories):
    row = above[:, n_cuts * n_ops + memory]
    row[:, memory:n:n_memories] = planes.weight_B[:, :, memory]
    row[:, :n] /= rooms_B[:, memory, None]
    row[:, -1] = -1.0
  limits = np.ones((n_plans, above.shape[1]))
  limits[:, : n_cuts * n_ops] = -planes.offsets.reshape(n_plans, -1) / scale
  limits[:, n_cuts * n_ops :] = planes.room_B / rooms_B
  whole = np.zeros((n_groups, width))
  for group in range(n_groups):
    whole[group, group * n_memories : (group + 1) * n_memories] = 1.0
  cost = np.append(np.zeros(n), np.append(np.ones(n_ops), _SLACK_COST))
  upper = np.append(allowed.ravel().astype(float), np.full(n_ops + 1, np.inf))
  result = optimize.linprog(
    np.tile(cost, n_plans),
    A_ub=_block_diagonal(above),
    b_ub=limits.ravel(),
    A_eq=sparse.kron(sparse.eye(n_plans), whole, format='csr'),
    b_eq=np.ones(n_plans * n_groups),
    bounds=np.stack([np.zeros(width * n_plans), np.tile(upper, n_plans)], 1),
    method='highs',
  )
  if result.x is None:
    return Multipliers(
      np.zeros((n_plans, n_cuts, n_ops)), np.zeros((n_plans, n_memories))
    )
  found = np.maximum(-result.ineqlin.marginals, 0.0).reshape(n_plans, -1)
  on_cuts = found[:, : n_cuts * n_ops].reshape(n_plans, n_cuts, n_ops)
  return Multipliers(
    on_cuts / np.maximum(on_cuts.sum(1, keepdims=True), 1.0),
    found[:, n_cuts * n_ops :] * scale / rooms_B,
  )


def _block_diagonal(blocks: np.ndarray) -> sparse.csr_matrix:
  """[block, row, column] as one sparse matrix; zeros are left out."""
  block, row, column = np.nonzero(blocks)
  n_blocks, n_rows, n_columns = blocks.shape
  return sparse.csr_matrix(
    (
      blocks[block, row, column],
      (block * n_rows + row, block * n_columns + column),
    ),
    shape=(n_blocks * n_rows, n_blocks * n_columns),
  )


def planes_of(
  system: System, job: model.Job, space: Space, index: np.ndarray
) -> Planes:
  """Planes of some configurations."""
  batches = []
  for first in range(0, len(index), _BATCH):
    at = index[first : first + _BATCH]
    padded = np.concatenate([at, np.repeat(at[-1:], _BATCH - len(at))])
    choices = jax.tree.map(np.float64, space.at(padded))
    found = _planes(system, job.shape, job.objective.weights, choices)
    batches.append([np.asarray(x)[: len(at)] for x in found])
  return Planes(*(np.concatenate(t) for t in zip(*batches, strict=True)))


def _planes_at(
  system: System, job: model.Job, weights: Weights, choices: Choices
) -> Planes:
  """Planes at every reference placement; [plan, ...]."""
  lowered = model.lower(job, choices)
  allowed = job.allowed(lowered.groups)
  greedy = greedy_lib.place(system, lowered, allowed).placement

  def supports(x):
    found = unrolled_minorant.cuts(system, lowered, x, weights)
    offsets = found.parts - (found.slopes * x[:, None]).sum((2, 3))
    return offsets, found.slopes

  offsets, slopes = jax.lax.map(supports, _references(greedy))
  room_B = greedy_lib.capacities_B(system, job.machine)
  near_B = room_B[0] - lowered.fixed_B - lowered.fetch_B.sum(-1)
  far_B = jnp.broadcast_to(room_B[1:], (*near_B.shape, len(room_B) - 1))
  weight_B = jnp.repeat(lowered.size_B[..., None], len(room_B), -1)
  return Planes(
    jnp.moveaxis(offsets, 0, 1),
    jnp.moveaxis(slopes, 0, 1),
    weight_B.at[..., 0].add(-lowered.fetch_B),
    jnp.concatenate([near_B[..., None], far_B], -1),
  )


_planes = programs.Program(_planes_at, (1,), model.QUICK)


def _references(greedy: jax.Array) -> jax.Array:
  """Placements [reference, plan, group, memory] to make planes at."""
  n_memories = greedy.shape[-1]

  def everywhere(row):
    return jnp.broadcast_to(jnp.asarray(row)[None, None], greedy.shape)

  found = [everywhere(row) for row in np.eye(n_memories)] + [greedy]
  if n_memories > 1:
    fall = 0.4 ** np.arange(n_memories - 1)
    far = np.append(0.0, fall / fall.sum())
    away = greedy[..., 1:].sum(-1, keepdims=True)
    near = greedy * everywhere(np.eye(n_memories)[0])
    mixed = near + away * everywhere(far)
    half = everywhere(0.5 * np.eye(n_memories)[0] + 0.5 * far)
    found += [mixed, everywhere(far), half]
  return jnp.stack(found)
