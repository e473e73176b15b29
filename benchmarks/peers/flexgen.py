"""FlexGen's cost model as one differentiable function of nine fractions.

Sheng et al., ICML 2023 (arXiv:2303.06865), section 4.3 and appendix A, in the
form that its repository ships (`experimental/cost_model.py`): a layer's time
is the longest of what overlaps,

    T_pre = max(host->gpu + disk->host, gpu->host + host->disk, compute)
    T_gen = host->gpu + max(gpu->host, disk->host, host->disk, compute)
    T     = layers * (T_pre + (generated - 1) * T_gen)

and each term is affine in the fractions of weights, cache and hidden values
(rows) on GPU, host and disk (columns) at given batch sizes. Peak memory of
GPU, host and disk is affine too. Written from the equations, not from the code.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Hardware(NamedTuple):
  """Published constants; those of flexgen.toml in SI units."""

  host_to_gpu_Bps: float
  gpu_to_host_cache_Bps: float
  gpu_to_host_hidden_Bps: float
  disk_to_host_Bps: float
  host_to_disk_cache_prefill_Bps: float
  host_to_disk_hidden_prefill_Bps: float
  host_to_disk_decode_Bps: float
  disk_weights_share: float
  matrix_prefill_FLOPps: float
  matrix_decode_FLOPps: float
  attention_prefill_FLOPps: float
  attention_decode_FLOPps: float
  host_attention_FLOPps: float
  host_cross: float
  host_batch: float
  host_width: float


class Job(NamedTuple):
  """One model and its requests.

  Attributes:
    layers: decoder layers.
    d_model: width of the hidden values.
    d_ff: width within the MLP.
    heads: attention heads.
    prompt: tokens of each prompt.
    generated: tokens generated for each.
  """

  layers: float
  d_model: float
  d_ff: float
  heads: float
  prompt: float
  generated: float

  @property
  def layer_B(self) -> float:
    """Weights of one layer, 16 bits [B]."""
    return 8.0 * self.d_model**2 + 4.0 * self.d_model * self.d_ff


class Terms(NamedTuple):
  """Everything that a policy is judged by, affine in the fractions.

  Attributes:
    prefill_s: what overlaps in a layer's prefill; the longest counts [3].
    step_s: the same of a layer in one decode step [4].
    used_B: peak memory: GPU in prefill and decoding, host likewise, disk [5].
  """

  prefill_s: Float[Array, ' 3']
  step_s: Float[Array, ' 4']
  used_B: Float[Array, ' 5']


# Which room each of `used_B` has.
ROOM_OF = np.array([0, 0, 1, 1, 2])


def terms(
  fractions: Float[Array, 'tensor=3 place=3'],
  job: Job,
  hardware: Hardware,
  gpu_batch: Float[Array, ''],
  blocks: Float[Array, ''],
) -> Terms:
  """Times and peak memory of a policy. jit-, vmap- and differentiable."""
  batch = gpu_batch * blocks
  return Terms(
    _prefill(fractions, job, hardware, batch),
    _step(fractions, job, hardware, gpu_batch, batch),
    _memory(fractions, job, gpu_batch, batch),
  )


def total_s(found: Terms, job: Job) -> Float[Array, '']:
  """Prefill and all decode steps of one block [s]."""
  steps = job.generated - 1.0
  return job.layers * (found.prefill_s.max() + steps * found.step_s.max())


def tokens_per_s(
  fractions: Float[Array, 'tensor=3 place=3'],
  job: Job,
  hardware: Hardware,
  gpu_batch: Float[Array, ''],
  blocks: Float[Array, ''],
) -> Float[Array, '']:
  """Generated tokens per second, prefill included."""
  found = terms(fractions, job, hardware, gpu_batch, blocks)
  return gpu_batch * blocks * job.generated / total_s(found, job)


def _prefill(fractions, job: Job, hardware: Hardware, batch):
  """What overlaps in a layer's prefill."""
  (_, w_host, w_disk), (_, c_host, c_disk), (_, h_host, h_disk) = fractions
  tokens = batch * job.prompt
  hidden_B = 2.0 * tokens * job.d_model
  cache_B = 4.0 * batch * (job.prompt + 1.0) * job.d_model
  h_away = hidden_B * (h_host + h_disk)
  to_gpu_s = (job.layer_B * (w_host + w_disk) + h_away) / (
    hardware.host_to_gpu_Bps
  )
  to_host_s = (
    cache_B * (c_host + c_disk) / hardware.gpu_to_host_cache_Bps
    + h_away / hardware.gpu_to_host_hidden_Bps
  )
  from_disk_s = (job.layer_B * w_disk + hidden_B * h_disk) / (
    hardware.disk_to_host_Bps
  )
  to_disk_s = (
    cache_B * c_disk / hardware.host_to_disk_cache_prefill_Bps
    + hidden_B * h_disk / hardware.host_to_disk_hidden_prefill_Bps
  )
  # Two FLOPs for each weight of two bytes and token.
  compute_s = (
    tokens * job.layer_B / hardware.matrix_prefill_FLOPps
    + 4.0
    * tokens
    * job.prompt
    * job.d_model
    / hardware.attention_prefill_FLOPps
  )
  return jnp.stack(
    [to_gpu_s + from_disk_s, to_host_s + to_disk_s, compute_s + 0.0 * to_gpu_s]
  )


