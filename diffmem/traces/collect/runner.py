"""Runs probes in spread-out passes and keeps whatever was measured."""

import dataclasses
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from diffmem.traces.collect import disk, memory, programs
from diffmem.traces.collect import journal as journal_lib
from diffmem.traces.collect import machine as machine_lib
from diffmem.traces.collect import session as session_lib

Row = dict[str, Any]
_WARM_UP_S = 0.3
_LONGEST_REASON = 300  # characters; XLA's can be pages


class Probe(Protocol):
  """Knows how to measure one row. Frozen, hashable; holds no resources."""

  group: str | None  # probes of one group stay together within a pass
  stride: int  # takes part in every stride-th pass

  @property
  def name(self) -> str:
    """Unique name, for people."""

  def measure(self, session: session_lib.Session, repeats: int) -> list[Any]:
    """Some more repeats."""

  def row(self, session: session_lib.Session, visits: list[list[Any]]) -> Row:
    """The trace row of all repeats so far, one list per visit."""


@dataclasses.dataclass(frozen=True)
class Progress:
  """Told before each measurement.

  Attributes:
    name: The probe that comes now.
    index: How many measurements are done.
    total: How many there will be, over all passes.
    eta_s: Expected seconds to the end.
  """

  name: str
  index: int
  total: int
  eta_s: float


@dataclasses.dataclass(frozen=True)
class Failure:
  """A probe that could not be measured, and why."""

  name: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Result:
  """What a run brought home.

  Attributes:
    rows: One per measured probe, in the order of the probes.
    failures: Probes that failed or do not apply here.
    missing: Names of probes that were never reached.
    interrupted: Whether the user stopped the run (Ctrl-C).
    deadline_reached: Whether time ran out before the last pass ended.
    elapsed_s: Wall time of the run.
  """

  rows: list[Row]
  failures: list[Failure]
  missing: list[str]
  interrupted: bool
  deadline_reached: bool
  elapsed_s: float


def cpu_probes(
  options: session_lib.Options | None = None,
  machine: machine_lib.Machine | None = None,
) -> list[Probe]:
  """Fit data for this machine: memory, disk, and small JAX programs."""
  options = options or session_lib.Options()
  machine = machine or machine_lib.describe()
  probes = [*memory.memory_probes(options, machine), *disk.disk_probes(options)]
  if options.programs:
    probes += programs.program_probes(options, machine)
  return probes


def run_probes(
  probes: Sequence[Probe],
  options: session_lib.Options | None = None,
  *,
  on_row: Callable[[Row], None] | None = None,
  on_progress: Callable[[Progress], None] | None = None,
  deadline_s: float | None = None,
  machine: machine_lib.Machine | None = None,
  session: Any = None,
  group_deadline_s: Mapping[str, float] | None = None,
  journal: journal_lib.Journal | None = None,
) -> Result:
  """Measures the probes; Ctrl-C ends early and keeps every row so far.

  Each pass visits all probes in a new order, so that drift and bursts of
  noise do not look like an effect of the working set.

  Args:
    probes: What to measure, in the order of the report.
    options: Passes, repeats, names; the same that made the probes.
    on_row: Called with each finished row (during the last pass).
    on_progress: Called before each measurement.
    deadline_s: No measurement starts later than this, by default the
      options' `budget_s`. Rows that had fewer passes by then are reported
      with fewer repeats.
    machine: The machine, where it is known already.
    session: What the probes share, where that is not this machine's CPU.
      Its probes are visited once, in the order in which they are given.
    group_deadline_s: When the time of a group of probes is over; what is
      left of it then comes after all others, if time remains.
    journal: Keeps the rows on disk, and knows those of an earlier run.
  """
  options = options or session_lib.Options()
  if deadline_s is None:
    deadline_s = options.budget_s
  run = _Run(list(probes), options, on_row, on_progress, deadline_s)
  run.group_deadline_s = group_deadline_s or {}
  if journal is not None:
    run.resume(journal)
  if session is not None:
    run.plan = run.probes
    with session:
      return run.all(session)
  with session_lib.Session(options, machine) as opened:
    return run.all(opened, warm_up=True)


