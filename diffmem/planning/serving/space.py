"""Workers of a serving fleet: which there are, and what a step of each takes.

A worker is one copy of the model on `tensor` x `expert` chips; a pool is as
many workers of one kind as fit. (Copies inside a worker would be workers
again, so that the data axis is the size of the pool.) Every legal worker of at
most so many chips is taken, with every way to share each kind of layer, every
batch of a fine grid, and every piece of a prompt of a short list; one compiled
function values them all, in batches of one shape.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffmem.cost import predict
from diffmem.planning import greedy as greedy_lib
from diffmem.planning import objective as objective_lib
from diffmem.system import System
from diffmem.workloads import (
  SHARDING,
  Choices,
  Decoding,
  Lowered,
  Machine,
  Transformer,
  demand,
)
from diffmem.workloads import mesh as mesh_lib
from diffmem.workloads.mixed import lower_mixed
from diffmem.workloads.prefill import Prompt, chunk_of

# Sequences of an attention rank: all up to 16, then steps of a tenth.
_FINE = 16
_GROWTH = 1.1
_MOST_SEQUENCES = 4096
# Prompts that an attention rank of a prefill worker takes at once.
PROMPTS = (1, 2, 4, 8)
# Tokens of a prompt's piece that a decode step carries; and whole prompts.
CHUNKS = (256, 512, 1024, 2048, 4096, 8192)
_BATCH = 4096
# It runs a few times: compiled quickly, as `planning.model` does.
_QUICK = {
  'xla_backend_optimization_level': 0,
  'xla_cpu_use_fusion_emitters': False,
}


class Job(NamedTuple):
  """What is served; hashable.

  Attributes:
    model: the transformer.
    machine: memories, levels and engine.
    input_len: tokens of a prompt.
    output_len: tokens of an answer.
    cached: tokens of a prompt that are in the prefix cache.
  """

  model: Transformer
  machine: Machine
  input_len: int
  output_len: int
  cached: int

  @property
  def new(self) -> int:
    """Tokens of a prompt that are computed."""
    return self.input_len - self.cached

  @property
  def context(self) -> int:
    """Mean tokens of a sequence that decodes."""
    return self.input_len + self.output_len // 2

  @property
  def program(self) -> '_Program':
    """What a step is compiled for."""
    return _Program(self.model, self.machine, self.context)


class _Program(NamedTuple):
  """What a step is compiled for; hashable."""

  model: Transformer
  machine: Machine
  context: int


class Workers(NamedTuple):
  """Kinds of workers, arrays [worker].

  Attributes:
    choices: `tensor`, `expert` and the indices of `SHARDING` [worker].
  """

  choices: dict[str, np.ndarray]

  def __len__(self) -> int:
    return len(self.choices['tensor'])

  @property
  def chips(self) -> np.ndarray:
    """Devices of a worker."""
    return self.choices['tensor'] * self.choices['expert']

  @property
  def ranks(self) -> np.ndarray:
    """Ranks that work on prompts of their own."""
    return self.choices['expert']

  @property
  def attention_ranks(self) -> np.ndarray:
    """Ranks that decode sequences of their own."""
    own = self.choices['attention_by'] > 0
    return self.ranks * np.where(own, self.choices['tensor'], 1.0)

  def at(self, index: np.ndarray) -> Choices:
    """Some of the workers, as the workloads take them."""
    return Choices.of(**{k: v[index] for k, v in self.choices.items()})


class Rows(NamedTuple):
  """Steps that are asked for, arrays [row].

  Attributes:
    worker: index into the workers.
    sequences: that decode, on the whole worker.
    piece: index into the pieces of prompts.
    prompts: pieces in the step, on the whole worker.
  """

  worker: np.ndarray
  sequences: np.ndarray
  piece: np.ndarray
  prompts: np.ndarray

  def select(self, index: np.ndarray) -> 'Rows':
    """Some of the rows."""
    return Rows(*(x[index] for x in self))


class Steps(NamedTuple):
  """What steps take, arrays [row].

  Attributes:
    time_s: under the greedy placement; infinite where there is no room [s].
    least_s: no placement is faster: with everything near, or what the links
      to far memories need for what must be there, the longer [s].
    energy_J: of the worker's devices beyond what they draw at rest, under the
      greedy placement [J].
    least_J: the same with everything near: no placement needs less [J].
    overflow_B: bytes of a device for which there is no room [B].
    spilled_B: bytes of a device that are not in the near memory [B].
    chips: devices of the worker.
  """

  time_s: np.ndarray
  least_s: np.ndarray
  energy_J: np.ndarray
  least_J: np.ndarray
  overflow_B: np.ndarray
  spilled_B: np.ndarray
  chips: np.ndarray | None = None

  def select(self, index: np.ndarray) -> 'Steps':
    """Some of the rows."""
    return Steps(*(None if x is None else x[index] for x in self))


def workers_of(model: Transformer, machine: Machine, chips: int) -> Workers:
  """All legal workers of at most so many chips; one chip is always legal."""
  most = min(chips, max(machine.spans, default=1))
  sizes = np.arange(1, most + 1)
  one = np.ones_like(sizes)
  experts = model.experts.count if model.experts else 1
  legal = mesh_lib.rules(model, tensor=sizes, expert=one, pipeline=one)
  tensors = sizes[np.logical_and.reduce(list(legal.values()))]
  kinds = [[0, 1]] * len(SHARDING)
  grids = np.meshgrid(tensors, sizes[experts % sizes == 0], *kinds)
  names = ('tensor', 'expert', *SHARDING)
  flat = {n: g.ravel() for n, g in zip(names, grids, strict=True)}
  tensor, expert = flat['tensor'], flat['expert']
  joined = expert * np.where(flat['experts_by'] > 0, tensor, 1)
  kept = (tensor * expert <= most) & (experts % joined == 0)
  kept &= _aligned(tensor, expert, machine.spans) & _distinct(model, flat)
  return Workers({n: g[kept].astype(float) for n, g in flat.items()})


def _aligned(tensor, expert, spans) -> np.ndarray:
  """No axis straddles a domain of a level unevenly."""
  aligned = np.ones(tensor.shape, bool)
  for stride in (tensor, tensor * expert):
    for span in spans:
      aligned &= (span % stride == 0) | (stride % span == 0)
  return aligned


def _distinct(model: Transformer, flat: Mapping[str, np.ndarray]) -> np.ndarray:
  """No index but 0 where it changes nothing."""
  several = flat['tensor'] > 1
  has_mlp = bool(model.dense_layers or model.shared_ff)
  distinct = several | (flat['attention_by'] == 0)
  distinct &= (several & has_mlp) | (flat['mlp_by'] == 0)
  has_experts = model.experts is not None
  return distinct & ((several & has_experts) | (flat['experts_by'] == 0))


def batch_sizes(most: int = _MOST_SEQUENCES) -> np.ndarray:
  """Sequences of an attention rank that are tried."""
  count = int(np.log(most / _FINE) / np.log(_GROWTH)) + 1
  grown = np.round(_FINE * _GROWTH ** np.arange(1, count + 1))
  sizes = np.unique(np.concatenate([np.arange(1, _FINE + 1), grown]))
  return sizes[sizes <= most]


def pieces_of(job: Job) -> list[tuple[int, Prompt]]:
  """Pieces of a prompt that are tried, by their tokens; the last is whole."""
  tokens = [t for t in CHUNKS if t < job.new] + [job.new]
  return [(t, chunk_of(job.model, job.new, job.cached, t)) for t in tokens]


def evaluate(
  system: System,
  job: Job,
  workers: Workers,
  pieces: list[tuple[int, Prompt]],
  rows: Rows,
  on_progress: Callable[[int, int], None] | None = None,
) -> Steps:
  """Time and energy of every row, in float32.

  Args:
    system: the machine, numpy leaves.
    job: what is served.
    workers: kinds of workers.
    pieces: of prompts.
    rows: steps that are asked for.
    on_progress: called with rows done and in all.
  """
  count, found = len(rows.worker), []
  for first in range(0, count, _BATCH):
    at = np.minimum(np.arange(first, first + _BATCH), count - 1)
    arguments = _arguments(workers, pieces, rows.select(at))
    with jax.enable_x64(False):
      steps = jax.device_get(_evaluate(system, job.program, *arguments).steps)[
        :-1
      ]
    found.append([np.asarray(x, float) for x in steps])
    if on_progress:
      on_progress(min(first + _BATCH, count), count)
  joined = [np.concatenate(c)[:count] for c in zip(*found, strict=True)]
  steps = Steps(*joined)
  chips = workers.chips[rows.worker]
  fits = steps.overflow_B <= 0
  return steps._replace(
    time_s=np.where(fits, steps.time_s, np.inf),
    least_s=np.where(fits, steps.least_s, np.inf),
    energy_J=steps.energy_J * chips,
    least_J=steps.least_J * chips,
    chips=chips,
  )


def placed_rows(
  system: System,
  job: Job,
  workers: Workers,
  pieces: list[tuple[int, Prompt]],
  rows: Rows,
) -> tuple[Lowered, np.ndarray]:
  """A few rows, lowered, with their greedy placements [row group memory].

  The same program as `evaluate`, so that nothing is compiled for it.
  """
  count = len(rows.worker)
  at = np.minimum(np.arange(_BATCH), count - 1)
  batch = rows.select(at)
  arguments = _arguments(workers, pieces, batch)
  with jax.enable_x64(False):
    found = jax.device_get(_evaluate(system, job.program, *arguments))
  return jax.tree.map(
    lambda x: np.asarray(x, float)[:count], (found.lowered, found.placement)
  )


def _arguments(workers: Workers, pieces, batch: Rows) -> tuple:
  """Arguments of the compiled function, in float32."""
  table = jax.tree.map(lambda *x: np.array(x), *(p for _, p in pieces))
  prompt = jax.tree.map(lambda x: x[batch.piece], table)
  return jax.tree.map(
    np.float32,
    (workers.at(batch.worker), batch.sequences, prompt, batch.prompts),
  )


class _Evaluated(NamedTuple):
  """Rows, with what they were lowered to."""

  steps: Steps
  lowered: Lowered
  placement: Array


@functools.partial(jax.jit, static_argnums=1, compiler_options=_QUICK)
def _evaluate(
  system: System,
  program: _Program,
  choices: Choices,
  sequences: Float[Array, ' row'],
  prompt: Prompt,
  prompts: Float[Array, ' row'],
) -> _Evaluated:
  decoding = Decoding(sequences, program.context)
  lowered = lower_mixed(
    program.model, decoding, prompt, prompts, choices, program.machine
  )
  greedy = greedy_lib.place(system, lowered)

  def value(placement):
    cost = predict(system, demand(system, lowered, placement))
    time_s = objective_lib.busy_s(lowered, cost).sum(-1)
    energy_J = objective_lib.energy_J(system, lowered, cost).sum(-1)
    return time_s, energy_J - system.static_W * time_s

  time_s, energy_J = value(greedy.placement)
  near_s, least_J = value(lowered.near_placement())
  least_s = jnp.maximum(near_s, _least_far_s(system, lowered))
  spilled_B = (lowered.size_B * (1.0 - greedy.placement[..., 0])).sum(-1)
  steps = Steps(
    time_s, least_s, energy_J, least_J, greedy.overflow_B, spilled_B
  )
  return _Evaluated(steps, lowered, greedy.placement)


def _least_far_s(system: System, lowered: Lowered) -> Float[Array, ' row']:
  """Time of the least bytes that any placement reads from far memories [s].

  What does not fit near is elsewhere: at best what is read least per byte (the
  fractional knapsack of `greedy.py`, with no buffers), read from all far
  memories at once, each at its own pace or that of its link.
  """
  room_B = greedy_lib.capacities_B(system, lowered.machine)[0]
  read_B = (lowered.group_read_B * lowered.time_weight[..., None]).sum(-2)
  density = read_B / jnp.maximum(lowered.size_B, 1.0)
  order = jnp.argsort(density, -1)
  size_B = jnp.take_along_axis(lowered.size_B, order, -1)
  density = jnp.take_along_axis(density, order, -1)
  far_B = jnp.maximum(size_B.sum(-1) + lowered.fixed_B - room_B, 0.0)
  before_B = jnp.cumsum(size_B, -1) - size_B
  moved_B = jnp.clip(far_B[..., None] - before_B, 0.0, size_B) * density
  pace_Bps: dict[str, Array] = {}
  machine = lowered.machine
  for name, via in zip(machine.memories[1:], machine.vias[1:], strict=True):
    own = jnp.asarray(system.tier(name).read_Bps)
    pace_Bps[via or name] = pace_Bps.get(via or name, 0.0) + own
  for via in set(machine.vias[1:]) & set(pace_Bps):
    pace_Bps[via] = jnp.minimum(pace_Bps[via], system.tier(via).read_Bps)
  if not pace_Bps:
    return jnp.zeros_like(far_B)
  return moved_B.sum(-1) / sum(pace_Bps.values())
