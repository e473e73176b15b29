"""A planner's finalists, priced as measured jobs are.

The planner searches by laws alone: convex, differentiable, and per kernel some
7 to 64 % off. The finalists are few, so each can be priced kernel by kernel,
with learned corrections and fitted software (`diffmem.runs.estimate`). What
kernels do not know - tensors in far memories, other shardings of a layer kind
than they have - is added as the laws have it: the difference between the
plan and the nearest one that kernels know, in seconds for memories and as a
share for shardings.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffmem import errors
from diffmem.planning.result import Plan, PlanResult
from diffmem.runs import finalist_kernels, finalist_laws
from diffmem.runs.machines import Machines, unknown
from diffmem.runs.software import Software
from diffmem.runs.table import Z90
from diffmem.system import System, to_numpy
from diffmem.workloads import Transformer, load_workload

# The only software that was fitted on models with experts is NeMo's.
_EXPERT_STACK = 'nemo'
# Deviation of the logarithm of what the laws alone say of one kernel.
_LAWS_LOG_SD = 0.3


@dataclasses.dataclass(frozen=True)
class Finalist:
  """One plan with both of its times.

  Attributes:
    index: of the plan in the result; 0 was the planner's first.
    by_laws_s: step time that the planner gave [s].
    kernels_s: the nearest plan that kernels know, with software [s].
    placement_s: what its far memories add, by the laws [s].
    sharding_s: what its shardings add or save: the laws' share of the time by
      kernels [s].
    step_time_s: the sum of these three [s].
    interval90: 5 % and 95 % quantile of it [s].
    tokens_per_s: of all devices together [1/s].
    unknown_to_kernels: what was not priced by kernels, in words.
  """

  index: int
  by_laws_s: float
  kernels_s: float
  placement_s: float
  sharding_s: float
  step_time_s: float
  interval90: tuple[float, float]
  tokens_per_s: float
  unknown_to_kernels: tuple[str, ...]

  @property
  def over_laws(self) -> float:
    """Calibrated step time over that by the laws."""
    return self.step_time_s / self.by_laws_s


@dataclasses.dataclass(frozen=True)
class Finalists:
  """All finalists, in the order of their calibrated step times.

  Attributes:
    finalists: the fastest first.
    machine: in the catalog.
    stack: software that was assumed.
    keeps_first: whether the planner's first stays the first.
    pairs_kept: share of the pairs of plans that keep their order.
    help: one sentence for a person.
  """

  finalists: tuple[Finalist, ...]
  machine: str
  stack: str
  keeps_first: bool
  pairs_kept: float
  help: str

  @property
  def laws_log_sd(self) -> float:
    """How far the ratio to the laws differs between plans, in the logarithm.

    That is the error of each plan's own for `uncertainty.decide`; what all
    plans share orders none of them.
    """
    ratios = [math.log(one.over_laws) for one in self.finalists]
    return float(np.std(ratios, ddof=1)) if len(ratios) > 1 else 0.0

  def to_dict(self) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers, with the ratios to the laws."""
    told = dataclasses.asdict(self) | {'laws_log_sd': self.laws_log_sd}
    for entry, one in zip(told['finalists'], self.finalists, strict=True):
      entry['over_laws'] = one.over_laws
    return told


