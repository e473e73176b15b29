"""An engine: something that computes, at one rate in one number format."""

from typing import Any

from jaxtyping import ArrayLike, Float

from diffmem.system import parameters


@parameters.pytree
class Engine:
  """Parameters of one engine and number format. Build with `Engine.of`.

  Attributes:
    name: '<unit>:<dtype>', such as 'matrix:bfloat16' or 'vector:float32'.
  """

  name: str = parameters.static()

  log_rate_FLOPps: Float[ArrayLike, '...'] = parameters.parameter(
    'FLOP/s', 1e12, 0.5, 'sustained rate with all units busy'
  )
  log_fill_rows: Float[ArrayLike, '...'] = parameters.parameter(
    '1', 1.0, 1.5, 'rows of a matrix product that loading its weights costs'
  )
  log_energy_J_per_FLOP: Float[ArrayLike, '...'] = parameters.parameter(
    'J/FLOP', 1e-12, 0.5, 'dynamic energy of one operation'
  )

  @classmethod
  def of(cls, name: str, **physical: Any) -> 'Engine':
    """Builds an engine from physical values in SI units."""
    return parameters.build(cls, name=name, **physical)
