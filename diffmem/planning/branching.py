"""Spatial branch and bound over written shares: what closes the gap.

The bound of `diffmem.planning.cutting_planes` rests on lines below laws that
are not convex in the written share w / (r + w) of an operation and tier
(`diffmem.planning.minorant`). Between two shares that are close, a line is
close to its law: the error of a chord falls with the square of their distance.
So the set of placements is split (Falk and Soland, Management Science 15(9),
1969; Horst and Tuy, Global Optimization, 1996, chapter 4):

* a node is a box of shares; low (r + w) <= w <= high (r + w) is linear in the
  placement, because reads and writes are;
* the cutting planes of a node hold in its halves; new ones are made in them;
* the node with the least bound is split at its own solution, where the minorant
  leaves out most, until the least bound of all reaches the best value.

**What is proven** is as in `cutting_planes`: the bound of every node is made
from multipliers of planes, capacities and shares by weak duality, in float64.
"""

import heapq
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.planning import cutting_planes, minorant, model, programs
from diffmem.planning.cutting_planes import (
  Limits,
  Planes,
  Ranges,
  Relaxed,
  Solution,
)
from diffmem.planning.minorant import Box
from diffmem.planning.objective import Objective
from diffmem.system import System
from diffmem.workloads import Lowered, demand

TARGET_GAP = 5e-4
SECONDS = 1.0
_MOST_NODES = 400
_MOST_ROUNDS = 4  # of cutting planes in one node
_MOST_PLANES = 48  # cuts that a node hands on
# A node's cutting planes end when they are this share of its gap sharp.
_SHARP = 0.25
# A split keeps this share of the box on either side.
_LEAST_SIDE = 0.1
_LEAST_WIDTH = 1e-6


class Node(NamedTuple):
  """A box of written shares.

  Attributes:
    bound: no placement in the box is below it.
    box: the shares.
    planes: that hold in the box.
    placement: where the bound was reached [group, memory].
    missing: what the minorant leaves out there [op, tier].
  """

  bound: float
  box: Box
  planes: Planes
  placement: np.ndarray
  missing: np.ndarray


class Refined(NamedTuple):
  """What branch and bound found.

  Attributes:
    solution: as of `cutting_planes.solve`, with a bound that is no lower; its
      planes and prices are those that hold for all placements.
    nodes: boxes that were bounded.
    seconds: wall time.
  """

  solution: Solution
  nodes: int
  seconds: float


class _Moved(NamedTuple):
  """Bytes read and written, which are affine in the placement.

  Attributes:
    read_B: with every share zero [op, tier].
    write_B: the same of writes.
    per_read_B: per share [op, tier, group, memory].
    per_write_B: the same of writes.
  """

  read_B: np.ndarray
  write_B: np.ndarray
  per_read_B: np.ndarray
  per_write_B: np.ndarray

  def shares(self, placement: np.ndarray) -> np.ndarray:
    """Written shares of every operation and tier at a placement."""
    read_B = self.read_B + (self.per_read_B * placement).sum((-2, -1))
    write_B = self.write_B + (self.per_write_B * placement).sum((-2, -1))
    total_B = read_B + write_B
    return write_B / np.where(total_B > 0, total_B, 1.0)

  def ranges(self, box: Box, whole: Box) -> Ranges:
    """The box as rows that are linear in the placement, of a scale of one."""
    rows, limits = [], []
    for sign, ends, far in ((-1.0, box.low, whole.low),
                            (1.0, box.high, whole.high)):  # fmt: skip
      for op, tier in np.argwhere(sign * ends < sign * far):
        share = ends[op, tier]
        read_B, write_B = self.read_B[op, tier], self.write_B[op, tier]
        per_read_B = self.per_read_B[op, tier]
        per_write_B = self.per_write_B[op, tier]
        row = (1.0 - share) * per_write_B - share * per_read_B
        limit = share * read_B - (1.0 - share) * write_B
        scale_B = read_B + write_B + abs(per_read_B + per_write_B).sum()
        rows.append(sign * row / scale_B)
        limits.append(sign * limit / scale_B)
    shape = (-1, *self.per_read_B.shape[2:])
    return Ranges(np.reshape(rows, shape), np.array(limits))


def refine(
  system: System,
  lowered: Lowered,
  limits: Limits,
  solution: Solution,
  objective: Objective,
  target_gap: float = TARGET_GAP,
  seconds: float = SECONDS,
) -> Refined:
  """Raises the bound of a solved mesh, and lowers its value where it can.

  Args:
    system: the machine, numpy float64 leaves; x64 enabled.
    lowered: one plan, without plan axis.
    limits: its capacity rows.
    solution: from `cutting_planes.solve`.
    objective: what is minimised.
    target_gap: stop at this certified gap.
    seconds: stop after about so long.

  Returns:
    the solution with what is proven by then.
  """
  if solution.gap <= target_gap:
    return Refined(solution, 0, 0.0)

  def programme(planes: Planes, ranges: Ranges) -> Relaxed | None:
    return cutting_planes.relax(planes, limits, solution.value, ranges)

  tree = Tree(system, lowered, limits, objective, programme)
  tree.best, tree.value = solution.placement, solution.value
  bound = tree.grow(solution.planes, solution.bound, target_gap, seconds)
  return Refined(
    solution._replace(
      placement=tree.best,
      value=tree.value,
      bound=min(max(bound, solution.bound), tree.value),
    ),
    tree.nodes,
    tree.seconds,
  )


