"""A planner's plans as jobs whose kernels can be priced.

A training plan becomes a row of a table of runs, a decode plan a serving job
with answers so long that prompts take no time.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffmem import errors
from diffmem.planning.result import Plan
from diffmem.runs import finalist_laws, serving_engine, serving_steps
from diffmem.runs.machines import Machines
from diffmem.runs.serving_job import Job, Pool
from diffmem.runs.serving_stack import NAMES, Stacks
from diffmem.runs.training import TrainingStacks, levels, predict_parts
from diffmem.runs.training_parts import parts_of
from diffmem.runs.training_rows import TrainingRun
from diffmem.workloads import Transformer
from diffmem.workloads.train_kernels import Mesh


class Priced(NamedTuple):
  """Plans by kernels.

  Attributes:
    time_s: step times, everything near, software included [plan] [s].
    log_sd: standard deviation of their logarithm.
    left_out: of each plan, what its kernels leave out, in words.
  """

  time_s: np.ndarray
  log_sd: float
  left_out: list[list[str]]


def price_training(
  plans: Sequence[Plan],
  asked: Mapping[str, Any],
  model: Transformer,
  name: str,
  machines: Machines,
  stacks: TrainingStacks,
  stack: str,
) -> Priced:
  """Step times of training plans.

  Args:
    plans: of one result.
    asked: its request.
    model: what was planned.
    name: accelerator, in the catalog.
    machines: fitted systems.
    stacks: fitted software.
    stack: which of it; '' for the mean of all.
  """
  node = machines.node_devices(name)
  runs = [
    _training_run(plan, asked, model, name, node, stack) for plan in plans
  ]
  parts = parts_of(runs, machines)
  level = next(l for l in reversed(levels(runs[0])) if l in stacks.log_sd)
  left_out = [_training_left_out(plan) for plan in plans]
  return Priced(
    predict_parts(runs, parts, stacks), stacks.log_sd[level], left_out
  )


def _training_run(plan: Plan, asked, model, name, node, stack) -> TrainingRun:
  axes = dict(plan.mesh)
  tensor = axes['tensor']
  mesh = Mesh(
    devices=asked['chips'],
    per_node=node,
    tensor=tensor,
    pipeline=axes['pipeline'],
    interleave=axes['interleave'],
    context=axes.get('context', 1),
    # Ranks that share the experts are data ranks and tensor ranks.
    expert=axes['expert'] * tensor if model.experts else 1,
    sharded=axes['fsdp'],
    optimizer_sharded=True,
    sequence=tensor > 1,
  )
  if plan.number_format != model.formats.of('weights'):
    model = model.with_weights(plan.number_format)
  return TrainingRun(
    index=0, machine=name,
    stack=f'{stack}-experts' if stack and model.experts else stack,
    model=model, mesh=mesh, seq_len=asked['seq_len'],
    micro_batch=plan.micro_batch, sequences=asked['sequences'],
    # A fused core keeps no scores, which is all that 'selective' saves.
    recompute='full' if plan.recompute == 'full' else 'none',
    is_fused=True, trains_weights=True, is_pretraining=True, is_complete=True,
    observed_s=math.nan, source='', group='',
  )  # fmt: skip


def _training_left_out(plan: Plan) -> list[str]:
  if plan.recompute != 'none':
    return []
  return ['kept scores: kernels have a fused core, which keeps none']


def price_decode(
  plans: Sequence[Plan],
  asked: Mapping[str, Any],
  model: Transformer,
  name: str,
  machines: Machines,
  stacks: Stacks,
  stack: str,
) -> Priced:
  """Step times of decode plans; arguments as of `price_training`.

  Raises:
    SpecError: a job that the kernels do not know, and why.
  """
  context, batch = asked['context'], asked['batch']
  jobs = []
  for plan in plans:
    axes = plan.mesh
    is_whole = (
      finalist_laws.shardings_of(plan, model).get('experts') == 'expert'
    )
    slices = axes['tensor'] if model.experts and not is_whole else 1
    groups = axes['expert'] * axes['tensor'] // slices if model.experts else 1
    pool = Pool(
      workers=axes['data'], tensor=axes['tensor'], data=axes['expert'],
      pipeline=1, expert_tensor=slices, expert=groups,
    )  # fmt: skip
    # Answers so long that prompts take no time, with the asked context on
    # average; another pool does the prompts.
    jobs.append(
      Job(
        model=model,
        accelerator=name,
        backend=stack,
        prefill=pool._replace(),
        decode=pool,
        input_tokens=1.0,
        output_tokens=2.0 * (context - 1.0),
        concurrency=float(batch),
      )
    )  # fmt: skip
  priced = serving_steps.priced(jobs, machines)
  refused = [p for p in priced if isinstance(p, str)]
  if refused:
    raise errors.SpecError(refused[0])
  # The caches have places already, in whatever memory the plan says.
  priced = [p._replace(most_sequences=math.inf) for p in priced]
  overheads = stacks.of(stack)
  columns = {n: np.full(len(jobs), overheads[n]) for n in NAMES}
  times = serving_engine.times(serving_engine.batch_of(jobs, priced), columns)
  return Priced(times.tpot_s, stacks.log_sd['tpot_s'], [[] for _ in plans])


def _decode_left_out(plan: Plan, model: Transformer) -> list[str]:
  stored, planned = model.formats.of('weights'), plan.number_format
  if stored == planned:
    return []
  return [f'products in {planned}: priced in {stored}, as the model is stored']
