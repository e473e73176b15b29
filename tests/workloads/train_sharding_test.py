"""Context ranks and shardings by kind of layer, against plain arithmetic."""

import functools
import itertools

import jax
import numpy as np
import pytest

from diffmem.cost import predict
from diffmem.system import Engine, System, Tier
from diffmem.workloads import (
  SHARDING,
  Choices,
  Training,
  Transformer,
  activations,
  demand,
  load_workload,
  lower_train,
  machine_of,
  memory_of,
  stage,
)
from diffmem.workloads.linear_attention import LinearAttention
from diffmem.workloads.train_kernels import Mesh, training_step
from diffmem.workloads.transformer import (
  Attention,
  Experts,
  LatentAttention,
)

MOE = Transformer(
  name='moe', source='test', layers=8, d_model=512, vocab=4096,
  attention=Attention(heads=8, kv_heads=4, head_dim=64),
  experts=Experts(count=16, top_k=2, d_ff=1024, shared=1), max_context=8192,
)  # fmt: skip
LATENT = MOE.model_copy(
  update={
    'name': 'latent',
    'attention': LatentAttention(
      heads=8, kv_rank=64, nope_dim=32, rope_dim=16, v_dim=32, index_heads=2,
      index_dim=16, index_top_k=256,
    ),
  }
)  # fmt: skip
# Five windowed layers, one that sees all, two that keep a state.
MIXED = Transformer(
  name='mixed', source='test', layers=8, d_model=512, d_ff=1024, vocab=4096,
  attention=Attention(
    heads=8, kv_heads=4, head_dim=64, window=100, windowed_layers=5
  ),
  linear=LinearAttention(
    layers=2, key_heads=4, value_heads=8, key_dim=16, value_dim=32
  ),
  max_context=8192,
)  # fmt: skip
LENGTH, SEQUENCES = 1024, 192
NODE = 8
# What every test picks its plans from, so that each model compiles once.
AXES = {
  'tensor': [1, 2, 4], 'context': [1, 4], 'expert': [1, 2], 'fsdp': [1, 2],
  'data': [1, 3], 'micro_batch': [2], 'recompute': [1, 2],
  'attention_by': [0, 1], 'mlp_by': [0, 1], 'experts_by': [0, 1],
}  # fmt: skip
PLANS = list(itertools.product(*AXES.values()))


_quick_jit = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 0,
    'xla_cpu_use_fusion_emitters': False,
  },
)
_lower_train = _quick_jit(lower_train, static_argnums=(0, 1, 3))
_memory_of = _quick_jit(memory_of, static_argnums=(0, 1))


def _system():
  link = {'duplex': 'full_duplex', 'link': True}
  tiers = [
    Tier.of('HBM', read_Bps=3e12, capacity_B=80e9),
    Tier.of('NVLink', read_Bps=450e9, latency_s=2e-6, span=NODE, **link),
    Tier.of('IB', read_Bps=50e9, latency_s=5e-6, span=65536, **link),
  ]
  engine = Engine.of('matrix:bfloat16', rate_FLOPps=600e12)
  return System.of('gpu', tiers, [engine])


def _machine():
  """Of 192 chips: a multiple of every mesh of PLANS."""
  return machine_of(_system(), 192)


@functools.cache
def _lowered(model):
  """All plans of a model, numpy."""
  values = np.array(PLANS, float).T
  choices = Choices.of(**dict(zip(AXES, values, strict=True)))
  training = Training(LENGTH, SEQUENCES)
  lowered = _lower_train(model, training, choices, _machine())
  return jax.tree.map(np.asarray, lowered)


class Plan:
  """One plan of a model, by names; what is not given is the first choice."""

  def __init__(self, model, **given):
    self.choices = {k: given.get(k, v[0]) for k, v in AXES.items()}
    self.all, self.at = _lowered(model), PLANS.index((*self.choices.values(),))
    self.devices = np.prod(
      [self.choices[k] for k in ('tensor', 'context', 'expert', 'fsdp', 'data')]
    )
    ranks = [self.choices[k] for k in ('expert', 'fsdp', 'data')]
    self.micro_batches = SEQUENCES / np.prod(ranks) / 2

  def sent_B(self, operation):
    """Bytes by network level; of 'layers', those of all micro-batches."""
    return self.all.sent_B[self.at, self.all.operations.index(operation)]

  def messages(self, operation):
    at = self.all.operations.index(operation)
    return self.all.messages[self.at, at]

  def size_B(self, group):
    return self.all.size_B[self.at, self.all.groups.index(group)]

  def read_B(self, group):
    """Bytes of a group that all micro-batches read."""
    layers = self.all.operations.index('layers')
    at = self.all.groups.index(group)
    return self.all.group_read_B[self.at, layers, at]

  def flops(self):
    flops = self.all.flops[self.at] * self.all.time_weight[self.at]
    return flops.sum()


