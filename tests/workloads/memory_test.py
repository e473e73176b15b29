"""Memory of a device, against arithmetic done by hand and the planner's own."""

import functools
import itertools

import jax
import numpy as np
import pytest

from diffmem.system import Engine, System, Tier
from diffmem.workloads import (
  Choices,
  Decoding,
  Training,
  Transformer,
  load_workload,
  lower_decode,
  lower_train,
  machine_of,
  memory_of,
  tier_memory_B,
  workload_names,
)
from diffmem.workloads.transformer import Attention, Experts
from diffmem.workloads.working_set import MIXED_PRECISION, XLA_GPU, XLA_TPU

MOE = Transformer(
  name='moe', source='test', layers=8, d_model=512, vocab=4096,
  attention=Attention(heads=8, kv_heads=4, head_dim=64),
  experts=Experts(count=16, top_k=2, d_ff=1024), max_context=8192,
)  # fmt: skip
DENSE = Transformer(
  name='dense', source='test', layers=8, d_model=512, d_ff=2048, vocab=4096,
  attention=Attention(heads=8, kv_heads=4, head_dim=64), max_context=8192,
)  # fmt: skip
TRAINING = Training(1024, 192)
# Small programs: compiling costs more than running.
_quick_jit = functools.partial(
  jax.jit,
  static_argnums=(0, 1, 3),
  compiler_options={
    'xla_backend_optimization_level': 0,
    'xla_cpu_use_fusion_emitters': False,
  },
)
_memory_of = _quick_jit(memory_of)


def _system():
  link = {'duplex': 'full_duplex', 'link': True}
  tiers = [
    Tier.of('HBM', read_Bps=3e12, capacity_B=80e9),
    Tier.of('PCIe', read_Bps=64e9, latency_s=1e-6, **link),
    Tier.of('DRAM', read_Bps=77e9, capacity_B=250e9, via='PCIe'),
    Tier.of('IB', read_Bps=50e9, latency_s=5e-6, span=65536, **link),
  ]
  engine = Engine.of('matrix:bfloat16', rate_FLOPps=600e12)
  return System.of('gpu', tiers, [engine])


def _grid(**axes):
  """All combinations, one array [plan] per choice."""
  points = np.array(list(itertools.product(*axes.values())), float)
  return Choices.of(**dict(zip(axes, points.T, strict=True)))


@pytest.mark.parametrize('micro_batch', [1, 2])
def test_xla_step_tensor_by_tensor(micro_batch):
  """One moment of one plan, every part computed apart."""
  t, f, layers, s = 2, 4, 8, 1024
  choices = Choices.of(
    tensor=float(t), fsdp=float(f), micro_batch=float(micro_batch),
    recompute=2.0,
  )  # fmt: skip
  found = memory_of(DENSE, Training(s, f * micro_batch), choices, XLA_TPU)
  h, tokens = 512, micro_batch * s
  matrices = h * (2 * 512 + 2 * 256) + 3 * h * 2048
  norms = 2 * h + h / layers
  layer = matrices / t + norms
  owned = (layers * layer + 2 * 4096 * h / t) / f
  assert float(found.weights_B) == pytest.approx(2 * owned, rel=1e-5)
  assert float(found.optimizer_B) == pytest.approx(8 * owned, rel=1e-5)
  kept = layers * tokens * h * 2
  c = XLA_TPU.copies
  # Per token: queries, what attention gives, keys and values; gate, up and
  # what goes into the last product.
  hidden = 2 * (2 * 512 + 2 * 256 + 3 * 2048) * tokens / t
  at_layer = c.scores * 4 * 8 * s * tokens / t + c.stream * 2 * h * tokens
  at_layer += c.hidden * hidden + c.gathered * 2 * layer
  at_head = c.logits * 4 * 4096 * tokens / t + c.table * 2 * 4096 * h / t
  at_update = c.table_gradient * 2 * 4096 * h / t
  fullest = max(
    2 * owned + kept + at_layer, kept + at_head, 2 * owned + at_update
  )
  peak = 10 * owned + fullest
  assert float(found.peak_B) == pytest.approx(peak, rel=1e-5)


