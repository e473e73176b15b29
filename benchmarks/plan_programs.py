"""A training step that communicates as a plan says, written out by hand.

Every weight, moment and token is sharded by `to_jax`; within `jax.shard_map`
the program names each collective itself, so that no partitioner has a choice:

* weights of a layer are gathered over `fsdp` where they are used, forward and
  backward, and their gradients are scattered in float32;
* the residual stream is split by tokens over `tensor`, gathered before each
  pair of matrices and scattered after it (sequence parallelism);
* tokens go to their experts and back by all-to-all over `expert`;
* keys and values are gathered over `context`;
* gradients are scattered once over the ranks with the same weights, which
  update their share of float32 master weights and moments (ZeRO stage 1) and
  gather the new weights in bfloat16.

Routing is balanced by construction: tokens sorted by their first choices are
dealt out evenly, which is what a capacity factor of 1 allows.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from diffmem.planning.export import JaxPlan

BATCH_AXES = ('data', 'fsdp', 'expert')


def weight_shapes(c: dict) -> dict:
  """Weights of a model as the default rules of `to_jax` name them."""
  d, q, kv, n = c['d'], c['H'] * c['hd'], c['KV'] * c['hd'], c['L']
  layers = {
    'norm_1': (n, d), 'query': (n, d, q), 'key': (n, d, kv),
    'value': (n, d, kv), 'out': (n, q, d), 'norm_2': (n, d),
  }  # fmt: skip
  if c['E']:
    count, ff = c['E'], c['ff']
    layers['router'] = (n, d, count)
    layers['moe'] = {
      'wi_0': (n, count, d, ff), 'wi_1': (n, count, d, ff),
      'wo': (n, count, ff, d),
    }  # fmt: skip
  else:
    layers['mlp'] = {
      'gate': (n, d, c['ff']), 'up': (n, d, c['ff']), 'down': (n, c['ff'], d),
    }  # fmt: skip
  return {
    'embed': (c['V'], d), 'layers': layers, 'norm': (d,),
    'lm_head': (d, c['V']),
  }  # fmt: skip


def arrays(c: dict, dtype=jnp.bfloat16) -> dict:
  """Weights without values."""
  return jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, dtype),
    weight_shapes(c),
    is_leaf=lambda x: isinstance(x, tuple),
  )


def train_program(row: dict, jax_plan: JaxPlan):
  """A jitted training step and its abstract arguments.

  Args:
    row: `cfg` (shapes), `S` tokens of a sequence, `B` sequences of a step.
    jax_plan: mesh and shardings.
  """
  c, mesh = row['cfg'], jax_plan.mesh
  weights = arrays(c)
  states = arrays(c, jnp.float32)
  at_rest = jax_plan.shardings(weights)
  shared = jax_plan.shardings(states, 'optimizer')
  tokens = jax.ShapeDtypeStruct((row['B'], row['S']), jnp.int32)
  specs = jax.tree.map(lambda s: s.spec, at_rest)
  shared_specs = jax.tree.map(lambda s: s.spec, shared)
  body = functools.partial(
    _step, c=c, mesh=mesh, jax_plan=jax_plan, specs=specs,
    shared_specs=shared_specs, rounds=jax_plan.micro_batches(row['B']),
  )  # fmt: skip
  batch = jax_plan.batch_sharding()
  arguments = (specs, shared_specs, shared_specs, shared_specs, batch.spec)
  step = jax.shard_map(
    body, mesh=mesh, in_specs=arguments, out_specs=(*arguments[:4], P()),
    check_vma=False,
  )  # fmt: skip
  step = jax.jit(
    step, donate_argnums=(0, 1, 2, 3),
    in_shardings=(at_rest, shared, shared, shared, batch),
    out_shardings=(at_rest, shared, shared, shared, None),
  )  # fmt: skip
  return step, (weights, states, states, states, tokens)


def _step(weights, master, first, second, tokens, *, c, mesh, jax_plan, specs,
          shared_specs, rounds):  # fmt: skip
  slots = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weights)
  loss_of = functools.partial(
    _loss, c=c, mesh=mesh, specs=specs, checkpoint=_checkpoint(jax_plan)
  )
  gradient = jax.value_and_grad(lambda s, t: loss_of(weights, s, t))
  if rounds == 1:
    loss, grads = gradient(slots, tokens)
  else:

    def micro_batch(total, batch):
      loss, more = gradient(slots, batch)
      return jax.tree.map(jnp.add, total, more), loss

    parts = tokens.reshape(rounds, -1, tokens.shape[-1])
    grads, losses = jax.lax.scan(micro_batch, slots, parts)
    loss = losses.sum()
  used = tuple(a for a in mesh.axis_names if mesh.shape[a] > 1)
  update = functools.partial(_update, mesh=mesh, used=used)
  is_spec = {'is_leaf': lambda x: isinstance(x, P)}
  found = jax.tree.map(
    update, specs, shared_specs, weights, master, first, second, grads,
    **is_spec,
  )  # fmt: skip
  outer = jax.tree.structure(specs, **is_spec)
  inner = jax.tree.structure((0, 0, 0, 0))
  new = jax.tree.transpose(outer, inner, found)
  total = jax.lax.psum(loss, tuple(a for a in used if a != 'tensor'))
  return *new, total


def _update(spec, shared, weight, master, first, second, gradient, *, mesh,
            used):  # fmt: skip
  """Adam over the share of one leaf that this rank owns."""
  own, all_axes = _axes(spec), _axes(shared)
  more = [a for a in all_axes if a not in own]
  for axis in more:
    gradient = jax.lax.psum_scatter(
      gradient, axis, scatter_dimension=all_axes[axis], tiled=True
    )
  # Ranks that hold the same of a leaf, and have seen other tokens.
  summed = tuple(a for a in used if a not in all_axes)
  if summed:
    gradient = jax.lax.psum(gradient, summed)
  first = 0.9 * first + 0.1 * gradient
  second = 0.95 * second + 0.05 * gradient * gradient
  master = master - 1e-3 * first / (second**0.5 + 1e-8)
  new = master.astype(weight.dtype)
  for axis in reversed(more):
    new = jax.lax.all_gather(new, axis, axis=all_axes[axis], tiled=True)
  return new, master, first, second


def _axes(spec: P) -> dict[str, int]:
  """Mesh axis -> the dimension that it shares, major first."""
  found = {}
  for i, entry in enumerate(spec):
    for axis in () if entry is None else (
      entry if isinstance(entry, tuple) else (entry,)
    ):  # fmt: skip
      found[axis] = i
  return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gather(weight, slot, dim):
  """The whole weight; its gradient goes to `slot`, scattered in float32."""
  if dim < 0:
    return weight
  return jax.lax.all_gather(weight, 'fsdp', axis=dim, tiled=True)


def _gather_forward(weight, slot, dim):
  return _gather(weight, slot, dim), None


def _gather_backward(dim, _, gradient):
  gradient = gradient.astype(jnp.float32)
  shard = gradient
  if dim >= 0:
    shard = jax.lax.psum_scatter(
      gradient, 'fsdp', scatter_dimension=dim, tiled=True
    )
    # Without it the TPU compiler fuses the scatter's last step with the write
    # into the stacked gradient, and leaves an all-reduce.
    shard = jax.lax.optimization_barrier(shard)
  return jnp.zeros(shard.shape, jnp.bfloat16), shard


_gather.defvjp(_gather_forward, _gather_backward)


def _gathered(weights, slots, specs, stacked: bool):
  """Weights of one layer, or of the tables, as they are used."""

  def one(spec, weight, slot):
    dim = _axes(spec).get('fsdp', -1)
    dim -= int(stacked and dim >= 0)
    return _gather(weight, slot, dim)

  return jax.tree.map(
    one, specs, weights, slots, is_leaf=lambda x: isinstance(x, P)
  )


def _checkpoint(jax_plan: JaxPlan):
  """The plan's recomputation; what other ranks hold is never kept."""
  if jax_plan.plan.recompute == 'full':
    return jax.checkpoint

  def saveable(primitive, *_, **parameters):
    if primitive.name == 'all_gather':
      return parameters['axis_name'] != ('context',)
    return primitive.name != 'custom_vjp_call'  # `_gather`

  return functools.partial(jax.checkpoint, policy=saveable)