def _every_sharding(**given):
  for by in itertools.product((0, 1), repeat=3):
    yield {**given, **dict(zip(SHARDING, by, strict=True))}


def test_states_are_kept_once_whatever_the_sharding():
  count = MOE.parameters()
  for given in _every_sharding(tensor=4, context=4, expert=2, fsdp=2, data=3):
    plan = Plan(MOE, **given)
    # Norms and router are on every tensor rank beside sliced attention.
    copies = 1 if given['attention_by'] else 4
    states = count.total + (copies - 1) * (count.norms + count.router)
    held_B = plan.size_B('optimizer') * plan.devices
    assert held_B == pytest.approx(12 * states, rel=1e-5)


def test_weights_of_a_device_tensor_by_tensor():
  h, layers = 512, 8
  attention = layers * h * (2 * 512 + 2 * 256)
  small = layers * (2 * h + 16 * h) + h
  shared = layers * 3 * h * 1024
  for given in _every_sharding(tensor=4, context=4, expert=2):
    plan = Plan(MOE, **given)
    over = {k: 1 if given[k] else 4 for k in SHARDING}
    expected = {
      'attention_weights': attention / over['attention_by'] + small,
      'mlp_weights': shared / over['mlp_by'],
      'expert_weights': 16 * shared / (4 * 2),
      'embeddings': 2 * 4096 * h / 4,
    }
    for group, parameters in expected.items():
      assert plan.size_B(group) == pytest.approx(2 * parameters, rel=1e-5)
      # Whole matrices are read whole, by every micro-batch, twice.
      reads = 2 * plan.micro_batches * 2 * parameters
      assert plan.read_B(group) == pytest.approx(reads, rel=1e-5)


@pytest.mark.parametrize('model', [MOE, MIXED], ids=lambda m: m.name)
def test_all_devices_together_do_the_same_work(model):
  alone = Plan(model)
  for context, tensor in itertools.product((1, 4), (1, 4)):
    for given in _every_sharding(tensor=tensor, context=context, data=3):
      plan = Plan(model, **given)
      flops = plan.flops() * plan.devices
      assert flops == pytest.approx(alone.flops(), rel=1e-5)
      kept_B = plan.size_B('activations') * tensor * context
      assert kept_B == pytest.approx(alone.size_B('activations'), rel=1e-5)


def test_latent_keys_of_others_are_expanded_again():
  tokens = LENGTH * SEQUENCES
  alone = Plan(LATENT).flops()
  again = 3 * tokens * 8 * 2 * 64 * 8 * (32 + 32)
  for by, tensor, context, ranks in (
    (0, 1, 4, 4), (0, 4, 4, 4), (1, 4, 1, 4), (1, 2, 4, 8), (0, 4, 1, 1),
  ):  # fmt: skip
    plan = Plan(LATENT, tensor=tensor, context=context, attention_by=by)
    more = plan.flops() * plan.devices - alone
    assert more == pytest.approx(
      again * (ranks - 1), rel=1e-3, abs=1e-5 * float(alone)
    )


def _gathered_B(plan, whole_B, ranks):
  """One gather in each of eight layers of `whole_B`, all micro-batches."""
  return plan.micro_batches * 8 * whole_B * (ranks - 1) / ranks


@pytest.mark.parametrize(
  ('given', 'ranks', 'slices'),
  [
    ({'context': 4}, 4, 1),
    ({'context': 4, 'tensor': 2}, 4, 2),
    ({'context': 4, 'tensor': 2, 'attention_by': 1}, 8, 1),
    ({'tensor': 4, 'attention_by': 1}, 4, 1),
    ({'tensor': 4}, 1, 4),
  ],
)
def test_keys_are_gathered_and_their_gradients_scattered(given, ranks, slices):
  # Keys and values of two sequences, in bfloat16.
  whole_B = 2 * LENGTH * 2 * 4 * 64 * 2 / slices
  for recompute, waited, hidden in ((1, 2, 1), (2, 3, 0)):
    plan = Plan(MOE, **given, recompute=recompute)
    one_B = _gathered_B(plan, whole_B, ranks)
    sent_B = plan.sent_B('context_parallel').sum()
    assert sent_B == pytest.approx(waited * one_B, rel=1e-5)
    # No other axis sends anything behind the layers here.
    behind_B = plan.sent_B('layers').sum()
    assert behind_B == pytest.approx(hidden * one_B, rel=1e-5)
    messages = plan.messages('context_parallel').sum()
    rounds = waited * plan.micro_batches * 8
    assert messages == pytest.approx(rounds * (ranks - 1), rel=1e-5)


