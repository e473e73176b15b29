"""The programs of `benchmarks/xla_truth.py`: a transformer's train and decode.

Plain JAX as many write it first: a scan over the layers, weights in bfloat16,
Adam moments in float32, all attention scores in memory, experts with a fixed
number of places that tokens reach by one-hot products, decode with the stacked
cache carried by the scan.
"""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ('data', 'fsdp', 'expert', 'tensor')
TOKEN_AXES = ('data', 'fsdp', 'expert')


def _layer_shapes(c: dict) -> dict:
  d, q, kv = c['d'], c['H'] * c['hd'], c['KV'] * c['hd']
  shapes = {
    'norm_1': ((d,), ()), 'norm_2': ((d,), ()),
    'query': ((d, q), ('fsdp', 'tensor')),
    'key': ((d, kv), ('fsdp', 'tensor')),
    'value': ((d, kv), ('fsdp', 'tensor')),
    'output': ((q, d), ('tensor', 'fsdp')),
  }  # fmt: skip
  count, expert = ((c['E'],), ('expert',)) if c['E'] else ((), ())
  for name in ('gate', 'up'):
    shapes[name] = ((*count, d, c['ff']), (*expert, 'fsdp', 'tensor'))
  shapes['down'] = ((*count, c['ff'], d), (*expert, 'tensor', 'fsdp'))
  if c['E']:
    shapes['router'] = ((d, c['E']), ())
  return shapes


def abstract_weights(c: dict, mesh: Mesh) -> dict:
  """Weights without values, sharded over the mesh."""

  def array(shape, spec):
    sharding = NamedSharding(mesh, P(*spec))
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)

  layers = {
    name: array((c['L'], *shape), (None, *spec))
    for name, (shape, spec) in _layer_shapes(c).items()
  }
  return {
    'layers': layers,
    'embedding': array((c['V'], c['d']), ('tensor', 'fsdp')),
    'head': array((c['d'], c['V']), ('fsdp', 'tensor')),
    'norm': array((c['d'],), ()),
  }


def _norm(x, gain):
  wide = x.astype(jnp.float32)
  scale = jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)
  return (wide * scale).astype(x.dtype) * gain


def _rope(x, position):
  half = x.shape[-1] // 2
  angle = position[:, None] * 1e4 ** (-jnp.arange(half) / half)
  sin = jnp.sin(angle)[:, None].astype(x.dtype)
  cos = jnp.cos(angle)[:, None].astype(x.dtype)
  a, b = x[..., :half], x[..., half:]
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def _attend(q, k, v, mask):
  b, s, heads, e = q.shape
  groups = k.shape[2]
  q = q.reshape(b, s, groups, heads // groups, e)
  scores = jnp.einsum('bskge,btke->bkgst', q, k).astype(jnp.float32) * e**-0.5
  weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), -1).astype(v.dtype)
  return jnp.einsum('bkgst,btke->bskge', weights, v).reshape(b, s, heads * e)


def _project(x, w, c, position):
  b, s, _ = x.shape
  h = _norm(x, w['norm_1'])
  q = _rope((h @ w['query']).reshape(b, s, c['H'], c['hd']), position)
  k = _rope((h @ w['key']).reshape(b, s, c['KV'], c['hd']), position)
  return q, k, (h @ w['value']).reshape(b, s, c['KV'], c['hd'])


def _mlp(x, w, c, mesh):
  h = _norm(x, w['norm_2'])
  if not c['E']:
    return x + (jax.nn.silu(h @ w['gate']) * (h @ w['up'])) @ w['down']
  # Every sequence gives each expert a fixed number of places.
  s, count, k = x.shape[1], c['E'], c['topk']
  places = max(int(s * k * c['cap'] / count), 1)
  share = jax.nn.softmax((h @ w['router']).astype(jnp.float32), -1)
  top, chosen = jax.lax.top_k(share, k)
  one_hot = jax.nn.one_hot(chosen, count, dtype=jnp.float32)
  order = jnp.cumsum(one_hot.sum(2), 1)[:, :, None] * one_hot - 1.0
  place = jax.nn.one_hot(order.sum(-1) + count - 1.0, places)
  routed = jnp.einsum('bske,bskp,bsk->bsep', one_hot, place, top)
  routed = routed.astype(x.dtype)
  owned = NamedSharding(mesh, P('expert', ('data', 'fsdp')))
  inside = jnp.einsum('bsep,bsd->ebpd', (routed > 0).astype(x.dtype), h)
  inside = jax.lax.with_sharding_constraint(inside, owned)
  hidden = jax.nn.silu(jnp.einsum('ebpd,edf->ebpf', inside, w['gate']))
  hidden = hidden * jnp.einsum('ebpd,edf->ebpf', inside, w['up'])
  out = jnp.einsum('ebpf,efd->ebpd', hidden, w['down'])
  out = jax.lax.with_sharding_constraint(
    out, NamedSharding(mesh, P(None, TOKEN_AXES))
  )
  return x + jnp.einsum('bsep,ebpd->bsd', routed, out)


