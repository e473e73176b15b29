"""Calculon's validation cases: our prediction, and the plan that we choose.

Times are of whole runs as `diffmem.runs` prices them: kernels by the fitted
machine, software by the fitted stacks. The eight cases were never fitted; other
runs of the same software on the same cluster were.

The planner's own choice for the same devices and batch, in HBM alone as
published, is priced in the same way as the published one, so that the two are
compared by one model; nobody has measured it.
"""

import dataclasses
import math
import pathlib
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from diffmem import planning
from diffmem.runs.machines import Machines
from diffmem.runs.software import Software
from diffmem.runs.training import predict_training_runs
from diffmem.runs.training_rows import TrainingRun
from diffmem.system import System
from diffmem.workloads import (
  RECOMPUTE,
  Choices,
  Training,
  Transformer,
  load_workload,
)
from diffmem.workloads.memory import memory_of
from diffmem.workloads.train_kernels import Mesh

_FILE = pathlib.Path(__file__).with_suffix('.toml')


class Row(NamedTuple):
  """One case.

  Attributes:
    name: of the model.
    devices: GPUs.
    recompute: 'full' or 'selective'.
    measured_s: of a batch, as published [s].
    predicted_s: ours [s].
  """

  name: str
  devices: int
  recompute: str
  measured_s: float
  predicted_s: float

  @property
  def error(self) -> float:
    """Relative, signed."""
    return self.predicted_s / self.measured_s - 1.0


class MemoryRow(NamedTuple):
  """Memory of one GPU, published and ours [GiB]."""

  name: str
  devices: int
  states_GiB: float
  our_states_GiB: float
  activations_GiB: float
  our_activations_GiB: float


class Choice(NamedTuple):
  """What the planner chooses where the published configuration is known.

  Attributes:
    name: of the model.
    devices: GPUs.
    published: its configuration, in words.
    published_s: predicted for the faster published one [s].
    chosen: the planner's, in words.
    chosen_s: predicted in the same way [s].
    certified_gap: of the planner's search, in its own laws.
    configurations: that it searched.
    seconds: processor time of the search.
  """

  name: str
  devices: int
  published: str
  published_s: float
  chosen: str
  chosen_s: float
  certified_gap: float
  configurations: int
  seconds: float


def predictions(
  machines: Machines, software: Software, names: Sequence[str] = ()
) -> list[Row]:
  """All published cases, or those of some models."""
  document = _document()
  cases = [
    one for one in _cases(document) if not names or one[0]['model'] in names
  ]
  runs = [
    _run(i, document, case, _mesh(case, recompute), recompute)
    for i, (case, recompute) in enumerate(cases)
  ]
  answers = predict_training_runs(runs, machines, software.training)
  return [
    Row(
      case['model'],
      case['devices'],
      recompute,
      case[f'measured_{recompute}_s'],
      answer.predicted,
    )
    for (case, recompute), answer in zip(cases, answers, strict=True)
  ]


def memory() -> list[MemoryRow]:
  """Memory of each model under sequence parallelism, selective recompute.

  Ours is of the fullest stage, which has the embeddings; attention scores are
  not kept, and so recomputing them is all that `selective` does.
  """
  document = _document()
  rows = []
  for case in document['case']:
    choices = Choices.of(
      tensor=float(case['tensor']),
      pipeline=float(case['pipeline']),
      interleave=float(case['interleave']),
      micro_batch=float(case['micro_batch']),
      recompute=float(RECOMPUTE.index('selective')),
    )
    found = memory_of(
      load_workload(case['model']),
      Training(document['seq_len'], case['sequences']),
      choices,
    )
    states_B = found.weights_B + found.gradients_B + found.optimizer_B
    rows.append(
      MemoryRow(
        case['model'],
        case['devices'],
        case['states_GiB'],
        float(states_B) / 2**30,
        case['activations_GiB'],
        float(found.activations_B) / 2**30,
      )
    )
  return rows