def _loss(weights, slots, tokens, *, c, mesh, specs, checkpoint):
  """This rank's share of the summed loss."""
  size = mesh.shape['tensor']

  def enter(x):
    """Tokens of all tensor ranks."""
    if size == 1:
      return x
    return jax.lax.all_gather(x, 'tensor', axis=1, tiled=True)

  def leave(x):
    """Sums of the tensor ranks, for this rank's tokens."""
    if size == 1:
      return x
    return jax.lax.psum_scatter(x, 'tensor', scatter_dimension=1, tiled=True)

  names = ('embed', 'norm', 'lm_head')
  tables = _gathered(
    *({n: tree[n] for n in names} for tree in (weights, slots, specs)),
    stacked=False,
  )
  layer_specs = specs['layers']

  def layer(x, given):
    w = _gathered(*given, layer_specs, stacked=True)
    x = x + leave(_attend(enter(_norm(x, w['norm_1'])), w, c, mesh))
    h = _norm(x, w['norm_2'])
    if 'moe' in w:
      return x + _experts(h, w, c, mesh, enter, leave), None
    m, h = w['mlp'], enter(h)
    return x + leave(
      (jax.nn.silu(h @ m['gate']) * (h @ m['up'])) @ m['down']
    ), (None)

  rows = c['V'] // size
  first = jax.lax.axis_index('tensor') * rows
  local = tokens - first
  inside = (local >= 0) & (local < rows)
  x = jnp.where(
    inside[..., None], tables['embed'][jnp.clip(local, 0, rows - 1)], 0
  )
  x, _ = jax.lax.scan(
    checkpoint(layer), leave(x), (weights['layers'], slots['layers'])
  )
  logits = enter(_norm(x, tables['norm'])) @ tables['lm_head']
  labels = jnp.roll(tokens, -1, 1) - first
  return _cross_entropy(logits, labels)


