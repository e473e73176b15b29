"""A training step on one device, kernel by kernel.

One micro-batch passes one pipeline stage forward and backward; what the step
does once (gradients, optimizer) comes beside. A backward product is two
products of the forward one's size, with its dimensions turned; of attention,
five in place of two (Dao, arXiv:2307.08691, section 3.1).
"""

import math
from typing import NamedTuple

from diffmem.workloads import kernels as kernels_lib
from diffmem.workloads.kernels import Kernel, Pass, Sequences, Shard
from diffmem.workloads.transformer import Transformer

_VALUE_B = 2.0
# Bytes per score of attention that is computed in parts: the product writes
# it, softmax reads and writes it, dropout reads, writes and keeps a mask, the
# next product reads it (Korthikanti et al., arXiv:2205.05198, section 4.1).
_SCORE_B = 2.0 + 4.0 + 5.0 + 2.0
# Adam with a float32 master copy: reads gradient, master weight and two
# moments, writes the latter three and a bfloat16 weight.
_ADAM_B = 4.0 + 12.0 + 12.0 + 2.0


class Mesh(NamedTuple):
  """How a training job is spread; hashable.

  Attributes:
    devices: all of them.
    per_node: devices of one node.
    tensor: ranks that share matrices.
    pipeline: stages.
    interleave: chunks of layers per stage.
    context: ranks that share a sequence.
    expert: ranks that share the experts, tensor ranks among them, with
      whole experts each; every rank routes a share of the tokens.
    sharded: ranks that share weights (fully-sharded data parallelism).
    optimizer_sharded: whether the data ranks share the optimizer's states.
    sequence: whether norms are split over the tensor ranks.
  """

  devices: int
  per_node: int = 8
  tensor: int = 1
  pipeline: int = 1
  interleave: int = 1
  context: int = 1
  expert: int = 1
  sharded: int = 1
  optimizer_sharded: bool = False
  sequence: bool = False

  @property
  def data(self) -> int:
    """Ranks with sequences of their own."""
    return self.devices // (self.tensor * self.pipeline * self.context)

  def in_node(self, ranks: float, stride: float) -> float:
    """How many ranks of an axis lie within one node."""
    return max(1.0, min(ranks, self.per_node / stride))


class Step(NamedTuple):
  """A training step on one device of the fullest stage.

  Attributes:
    forward: one micro-batch through the layers of one stage.
    backward: the same backward, without recomputation.
    head: forward and backward of the output layer, on the last stage.
    scores_B: bytes of scores that attention in parts would stream, forward,
      of one micro-batch [B].
    stage_send: to the next stage, one way, of one micro-batch.
    gather: weights gathered once for a pass through the stage.
    scatter: gradients reduced in a fully-sharded backward pass.
    reduce: gradients reduced over the data ranks, and weights gathered, once.
    adam_B: bytes that the optimizer streams [B].
    micro_batches: of a step.
    stages: pipeline stages.
    interleave: chunks of layers per stage.
    layers: decoder layers of the fullest stage.
    stage_share: layers of a mean stage over those of the fullest.
  """

  forward: Pass
  backward: Pass
  head: Pass
  scores_B: float
  stage_send: Pass
  gather: Pass
  scatter: Pass
  reduce: Pass
  adam_B: float
  micro_batches: float
  stages: int
  interleave: int
  layers: float
  stage_share: float


def training_step(
  model: Transformer,
  mesh: Mesh,
  *,
  seq_len: int,
  micro_batch: int,
  sequences: int,
  gradient_B: float = 4.0,
  trains_weights: bool = True,
) -> Step:
  """The kernels of one training step.

  Args:
    model: the transformer; `model.formats` says what products run in.
    mesh: how the job is spread.
    seq_len: tokens of a sequence.
    micro_batch: sequences of one micro-batch on one data rank.
    sequences: of a step, all devices together.
    gradient_B: bytes of a gradient that is reduced.
    trains_weights: False where only small adapters have gradients (LoRA).
  """
  layers = stage_layers(model.layers, mesh.pipeline)
  shard = Shard(
    tensor=mesh.tensor,
    expert=mesh.expert,
    data=mesh.expert,
    ranks_per_node=mesh.per_node,
    sequence=mesh.sequence,
    routes_shares=True,
    skew=0.0,
  )
  batch = [Sequences(micro_batch, seq_len / mesh.context)]
  tokens = micro_batch * seq_len / mesh.context
  forward = kernels_lib.forward(model, shard, batch, layers=layers, head_rows=0)
  forward = _over_context(forward, model, mesh, layers, seq_len, micro_batch)
  output = kernels_lib.forward(model, shard, [], layers=0, head_rows=tokens)
  weights = _stage_parameters(model, mesh, layers)
  trained = weights if trains_weights else dict.fromkeys(weights, 0.0)
  return Step(
    forward=forward,
    backward=backward(forward, trains_weights),
    head=output + backward(output, trains_weights),
    scores_B=_scores_B(model, mesh, layers, seq_len, micro_batch),
    stage_send=_stage_send(model, mesh, tokens),
    gather=_gather(mesh, weights, layers),
    scatter=_scatter(mesh, trained, layers, gradient_B),
    reduce=_reduce(mesh, trained, gradient_B),
    adam_B=_adam_B(mesh, trained),
    micro_batches=sequences / (mesh.data * micro_batch),
    stages=mesh.pipeline,
    interleave=mesh.interleave,
    layers=layers,
    stage_share=model.layers / (mesh.pipeline * layers),
  )


