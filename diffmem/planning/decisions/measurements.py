"""Which measurement tells a parameter: an op of the trace schema on a part.

Parameters that one campaign tells together are one group: reads, writes and
bytes in flight of a memory all come out of `stream` and its relatives.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from diffmem.system import System, what_to_measure
from diffmem.traces.schema import OPS

_OPS = re.compile(r"'(\w+)'")
# Ops that one campaign runs together, under the name of the first.
_TOGETHER = {'copy': 'stream', 'triad': 'stream', 'stream_mix': 'stream'}
# Units of engines -> the op of the kernel table that times them.
_UNITS = {
  'matrix': 'gemm', 'vector': 'reduce', 'collective': 'all_reduce',
  'prefill': 'prefill_attention', 'decode': 'decode_attention',
}  # fmt: skip
# What `experiments.collect` runs, by platform (`diffmem.traces.collect`).
_ON_CPU = frozenset({
  'stream', 'pointer_chase', 'loaded_latency', 'random_read', 'gemm', 'reduce',
  'sequential_read', 'gemm_chain', 'stream_reduce',
})  # fmt: skip
_ON_GPU_MEMORY = frozenset({'stream', 'pointer_chase'})
_ON_GPU = frozenset({
  'gemm', 'cast', 'roofline', 'prefill_attention', 'decode_attention', 'idle',
})  # fmt: skip
_GPU_FORMATS = ('bfloat16', 'float16', 'float32', 'float8')
_TABLE = 'a table of your own through experiments.import_traces'
_CPU = 'experiments.collect'
_GPU = 'experiments.collect --platform=gpu'
# A machine with more compute units than this is an accelerator.
_GPU_UNITS = 8


class Measurement(NamedTuple):
  """What would be measured; hashable.

  Attributes:
    op: operation of the trace schema; '' where none tells.
    part: tier, number format or kernel family; '' for the whole machine.
    observable: 'time_s', or 'power_W' where the board's power is what tells.
    tool: the program that runs or reads it; '' where none does.
  """

  op: str
  part: str
  observable: str
  tool: str

  @property
  def text(self) -> str:
    """For a person: "op 'stream' on HBM"."""
    if not self.op:
      return f'the data sheet or maker of {self.part or "the machine"}'
    power = 'power_W of ' if self.observable == 'power_W' else ''
    return f"{power}op '{self.op}'" + (f' on {self.part}' if self.part else '')


def measurement_of(system: System, name: str) -> Measurement:
  """The measurement that tells a parameter.

  Args:
    system: the machine.
    name: full name of the parameter, such as 'HBM.read_Bps'.

  Raises:
    SpecError: a parameter of a part that the system lacks.
  """
  part, _, parameter = name.rpartition('.')
  said = what_to_measure(system, name)
  observable = 'power_W' if 'power_W' in said else 'time_s'
  op = _op_of(system, part, said)
  if part in system.engine_names:
    unit, _, part = part.partition(':')
    op = _UNITS.get(unit, unit if unit in OPS else op)
  elif part == 'system':
    part = ''
    op = op or ('idle' if parameter == 'static_W' else '')
  if not op:
    return Measurement('', part, observable, '')
  return Measurement(op, part, observable, _tool(system, op, part, observable))


def grouped(
  system: System, names: Iterable[str]
) -> dict[Measurement, list[str]]:
  """Measurement -> the parameters that it tells, in their order."""
  groups = {}
  for name in names:
    groups.setdefault(measurement_of(system, name), []).append(name)
  return groups


def _op_of(system: System, part: str, said: str) -> str:
  found = _OPS.search(said)
  if not found:
    return ''
  if part in system.tier_names and system.tier(part).link:
    # A link is told by what is sent over it, whatever the text calls it; one
    # to a memory by copies.
    return 'send_recv' if system.tier(part).span > 1 else 'copy'
  return _TOGETHER.get(found[1], found[1])


def _tool(system: System, op: str, part: str, observable: str) -> str:
  """The first of this machine's, the host's and other tools that has it."""
  is_tier = part in system.tier_names
  # What lies behind a link belongs to the host, which runs the CPU's probes.
  on_host = is_tier and bool(system.tier(part).via)
  if system.compute_units > _GPU_UNITS and not on_host:
    if is_tier:
      known = op == 'copy' or op in _ON_GPU_MEMORY
    else:
      known = op in _ON_GPU and part in ('', *_GPU_FORMATS)
    return _GPU if known else _TABLE
  return _CPU if op in _ON_CPU and observable == 'time_s' else _TABLE
