"""A training plan as flags of MaxText.

Names and meanings: `src/maxtext/configs/base.yml` of AI-Hypercomputer/maxtext
at commit 000b810 (2026). The axis `tensor_sequence` is MaxText's tensor
parallelism with a residual stream that is split by tokens, which is what a
plan's `tensor` is; `shard_optimizer_over_data` is ZeRO stage 1.
"""

from typing import NamedTuple

import numpy as np

from diffmem import errors
from diffmem.planning.export import launch
from diffmem.planning.export.launch import Launch, Value
from diffmem.planning.result import Plan
from diffmem.workloads import AXES, Training
from diffmem.workloads import stage as stage_lib

# Axis of a plan -> MaxText's, inner first.
_NAMES = {
  'tensor': 'tensor_sequence', 'context': 'context', 'expert': 'expert',
  'fsdp': 'fsdp', 'data': 'data', 'pipeline': 'pipeline',
}  # fmt: skip
# Flash attention never keeps scores: what a plan calls 'selective'.
_REMAT = {
  'none': 'minimal_with_context', 'selective': 'minimal_with_context',
  'full': 'full',
}  # fmt: skip
_OFFLOADED = 'minimal_offloaded'


class TrainingJob(NamedTuple):
  """The fields of a plan, and of its job, that MaxText has flags for.

  Attributes:
    within: ranks of each axis within a slice, inner first.
    across: ranks of each axis across slices.
    interleave: model chunks of each stage.
    micro_batch: sequences of a micro-batch on a data rank.
    micro_batches: of a step.
    seq_len: tokens of a sequence.
    recompute: 'selective' or 'full'.
    chunk_layers: layers of a model chunk; 0 without a pipeline.
    activations_away: whether all that is kept lives with the host.
    optimizer_away: the same of the optimizer.
    weights_away: the same of the weights.
  """

  within: tuple[int, ...]
  across: tuple[int, ...]
  interleave: int
  micro_batch: int
  micro_batches: int
  seq_len: int
  recompute: str
  chunk_layers: int
  activations_away: bool
  optimizer_away: bool
  weights_away: bool


