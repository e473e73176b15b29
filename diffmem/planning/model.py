"""The compiled functions of the planner; one program per shape.

The workload, its phase and the machine are static, so a second plan of the
same workload compiles nothing, in another process neither
(`diffmem.planning.programs`). What is optimised is an argument.
"""

import concurrent.futures
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffmem.cost import predict
from diffmem.planning import greedy as greedy_lib
from diffmem.planning import minorant, programs
from diffmem.planning import objective as objective_lib
from diffmem.planning.objective import Objective, Weights
from diffmem.planning.unrolled.sweep import Swept
from diffmem.system import System
from diffmem.workloads import (
  AnyBatchDecoding,
  Choices,
  Decoding,
  Lowered,
  Machine,
  Prefilling,
  Training,
  Transformer,
  demand,
  lower_any_batch,
  lower_decode,
  lower_prefill,
  lower_train,
)

# A program that runs a few times is compiled without optimisation: three times
# faster to compile and three times slower to run.
QUICK = {
  'xla_backend_optimization_level': 0,
  'xla_cpu_use_fusion_emitters': False,
}
# Evaluations of one plan at a time, of one compiled shape.
TRIES = 64
_LOWER = {
  Training: lower_train, Decoding: lower_decode, Prefilling: lower_prefill,
  AnyBatchDecoding: lower_any_batch,
}  # fmt: skip


class Job(NamedTuple):
  """What is planned; hashable.

  Attributes:
    model: the transformer.
    phase: a training, a decode or a prefill step.
    machine: memories, levels and engine.
    objective: what is optimised.
    homes: tensor group -> memories where it may live; all, where it is not
      named.
  """

  model: Transformer
  phase: Training | Decoding | AnyBatchDecoding | Prefilling
  machine: Machine
  objective: Objective
  homes: tuple[tuple[str, tuple[str, ...]], ...] = ()

  @property
  def shape(self) -> 'Job':
    """What a program is compiled for: all but the objective."""
    return self._replace(objective=Objective())

  def allowed(self, groups: tuple[str, ...]) -> np.ndarray:
    """Whether each group may live in each memory [group, memory]."""
    homes, memories = dict(self.homes), self.machine.memories
    rows = [[m in homes.get(g, memories) for m in memories] for g in groups]
    return np.array(rows)


def lower(job: Job, choices: Choices) -> Lowered:
  """Lowers many plans of a job."""
  return _LOWER[type(job.phase)](job.model, job.phase, choices, job.machine)


def _sweep(
  system: System,
  job: Job,
  weights: Weights,
  choices: Choices,
  spill: Float[Array, ' plan'],
) -> Swept:
  """The value of many plans, by `predict` itself.

  Args:
    system: the machine.
    job: what is planned.
    weights: of the objective.
    choices: the plans.
    spill: 1 for the greedy placement; 0 for everything near, whatever the
      capacity, which bounds the value of every placement from below, because
      staging only adds bytes.
  """
  lowered = lower(job, choices)
  greedy = greedy_lib.place(system, lowered, job.allowed(lowered.groups))
  near = lowered.near_placement()
  placement = near + spill[:, None, None] * (greedy.placement - near)
  value = objective_lib.parts(system, lowered, placement, weights).sum(-1)
  spilled_B = (lowered.size_B * (1.0 - greedy.placement[..., 0])).sum(-1)
  return Swept(value, spilled_B, greedy.overflow_B)


sweep = programs.Program(_sweep, (1,), QUICK)


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
  lowered, greedy, room_B = jax.device_get(
    _start(system, job.shape, jax.tree.map(np.float64, choices))
  )
  return Start(
    *jax.tree.map(lambda x: np.asarray(x)[0], (lowered, greedy)), room_B
  )


def _started(system, job, choices):
  lowered = lower(job, choices)
  room_B = greedy_lib.capacities_B(system, job.machine)
  allowed = job.allowed(lowered.groups)
  return lowered, greedy_lib.place(system, lowered, allowed), room_B


_start = programs.Program(_started, (1,), QUICK)


def compile_together(system: System, job: Job, choices: Choices) -> None:
  """Makes the programs below at the same time, in threads.

  XLA leaves the interpreter's lock while it compiles, so that two cores take
  half the time. x64 is set in each thread: it does not inherit it.
  """
  with jax.enable_x64(True):
    started = start(system, job, choices)
  lowered, near = started.lowered, np.zeros_like(started.greedy.placement)
  near[:, 0] = 1.0
  weights = job.objective.weights

  def bound():
    with jax.enable_x64(True):
      _cut.prepare(*_cut_arguments(system, lowered, near, job.objective))

  def report():
    with jax.enable_x64(True):
      *arguments, _ = _batches(system, lowered, near[None], weights, 1)[0]
      _figures.prepare(*arguments)
      _slopes.prepare(system, lowered, near, weights)

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for future in [pool.submit(bound), pool.submit(report)]:
      future.result()


