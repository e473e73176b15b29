"""Rows of measured serving, read as jobs.

Columns are those of `serving_e2e.parquet`. Parallelism is written in more
than one way there; `_pool` says which, and how it is told.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffmem import errors
from diffmem.runs.serving_formats import with_cache, with_formats
from diffmem.workloads.transformer import Transformer

BACKENDS = ('trtllm', 'sglang', 'vllm')
_MIXED = ('agg', 'disagg')
_FORMAT_COLUMNS = ('gemm_quant_mode', 'moe_quant_mode', 'precision')
# InferenceX draws lengths evenly from 0.8 to 1 of what it states
# (SemiAnalysis, InferenceX, benchmark_serving.py --random-range-ratio 0.8).
_DRAWN_SHARE = 0.9
_DRAWN = ('dated-csv', 'inferencex-db-dump', 'other')
# Largest experts-times-tensor product that a row may name, a rack of GPUs.
_MOST_DEVICES = 576


class Pool(NamedTuple):
  """Equal replicas of a model.

  Attributes:
    workers: replicas.
    tensor: devices that share attention and dense matrices.
    data: groups of `tensor` devices with sequences of their own, within one
      replica; they share the experts (attention data parallelism).
    pipeline: stages.
    expert_tensor: devices that share each expert.
    expert: groups that share the experts.
  """

  workers: int
  tensor: int
  data: int
  pipeline: int
  expert_tensor: int
  expert: int

  @property
  def devices(self) -> int:
    """Devices of one replica."""
    return self.tensor * self.data * self.pipeline


class Job(NamedTuple):
  """One serving run.

  Attributes:
    model: with the number formats of this run.
    accelerator: as the row names it, such as 'h100_sxm'.
    backend: serving software, '' where it is not known.
    prefill: replicas that work on prompts.
    decode: replicas that make new tokens; the same object where one pool does
      both.
    input_tokens: of a prompt.
    output_tokens: of an answer.
    concurrency: requests that clients keep open, over all replicas.
    is_drawn: whether lengths of requests differ, so that they drift apart.
  """

  model: Transformer
  accelerator: str
  backend: str
  prefill: Pool
  decode: Pool
  input_tokens: float
  output_tokens: float
  concurrency: float
  is_drawn: bool = False

  @property
  def is_mixed(self) -> bool:
    """Whether the same replicas do prompts and new tokens."""
    return self.prefill is self.decode


def job_of(
  row: Mapping[str, Any], find: Callable[[str], Transformer]
) -> Job | str:
  """A row as a job, or why it cannot be one.

  Args:
    row: columns of the serving table; None or NaN for unknown.
    find: model by name; raises `SpecError` with the nearest.
  """
  name = _text(row, 'model')
  try:
    model = find(name)
  except errors.DiffmemError as error:
    return f'unknown model: {error}'
  mode = _text(row, 'mode') or 'agg'
  if mode not in _MIXED:
    return f'unknown mode {mode!r}; one of {", ".join(_MIXED)}'
  lacking = [
    key
    for key in ('input_len', 'output_len')
    if not _number(row, key) or _number(row, key) < 1
  ]
  if lacking:
    return f'incomplete configuration: {", ".join(lacking)} must be given'
  try:
    model.check_context(
      int(_number(row, 'input_len') + _number(row, 'output_len'))
    )
  except errors.DiffmemError as error:
    return f'too many tokens: {error}'
  pools = _pools(row, mode, model)
  if isinstance(pools, str):
    return pools
  concurrency = _concurrency(row, mode, pools)
  if isinstance(concurrency, str):
    return concurrency
  for pool in set(pools):
    wrong = _misfit(model, pool)
    if wrong:
      return wrong
  backend = _text(row, 'backend').lower()
  backend = backend if backend in BACKENDS else ''
  try:
    model = with_formats(model, *(_text(row, c) for c in _FORMAT_COLUMNS))
  except errors.DiffmemError as error:
    return f'unknown number format: {error}'
  accelerator = _text(row, 'system')
  is_drawn = _text(row, 'provenance') in _DRAWN
  share = _DRAWN_SHARE if is_drawn else 1.0
  return Job(
    model=with_cache(model, backend, accelerator),
    accelerator=accelerator,
    backend=backend,
    prefill=pools[0],
    decode=pools[1],
    input_tokens=float(round(share * _number(row, 'input_len'))),
    output_tokens=float(round(share * _number(row, 'output_len'))),
    concurrency=concurrency,
    is_drawn=is_drawn,
  )


def _pools(row, mode, model) -> tuple[Pool, Pool] | str:
  """Prompt and token replicas, the same object where one pool does both."""
  if mode == 'agg':
    pool = _pool(row, '', model)
    return pool if isinstance(pool, str) else (pool, pool)
  found = [_pool(row, prefix, model) for prefix in ('prefill_', 'decode_')]
  for pool in found:
    if isinstance(pool, str):
      return pool
  return found[0], found[1]


def _pool(row, prefix, model) -> Pool | str:
  """Replicas of one kind.

  Tables that come from InferenceX write tp x ep where they mean a group of tp
  devices with ep = tp; they flag it ('suspect_parallelism'), or it shows:
  attention data parallelism of ep x ep, or tp = dp with ep = tp x dp. Runs of
  the same configuration that are written both ways have equal times.
  """
  tensor = _count(row, prefix + 'tp_size')
  if not tensor:
    return f'incomplete configuration: {prefix}tp_size must be given'
  workers = 1
  if prefix:
    workers = _count(row, prefix + 'num_workers')
    if not workers:
      return f'incomplete configuration: {prefix}num_workers must be given'
  data = _count(row, prefix + 'attention_dp_size')
  split = _count(row, prefix + 'moe_tp_size') or 1
  expert = _count(row, prefix + 'moe_ep_size') or 1
  root = math.isqrt(split * expert)
  if split == expert == root > 1 and tensor * (data or 1) == root * root:
    is_flagged = bool(row.get('suspect_parallelism'))
    if data and data == root * root:
      data, split, expert = root, 1, root
    elif is_flagged or tensor > _node(row):
      tensor, split, expert = root, 1, root
  elif data and data == tensor > 1 and split == 1 and expert == tensor * data:
    data, expert = 1, tensor
  if not data:
    data = _unsaid_data(row, prefix, tensor, split * expert, model)
  split, expert = _spread(model, tensor * data, split, expert)
  if tensor * data > _MOST_DEVICES:
    return (
      f'{prefix}tp_size x {prefix}attention_dp_size = {tensor * data}: '
      + (f'no more than {_MOST_DEVICES} devices')
    )
  pipeline = _count(row, prefix + 'pp_size') or 1
  return Pool(workers, tensor, data, pipeline, split, expert)


def _unsaid_data(row, prefix, tensor, expert_devices, model) -> int:
  """Attention data parallelism where its column is empty."""
  if not model.experts:
    return 1
  return max(1, expert_devices // tensor)


def _spread(model, devices, split, expert) -> tuple[int, int]:
  """Experts over all devices of a replica: as given where it fits."""
  if not model.experts:
    return 1, 1
  if split * expert == devices:
    return split, expert
  if expert > 1 and devices % expert == 0:
    return devices // expert, expert
  return devices, 1


def _node(row) -> int:
  return 72 if _text(row, 'system').startswith('gb') else 8


def _concurrency(row, mode, pools) -> float | str:
  given = _number(row, 'concurrency')
  if given and given >= 1:
    return given
  prefix = 'decode_' if mode == 'disagg' else ''
  batch = _number(row, prefix + 'batch_size')
  if batch and batch >= 1:
    return batch * pools[1].data * pools[1].workers
  return f'incomplete configuration: concurrency or {prefix}batch_size'


def _misfit(model: Transformer, pool: Pool) -> str:
  """Why a model cannot be split like that, or ''."""
  heads = model.attention.heads
  if heads % pool.tensor:
    legal = [d for d in range(1, heads + 1) if heads % d == 0]
    near = min(legal, key=lambda d: abs(d - pool.tensor))
    return f'tp_size = {pool.tensor} does not divide {heads} heads; {near} does'
  if model.experts and model.experts.count < pool.expert:
    return (
      f'moe_ep_size = {pool.expert} exceeds {model.experts.count} experts; '
      f'{model.experts.count} is the most'
    )
  return ''


def _text(row: Mapping[str, Any], key: str) -> str:
  value = row.get(key)
  return value if isinstance(value, str) else ''


def _number(row: Mapping[str, Any], key: str) -> float | None:
  value = row.get(key)
  if value is None or isinstance(value, str) or math.isnan(value):
    return None
  return float(value)


def _count(row: Mapping[str, Any], key: str) -> int:
  return int(_number(row, key) or 0)