def to_maxtext(
  plan: Plan,
  training: Training,
  layers: int,
  chips_per_slice: int | None = None,
) -> Launch:
  """A plan as flags, such as `Launch.command('... base.yml', '=')` shows.

  Args:
    plan: of a training step.
    training: what was planned.
    layers: of the model.
    chips_per_slice: chips that ICI joins; None for all of them.

  Raises:
    PlanError: a plan for serving, or slices that cut an axis unevenly.
  """
  if plan.recompute is None:
    raise errors.PlanError('MaxText trains; this is a plan for serving')
  ranks = [plan.mesh.get(axis, 1) for axis in AXES]
  within = _within(ranks, chips_per_slice)
  away = launch.away_shares(plan)
  stages, chunks = plan.mesh.get('pipeline', 1), plan.mesh.get('interleave', 1)
  data_ranks = np.prod(
    [plan.mesh.get(a, 1) for a in ('expert', 'fsdp', 'data')]
  )

  def wholly(group):
    return abs(sum(away.get(group, {}).values()) - 1.0) < 1e-9

  job = TrainingJob(
    within=tuple(within),
    across=tuple(r // w for r, w in zip(ranks, within, strict=True)),
    interleave=chunks,
    micro_batch=plan.micro_batch,
    micro_batches=int(training.sequences // (plan.micro_batch * data_ranks)),
    seq_len=training.seq_len,
    recompute='full' if plan.recompute == 'full' else 'selective',
    chunk_layers=layers // (stages * chunks) if stages > 1 else 0,
    activations_away=wholly(stage_lib.ACTIVATIONS),
    optimizer_away=wholly(stage_lib.OPTIMIZER),
    weights_away=all(wholly(g) for g in launch.WEIGHTS if g in away),
  )
  return Launch(flags_of(job), 1, tuple(_left_out(plan, job, away, layers)))


def flags_of(job: TrainingJob) -> dict[str, Value]:
  """The flags of these fields."""
  flags: dict[str, Value] = {}
  for axis, inside, outside in zip(AXES, job.within, job.across, strict=True):
    flags[f'ici_{_NAMES[axis]}_parallelism'] = inside
    flags[f'dcn_{_NAMES[axis]}_parallelism'] = outside
  ranks = dict(zip(AXES, np.multiply(job.within, job.across), strict=True))
  # MaxText counts sequences by device, whoever shares them.
  sharing = ranks['tensor'] * ranks['context'] * ranks['pipeline']
  at_once = job.micro_batches if ranks['pipeline'] > 1 else 1
  flags |= {
    'per_device_batch_size': float(job.micro_batch * at_once / sharing),
    'gradient_accumulation_steps': job.micro_batches // at_once,
    'max_target_length': job.seq_len,
    'remat_policy': _OFFLOADED
    if job.activations_away
    else _REMAT[job.recompute],
    'shard_optimizer_over_data': bool(ranks['data'] > 1),
    'optimizer_memory_host_offload': job.optimizer_away,
    'parameter_memory_host_offload': job.weights_away,
  }
  if ranks['pipeline'] > 1:
    flags |= {
      'num_pipeline_microbatches': job.micro_batches,
      'num_pipeline_repeats': job.interleave,
      'num_layers_per_pipeline_stage': job.chunk_layers,
    }
  return flags


def job_of(flags: dict[str, Value]) -> TrainingJob:
  """The fields of these flags; undoes `flags_of`.

  Raises:
    PlanError: a flag is missing.
  """
  try:
    return _job_of(flags)
  except KeyError as error:
    raise errors.PlanError(f'MaxText flags: {error} is missing') from None


def _job_of(flags) -> TrainingJob:
  within, across = (
    tuple(int(flags[f'{level}_{_NAMES[a]}_parallelism']) for a in AXES)
    for level in ('ici', 'dcn')
  )
  ranks = dict(zip(AXES, np.multiply(within, across).tolist(), strict=True))
  sharing = ranks['tensor'] * ranks['context'] * ranks['pipeline']
  piped = ranks['pipeline'] > 1
  micro_batches = (
    int(flags['num_pipeline_microbatches'])
    if piped
    else int(flags['gradient_accumulation_steps'])
  )
  sequences = flags['per_device_batch_size'] * sharing
  return TrainingJob(
    within=within,
    across=across,
    interleave=int(flags['num_pipeline_repeats']) if piped else 1,
    micro_batch=round(sequences / (micro_batches if piped else 1)),
    micro_batches=micro_batches,
    seq_len=int(flags['max_target_length']),
    recompute='full' if flags['remat_policy'] == 'full' else 'selective',
    chunk_layers=int(flags['num_layers_per_pipeline_stage']) if piped else 0,
    activations_away=flags['remat_policy'] == _OFFLOADED,
    optimizer_away=bool(flags['optimizer_memory_host_offload']),
    weights_away=bool(flags['parameter_memory_host_offload']),
  )


def _within(ranks: list[int], slice_chips: int | None) -> list[int]:
  """Ranks of each axis within a slice, inner first."""
  room = int(np.prod(ranks)) if slice_chips is None else slice_chips
  within = []
  for axis, count in zip(AXES, ranks, strict=True):
    inside = min(count, room)
    if count % inside or room % inside:
      raise errors.PlanError(
        f'slices of {slice_chips} chips cut {axis} = {count} unevenly; take '
        'slices that hold a whole number of its ranks'
      )
    within.append(inside)
    room //= inside
  return within


def _left_out(plan, job: TrainingJob, away, layers):
  found = launch.strategies(plan)
  for kind, value in found._asdict().items():
    if value != 'tensor':
      yield f'{kind} by {value}: MaxText has one way for its tensor ranks'
  if plan.recompute == 'none':
    yield (
      'recompute none: no policy keeps attention scores; '
      'minimal_with_context keeps all products'
    )
  if job.activations_away and job.recompute == 'full':
    yield 'recompute full of activations with the host: minimal_offloaded'
  if plan.mesh.get('pipeline', 1) > 1:
    yield (
      "one forward, one backward: MaxText's pipeline runs all forward passes "
      'first, and keeps more activations'
    )
    if layers != (
      job.chunk_layers * plan.mesh['pipeline'] * plan.mesh.get('interleave', 1)
    ):
      yield f'{layers} layers do not divide by the stages and their chunks'
  flagged = {
    stage_lib.ACTIVATIONS: job.activations_away,
    stage_lib.OPTIMIZER: job.optimizer_away,
    **dict.fromkeys(launch.WEIGHTS, job.weights_away),
  }
  for group, row in away.items():
    for memory, share in row.items():
      if not flagged.get(group, False):
        yield (
          f'{group}: {100 * share:.0f} % in {memory}; MaxText places whole '
          'optimizers, weights or activations'
        )
