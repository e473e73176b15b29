"""One decode step, lowered: one new token for every sequence of the batch.

A step reads every weight that its tokens touch and the whole KV cache once,
which is why small batches are bound by memory (Pope et al., "Efficiently
Scaling Transformer Inference", MLSys 2023). Axes: `data` copies of the model,
`tensor` ranks that share matrices and KV heads, `expert` ranks that share the
experts (their attention is a copy, with sequences of its own). Pipeline and
fully-sharded axes are one. The whole step is one captured graph: one launch.
"""

from typing import NamedTuple

import jax.numpy as jnp

from diffmem.cost import collective
from diffmem.workloads import lowered as lowered_lib
from diffmem.workloads import stage as stage_lib
from diffmem.workloads.choices import Choices, Machine
from diffmem.workloads.lowered import Lowered, Operation
from diffmem.workloads.transformer import Transformer

_LOGITS_B = 4.0  # float32
_BUFFERED_LAYERS = 2.0


class Decoding(NamedTuple):
  """One decode step; hashable.

  Attributes:
    batch: sequences, all devices together.
    context: tokens of each sequence in the KV cache.
    kv_B: bytes of a cached value (2 for bfloat16).
  """

  batch: int
  context: int
  kv_B: float = 2.0


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
  sizes = {g: stage_lib.WEIGHT_B * p for g, p in stage.parameters.items()}
  token_B = _kv_token_B(model, decoding, c)
  sizes[stage_lib.KV_CACHE] = batch * decoding.context * token_B
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
    fixed_B=_LOGITS_B * batch * model.vocab / c.tensor,
    tokens=float(decoding.batch),
    model_flops=decoding.batch * _token_flops(model, decoding),
  )


def _kv_token_B(model: Transformer, decoding: Decoding, c: Choices):
  """KV bytes of one token of one sequence on one device.

  Heads that do not reach all tensor ranks are kept more than once.
  """
  attention = model.attention
  split = jnp.minimum(c.tensor, float(attention.kv_heads))
  return 2.0 * decoding.kv_B * attention.kv_dim * model.layers / split


def _token_flops(model: Transformer, decoding: Decoding) -> float:
  """FLOPs of one new token."""
  core = stage_lib.core_flops(model, decoding.context)
  per_layer = stage_lib.layer_matmul_flops(model) + core
  return model.layers * per_layer + stage_lib.head_flops(model)


def _layers(model, decoding, c, stage, sizes, batch) -> Operation:
  """All layers: touched weights and the KV cache, once."""
  read_B = {g: sizes[g] for g in stage.parameters}
  if model.experts:
    # Uniform routing of the tokens that share this device's experts.
    miss = 1.0 - model.experts.top_k / model.experts.count
    tokens = batch * c.expert
    read_B[stage_lib.EXPERTS] = sizes[stage_lib.EXPERTS] * (1.0 - miss**tokens)
  # The input table is looked up row by row; the output table is read whole.
  table_B = stage_lib.WEIGHT_B * model.vocab * model.d_model / c.tensor
  read_B[stage_lib.EMBEDDINGS] = table_B
  read_B[stage_lib.KV_CACHE] = sizes[stage_lib.KV_CACHE]
  written_B = batch * _kv_token_B(model, decoding, c)
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
  payload_B = 2.0 * batch * model.experts.top_k * model.d_model / c.tensor
  one = collective.all_to_all(payload_B, c.ranks('expert', machine.spans))
  return one.times(2.0 * model.expert_layers)
