"""`make_plan`: the mesh by enumeration, the placement by cutting planes."""

import functools
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from diffmem import errors
from diffmem.planning import model, refusal, search, summary
from diffmem.planning import objective as objective_lib
from diffmem.planning import space as space_lib
from diffmem.planning.constraints import Constraints
from diffmem.planning.result import PlanOutcome, PlanResult
from diffmem.system import FittedSystem, System, to_numpy
from diffmem.workloads import (
  Decoding,
  Training,
  Transformer,
  load_workload,
  machine_of,
)

# Tokens of a step of Llama 3 405B's main phase (arXiv:2407.21783, section
# 3.4.1), and sequences decoded at once: what is planned unless asked.
GLOBAL_BATCH_TOKENS = 16 * 2**20
BATCH_PER_CHIP = 32
PHASES = ('train', 'decode')


def make_plan(
  system: System | FittedSystem,
  workload: Transformer | str,
  *,
  chips: int,
  phase: str = 'train',
  objective: str | Mapping[str, float] = 'step_time_s',
  global_batch_tokens: int = GLOBAL_BATCH_TOKENS,
  seq_len: int = 8192,
  batch: int | None = None,
  context: int = 8192,
  usd_per_chip_hour: float | None = None,
  usd_per_kWh: float | None = None,
  top: int = 5,
  dtype: str | Sequence[str] = 'bfloat16',
  usable: float = 0.9,
  constraints: Constraints | None = None,
  details: bool = True,
  verify: bool = False,
  on_progress: search.Progress | None = None,
) -> PlanResult:
  """Chooses mesh, micro-batch, recompute, sharding and placement.

  An interrupt (Ctrl-C) while it searches gives the best plans that are known
  by then, with the gap that is proven by then; a second one ends it.

  Args:
    system: one device with what it reaches; a fitted one gives intervals.
    workload: a transformer, or what `load_workload` takes.
    chips: devices.
    phase: 'train' or 'decode'.
    objective: 'step_time_s', 'tokens_per_s', 'energy_per_token_J',
      'cost_per_token_usd', or weights by name (`objective.objective_of`).
    global_batch_tokens: tokens of a training step.
    seq_len: tokens of a training sequence.
    batch: sequences that are decoded at once; None for 32 for each chip.
    context: tokens of each in the KV cache.
    usd_per_chip_hour: rent, for the cost per token.
    usd_per_kWh: electricity, on top of the rent.
    top: how many plans.
    dtype: number format of the matrix products, or several to choose from.
    usable: share of each memory that tensors may fill.
    constraints: what is fixed, forbidden or limited.
    details: whether elasticities, margins and the decision under the ensemble
      are computed.
    verify: whether the strongest elasticities are checked by solving the
      placement again, 1 % up and down (some seconds).
    on_progress: called with a stage's name, how much is done and in all.

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
  constraints = constraints or Constraints()
  limited = to_numpy(constraints.machine(system, chips))
  step = (
    _training(workload, global_batch_tokens, seq_len)
    if _is_training(phase)
    else _decoding(workload, batch, context, chips)
  )
  asked = objective_lib.objective_of(
    objective, chips=chips, tokens=_tokens(step),
    usd_per_chip_hour=usd_per_chip_hour, usd_per_kWh=usd_per_kWh,
  )  # fmt: skip
  formats = [dtype] if isinstance(dtype, str) else list(dtype)
  if not formats:
    raise errors.PlanError('dtype: no number format is named')
  machines = [
    functools.partial(machine_of, limited, dtype=d, usable=usable)
    for d in dict.fromkeys(formats)
  ]
  jobs = [model.Job(workload, step, m(chips), asked) for m in machines]
  request = summary.request(
    limited, jobs, phase, chips, usd_per_chip_hour, usd_per_kWh, constraints
  )
  refused = refusal.of_network(limited, jobs[0], request, chips)
  if refused:
    return refused
  whole = space_lib.space_of(workload, step, chips, jobs[0].machine)
  space = constraints.apply(whole)
  if not len(space):
    return refusal.of_mesh(
      jobs[0], request, chips, space, machines[0], constraints
    )
  jobs = [_with_homes(limited, job, space, constraints) for job in jobs]
  found = search.search(limited, jobs, space, chips, top, on_progress)
  if not found.solved:
    return refusal.of_memory(system, found, request, chips, constraints, began)
  with jax.enable_x64(True):
    answer = summary.answer(
      found,
      _limited_ensemble(constraints, ensemble, chips),
      summary.Prices(chips, usd_per_chip_hour, usd_per_kWh),
      details=details,
      verify=verify,
    )
    searched = summary.searched(found, began)
  whole = found.is_whole
  return PlanResult(
    outcome=PlanOutcome.PLANNED if whole else PlanOutcome.INTERRUPTED,
    help='' if whole else summary.interrupted_help(found),
    request=request,
    search=searched,
    **answer,
  )


def _with_homes(system, job, space, constraints) -> model.Job:
  """The job with its groups' homes, which need the groups' names."""
  if not constraints.homes:
    return job
  lowered = model.lower(job, space.at(np.array([0])))
  homes = constraints.homes_of(lowered.groups, job.machine)
  return job._replace(homes=homes)


def _limited_ensemble(constraints, ensemble, chips):
  """Every draw of the fit, under the same limits."""
  if ensemble is None:
    return None
  values = {n: np.asarray(v) for n, v in ensemble.values().items()}
  limited = constraints.machine(
    ensemble.with_values({n: v.flat[0] for n, v in values.items()}), chips
  ).values()
  changed = {
    n: np.minimum(values[n], float(limited[n]))
    for n in values
    if float(limited[n]) != values[n].flat[0]
  }
  return ensemble.with_values(changed) if changed else ensemble


def _tokens(step: Training | Decoding) -> float:
  return step.tokens if isinstance(step, Training) else float(step.batch)


def _is_training(phase: str) -> bool:
  errors.check_name('phase', phase, PHASES)
  return phase == 'train'


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
  batch = BATCH_PER_CHIP * chips if batch is None else batch
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
