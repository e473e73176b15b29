"""A million meshes a second: a step with everything in the near memory.

The laws are those of `diffmem.planning.unrolled`; nothing is placed.
`tests/planning/mesh_sweep_test.py` holds them to what `predict` says.
"""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from diffmem.planning import greedy
from diffmem.planning.objective import Objective
from diffmem.planning.unrolled import laws as unrolled
from diffmem.planning.unrolled import sweep as unrolled_sweep
from diffmem.system import System
from diffmem.workloads import (
  Choices,
  Lowered,
  Machine,
  Training,
  Transformer,
  lower_train,
)

Plans = Float[Array, ' plan']


class Meshes(NamedTuple):
  """What the sweep says of each plan.

  Attributes:
    step_time_s: with everything in the near memory, whether it fits or not.
    needed_B: bytes of the near memory of one device that it would need [B].
    fits: whether there is room for them.
  """

  step_time_s: Plans
  needed_B: Plans
  fits: Plans


def mesh_sweep(
  system: System,
  model: Transformer,
  training: Training,
  machine: Machine,
  choices: Choices,
) -> Meshes:
  """Step time and memory of many plans of a training step.

  Args:
    system: the machine; float32 leaves make it fastest.
    model: the transformer.
    training: sequence length and batch.
    machine: from `machine_of`.
    choices: the plans [plan].

  Raises:
    ValueError: a tier with contention, which this path leaves out.
  """
  near = machine._replace(memories=machine.memories[:1], vias=('',))
  lowered = lower_train(model, training, choices, near)
  needed_B = sum(unrolled.columns(lowered.size_B)) + lowered.fixed_B
  return Meshes(
    step_time_s=near_step_time_s(system, lowered),
    needed_B=needed_B,
    fits=needed_B <= greedy.capacities_B(system, near)[0],
  )


jitted = jax.jit(mesh_sweep, static_argnums=(1, 2, 3))


def near_step_time_s(system: System, lowered: Lowered) -> Plans:
  """Step time of lowered plans with everything in the near memory.

  Raises:
    ValueError: a tier with contention, which this path leaves out.
  """
  return unrolled_sweep.near_value(system, lowered, Objective())