def test_mixed_precision_is_eighteen_bytes_a_parameter():
  model = load_workload('llama-3.1-8b')
  found = memory_of(model, Training(4096, 64), Choices.of(recompute=2.0))
  states = found.weights_B + found.optimizer_B + found.gradients_B
  assert float(states) == pytest.approx(18 * model.parameters().total, rel=1e-5)
  # 2 s b h bytes of every layer (Korthikanti et al., 2023, table 2).
  kept = 2 * 4096 * 4096 * 32
  assert float(found.activations_B) == pytest.approx(kept)
  assert float(found.kv_cache_B) == float(found.buffers_B) == 0


@pytest.mark.parametrize('model', [DENSE, MOE], ids=['dense', 'moe'])
def test_the_planner_never_asks_for_less(model):
  choices = _grid(
    tensor=[1, 4], expert=[1, 2] if model.experts else [1], fsdp=[1, 4],
    data=[1, 2], pipeline=[1, 4], micro_batch=[1, 2], recompute=[0, 1, 2],
  )  # fmt: skip
  machine = machine_of(_system(), 64)
  lowered = _quick_jit(lower_train)(model, TRAINING, choices, machine)
  asked_B = lowered.size_B.sum(-1) + lowered.fixed_B
  needed_B = _memory_of(model, TRAINING, choices, MIXED_PRECISION).peak_B
  assert np.all(asked_B >= needed_B * (1 - 1e-6))
  # And not for much more: only what is not alive at the fullest moment.
  assert np.all(asked_B <= 1.5 * needed_B)


def test_the_planner_counts_a_decode_step_as_here():
  choices = _grid(tensor=[1, 2, 4], data=[1, 2])
  decoding = Decoding(32, 4096)
  lowered = _quick_jit(lower_decode)(
    DENSE, decoding, choices, machine_of(_system(), 8)
  )
  needed_B = _memory_of(DENSE, decoding, choices, MIXED_PRECISION).peak_B
  asked_B = lowered.size_B.sum(-1) + lowered.fixed_B
  np.testing.assert_allclose(asked_B, needed_B, rtol=1e-5)


@pytest.mark.parametrize('program', [MIXED_PRECISION, XLA_TPU, XLA_GPU])
@pytest.mark.parametrize('model', [DENSE, MOE], ids=['dense', 'moe'])
def test_more_never_needs_less(model, program):
  def peaks(phase=TRAINING, **choices):
    found = _memory_of(model, phase, Choices.of(**choices), program)
    return np.asarray(found.peak_B).tolist()

  def rising(values):
    return values == sorted(values) and values[0] < values[-1]

  assert rising(peaks(micro_batch=np.array([1.0, 2.0, 4.0]), recompute=2.0))
  assert rising(peaks(recompute=np.array([2.0, 1.0, 0.0])))
  assert rising(peaks(fsdp=np.array([8.0, 4.0, 2.0]), recompute=2.0))
  assert rising(peaks(tensor=np.array([4.0, 2.0, 1.0]), recompute=2.0))
  three = np.full(3, 2.0)
  short, long = (
    peaks(Training(s, 192), recompute=three)[0] for s in (512, 1024)
  )
  assert short < long


def test_parts_add_up_and_none_is_negative():
  choices = _grid(
    tensor=[1, 4], fsdp=[1, 8], micro_batch=[1, 4], recompute=[0, 1, 2]
  )
  for program in (MIXED_PRECISION, XLA_TPU, XLA_GPU):
    found = _memory_of(DENSE, Training(4096, 512), choices, program)
    parts = np.stack(list(found.parts_B.values()))
    assert parts.min() >= -1.0  # rounding in float32
    np.testing.assert_allclose(parts.sum(0), found.peak_B, rtol=1e-6)
    gathers = np.asarray(choices.fsdp) > 1
    assert np.all((np.asarray(found.buffers_B) > 0) <= gathers)


def test_selective_recomputation_keeps_products_where_scores_are_stored():
  found = memory_of(
    DENSE, Training(1024, 1), Choices.of(recompute=1.0), XLA_TPU
  )
  # Input, output of attention, queries, keys and values, gate and up.
  per_token = 2 * (512 + 512 + 512 + 2 * 256 + 2 * 2048)
  assert float(found.activations_B) == pytest.approx(8 * 1024 * per_token)


