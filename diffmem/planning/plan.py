"""`make_plan`: the mesh by enumeration, the placement by cutting planes."""

import difflib
import functools
import time

import jax
import numpy as np

from diffmem import errors
from diffmem.planning import model, refusal, summary
from diffmem.planning import sensitivity as sensitivity_lib
from diffmem.planning import space as space_lib
from diffmem.planning import sweep as sweep_lib
from diffmem.planning.objective import Objective
from diffmem.planning.result import PlanOutcome, PlanResult, Search
from diffmem.system import FittedSystem, System, to_numpy
from diffmem.workloads import (
  Decoding,
  Training,
  Transformer,
  load_workload,
  machine_of,
)

# Meshes whose placement is solved, for each plan that is asked for.
_SOLVED_PER_PLAN = 3
_BATCH_PER_CHIP = 32
# What the sweep's float32 may be wrong by, many times over.
_FLOAT32_ERROR = 1e-4


def make_plan(
  system: System | FittedSystem,
  workload: Transformer | str,
  *,
  chips: int,
  phase: str = 'train',
  objective: str = 'step_time_s',
  global_batch_tokens: int = 16 * 2**20,
  seq_len: int = 8192,
  batch: int | None = None,
  context: int = 8192,
  usd_per_chip_hour: float | None = None,
  top: int = 5,
  dtype: str = 'bfloat16',
  usable: float = 0.9,
  on_progress: sweep_lib.Progress | None = None,
) -> PlanResult:
  """Chooses mesh, micro-batch, recompute and placement.

  Args:
    system: one device with what it reaches; a fitted one gives intervals.
    workload: a transformer, or what `load_workload` takes.
    chips: devices.
    phase: 'train' or 'decode'.
    objective: 'step_time_s', 'tokens_per_s', 'energy_per_token_J' or
      'cost_per_token_usd'.
    global_batch_tokens: tokens of a training step; the default is that of
      Llama 3 405B's main phase (arXiv:2407.21783, section 3.4.1).
    seq_len: tokens of a training sequence.
    batch: sequences that are decoded at once; None for 32 for each chip.
    context: tokens of each in the KV cache.
    usd_per_chip_hour: rent, for the cost per token.
    top: how many plans.
    dtype: number format of the matrix products.
    usable: share of each memory that tensors may fill.
    on_progress: called with configurations done and in all.

  Returns:
    the plans; where there are none, `outcome`, `help` and `limit` say why.

  Raises:
    PlanError: an argument that does not fit, with the nearest that does.
    SpecError: an unknown workload, or an engine that the system lacks.
  """
  began = time.monotonic()
  ensemble = None
  if isinstance(system, FittedSystem):
    system, ensemble = system.system, system.ensemble
  system = to_numpy(system)
  if not isinstance(workload, Transformer):
    workload = load_workload(workload)
  _check_counts(chips=chips, top=top)
  job = model.Job(
    workload,
    _training(workload, global_batch_tokens, seq_len)
    if _is_training(phase)
    else _decoding(workload, batch, context, chips),
    machine_of(system, chips, dtype=dtype, usable=usable),
    _objective(objective, usd_per_chip_hour),
  )
  request = summary.request(system, job, phase, chips, usd_per_chip_hour)
  refused = refusal.of_network(system, job, request, chips)
  if refused:
    return refused
  space = space_lib.space_of(job.model, job.phase, chips, job.machine)
  if not len(space):
    machine = functools.partial(machine_of, system, dtype=dtype, usable=usable)
    return refusal.of_mesh(job, request, chips, space, machine)
  keep = min(_SOLVED_PER_PLAN * top, len(space))
  swept = sweep_lib.sweep(system, job, space, keep, on_progress)
  if not np.isfinite(swept.value).any():
    return refusal.of_memory(system, job, request, space, swept, began)
  first = space.at(np.argsort(swept.value)[:1])
  model.compile_together(system, job, first, chips)
  with jax.enable_x64(True):
    solved = _solve(system, job, space, swept, keep, top)
    answer = summary.answer(
      summary.Found(system, ensemble, job, space, solved, top),
      chips,
      usd_per_chip_hour,
    )
  return PlanResult(
    outcome=PlanOutcome.PLANNED,
    help='',
    request=request,
    search=Search(
      configurations=len(space),
      seconds=time.monotonic() - began,
      feasible=int((swept.overflow_B <= 0).sum()),
      placed=sum(len(s.solution.planes.offsets) > 1 for s in solved),
      certified_gap=_space_gap(swept, solved),
    ),
    **answer,
  )


