"""Collectives over a hierarchy of network levels.

A group of n ranks meets level after level, inner first: `ranks_within[l]` of
them lie within one domain of level l (a node, a rack, the cluster). The
vector is reduce-scattered by a ring inside the innermost domain, what is left
by a ring over the domains of the next level, and so on; an all-gather runs the
same way back. With r_l = ranks_within[l] and r_(-1) = 1, each device sends
(and receives), for a payload of B bytes,

    reduce-scatter, all-gather   B (1 / r_(l-1) - 1 / r_l)   at level l,
    all-reduce                   twice that,
    all-to-all                   B (r_l - r_(l-1)) / n,

in r_l / r_(l-1) - 1 dependent messages for each ring. Summed over the levels
this is B (n - 1) / n, the lower bound that rings attain (Patarasu and Yuan,
J. Parallel Distrib. Comput. 69(2), 2009; Thakur et al., IJHPCA 19(1), 2005,
sections 4.1 and 4.5). The sends of an all-to-all do not depend on each other:
one message per level that is used (NCCL posts them as one group).
Trees, in-network reduction and the algorithm's choice by message size are
left to the calibrated law.

`flat_ring` is what NCCL's rings do with a group that spans several domains:
every ring visits all ranks, one domain after the other, and other rings start
at other ranks, so that each device has its share of the edges that cross. With
x_l = 1 / r_l, or 0 where a domain of level l holds the whole group,

    all-gather, reduce-scatter   B (n - 1) / n (x_(l-1) - x_l)   at level l,

in (n - 1) (x_(l-1) - x_l) of the n - 1 messages. With many domains the bytes
are those of the hierarchy; with two they are up to twice as many.

All functions are pure, broadcast, and are linear in the payload.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

Payload = Float[ArrayLike, '...']
Ranks = Float[ArrayLike, '... level']


class Traffic(NamedTuple):
  """What one device does on every network level.

  Attributes:
    sent_B: bytes sent; as many are received [B].
    messages: dependent transfers, one after the other.
  """

  sent_B: Float[Array, '... level']
  messages: Float[Array, '... level']

  def __add__(self, other: 'Traffic') -> 'Traffic':
    return Traffic(self.sent_B + other.sent_B, self.messages + other.messages)

  def times(self, count: Float[ArrayLike, '...']) -> 'Traffic':
    """The same collective `count` times over."""
    count = _column(count)
    return Traffic(self.sent_B * count, self.messages * count)


def ranks_within(
  size: Float[ArrayLike, '...'],
  stride: Float[ArrayLike, '...'],
  spans: Float[ArrayLike, ' level'],
) -> Float[Array, '... level']:
  """How many ranks of an axis lie within one domain of each level.

  Args:
    size: ranks of the axis.
    stride: devices between neighbours: the product of the inner axes.
    spans: devices within a domain of each level, inner first; the sizes are
      aligned (`size * stride` divides the span or is a multiple of it).
  """
  size, stride = jnp.asarray(size)[..., None], jnp.asarray(stride)[..., None]
  spans = jnp.expand_dims(jnp.asarray(spans), range(stride.ndim - 1))
  return jnp.clip(spans / stride, 1.0, size)


def all_gather(payload_B: Payload, ranks: Ranks) -> Traffic:
  """All-gather whose result has `payload_B` bytes on every rank."""
  inner, ranks = _inner(ranks)
  payload_B = _column(payload_B)
  return Traffic(payload_B * (1.0 / inner - 1.0 / ranks), ranks / inner - 1.0)


def reduce_scatter(payload_B: Payload, ranks: Ranks) -> Traffic:
  """Reduce-scatter of a vector of `payload_B` bytes."""
  return all_gather(payload_B, ranks)


def all_reduce(payload_B: Payload, ranks: Ranks) -> Traffic:
  """All-reduce of a vector of `payload_B` bytes."""
  return reduce_scatter(payload_B, ranks) + all_gather(payload_B, ranks)


def flat_ring(payload_B: Payload, ranks: Ranks, passes: float = 1.0) -> Traffic:
  """Rings over all ranks; one pass gathers or scatters, two reduce all."""
  inner, ranks = _inner(ranks)
  n = ranks[..., -1:]
  crossing = jnp.where(inner < n, 1.0 / inner, 0.0)
  leaving = jnp.where(ranks < n, 1.0 / ranks, 0.0)
  share = passes * (crossing - leaving) * (n - 1.0)
  return Traffic(_column(payload_B) * share / n, share)


def all_to_all(payload_B: Payload, ranks: Ranks) -> Traffic:
  """All-to-all; `payload_B` is what a rank holds for all, itself included."""
  inner, ranks = _inner(ranks)
  payload_B = _column(payload_B)
  share = (ranks - inner) / ranks[..., -1:]
  used = jnp.where(ranks > inner, 1.0, 0.0)
  return Traffic(payload_B * share, used)


def send_recv(payload_B: Payload, ranks: Ranks) -> Traffic:
  """Each rank sends to its next: on the outermost level that the axis uses."""
  inner, ranks = _inner(ranks)
  used = jnp.where(ranks > inner, 1.0, 0.0)
  outside = jnp.cumsum(used[..., ::-1], -1)[..., ::-1]
  outermost = used * jnp.where(outside == 1.0, 1.0, 0.0)
  payload_B = _column(payload_B)
  return Traffic(payload_B * outermost, outermost)


def _column(value: Payload) -> Array:
  """Adds the level axis, except to a scalar, which needs none."""
  value = jnp.asarray(value)
  return value[..., None] if value.ndim else value


def _inner(ranks: Ranks) -> tuple[Array, Array]:
  """Ranks within the next inner level, and the ranks themselves."""
  ranks = jnp.asarray(ranks, jnp.result_type(float))
  first = jnp.ones_like(ranks[..., :1])
  return jnp.concatenate([first, ranks[..., :-1]], -1), ranks
