"""The compiled functions of the planner; one program per shape.

The workload, its phase and the machine are static, so a second plan of the
same workload compiles nothing.
"""

import concurrent.futures
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffmem.cost import predict
from diffmem.planning import greedy as greedy_lib
from diffmem.planning import minorant
from diffmem.planning import objective as objective_lib
from diffmem.planning.objective import Objective
from diffmem.system import System
from diffmem.workloads import (
  Choices,
  Decoding,
  Lowered,
  Machine,
  Training,
  Transformer,
  demand,
  lower_decode,
  lower_train,
)

# A program that runs a few times is compiled without optimisation: three times
# faster to compile and three times slower to run.
_QUICK = {
  'xla_backend_optimization_level': 0,
  'xla_cpu_use_fusion_emitters': False,
}
# Evaluations of one plan at a time, of one compiled shape.
TRIES = 64
_jit = functools.partial(jax.jit, compiler_options=_QUICK)


class Job(NamedTuple):
  """What is planned; hashable.

  Attributes:
    model: the transformer.
    phase: a training or a decode step.
    machine: memories, levels and engine.
    objective: what is optimised.
  """

  model: Transformer
  phase: Training | Decoding
  machine: Machine
  objective: Objective


class Swept(NamedTuple):
  """What the sweep finds of each plan.

  Attributes:
    value: minimised sum, everything near or under the greedy placement.
    spilled_B: bytes of a device that the greedy placement holds elsewhere.
    overflow_B: bytes of a device for which it finds no room.
  """

  value: Float[Array, ' plan']
  spilled_B: Float[Array, ' plan']
  overflow_B: Float[Array, ' plan']


def lower(job: Job, choices: Choices) -> Lowered:
  """Lowers many plans of a job."""
  if isinstance(job.phase, Decoding):
    return lower_decode(job.model, job.phase, choices, job.machine)
  return lower_train(job.model, job.phase, choices, job.machine)


def _sweep(
  system: System, job: Job, choices: Choices, spill: Float[Array, ' plan']
) -> Swept:
  """The value of many plans.

  Args:
    system: the machine.
    job: what is planned.
    choices: the plans.
    spill: 1 for the greedy placement; 0 for everything near, whatever the
      capacity, which bounds the value of every placement from below, because
      staging only adds bytes.
  """
  lowered = lower(job, choices)
  greedy = greedy_lib.place(system, lowered)
  near = lowered.near_placement()
  placement = near + spill[:, None, None] * (greedy.placement - near)
  value = objective_lib.parts(system, lowered, placement, job.objective).sum(-1)
  spilled_B = (lowered.size_B * (1.0 - greedy.placement[..., 0])).sum(-1)
  return Swept(value, spilled_B, greedy.overflow_B)


# Small spaces are done before the optimised program would be compiled.
sweep_small = _jit(_sweep, static_argnums=1)
sweep_large = jax.jit(_sweep, static_argnums=1)


class Start(NamedTuple):
  """One plan, lowered, with its greedy placement; numpy, no plan axis.

  Attributes:
    lowered: the plan.
    greedy: where the cutting planes start.
    room_B: bytes of each memory that tensors may fill [memory].
  """

  lowered: Lowered
  greedy: greedy_lib.Greedy
  room_B: Float[np.ndarray, ' memory']


def start(system: System, job: Job, choices: Choices) -> Start:
  """Lowers one plan (a plan axis of one) and places it greedily."""
  lowered, greedy, room_B = jax.device_get(_start(system, job, choices))
  return Start(
    *jax.tree.map(lambda x: np.asarray(x)[0], (lowered, greedy)), room_B
  )


@functools.partial(_jit, static_argnums=1)
def _start(system, job, choices):
  lowered = lower(job, choices)
  room_B = greedy_lib.capacities_B(system, job.machine)
  return lowered, greedy_lib.place(system, lowered), room_B


def compile_together(
  system: System, job: Job, choices: Choices, chips: int
) -> None:
  """Compiles the programs below at the same time, in threads.

  XLA leaves the interpreter's lock while it compiles, so that two cores take
  half the time. x64 is set in each thread: it does not inherit it.
  """
  with jax.enable_x64(True):
    started = start(system, job, choices)
  lowered, near = started.lowered, np.zeros_like(started.greedy.placement)
  near[:, 0] = 1.0

  def bound():
    with jax.enable_x64(True):
      cut(system, lowered, near, job.objective)

  def report():
    with jax.enable_x64(True):
      figures(system, lowered, near[None], job.objective, chips)
      slopes(system, lowered, near)

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for future in [pool.submit(bound), pool.submit(report)]:
      future.result()


