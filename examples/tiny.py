"""What the examples share: a tiny transformer, and a device it does not fit.

The model is plain flax NNX; nothing in it knows of a plan. The device is a
made-up one, so small that a part of the tensors has to live with the host.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffmem.system import Engine, System, Tier
from diffmem.workloads import Transformer
from diffmem.workloads.transformer import Attention

# Three layers: on eight devices no pipeline divides them, and the examples
# have no pipeline schedule.
SHAPE = Transformer(
  name='tiny', source='examples', layers=3, d_model=64, d_ff=256, vocab=256,
  attention=Attention(heads=4, kv_heads=4, head_dim=16), max_context=256,
)  # fmt: skip

# Says how the residual stream is shared; wraps a layer to recompute it.
Constrain = Callable[[jax.Array], jax.Array]
Checkpoint = Callable[[Callable], Callable]


def device(near_B: float) -> System:
  """A made-up accelerator with `near_B` bytes of memory, and its host."""
  link = {'duplex': 'full_duplex', 'link': True, 'queue_p': 1.0}
  tiers = [
    Tier.of(
      'HBM', duplex='turnaround', read_Bps=1e12, write_Bps=0.9e12,
      mixed_Bps=8e12, latency_s=500e-9, capacity_B=near_B,
    ),
    Tier.of('PCIe', read_Bps=32e9, latency_s=1e-6, **link),
    Tier.of('DRAM', read_Bps=50e9, capacity_B=16e9, via='PCIe'),
    Tier.of('NVLink', read_Bps=200e9, latency_s=2e-6, span=8, **link),
  ]  # fmt: skip
  engine = Engine.of(
    'matrix:bfloat16', rate_FLOPps=100e12, energy_J_per_FLOP=1e-12
  )
  return System.of('tiny', tiers, [engine], static_W=50, power_cap_W=400)


class Block(nnx.Module):
  """Attention and a gated MLP."""

  def __init__(self, shape: Transformer, rngs: nnx.Rngs):
    def linear(rows, columns):
      return nnx.Linear(rows, columns, use_bias=False, rngs=rngs)

    d, heads = shape.d_model, shape.attention.heads
    width = heads * shape.attention.head_dim
    self.heads = heads
    self.norm_1 = nnx.RMSNorm(d, rngs=rngs)
    self.query, self.key = linear(d, width), linear(d, width)
    self.value, self.out = linear(d, width), linear(width, d)
    self.norm_2 = nnx.RMSNorm(d, rngs=rngs)
    self.gate, self.up = linear(d, shape.d_ff), linear(d, shape.d_ff)
    self.down = linear(shape.d_ff, d)

  def project(self, x):
    """Queries, keys and values [sequence, token, head, value]."""
    h = self.norm_1(x)
    parts = (self.query(h), self.key(h), self.value(h))
    return tuple(p.reshape(*p.shape[:2], self.heads, -1) for p in parts)

  def mix(self, x, query, keys, values, mask):
    """The layer's output, attention over `keys` and MLP."""
    scores = jnp.einsum('bshe,bthe->bhst', query, keys) / query.shape[-1] ** 0.5
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e30))
    attended = jnp.einsum('bhst,bthe->bshe', weights, values)
    x = x + self.out(attended.reshape(*x.shape[:2], -1))
    h = self.norm_2(x)
    return x + self.down(jax.nn.silu(self.gate(h)) * self.up(h))


class Model(nnx.Module):
  """Embedding, layers, output table."""

  def __init__(self, shape: Transformer, rngs: nnx.Rngs):
    d, vocab = shape.d_model, shape.vocab
    self.embed = nnx.Embed(vocab, d, rngs=rngs)
    self.layers = nnx.List([Block(shape, rngs) for _ in range(shape.layers)])
    self.norm = nnx.RMSNorm(d, rngs=rngs)
    self.lm_head = nnx.Linear(d, vocab, use_bias=False, rngs=rngs)

  def __call__(
    self,
    tokens,
    constrain: Constrain = lambda x: x,
    checkpoint: Checkpoint = lambda f: f,
  ):
    """Logits of every token, and what each layer would cache."""
    mask = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))

    def run(layer, x):
      query, keys, values = layer.project(x)
      x = constrain(layer.mix(x, query, keys, values, mask))
      return x, {'keys': keys, 'values': values}

    x, caches = constrain(self.embed(tokens)), {}
    for i, layer in enumerate(self.layers):
      one = checkpoint(functools.partial(run, layer))
      x, caches[f'layers_{i}'] = one(x)
    return self.lm_head(self.norm(x)), caches

  def decode(self, tokens, caches, position):
    """Logits of the next token, and the new keys and values of each layer."""
    x = self.embed(tokens[:, None])
    new = {}
    for i, layer in enumerate(self.layers):
      cache = caches[f'layers_{i}']
      query, *made = layer.project(x)
      new[f'layers_{i}'] = dict(zip(('keys', 'values'), made, strict=True))
      keys, values = (
        jax.lax.dynamic_update_slice_in_dim(cache[n], one, position, 1)
        for n, one in new[f'layers_{i}'].items()
      )
      mask = jnp.arange(keys.shape[1]) <= position
      x = layer.mix(x, query, keys, values, mask)
    return self.lm_head(self.norm(x))[:, 0], new


def initialise(seed: int = 0) -> tuple[nnx.GraphDef, nnx.State]:
  """The model's graph and its weights, as numpy arrays."""
  rng = np.random.default_rng(seed)
  graph, weights = nnx.split(nnx.eval_shape(lambda: Model(SHAPE, nnx.Rngs(0))))

  def one(leaf):
    if len(leaf.shape) == 1:
      return np.ones(leaf.shape, np.float32)
    value = rng.standard_normal(leaf.shape) / leaf.shape[0] ** 0.5
    return value.astype(np.float32)

  return graph, jax.tree.map(one, weights)
