"""Any function's workload, against XLA's own count of the unrolled program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from diffmem import errors
from diffmem.cost import predict
from diffmem.system import Engine, System, Tier
from diffmem.workloads import workload_from_jax

P = jax.sharding.PartitionSpec
LAYERS, WIDTH = 3, 128


def _f32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _tokens(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def _xla_flops(fn, *args, optimised=True):
  lowered = jax.jit(fn).lower(*args)
  found = lowered.compile() if optimised else lowered
  return found.cost_analysis()['flops']


def _layer(x, w):
  with jax.named_scope('attention'):
    q, k, v = (
      (x @ w[name]).reshape(*x.shape[:2], 4, -1) for name in ('q', 'k', 'v')
    )
    share = jax.nn.softmax(jnp.einsum('bshe,bthe->bhst', q, k) * 0.1, -1)
    x = x + jnp.einsum('bhst,bthe->bshe', share, v).reshape(x.shape) @ w['o']
  with jax.named_scope('mlp'):
    return x + jax.nn.silu(x @ w['gate']) * (x @ w['up']) @ w['down'], None


def _loss(layer, unrolled, params, tokens):
  x = params['table'][tokens]
  if unrolled:
    for i in range(LAYERS):
      x, _ = layer(x, jax.tree.map(lambda w, i=i: w[i], params['layers']))
  else:
    x, _ = jax.lax.scan(layer, x, params['layers'])
  logits = x @ params['table'].T
  return optax.softmax_cross_entropy_with_integer_labels(logits, tokens).mean()


def _params():
  shapes = {
    **dict.fromkeys('qkvo', (LAYERS, WIDTH, WIDTH)),
    **dict.fromkeys(('gate', 'up'), (LAYERS, WIDTH, 4 * WIDTH)),
    'down': (LAYERS, 4 * WIDTH, WIDTH),
  }
  layers = {name: _f32(*shape) for name, shape in shapes.items()}
  return {'layers': layers, 'table': _f32(256, WIDTH)}


def _step(layer, unrolled=False):
  return jax.value_and_grad(functools.partial(_loss, layer, unrolled))


POLICIES = {
  'none': _layer,
  'dots': jax.checkpoint(
    _layer, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  ),
  'full': jax.checkpoint(_layer),
}


@pytest.mark.parametrize('policy', POLICIES)
def test_scanned_transformer_step_is_as_xla_unrolled(policy):
  layer, args = POLICIES[policy], (_params(), _tokens(2, 128))
  found = workload_from_jax(_step(layer), *args)
  # XLA on CPU merges some of a full recomputation with the first pass, which
  # it can in a small unrolled program only: its count before that is taken.
  expected = _xla_flops(
    _step(layer, unrolled=True), *args, optimised=policy != 'full'
  )
  assert found.flops == pytest.approx(expected, rel=0.02)
  assert not found.unknown


class _Block(nnx.Module):
  def __init__(self, width, rngs):
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
      num_heads=4, in_features=width, decode=False, rngs=rngs
    )
    self.up = nnx.Linear(width, 4 * width, rngs=rngs)
    self.down = nnx.Linear(4 * width, width, rngs=rngs)

  def __call__(self, x):
    x = x + self.attention(self.norm(x))
    return x + self.down(nnx.gelu(self.up(self.norm(x))))


class _Model(nnx.Module):
  def __init__(self, rngs):
    self.table = nnx.Embed(500, 64, rngs=rngs)
    self.blocks = nnx.List([_Block(64, rngs) for _ in range(2)])
    self.head = nnx.Linear(64, 500, rngs=rngs)

  def __call__(self, tokens):
    x = self.table(tokens)
    for block in self.blocks:
      x = block(x)
    return self.head(x)


def test_flax_nnx_training_step_is_as_xla():
  graph, params = nnx.split(nnx.eval_shape(lambda: _Model(nnx.Rngs(0))))

  def loss(params, tokens):
    logits = nnx.merge(graph, params)(tokens)
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, tokens
    ).mean()

  step = jax.jit(jax.value_and_grad(loss))
  args = (params, _tokens(4, 128))
  found = workload_from_jax(step, *args)
  assert found.flops == pytest.approx(_xla_flops(step, *args), rel=0.02)
  weights = sum(a.size for a in jax.tree.leaves(params))
  assert found.group_B['weights'] == 4 * weights
  assert found.group_B['inputs'] == 4 * 4 * 128


@pytest.mark.parametrize('stride', [1, 2])
def test_convolutions_and_their_gradients_are_as_xla(stride):
  def loss(kernels, x):
    for kernel in kernels:
      x = jax.nn.relu(
        jax.lax.conv_general_dilated(
          x, kernel, (stride, stride), 'SAME',
          dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )
      )  # fmt: skip
    return x.mean()

  args = [_f32(3, 3, 8, 32), _f32(5, 5, 32, 64)], _f32(4, 32, 32, 8)
  for fn in (loss, jax.grad(loss)):
    found = workload_from_jax(fn, *args).flops
    assert found == pytest.approx(_xla_flops(fn, *args), rel=0.02)


def test_recomputation_is_a_forward_pass_apart():
  args = (_params(), _tokens(2, 128))
  plain, full = (
    workload_from_jax(_step(POLICIES[name]), *args) for name in ('none', 'full')
  )

  def products(workload, phase, scope=''):
    return sum(
      sum(s.matrix_flops.values())
      for s in workload.scopes
      if s.phase == phase and s.name.startswith(scope)
    )

  assert products(plain, 'recompute') == 0
  assert products(full, 'backward') == products(plain, 'backward')
  # The product that ends the layer is not needed again.
  down = LAYERS * 2 * 256 * 4 * WIDTH * WIDTH
  forward = products(full, 'forward', 'attention')
  forward += products(full, 'forward', 'mlp')
  assert products(full, 'recompute') == forward - down
  # What is kept falls to about the layers' inputs.
  assert full.activations_B < 0.1 * plain.activations_B
  assert full.activations_B > LAYERS * 4 * 256 * WIDTH


def test_a_scan_counts_as_often_as_it_runs():
  def power(n, w, x):
    return jax.lax.scan(lambda c, _: (c @ w, None), x, None, length=n)[0]

  args = (_f32(64, 64), _f32(8, 64))
  for n in (1, 7):
    found = workload_from_jax(functools.partial(power, n), *args)
    assert found.matrix_flops == {'float32': n * 2.0 * 8 * 64 * 64}
    # The matrix is read in every trip, the vector goes in and out.
    assert found.arguments[0].read_B == n * 4 * 64 * 64
    assert found.read_B == n * 4 * (64 * 64 + 8 * 64)
    assert found.write_B == n * 4 * 8 * 64


def test_elementwise_chains_are_one_kernel():
  n = 4096

  def chain(x, y):
    with jax.named_scope('chain'):
      return jnp.tanh(x * y + 1.0) * 2.0 - x

  found = workload_from_jax(chain, _f32(n), _f32(n))
  (scope,) = found.scopes
  assert (scope.name, scope.kernels) == ('chain', 1)
  assert (scope.read_B, scope.write_B) == (8 * n, 4 * n)
  assert (scope.flops, scope.transcendentals) == (4 * n, n)


def test_a_reduction_ends_a_kernel():
  def normalise(x):
    return x * 2.0 / (x * 2.0).sum(-1, keepdims=True)

  found = workload_from_jax(normalise, _f32(16, 1024))
  whole, sums = 4 * 16 * 1024, 4 * 16
  # Doubled twice over, inside the sum and inside the division.
  assert found.write_B == whole + sums
  assert found.read_B == 2 * whole + sums


def test_a_softmax_is_three_kernels():
  found = workload_from_jax(jax.nn.softmax, _f32(16, 1024))
  whole, one = 4 * 16 * 1024, 4 * 16
  (scope,) = found.scopes
  # Largest; exponentials and their sum; quotient.
  assert scope.kernels == 3
  assert found.read_B == whole + (whole + one) + (whole + one)
  assert found.write_B == one + (whole + one) + whole


def test_gathers_and_updates_touch_what_they_take():
  def rows(table, at):
    return table[at]

  found = workload_from_jax(rows, _f32(100_000, 64), _tokens(8))
  assert found.read_B + found.write_B < 10_000

  def put(cache, new):
    return jax.lax.dynamic_update_slice(cache, new, (5, 0))

  found = workload_from_jax(put, _f32(100_000, 64), _f32(1, 64))
  assert (found.read_B, found.write_B) == (4 * 64, 4 * 64)
  assert found.group_B == {'kv_cache': 4 * 100_000 * 64, 'inputs': 4 * 64}

  # In place: what is read afterwards is the argument still.
  found = workload_from_jax(
    lambda cache, new: put(cache, new).sum(), _f32(1000, 64), _f32(1, 64)
  )
  assert found.arguments[0].read_B == 4 * 1000 * 64


def test_a_slice_is_read_where_it_lies():
  def layer(i, stack, x):
    w = jax.lax.dynamic_index_in_dim(stack, i, 0, keepdims=False)
    return jnp.concatenate([x[:, :32] @ w[:32], x[:, 32:] @ w[32:]])

  args = (jax.ShapeDtypeStruct((), jnp.int32), _f32(10, 64, 64), _f32(8, 64))
  found = workload_from_jax(layer, *args)
  assert [a.read_B for a in found.arguments] == [0, 4 * 64 * 64, 4 * 8 * 64]
  # Both products, and one copy of them together.
  assert found.write_B == 2 * 2 * 4 * 8 * 64

  # Two halves of one array are no more than the array.
  def rotate(x):
    return jnp.concatenate([-x[64:], x[:64]]) * x

  assert workload_from_jax(rotate, _f32(128)).read_B == 4 * 128


def test_the_dearest_branch_counts_and_a_while_is_named():
  def branch(i, w, x):
    return jax.lax.cond(i > 0, lambda: x @ w, lambda: x)

  args = (jax.ShapeDtypeStruct((), jnp.int32), _f32(64, 64), _f32(8, 64))
  assert workload_from_jax(branch, *args).matrix_flops['float32'] == 65536

  def until(w, x):
    with jax.named_scope('search'):
      return jax.lax.while_loop(lambda c: c.sum() < 1, lambda c: c @ w, x)

  found = workload_from_jax(until, *args[1:], while_trips=5)
  assert found.unknown == ('while: trips in search (1 times)',)
  assert found.matrix_flops['float32'] == 5 * 65536


def test_custom_derivatives_are_opened():
  @jax.custom_vjp
  def product(x, w):
    return x @ w

  product.defvjp(
    lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g)
  )
  found = workload_from_jax(
    jax.grad(lambda x, w: (product(x, w) ** 2).sum(), (0, 1)),
    _f32(8, 64), _f32(64, 32),
  )  # fmt: skip
  assert found.matrix_flops['float32'] == 3 * 2 * 8 * 64 * 32


def test_sharded_programs_count_all_devices_and_their_collectives():
  mesh = jax.sharding.AbstractMesh((4,), ('x',))

  @functools.partial(
    jax.shard_map, mesh=mesh, in_specs=(P(None, 'x'), P('x')), out_specs=P()
  )
  def product(x, w):
    return jax.lax.psum(x @ w, 'x')

  found = workload_from_jax(product, _f32(8, 64), _f32(64, 32))
  assert found.matrix_flops['float32'] == 2 * 8 * 64 * 32
  (reduce,) = found.collectives
  assert (reduce.ranks, reduce.payload_B, reduce.count) == (4, 4 * 8 * 32, 4)
  link = Tier.of('link', read_Bps=1e9, latency_s=1e-6, link=True, span=4)
  system = _system(link)
  demand = found.demand(system, chips=4)
  at = system.tier_names.index('link')
  sent_B = float(demand.read_B[:, at].sum())
  assert sent_B == pytest.approx(2 * 3 / 4 * 4 * 8 * 32)
  flops = float(demand.flops.sum())
  assert flops == 2 * 8 * 64 * 32 / 4


def _system(*tiers):
  memory = Tier.of('HBM', read_Bps=1e12, latency_s=1e-7, capacity_B=80e9)
  engine = Engine.of(
    'matrix:float32', rate_FLOPps=10e12, energy_J_per_FLOP=1e-12
  )
  return System.of('one', [memory, *tiers], [engine])


def test_its_demand_costs_time_and_energy():
  def step(params, x):
    with jax.named_scope('up'):
      x = jnp.tanh(x @ params['up'])
    with jax.named_scope('down'):
      return x @ params['down']

  params = {'up': _f32(1024, 4096), 'down': _f32(4096, 1024)}
  found = workload_from_jax(step, params, _f32(512, 1024))
  assert [s.name for s in found.scopes] == ['up', 'down']
  demand = found.demand(_system())
  whole, half = (
    predict(_system(), d) for d in (demand, found.demand(_system(), chips=2))
  )
  time_s = float(whole.time_s.sum())
  at_least_s = 2 * 2 * 512 * 1024 * 4096 / 10e12
  assert at_least_s < time_s < 2 * at_least_s
  moved_B = found.read_B + found.write_B
  assert float(whole.served_B.sum()) == pytest.approx(moved_B, rel=1e-5)
  assert time_s / 2 <= float(half.time_s.sum()) < 0.7 * time_s
  assert float(whole.energy_J.sum()) > float(half.energy_J.sum()) > 0


def test_groups_are_guessed_or_given():
  def step(params, opt_state, batch):
    return params['a'] + opt_state['mu'] + batch

  args = ({'a': _f32(8)}, {'mu': _f32(8)}, _f32(8))
  assert set(workload_from_jax(step, *args).group_B) == {
    'weights', 'optimizer', 'inputs'
  }  # fmt: skip
  found = workload_from_jax(step, *args, groups={'batch': 'weights'})
  assert found.group_B == {'weights': 64, 'optimizer': 32}
  with pytest.raises(errors.SpecError, match="no argument 'bach'"):
    workload_from_jax(step, *args, groups={'bach': 'weights'})


def test_what_cannot_be_traced_is_said():
  with pytest.raises(errors.SpecError, match='product cannot be traced'):

    def product(x):
      return x @ np.ones((3, 3))

    workload_from_jax(product, _f32(8, 4))
  with pytest.raises(errors.SpecError, match='no engine for bfloat16'):
    bare = System.of('bare', [Tier.of('HBM', read_Bps=1e12)], [])
    found = workload_from_jax(jnp.dot, _f32(8, 4), _f32(4, 4))
    found.demand(bare, dtype='bfloat16')