def _step(fractions, job: Job, hardware: Hardware, gpu_batch, batch):
  """What a layer's decode step waits for: the transfer in, and the longest."""
  (_, w_host, w_disk), (c_gpu, c_host, c_disk), (_, h_host, h_disk) = fractions
  hidden_B = 2.0 * batch * job.d_model
  # The mean context of the generated tokens.
  context = job.prompt + job.generated / 2.0
  cache_B = 4.0 * batch * context * job.d_model
  away_B = hidden_B * (h_host + h_disk)
  to_gpu_s = (job.layer_B * (w_host + w_disk) + away_B) / (
    hardware.host_to_gpu_Bps
  )
  to_host_s = away_B / hardware.gpu_to_host_hidden_Bps
  from_disk_s = (
    cache_B * c_disk
    + hidden_B * h_disk
    + job.layer_B * w_disk / hardware.disk_weights_share
  ) / hardware.disk_to_host_Bps
  new_B = 4.0 * batch * job.d_model
  to_disk_s = (new_B * c_disk + hidden_B * h_disk) / (
    hardware.host_to_disk_decode_Bps
  )
  # Attention does a multiplication and an addition for each cached value.
  compute_s = (
    batch * job.layer_B / hardware.matrix_decode_FLOPps
    + cache_B * c_gpu / hardware.attention_decode_FLOPps
    + cache_B * (c_host + c_disk) / _host_FLOPps(job, hardware, gpu_batch)
  )
  return to_gpu_s + jnp.stack([to_host_s, from_disk_s, to_disk_s, compute_s])


def _host_FLOPps(job: Job, hardware: Hardware, gpu_batch):
  """Rate of attention on the host: small batches and widths are slower."""
  batch = jnp.maximum(jnp.log2(64.0 / gpu_batch), 0.0)
  width = jnp.maximum(jnp.log2(4096.0 / job.d_model), 0.0)
  share = 1.0 + hardware.host_cross * batch * width
  share = share - hardware.host_batch * batch - hardware.host_width * width
  return hardware.host_attention_FLOPps * jnp.maximum(share, 0.1)


def _memory(fractions, job: Job, gpu_batch, batch):
  """Peak bytes of GPU (prefill, decoding), host (the same) and disk."""
  (w_gpu, w_host, w_disk), (c_gpu, c_host, c_disk), (h_gpu, h_host, h_disk) = (
    fractions
  )
  s, width = job.prompt, job.d_model
  length = s + job.generated
  weights_B = job.layer_B * job.layers
  cache_B = 4.0 * length * width * batch * job.layers
  hidden_B = 2.0 * width * batch
  one_B = 2.0 * width * gpu_batch
  inner_B = 2.0 * job.d_ff * gpu_batch
  scores_B = 2.0 * job.heads * gpu_batch
  # Queries, keys and values with the block's input, scores, both outputs of
  # attention, the MLP.
  prefill_B = 9.0 * s * one_B + scores_B * s**2 + s * inner_B
  decode_B = 7.0 * one_B + inner_B
  on_gpu_B = 2.0 * (1.0 + length) * one_B + scores_B * length
  gpu_prefill = (
    weights_B * w_gpu + hidden_B * s * h_gpu + cache_B * c_gpu
    + 2.0 * job.layer_B * (1.0 - w_gpu) + one_B * s * (1.0 - h_gpu) + prefill_B
  )  # fmt: skip
  gpu_decode = (
    weights_B * w_gpu + hidden_B * h_gpu + cache_B * c_gpu
    + 2.0 * job.layer_B * (1.0 - w_gpu) + one_B * (1.0 - h_gpu) + decode_B
    + (2.0 * one_B * length + on_gpu_B) * c_gpu
  )  # fmt: skip
  host_prefill = (
    weights_B * w_host + hidden_B * s * h_host + cache_B * s / length * c_host
    + job.layer_B * (1.0 - w_gpu) + one_B * s * (1.0 - h_gpu)
  )  # fmt: skip
  host_decode = (
    weights_B * w_host + hidden_B * h_host + cache_B * c_host
    + job.layer_B * w_disk + 2.0 * one_B * h_disk
    + 4.0 * one_B * length * c_disk + scores_B * length + one_B
  )  # fmt: skip
  disk = weights_B * w_disk + hidden_B * s * h_disk + cache_B * c_disk
  return jnp.stack([gpu_prefill, gpu_decode, host_prefill, host_decode, disk])
