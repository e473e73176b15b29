"""One decode step, lowered: one new token for every sequence of the batch.

A step reads every weight that its tokens touch and the KV cache once,
which is why small batches are bound by memory (Pope et al., "Efficiently
Scaling Transformer Inference", MLSys 2023). Axes: `data` copies of the model,
`tensor` ranks that share matrices and KV heads, `expert` ranks that share the
experts (their attention is a copy, with sequences of its own). Pipeline and
fully-sharded axes are one. The whole step is one captured graph: one launch.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from diffmem.cost import collective
from diffmem.workloads import lowered as lowered_lib
from diffmem.workloads import stage as stage_lib
from diffmem.workloads import working_set
from diffmem.workloads.choices import Choices, Machine
from diffmem.workloads.lowered import Lowered, Operation
from diffmem.workloads.transformer import Transformer

_INDEX_B = 1.0  # float8, as DeepSeek-V3.2 keeps the keys of its index
_STATE_B = 4.0  # float32, as vLLM keeps the states of linear attention
_BUFFERED_LAYERS = 2.0


class Decoding(NamedTuple):
  """One decode step; hashable.

  Attributes:
    batch: sequences, all devices together.
    context: tokens of each sequence in the KV cache.
    kv_B: bytes of a cached value; None for the model's own format.
  """

  batch: int
  context: int
  kv_B: float | None = None


def lower_decode(
  model: Transformer, decoding: Decoding, choices: Choices, machine: Machine
) -> Lowered:
  """Lowers many plans of a decode step.

  Args:
    model: the transformer.
    decoding: batch and context.
    choices: discrete choices [plan]; pipeline, fsdp, interleave are 1.
    machine: from `machine_of` for this number of chips.
  """
  c = choices
  stage = stage_lib.stage_of(model, c)
  batch = decoding.batch / c.data_ranks
  value_B = stage_lib.value_B(model)
  sizes = {g: value_B[g] * p for g, p in stage.parameters.items()}
  sizes[stage_lib.KV_CACHE] = batch * cache_of(model, decoding, c).kept_B
  links = _tensor_traffic(model, batch, c, machine)
  operations = [
    _layers(model, decoding, c, stage, sizes, batch),
    Operation('tensor_parallel', links=links),
  ]
  if model.experts:
    links = _expert_traffic(model, batch, c, machine)
    operations.append(Operation('expert_parallel', links=links))
  buffered = min(_BUFFERED_LAYERS / model.layers, 1.0)
  units = dict.fromkeys(sizes, float(model.layers))
  return lowered_lib.assemble(
    operations,
    tuple(sizes),
    machine,
    jnp.shape(batch),
    size_B=sizes,
    fetch_B={g: buffered * b for g, b in sizes.items()},
    units={**units, stage_lib.EMBEDDINGS: 1.0},
    fixed_B=working_set.decode_working_B(
      model, batch, sizes[stage_lib.KV_CACHE], c, working_set.MIXED_PRECISION
    ),
    tokens=float(decoding.batch),
    model_flops=decoding.batch * _token_flops(model, decoding),
  )


class Cache(NamedTuple):
  """Bytes of one sequence's KV cache and states on one device.

  Attributes:
    kept_B: all that is kept.
    read_B: what one step reads of it.
    written_B: what one step writes.
  """

  kept_B: Array
  read_B: Array
  written_B: Array

  def __add__(self, other: 'Cache') -> 'Cache':
    return Cache(*(a + b for a, b in zip(self, other, strict=True)))


def cache_of(model: Transformer, decoding: Decoding, c: Choices) -> Cache:
  """The cache of all layers.

  Heads that do not reach all tensor ranks are kept more than once. Windowed
  layers keep their window; a sparse index reads its own keys and those of the
  tokens that it chooses; states are read and written whole.
  """
  kv_B = decoding.kv_B or model.formats.part_B('kv_cache')
  context, total = decoding.context, Cache(*jnp.zeros(3))
  for group in model.attention_groups():
    layers, attention, window = group
    own = group.caching_layers
    kept_B = own * kv_B * attention.kept_values(context, window)
    token_B = layers * kv_B * attention.cache_values
    key_B = layers * _INDEX_B * attention.index_values
    index_B = key_B * attention.index_keys(context)
    read_B = token_B * attention.keys(context, window)
    split = jnp.minimum(c.tensor, float(attention.cache_heads))
    total += Cache(
      (kept_B + index_B) / split,
      (read_B + index_B) / split,
      (own / layers * token_B + key_B) / split,
    )
  if model.linear:
    split = jnp.minimum(c.tensor, float(model.linear.value_heads))
    state_B = _STATE_B * model.linear.layers * model.linear.state_values
    total += Cache(*(state_B / split,) * 3)
  return total


def _token_flops(model: Transformer, decoding: Decoding) -> float:
  """FLOPs of one new token."""
  core = stage_lib.decode_core_flops(model, decoding.context)
  per_layer = stage_lib.layer_matmul_flops(model) + core
  return model.layers * per_layer + stage_lib.head_flops(model)


def _layers(model, decoding, c, stage, sizes, batch) -> Operation:
  """All layers: touched weights and the KV cache, once."""
  read_B = {g: sizes[g] for g in stage.parameters}
  if model.experts:
    # Of the tokens that share this device's experts.
    touched = model.experts.touched_share(batch * c.expert)
    read_B[stage_lib.EXPERTS] = sizes[stage_lib.EXPERTS] * touched
  # The input table is looked up row by row; the output table is read whole.
  table_B = model.formats.part_B('embeddings') * model.vocab * model.d_model
  read_B[stage_lib.EMBEDDINGS] = table_B / c.tensor
  cache = cache_of(model, decoding, c)
  read_B[stage_lib.KV_CACHE] = batch * cache.read_B
  written_B = batch * cache.written_B
  return Operation(
    'layers',
    flops=batch * _token_flops(model, decoding) / c.tensor,
    row_flops=2.0 * sum(stage.parameters.values()),
    group_read_B=read_B,
    group_write_B={stage_lib.KV_CACHE: written_B},
    phases=model.layers * stage_lib.LAYER_KERNELS,
    launches=1.0,
  )


def _tensor_traffic(model, batch, c, machine) -> collective.Traffic:
  """All-reduce after attention and after the MLP or experts."""
  payload_B = 2.0 * batch * model.d_model
  one = collective.all_reduce(payload_B, c.ranks('tensor', machine.spans))
  return one.times(2.0 * model.layers)


def _expert_traffic(model, batch, c, machine) -> collective.Traffic:
  """Tokens to their experts and back."""
  payload_B = 2.0 * batch * model.experts.top_k * model.expert_width / c.tensor
  one = collective.all_to_all(payload_B, c.ranks('expert', machine.spans))
  busiest = model.experts.imbalance(c.expert)
  return one.times(2.0 * model.expert_layers * busiest)
