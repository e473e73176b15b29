"""Rows of a table of training runs: which job each of them was."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pydantic

from diffmem import errors
from diffmem.runs.machines import Machines, unknown
from diffmem.workloads import presets
from diffmem.workloads.train_kernels import Mesh
from diffmem.workloads.transformer import Transformer

OBSERVABLE = 'step_time_s'
Row = Mapping[str, Any]

# Software stacks: what the `framework` column says -> name. The first counts.
_STACKS = (
  ('foundry', 'llm-foundry'),
  ('deepspeed', 'megatron-deepspeed'),
  ('megatron-core', 'megatron-core'),
  ('bridge', 'nemo'),
  ('nemo', 'nemo'),
  ('megatron', 'megatron-lm'),
  ('maxtext', 'maxtext'),
)
# Stacks that compute attention in parts, as it was before FlashAttention.
_UNFUSED = ('megatron-lm', 'megatron-deepspeed')
# Stacks with sequence parallelism and a distributed optimizer as they come.
_SEQUENCE_PARALLEL = ('nemo', 'megatron-core', 'mlperf')
# Relative difference of parameter counts that rounding explains.
_PARAMETERS_AGREE = 0.1
# Devices of a node; an inner network that links more spans many nodes.
_NODE = 8
_FORMATS = (
  ('nvfp4', 'nvfp4'),
  ('fp4', 'nvfp4'),
  ('mxfp8', 'float8'),
  ('fp8', 'float8'),
  ('bf16', 'bfloat16'),
  ('fp16', 'bfloat16'),
)


class TrainingRun(NamedTuple):
  """One run.

  Attributes:
    index: 0-based row of the input.
    machine: name in the catalog.
    stack: software, such as 'nemo'.
    model: the transformer.
    mesh: how it is spread.
    seq_len: tokens of a sequence.
    micro_batch: sequences of a micro-batch.
    sequences: of a step.
    recompute: 'none', 'selective' or 'full'.
    is_fused: whether attention never writes its scores.
    trains_weights: False where adapters alone are trained (LoRA).
    is_pretraining: False for fine-tuning, whose sequences are packed.
    is_complete: whether nothing about the run had to be assumed.
    observed_s: measured time of a step, NaN where none is given [s].
    source: table or cluster that the run comes from.
    group: runs of one model by one source, which are held out together.
  """

  index: int
  machine: str
  stack: str
  model: Transformer
  mesh: Mesh
  seq_len: int
  micro_batch: int
  sequences: int
  recompute: str
  is_fused: bool
  trains_weights: bool
  is_pretraining: bool
  is_complete: bool
  observed_s: float
  source: str
  group: str


class RefusedError(Exception):
  """A row that cannot be answered, and why."""


def read_run(index: int, row: Row, machines: Machines) -> TrainingRun:
  """One row as a run.

  Raises:
    RefusedError: an unknown accelerator or model, or a missing part of the
      configuration that nothing sensible can be assumed for.
  """
  accelerator = text(row, 'accelerator')
  machine = machines.name_of(accelerator)
  if not machine:
    raise RefusedError(unknown(accelerator))
  stack = stack_of(row)
  seq_len = _needed(row, 'seq_len')
  sequences = _needed(row, 'gbs')
  mesh, is_known = _mesh(row, stack, machines.node_devices(machine))
  if sequences % mesh.data and sequences < mesh.data:
    raise RefusedError(
      f'incomplete configuration: gbs = {sequences} sequences for '
      f'{mesh.data} data ranks'
    )
  micro_batch = count(row, 'mbs', 0)
  model = _model(row, seq_len)
  name = text(row, 'model').lower()
  return TrainingRun(
    index=index,
    machine=machine,
    stack=f'{stack}-experts' if stack and model.experts else stack,
    model=model,
    mesh=mesh,
    seq_len=seq_len,
    micro_batch=micro_batch or 1,
    sequences=sequences,
    recompute=_recompute(row),
    is_fused=stack not in _UNFUSED,
    trains_weights='lora' not in name,
    is_pretraining='lora' not in name and 'sft' not in name,
    is_complete=is_known and bool(micro_batch) and not model.experts,
    observed_s=number(row, OBSERVABLE, math.nan),
    source=text(row, 'dataset'),
    group=f'{text(row, "dataset")} {model.d_model} {model.layers}',
  )


def stack_of(row: Row) -> str:
  """The software stack that a row names; '' for one without a name of ours."""
  if text(row, 'dataset').startswith('mlperf'):
    return 'mlperf'
  framework = text(row, 'framework').lower()
  return next((name for part, name in _STACKS if part in framework), '')


def _mesh(row: Row, stack: str, linked: int) -> tuple[Mesh, bool]:
  devices = _needed(row, 'n_accel')
  sharded = count(row, 'fsdp', 0)
  if count(row, 'zero', 0) == 3 and not sharded:
    sharded = count(row, 'dp', devices)
  given = [count(row, name, 0) for name in ('tp', 'pp')]
  if not any(given) and not sharded and devices > 1:
    raise RefusedError('incomplete configuration: no tp, pp or fsdp')
  tensor, pipeline = (max(g, 1) for g in given)
  context, expert = (max(count(row, n, 1), 1) for n in ('cp', 'ep'))
  ranks = tensor * pipeline * context
  if devices % ranks:
    raise RefusedError(
      f'incomplete configuration: tp x pp x cp = {ranks} does not divide '
      f'{devices} accelerators'
    )
  data = devices // ranks
  is_sharded = sharded > 1
  mesh = Mesh(
    devices=devices,
    per_node=_per_node(row, linked),
    tensor=tensor,
    pipeline=pipeline,
    interleave=max(count(row, 'vp', 1), 1),
    context=context,
    expert=expert,
    sharded=min(sharded, data * context) if is_sharded else 1,
    optimizer_sharded=not is_sharded
    and (count(row, 'zero', 0) >= 1 or stack in _SEQUENCE_PARALLEL),
    sequence=stack in _SEQUENCE_PARALLEL,
  )
  return mesh, all(given) or is_sharded


def _per_node(row: Row, linked: int) -> int:
  """Devices that the inner network links, within a node or over many."""
  given = count(row, 'accel_per_node', linked)
  return max(linked if linked > _NODE else min(given, linked), 1)


def _model(row: Row, seq_len: int) -> Transformer:
  """From the row's own figures where they are whole, else by name."""
  formats = {'weights': _format(row)}
  layers, d_model = count(row, 'n_layers', 0), count(row, 'hidden', 0)
  heads, vocab = count(row, 'heads', 0), count(row, 'vocab', 0)
  name = text(row, 'model')
  if not (layers and d_model and heads) or text(row, 'moe'):
    try:
      model = presets.find_workload(name)
    except errors.SpecError as error:
      raise RefusedError(f'unknown model: {error}') from None
    return model.model_copy(update={'formats': type(model.formats)(**formats)})
  is_gated = bool(row.get('gated_mlp') or False)
  attention = {
    'heads': heads,
    'kv_heads': count(row, 'kv_heads', heads),
    'head_dim': count(row, 'head_dim', d_model // heads),
  }
  try:
    model = Transformer(
      name=name or 'unnamed',
      source='the row',
      layers=layers,
      d_model=d_model,
      d_ff=count(row, 'ffn', 4 * d_model),
      vocab=vocab or 50304,
      attention=attention,
      gated=is_gated,
      tied_embeddings=not is_gated,
      max_context=seq_len,
      formats=formats,
    )
  except pydantic.ValidationError as error:
    first = error.errors()[0]
    raise RefusedError(f'incomplete configuration: {first["msg"]}') from None
  return _reconciled(model, 1e9 * number(row, 'params_b', 0.0))


def _reconciled(model: Transformer, published: float) -> Transformer:
  """The depth that agrees with the parameter count, where the two differ.

  The count is in the model's name and was published; a depth far from it was
  inferred by somebody.
  """
  count = model.parameters()
  positions = float(model.max_context * model.d_model)
  near = min(
    abs((count.total + learned) / max(published, 1.0) - 1.0)
    for learned in (0.0, positions)
  )
  if not published or near <= _PARAMETERS_AGREE:
    return model
  per_layer = (count.total - count.embeddings) / model.layers
  layers = max(round((published - count.embeddings) / per_layer), 1)
  return model.model_copy(update={'layers': layers})


def _format(row: Row) -> str:
  precision = text(row, 'precision').lower()
  if precision.startswith('fp8 (nvidia)'):
    is_tpu = 'tpu' in text(row, 'accelerator').lower()
    return 'bfloat16' if is_tpu else 'float8'
  return next((f for part, f in _FORMATS if part in precision), 'bfloat16')


def _recompute(row: Row) -> str:
  policy = text(row, 'recompute').lower()
  if policy in ('full', 'selective'):
    return policy
  return 'none'


def _needed(row: Row, name: str) -> int:
  value = count(row, name, 0)
  if not value:
    raise RefusedError(f'incomplete configuration: no {name}')
  return value


def text(row: Row, name: str) -> str:
  """A text column; '' where it is null."""
  value = row.get(name)
  return value if isinstance(value, str) else ''


def number(row: Row, name: str, fill: float) -> float:
  """A numeric column; `fill` where it is null."""
  value = row.get(name)
  if value is None or isinstance(value, str) or math.isnan(value):
    return fill
  return float(value)


def count(row: Row, name: str, fill: int) -> int:
  """A whole number; `fill` where it is null."""
  return int(number(row, name, fill))
