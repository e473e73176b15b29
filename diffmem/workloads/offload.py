"""Inference with weights and KV cache outside the accelerator's memory.

One pass (a prefill, or a decode step of the whole batch) goes through the
layers once. Weights that live away cross the link once per pass, however many
*blocks* (micro-batches) share them; keys and values cross it in every decode
step, unless the host computes attention where they lie (Sheng et al.,
"FlexGen", ICML 2023, section 4.1: block schedule and delegated attention;
Aminabadi et al., "DeepSpeed-Inference", SC 2022, section 6: ZeRO-Inference).
Stored values of few bits are unpacked to 16 bits on the accelerator before
they are used: weights once per block, cached keys and values once per step.
"""

from typing import NamedTuple

from diffmem import errors
from diffmem.cost import Demand
from diffmem.system import System
from diffmem.workloads.transformer import Transformer

# Values are computed with, and uncompressed ones stored, in 16 bits.
VALUE_B = 2.0


class Share(NamedTuple):
  """Where a tensor lives: shares that sum to one.

  Attributes:
    near: in the accelerator's memory.
    host: in the host's memory.
    disk: on a drive.
  """

  near: float = 0.0
  host: float = 0.0
  disk: float = 0.0

  @property
  def away(self) -> float:
    """Share that is not in the accelerator's memory."""
    return self.host + self.disk


class OffloadJob(NamedTuple):
  """One batch, from prompt to last token, on each of `gpus` accelerators.

  Attributes:
    batch: sequences of one accelerator.
    prompt: tokens of each prompt.
    generated: tokens that are generated for each sequence.
    weights: where the weights live.
    cache: where keys and values live.
    blocks: micro-batches that a layer's weights are used for, one after the
      other, before the next layer is fetched.
    gpus: accelerators that fetch a part of the weights each and exchange it.
    weight_B: bytes of a stored weight with its share of scales.
    cache_B: bytes of a stored key or value with its share of scales.
    host_attention: whether the host computes attention over what it holds.
  """

  batch: float
  prompt: float
  generated: float
  weights: Share
  cache: Share
  blocks: float = 1.0
  gpus: int = 1
  weight_B: float = VALUE_B
  cache_B: float = VALUE_B
  host_attention: bool = False


class Traffic(NamedTuple):
  """What one pass asks of one accelerator, its link and its host.

  Attributes:
    link_B: bytes to and from the accelerator over the host link [B].
    disk_read_B: bytes read from drives [B].
    disk_write_B: bytes written to drives [B].
    host_B: bytes of host memory that attention on the host goes over [B].
    near_B: bytes of the accelerator's own memory [B].
    flops: floating-point operations of matrix products.
    unpacked: values that are unpacked to 16 bits.
    layers: decoder layers, times the blocks that go through each.
  """

  link_B: float
  disk_read_B: float
  disk_write_B: float
  host_B: float
  near_B: float
  flops: float
  unpacked: float
  layers: float


def prefill_traffic(model: Transformer, job: OffloadJob) -> Traffic:
  """The pass over all prompts; keys and values leave for where they live."""
  tokens = job.batch * job.prompt
  values = job.batch * model.cache_values(job.prompt)
  stored_B = values * job.cache_B
  fetched = _fetched(model, job)
  return fetched._replace(
    link_B=fetched.link_B + job.cache.away * stored_B,
    disk_write_B=job.cache.disk * stored_B,
    near_B=fetched.near_B + values * VALUE_B,
    flops=tokens * (_matrix_flops(model) + _core_flops(model, job.prompt / 2)),
    unpacked=fetched.unpacked + (values if job.cache_B < VALUE_B else 0.0),
  )


def decode_traffic(model: Transformer, job: OffloadJob) -> Traffic:
  """One decode step, the mean over the generated tokens."""
  context = job.prompt + job.generated / 2.0
  values = job.batch * model.cache_values(context)
  stored_B = values * job.cache_B
  fetched = _fetched(model, job)
  away = job.cache.away
  sent = 0.0 if job.host_attention else away
  core = _core_flops(model, context)
  # Queries, keys and values go to the host, outputs come back.
  vectors_B = 4.0 * VALUE_B * job.batch * model.d_model * model.layers
  return fetched._replace(
    link_B=fetched.link_B + sent * stored_B + away * vectors_B,
    disk_read_B=fetched.disk_read_B + job.cache.disk * stored_B,
    host_B=(away - sent) * values * VALUE_B * _repeats(model),
    near_B=fetched.near_B + (1.0 - away + sent) * values * VALUE_B,
    flops=job.batch * (_matrix_flops(model) + (1.0 - away + sent) * core),
    unpacked=fetched.unpacked + (values if job.cache_B < VALUE_B else 0.0),
  )


