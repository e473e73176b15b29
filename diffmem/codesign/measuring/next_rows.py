"""Parts of the answer to what to measure next: rows, sets, what none tells."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffmem.codesign.measuring import candidates as candidates_lib
from diffmem.codesign.measuring import choosing
from diffmem.codesign.measuring.covariance import Covariance
from diffmem.planning.decisions import measurements
from diffmem.system import System, what_to_measure

_TELLS = 3
# Ops that one campaign runs together (`planning.decisions.measurements`).
_TOGETHER = {'copy': 'stream', 'triad': 'stream', 'stream_mix': 'stream'}
# Signal over noise of all rows together below which they say nothing of a
# parameter: its deviation would fall by less than half a percent.
_SAYS_NOTHING = 0.1


class NextRow(NamedTuple):
  """One row to measure.

  Attributes:
    text: for a person.
    op: operation of the trace schema.
    part: tier, or number format of a kernel.
    observable: 'time_s', or 'power_W' for a power window.
    working_set_B: bytes gone over repeatedly; None where it does not say.
    in_flight_B: load level; None where it does not say.
    read_share: of the bytes that it moves; None where it moves none.
    participants: threads at work.
    tells: parameters that it moves the decision by most.
    alone: share of the decision's interval that it takes off by itself.
    drop: the same after all rows before it.
    half_width90_after: half of the 90 % interval with it and those before.
    seconds: about how long it takes [s].
    probe: what measures it.
  """

  text: str
  op: str
  part: str
  observable: str
  working_set_B: float | None
  in_flight_B: float | None
  read_share: float | None
  participants: int
  tells: tuple[str, ...]
  alone: float
  drop: float
  half_width90_after: float
  seconds: float
  probe: Any

  def to_dict(self) -> dict[str, Any]:
    """Plain numbers and texts; the probe by its name."""
    return self._asdict() | {'probe': self.probe.name}


class RowSet(NamedTuple):
  """All rows of one op on one part.

  Attributes:
    op: operation, with those that one campaign runs together.
    part: tier, or number format of a kernel.
    observable: 'time_s' or 'power_W'.
    rows: how many.
    alone: share of the decision's interval that they take off together.
    seconds: about how long they take [s].
  """

  op: str
  part: str
  observable: str
  rows: int
  alone: float
  seconds: float


class Untold(NamedTuple):
  """A parameter of which no row says anything.

  Attributes:
    parameter: full name.
    share: of the decision's variance, by itself.
    sd: standard deviation of its leaf.
    how: what tells it instead.
  """

  parameter: str
  share: float
  sd: float
  how: str


def ranked(
  known: Covariance,
  question: np.ndarray,
  candidates: candidates_lib.Candidates,
  blocks: Sequence[choosing.Block],
  bought: Sequence[choosing.Bought],
) -> tuple[NextRow, ...]:
  """The rows of a greedy choice, with what each brings."""
  first = float(question @ known.matrix @ question)
  before = first
  found = []
  for index, variance in bought:
    row, block = candidates.rows[index], blocks[index]
    alone = choosing.variance_drop(known.matrix, question, block)
    columns = row.columns
    found.append(
      NextRow(
        text=_text(row),
        op=row.op,
        part=row.part,
        observable=row.observable,
        working_set_B=columns.get('working_set_bytes'),
        in_flight_B=columns.get('in_flight_bytes'),
        read_share=candidates_lib.read_share(row),
        participants=int(columns.get('participants', 1)),
        tells=_tells(known, question, block),
        alone=_narrower(first, first - alone, first),
        drop=_narrower(before, variance, first),
        half_width90_after=choosing.Z90 * float(np.sqrt(max(variance, 0.0))),
        seconds=row.seconds,
        probe=row.probe,
      )
    )
    before = variance
  return tuple(found)


def sets(
  known: Covariance,
  question: np.ndarray,
  candidates: candidates_lib.Candidates,
  blocks: Sequence[choosing.Block],
) -> tuple[RowSet, ...]:
  """Ops on parts, by what all their rows bring together."""
  groups: dict[tuple[str, str, str], list[int]] = {}
  for i, row in enumerate(candidates.rows):
    op = _TOGETHER.get(row.op, row.op)
    groups.setdefault((op, row.part, row.observable), []).append(i)
  first = float(question @ known.matrix @ question)
  if first <= 0:
    return ()
  found = []
  for key, members in groups.items():
    drop = choosing.variance_drop(
      known.matrix, question, choosing.joined([blocks[i] for i in members])
    )
    alone = _narrower(first, first - drop, first)
    if alone > choosing.LEAST_DROP:
      seconds = sum(candidates.rows[i].seconds for i in members)
      found.append(RowSet(*key, len(members), alone, seconds))
  return tuple(sorted(found, key=lambda s: -s.alone))


def untold(
  system: System,
  known: Covariance,
  question: np.ndarray,
  blocks: Sequence[choosing.Block],
) -> tuple[tuple[Untold, ...], float]:
  """Parameters of which no row says anything, and their share together.

  Together it is what stays of the variance if all others were known exactly.

  Args:
    system: the machine.
    known: covariance of the leaves.
    question: slopes of the decision [parameter].
    blocks: all candidates.
  """
  total = float(question @ known.matrix @ question)
  if total <= 0:
    return (), 0.0
  sd = np.sqrt(np.diag(known.matrix))
  every = choosing.joined(blocks)
  signal = np.linalg.norm(every.slopes * sd / every.noise[:, None], axis=0)
  told = signal > _SAYS_NOTHING
  given = known.matrix
  if told.any():
    across = known.matrix[:, told]
    inner = known.matrix[np.ix_(told, told)]
    given = known.matrix - across @ np.linalg.pinv(inner, hermitian=True) @ (
      across.T
    )
  together = float(question @ given @ question) / total
  found = [
    Untold(
      name,
      float((question[i] * sd[i]) ** 2 / total),
      float(sd[i]),
      _how(system, name),
    )
    for i, name in enumerate(known.names)
    if not told[i] and question[i] != 0.0
  ]
  found = [u for u in found if u.share > 1e-6]
  return tuple(sorted(found, key=lambda u: -u.share)), together


def _how(system: System, name: str) -> str:
  """What tells a parameter that no row of a collection tells."""
  measurement = measurements.measurement_of(system, name)
  if not measurement.op:
    return measurement.text
  return what_to_measure(system, name)


def _tells(known, question, block) -> tuple[str, ...]:
  """Parameters through which an observation speaks of the decision."""
  moved = np.abs(block.slopes).max(0) * np.abs(known.matrix @ question)
  order = np.argsort(-moved, kind='stable')[:_TELLS]
  return tuple(
    known.names[i] for i in order if moved[i] > 0.05 * moved[order[0]] > 0
  )


def _narrower(before: float, after: float, first: float) -> float:
  """Fall of the standard deviation over what it was at first."""
  return float(
    (np.sqrt(max(before, 0.0)) - np.sqrt(max(after, 0.0))) / np.sqrt(first)
  )


def _text(row: candidates_lib.Candidate) -> str:
  power = 'power_W of ' if row.observable == 'power_W' else ''
  part = f' on {row.part}' if row.columns.get('tier') else ''
  if not part and row.part:
    part = f' in {row.part}'
  size = candidates_lib.size_text(row)
  return f"{power}op '{row.op}'{part}" + (f', {size}' if size else '')