def test_context_ranks_lie_next_to_the_tensor_ranks():
  # Four ranks two apart fill a node of eight; four apart, two nodes.
  near = Plan(MOE, tensor=2, context=4).sent_B('context_parallel')
  assert near[0] > 0 and near[1] == 0
  far = Plan(MOE, tensor=4, context=4).sent_B('context_parallel')
  whole_B = 2 * LENGTH * 2 * 4 * 64 * 2 / 4
  one_B = 2 * SEQUENCES / 2 * 8 * whole_B
  np.testing.assert_allclose(far, [one_B / 2, one_B / 4], rtol=1e-5)


def test_what_else_mixes_tokens():
  plan = Plan(MIXED, context=4)
  token_B = 2 * 4 * 64 * 2
  windowed_B = 5 * 2 * 2 * 100 * token_B  # the keys before two chunks
  full_B = 2 * LENGTH * 3 / 4 * token_B
  # States of two chunks of each of three others, in float32.
  states_B = 2 * 2 * 3 * 2 * 8 * 16 * 32 * 4
  expected_B = 2 * plan.micro_batches * (windowed_B + full_B + states_B)
  found_B = plan.sent_B('context_parallel').sum()
  assert found_B == pytest.approx(expected_B, rel=1e-5)
  # Latent keys are on all tensor ranks, with a byte a value of the index.
  plan = Plan(LATENT, context=4, tensor=2)
  one_B = _gathered_B(plan, 2 * LENGTH * (2 * (64 + 16) + 16), 4)
  found_B = plan.sent_B('context_parallel').sum()
  assert found_B == pytest.approx(2 * one_B, rel=1e-5)


def test_each_kind_of_layer_pays_its_own_edges():
  # Per layer and direction: one pair for attention, one for the shared
  # expert, two for tokens of routed experts, which come twice.
  for given in _every_sharding(tensor=4, expert=2):
    plan = Plan(MOE, **given)
    sliced = {k: 1 - given[k] for k in SHARDING}
    pairs = sliced['attention_by'] + sliced['mlp_by']
    pairs += 2 * sliced['experts_by']
    pair_B = 2 * 2 * 2 * LENGTH * 512 * 3 / 4
    expected_B = plan.micro_batches * 8 * 2 * pairs * pair_B
    sent_B = plan.sent_B('tensor_parallel').sum()
    assert sent_B == pytest.approx(expected_B, rel=1e-5)


def test_whole_experts_take_tokens_from_all_tensor_ranks():
  for by, ranks in ((0, 2), (1, 8)):
    plan = Plan(MOE, tensor=4, expert=2, experts_by=by)
    # Two all-to-all each way of a quarter of the tokens, twice over.
    one_B = 2 * (2 * LENGTH / 4) * 2 * 512 * (ranks - 1) / ranks
    expected_B = plan.micro_batches * 8 * 2 * 2 * one_B
    found_B = plan.sent_B('expert_parallel')
    np.testing.assert_allclose(found_B, [expected_B, 0], rtol=1e-5)
  # Two nodes: three of seven partners of a rank are in its own.
  apart = Plan(MOE, tensor=4, context=4, expert=2, experts_by=1)
  near_B, far_B = apart.sent_B('expert_parallel')
  assert near_B / far_B == pytest.approx(3 / 4, rel=1e-5)


def test_gradients_are_reduced_over_all_with_the_same_weights():
  """Ranks with the same slice, counted device by device."""
  given = {'tensor': 4, 'context': 4, 'expert': 2, 'fsdp': 2, 'data': 3}
  devices = list(itertools.product(*(range(n) for n in given.values())))
  for chosen in _every_sharding(**given):
    plan = Plan(MOE, **chosen)

    def held(kind, device, chosen=chosen):
      t, _, e, f, _ = device
      if kind == 'expert_weights':
        return (t, e, f)
      by = {'attention_weights': 'attention_by', 'mlp_weights': 'mlp_by'}
      whole = kind in by and chosen[by[kind]]
      return (0 if whole else t, f)

    expected_B = 0.0
    kinds = ('attention_weights', 'mlp_weights', 'expert_weights', 'embeddings')
    for kind in kinds:
      same = sum(held(kind, d) == held(kind, devices[0]) for d in devices)
      # Four bytes of gradient scattered, two of weight gathered; `size_B` is
      # what one of the sharding ranks has of it, in two bytes.
      expected_B += 3 * plan.size_B(kind) * (1 - 1 / same)
    last = plan.sent_B('last_micro_batch').sum()
    share = plan.sent_B('layers').sum() / plan.micro_batches
    assert last - share == pytest.approx(expected_B, rel=1e-3)


