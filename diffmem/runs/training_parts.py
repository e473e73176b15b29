"""What a training step is made of, in seconds, and how software joins it.

The machine says how long each kernel, collective and stream takes. How well a
software stack uses them is a handful of factors near one, a host time per
layer and shares of communication that stay exposed: `PARAMETERS`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffmem.runs.machines import Machines
from diffmem.runs.pricing import Prices
from diffmem.runs.training_rows import TrainingRun
from diffmem.workloads.kernels import Pass
from diffmem.workloads.train_kernels import Step, training_step
from diffmem.workloads.transformer import Transformer

_GRADIENT_B = 2.0
_CORES = ('prefill_attention', 'mla_prefill')
_DISPATCH = ('expert_dispatch', 'expert_combine')
_COLLECTIVES = ('all_reduce', 'all_gather', 'reduce_scatter', 'send_recv')
# A product runs at full speed where its dimensions are multiples of this many
# values (NVIDIA, "Matrix Multiplication Background", tile sizes).
_ALIGNED = 64
# Heads x sequences per kernel of Megatron-LM's fused softmax; other counts
# fall back to one kernel per operation (megatron/fused_kernels).
_SOFTMAX_BATCH = 4
# How sharply the slower of host and device, or of link and device, wins.
_HOST_P, _LINK_P = 6.0, 3.0


class Prior(NamedTuple):
  """What is believed of a parameter before any run is seen.

  Attributes:
    median: of its log-normal distribution.
    log_sd: of its logarithm.
    unit: '1' for factors.
    help: one line.
  """

  median: float
  log_sd: float
  unit: str
  help: str


PARAMETERS: Mapping[str, Prior] = {
  'product': Prior(1.1, 0.15, '1', 'time of products, over kernels alone'),
  'unaligned': Prior(0.15, 0.7, '1', 'more of it where widths are odd'),
  'core': Prior(1.1, 0.3, '1', 'time of the attention core forward'),
  'core_backward': Prior(1.2, 0.3, '1', 'the same backward, per FLOP'),
  'experts': Prior(1.1, 0.3, '1', 'time of routed experts'),
  'stream': Prior(1.2, 0.5, '1', 'bytes of element-wise kernels, over fused'),
  'scores': Prior(1.0, 0.5, '1', 'bytes of scores that are written'),
  'layer_host_s': Prior(1e-3, 1.0, 's', 'host time of a layer forward'),
  'fallback': Prior(0.15, 0.7, '1', 'more host time without fused softmax'),
  'lockstep': Prior(0.02, 1.0, '1', 'more host time per further tensor rank'),
  'tensor_link': Prior(0.8, 0.5, '1', 'exposed share of tensor collectives'),
  'expert_link': Prior(0.7, 0.5, '1', 'exposed share of expert exchanges'),
  'stage_link': Prior(0.7, 0.7, '1', 'exposed share of sends between stages'),
  'shard_link': Prior(1.0, 0.5, '1', 'time of gathers and scatters of weights'),
  'data_link': Prior(0.4, 0.7, '1', 'exposed share of the gradient reduction'),
  'optimizer': Prior(1.3, 0.5, '1', 'bytes of the optimizer, over Adam alone'),
  'step_s': Prior(5e-3, 1.5, 's', 'all else that a step does once'),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Parts:
  """Times of the parts of many steps; arrays [run].

  Attributes:
    product_s: products of one micro-batch: forward, backward [2 run] [s].
    odd_s: those of them with odd widths [2 run] [s].
    core_s: attention core [2 run] [s].
    experts_s: routed experts [2 run] [s].
    stream_s: element-wise kernels [2 run] [s].
    tensor_s: collectives inside layers [2 run] [s].
    exchange_s: expert dispatch and combination [2 run] [s].
    scores_s: scores of attention in parts, forward [s].
    head_s: products and streams of the output layer, both ways [s].
    send_s: to the next stage, one way [s].
    gather_s: weights of a stage, once [s].
    scatter_s: gradients of a stage, once [s].
    reduce_s: gradients over the data ranks, once a step [s].
    adam_s: bytes of the optimizer [s].
    again: share of the forward pass that is computed again.
    core_again: whether the attention core alone is computed again.
    is_fused: whether attention never writes its scores.
    is_fallback: whether its softmax falls back to many kernels.
    ranks: tensor ranks beyond the first.
    micro_batches: of a step.
    stages: pipeline stages.
    interleave: chunks per stage.
    layers: of the fullest stage.
    stage_share: layers of a mean stage over those of the fullest.
  """

  product_s: Float[np.ndarray, '2 run']
  odd_s: Float[np.ndarray, '2 run']
  core_s: Float[np.ndarray, '2 run']
  experts_s: Float[np.ndarray, '2 run']
  stream_s: Float[np.ndarray, '2 run']
  tensor_s: Float[np.ndarray, '2 run']
  exchange_s: Float[np.ndarray, '2 run']
  scores_s: Float[np.ndarray, ' run']
  head_s: Float[np.ndarray, ' run']
  send_s: Float[np.ndarray, ' run']
  gather_s: Float[np.ndarray, ' run']
  scatter_s: Float[np.ndarray, ' run']
  reduce_s: Float[np.ndarray, ' run']
  adam_s: Float[np.ndarray, ' run']
  again: Float[np.ndarray, ' run']
  core_again: Float[np.ndarray, ' run']
  is_fused: Float[np.ndarray, ' run']
  is_fallback: Float[np.ndarray, ' run']
  ranks: Float[np.ndarray, ' run']
  micro_batches: Float[np.ndarray, ' run']
  stages: Float[np.ndarray, ' run']
  interleave: Float[np.ndarray, ' run']
  layers: Float[np.ndarray, ' run']
  stage_share: Float[np.ndarray, ' run']

  def select(self, index) -> 'Parts':
    """Some of the runs."""
    fields = dataclasses.fields(self)
    return Parts(**{f.name: getattr(self, f.name)[..., index] for f in fields})


def parts_of(runs: Sequence[TrainingRun], machines: Machines) -> Parts:
  """Prices the steps of many runs, machine by machine."""
  found: list[dict] = [{}] * len(runs)
  for machine in sorted({run.machine for run in runs}):
    index = [i for i, run in enumerate(runs) if run.machine == machine]
    steps = [step_of(runs[i]) for i in index]
    prices = Prices(machines[machine])
    prices.learn(k for s in steps for p in _passes(s) for k in p.kernels)
    for i, step in zip(index, steps, strict=True):
      found[i] = _priced(runs[i], step, prices)
  names = [f.name for f in dataclasses.fields(Parts)]
  return Parts(
    **{n: np.array([one[n] for one in found], float).T for n in names}
  )


def step_of(run: TrainingRun) -> Step:
  """The kernels of a run's step."""
  return training_step(
    _plain(run.model),
    run.mesh,
    seq_len=run.seq_len,
    micro_batch=run.micro_batch,
    sequences=run.sequences,
    gradient_B=_GRADIENT_B,
    trains_weights=run.trains_weights,
  )


