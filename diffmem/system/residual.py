"""What the laws leave over: a small learned correction of one operation.

A residual multiplies what the laws say by exp(c), with c the mean of several
small networks. It is trained on log(observed / laws), bounded, and sees only
shapes and shares of time, so that it goes with the system when a part of it
changes. It is kept apart: `System` is physics alone, plans and gradients use
physics alone, and every report gives errors with and without it.
"""

import dataclasses
from collections.abc import Mapping

from jaxtyping import Float
from numpy import ndarray


@dataclasses.dataclass(frozen=True)
class Residual:
  """A learned correction of one observable of one operation.

  Attributes:
    family: an operation of the trace schema, or several of one physics.
    observable: such as 'time_s'.
    inputs: names of the numbers that the networks see, in order.
    categories: 'column=value' of each further input, 1 where a row has it.
    low: of each number in training; inputs are clipped there [input].
    high: the same, upper end [input].
    mean: of each number in training [input].
    scale: its standard deviation [input].
    weights: of the networks, by name, one member along the first axis.
    stretch: half-width of a 90 % interval over the networks' own spread, from
      rows that the member had not seen.
    rows: that it was trained on.
    floor: standard deviation added in squares, of the logarithm: 0, but on a
      part that the residual was not trained on.
  """

  family: str
  observable: str
  inputs: tuple[str, ...]
  categories: tuple[str, ...]
  low: Float[ndarray, ' input']
  high: Float[ndarray, ' input']
  mean: Float[ndarray, ' input']
  scale: Float[ndarray, ' input']
  weights: Mapping[str, ndarray]
  stretch: float
  rows: int
  floor: float = 0.0

  @property
  def key(self) -> str:
    """Its name in a system: 'gemm.time_s'."""
    return f'{self.family}.{self.observable}'