def largest_batch(
  model: Transformer, job: OffloadJob, memory_B: float, copies: float = 3.0
) -> int:
  """The largest power of two of sequences that the near memory holds.

  Args:
    model: the transformer.
    job: its `batch` does not matter.
    memory_B: the accelerator's memory [B].
    copies: of keys and values while they grow: a framework that concatenates
      holds the old, the new and a temporary one.

  Returns:
    The batch of one accelerator; 0 when not one sequence fits.
  """
  layer_B = VALUE_B * model.parameters().total / model.layers
  fixed_B = 2.0 * layer_B + job.weights.near * job.weight_B * (
    model.parameters().total
  )
  tokens = job.prompt + job.generated
  cached_B = copies * model.cache_values(tokens) * VALUE_B
  # Logits of the whole prompt, in 16 and in 32 bits.
  one_B = cached_B * job.cache.near + 6.0 * job.prompt * model.vocab
  batch = 1
  while batch * one_B + fixed_B <= memory_B:
    batch *= 2
  return batch // 2


def offload_demand(
  system: System, traffic: Traffic, *, near: str, engine: str
) -> Demand:
  """A pass as a demand on a system with tiers DRAM and SSD behind a link.

  Bytes that cross the link are read from DRAM, those of drives from SSD; the
  host's own attention is no part of it (`diffmem.runs.offload` prices it).

  Args:
    system: the machine.
    traffic: of one pass.
    near: the accelerator's memory.
    engine: where matrix products run.

  Raises:
    SpecError: the system lacks one of the tiers or the engine.
  """
  if traffic.disk_read_B > traffic.link_B:
    raise errors.SpecError(
      'bytes that the host reads from a drive for itself have no demand on '
      f'{system.name}'
    )
  reads = {near: traffic.near_B}
  reads['DRAM'] = traffic.link_B - traffic.disk_read_B
  writes = {}
  if traffic.disk_read_B or traffic.disk_write_B:
    reads['SSD'] = traffic.disk_read_B
    writes['SSD'] = traffic.disk_write_B
  return Demand.of(
    system,
    read_B=reads,
    write_B=writes,
    flops={engine: traffic.flops},
    launches=traffic.layers,
  )


def _fetched(model: Transformer, job: OffloadJob) -> Traffic:
  """What the weights of one pass ask for."""
  total = model.parameters().total
  stored_B = total * job.weight_B
  packed = job.weight_B < VALUE_B
  return Traffic(
    link_B=job.weights.away * stored_B / job.gpus,
    disk_read_B=job.weights.disk * stored_B / job.gpus,
    disk_write_B=0.0,
    host_B=0.0,
    near_B=job.blocks * total * VALUE_B,
    flops=0.0,
    unpacked=job.blocks * total if packed else 0.0,
    layers=model.layers * job.blocks,
  )


def _core_flops(model: Transformer, context: float) -> float:
  """Forward FLOPs of one token's attention cores, all layers."""
  return sum(
    g.layers * g.attention.core_flops_per_key * g.keys(context)
    for g in model.attention_groups()
  )


def _repeats(model: Transformer) -> float:
  """How often attention on the host goes over the bytes of its cache.

  Eager implementations first write grouped keys and values out once per query
  head, then read them: with the read that a cached write starts with, 1 + 3 g
  bytes for each cached one.
  """
  group = model.attention.heads / model.attention.kv_heads
  return 1.0 + 3.0 * group if group > 1.0 else 1.0


def _matrix_flops(model: Transformer) -> float:
  """Forward FLOPs of one token in all matrices."""
  tables = model.parameters().embeddings - model.vocab * model.d_model
  return 2.0 * (model.active_parameters() - tables)
