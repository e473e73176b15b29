"""Leaves of a tree that live in one memory, and those that are cut in two.

Groups are placed in whole pieces: layers of weights, gradients and optimizer
states, pages of keys and values. Layers that are apart go by their number,
the first nearest. A stacked array is cut along its layers, and a cache along
its tokens, the newest nearest: new tokens are written there.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from diffmem import errors
from diffmem.planning.export import kinds as kinds_lib
from diffmem.planning.export import rules as rules_lib


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One leaf and where it lives.

  Attributes:
    path: joined path.
    array: with a shape.
    spec: which ranks share it.
    lengths: memory kind -> length along the axis that is cut, of one rank's
      part, in order; one kind for a leaf that is not cut.
    axis: that axis.
    ranks: that share it; each has something in every kind.
  """

  path: str
  array: Any
  spec: PartitionSpec
  lengths: Mapping[str, int]
  axis: int = 0
  ranks: int = 1

  @property
  def kind(self) -> str:
    """The memory kind.

    Raises:
      PlanError: there are two.
    """
    if len(self.lengths) == 1:
      return next(iter(self.lengths))
    shown = ', '.join(f'{n} in {k}' for k, n in self.lengths.items())
    raise errors.PlanError(
      f'{self.path}: of dimension {self.axis}, {shown}; call `split` first, '
      'and take the shardings of what it returns'
    )

  def parts(self) -> Any:
    """The array, or a dict of memory kind -> part where it is cut."""
    if len(self.lengths) == 1:
      return self.array
    parts, first = {}, 0
    for kind, length in self.lengths.items():
      parts[kind] = self._part(first, length)
      first += length
    return parts

  def _part(self, first: int, length: int) -> Any:
    shape = list(self.array.shape)
    axis, each = self.axis, shape[self.axis] // self.ranks
    cut = [*shape[:axis], self.ranks * length, *shape[axis + 1 :]]
    if isinstance(self.array, jax.ShapeDtypeStruct):
      return jax.ShapeDtypeStruct(tuple(cut), self.array.dtype)
    apart = self.array.reshape(
      *shape[:axis], self.ranks, each, *shape[axis + 1 :]
    )
    part = jax.lax.slice_in_dim(apart, first, first + length, axis=axis + 1)
    return part.reshape(cut)


def is_split(leaf: Any) -> bool:
  """Whether a subtree is what `Leaf.parts` made of one leaf."""
  return (
    isinstance(leaf, dict) and bool(leaf) and set(leaf) <= set(kinds_lib.KINDS)
  )


def join(
  parts: Mapping[str, Any], axis: int, ranks: int, farthest_first: bool
) -> jax.Array:
  """Undoes `Leaf.parts`; the result is in the device's memory.

  Args:
    parts: by memory kind, in any order: pytrees sort their keys.
    axis: that was cut.
    ranks: that share it.
    farthest_first: as caches are cut.
  """
  order = [kind for kind in kinds_lib.KINDS if kind in parts]
  if farthest_first:
    order.reverse()
  apart = []
  for kind in order:
    near = jax.device_put(parts[kind], jax.memory.Space.Device)
    shape = near.shape
    apart.append(near.reshape(*shape[:axis], ranks, -1, *shape[axis + 1 :]))
  whole = jnp.concatenate(apart, axis + 1)
  return whole.reshape(*whole.shape[:axis], -1, *whole.shape[axis + 2 :])


def without_kind(path: str) -> tuple[str, str]:
  """A path and the memory kind that `split` appended to it; '' for none."""
  front, _, last = path.rpartition('/')
  return (front, last) if last in kinds_lib.KINDS else (path, '')


def stack_sizes(paths: Sequence[str]) -> dict[str, int]:
  """Layers of each stack of layers that are apart."""
  counts: dict[str, int] = {}
  for path in paths:
    layer = rules_lib.layer_of(path)
    if layer.index is not None:
      counts[layer.stack] = max(counts.get(layer.stack, 0), layer.index + 1)
  return counts


def kind_of_layer(counts: Mapping[str, int], index: int) -> str:
  """The kind of a layer, the first layers nearest.

  Args:
    counts: memory kind -> layers, the nearest first.
    index: of the layer.
  """
  first = 0
  for kind, count in counts.items():
    first += count
    if index < first:
      return kind
  raise ValueError(f'layer {index} of {first}')
