"""An engine: something that computes, at one rate in one number format."""

from typing import Any

from jaxtyping import ArrayLike, Float

from diffmem.system import parameters


@parameters.pytree
class Engine:
  """Parameters of one engine and number format. Build with `Engine.of`.

  A family of kernels that reaches another share of a unit's peak than matrix
  products do has an engine of its own.

  Attributes:
    name: '<unit>:<dtype>', such as 'matrix:bfloat16', 'vector:float32' or
      'attention:float8'.
  """

  name: str = parameters.static()

  log_rate_FLOPps: Float[ArrayLike, '...'] = parameters.parameter(
    'FLOP/s', 1e12, 0.5, 'sustained rate with all units busy'
  )
  log_fill_rows: Float[ArrayLike, '...'] = parameters.parameter(
    '1', 1.0, 1.5, 'rows of a matrix product that loading its weights costs'
  )
  log_start_s: Float[ArrayLike, '...'] = parameters.parameter(
    's', 3e-6, 1.0, 'fixed time of one kernel, once it is launched'
  )
  log_energy_J_per_FLOP: Float[ArrayLike, '...'] = parameters.parameter(
    'J/FLOP', 1e-12, 0.5, 'dynamic energy of one operation'
  )

  @classmethod
  def of(cls, name: str, **physical: Any) -> 'Engine':
    """Builds an engine from physical values in SI units."""
    return parameters.build(cls, name=name, **physical)