def test_nothing_is_kept_when_the_tables_are_updated():
  wide = DENSE.model_copy(update={'vocab': 10_000_000})
  found = memory_of(wide, Training(128, 1), Choices.of(recompute=2.0), XLA_TPU)
  assert float(found.activations_B) == 0
  table_B = 2 * 512 * 10_000_000
  expected = XLA_TPU.copies.table_gradient * table_B
  assert float(found.temporaries_B) == pytest.approx(expected)
  assert float(found.gradients_B) == pytest.approx(float(found.weights_B))


def test_a_plain_decode_step_copies_half_of_the_cache():
  decoding = Decoding(64, 8192)
  cache_B = 8 * 64 * 8192 * 2 * 4 * 64 * 2
  served, plain = (
    memory_of(DENSE, decoding, Choices.of(), program)
    for program in (MIXED_PRECISION, XLA_TPU)
  )
  assert float(served.kv_cache_B) == pytest.approx(cache_B)
  extra = float(plain.peak_B - served.peak_B)
  assert extra == pytest.approx(0.5 * cache_B, rel=1e-4)
  # With weights that are gathered meanwhile, all of it, and a table or layer.
  ranks = Choices.of(fsdp=8.0)
  shared = memory_of(DENSE, decoding, ranks, XLA_TPU)
  assert float(shared.temporaries_B) >= cache_B / 8
  assert float(shared.buffers_B) == pytest.approx(
    2 * max(4096 * 512, 512 * (2 * 512 + 2 * 256) + 3 * 512 * 2048), rel=1e-3
  )


def test_every_kind_of_preset_is_answered():
  models = [load_workload(name) for name in workload_names()]
  # One of each ten, and the largest table: more than 2^31 values.
  models = [*models[::10], max(models, key=lambda m: m.vocab * m.d_model)]
  assert models[-1].vocab * models[-1].d_model > 2**31
  for model in models:
    found = memory_of(model, Training(2048, 8), Choices.of(recompute=2.0))
    weights_B = 2 * model.parameters().total
    assert float(found.weights_B) == pytest.approx(weights_B, rel=1e-2)
    assert min(float(part) for part in found.parts_B.values()) > -1e4
    found = memory_of(model, Decoding(8, 2048), Choices.of())
    assert float(found.weights_B) < 1.02 * weights_B
    assert 0 < float(found.kv_cache_B) < float(found.peak_B)


def test_fits_leaves_a_margin():
  found = memory_of(DENSE, TRAINING, Choices.of(recompute=2.0))
  peak_B = float(found.peak_B)
  assert bool(found.fits(1.11 * peak_B))
  assert not bool(found.fits(1.09 * peak_B))
  assert bool(found.fits(1.01 * peak_B, margin=0.0))


def test_tiers_share_what_is_placed():
  lowered = _quick_jit(lower_train)(
    DENSE, TRAINING, _grid(fsdp=[1, 4]), machine_of(_system(), 4)
  )
  near = lowered.near_placement()
  held_B = tier_memory_B(lowered, near)
  total_B = lowered.size_B.sum(-1) + lowered.fixed_B
  np.testing.assert_allclose(held_B[:, 0], total_B, rtol=1e-6)
  assert np.all(held_B[:, 1] == 0)
  group = lowered.groups.index('mlp_weights')
  moved = np.array(near)
  moved[:, group] = [0.0, 1.0]
  there_B = tier_memory_B(lowered, moved)
  size_B = lowered.size_B[:, group]
  np.testing.assert_allclose(there_B[:, 1], size_B, rtol=1e-6)
  # A buffer of two of eight layers stays.
  gone_B = held_B[:, 0] - there_B[:, 0]
  np.testing.assert_allclose(gone_B, 0.75 * size_B, rtol=1e-3)


def test_gradient_to_the_micro_batch_is_that_of_differences():
  def peak(b, recompute):
    choices = Choices.of(micro_batch=b, recompute=recompute)
    return memory_of(DENSE, TRAINING, choices, XLA_TPU).peak_B

  for recompute in (0.0, 2.0):
    slope = jax.grad(functools.partial(peak, recompute=recompute))(2.0)
    step = 0.125
    high, low = (peak(2.0 + d, recompute) for d in (step, -step))
    assert float(slope) == pytest.approx(float(high - low) / 2 / step, rel=1e-3)
