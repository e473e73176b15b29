"""Continuous batching under a fixed number of open requests.

Clients keep N requests open: one starts when another ends. A replica with b
running sequences makes a token of each in every step; prompts of those that
arrive in between take their time too, so that a token costs

  tpot = decode(b) + mixed_share (1 - ahead) (b / output_tokens) prompt

where `ahead` is the share of the prompts that came before the own one, and one
pool does both (chunked prefill: Agrawal et al., "Sarathi-Serve",
OSDI 2024). By Little's law, b = N output_tokens tpot / (ttft +
output_tokens tpot), at most what the memory for caches holds; requests beyond
it wait. A first token takes the prompt itself, the steps and prompts that it
waits for (the mean wait of an M/D/1 queue, and the burst in which closed-loop
clients start), and with prompt replicas the hand-over of the cache
(Zhong et al., "DistServe", OSDI 2024). Where prompt replicas are the
bottleneck, requests queue there until they admit what these can do.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffmem.runs.serving_job import Job
from diffmem.runs.serving_steps import PARTS, PROMPTS, Priced

_ROUNDS = 8
_DAMPING = 0.75
_MOST_BUSY = 0.95
_MOST_HIDDEN = 0.6  # share of a step that may be hidden
_FACTORS = (
  'product_factor',
  'attention_factor',
  'expert_factor',
  'narrow_factor',
  'link_factor',
)


class Batch(NamedTuple):
  """Many jobs as arrays [job]; step tables are [job size part].

  Attributes:
    decode_s: parts of decode steps of 1, 2, 4, ... sequences.
    prompt_s: parts of steps of 1, 2, 4, ... prompts; repeated where a job
      has fewer.
    prompts: prompts of each of these steps [job size].
    small: small kernels of a decode step.
    casts: narrow products of a decode step.
    large: its products, attentions and experts.
    prompt_kernels: kernels of a prompt.
    requests: open requests of a decode replica.
    per_prompt_replica: open requests of a prompt replica.
    groups: data-parallel groups of a decode replica.
    prompt_groups: of a prompt replica.
    stages: pipeline stages of a decode replica, each with sequences of its
      own.
    prompt_stages: of a prompt replica.
    input_tokens: of a prompt.
    output_tokens: of an answer.
    most_sequences: that a decode replica's memory holds.
    transfer_s: of one cache to another replica.
    is_mixed: whether one pool does both.
    is_drawn: whether lengths of requests differ.
  """

  decode_s: Float[np.ndarray, 'job size part']
  prompt_s: Float[np.ndarray, 'job size part']
  prompts: Float[np.ndarray, 'job size']
  small: Float[np.ndarray, ' job']
  casts: Float[np.ndarray, ' job']
  large: Float[np.ndarray, ' job']
  prompt_kernels: Float[np.ndarray, ' job']
  requests: Float[np.ndarray, ' job']
  per_prompt_replica: Float[np.ndarray, ' job']
  groups: Float[np.ndarray, ' job']
  prompt_groups: Float[np.ndarray, ' job']
  stages: Float[np.ndarray, ' job']
  prompt_stages: Float[np.ndarray, ' job']
  input_tokens: Float[np.ndarray, ' job']
  output_tokens: Float[np.ndarray, ' job']
  most_sequences: Float[np.ndarray, ' job']
  transfer_s: Float[np.ndarray, ' job']
  is_mixed: Float[np.ndarray, ' job']
  is_drawn: Float[np.ndarray, ' job']

  def select(self, rows: np.ndarray) -> 'Batch':
    """Some of the jobs."""
    return Batch(*(np.asarray(values)[rows] for values in self))


class Times(NamedTuple):
  """What clients see [job].

  Attributes:
    ttft_s: mean time to the first token.
    tpot_s: mean time per further token.
    sequences: that run at once in a decode replica.
  """

  ttft_s: Float[np.ndarray, ' job']
  tpot_s: Float[np.ndarray, ' job']
  sequences: Float[np.ndarray, ' job']


def batch_of(jobs: Sequence[Job], priced: Sequence[Priced]) -> Batch:
  """Jobs and their steps as arrays."""
  sizes = max((len(p.decode.sequences) for p in priced), default=1)
  return Batch(
    decode_s=_padded([p.decode.time_s for p in priced], sizes),
    prompt_s=_padded([p.prompt.time_s for p in priced], len(PROMPTS)),
    prompts=_padded(
      [p.prompt.sequences[:, None] for p in priced], len(PROMPTS)
    )[..., 0],
    small=np.array([p.decode.small for p in priced]),
    casts=np.array([p.decode.casts for p in priced]),
    large=np.array([p.decode.large for p in priced]),
    prompt_kernels=np.array([p.prompt.kernels for p in priced]),
    requests=np.array([j.concurrency / j.decode.workers for j in jobs]),
    per_prompt_replica=np.array(
      [j.concurrency / j.prefill.workers for j in jobs]
    ),
    groups=np.array([float(j.decode.data) for j in jobs]),
    prompt_groups=np.array([float(j.prefill.data) for j in jobs]),
    stages=np.array([float(j.decode.pipeline) for j in jobs]),
    prompt_stages=np.array([float(j.prefill.pipeline) for j in jobs]),
    input_tokens=np.array([j.input_tokens for j in jobs]),
    output_tokens=np.array([j.output_tokens for j in jobs]),
    most_sequences=np.array([p.most_sequences for p in priced]),
    transfer_s=np.array([p.cache_B / p.link_Bps for p in priced]),
    is_mixed=np.array([float(j.is_mixed) for j in jobs]),
    is_drawn=np.array([float(j.is_drawn) for j in jobs]),
  )


def _padded(tables, sizes: int) -> np.ndarray:
  """Tables [size part] as one array; the last row fills what lacks."""
  if not tables:
    return np.zeros((0, sizes, len(PARTS)))
  return np.stack(
    [np.concatenate([t, np.repeat(t[-1:], sizes - len(t), 0)]) for t in tables]
  )


def times(
  batch: Batch, stack: Mapping[str, Float[np.ndarray, ' job']]
) -> Times:
  """Time to first token and per token in the steady state.

  Args:
    batch: the jobs.
    stack: overheads by name, one value for each job.
  """
  factors = np.stack([stack[n] for n in _FACTORS] + [stack['product_factor']])
  decode_s = np.einsum('jsp,pj->js', batch.decode_s, factors)
  hidden_s = batch.casts * stack['fused_cast_s']
  hidden_s += batch.large * stack['hidden_start_s']
  decode_s -= np.minimum(hidden_s[:, None], _MOST_HIDDEN * decode_s)
  decode_s += (batch.small * stack['small_s'] + stack['step_s'])[:, None]
  one_s, many_s = _prompt_s(batch, stack)
  answer = batch.output_tokens
  limit = np.minimum(np.maximum(batch.most_sequences, 1.0), batch.requests)
  running = limit.copy()
  # Prompts that are ahead of a request do not interrupt its answer as well.
  behind = stack['mixed_share'] * (1.0 - np.minimum(_ahead(batch, stack), 1.0))
  for _ in range(_ROUNDS):
    at_once = running / batch.groups / batch.stages
    step_s = _at(decode_s, at_once) + stack['sequence_s'] * at_once
    arriving = running / answer  # prompts of one step
    stall_s = batch.is_mixed * behind * arriving * many_s
    tpot_s = step_s + stall_s
    waits_s = _waits(batch, stack, one_s, many_s, running, tpot_s)
    total_s = waits_s + answer * tpot_s
    wanted = batch.requests * answer * tpot_s / total_s
    running += _DAMPING * (np.clip(wanted, 1e-3, limit) - running)
  # Requests that the memory holds no place for wait until others end.
  held = np.maximum(batch.requests * answer * tpot_s / total_s / limit, 1.0)
  ttft_s = waits_s + (held - 1.0) * total_s
  return Times(ttft_s=ttft_s, tpot_s=tpot_s, sequences=running)


def _prompt_s(batch: Batch, stack) -> tuple[np.ndarray, np.ndarray]:
  """Time of a prompt alone, and of each of many on one replica."""
  whole = batch.prompt_s.sum(-1) * stack['prompt_factor'][:, None]
  whole += (batch.prompt_kernels * stack['prompt_kernel_s'])[:, None]
  one_s = whole[:, 0]
  each_s = (whole / batch.prompts).min(1)
  share = np.minimum(stack['group_share'], 1.0)
  at_once = 1.0 + (batch.prompt_groups - 1.0) * share
  return one_s, each_s / at_once / batch.prompt_stages


def _waits(batch, stack, one_s, many_s, running, tpot_s) -> np.ndarray:
  """Time to the first token of a request that memory has a place for."""
  answer = batch.output_tokens
  ahead_s = _ahead(batch, stack) * batch.per_prompt_replica * many_s
  # Share of its time that a replica works on prompts.
  ratio = batch.per_prompt_replica / batch.requests
  busy = ratio * running / answer * many_s / tpot_s
  busy = np.minimum(busy, _MOST_BUSY)
  queue_s = busy / (2.0 * (1.0 - busy)) * many_s
  apart_s = stack['handover_s'] + batch.transfer_s
  wait_s = np.where(batch.is_mixed > 0, stack['waits'] * tpot_s, apart_s)
  found = stack['request_s'] + one_s + wait_s + ahead_s + queue_s
  # Prompt replicas that are the bottleneck.
  bound_s = batch.per_prompt_replica * many_s - answer * tpot_s
  return np.where(batch.is_mixed > 0, found, np.maximum(found, bound_s))


def _ahead(batch: Batch, stack) -> np.ndarray:
  """Share of the open requests whose prompts are ahead of one's own."""
  return np.where(batch.is_drawn > 0, stack['burst_share'], stack['wave_share'])


def _at(
  table: Float[np.ndarray, 'job size'], size: Float[np.ndarray, ' job']
) -> Float[np.ndarray, ' job']:
  """A table over 1, 2, 4, ... at any size, straight in between."""
  size = np.maximum(size, 1.0)
  last = table.shape[1] - 1
  low = np.clip(np.floor(np.log2(size)).astype(int), 0, max(last - 1, 0))
  high = np.minimum(low + 1, last)
  start = 2.0**low
  share = np.clip((size - start) / start, 0.0, 1.0)
  rows = np.arange(len(table))
  return table[rows, low] * (1.0 - share) + table[rows, high] * share
