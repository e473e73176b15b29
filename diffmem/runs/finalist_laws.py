"""What kernels do not know of a plan, as the laws have it.

The laws value every plan three times: as it is, with everything in the near
memory, and beyond that with the shardings that kernels know. The first
difference is what far memories cost, the ratio of the others what the
shardings change.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmem.cost import predict
from diffmem.planning.result import Plan
from diffmem.system import System
from diffmem.workloads import (
  RECOMPUTE,
  Choices,
  Decoding,
  Lowered,
  Machine,
  Training,
  Transformer,
  demand,
  lower_decode,
  lower_train,
  machine_of,
)
from diffmem.workloads.choices import SHARDING

# A program that runs once is compiled without optimisation.
_QUICK = {
  'xla_backend_optimization_level': 0,
  'xla_cpu_use_fusion_emitters': False,
}


class Added(NamedTuple):
  """What the laws add to what kernels know.

  Attributes:
    placement_s: for the memories [s].
    sharding_factor: step time over that with the shardings of the kernels.
  """

  placement_s: Float[np.ndarray, ' plan']
  sharding_factor: Float[np.ndarray, ' plan']


def added(
  system: System,
  model: Transformer,
  asked: Mapping[str, Any],
  plans: Sequence[Plan],
) -> Added:
  """What memories and shardings change, by the laws.

  Args:
    system: the machine, numpy leaves.
    model: what is planned.
    asked: the result's request.
    plans: of one result.
  """
  formats = [plan.number_format for plan in plans]
  placement_s, factor = np.zeros(len(plans)), np.ones(len(plans))
  for number_format in sorted(set(formats)):
    at = np.array([i for i, f in enumerate(formats) if f == number_format])
    time_s = step_times_s(system, model, asked, [plans[i] for i in at])
    as_is, near, known = np.split(time_s, 3)
    placement_s[at], factor[at] = as_is - near, near / known
  return Added(placement_s, factor)


def step_times_s(
  system: System,
  model: Transformer,
  asked: Mapping[str, Any],
  plans: Sequence[Plan],
) -> Float[np.ndarray, ' three_plans']:
  """All plans as they are, all near, all near as kernels know them [s].

  All must run in one number format.
  """
  machine = machine_of(
    system,
    asked['chips'],
    dtype=plans[0].number_format,
    usable=asked['usable'],
  )
  phase = _phase(asked)
  is_training = isinstance(phase, Training)
  as_is = [choices_of(p, shardings_of(p, model)) for p in plans]
  known = [choices_of(p, known_shardings(p, model, is_training)) for p in plans]
  choices = _stacked([*as_is, *as_is, *known])
  with jax.enable_x64(True):
    groups = jax.eval_shape(
      lambda c: _lower(model, phase, c, machine), choices
    ).groups
    placement = np.array(
      [
        [[p.placement[g].get(m, 0.0) for m in machine.memories] for g in groups]
        for p in plans
      ]
    )
    near = np.zeros_like(placement)
    near[..., 0] = 1.0
    found = _times_s(
      system, choices, np.concatenate([placement, near, near]), model, phase,
      machine,
    )  # fmt: skip
    return np.asarray(jax.device_get(found))


def choices_of(plan: Plan, shardings: Mapping[str, str]) -> dict[str, float]:
  """A plan's choices by name, as `Choices.of` takes them.

  Args:
    plan: of a result.
    shardings: layer kind -> how its tensor ranks share it.
  """
  found = {axis: float(ranks) for axis, ranks in plan.mesh.items()}
  found['micro_batch'] = float(plan.micro_batch)
  if plan.recompute:
    found['recompute'] = float(RECOMPUTE.index(plan.recompute))
  for kind, how in shardings.items():
    found[f'{kind}_by'] = float(SHARDING[f'{kind}_by'].index(how))
  return found


def shardings_of(plan: Plan, model: Transformer) -> dict[str, str]:
  """How a plan's tensor ranks share each kind of layer."""
  plain = {name.removesuffix('_by'): hows[0] for name, hows in SHARDING.items()}
  found = plain | plan.sharding
  if not model.experts:
    found.pop('experts')
  return found


def known_shardings(
  plan: Plan, model: Transformer, is_training: bool
) -> dict[str, str]:
  """The nearest that kernels know: matrices are split, experts are whole.

  Kernels of a decode step know experts both ways.
  """
  asked = shardings_of(plan, model)
  known = {'attention': 'tensor', 'mlp': 'tensor'}
  if 'experts' in asked:
    known['experts'] = 'expert' if is_training else asked['experts']
  return known


def other_shardings(
  plan: Plan, model: Transformer, is_training: bool
) -> dict[str, str]:
  """Layer kinds that kernels price in another sharding than the plan's."""
  if plan.mesh['tensor'] == 1:
    return {}
  known = known_shardings(plan, model, is_training)
  asked = shardings_of(plan, model)
  return {kind: how for kind, how in asked.items() if how != known[kind]}


def _stacked(choices: Sequence[Mapping[str, float]]) -> Choices:
  names = dict.fromkeys(name for one in choices for name in one)
  columns = {
    name: np.array([one.get(name, _default(name)) for one in choices])
    for name in names
  }
  return Choices.of(**columns)


def _default(name: str) -> float:
  return 0.0 if name == 'recompute' or name in SHARDING else 1.0


def _phase(asked: Mapping[str, Any]) -> Training | Decoding:
  kind = Training if asked['phase'] == 'train' else Decoding
  return kind(**{f: asked[f] for f in kind._fields if f in asked})


def _lower(model, phase, choices, machine: Machine) -> Lowered:
  lower = lower_train if isinstance(phase, Training) else lower_decode
  return lower(model, phase, choices, machine)


@functools.partial(jax.jit, static_argnums=(3, 4, 5), compiler_options=_QUICK)
def _times_s(system, choices, placement, model, phase, machine):
  lowered = _lower(model, phase, choices, machine)
  cost = predict(system, demand(system, lowered, jnp.asarray(placement)))
  weight = lowered.time_weight + lowered.bubble_weight
  return (weight * cost.time_s).sum(-1)
