"""What a traced function asks for, and its demand on a system."""

import collections
import dataclasses
from collections.abc import Mapping

import numpy as np

from diffmem.cost import Demand, collective
from diffmem.system import System
from diffmem.workloads import choices as choices_lib

_COLLECTIVE = {
  'all_gather': collective.all_gather,
  'reduce_scatter': collective.reduce_scatter,
  'psum_scatter': collective.reduce_scatter,
  'all_to_all': collective.all_to_all,
  'ragged_all_to_all': collective.all_to_all,
  'ppermute': collective.send_recv,
}


@dataclasses.dataclass(frozen=True)
class Scope:
  """What the operations of one named scope ask for in one phase.

  Attributes:
    name: scopes joined by '/'; '' outside of all.
    phase: 'forward', 'backward' or 'recompute'.
    matrix_flops: FLOPs of contractions by number format of their operands.
    vector_flops: all others.
    transcendentals: evaluations of exp and the like.
    read_B: bytes read [B].
    write_B: bytes written [B].
    kernels: fused kernels.
  """

  name: str
  phase: str
  matrix_flops: Mapping[str, float]
  vector_flops: float
  transcendentals: float
  read_B: float
  write_B: float
  kernels: float

  @property
  def flops(self) -> float:
    """All FLOPs, transcendental functions not counted."""
    return sum(self.matrix_flops.values()) + self.vector_flops


@dataclasses.dataclass(frozen=True)
class Argument:
  """One array among the arguments.

  Attributes:
    path: such as "params['layers']['query']".
    group: 'weights', 'optimizer', 'gradients', 'kv_cache' or 'inputs'.
    size_B: its bytes [B].
    read_B: bytes of it that kernels read, again and again counted [B].
  """

  path: str
  group: str
  size_B: float
  read_B: float


@dataclasses.dataclass(frozen=True)
class Collective:
  """Collectives of one kind and size that the program names itself.

  Attributes:
    name: of the primitive.
    scope: where.
    ranks: devices of one group.
    payload_B: bytes of the larger of operand and result on one device [B].
    count: over all devices.
  """

  name: str
  scope: str
  ranks: float
  payload_B: float
  count: float


@dataclasses.dataclass(frozen=True)
class JaxWorkload:
  """What a traced function asks for, all devices together.

  Attributes:
    name: the function's.
    scopes: by named scope and phase.
    arguments: arrays that go in.
    output_B: bytes of the results [B].
    activations_B: bytes that the backward pass reads of what the forward pass
      left [B].
    collectives: those that the program names (`shard_map`).
    unknown: what could not be counted, with its scope.
  """

  name: str
  scopes: tuple[Scope, ...]
  arguments: tuple[Argument, ...]
  output_B: float
  activations_B: float
  collectives: tuple[Collective, ...]
  unknown: tuple[str, ...]

  @property
  def flops(self) -> float:
    """All FLOPs, as XLA counts them."""
    return sum(s.flops for s in self.scopes)

  @property
  def matrix_flops(self) -> dict[str, float]:
    """FLOPs of contractions by number format of their operands."""
    total = collections.Counter()
    for scope in self.scopes:
      total.update(scope.matrix_flops)
    return dict(total)

  @property
  def transcendentals(self) -> float:
    """Evaluations of exp and the like."""
    return sum(s.transcendentals for s in self.scopes)

  @property
  def read_B(self) -> float:
    """Bytes read [B]."""
    return sum(s.read_B for s in self.scopes)

  @property
  def write_B(self) -> float:
    """Bytes written [B]."""
    return sum(s.write_B for s in self.scopes)

  @property
  def group_B(self) -> dict[str, float]:
    """Bytes of the arguments by group, and 'activations' [B]."""
    total = collections.Counter()
    for argument in self.arguments:
      total[argument.group] += argument.size_B
    if self.activations_B:
      total['activations'] += self.activations_B
    return dict(total)

  def demand(
    self, system: System, *, dtype: str | None = None, chips: int = 1
  ) -> Demand:
    """The demand of one device, one operation per entry of `scopes`.

    Work and bytes are divided evenly over the chips, and live in the memory
    that the engines compute from. Collectives that the program names are laid
    over the innermost network levels. Operations are taken one after the
    other: `predict(system, demand).time_s.sum()` is the program's time.

    Args:
      system: the machine.
      dtype: number format of all products; None for each its own.
      chips: devices that share the program.

    Raises:
      SpecError: no memory, or no engine for a number format.
    """
    machine = choices_lib.machine_of(system, chips, dtype=dtype or 'float32')
    engines = {}
    for scope in self.scopes:
      for name in scope.matrix_flops:
        used = choices_lib.machine_of(system, chips, dtype=dtype or name)
        engines[name] = used.engine
    flops = {e: [0.0] * len(self.scopes) for e in engines.values()}
    for i, scope in enumerate(self.scopes):
      for name, value in scope.matrix_flops.items():
        flops[engines[name]][i] += value / chips
    vector = 'vector:float32'
    if vector in system.engine_names:
      row = flops.setdefault(vector, [0.0] * len(self.scopes))
      for i, scope in enumerate(self.scopes):
        row[i] += (scope.vector_flops + scope.transcendentals) / chips
    read_B = {machine.near: [s.read_B / chips for s in self.scopes]}
    write_B = {machine.near: [s.write_B / chips for s in self.scopes]}
    in_flight_B = {
      machine.near: [
        (s.read_B + s.write_B) / max(s.kernels, 1.0) for s in self.scopes
      ]
    }
    messages = {}
    for level, sent in self._traffic(machine, chips).items():
      read_B[level] = write_B[level] = [b for b, _ in sent]
      messages[level] = [m for _, m in sent]
    return Demand.of(
      system,
      read_B=read_B,
      write_B=write_B,
      in_flight_B=in_flight_B,
      messages=messages,
      flops=flops,
      launches=[1.0] + [0.0] * (len(self.scopes) - 1),
    )

  def _traffic(self, machine, chips) -> dict[str, list[tuple[float, float]]]:
    """Bytes and messages of one device by network level and scope."""
    names = [s.name for s in self.scopes]
    sent = {level: [(0.0, 0.0)] * len(names) for level in machine.levels}
    if not machine.levels:
      return sent
    spans = np.asarray(machine.spans, float)
    for c in self.collectives:
      ranks = collective.ranks_within(c.ranks, 1.0, spans)
      law = _COLLECTIVE.get(c.name, collective.all_reduce)
      traffic = law(c.payload_B, ranks).times(c.count / chips)
      at = names.index(c.scope)
      for i, level in enumerate(machine.levels):
        bytes_B, messages = sent[level][at]
        sent[level][at] = (
          bytes_B + float(traffic.sent_B[i]),
          messages + float(traffic.messages[i]),
        )
    return sent
