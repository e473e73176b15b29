"""Minimising a robust sum of squares of few parameters: Adam, Levenberg.

Adam (optax) brings a rough start into the basin with gradients alone;
Levenberg-Marquardt (Marquardt, SIAM J. Appl. Math. 11(2), 1963) on iteratively
reweighted squares finishes in a few dozen steps to full precision, which is
what the covariance needs. Both are plain functions of arrays that `vmap` over
starts, and freeze a lane once it goes non-finite instead of spreading it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from diffmem.fitting import loss


class Terms(NamedTuple):
  """A loss as a sum of robust squares: half of sum(weight rho(z; delta)).

  Attributes:
    z: residuals over their scales [residual].
    weight: how often each counts [residual].
    delta: where each turns from square to linear; inf for never [residual].
  """

  z: Float[Array, ' residual']
  weight: Float[Array, ' residual']
  delta: Float[Array, ' residual']

  def total(self) -> Float[Array, '']:
    """The loss; inf where it is not finite."""
    rho = loss.pseudo_huber(self.z, self.delta)
    value = 0.5 * jnp.sum(self.weight * rho)
    return jnp.where(jnp.isfinite(value), value, jnp.inf)


TermsOf = Callable[[Float[Array, ' parameter']], Terms]


class Minimum(NamedTuple):
  """Where a minimiser stopped.

  Attributes:
    theta: the parameters [parameter].
    loss: the loss there.
    converged: whether the last step no longer mattered.
    normal: the weighted normal matrix J'WJ of the last step; its inverse is
      the Laplace covariance. Zeros from a method that does not need it.
  """

  theta: Float[Array, '*start parameter']
  loss: Float[Array, '*start']
  converged: Bool[Array, '*start']
  normal: Float[Array, '*start parameter parameter']


def adam(
  terms_of: TermsOf,
  theta: Float[Array, ' parameter'],
  *,
  steps: int,
  learning_rate: float = 0.05,
) -> Minimum:
  """Adam with a cosine schedule; returns the best point that it saw."""
  optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

  def step(carry, _):
    theta, state, best, best_loss = carry
    value, gradient = jax.value_and_grad(lambda t: terms_of(t).total())(theta)
    better = value < best_loss
    best = jnp.where(better, theta, best)
    best_loss = jnp.where(better, value, best_loss)
    sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
    updates, state = optimiser.update(
      jnp.where(sound, gradient, 0.0), state, theta
    )
    theta = jnp.where(sound, optax.apply_updates(theta, updates), best)
    return (theta, state, best, best_loss), None

  start = (theta, optimiser.init(theta), theta, terms_of(theta).total())
  (_, _, best, best_loss), _ = jax.lax.scan(step, start, length=steps)
  size = theta.shape[0]
  return Minimum(best, best_loss, jnp.zeros((), bool), jnp.zeros((size, size)))


def levenberg_marquardt(
  terms_of: TermsOf,
  theta: Float[Array, ' parameter'],
  *,
  steps: int | Array,
  tolerance: float = 1e-4,
) -> Minimum:
  """Levenberg-Marquardt with multiplicative damping.

  Args:
    terms_of: the terms of the loss, priors included (so that the normal
      matrix is regular).
    theta: the start [parameter].
    steps: most steps; may be traced, so one compilation serves all uses.
    tolerance: relative decrease of the loss; two steps below it end the run.
  """

  def residuals(theta):
    terms = terms_of(theta)
    return terms.z, terms

  def step(state):
    i, theta, value, damping, calm, _, _ = state
    jacobian, terms = jax.jacfwd(residuals, has_aux=True)(theta)
    weight = terms.weight * loss.irls_weight(terms.z, terms.delta)
    weighted = jacobian * weight[:, None]
    normal = weighted.T @ jacobian
    scaled = normal + damping * jnp.diag(jnp.diag(normal) + 1e-9)
    delta = -jnp.linalg.solve(scaled, weighted.T @ terms.z)
    delta = jnp.clip(delta, -2.0, 2.0)  # a factor of e^2 a step is plenty
    trial = theta + delta
    trial_value = terms_of(trial).total()
    better = (trial_value < value) & jnp.all(jnp.isfinite(trial))
    small = better & (value - trial_value <= tolerance * (1.0 + value))
    calm = jnp.where(small, calm + 1, jnp.where(better, 0, calm))
    stuck = ~better & (damping > 1e4)
    return (
      i + 1,
      jnp.where(better, trial, theta),
      jnp.where(better, trial_value, value),
      damping * jnp.where(better, 0.2, 5.0),
      calm,
      (calm >= 2) | stuck,
      normal,
    )

  def unfinished(state):
    i, _, value, _, _, done, _ = state
    return (i < steps) & ~done & jnp.isfinite(value)

  start = (
    jnp.zeros((), int),
    theta,
    terms_of(theta).total(),
    jnp.full((), 1e-2, theta.dtype),
    jnp.zeros((), int),
    jnp.zeros((), bool),
    jnp.zeros((theta.shape[0], theta.shape[0]), theta.dtype),
  )
  _, theta, value, _, _, done, normal = jax.lax.while_loop(
    unfinished, step, start
  )
  return Minimum(theta, value, done, normal)