def test_many_context_ranks_work_as_the_kernels_say():
  model = load_workload('llama-3.1-8b')
  asked = {'seq_len': 8192, 'micro_batch': 1, 'sequences': 16}
  mesh = Mesh(devices=16, tensor=2, context=4, sequence=True)
  kernels = training_step(model, mesh, **asked)
  choices = Choices.of(tensor=2.0, context=4.0, data=2.0)
  found = _lower_train(model, Training(8192, 16), choices, _machine())
  flops = 0.0
  for k in (*kernels.forward.kernels, *kernels.head.kernels[:1]):
    s = k.shape
    if k.op == 'gemm':
      flops += 2 * k.count * s['m'] * s['n'] * s['k']
    elif k.op == 'prefill_attention':
      width = s['num_heads'] * s['head_dim']
      flops += k.count * s['batch_size'] * 2 * width * s['seq_len'] ** 2
  m = kernels.micro_batches
  weighed = np.asarray(found.flops * found.time_weight).sum()
  assert weighed == pytest.approx(3 * m * flops, rel=1e-4)
  gathers = [
    k
    for k in (*kernels.forward.kernels, *kernels.backward.kernels)
    if k.op == 'all_gather' and k.shape['participants'] == 4
  ]
  sent_B = sum(k.count * k.shape['message_bytes'] for k in gathers) * 3 / 4
  at = found.operations.index('context_parallel')
  assert float(found.sent_B[at].sum()) == pytest.approx(m * sent_B, rel=1e-5)
  # Gradients go to all that have the same weights.
  ranks = {k.shape['participants'] for k in kernels.reduce.kernels}
  assert ranks == {2 * 4}
  states_B = 12 * model.parameters().total / 2 / 8
  held_B = float(found.size_B[found.groups.index('optimizer')])
  assert held_B == pytest.approx(states_B, rel=1e-3)


