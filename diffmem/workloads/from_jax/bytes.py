"""Bytes that a block moves when elementwise chains fuse.

The model, which is that of XLA's loop fusion with nothing else:

* elementwise operations and concatenations that feed each other are one
  kernel: it reads what comes from outside once and writes what is used outside;
* a reduction ends the kernel that feeds it, and what needs its result starts
  another one;
* contractions, sorts, gathers and collectives are kernels of their own: they
  read their operands and write their results in memory;
* reshapes, transposes, broadcasts, iotas and constants cost nothing;
* updates of a part happen in place; a gather touches what it takes, and a slice
  is read where it lies.

Nothing is held in a cache between kernels: these are the bytes that kernels
ask for. A fused attention kernel is not found where the program writes its
scores out.
"""

import collections
import dataclasses

from diffmem.workloads.from_jax.blocks import Block, Operation, Value
from diffmem.workloads.from_jax.rules import NO_WORK, Work

_FUSIBLE = ('fusible', 'reduction')


@dataclasses.dataclass
class Tally:
  """What a scope and phase ask for.

  Attributes:
    work: arithmetic.
    flops: FLOPs of contractions, by number format of the operands.
    read_B: bytes read.
    write_B: bytes written.
    kernels: fused kernels.
  """

  work: Work = NO_WORK
  flops: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  read_B: float = 0.0
  write_B: float = 0.0
  kernels: float = 0.0


class Account:
  """Sums over blocks and loops.

  Attributes:
    tallies: by (scope, phase), in order of appearance.
    collectives: number by (name, scope, ranks, bytes of one device).
  """

  def __init__(self):
    self.tallies: dict[tuple[str, str], Tally] = {}
    self.collectives: collections.Counter = collections.Counter()

  def add(self, block: Block, trips: float = 1.0) -> list[float]:
    """Adds a block that runs `trips` times.

    Returns:
      Bytes that are read of each of the block's inputs [B].
    """
    of_value = collections.Counter()
    for operation in block.operations:
      self._arithmetic(operation, trips)
      if operation.block is not None:
        inner = self.add(operation.block, trips * operation.trips)
        for value, read_B in zip(operation.inputs, inner, strict=True):
          if value is not None:
            of_value[id(value.origin)] += read_B
    for kernel in _kernels(block):
      last = kernel.operations[-1]
      tally = self._tally(last)
      tally.kernels += trips
      tally.read_B += trips * sum(b for _, b in kernel.reads)
      tally.write_B += trips * sum(b for _, b in kernel.writes)
      for value, read_B in kernel.reads:
        of_value[id(value)] += trips * read_B
    return [of_value[id(v)] for v in block.inputs]

  def _arithmetic(self, operation: Operation, trips: float) -> None:
    if operation.kind == 'loop':
      return
    tally = self._tally(operation)
    tally.work = tally.work + operation.work.times(trips)
    if operation.dtype:
      tally.flops[operation.dtype] += trips * operation.work.matrix
    if operation.kind == 'collective':
      size_B = max(
        sum(b for _, b in operation.reads), sum(b for _, b in operation.writes)
      )
      key = (operation.name, operation.scope, operation.ranks, size_B)
      self.collectives[key] += trips

  def _tally(self, operation: Operation) -> Tally:
    key = (operation.scope, operation.phase)
    return self.tallies.setdefault(key, Tally())


@dataclasses.dataclass
class _Kernel:
  operations: list[Operation]
  reads: list[tuple[Value, float]]
  writes: list[tuple[Value, float]]


def _kernels(block: Block) -> list[_Kernel]:
  """Groups a block's operations; loops are left to their own blocks."""
  group = _groups(block)
  members = collections.defaultdict(list)
  for i, operation in enumerate(block.operations):
    members[group[i]].append(operation)
  users = collections.defaultdict(set)
  for i, operation in enumerate(block.operations):
    for value, _ in operation.reads:
      users[id(value.origin)].add(group[i])
  for value in block.outputs:
    if value is not None:
      users[id(value.origin)].add(None)  # outside of the block
  kernels = []
  for key, operations in members.items():
    if operations[0].kind == 'loop':
      continue
    made = {id(v.origin) for o in operations for v, _ in o.writes}
    in_place = operations[0].kind == 'update'
    reads, writes = {}, {}
    for operation in operations:
      for value, touched_B in operation.reads:
        if id(value.origin) not in made or in_place:
          before_B = reads.get(id(value), (value, 0.0))[1]
          reads[id(value)] = value, max(before_B, touched_B)
      for value, touched_B in operation.writes:
        if users[id(value.origin)] - {key} or in_place:
          writes[id(value)] = value, touched_B
    kernels.append(
      _Kernel(operations, _together(reads.values()), list(writes.values()))
    )
  return kernels


def _together(reads) -> list[tuple[Value, float]]:
  """Slices of one value added up, to no more than the whole."""
  total = {}
  for value, touched_B in reads:
    origin = value.origin
    before_B = total.get(id(origin), (origin, 0.0))[1]
    total[id(origin)] = origin, min(before_B + touched_B, origin.size_B)
  return list(total.values())


def _groups(block: Block) -> list[int]:
  """Index of the kernel that each operation is in.

  Operations fuse along an edge when both lie at the same depth, counted in
  results of reductions and of kernels on the longest way to them: no way
  leads out of such a group and back into it.
  """
  operations = block.operations
  maker = {}
  for i, operation in enumerate(operations):
    # What a reduction or a kernel makes is in memory.
    fuses = operation.kind == 'fusible'
    made = [id(v.origin) for v, _ in operation.writes]
    maker |= dict.fromkeys(made, i if fuses else None)
  depth = _depths(block)
  parent = list(range(len(operations)))

  def root(i: int) -> int:
    while parent[i] != i:
      parent[i] = parent[parent[i]]
      i = parent[i]
    return i

  for i, operation in enumerate(operations):
    if operation.kind not in _FUSIBLE:
      continue
    for value, _ in operation.reads:
      j = maker.get(id(value.origin))
      if j is not None and depth[j] == depth[i]:
        parent[root(i)] = root(j)
  return [root(i) for i in range(len(parent))]


def _depths(block: Block) -> list[int]:
  """Results of kernels before each operation, elementwise ones late."""
  operations = block.operations
  ready, depth = collections.Counter(), []
  for operation in operations:
    at = max((ready[id(v.origin)] for v, _ in operation.reads), default=0)
    depth.append(at)
    for value, _ in operation.writes:
      ready[id(value.origin)] = at + (0 if operation.kind == 'fusible' else 1)
  # Elementwise work that only later kernels need is done in them.
  kept = {id(v.origin) for v in block.outputs if v is not None}
  latest = {}
  for i in reversed(range(len(operations))):
    operation = operations[i]
    if operation.kind == 'fusible' and operation.writes:
      made = [id(v) for v, _ in operation.writes]
      users = [latest.get(v, (0, False)) for v in made]
      if not kept & set(made) and all(fuses for _, fuses in users):
        depth[i] = min(d for d, _ in users)
    for value, _ in operation.reads:
      before = latest.get(id(value.origin), (depth[i], True))
      fuses = operation.kind in _FUSIBLE and before[1]
      latest[id(value.origin)] = min(before[0], depth[i]), fuses
  return depth
