"""Overlap: times that run beside each other, as a p-norm.

    T = (sum_i t_i^p)^(1/p)

`p = 1` adds the times (no overlap), `p -> inf` takes the largest (full
overlap). The same norm bends the closed-loop law (`diffmem.cost.service`).
It is homogeneous of degree one and non-decreasing in every time for p > 0.
"""

import jax.numpy as jnp
from jaxtyping import ArrayLike, Float


def p_norm(
  times_s: Float[ArrayLike, '... part'], p: Float[ArrayLike, '...']
) -> Float[ArrayLike, '...']:
  """The p-norm over the last axis, safe at zeros and for any scale.

  Args:
    times_s: non-negative times [s] (any unit: the result has the same).
    p: exponent > 0, broadcast against the leading axes.

  Returns:
    The norm; 0 with finite gradients where all parts are 0.
  """
  positive = times_s > 0
  logs = jnp.log(jnp.where(positive, times_s, 1.0))
  floor = jnp.finfo(logs.dtype).min
  peak = jnp.max(jnp.where(positive, logs, floor), -1)
  any_positive = positive.any(-1)
  peak = jnp.where(any_positive, peak, 0.0)
  p = jnp.broadcast_to(p, peak.shape)
  terms = jnp.where(
    positive, jnp.exp(p[..., None] * (logs - peak[..., None])), 0.0
  )
  total = jnp.where(any_positive, terms.sum(-1), 1.0)
  norm = jnp.exp(peak + jnp.log(total) / p)
  return jnp.where(any_positive, norm, 0.0)


def at_least_one(p: Float[ArrayLike, '...']) -> Float[ArrayLike, '...']:
  """An exponent of overlap, smoothly kept from 1 up.

  Times that run beside each other never take longer than one after the other,
  whatever a fit would like: (1 + p^8)^(1/8), which is p from 2 on.
  """
  return jnp.exp(jnp.logaddexp(0.0, 8.0 * jnp.log(p)) / 8.0)


def pair_norm(
  a_s: Float[ArrayLike, '...'],
  b_s: Float[ArrayLike, '...'],
  p: Float[ArrayLike, '...'],
) -> Float[ArrayLike, '...']:
  """The p-norm of two times: the same, in fewer operations.

  The larger times (1 + ratio^p)^(1/p), which costs four transcendental
  functions where the general form costs six.
  """
  high, low = jnp.maximum(a_s, b_s), jnp.minimum(a_s, b_s)
  both = low > 0
  ratio = jnp.where(both, low / jnp.where(both, high, 1.0), 0.5)
  tail = jnp.where(both, jnp.exp(p * jnp.log(ratio)), 0.0)
  return high * jnp.exp(jnp.log1p(tail) / p)