def test_long_sequences_cost_llama_3_what_was_published():
  # Table 4: 16,384 GPUs, tensor 8, pipeline 16, 16 M tokens: 400 TFLOP/s with
  # data 128 and 8,192 tokens, 380 with context 16, data 8 and 131,072.
  system, model = _system(), load_workload('llama-3.1-405b')

  @_quick_jit
  def rate(lowered):
    cost = predict(system, demand(system, lowered, lowered.near_placement()))
    weight = lowered.time_weight + lowered.bubble_weight
    return lowered.model_flops / (weight * cost.time_s).sum(-1)

  def rate_of(length, **axes):
    choices = Choices.of(
      tensor=8.0, pipeline=16.0, interleave=8.0, recompute=1.0, **axes
    )
    training = Training(length, 2**24 // length)
    machine = machine_of(system, 16384)
    return float(rate(_lower_train(model, training, choices, machine)))

  short = rate_of(8192, data=128.0)
  long = rate_of(131072, context=16.0, data=8.0)
  assert long / short == pytest.approx(380 / 400, rel=0.02)


@pytest.mark.parametrize('model', [MOE, LATENT, MIXED], ids=lambda m: m.name)
def test_more_context_never_needs_more_memory(model):
  context = [1.0, 2.0, 4.0, 8.0]
  grid = np.array(
    list(itertools.product([1.0, 2.0, 4.0], [0.0, 1.0], range(3), context))
  )
  names = ('tensor', 'attention_by', 'recompute', 'context')
  choices = Choices.of(**dict(zip(names, grid.T, strict=True)), micro_batch=2.0)
  found = _memory_of(model, Training(LENGTH, 16), choices)
  kept_B, peak_B = (
    np.reshape(b, (-1, len(context)))
    for b in (found.activations_B, found.peak_B)
  )
  np.testing.assert_allclose(kept_B[:, 1:], kept_B[:, :-1] / 2, rtol=1e-5)
  assert (np.diff(peak_B) < 0).all()


@pytest.mark.parametrize('model', [MOE, MIXED], ids=lambda m: m.name)
def test_the_planner_never_asks_for_less(model):
  lowered = _lowered(model)
  asked_B = lowered.size_B.sum(-1) + lowered.fixed_B
  choices = Choices.of(**dict(zip(AXES, np.array(PLANS).T, strict=True)))
  needed_B = _memory_of(model, Training(LENGTH, SEQUENCES), choices).peak_B
  assert np.all(asked_B >= needed_B * (1 - 1e-6))
  assert np.all(asked_B <= 1.5 * needed_B)


def test_gathered_keys_pass_the_near_memory():
  def moved_B(**given):
    plan = Plan(MOE, **given)
    layers = plan.all.operations.index('layers')
    both = (plan.all.near_read_B, plan.all.near_write_B)
    return np.array([b[plan.at, layers] for b in both]), plan

  sliced, plan = moved_B(tensor=4)
  whole, _ = moved_B(tensor=4, attention_by=1)
  # Gathered forward and backward, and their gradient before its scatter.
  keys_B = 3 * plan.micro_batches * 8 * 2 * LENGTH * 2 * 4 * 64 * 2
  np.testing.assert_allclose(whole - sliced, [keys_B, keys_B], rtol=1e-3)


def test_gathered_keys_are_a_buffer():
  choices = Choices.of(
    context=np.array([1.0, 4.0, 1.0]), tensor=np.array([1.0, 2.0, 2.0]),
    attention_by=np.array([0.0, 0.0, 1.0]), micro_batch=2.0, recompute=2.0,
  )  # fmt: skip
  keys_B = 2 * LENGTH * 2 * 4 * 64 * 2
  found = _memory_of(MOE, Training(LENGTH, 16), choices)
  # Keys and values, and their gradient; halved over two tensor ranks.
  np.testing.assert_allclose(found.buffers_B, [0, keys_B, 2 * keys_B])
  # A window asks for the keys before two chunks at most.
  windowed = MIXED.model_copy(
    update={
      'linear': None, 'layers': 4, 'vocab': 64,
      'attention': MIXED.attention.model_copy(update={'windowed_layers': 4}),
    }
  )  # fmt: skip
  one = Choices.of(context=4.0, recompute=2.0)
  found = _memory_of(windowed, Training(LENGTH, 16), one)
  expected_B = 2 * (LENGTH / 4 + 2 * 100) * 2 * 4 * 64 * 2
  assert float(found.buffers_B) == pytest.approx(expected_B)


def test_no_tokens_are_gathered_where_nothing_is_sliced():
  whole = {'attention_by': 1.0, 'mlp_by': 1.0, 'experts_by': 1.0}
  wide = MOE.model_copy(update={'d_model': 4096, 'vocab': 512})
  by_mlp = np.array([1.0, 0.0])
  choices = Choices.of(tensor=4.0, **whole | {'mlp_by': by_mlp})
  found = _memory_of(wide, Training(LENGTH, 16), choices)
  # Twice the input of all four ranks; the optimizer's states are shared.
  more_B = np.diff(found.temporaries_B)
  assert more_B == pytest.approx(2 * 2 * LENGTH * 4096, rel=1e-3)
  np.testing.assert_allclose(np.diff(found.optimizer_B), 0, atol=1e3)


def test_activations_are_the_mean_over_kinds_of_layers():
  found = activations.activation_bytes(MIXED, LENGTH)
  h, q, kv, ff = 512, 512, 256, 1024
  plain = 2 * (2 * h + h + 2 * q + 2 * kv + h + 3 * ff)
  # Queries, keys, values, gate, what it gives; nothing is convolved.
  linear = 2 * (2 * h + h + 2 * 64 + 3 * 256 + h + 3 * ff)
  assert found.kept == pytest.approx((6 * plain + 2 * linear) / 8)
  assert found.scores == 2 * 8 * (5 * 100 + 1 * LENGTH) / 8
  assert found.largest_scores == 2 * 8 * LENGTH
  assert found.stream == pytest.approx(2 * (2 * h + h + h))
  # Layers without attention or without an MLP have none of its tensors.
  some = MIXED.model_copy(
    update={'linear': None, 'mlp_only_layers': 1, 'mixer_only_layers': 1}
  )
  found = activations.activation_bytes(some, LENGTH)
  attention, mlp = 2 * (2 * h + 2 * q + 2 * kv), 2 * (2 * h + 3 * ff)
  assert found.kept == pytest.approx(7 * (attention + mlp) / 8)


def test_expanded_keys_are_part_of_the_matrices():
  latent = load_workload('deepseek-v3')
  expand = stage.expansion_flops(latent)
  assert expand == 2 * 512 * 128 * (128 + 128)
  assert expand < 0.1 * stage.layer_matmul_flops(latent)
  assert stage.expansion_flops(load_workload('llama-3.1-8b')) == 0