def choice(name: str, machines: Machines, software: Software) -> Choice:
  """The planner's configuration for one model's devices and batch.

  Raises:
    ValueError: the planner finds none.
  """
  document = _document()
  case = next(c for c in document['case'] if c['model'] == name)
  began = time.process_time()
  result = planning.make_plan(
    near_alone(machines[document['machine']].system),
    name,
    chips=case['devices'],
    global_batch_tokens=case['sequences'] * document['seq_len'],
    seq_len=document['seq_len'],
    top=1,
  )
  seconds = time.process_time() - began
  if not result.plans:
    raise ValueError(f'{name}: {result.help}')
  plan = result.plans[0]
  mesh = _planned_mesh(case, plan.mesh)
  run = _run(0, document, case, mesh, plan.recompute)._replace(
    micro_batch=plan.micro_batch
  )
  published = _run(1, document, case, _mesh(case, 'selective'), 'selective')
  ours, theirs = predict_training_runs(
    [run, published], machines, software.training
  )
  return Choice(
    name,
    case['devices'],
    _words(published),
    theirs.predicted,
    _words(run) + _shared(plan),
    ours.predicted,
    result.search.certified_gap,
    result.search.configurations,
    seconds,
  )


def models() -> list[str]:
  """Models of the cases."""
  return [case['model'] for case in _document()['case']]


def _document() -> dict[str, Any]:
  return tomllib.loads(_FILE.read_text())


def _cases(document) -> Iterator[tuple[dict[str, Any], str]]:
  for case in document['case']:
    for recompute in ('full', 'selective'):
      yield case, recompute


def _mesh(case, recompute: str) -> Mesh:
  return Mesh(
    devices=case['devices'],
    tensor=case['tensor'],
    pipeline=case['pipeline'],
    interleave=case['interleave'],
    sequence=recompute == 'selective',
  )


def _planned_mesh(case, mesh: Mapping[str, int]) -> Mesh:
  return Mesh(
    devices=case['devices'],
    tensor=mesh['tensor'],
    pipeline=mesh['pipeline'],
    interleave=mesh['interleave'],
    context=mesh.get('context', 1),
    sharded=mesh['fsdp'],
    optimizer_sharded=mesh['fsdp'] == 1,
    sequence=mesh['tensor'] > 1,
  )


def _run(index, document, case, mesh: Mesh, recompute: str) -> TrainingRun:
  return TrainingRun(
    index=index,
    machine=document['machine'],
    stack=document['stack'],
    model=plain(load_workload(case['model'])),
    mesh=mesh,
    seq_len=document['seq_len'],
    micro_batch=case['micro_batch'],
    sequences=case['sequences'],
    recompute=recompute,
    # Megatron-LM of 2022 writes its attention scores.
    is_fused=False,
    trains_weights=True,
    is_pretraining=True,
    is_complete=True,
    observed_s=math.nan,
    source='',
    group='',
  )


def _words(run: TrainingRun) -> str:
  mesh = run.mesh
  axes = {
    't': mesh.tensor, 'c': mesh.context, 'f': mesh.sharded,
    'd': mesh.data // mesh.sharded, 'p': mesh.pipeline, 'v': mesh.interleave,
  }  # fmt: skip
  spread = ' '.join(f'{k}{v}' for k, v in axes.items() if v > 1)
  return f'{spread}, micro-batch {run.micro_batch}, {run.recompute}'


def _shared(plan: planning.Plan) -> str:
  """Layers that the plan shares by tokens; they are priced by matrices."""
  kinds = getattr(plan, 'sharding', None) or {}
  other = [f'{kind} by {by}' for kind, by in kinds.items() if by != 'tensor']
  return f'; {", ".join(other)} (priced as by tensor)' if other else ''


def near_alone(system: System) -> System:
  """The system with HBM, its cache and the networks; nothing is offloaded."""
  kept = [t for t in system.tiers if t.is_cache or t.span > 1 or not t.via]
  kept = [t for t in kept if t.span > 1 or not t.link]
  return dataclasses.replace(system, tiers=tuple(kept))


def plain(model: Transformer) -> Transformer:
  """The shape without biases: what the software's factors were fitted over.

  Tables of runs name no biases, so that their passes over memory are part of
  the fitted factors; pricing them again would count them twice.
  """
  bare = {'bias': False, 'output_bias': False}
  return model.model_copy(
    update={
      'attention': model.attention.model_copy(update=bare),
      'mlp_bias': False,
      'norm_bias': False,
    }
  )
