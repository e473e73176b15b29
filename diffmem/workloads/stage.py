"""What one device holds and computes: its pipeline stage, tensor slice,
experts.

Layer kinds are taken as spread evenly over the stages, and the fullest stage
stands for all: it sets the pipeline's pace and the memory that is needed.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffmem.workloads.choices import Choices
from diffmem.workloads.transformer import AttentionGroup, Transformer

ATTENTION = 'attention_weights'
MLP = 'mlp_weights'
EXPERTS = 'expert_weights'
EMBEDDINGS = 'embeddings'
GRADIENTS = 'gradients'
OPTIMIZER = 'optimizer'
ACTIVATIONS = 'activations'
KV_CACHE = 'kv_cache'

WEIGHT_B = 2.0  # bfloat16
GRADIENT_B = 4.0  # float32 accumulation, as Megatron-LM and Llama 3 do
OPTIMIZER_B = 12.0  # float32 master weight and two Adam moments

# Dependent kernels of one fused decoder layer: two norms, query-key-value
# product, rotary embedding, attention, output product, gate-and-up product,
# activation, down product.
LAYER_KERNELS = 9.0


class Stage(NamedTuple):
  """The fullest stage of each plan.

  Attributes:
    layers: decoder layers of it.
    parameters: by weight group, on one device before data sharding.
    layer_parameters: the same, of one layer (no embeddings).
  """

  layers: Float[Array, '*plan']
  parameters: dict[str, Float[Array, '*plan']]
  layer_parameters: dict[str, Float[Array, '*plan']]


def stage_layers(layers: float, pipeline: ArrayLike) -> Array:
  """Layers of the fullest stage; not whole where the mesh is not legal.

  Where the stages do not divide the layers, embedding and head take a layer's
  place each (Llama 3, arXiv:2407.21783, section 3.3.2: 126 layers, 16
  stages).
  """
  even = layers / pipeline == jnp.floor(layers / pipeline)
  return jnp.where(even, layers / pipeline, (layers + 2) / pipeline)


def stage_of(model: Transformer, choices: Choices) -> Stage:
  """Parameters of the fullest stage on one device."""
  count = model.parameters()
  tensor = jnp.asarray(choices.tensor)
  layers = stage_layers(float(model.layers), jnp.asarray(choices.pipeline))
  # Norms and router are not split by the tensor ranks.
  whole = (count.norms + count.router) / model.layers
  attention = count.attention / model.layers
  one = {ATTENTION: attention / choices.slices('attention_by') + whole}
  if count.mlp:
    one[MLP] = count.mlp / model.layers / choices.slices('mlp_by')
  if count.experts:
    # Slices of all experts or all slices of some: as many parameters.
    one[EXPERTS] = count.experts / model.layers / (tensor * choices.expert)
  parameters = {group: layers * value for group, value in one.items()}
  table = float(model.vocab * model.d_model)
  tables = jnp.where(choices.pipeline > 1, table, count.embeddings)
  parameters[EMBEDDINGS] = tables / tensor
  return Stage(layers, parameters, one)


def layer_matmul_flops(model: Transformer) -> float:
  """Forward FLOPs of one token in one layer's matrices, mean over layers."""
  active = model.active_parameters() - model.parameters().embeddings
  return 2.0 * (active - model.parameters().norms) / model.layers


def head_flops(model: Transformer) -> float:
  """Forward FLOPs of one token in the output layer."""
  return 2.0 * model.vocab * model.d_model


def decode_core_flops(model: Transformer, context: float) -> float:
  """FLOPs of the next token's attention core, mean over layers.

  Latent attention is absorbed in the query; windowed layers see their window;
  linear attention updates its state.

  Args:
    model: the transformer.
    context: tokens before it.
  """

  def one(group: AttentionGroup) -> float:
    flops = group.attention.decode_flops_per_key * group.keys(context)
    index = group.attention.index_keys(context)
    return flops + group.attention.index_flops_per_key * index

  return _mean_core(model, one)


def causal_core_flops(model: Transformer, seq_len: float) -> float:
  """Forward FLOPs of a token's attention core, mean over layers and tokens.

  A token attends to half the sequence on average, or, where it sees `w` keys
  of `s` at most, to `w - w^2 / 2 s`.

  Args:
    model: the transformer.
    seq_len: tokens of the sequence.
  """

  def one(group: AttentionGroup) -> float:
    keys = group.attention.mean_keys(seq_len, group.window)
    flops = group.attention.core_flops_per_key * keys
    index = group.attention.index_keys(seq_len) / 2
    return flops + group.attention.index_flops_per_key * index

  return _mean_core(model, one)


def expansion_flops(model: Transformer) -> float:
  """Forward FLOPs that expand one token's latent key, mean over layers.

  They are among `layer_matmul_flops` once; ranks that share a sequence send
  each other latent keys, and expand those of the others again. 0 where keys
  are not latent.
  """

  total = 0.0
  for group in model.attention_groups():
    a = group.attention
    if a.kind == 'mla':
      expanded = a.heads * (a.nope_dim + a.v_dim)
      total += group.layers * 2.0 * a.kv_rank * expanded
  return total / model.layers


def _mean_core(model: Transformer, one) -> float:
  total = sum(g.layers * one(g) for g in model.attention_groups())
  if model.linear:
    total += model.linear.layers * model.linear.core_flops
  return float(total / model.layers)


def value_B(model: Transformer) -> dict[str, float]:
  """Bytes of one stored parameter of each weight group, as it is served."""
  parts = {
    ATTENTION: 'attention', MLP: 'weights', EXPERTS: 'experts',
    EMBEDDINGS: 'embeddings',
  }  # fmt: skip
  return {g: model.formats.part_B(part) for g, part in parts.items()}


def fullest_stage_flops(
  model: Transformer, stage: Stage, pipeline: ArrayLike, per_layer: ArrayLike
) -> Array:
  """Forward FLOPs of one token in the slowest stage, before tensor ranks.

  With several stages the head adds to the last one; where embedding and head
  have a layer's place, only what the head costs beyond a layer is added.
  """
  head = head_flops(model)
  share = float(model.layers) / jnp.asarray(pipeline)
  even = share == jnp.floor(share)
  extra = jnp.where(even, head, jnp.maximum(head - per_layer, 0.0))
  return stage.layers * per_layer + extra