def _solve(system, job, space, swept, keep, top) -> list[summary.Solved]:
  """Best placements of the most promising configurations, best first.

  Those that are best under the greedy placement, and of the others that fit
  those with the least bounds.
  """
  by_value = np.argsort(swept.value, kind='stable')[:keep]
  by_value = by_value[np.isfinite(swept.value[by_value])]
  worst = swept.value[by_value].max()
  hopeful = np.flatnonzero(
    (swept.overflow_B <= 0)
    & (swept.bound < swept.value)
    & (swept.bound < worst)
  )
  by_bound = hopeful[np.argsort(swept.bound[hopeful], kind='stable')][:keep]
  solved = []
  for index in dict.fromkeys([*by_value.tolist(), *by_bound.tolist()]):
    values = sorted(s.solution.value for s in solved)
    solution = sensitivity_lib.solve_mesh(
      system,
      job,
      space.at(np.array([index])),
      give_up_at=values[top - 1] if len(values) >= top else np.inf,
    )
    if solution is not None:
      solved.append(summary.Solved(index, solution))
  return sorted(solved, key=lambda s: s.solution.value)


def _space_gap(swept, solved: list[summary.Solved]) -> float:
  """How far below the best any configuration that fits could be."""
  bounds = np.where(swept.overflow_B <= 0, swept.bound, np.inf)
  bounds = bounds * (1.0 - _FLOAT32_ERROR)
  for one in solved:
    bounds[one.index] = one.solution.bound
  best = min(s.solution.value for s in solved)
  return float(max(best - bounds.min(), 0.0) / best)


def _objective(name: str, usd_per_chip_hour: float | None) -> Objective:
  objective = _one_of('objective', name, [o.value for o in Objective])
  if objective == Objective.COST and usd_per_chip_hour is None:
    raise errors.PlanError(
      'objective cost_per_token_usd needs usd_per_chip_hour'
    )
  if usd_per_chip_hour is not None and not usd_per_chip_hour > 0:
    raise errors.PlanError(
      f'usd_per_chip_hour = {usd_per_chip_hour!r}: expected more than 0'
    )
  return Objective(objective)


def _is_training(phase: str) -> bool:
  return _one_of('phase', phase, ['train', 'decode']) == 'train'


def _training(workload, global_batch_tokens, seq_len) -> Training:
  _check_counts(global_batch_tokens=global_batch_tokens, seq_len=seq_len)
  _check_context(workload, 'seq_len', seq_len)
  if global_batch_tokens % seq_len:
    near = max(round(global_batch_tokens / seq_len), 1) * seq_len
    raise errors.PlanError(
      f'global_batch_tokens = {global_batch_tokens} is not a multiple of '
      f'seq_len = {seq_len}; the nearest is {near}'
    )
  return Training(int(seq_len), int(global_batch_tokens // seq_len))


def _decoding(workload, batch, context, chips) -> Decoding:
  batch = _BATCH_PER_CHIP * chips if batch is None else batch
  _check_counts(batch=batch, context=context)
  _check_context(workload, 'context', context)
  return Decoding(int(batch), int(context))


def _check_counts(**counts: int) -> None:
  for name, value in counts.items():
    if isinstance(value, bool) or value < 1 or value != int(value):
      raise errors.PlanError(
        f'{name} = {value!r}: expected a whole number of at least 1'
      )


def _check_context(workload: Transformer, name: str, tokens: int) -> None:
  if tokens > workload.max_context:
    raise errors.PlanError(
      f'{name} = {tokens} is beyond the context of {workload.name}, '
      f'{workload.max_context} tokens'
    )


def _one_of(what: str, name: str, names: list[str]) -> str:
  if name in names:
    return name
  near = difflib.get_close_matches(name, names, 1, 0.4)
  hint = f'; did you mean {near[0]!r}?' if near else ''
  raise errors.PlanError(
    f'no {what} {name!r}{hint} (expected one of {", ".join(names)})'
  )
