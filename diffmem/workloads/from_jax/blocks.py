"""A jaxpr as blocks of operations: calls opened up, loops as blocks inside.

Calls (`jit`, `checkpoint`, custom derivatives) do not exist for
the compiler and are replaced by what is inside. A `scan` is one operation with
a block of its own and a number of trips, `shard_map` one that each device runs
on its shard; a `cond` is its dearest branch; a `while` runs an unknown number
of times. Operations whose results nobody uses
are left out, as the compiler does.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

from jax.extend import core

from diffmem.workloads.from_jax import rules

_WRAPPER = re.compile(r'(?:\w+)\(([^()]*)\)')
_REMAT = frozenset({'checkpoint', 'remat', 'remat2'})
_HIDDEN = _REMAT | {'rematted_computation'}


@dataclasses.dataclass(eq=False)
class Value:
  """Bytes in memory; views of the same bytes are the same value.

  Attributes:
    size_B: bytes.
    whole: of a slice, the value that it is a part of.
  """

  size_B: float
  whole: 'Value | None' = None

  @property
  def origin(self) -> 'Value':
    """The value that lies in memory."""
    return self.whole or self


@dataclasses.dataclass(eq=False)
class Operation:
  """One primitive, or a loop.

  Attributes:
    name: the primitive's.
    kind: how it may fuse, see `from_jax.rules`.
    scope: named scopes around it, joined by '/'.
    phase: 'forward', 'backward' or 'recompute'.
    work: its arithmetic; of a loop, none (the block has it).
    dtype: of a contraction's operands.
    reads: what it reads, with the bytes that it touches.
    writes: the same of what it makes.
    block: the body of a loop.
    inputs: of a loop, what stands for the body's inputs.
    trips: how often the body runs.
    ranks: of a collective.
  """

  name: str
  kind: str
  scope: str = ''
  phase: str = 'forward'
  work: rules.Work = rules.NO_WORK
  dtype: str = ''
  reads: list[tuple[Value, float]] = dataclasses.field(default_factory=list)
  writes: list[tuple[Value, float]] = dataclasses.field(default_factory=list)
  block: 'Block | None' = None
  inputs: 'list[Value | None]' = dataclasses.field(default_factory=list)
  trips: float = 1.0
  ranks: float = 1.0


@dataclasses.dataclass(eq=False)
class Block:
  """Operations in order.

  Attributes:
    operations: what runs.
    inputs: values from outside.
    outputs: values that leave; None for constants.
  """

  operations: list[Operation]
  inputs: list[Value]
  outputs: list[Value | None]


@dataclasses.dataclass(frozen=True)
class Place:
  """Where the walk is: scope, phase and mesh axes around an equation."""

  scope: str = ''
  phase: str = 'forward'
  axes: tuple[tuple[str, int], ...] = ()

  def inside(self, stack: str) -> 'Place':
    """Below a name stack such as 'transpose(jvp(mlp))'."""
    phase = self.phase
    if 'transpose(' in stack:
      phase = 'backward'
    if 'rematted_computation' in stack:
      phase = 'recompute'
    while _WRAPPER.search(stack):
      stack = _WRAPPER.sub(r'\1', stack)
    names = [n for n in stack.split('/') if n and n not in _HIDDEN]
    scope = '/'.join([*filter(None, [self.scope]), *names])
    return Place(scope, phase, self.axes)


class Walk:
  """Turns jaxprs into blocks and remembers what it could not count.

  Attributes:
    while_trips: how often a `while` is taken to run.
    unknown: what was not counted, with where it stands, and how often.
  """

  def __init__(self, while_trips: float = 1.0):
    self.while_trips = while_trips
    self.unknown: dict[tuple[str, str], int] = {}

  def block(self, jaxpr: core.Jaxpr, place: Place) -> Block:
    """A block of its own, with new values for its inputs."""
    inputs = [Value(rules.size_B(v.aval)) for v in jaxpr.invars]
    operations: list[Operation] = []
    outputs = self._inline(jaxpr, inputs, place, operations)
    block = Block(operations, inputs, outputs)
    _drop_unused(block)
    return block

  def _inline(
    self, jaxpr, inputs: Sequence[Value | None], place: Place, out: list
  ) -> list[Value | None]:
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= {v: Value(rules.size_B(v.aval)) for v in jaxpr.constvars}

    def value(atom):
      return None if isinstance(atom, core.Literal) else known[atom]

    for eqn in jaxpr.eqns:
      here = place.inside(str(eqn.source_info.name_stack))
      found = self._equation(eqn, [value(a) for a in eqn.invars], here, out)
      known |= dict(zip(eqn.outvars, found, strict=True))
    return [value(a) for a in jaxpr.outvars]

  def _equation(self, eqn, inputs, place, out) -> list[Value | None]:
    name = eqn.primitive.name
    if name == 'scan':
      body = self.block(eqn.params['jaxpr'].jaxpr, place)
      return self._loop(eqn, inputs, body, eqn.params['length'], place, out)
    if name == 'while':
      self._note('while: trips', place)
      body = self.block(eqn.params['body_jaxpr'].jaxpr, place)
      skip = eqn.params['cond_nconsts']
      return self._loop(eqn, inputs[skip:], body, self.while_trips, place, out)
    if name == 'cond':
      branches = [self.block(b.jaxpr, place) for b in eqn.params['branches']]
      body = max(branches, key=_cost)
      return self._loop(eqn, inputs[1:], body, 1.0, place, out)
    inner = _called(eqn)
    if inner is None or len(inner.invars) != len(inputs):
      return self._primitive(eqn, inputs, place, out)
    if name == 'shard_map':
      mesh = eqn.params['mesh']
      axes = tuple((a, mesh.shape[a]) for a in eqn.params['manual_axes'])
      body = self.block(inner, dataclasses.replace(place, axes=axes))
      devices = math.prod(size for _, size in axes)
      return self._loop(eqn, inputs, body, devices, place, out)
    if name in _REMAT and eqn.params.get('differentiated'):
      place = dataclasses.replace(place, phase='backward')
    return self._inline(inner, inputs, place, out)

  def _primitive(self, eqn, inputs, place, out) -> list[Value | None]:
    name = eqn.primitive.name
    kind = rules.KIND.get(name)
    if kind is None:
      if eqn.params.get('cost_estimate') is None:
        self._note(name, place)
      kind = 'kernel'
    if kind == 'view':
      return list(inputs[: len(eqn.outvars)])
    if kind == 'free' or (kind == 'window' and inputs[0] is None):
      return [None] * len(eqn.outvars)
    if kind == 'window':
      return [Value(rules.size_B(eqn.outvars[0].aval), inputs[0].origin)]
    results = [Value(rules.size_B(v.aval)) for v in eqn.outvars]
    operation = Operation(
      name, kind, place.scope, place.phase,
      work=rules.work_of(eqn),
    )  # fmt: skip
    if operation.work.matrix:
      operation.dtype = str(eqn.invars[0].aval.dtype)
    _touch(operation, eqn, inputs, results)
    if kind == 'collective':
      operation.ranks = _ranks(eqn.params, dict(place.axes))
    if kind == 'update' and inputs[0] is not None:
      results[0] = inputs[0]  # in place
    out.append(operation)
    return results

  def _loop(self, eqn, inputs, body, trips, place, out):
    results = [Value(rules.size_B(v.aval)) for v in eqn.outvars]
    operation = Operation(
      eqn.primitive.name, 'loop', place.scope, place.phase,
      block=body, inputs=list(inputs), trips=float(trips),
      reads=[(v, 0.0) for v in inputs if v is not None],
      writes=[(v, 0.0) for v in results],
    )  # fmt: skip
    out.append(operation)
    return results

  def _note(self, what: str, place: Place) -> None:
    key = (what, place.scope)
    self.unknown[key] = self.unknown.get(key, 0) + 1


def _touch(operation, eqn, inputs, results) -> None:
  """Bytes that a primitive touches of what it reads and makes."""
  outputs = [(v, v.size_B) for v in results]
  pairs = [(v, v.size_B) for v in inputs if v is not None]
  if operation.kind == 'gather':
    # Of the table only what comes out; the indices whole.
    pairs = [
      (v, results[0].size_B if i == 0 else v.size_B)
      for i, v in enumerate(inputs)
      if v is not None
    ]
  elif operation.kind == 'update':
    at = 1 if operation.name == 'dynamic_update_slice' else 2
    update_B = rules.size_B(eqn.invars[at].aval)
    # What is there already is read by scatters that add to it.
    base_B = update_B if operation.work.vector else 0.0
    pairs = [
      (v, base_B if i == 0 else v.size_B)
      for i, v in enumerate(inputs)
      if v is not None
    ]
    outputs = [(inputs[0] or results[0], update_B)]
  operation.reads, operation.writes = pairs, outputs


def _called(eqn) -> core.Jaxpr | None:
  """The inner jaxpr of a call, None for a primitive."""
  if eqn.primitive.name in ('pallas_call', 'custom_call', 'ffi_call'):
    return None
  for key in ('jaxpr', 'call_jaxpr', 'fun_jaxpr'):
    inner = eqn.params.get(key)
    if isinstance(inner, core.ClosedJaxpr):
      return inner.jaxpr
    if isinstance(inner, core.Jaxpr):
      return inner
  return None


def _ranks(params: dict, sizes: dict[str, int]) -> float:
  """Devices that take part in a collective."""
  axes = params.get('axes', params.get('axis_name', ()))
  axes = axes if isinstance(axes, (tuple, list)) else (axes,)
  return float(math.prod(sizes.get(a, 1) for a in axes))


def _cost(block: Block) -> float:
  total = 0.0
  for operation in block.operations:
    inner = _cost(operation.block) * operation.trips if operation.block else 0.0
    total += sum(operation.work) + inner
    total += sum(b for _, b in operation.writes) * 1e-3
  return total


def _drop_unused(block: Block) -> None:
  needed = {id(v.origin) for v in block.outputs if v is not None}
  needed |= {id(v) for v in block.inputs}
  kept = []
  for operation in reversed(block.operations):
    made = {id(v.origin) for v, _ in operation.writes}
    if not made or made & needed:
      needed |= {id(v.origin) for v, _ in operation.reads}
      kept.append(operation)
  block.operations[:] = kept[::-1]
