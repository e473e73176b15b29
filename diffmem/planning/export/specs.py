"""Partition specs: which ranks share which dimension of a leaf."""

from collections.abc import Mapping
from typing import NamedTuple

from jax.sharding import PartitionSpec

from diffmem import errors
from diffmem.planning.export import rules as rules_lib
from diffmem.planning.export.rules import Rule
from diffmem.workloads import stage as stage_lib

# Ranks with sequences of their own, outer first.
BATCH_AXES = ('data', 'fsdp', 'expert')


class Strategies(NamedTuple):
  """How the tensor ranks share each kind of layer (`choices.SHARDING`).

  Attributes:
    attention: 'tensor' or 'sequence'.
    mlp: 'tensor' or 'sequence'.
    experts: 'tensor' or 'expert'.
  """

  attention: str = 'tensor'
  mlp: str = 'tensor'
  experts: str = 'tensor'


def strategies_of(sharding: Mapping[str, str]) -> Strategies:
  """The strategies of a plan; a kind that the model lacks has none.

  Args:
    sharding: kind of layer -> 'tensor', 'sequence' or 'expert'.
  """
  return Strategies(**{'mlp': sharding.get('attention', 'tensor'), **sharding})


def spec_of(
  path: str,
  shape: tuple[int, ...],
  rule: Rule,
  stacked: bool,
  ranks: Mapping[str, int],
  strategies: Strategies,
  state: str,
) -> PartitionSpec:
  """The spec of one leaf.

  Args:
    path: joined path, for errors.
    shape: of the leaf.
    rule: what it is.
    stacked: whether the first dimension counts layers.
    ranks: of each mesh axis.
    strategies: how the tensor ranks share each kind of layer.
    state: one of `to_jax.STATES`.

  Raises:
    PlanError: ranks that do not divide a dimension.
  """
  dims = _Dimensions(path, shape, ranks)
  logical = ((None,) if stacked else ()) + tuple(rule.axes)
  if stacked:
    dims.share(0, ('pipeline',), 'layers')
  for i, name in enumerate(logical):
    axes = _mesh_axes(name, rule.group, strategies)
    if name == rules_lib.KV_HEADS and dims.repeats(i, axes):
      continue  # a head on several ranks, whole on each
    dims.share(i, axes, name)
  if state in rules_lib.CACHE_RULES:
    return dims.spec()
  embed = [i for i, name in enumerate(logical) if name == rules_lib.EMBED]
  for axis in _spread_axes(rule.group, strategies, state):
    dims.spread(axis, embed, first=int(stacked))
  return dims.spec()


def _mesh_axes(
  name: str | None, group: str | None, strategies: Strategies
) -> tuple[str, ...]:
  """Mesh axes that share a logical axis, outer first."""
  attention_split = strategies.attention == 'tensor'
  if name == rules_lib.EXPERT:
    whole = strategies.experts == 'expert'
    return ('expert', 'tensor') if whole else ('expert',)
  if name in (rules_lib.HEADS, rules_lib.KV_HEADS):
    return ('tensor',) if attention_split else ()
  if name == rules_lib.MLP:
    by = strategies.experts if group == stage_lib.EXPERTS else strategies.mlp
    return ('tensor',) if by == 'tensor' else ()
  if name == rules_lib.BATCH:
    return BATCH_AXES if attention_split else (*BATCH_AXES, 'tensor')
  table = {rules_lib.VOCAB: ('tensor',), rules_lib.CONTEXT: ('context',)}
  return table.get(name, ())


def _spread_axes(
  group: str | None, strategies: Strategies, state: str
) -> tuple[str, ...]:
  """Axes that share a leaf whatever its dimensions mean.

  Weights: `fsdp`. Optimizer: all other ranks that have the same weights too.
  """
  if state != 'optimizer':
    return ('fsdp',)
  by = {
    stage_lib.ATTENTION: strategies.attention, stage_lib.MLP: strategies.mlp,
  }.get(group, 'tensor')  # fmt: skip
  axes = ['fsdp', 'context']
  if by == 'sequence':
    axes.insert(1, 'tensor')
  if group != stage_lib.EXPERTS:
    axes.append('expert')
  # Inner axes first: a gradient is scattered over the shortest links first.
  return (*axes, 'data')


class _Dimensions:
  """Dimensions of a leaf and the axes that share each."""

  def __init__(self, path, shape, ranks):
    self._path, self._shape, self._ranks = path, shape, ranks
    self._axes = [[] for _ in shape]

  def _left(self, i: int) -> int:
    """Size of a dimension on one device."""
    size = self._shape[i]
    for axis in self._axes[i]:
      size //= self._ranks[axis]
    return size

  def repeats(self, i: int, axes: tuple[str, ...]) -> bool:
    """Whether a dimension is shorter than its ranks are many."""
    ranks = self._product(axes)
    return ranks > self._shape[i] and ranks % self._shape[i] == 0

  def share(self, i: int, axes: tuple[str, ...], name: str | None) -> None:
    """Gives a dimension to axes, all of which must divide it."""
    ranks = self._product(axes)
    if ranks == 1:
      return
    if self._left(i) % ranks:
      raise errors.PlanError(
        f'{self._path} {self._shape}: dimension {i} ({name}, {self._shape[i]}) '
        f'does not divide by {_shown(axes, self._ranks)}; the nearest number '
        f'of ranks that does is {_nearest(self._left(i), ranks)}'
      )
    self._axes[i] += [a for a in axes if self._ranks[a] > 1]

  def spread(self, axis: str, preferred: list[int], first: int) -> None:
    """Gives an axis the preferred dimension, or the largest that divides.

    Vectors that do not divide stay whole: they weigh nothing.
    """
    ranks = self._ranks[axis]
    if ranks == 1 or any(axis in taken for taken in self._axes):
      return
    rest = sorted(
      set(range(first, len(self._shape))) - set(preferred),
      key=lambda i: -self._left(i),
    )
    for i in [*preferred, *rest]:
      if self._left(i) % ranks == 0:
        self._axes[i].append(axis)
        return
    if len(self._shape) - first < 2:
      return
    sizes = [self._left(i) for i in range(first, len(self._shape))]
    near = min(
      (_nearest(size, ranks) for size in sizes), key=lambda n: abs(n - ranks)
    )
    raise errors.PlanError(
      f'{self._path} {self._shape}: no dimension divides by {axis} = {ranks} '
      f'ranks (a device has {sizes} before that); the nearest number of ranks '
      f'that divides one is {near}'
    )

  def spec(self) -> PartitionSpec:
    """The spec, without the axes of one rank."""
    entries = [
      None if not axes else axes[0] if len(axes) == 1 else tuple(axes)
      for axes in self._axes
    ]
    while entries and entries[-1] is None:
      entries.pop()
    return PartitionSpec(*entries)

  def _product(self, axes: tuple[str, ...]) -> int:
    product = 1
    for axis in axes:
      product *= self._ranks[axis]
    return product


def _shown(axes: tuple[str, ...], ranks: Mapping[str, int]) -> str:
  return ' x '.join(f'{a} = {ranks[a]}' for a in axes if ranks[a] > 1)


def _nearest(size: int, ranks: int) -> int:
  """The nearest number of ranks that divides; the lower of two."""
  divisors = [d for d in range(1, size + 1) if size % d == 0]
  return min(divisors, key=lambda d: (abs(d - ranks), d))