def stage_layers(layers: int, stages: int) -> int:
  """Decoder layers of the fullest stage.

  Where the stages do not divide them, embedding and output layer take a
  layer's place each (Llama 3, arXiv:2407.21783, section 3.3.2).
  """
  if layers % stages == 0:
    return layers // stages
  return min(math.ceil((layers + 2) / stages), layers)


def backward(forward: Pass, trains_weights: bool = True) -> Pass:
  """The backward pass of a forward one."""
  found = []
  for kernel in forward.kernels:
    if kernel.op == 'gemm':
      s = kernel.shape
      turned = [(s['m'], s['k'], s['n']), (s['n'], s['k'], s['m'])]
      turned = turned if trains_weights else turned[:1]
      found += [
        kernel._replace(shape={**s, 'm': m, 'n': n, 'k': k})
        for m, n, k in turned
      ]
    elif kernel.op == 'moe':
      passes = 2.0 if trains_weights else 1.0
      found.append(kernel._replace(count=passes * kernel.count))
    elif kernel.op.endswith('attention') or kernel.op.startswith('mla'):
      found.append(kernel._replace(count=2.5 * kernel.count))
    else:
      found.append(kernel)
  return Pass(tuple(found), 2.0 * forward.streamed_B, 2.0 * forward.small)


def _over_context(forward, model, mesh, layers, seq_len, micro_batch) -> Pass:
  """Context parallelism: balanced shares of a causal core, keys gathered.

  A rank has two chunks, one early and one late, so that all ranks do the same
  share of the causal core (Llama 3, arXiv:2407.21783, section 3.3.2).
  """
  if mesh.context <= 1:
    return forward
  kernels = []
  for kernel in forward.kernels:
    if kernel.op in ('prefill_attention', 'mla_prefill'):
      shape = {**kernel.shape, 'seq_len': seq_len}
      share = kernel.count / mesh.context
      kernel = kernel._replace(shape=shape, count=share)
    kernels.append(kernel)
  payload_B = _VALUE_B * micro_batch * seq_len * model.attention.cache_values
  gathered = _collective(
    'all_gather', payload_B / mesh.tensor, mesh.context, mesh, mesh.tensor
  )
  links = [g._replace(count=float(layers)) for g in gathered]
  return forward._replace(kernels=(*kernels, *links))


def _scores_B(model, mesh, layers, seq_len, micro_batch) -> float:
  """Causal or not, attention in parts goes over the whole square."""
  heads = model.attention.heads / mesh.tensor
  return _SCORE_B * layers * micro_batch * heads * seq_len * seq_len


def _stage_parameters(model, mesh, layers) -> dict[str, float]:
  """Parameters of a stage on one device, by whether experts share them."""
  count = model.parameters()
  share = layers / model.layers
  plain = (count.attention + count.mlp) / mesh.tensor + count.router
  tables = count.embeddings / mesh.tensor
  if mesh.pipeline > 1:
    tables = model.vocab * model.d_model / mesh.tensor
  return {
    'dense': share * (plain + count.norms) + tables,
    'experts': share * count.experts / mesh.expert,
  }


def _stage_send(model, mesh, tokens) -> Pass:
  if mesh.pipeline <= 1:
    return Pass()
  payload_B = _VALUE_B * tokens * model.d_model / mesh.tensor
  near = 2.0 if mesh.devices <= mesh.per_node else 1.0
  return Pass((kernels_lib.collective('send_recv', payload_B, 2.0, near),))


def _collective(op, payload_B, ranks, mesh, stride) -> tuple[Kernel, ...]:
  if ranks <= 1 or payload_B <= 0:
    return ()
  near = mesh.in_node(ranks, stride)
  return (kernels_lib.collective(op, payload_B, ranks, near),)


def _gather(mesh, weights, layers) -> Pass:
  """Layer by layer, so that each message has one layer's weights."""
  if mesh.sharded <= 1:
    return Pass()
  payload_B = _VALUE_B * sum(weights.values()) / (layers + 1)
  one = _collective('all_gather', payload_B, mesh.sharded, mesh, mesh.tensor)
  return Pass(one).times(layers + 1)


def _scatter(mesh, weights, layers, gradient_B) -> Pass:
  if mesh.sharded <= 1:
    return Pass()
  payload_B = gradient_B * sum(weights.values()) / (layers + 1)
  one = _collective(
    'reduce_scatter', payload_B, mesh.sharded, mesh, mesh.tensor
  )
  return Pass(one).times(layers + 1)


def _replicas(mesh: Mesh) -> dict[str, int]:
  """Ranks with the same weights, by who shares them."""
  dense = mesh.data * mesh.context // mesh.sharded
  # Whole experts lie on tensor ranks as on any others.
  return {
    'dense': dense, 'experts': max(dense * mesh.tensor // mesh.expert, 1)
  }  # fmt: skip


def _reduce(mesh, weights, gradient_B) -> Pass:
  """Over the ranks with the same weights, once in a step."""
  found = []
  apart = mesh.context * mesh.sharded
  strides = {'dense': apart * mesh.tensor, 'experts': apart * mesh.expert}
  moves = [('all_reduce', gradient_B)]
  if mesh.optimizer_sharded:
    moves = [('reduce_scatter', gradient_B), ('all_gather', _VALUE_B)]
  for group, ranks in _replicas(mesh).items():
    payload = weights[group] / mesh.sharded
    for op, value_B in moves:
      found += _collective(op, value_B * payload, ranks, mesh, strides[group])
  return Pass(tuple(found))


def _adam_B(mesh, weights) -> float:
  """Bytes of the states that one device owns."""
  replicas = _replicas(mesh)
  owned = sum(
    weights[group] / (ranks if mesh.optimizer_sharded else 1)
    for group, ranks in replicas.items()
  )
  return _ADAM_B * owned / mesh.sharded
