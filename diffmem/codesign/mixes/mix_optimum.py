"""What a mix of workloads costs at its best plans, and the slope of that.

    value = sum over workloads of traffic * cost of a token at its best plan
    cost of a token = replica's devices / tokens of a step
                      * (usd_per_s * time + usd_per_J * energy) of a step

With (1, 0) for the rates the value is the number of accelerators that the
traffic keeps busy, with (0, 1) the power that they draw [W].

At the optimum the plan need not be solved again for the derivative to a
parameter of the machine (envelope theorem: Milgrom and Segal, Econometrica
70(2), 2002), but for the sizes of memories, which stand in constraints: their
derivative is the multiplier. Where the best mesh changes, the value has a kink
and the slope is that of the mesh which is best here.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from diffmem import errors
from diffmem.codesign.mixes import mix_search
from diffmem.codesign.mixes.item_plans import ItemPlans, Solved
from diffmem.codesign.mixes.mix import Item, Mix
from diffmem.planning import Objective, cutting_planes, model
from diffmem.planning import space as space_lib
from diffmem.planning.objective import COST
from diffmem.planning.search import Progress
from diffmem.system import System, to_numpy
from diffmem.workloads import Lowered, machine_of
from diffmem.workloads.stage import ATTENTION, EMBEDDINGS, EXPERTS, MLP


class Rates(NamedTuple):
  """What is paid.

  Attributes:
    usd_per_s: for one accelerator with its memory, one second.
    usd_per_J: for energy.
  """

  usd_per_s: float
  usd_per_J: float = 0.0


class ItemOptimum(NamedTuple):
  """The best plan of one workload.

  Attributes:
    name: of the workload.
    value: what its traffic costs [USD/s].
    bound: no plan that was looked at is below, in fractions [USD/s].
    slopes: d value / d leaf, by full parameter name.
    accelerators: that its traffic keeps busy.
    power_W: that these draw, at full voltage [W].
    rate_per_s: its traffic: tokens, or queries [1/s].
    step_time_s: of one replica [s].
    mesh: ranks of each axis.
    batch: sequences at once in a replica; 0 for training and searches.
    placement: tensor group -> memory -> share.
    used_B: bytes of each memory of a device [B].
    job: what was planned; None for searches.
    lowered: the plan, lowered; None for searches.
  """

  name: str
  value: float
  bound: float
  slopes: Mapping[str, float]
  accelerators: float
  power_W: float
  rate_per_s: float
  step_time_s: float
  mesh: Mapping[str, int]
  batch: int
  placement: Mapping[str, Mapping[str, float]]
  used_B: Mapping[str, float]
  job: model.Job | None = None
  lowered: Lowered | None = None

  @property
  def shares(self) -> np.ndarray:
    """The placement as an array [group, memory]."""
    rows = [list(row.values()) for row in self.placement.values()]
    return np.array(rows)


class MixOptimum(NamedTuple):
  """The best plans of all workloads of a mix.

  Attributes:
    value: what serving all traffic costs [USD/s]; inf where one does not fit.
    bound: no plans that were looked at are below, in fractions [USD/s].
    slopes: d value / d leaf, by full parameter name; a leaf is the natural
      logarithm of its parameter, so that over `value` it is an elasticity.
    accelerators: that the traffic keeps busy: d value / d usd_per_s.
    power_W: that these draw, at full voltage: d value / d usd_per_J [W].
    tokens_per_s: traffic of the transformers [1/s].
    items: by workload; empty where one does not fit.
    missing: workloads that do not fit.
  """

  value: float
  bound: float
  slopes: Mapping[str, float]
  accelerators: float
  power_W: float
  tokens_per_s: float
  items: tuple[ItemOptimum, ...]
  missing: tuple[str, ...] = ()

  @property
  def per_token(self) -> float:
    """What a token of the mix costs [USD]."""
    return self.value / self.tokens_per_s

  def elasticities(self) -> dict[str, float]:
    """Slopes d ln(value) / d leaf."""
    return {name: slope / self.value for name, slope in self.slopes.items()}


class MixSolver:
  """Best plans of a mix, again and again on machines of one structure.

  The first call, and every one with `whole`, searches the spaces of all
  workloads; others solve the placements of the meshes that were best there,
  and of those that look best on the new machine. A program is compiled once
  for each workload, half a minute the first time.
  """

  def __init__(
    self,
    mix: Mix,
    system: System,
    on_progress: Progress | None = None,
  ):
    """Enumerates the spaces.

    Args:
      mix: workloads and traffic.
      system: the machine, or one of the same structure.
      on_progress: called with a stage's name, how much is done and in all.

    Raises:
      SpecError: a workload without a legal mesh of its devices.
    """
    self.mix = mix
    self._is_used = False
    self._report = on_progress or (lambda *_: None)
    self._plans = [ItemPlans(item, _job(system, item)) for item in mix.items]

  @property
  def weight_groups(self) -> tuple[str, ...]:
    """Names of the tensor groups that are weights, in any workload."""
    return (ATTENTION, MLP, EXPERTS, EMBEDDINGS)

  def solve(
    self,
    system: System,
    rates: Rates,
    *,
    whole: bool = False,
    target_gap: float = cutting_planes.TARGET_GAP,
    homes: Mapping[str, tuple[str, ...]] | None = None,
    phases: tuple[str, ...] = (),
    may_be_late: bool = False,
  ) -> MixOptimum:
    """The best plans on a machine.

    Args:
      system: the machine.
      rates: what is paid.
      whole: whether all spaces are searched again.
      target_gap: of each placement, relative.
      homes: start of a tensor group's name -> memories where it must live,
        in workloads that have such groups.
      phases: of the workloads for which `homes` holds; () for all.
      may_be_late: whether steps may be longer than `tpot_s`.
    """
    system = to_numpy(system)
    found, missing = [], []
    with jax.enable_x64(True):
      for i, plans in enumerate(self._plans):
        item = plans.item
        objective = Objective(COST, rates.usd_per_s, rates.usd_per_J)
        is_held = not phases or item.phase_name in phases
        solved = plans.solve(
          system, objective, whole, target_gap,
          (homes or {}) if is_held else {}, may_be_late,
        )  # fmt: skip
        if solved is None:
          missing.append(item.name)
        else:
          found.append(_item_optimum(system, plans, solved, objective))
        if whole or not self._is_used:
          self._report('workloads', i + 1, len(self._plans))
      self._is_used = True
      for search in self.mix.searches:
        one = mix_search.solve(system, search, rates.usd_per_s, rates.usd_per_J)
        if one is None:
          missing.append(search.name)
        else:
          found.append(_search_optimum(search, one))
    if missing:
      return MixOptimum(
        np.inf, np.inf, {}, np.inf, np.inf, self.mix.tokens_per_s, (),
        tuple(missing),
      )  # fmt: skip
    return _total(found, self.mix.tokens_per_s)


def _job(system: System, item: Item) -> model.Job:
  machine = machine_of(system, item.chips, dtype=item.dtype, usable=item.usable)
  return model.Job(item.model, item.phase, machine, Objective())


def _item_optimum(
  system: System, plans: ItemPlans, solved: Solved, objective: Objective
) -> ItemOptimum:
  """Slopes and figures of a solved workload."""
  item, job = plans.item, plans.job._replace(objective=objective)
  lowered, placement = solved.lowered, solved.at.placement
  tokens = float(lowered.tokens)
  per_step = item.tokens_per_s * item.chips / tokens
  value = per_step * solved.at.value
  slopes = jax.tree.leaves(model.slopes(system, lowered, placement, objective))
  active = system.active()
  table = {
    name: value * float(slope)
    for name, slope in zip(system.infos(), slopes, strict=True)
    if name in active
  }
  for memory, price in zip(job.machine.memories, solved.at.prices, strict=True):
    room_B = job.machine.usable * float(system.tier(memory).capacity_B)
    table[f'{memory}.capacity_B'] = -per_step * float(price) * room_B
  figures = model.figures(
    system, lowered, placement[None], Objective(COST, 0.0, 1.0), item.chips
  )
  step_s = float(figures.outcome.step_time_s[0])
  # Buffers of what is far away stand in the near memory.
  used_B = solved.limits.used_B(placement)
  used_B[0] += float(lowered.fixed_B + lowered.fetch_B.sum())
  chosen = {k: v[0] for k, v in dataclasses.asdict(solved.choices).items()}
  return ItemOptimum(
    name=item.name,
    value=value,
    bound=per_step * solved.bound,
    slopes=table,
    accelerators=per_step * step_s,
    power_W=per_step * float(figures.value[0]),
    rate_per_s=item.tokens_per_s,
    step_time_s=step_s,
    mesh=space_lib.describe(chosen),
    batch=int(tokens) if item.batches else 0,
    placement={
      group: dict(zip(job.machine.memories, row.tolist(), strict=True))
      for group, row in zip(lowered.groups, placement, strict=True)
    },
    used_B=dict(zip(job.machine.memories, used_B.tolist(), strict=True)),
    job=job,
    lowered=lowered,
  )


def _search_optimum(search, one: mix_search.Found) -> ItemOptimum:
  return ItemOptimum(
    name=search.name,
    value=one.value,
    bound=one.value,
    slopes=one.slopes,
    accelerators=one.accelerators,
    power_W=one.power_W,
    rate_per_s=search.queries_per_s,
    step_time_s=one.latency_s,
    mesh={'data': search.chips},
    batch=0,
    placement={'codes': {one.memory: 1.0}, 'vertices': {one.store: 1.0}},
    used_B=one.used_B,
  )


def _total(items: list[ItemOptimum], tokens_per_s: float) -> MixOptimum:
  slopes: dict[str, float] = {}
  for item in items:
    for name, slope in item.slopes.items():
      slopes[name] = slopes.get(name, 0.0) + slope
  return MixOptimum(
    value=sum(i.value for i in items),
    bound=sum(i.bound for i in items),
    slopes=slopes,
    accelerators=sum(i.accelerators for i in items),
    power_W=sum(i.power_W for i in items),
    tokens_per_s=tokens_per_s,
    items=tuple(items),
  )


def check_fits(found: MixOptimum) -> None:
  """Raises PlanError, with what to change, where a workload does not fit."""
  if found.missing:
    raise errors.PlanError(
      f'{", ".join(found.missing)}: fits on no mesh of its devices within '
      'its limits; give it more chips, a smaller batch, a longer tpot_s, or '
      'the machine more memory'
    )