@jax.custom_vjp
def _cross_entropy(logits, labels):
  """Summed loss of logits whose columns the tensor ranks share."""
  return _cross_entropy_forward(logits, labels)[0]


def _cross_entropy_forward(logits, labels):
  logits = logits.astype(jnp.float32)
  most = jax.lax.pmax(logits.max(-1), 'tensor')
  exponent = jnp.exp(logits - most[..., None])
  total = jax.lax.psum(exponent.sum(-1), 'tensor')
  hit = labels[..., None] == jnp.arange(logits.shape[-1])
  picked = jax.lax.psum(jnp.where(hit, logits, 0.0).sum(-1), 'tensor')
  loss = (jnp.log(total) + most - picked).sum()
  return loss, (exponent / total[..., None] - hit).astype(jnp.bfloat16)


def _cross_entropy_backward(gradient, scale):
  return scale.astype(gradient.dtype) * gradient, None


_cross_entropy.defvjp(
  _cross_entropy_forward, lambda kept, g: _cross_entropy_backward(kept, g)
)


def _norm(x, gain):
  wide = x.astype(jnp.float32)
  scale = jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)
  return (wide * scale).astype(x.dtype) * gain


def _attend(x, w, c, mesh):
  """Attention of this rank's heads over the whole sequence."""
  b, s, _ = x.shape

  def heads(y):
    return y.reshape(b, s, -1, c['hd'])

  q, k, v = (heads(x @ w[n]) for n in ('query', 'key', 'value'))
  first = 0
  if mesh.shape['context'] > 1:
    k, v = (
      jax.lax.all_gather(y, 'context', axis=1, tiled=True) for y in (k, v)
    )
    first = jax.lax.axis_index('context') * s
  groups = k.shape[2]
  q = q.reshape(b, s, groups, -1, c['hd'])
  scores = jnp.einsum('bskge,btke->bkgst', q, k).astype(jnp.float32)
  mask = (first + jnp.arange(s))[:, None] >= jnp.arange(k.shape[1])[None]
  scores = jnp.where(mask, scores * c['hd'] ** -0.5, -1e30)
  weights = jax.nn.softmax(scores, -1).astype(v.dtype)
  return (
    jnp.einsum('bkgst,btke->bskge', weights, v).reshape(b, s, -1) @ w['out']
  )


def _experts(h, w, c, mesh, enter, leave):
  """Tokens to their experts and back.

  The plan's order: each tensor rank sends its own tokens to the expert ranks,
  there the tensor ranks gather them for their slices of the experts.
  """
  b, s, d = h.shape
  ranks, count, top = mesh.shape['expert'], c['E'], c['topk']
  rows = h.reshape(b * s, d)
  share = jax.nn.softmax((rows @ w['router']).astype(jnp.float32), -1)
  best, chosen = jax.lax.top_k(share, top)
  order = jnp.argsort(chosen.ravel())
  sent = rows[order // top].reshape(count, -1, d)
  if ranks > 1:
    sent = jax.lax.all_to_all(sent, 'expert', 0, 1, tiled=True)
  sent = enter(sent)
  m = w['moe']
  hidden = jax.nn.silu(jnp.einsum('epd,edf->epf', sent, m['wi_0']))
  hidden = hidden * jnp.einsum('epd,edf->epf', sent, m['wi_1'])
  back = leave(jnp.einsum('epf,efd->epd', hidden, m['wo']))
  if ranks > 1:
    back = jax.lax.all_to_all(back, 'expert', 1, 0, tiled=True)
  back = back.reshape(-1, d) * best.ravel()[order][:, None].astype(h.dtype)
  return jnp.zeros_like(rows).at[order // top].add(back).reshape(b, s, d)
