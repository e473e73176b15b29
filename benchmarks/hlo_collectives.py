"""Bytes that a compiled program sends, read from its HLO.

Every collective counts what a ring sends from one device: (n - 1) / n of the
larger side of a gather or scatter among `n` ranks, twice that of an
all-reduce, (n - 1) / n of an all-to-all. Loops count as often as they run: the
trip count is in the text (GPU) or is the constant of the loop's condition
(TPU).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_SIZES = {
  'pred': 1, 's8': 1, 'u8': 1, 'f8e4m3fn': 1, 'f8e5m2': 1, 's16': 2, 'u16': 2,
  'f16': 2, 'bf16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8,
  'f64': 8,
}  # fmt: skip
_KINDS = (
  'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
  'collective-permute', 'ragged-all-to-all',
)  # fmt: skip
_SHAPE = re.compile(r'\b([a-z]+[0-9a-z]*)\[([0-9,]*)\]')
_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{')
_CALLED = re.compile(
  r'\b(?:calls|to_apply|body|condition|branch_computations|'
  r'called_computations)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)'
)
# A reduce-scatter that the compiler left as an all-reduce and a slice.
WIDENED = 'reduce-scatter as all-reduce'
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Collective(NamedTuple):
  """One collective of a program.

  Attributes:
    kind: such as 'all-gather'.
    payload_B: the larger of what goes in and comes out on a device [B].
    ranks: that take part.
    times: how often it runs in a step.
    name: where it comes from in the program.
  """

  kind: str
  payload_B: float
  ranks: int
  times: float
  name: str

  @property
  def sent_B(self) -> float:
    """Bytes that a device sends in a step [B]."""
    if self.kind == 'collective-permute':
      return self.times * self.payload_B
    share = (self.ranks - 1) / self.ranks
    passes = 2.0 if self.kind in ('all-reduce', WIDENED) else 1.0
    return self.times * passes * share * self.payload_B


def collectives_of(text: str, devices: int) -> list[Collective]:
  """All collectives of a scheduled program.

  Args:
    text: of the HLO module.
    devices: of the mesh, for groups that name none.
  """
  computations, entry = _computations(text)
  found: list[Collective] = []

  def walk(name: str, times: float) -> None:
    for line in computations.get(name, ()):
      if re.search(r'-(done|update)\(', line):
        continue  # names the computation of its start again
      one = _collective(line, devices, name, times)
      if one:
        if one.kind == 'all-reduce' and _scatters(line, computations):
          one = one._replace(kind=WIDENED)
        found.append(one)
      loop = _trips(line, computations) if ' while(' in line else 1.0
      for called in _called(line):
        walk(called, times * loop)

  walk(entry, 1.0)
  return found


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  computations: dict[str, list[str]] = {}
  entry, current = '', None
  for line in text.splitlines():
    head = _HEAD.match(line)
    if head:
      current = head[2]
      computations[current] = []
      entry = current if head[1] else entry
    elif line.startswith('}'):
      current = None
    elif current is not None:
      computations[current].append(line.strip())
  return computations, entry


def _called(line: str) -> Iterator[str]:
  for group in _CALLED.findall(line):
    for name in group.split(','):
      yield name.strip().removeprefix('%')


def _scatters(line: str, computations: dict[str, list[str]]) -> bool:
  """Whether an all-reduce was a reduce-scatter in the program."""
  reducer = re.search(r'to_apply=%([\w.\-]+)', line)
  lines = computations.get(reducer[1], ()) if reducer else ()
  return any('reduce_scatter' in text for text in lines)


def _trips(line: str, computations: dict[str, list[str]]) -> float:
  known = _TRIPS.search(line)
  if known:
    return float(known[1])
  condition = re.search(r'condition=%([\w.\-]+)', line)[1]
  constants = [
    int(n)
    for text in computations[condition]
    for n in re.findall(r's32\[\][^=]* constant\((\d+)\)', text)
  ]
  if not constants:
    raise ValueError(f'no trip count of: {line[:200]}')
  return float(max(constants))


def _collective(
  line: str, devices: int, computation: str, times: float
) -> Collective | None:
  found = re.match(r'(?:ROOT )?%[\w.\-]+ = (.*?) ([a-z\-]+)\(', line)
  if not found:
    return None
  kind = found[2].removesuffix('-start')
  if kind not in _KINDS:
    return None
  sizes = [_size_B(*shape) for shape in _SHAPE.findall(found[1])]
  ranks = _ranks(line, devices)
  payload_B = sum(sizes)
  if found[2] in (
    'all-gather-start',
    'reduce-scatter-start',
    'all-to-all-start',
  ):
    # The type is (in, out): the larger side counts.
    half = len(sizes) // 2
    payload_B = max(sum(sizes[:half]), sum(sizes[half:]))
  elif found[2] == 'collective-permute-start':
    payload_B = sizes[0]
  elif kind == 'reduce-scatter':
    payload_B *= ranks
  if kind == 'all-reduce' and 'all-reduce-scatter' in computation:
    kind = 'reduce-scatter'  # as the TPU compiler writes one
  source = re.search(r'op_name="([^"]*)"', line)
  return Collective(kind, payload_B, ranks, times, source[1] if source else '')


def _size_B(dtype: str, dimensions: str) -> float:
  size = float(_SIZES.get(dtype, 0))
  for n in dimensions.split(','):
    size *= int(n) if n else 1
  return size


def _ranks(line: str, devices: int) -> int:
  """Ranks of a group; the text has them in four forms."""
  listed = re.search(r'replica_groups=\{\{([0-9,]*)\}', line)
  if listed:
    return len(listed[1].split(','))
  iota = re.search(r'replica_groups=\[(\d+),(\d+)\]<=', line)
  if iota:
    return int(iota[2])
  mesh = re.search(
    r'replica_groups=mesh\[([^\]]*)\](?:, *device_ids=[^{]*)? *\{([^}]*)\}',
    line,
  )
  if mesh:
    sizes = dict(re.findall(r"'?(\w+)'?=(\d+)", mesh[1]))
    ranks = 1
    for axis in re.findall(r'\w+', mesh[2]):
      ranks *= int(sizes[axis])
    return ranks
  return devices