def _plain(model: Transformer) -> Transformer:
  """A dense model without biases, as the software's factors were fitted.

  Tables of dense runs name no biases, so that their passes are part of the
  fitted factors; counted as columns they would also make widths odd. Models
  with experts were fitted as their presets are, biases included.
  """
  if model.experts or model.attention.kind != 'gqa':
    return model
  bare = {'bias': False, 'output_bias': False}
  attention = model.attention.model_copy(update=bare)
  return model.model_copy(update={'attention': attention, 'mlp_bias': False})


def _passes(step: Step) -> list[Pass]:
  return [part for part in step if isinstance(part, Pass)]


def _priced(run: TrainingRun, step: Step, prices: Prices) -> dict:
  both = (step.forward, step.backward)
  stream_Bps = float(prices.fitted.system.tier(prices.memory).read_Bps)

  def total(*ops):
    return [prices.total(p, *ops) for p in both]

  heads = run.model.attention.heads / run.mesh.tensor * run.micro_batch
  head_s = prices.total(step.head, 'gemm') + step.head.streamed_B / stream_Bps
  return {
    'product_s': total('gemm'),
    'odd_s': [prices.total(_odd(p), 'gemm') for p in both],
    'core_s': total(*_CORES),
    'experts_s': total('moe'),
    'stream_s': [p.streamed_B / stream_Bps for p in both],
    'tensor_s': total(*_COLLECTIVES),
    'exchange_s': total(*_DISPATCH),
    'scores_s': step.scores_B / stream_Bps,
    'head_s': head_s,
    'send_s': prices.total(step.stage_send, *_COLLECTIVES),
    'gather_s': prices.total(step.gather, *_COLLECTIVES),
    'scatter_s': prices.total(step.scatter, *_COLLECTIVES),
    'reduce_s': prices.total(step.reduce, *_COLLECTIVES),
    'adam_s': step.adam_B / stream_Bps,
    'again': float(run.recompute == 'full'),
    'core_again': float(run.recompute == 'selective'),
    'is_fused': float(run.is_fused),
    'is_fallback': float(not run.is_fused and heads % _SOFTMAX_BATCH != 0),
    'ranks': run.mesh.tensor - 1.0,
    'micro_batches': step.micro_batches,
    'stages': step.stages,
    'interleave': step.interleave,
    'layers': step.layers,
    'stage_share': step.stage_share,
  }