class Cut(NamedTuple):
  """Value and supporting planes at one placement, numpy.

  Attributes:
    value: minimised sum of the model itself.
    parts: the convex minorant, by operation [op].
    slopes: its derivative [op, group, memory].
    missing: what the minorant leaves out of the value, by the tier that needs
      the time, before overlap [op, tier].
  """

  value: Float[np.ndarray, '']
  parts: Float[np.ndarray, ' op']
  slopes: Float[np.ndarray, 'op group memory']
  missing: Float[np.ndarray, 'op tier']


def cut(
  system: System,
  lowered: Lowered,
  placement: Float[np.ndarray, 'group memory'],
  objective: Objective,
  box: minorant.Box | None = None,
) -> Cut:
  """The cut at one placement of one plan; in a box, for the box alone."""
  arguments = _cut_arguments(system, lowered, placement, objective, box)
  return jax.device_get(_cut(*arguments))


def _cut_arguments(system, lowered, placement, objective, box=None) -> tuple:
  if box is None:
    shape = (lowered.flops.shape[-1], len(system.tiers))
    box = minorant.Box(np.zeros(shape), np.ones(shape))
  served = minorant.has_curved_waits(system)
  return system, served, lowered, placement, objective.weights, box


def _cut_at(system, served, lowered, placement, weights, box) -> Cut:
  def parts(x):
    cost = minorant.minorant_cost(system, lowered, x, box, served)
    parts = objective_lib.parts_of(system, lowered, cost, weights)
    return parts, cost.tier_time_s

  found, backward, minorant_s = jax.vjp(parts, placement, has_aux=True)
  one_hot = jnp.eye(found.shape[0], dtype=found.dtype)
  slopes = jax.vmap(lambda row: backward(row)[0])(one_hot)
  cost = predict(system, demand(system, lowered, placement))
  value = objective_lib.parts_of(system, lowered, cost, weights).sum(-1)
  busy = (lowered.time_weight + lowered.bubble_weight)[..., None]
  return Cut(value, found, slopes, busy * (cost.tier_time_s - minorant_s))


_cut = programs.Program(_cut_at, (1,), QUICK)


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
  found = [
    (count, jax.device_get(_figures(*arguments)))
    for *arguments, count in _batches(
      systems, lowered, placements, objective.weights, chips
    )
  ]
  parts = [jax.tree.map(lambda x, n=n: x[:n], part) for n, part in found]
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _batches(systems, lowered, placements, weights, chips) -> list[tuple]:
  """Arguments of `_figures`, and how many of each batch are meant."""
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(systems)]
  count = max(len(placements), *(x.size for x in leaves))
  placements = np.broadcast_to(placements, (count, *placements.shape[1:]))
  leaves = [np.broadcast_to(x, (count,)) for x in leaves]
  structure = jax.tree.structure(systems)
  found = []
  for first in range(0, count, TRIES):
    at = np.minimum(np.arange(first, first + TRIES), count - 1)
    batch = jax.tree.unflatten(structure, [x[at] for x in leaves])
    meant = min(TRIES, count - first)
    found.append(
      (batch, lowered, placements[at], weights, np.float64(chips), meant)
    )
  return found


def _figures_of(systems, lowered, placements, weights, chips) -> Figures:
  def one(system, placement):
    cost = predict(system, demand(system, lowered, placement))
    weight = lowered.time_weight
    return Figures(
      value=objective_lib.parts_of(system, lowered, cost, weights).sum(-1),
      outcome=objective_lib.outcome_of(system, lowered, cost, chips),
      busy_s=weight * cost.time_s,
      bubble_s=(lowered.bubble_weight * cost.time_s).sum(-1),
      launch_s=(weight * lowered.launches).sum(-1) * system.launch_s,
      tier_s=(weight[..., None] * cost.tier_time_s).sum(-2),
      engine_s=(weight[..., None] * cost.engine_time_s).sum(-2),
    )

  return jax.vmap(one)(systems, placements)


_figures = programs.Program(_figures_of, options=QUICK)


def slopes(
  system: System,
  lowered: Lowered,
  placement: Float[np.ndarray, 'group memory'],
  objective: Objective,
) -> System:
  """Slope of ln(minimised sum) to every leaf, at a fixed placement.

  A leaf is a logarithm, so this is an elasticity.
  """
  return jax.device_get(_slopes(system, lowered, placement, objective.weights))


def _slopes_of(system, lowered, placement, weights) -> System:
  def log_value(moved):
    found = objective_lib.parts(moved, lowered, placement, weights)
    return jnp.log(found.sum(-1))

  return jax.grad(log_value)(jax.tree.map(jnp.asarray, system))


_slopes = programs.Program(_slopes_of, options=QUICK)