def price_finalists(
  result: PlanResult,
  machines: Machines,
  software: Software,
  *,
  model: Transformer | None = None,
  system: System | None = None,
  machine: str | None = None,
  stack: str = '',
) -> Finalists:
  """Prices the plans of a training or decode search by kernels.

  Args:
    result: of `make_plan`.
    machines: fitted systems.
    software: fitted stacks.
    model: what was planned; None for the preset that the result names.
    system: what it was planned on; None for that of `machine`.
    machine: accelerator; None for the system that the result names.
    stack: software: 'nemo' and so on for training, 'vllm' and so on for
      decode; '' for the mean of all (of models with experts, NeMo's).

  Raises:
    PlanError: a result without plans, or of another phase.
    SpecError: an unknown accelerator or workload, or one whose model the
      kernels do not know.
  """
  if not result.plans:
    raise errors.PlanError(
      f'the result has no plans to price ({result.outcome}): {result.help}'
    )
  asked = result.request
  name = machines.name_of(machine or asked['system'])
  if not name:
    raise errors.SpecError(unknown(machine or asked['system']))
  model = model or load_workload(asked['workload'])
  system = to_numpy(system or machines[name].system)
  if asked['phase'] not in ('train', 'decode'):
    raise errors.PlanError(
      f'plans of phase {asked["phase"]!r} have no kernels to be priced by '
      "(expected 'train' or 'decode')"
    )
  is_training = asked['phase'] == 'train'
  if is_training:
    if not stack and model.experts:
      stack = _EXPERT_STACK
    price, stacks = finalist_kernels.price_training, software.training
  else:
    price, stacks = finalist_kernels.price_decode, software.serving
  priced = price(result.plans, asked, model, name, machines, stacks, stack)
  added = finalist_laws.added(system, model, asked, result.plans)
  return _finalists(
    result.plans, model, is_training, priced, added, name, stack
  )


def _finalists(
  plans, model, is_training, priced, added, name, stack
) -> Finalists:
  found = []
  for i, plan in enumerate(plans):
    by_laws_s = plan.predicted['step_time_s']
    kernels_s = float(priced.time_s[i])
    placement_s = float(added.placement_s[i])
    sharding_s = kernels_s * (float(added.sharding_factor[i]) - 1.0)
    time_s = kernels_s + placement_s + sharding_s
    spread_s = math.hypot(
      kernels_s * priced.log_sd,
      _LAWS_LOG_SD * math.hypot(placement_s, sharding_s),
    )
    wide = math.exp(Z90 * spread_s / time_s)
    found.append(
      Finalist(
        index=i,
        by_laws_s=by_laws_s,
        kernels_s=kernels_s,
        placement_s=placement_s,
        sharding_s=sharding_s,
        step_time_s=time_s,
        interval90=(time_s / wide, time_s * wide),
        tokens_per_s=plan.predicted['tokens_per_s'] * by_laws_s / time_s,
        unknown_to_kernels=(
          *priced.left_out[i],
          *_left_out(plan, model, is_training),
        ),
      )
    )
  ranked = tuple(sorted(found, key=lambda f: f.step_time_s))
  return Finalists(
    finalists=ranked,
    machine=name,
    stack=stack,
    keeps_first=ranked[0].index == 0,
    pairs_kept=_pairs_kept([f.index for f in ranked]),
    help=_help(ranked),
  )


def _left_out(plan: Plan, model: Transformer, is_training: bool) -> list[str]:
  said = []
  far = sorted(
    {
      memory
      for shares in plan.placement.values()
      for memory, share in list(shares.items())[1:]
      if share > 0
    }
  )
  if far:
    said.append(f'tensors in {" and ".join(far)}: added by the laws')
  other = finalist_laws.other_shardings(plan, model, is_training)
  if other:
    kinds = ' and '.join(f'{kind} by {how}' for kind, how in other.items())
    said.append(f'{kinds}: the difference is that of the laws')
  return said


def _pairs_kept(order: Sequence[int]) -> float:
  """Share of the pairs that stand as in 0, 1, 2, ..."""
  pairs = [a < b for i, a in enumerate(order) for b in order[i + 1 :]]
  return float(np.mean(pairs)) if pairs else 1.0


def _help(ranked: Sequence[Finalist]) -> str:
  ratio = float(np.exp(np.mean([math.log(f.over_laws) for f in ranked])))
  first = next(f for f in ranked if f.index == 0)
  best = ranked[0]
  said = (
    f'kernels and software say {first.step_time_s:.4g} s for the first plan '
    f'where the laws say {first.by_laws_s:.4g} s ({ratio:.2f} times over all '
    f'{len(ranked)})'
  )
  if best is first:
    return f'{said}; it stays the first'
  gain = 1.0 - best.step_time_s / first.step_time_s
  return f'{said}; plan {best.index + 1} would be the first, {gain:.1%} faster'