class Cut(NamedTuple):
  """Value and supporting planes at one placement, numpy.

  Attributes:
    value: minimised sum of the model itself.
    parts: the convex minorant, by operation [op].
    slopes: its derivative [op, group, memory].
  """

  value: Float[np.ndarray, '']
  parts: Float[np.ndarray, ' op']
  slopes: Float[np.ndarray, 'op group memory']


def cut(
  system: System,
  lowered: Lowered,
  placement: Float[np.ndarray, 'group memory'],
  objective: Objective,
) -> Cut:
  """The cut at one placement of one plan."""
  return jax.device_get(_cut(system, lowered, placement, objective))


@functools.partial(_jit, static_argnums=3)
def _cut(system, lowered, placement, objective) -> Cut:
  def parts(x):
    return minorant.minorant_parts(system, lowered, x, objective)

  value = objective_lib.parts(system, lowered, placement, objective).sum(-1)
  found, backward = jax.vjp(parts, placement)
  one_hot = jnp.eye(found.shape[0], dtype=found.dtype)
  return Cut(value, found, jax.vmap(lambda row: backward(row)[0])(one_hot))


class Figures(NamedTuple):
  """Everything that is reported of a plan, numpy; all [try, ...].

  Attributes:
    value: the minimised sum.
    outcome: time, rate, energy.
    busy_s: time of each operation in a step, without the bubble [s].
    bubble_s: time that passes idle in the pipeline [s].
    launch_s: of the step, spent on framework launches [s].
    tier_s: time that each tier alone would need for a step [s].
    engine_s: the same of each engine [s].
  """

  value: Float[np.ndarray, ' try']
  outcome: objective_lib.Outcome
  busy_s: Float[np.ndarray, 'try op']
  bubble_s: Float[np.ndarray, ' try']
  launch_s: Float[np.ndarray, ' try']
  tier_s: Float[np.ndarray, 'try tier']
  engine_s: Float[np.ndarray, 'try engine']


def figures(
  systems: System,
  lowered: Lowered,
  placements: Float[np.ndarray, 'try group memory'],
  objective: Objective,
  chips: int,
) -> Figures:
  """All figures of one plan, many times over, in batches of one shape.

  Args:
    systems: leaves with an axis [try], or scalars for the same machine.
    lowered: one plan, without plan axis.
    placements: of each try; one of [1, ...] serves all.
    objective: what is minimised.
    chips: devices of the mesh.
  """
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(systems)]
  count = max(len(placements), *(x.size for x in leaves))
  shape = placements.shape[1:]
  placements = np.broadcast_to(placements, (count, *shape))
  leaves = [np.broadcast_to(x, (count,)) for x in leaves]
  structure = jax.tree.structure(systems)
  batches = []
  for first in range(0, count, TRIES):
    at = np.minimum(np.arange(first, first + TRIES), count - 1)
    batch = jax.tree.unflatten(structure, [x[at] for x in leaves])
    found = _figures(batch, lowered, placements[at], objective, chips)
    batches.append(jax.device_get(found))
  return jax.tree.map(lambda *x: np.concatenate(x)[:count], *batches)


@functools.partial(_jit, static_argnums=(3, 4))
def _figures(systems, lowered, placements, objective, chips) -> Figures:
  def one(system, placement):
    cost = predict(system, demand(system, lowered, placement))
    weight = lowered.time_weight
    return Figures(
      value=objective_lib.parts_of(system, lowered, cost, objective).sum(-1),
      outcome=objective_lib.outcome_of(system, lowered, cost, chips),
      busy_s=weight * cost.time_s,
      bubble_s=(lowered.bubble_weight * cost.time_s).sum(-1),
      launch_s=(weight * lowered.launches).sum(-1) * system.launch_s,
      tier_s=(weight[..., None] * cost.tier_time_s).sum(-2),
      engine_s=(weight[..., None] * cost.engine_time_s).sum(-2),
    )

  return jax.vmap(one)(systems, placements)


@_jit
def slopes(
  system: System,
  lowered: Lowered,
  placement: Float[np.ndarray, 'group memory'],
) -> System:
  """Slope of ln(step time) to every leaf, at a fixed placement.

  A leaf is a logarithm, so this is an elasticity.
  """

  def log_step_time(moved):
    cost = predict(moved, demand(moved, lowered, placement))
    return jnp.log(objective_lib.busy_s(lowered, cost).sum(-1))

  return jax.grad(log_step_time)(jax.tree.map(jnp.asarray, system))