def _embed(weights, tokens, mesh):
  whole = NamedSharding(mesh, P('tensor', None))
  table = jax.lax.with_sharding_constraint(weights['embedding'], whole)
  return table[tokens]


def _loss(weights, tokens, c, mesh, remat):
  s = tokens.shape[1]
  mask = jnp.tril(jnp.ones((s, s), bool))
  position = jnp.arange(s, dtype=jnp.float32)
  split = NamedSharding(mesh, P(TOKEN_AXES))

  def layer(x, w):
    x = jax.lax.with_sharding_constraint(x, split)
    x = x + _attend(*_project(x, w, c, position), mask) @ w['output']
    return _mlp(x, w, c, mesh), None

  if remat == 'full':
    layer = jax.checkpoint(layer)
  elif remat == 'dots':
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    layer = jax.checkpoint(layer, policy=policy)
  x, _ = jax.lax.scan(layer, _embed(weights, tokens, mesh), weights['layers'])
  logits = (_norm(x, weights['norm']) @ weights['head']).astype(jnp.float32)
  # Optax keeps one copy of the logits; a plain logsumexp keeps two.
  return optax.softmax_cross_entropy_with_integer_labels(
    logits[:, :-1], tokens[:, 1:]
  ).mean()


def train_program(row: dict, mesh: Mesh):
  """A jitted training step and its abstract arguments."""
  c = row['cfg']
  weights = abstract_weights(c, mesh)
  moments = jax.tree.map(
    lambda w: jax.ShapeDtypeStruct(w.shape, jnp.float32, sharding=w.sharding),
    weights,
  )

  def step(weights, first, second, tokens):
    loss, grads = jax.value_and_grad(_loss)(
      weights, tokens, c, mesh, row['remat']
    )
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
    second = jax.tree.map(lambda n, g: 0.95 * n + 0.05 * g * g, second, grads)
    weights = jax.tree.map(
      lambda w, m, n: (w - 1e-4 * m / (n**0.5 + 1e-8)).astype(w.dtype),
      weights, first, second,
    )  # fmt: skip
    return weights, first, second, loss

  tokens = jax.ShapeDtypeStruct(
    (row['B'], row['S']), jnp.int32, sharding=NamedSharding(mesh, P(TOKEN_AXES))
  )
  step = jax.jit(step, donate_argnums=(0, 1, 2))
  return step, (weights, moments, moments, tokens)


def decode_program(row: dict, mesh: Mesh):
  """A jitted decode step and its abstract arguments."""
  c = row['cfg']
  split = NamedSharding(mesh, P(None, TOKEN_AXES, None, 'tensor'))
  cache = jax.ShapeDtypeStruct(
    (c['L'], row['B'], row['S'], c['KV'], c['hd']), jnp.bfloat16, sharding=split
  )

  def step(weights, keys, values, tokens, position):
    mask = (jnp.arange(row['S']) <= position)[None]

    def layer(carry, item):
      x, keys, values = carry
      w, i = item
      q, k, v = _project(x, w, c, position[None].astype(jnp.float32))
      at = (i, 0, position, 0, 0)
      keys = jax.lax.dynamic_update_slice(keys, k[None], at)
      values = jax.lax.dynamic_update_slice(values, v[None], at)
      k = jax.lax.dynamic_index_in_dim(keys, i, 0, keepdims=False)
      v = jax.lax.dynamic_index_in_dim(values, i, 0, keepdims=False)
      x = x + _attend(q, k, v, mask) @ w['output']
      return (_mlp(x, w, c, mesh), keys, values), None

    x = _embed(weights, tokens, mesh)[:, None]
    (x, keys, values), _ = jax.lax.scan(
      layer, (x, keys, values), (weights['layers'], jnp.arange(c['L']))
    )
    logits = (_norm(x, weights['norm']) @ weights['head']).astype(jnp.float32)
    return jnp.argmax(logits[:, 0], -1), keys, values

  tokens = jax.ShapeDtypeStruct(
    (row['B'],), jnp.int32, sharding=NamedSharding(mesh, P(TOKEN_AXES))
  )
  position = jax.ShapeDtypeStruct(
    (), jnp.int32, sharding=NamedSharding(mesh, P())
  )
  step = jax.jit(step, donate_argnums=(1, 2))
  return step, (abstract_weights(c, mesh), cache, cache, tokens, position)