class Tree:
  """Open boxes by their bound, and the best placement found.

  Attributes:
    best: a placement within the limits, or None [group, memory].
    value: of it; infinite without one.
    nodes: boxes that were bounded.
    seconds: that it grew.
  """

  def __init__(
    self,
    system: System,
    lowered: Lowered,
    limits: Limits,
    objective: Objective,
    programme: Callable[[Planes, Ranges], Relaxed | None],
  ):
    """Describes a mesh; as `refine`, with the programme that bounds a box."""
    self._system, self._lowered, self._limits = system, lowered, limits
    self._objective, self._programme = objective, programme
    low, high, *moved = jax.device_get(_described(system, lowered))
    self._whole, self._moved = Box(low, high), _Moved(*moved)
    self.best, self.value = None, np.inf
    self.nodes, self.seconds = 0, 0.0

  def grow(
    self, planes: Planes, bound: float, target_gap: float, seconds: float
  ) -> float:
    """Splits boxes until the target, the time or the nodes are reached.

    Args:
      planes: that hold for all placements.
      bound: that holds for all placements.
      target_gap: stop at this certified gap.
      seconds: stop after about so long.

    Returns:
      the least bound of all boxes.
    """
    began, order, closed = time.monotonic(), itertools.count(), np.inf
    root = self._bounded(self._whole, planes, bound, target_gap)
    heap = [(root.bound, next(order), root)]
    while heap and self.nodes < _MOST_NODES:
      self.seconds = time.monotonic() - began
      is_done = heap[0][0] >= self.value * (1.0 - target_gap)
      if is_done or self.seconds > seconds:
        break
      node = heapq.heappop(heap)[-1]
      halves = self._split(node)
      if not halves:
        closed = min(closed, node.bound)
      for box in halves:
        child = self._bounded(
          box, node.planes, node.bound, target_gap, node.placement
        )
        heapq.heappush(heap, (child.bound, next(order), child))
    self.seconds = time.monotonic() - began
    return min([closed, *(b for b, _, _ in heap)])

  def _bounded(self, box, planes, bound, target_gap, at=None) -> Node:
    """Cutting planes in one box."""
    self.nodes += 1
    ranges = self._moved.ranges(box, self._whole)
    missing = np.zeros_like(box.low)
    if at is not None:
      planes, _ = self._tried(planes, box, at)
    for _ in range(_MOST_ROUNDS):
      found = self._programme(planes, ranges)
      if found is None:
        break
      bound = max(bound, found.bound)
      if bound >= self.value * (1.0 - target_gap):
        break
      at = found.placement
      planes = _most_used(planes, found.on_cuts)
      planes, cut = self._tried(planes, box, at)
      missing = cut.missing
      blunt = float(cut.parts.sum()) - found.bound
      if blunt <= _SHARP * (float(cut.value) - found.bound):
        break
    return Node(bound, box, planes, at, missing)

  def _tried(self, planes, box, at) -> tuple[Planes, model.Cut]:
    """One evaluation more: a plane for the box, perhaps a better placement."""
    cut = model.cut(self._system, self._lowered, at, self._objective, box)
    if cut.value < self.value and self._limits.holds(at):
      self.best, self.value = at, float(cut.value)
    return planes.with_cut(cut, at), cut

  def _split(self, node: Node) -> list[Box]:
    """Halves of a box, at the share where most is missing; none if nothing."""
    width = node.box.high - node.box.low
    missing = np.where(width > _LEAST_WIDTH, node.missing, 0.0)
    index = np.unravel_index(missing.argmax(), missing.shape)
    if missing[index] <= 0:
      return []
    low, high = node.box.low[index], node.box.high[index]
    side = _LEAST_SIDE * (high - low)
    share = self._moved.shares(node.placement)[index]
    middle = float(np.clip(share, low + side, high - side))
    below, above = node.box.high.copy(), node.box.low.copy()
    below[index], above[index] = middle, middle
    return [Box(node.box.low, below), Box(above, node.box.high)]


def _most_used(planes: Planes, on_cuts: np.ndarray) -> Planes:
  """The newest planes and those that bear the bound."""
  count = len(planes.offsets)
  if count <= _MOST_PLANES:
    return planes
  rank = np.where(on_cuts.max(1) > 0, count, np.arange(count))
  kept = np.sort(np.argsort(-rank, kind='stable')[:_MOST_PLANES])
  return Planes(planes.offsets[kept], planes.slopes[kept])


def _describe(system: System, lowered: Lowered):
  """Reachable shares, and the bytes that every memory group moves."""
  reach = minorant.reachable(system, lowered)
  shape = (lowered.size_B.shape[0], len(lowered.machine.memories))
  routes = np.eye(len(system.tiers))
  for i, tier in enumerate(system.tiers):
    if tier.via:
      routes[i, system.tier_names.index(tier.via)] = 1.0

  def moved(placement):
    found = demand(system, lowered, placement)
    return found.read_B @ routes, found.write_B @ routes

  nothing = jnp.zeros(shape)
  read_B, write_B = moved(nothing)
  per_read, per_write = jax.jacfwd(moved)(nothing)
  return *reach, read_B, write_B, per_read, per_write


_described = programs.Program(_describe, options=model.QUICK)
