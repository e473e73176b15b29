"""Times of the steps of a serving job, by the number of sequences in a step.

Every kernel of every step of all jobs on one machine is priced in one call;
what is kept is the time of each part, so that a fit of software overheads
never goes back to kernels.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffmem.runs.machines import Machines, unknown
from diffmem.runs.pricing import Prices
from diffmem.runs.serving_job import Job, Pool
from diffmem.runs.serving_kernels import Namer
from diffmem.system import FittedSystem
from diffmem.workloads.kernels import Kernel, Sequences, Shard, forward

# Parts of a step's time: products, attention over keys, routed experts, those
# whose weights alone have four bits, collectives, streaming of small kernels.
PARTS = ('products', 'attention', 'experts', 'narrow', 'links', 'streams')
_PART_OF = {
  'gemm': 0, 'mla_bmm': 0, 'cast': 0,
  'prefill_attention': 1, 'decode_attention': 1,
  'mla_prefill': 1, 'mla_decode': 1,
  'moe': 2,
}  # fmt: skip
_NARROW, _LINKS, _STREAMS = 3, 4, 5
_WEIGHT_ONLY = ('w4a16_mxfp4', 'int4_wo')
# Formats of products whose timings include the cast of what comes in: those
# of aiconfigurator's torch_flow, not of DeepGEMM.
_WITH_CAST = (('float8', ''), ('float4', 'nvfp4'))
# Prompts that one step takes at most, and their tokens (max_num_batched_tokens
# of vLLM, chunked-prefill-size of SGLang and max_num_tokens of TensorRT-LLM
# are 8192 to 16384 on these GPUs).
PROMPTS = (1, 2, 4, 8)
STEP_TOKENS = 16384
# Share of a GPU's stated memory that weights and cache take: 0.9 by default in
# vLLM (gpu_memory_utilization), of GiB where data sheets say GB.
_MEMORY_SHARE = 0.9 * 2**30 / 1e9
# What it holds beside these: CUDA context, graphs, activations. Assumption.
_RESERVED_B = 4e9
# A run that was measured did fit: at least this share is left for its cache.
_LEAST_CACHE_SHARE = 0.04


class Steps(NamedTuple):
  """Steps of one kind of one job.

  Attributes:
    sequences: per device group, ascending [size].
    time_s: by part [size part] [s].
    small: small kernels of a step.
    casts: products in a narrow format, whose timing includes a cast.
    large: products, attention and experts of a step.
    kernels: all kernels of a step.
  """

  sequences: Float[np.ndarray, ' size']
  time_s: Float[np.ndarray, 'size part']
  small: float
  casts: float
  large: float
  kernels: float


class Priced(NamedTuple):
  """What the engine of a job needs.

  Attributes:
    decode: steps of new tokens, by sequences of a device group.
    prompt: steps of whole prompts, by prompts of a device group.
    most_sequences: that one decode replica's memory holds.
    cache_B: bytes of one prompt's cache, all layers.
    link_Bps: bandwidth at which they leave a replica.
  """

  decode: Steps
  prompt: Steps
  most_sequences: float
  cache_B: float
  link_Bps: float


def priced(jobs: Sequence[Job], machines: Machines) -> list[Priced | str]:
  """Steps of every job, or why there are none.

  Args:
    jobs: what ran.
    machines: fitted systems.
  """
  names = [machines.name_of(job.accelerator) for job in jobs]
  found: list[Priced | str] = [unknown(job.accelerator) for job in jobs]
  for name in sorted(set(names) - {''}):
    at = [i for i, n in enumerate(names) if n == name]
    answers = _on_machine(
      [jobs[i] for i in at], machines[name], machines.node_devices(name)
    )
    for i, answer in zip(at, answers, strict=True):
      found[i] = answer
  return found


def _on_machine(
  jobs: list[Job], fitted: FittedSystem, node: int
) -> list[Priced]:
  steps, kernels = {}, []
  namers = {b: Namer(fitted, b) for b in {job.backend for job in jobs}}
  for job in jobs:
    for key in _keys(job, node):
      if key not in steps:
        steps[key] = _passes(key, namers[key.backend])
        kernels += [k for one in steps[key] for ks in one.choices for k in ks]
  prices = Prices(fitted)
  prices.learn(kernels)
  read_Bps = _memory(fitted, 'read_Bps')
  tables = {
    key: _table(key, passes, prices, read_Bps) for key, passes in steps.items()
  }
  return [
    _answer(job, *(tables[key] for key in _keys(job, node)), fitted)
    for job in jobs
  ]


class _Key(NamedTuple):
  """Steps that jobs may share."""

  job: tuple
  backend: str
  pool: Pool
  is_prompt: bool
  sizes: tuple[float, ...]
  node: int


def _keys(job: Job, node: int) -> tuple[_Key, _Key]:
  """Of decode steps and of prompts."""
  shape = (job.model, job.input_tokens, job.output_tokens)
  most = max(job.concurrency / job.decode.workers / job.decode.data, 2.0)
  sizes = tuple(2.0**i for i in range(int(np.ceil(np.log2(most))) + 1))
  prompts = tuple(
    float(n) for n in PROMPTS if n == 1 or n * job.input_tokens <= STEP_TOKENS
  )
  return (
    _Key(shape, job.backend, _bare(job.decode), False, sizes, node),
    _Key(shape, job.backend, _bare(job.prefill), True, prompts, node),
  )


def _bare(pool: Pool) -> Pool:
  return pool._replace(workers=1)


class _Step(NamedTuple):
  """One step: for each kernel, those that a stack chooses from."""

  choices: tuple[tuple[Kernel, ...], ...]
  streamed_B: float
  small: float


def _passes(key: _Key, namer: Namer) -> list[_Step]:
  model, prompt, answer = key.job
  pool = key.pool
  shard = Shard(
    tensor=pool.tensor,
    expert=pool.expert,
    expert_tensor=pool.expert_tensor,
    data=pool.data,
    ranks_per_node=key.node,
  )
  found = []
  for size in key.sizes:
    if key.is_prompt:
      sequences = Sequences(size, prompt)
    else:
      sequences = Sequences(size, 1.0, float(round(prompt + answer / 2.0)))
    one = forward(model, shard, [sequences], head_rows=size)
    choices = tuple(namer(_whole(k)) for k in one.kernels)
    found.append(_Step(choices, one.streamed_B, one.small))
  return found


def _whole(kernel: Kernel) -> Kernel:
  """Counts of a shape as whole numbers, at least one."""
  shape = {
    name: max(1.0, float(round(value))) if name in _COUNTS else value
    for name, value in kernel.shape.items()
  }
  return kernel._replace(shape=shape)


_COUNTS = frozenset(
  ('m', 'n', 'k', 'num_tokens', 'inter_size', 'kv_len', 'seq_len')
)


def _table(key: _Key, passes, prices: Prices, read_Bps: float) -> Steps:
  time_s = np.zeros((len(passes), len(PARTS)))
  for i, one in enumerate(passes):
    for kernels in one.choices:
      part = _PART_OF.get(kernels[0].op, _LINKS)
      if kernels[0].shape.get('quantization') in _WEIGHT_ONLY:
        part = _NARROW
      best_s = min(prices(kernel) for kernel in kernels)
      time_s[i, part] += kernels[0].count * best_s
    time_s[i, _STREAMS] = one.streamed_B / read_Bps
  first = [kernels[0] for kernels in passes[0].choices]
  return Steps(
    sequences=np.array(key.sizes),
    time_s=np.maximum(time_s, 0.0),
    small=passes[0].small,
    casts=sum(
      k.count
      for k in first
      if k.op == 'gemm'
      and (k.shape['dtype'], k.shape['quantization']) in _WITH_CAST
    ),
    large=sum(abs(k.count) for k in first if k.op in _PART_OF),
    kernels=passes[0].small + sum(abs(k.count) for k in first),
  )


def _answer(job: Job, decode: Steps, prompt: Steps, fitted) -> Priced:
  cached = job.model.formats.part_B('kv_cache')
  return Priced(
    decode=decode,
    prompt=prompt,
    most_sequences=most_sequences(job, _memory(fitted, 'capacity_B')),
    cache_B=cached * _cache_values(job.model, job.input_tokens),
    link_Bps=_link_Bps(fitted),
  )


def most_sequences(job: Job, capacity_B: float) -> float:
  """Sequences whose cache fits beside the weights of one decode replica.

  Args:
    job: what runs.
    capacity_B: memory of one device [B].
  """
  pool, model = job.decode, job.model
  count = model.parameters()
  part_B = model.formats.part_B
  shared_B = (
    count.attention * part_B('attention')
    + count.mlp * part_B('weights')
    + (count.embeddings + count.router) * part_B('embeddings')
  )
  spread = pool.tensor * pool.pipeline
  own_B = shared_B / spread
  own_B += count.experts * part_B('experts') / pool.devices
  free_B = max(
    _MEMORY_SHARE * capacity_B - _RESERVED_B - own_B,
    _LEAST_CACHE_SHARE * capacity_B,
  )
  context = job.input_tokens + job.output_tokens / 2.0
  one_B = part_B('kv_cache') * _cache_values(model, context)
  copies = min(pool.tensor, _kv_heads(model)) * pool.pipeline
  return free_B * copies / one_B * pool.data


def _kv_heads(model) -> int:
  """Ways that a cache splits over devices: latents are kept by each."""
  return 1 if model.attention.kind == 'mla' else model.attention.kv_heads


@functools.lru_cache(maxsize=4096)
def _cache_values(model, context: float) -> float:
  return model.cache_values(context)


def _memory(fitted: FittedSystem, name: str) -> float:
  """A figure of the main memory."""
  home = next(t for t in fitted.system.tiers if not t.is_cache and not t.link)
  return float(getattr(home, name))


def _link_Bps(fitted: FittedSystem) -> float:
  """Bandwidth of the outermost network."""
  links = [t for t in fitted.system.tiers if t.span]
  if not links:
    return np.inf
  return float(max(links, key=lambda t: t.span).read_Bps)
