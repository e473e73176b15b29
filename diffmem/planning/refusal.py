"""Answers where there is no plan: which limit binds, and by how much."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from diffmem.planning import model
from diffmem.planning import space as space_lib
from diffmem.planning.constraints import Constraints
from diffmem.planning.result import PlanOutcome, PlanResult, Search
from diffmem.planning.search import Found
from diffmem.system import System
from diffmem.units import format_si
from diffmem.workloads import Machine

# How far from the asked chip count a legal one is looked for.
_NEAREST_WITHIN = 512


def of_network(
  system: System, job: model.Job, request: Mapping, chips: int
) -> PlanResult | None:
  """No network level reaches all chips; None where one does."""
  reach = max(job.machine.spans, default=1)
  if reach >= chips:
    return None
  levels = job.machine.levels
  last = f'{levels[-1]} spans' if levels else 'without a network it reaches'
  return PlanResult(
    outcome=PlanOutcome.NO_NETWORK,
    help=(
      f'{system.name} cannot join {chips} chips: {last} {reach}. Ask for '
      f'{reach}, or describe a network level with a larger span.'
    ),
    request=request,
    limit={'constraint': 'network', 'reach': reach, 'nearest_chips': reach},
  )


def of_mesh(
  job: model.Job,
  request: Mapping,
  chips: int,
  space: space_lib.Space,
  machine_of: Callable[[int], Machine],
  constraints: Constraints,
) -> PlanResult:
  """No legal mesh of so many chips, with the nearest number that has one."""

  def is_legal(other: int) -> bool:
    machine = machine_of(other)
    reach = max(machine.spans, default=1)
    if reach < other:
      return False
    asked = (job.model, job.phase, other, machine)
    if not (constraints.only or constraints.never):
      return space_lib.has_mesh(*asked)
    return len(constraints.apply(space_lib.space_of(*asked))) > 0

  nearest = _nearest(chips, is_legal)
  alone = {rule: n for rule, n in space.refused.items() if n}
  binding = max(alone, key=alone.get) if alone else None
  why = 'several rules together forbid every factorisation'
  if binding:
    why = f'with any other {binding} there would be {alone[binding]}'
  hint = f' The nearest number with one is {nearest}.' if nearest else ''
  return PlanResult(
    outcome=PlanOutcome.NO_MESH,
    help=f'No legal mesh of {chips} chips for {job.model.name}: {why}.{hint}',
    request=request,
    limit={
      'constraint': binding,
      'refused_alone': alone,
      'nearest_chips': nearest,
    },
  )


def of_memory(
  system: System,
  found: Found,
  request: Mapping,
  chips: int,
  constraints: Constraints,
  began: float,
) -> PlanResult:
  """Legal meshes, but none fits: the one that lacks least.

  Args:
    system: the machine without the constraints.
    found: an empty search.
    request: what was asked.
    chips: devices.
    constraints: what the user limits; where the machine itself has room, they
      are what is to be relaxed.
    began: when the call began [s].
  """
  branch = found.branches[0]
  job, space, swept = branch
  if not found.is_whole:
    return PlanResult(
      outcome=PlanOutcome.INTERRUPTED,
      help='Interrupted before a configuration that fits was found.',
      request=request,
      search=Search(len(space), time.monotonic() - began),
    )
  least = int(np.argmin(swept.overflow_B))
  choices = space.at(np.array([least]))
  with jax.enable_x64(True):
    started = model.start(found.system, job, choices)
  lowered = started.lowered
  lacking_B = float(started.greedy.overflow_B)
  memories = job.machine.memories
  room_B = {m: float(r) for m, r in zip(memories, started.room_B, strict=True)}
  buffers_B = float(lowered.fixed_B + lowered.fetch_B.sum())
  near = memories[0]
  short = near if buffers_B > room_B[near] else ' + '.join(memories)
  needs_B = float(lowered.fixed_B + lowered.size_B.sum())
  chosen = {k: float(v[least]) for k, v in space.choices.items()}
  relax = _relaxations(system, constraints, chips, lacking_B, job)
  what = ', or '.join(
    [*relax, 'take more chips, a smaller batch or shorter sequences']
  )
  return PlanResult(
    outcome=PlanOutcome.NO_MEMORY,
    help=(
      f'None of {len(space)} configurations fits: the nearest lacks '
      f'{format_si(lacking_B, "B")} on every device in {short} (it needs '
      f'{format_si(needs_B, "B")} where '
      f'{format_si(sum(room_B.values()), "B")} may be filled). '
      f'{what[0].upper()}{what[1:]}, or add memory.'
    ),
    request=request,
    search=Search(len(space), time.monotonic() - began),
    limit={
      'constraint': 'memory',
      'short_of': short,
      'overflow_B': lacking_B,
      'needed_B': needs_B,
      'room_B': room_B,
      'relax': relax,
      'mesh': space_lib.describe(chosen),
      'micro_batch': int(chosen['micro_batch']),
    },
  )


def _relaxations(system, constraints, chips, lacking_B, job) -> list[str]:
  """Which of the user's limits to lift, and how far."""
  usable, found = job.machine.usable, []
  for name, scale, of in (
    ('memory_B', 1.0, 'each device'), ('supply_B', chips, 'the fleet'),
  ):  # fmt: skip
    for memory, limit_B in getattr(constraints, name).items():
      needed_B = limit_B + scale * lacking_B / usable
      has_B = scale * float(system.tier(memory).capacity_B)
      more = format_si(needed_B, 'B')
      if needed_B <= has_B:
        found.append(f'raise the limit of {memory} on {of} to {more}')
  for group, memories in constraints.homes.items():
    others = [m for m in job.machine.memories if m not in memories]
    if others:
      found.append(f'let {group} live in {" or ".join(others)} too')
  for choice in (*constraints.only, *constraints.never):
    found.append(f'free {choice}')
  return found


def _nearest(chips: int, is_legal: Callable[[int], bool]) -> int | None:
  for distance in range(1, _NEAREST_WITHIN + 1):
    for other in (chips - distance, chips + distance):
      if other >= 1 and is_legal(other):
        return other
  return None
