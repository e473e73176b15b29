"""One pass of a serving engine over what is in its batch, lowered.

The batch is made of parts: sequences that get their next token (`decode.py`),
pieces of prompts (`prefill.py`), or both at once (chunked prefill: Agrawal et
al., "Sarathi-Serve", OSDI 2024), which then share one read of the weights.
Axes: `data` copies of the model, `tensor` ranks that share matrices and heads
or, by kind of layer, have sequences or experts of their own, `expert` ranks
that share the experts (their attention is a copy, with sequences of its own),
`context` ranks that share the tokens of a prompt. Pipeline and fully-sharded
axes are one. The whole pass is one captured graph: one launch.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from diffmem.cost import collective
from diffmem.workloads import lowered as lowered_lib
from diffmem.workloads import serving_links
from diffmem.workloads import stage as stage_lib
from diffmem.workloads.caches import Cache
from diffmem.workloads.choices import Choices, Machine
from diffmem.workloads.lowered import Lowered, Operation
from diffmem.workloads.transformer import Transformer

_BUFFERED_LAYERS = 2.0


class Part(NamedTuple):
  """Some sequences of a batch; every array is [plan] or a scalar.

  Attributes:
    tokens: that the tensor ranks of one group work on together.
    flops: of these tokens, before the tensor ranks share them.
    caches: by group, on one device, all sequences of the part.
    near_B: bytes that are written to and read from the near memory once.
    working_B: held while the pass runs, on one device [B].
    links: traffic beside that of the tokens; None for none.
    all_tokens: of all devices.
    all_flops: of all devices.
  """

  tokens: Array
  flops: Array
  caches: Mapping[str, Cache]
  near_B: Array | float
  working_B: Array
  links: collective.Traffic | None
  all_tokens: Array | float
  all_flops: Array | float


class Pieces(NamedTuple):
  """How a group of caches falls into pieces.

  Attributes:
    units: pieces of the whole group.
    buffered: share of the group that is in the near memory at a time, where
      it lives elsewhere.
  """

  units: float
  buffered: float

  @classmethod
  def of_layers(cls, units: float, layers: float) -> 'Pieces':
    """Fetched layer by layer: the one at work and the next."""
    return cls(units, min(_BUFFERED_LAYERS / layers, 1.0))


def lower_step(
  model: Transformer,
  parts: Sequence[Part],
  pieces: Mapping[str, Pieces],
  choices: Choices,
  machine: Machine,
) -> Lowered:
  """Lowers many plans of one pass.

  Args:
    model: the transformer.
    parts: what is in the batch.
    pieces: of every group of caches that any part has.
    choices: discrete choices [plan].
    machine: from `machine_of` for this number of chips.
  """
  stage = stage_lib.stage_of(model, choices)
  value_B = stage_lib.value_B(model)
  sizes = {g: value_B[g] * p for g, p in stage.parameters.items()}
  weights = tuple(sizes)
  tokens = sum(p.tokens for p in parts)
  for group in pieces:
    sizes[group] = sum(
      p.caches[group].kept_B for p in parts if group in p.caches
    )
  links = serving_links.tensor_traffic(model, tokens, choices, machine)
  for part in parts:
    links = links if part.links is None else links + part.links
  operations = [
    _layers(model, parts, choices, stage, sizes, weights, tokens),
    Operation('tensor_parallel', links=links),
  ]
  if model.experts:
    links = serving_links.expert_traffic(model, tokens, choices, machine)
    operations.append(Operation('expert_parallel', links=links))
  whole = Pieces.of_layers(float(model.layers), float(model.layers))
  pieces = {**dict.fromkeys(weights, whole), **pieces}
  units = {g: piece.units for g, piece in pieces.items()}
  return lowered_lib.assemble(
    operations,
    tuple(sizes),
    machine,
    jnp.shape(tokens * choices.tensor),
    size_B=sizes,
    fetch_B={g: pieces[g].buffered * b for g, b in sizes.items()},
    units={**units, stage_lib.EMBEDDINGS: 1.0},
    fixed_B=sum(p.working_B for p in parts),
    tokens=sum(p.all_tokens for p in parts),
    model_flops=sum(p.all_flops for p in parts),
  )


def _layers(model, parts, c, stage, sizes, weights, tokens) -> Operation:
  """All layers: touched weights once, and what the parts read and write."""
  read_B = {g: sizes[g] for g in weights}
  if model.experts:
    # Of the tokens that share this device's experts.
    touched = model.experts.touched_share(tokens * c.expert)
    read_B[stage_lib.EXPERTS] = sizes[stage_lib.EXPERTS] * touched
  # The input table is looked up row by row; the output table is read whole.
  table_B = model.formats.part_B('embeddings') * model.vocab * model.d_model
  read_B[stage_lib.EMBEDDINGS] = table_B / c.tensor
  written_B = {}
  for part in parts:
    for group, cache in part.caches.items():
      read_B[group] = read_B.get(group, 0.0) + cache.read_B
      written_B[group] = written_B.get(group, 0.0) + cache.written_B
  near_B = sum(p.near_B for p in parts)
  return Operation(
    'layers',
    flops=sum(p.flops for p in parts) / c.tensor,
    row_flops=2.0 * sum(stage.parameters.values()),
    near_read_B=near_B,
    near_write_B=near_B,
    group_read_B=read_B,
    group_write_B=written_B,
    phases=model.layers * stage_lib.LAYER_KERNELS,
    launches=1.0,
  )