def _odd(part: Pass) -> Pass:
  """The products of a pass whose widths are no multiple of a tile."""
  kernels = tuple(
    k
    for k in part.of('gemm')
    if any(k.shape[n] % _ALIGNED for n in ('m', 'n', 'k'))
  )
  return Pass(kernels)


def step_time_s(
  parts: Parts, q: Mapping[str, np.ndarray | float]
) -> Float[np.ndarray, ' run']:
  """Time of a step.

  Args:
    parts: of the runs.
    q: value of every parameter, a scalar or [run].
  """
  core_s = q['core'] * parts.core_s[0]
  # Two plain products and what softmax streams stand for a fused core.
  unfused_s = 0.5 * parts.core_s[0] + q['scores'] * parts.scores_s
  core_s = np.where(parts.is_fused > 0, core_s, unfused_s)
  backward_core_s = core_s * 2.5 * q['core_backward']
  unfused_s = 0.4 * parts.core_s[1] + 2.0 * q['scores'] * parts.scores_s
  backward_core_s = np.where(parts.is_fused > 0, backward_core_s, unfused_s)
  plain_s = (
    q['product'] * (parts.product_s + q['unaligned'] * parts.odd_s)
    + q['stream'] * parts.stream_s
    + q['experts'] * parts.experts_s
    + q['tensor_link'] * parts.tensor_s
    + q['expert_link'] * parts.exchange_s
  )
  host_s = q['layer_host_s'] * parts.layers
  host_s = host_s * (1.0 + q['fallback'] * parts.is_fallback)
  host_s = host_s * (1.0 + q['lockstep'] * parts.ranks)
  forward_s = _slower(plain_s[0] + core_s, host_s, _HOST_P)
  backward_s = _slower(plain_s[1] + backward_core_s, 1.5 * host_s, _HOST_P)
  again_s = parts.again * forward_s + parts.core_again * core_s
  gather_s = q['shard_link'] * parts.gather_s
  scatter_s = q['shard_link'] * parts.scatter_s
  stage_s = _slower(forward_s, gather_s, _LINK_P)
  stage_s = stage_s + _slower(
    again_s + backward_s, gather_s + scatter_s, _LINK_P
  )
  sends = 2.0 * parts.interleave
  stage_s = stage_s + q['stage_link'] * sends * parts.send_s
  # The last stage has the output layer too and sets the pace; while the
  # pipeline fills and drains, a micro-batch passes the other stages as well.
  head_s = q['product'] * parts.head_s
  last_s = stage_s + head_s
  others_s = parts.stages * parts.stage_share * stage_s + head_s - last_s
  others_s = np.maximum(others_s, 0.0) / parts.interleave
  once_s = (
    q['data_link'] * parts.reduce_s
    + q['optimizer'] * parts.adam_s
    + q['step_s']
  )
  return parts.micro_batches * last_s + others_s + once_s


def _slower(a, b, p: float):
  """The longer of two times that overlap, or a little more."""
  return (a**p + b**p) ** (1.0 / p)