class _Run:
  """State of one run."""

  def __init__(self, probes, options, on_row, on_progress, deadline_s):
    self.probes, self.options = probes, options
    self.on_row = on_row or (lambda row: None)
    self.on_progress = on_progress or (lambda progress: None)
    self.deadline_s = deadline_s
    self.start = time.monotonic()
    self.visits: dict[Probe, list[list[Any]]] = {}
    self.rows: dict[Probe, Row] = {}
    self.failures: dict[Probe, str] = {}
    self.cost_s: dict[Probe, float] = {}
    self.group_deadline_s: Mapping[str, float] = {}
    self.journal: journal_lib.Journal | None = None
    self.plan = schedule(self.probes, options.passes, options.seed)

  def resume(self, journal: journal_lib.Journal) -> None:
    """Takes over what an earlier run has measured."""
    self.journal = journal
    for probe in self.probes:
      if probe.name in journal.rows:
        self.rows[probe] = journal.rows[probe.name]
      elif journal.is_broken(probe.name):
        self.failures[probe] = 'it ended the program twice in earlier runs'

  def all(self, session: Any, warm_up: bool = False) -> Result:
    interrupted = late = False
    try:
      if warm_up:
        _warm_up(session)
      late = not self._passes(session)
    except KeyboardInterrupt:
      interrupted = True
    for probe in self.probes:
      if probe in self.visits and probe not in self.rows:
        self._finish(session, probe)
    known = self.rows.keys() | self.failures.keys()
    return Result(
      rows=[self.rows[p] for p in self.probes if p in self.rows],
      failures=[Failure(p.name, why) for p, why in self.failures.items()],
      missing=[p.name for p in self.probes if p not in known],
      interrupted=interrupted,
      deadline_reached=late,
      elapsed_s=self._elapsed_s(),
    )

  def _elapsed_s(self) -> float:
    return time.monotonic() - self.start

  def _passes(self, session: Any) -> bool:
    """Whether all passes were finished in time."""
    plan = [probe for probe in self.plan if probe not in self.rows]
    last = {probe: index for index, probe in enumerate(plan)}
    planned = len(plan)
    for index, probe in enumerate(plan):  # which grows by what is put off
      if self._elapsed_s() > self.deadline_s:
        return False
      if probe in self.failures:
        continue
      if index < planned and self._is_late(probe):
        plan.append(probe)
        last[probe] = len(plan) - 1
        continue
      eta_s = self._eta_s(plan[index:])
      self.on_progress(Progress(probe.name, index, len(plan), eta_s))
      self._measure(session, probe)
      if index == last[probe] and probe in self.visits:
        self._finish(session, probe)
    return True

  def _is_late(self, probe: Probe) -> bool:
    """Whether the time of the probe's group is over."""
    limit_s = self.group_deadline_s.get(probe.group or '', math.inf)
    return self._elapsed_s() > limit_s

  def _measure(self, session: Any, probe: Probe) -> None:
    start = time.monotonic()
    if self.journal:
      self.journal.begin(probe.name)
    try:
      found = probe.measure(session, self.options.repeats)
    except Exception as error:  # one bad probe must not end the run
      self._fail(probe, error)
      return
    except KeyboardInterrupt:
      if self.journal:
        self.journal.failed(probe.name)
      raise
    self.visits.setdefault(probe, []).append(found)
    self.cost_s[probe] = time.monotonic() - start

  def _fail(self, probe: Probe, error: Exception) -> None:
    lines = str(error).splitlines() or [type(error).__name__]
    self.failures[probe] = lines[0][:_LONGEST_REASON]
    if self.journal:
      self.journal.failed(probe.name)

  def _finish(self, session: Any, probe: Probe) -> None:
    try:
      row = probe.row(session, self.visits[probe])
    except Exception as error:
      self._fail(probe, error)
      return
    self.rows[probe] = row
    if self.journal:
      self.journal.done(probe.name, row)
    self.on_row(row)

  def _eta_s(self, rest: Sequence[Probe]) -> float:
    mean = sum(self.cost_s.values()) / max(len(self.cost_s), 1)
    rest_s = sum(
      self.cost_s.get(probe, mean)
      for probe in rest
      if probe not in self.failures
    )
    return min(rest_s, max(self.deadline_s - self._elapsed_s(), 0.0))


def schedule(probes: Sequence[Probe], passes: int, seed: int) -> list[Probe]:
  """All measurements in order: each pass in an order of its own."""
  plan: list[Probe] = []
  for number in range(passes):
    due = [probe for probe in probes if number % probe.stride == 0]
    plan += shuffled(due, seed * passes + number)
  return plan


def shuffled(probes: Sequence[Probe], seed: int) -> list[Probe]:
  """The probes in random order; those of one group stay together."""
  blocks: dict[Any, list[Probe]] = {}
  for index, probe in enumerate(probes):
    blocks.setdefault(probe.group or index, []).append(probe)
  rng = random.Random(seed)
  order = list(blocks.values())
  rng.shuffle(order)
  for block in order:
    rng.shuffle(block)
  return [probe for block in order for probe in block]


def _warm_up(session: session_lib.Session) -> None:
  """Brings the CPUs to their working frequency."""
  end = time.monotonic() + _WARM_UP_S
  probe = memory.Sweep('triad', 4096)
  while time.monotonic() < end:
    probe.measure(session, 4)
