"""Residuals on disk: readable inputs in `system.json`, weights in one array.

The weights of all networks of a residual lie in one float32 vector, in the
order that the document lists them.
"""

import math
from collections.abc import Mapping

import numpy as np
import pydantic

from diffmem.checkpoint.card import Strict
from diffmem.system import Residual

_PREFIX = 'residual.'


class Input(Strict):
  """One number that the networks see, as it was in training.

  Attributes:
    low: smallest value; inputs are clipped there.
    high: largest value.
    mean: mean value.
    scale: standard deviation.
  """

  low: float
  high: float
  mean: float
  scale: float = pydantic.Field(gt=0)


class ResidualDocument(Strict):
  """A residual without its weights.

  Attributes:
    family: of operations that it corrects.
    observable: what of it.
    inputs: by name.
    categories: 'column=value' of each further input.
    stretch: half-width of a 90 % interval over the networks' own spread.
    rows: that it was trained on.
    floor: standard deviation added in squares on a part that was not measured.
    weights: shape of each array of weights, in the order of the vector.
  """

  family: str
  observable: str
  inputs: dict[str, Input]
  categories: tuple[str, ...]
  stretch: float = pydantic.Field(ge=0)
  rows: int = pydantic.Field(ge=0)
  floor: float = pydantic.Field(0.0, ge=0)
  weights: dict[str, tuple[int, ...]]

  @property
  def array(self) -> str:
    """Name of the vector of its weights."""
    return f'{_PREFIX}{self.family}.{self.observable}'

  @property
  def size(self) -> int:
    """Length of the vector of its weights."""
    return sum(math.prod(shape) for shape in self.weights.values())


def describe(residual: Residual) -> ResidualDocument:
  """Writes a residual down, without its weights."""
  columns = zip(
    residual.inputs, residual.low, residual.high, residual.mean,
    residual.scale, strict=True,
  )  # fmt: skip
  return ResidualDocument(
    family=residual.family,
    observable=residual.observable,
    inputs={
      name: Input(
        low=float(low), high=float(high), mean=float(mean), scale=float(scale)
      )
      for name, low, high, mean, scale in columns
    },
    categories=residual.categories,
    stretch=residual.stretch,
    rows=residual.rows,
    floor=residual.floor,
    weights={name: w.shape for name, w in sorted(residual.weights.items())},
  )


def pack(residual: Residual) -> np.ndarray:
  """The weights as one float32 vector."""
  ordered = [residual.weights[name] for name in sorted(residual.weights)]
  return np.concatenate([np.ravel(w) for w in ordered]).astype(np.float32)


def rebuild(
  document: ResidualDocument, arrays: Mapping[str, np.ndarray]
) -> Residual:
  """The residual of a document and the arrays of its checkpoint."""
  vector, weights, first = arrays[document.array], {}, 0
  for name, shape in document.weights.items():
    last = first + math.prod(shape)
    weights[name] = vector[first:last].reshape(shape)
    first = last

  def column(field: str) -> np.ndarray:
    return np.array([getattr(i, field) for i in document.inputs.values()])

  return Residual(
    family=document.family,
    observable=document.observable,
    inputs=tuple(document.inputs),
    categories=document.categories,
    low=column('low'),
    high=column('high'),
    mean=column('mean'),
    scale=column('scale'),
    weights=weights,
    stretch=document.stretch,
    rows=document.rows,
    floor=document.floor,
  )
