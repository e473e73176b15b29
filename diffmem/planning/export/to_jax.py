"""A plan as JAX takes it: mesh, partition specs, memory kinds.

    jax_plan = to_jax(plan)
    params = jax_plan.place(params)
    state = jax_plan.place(optimizer.init(params), 'optimizer')

How the axes are meant, outer first:

* `pipeline`: stacked layers are split over the stages. The program runs the
  schedule itself; `layer_order` says which layers a stage has.
* `data`, `fsdp`, `expert`: sequences. `fsdp` shares every weight too (along the
  model's width, or the largest dimension that divides), `expert` the experts.
  The optimizer is shared by all ranks with the same weights (ZeRO stage 1;
  Rajbhandari et al., SC 2020).
* `context`: tokens of a sequence.
* `tensor`: heads, hidden widths, rows of tables; tokens where a kind of layer
  is planned as 'sequence'; whole experts where it is 'expert'.

Tensors live where the plan places their group; where that is two memories,
`split` cuts stacked arrays between whole layers, and caches between pages.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from diffmem import errors
from diffmem.planning.export import kinds as kinds_lib
from diffmem.planning.export import leaves as leaves_lib
from diffmem.planning.export import meshes
from diffmem.planning.export import rules as rules_lib
from diffmem.planning.export import specs as specs_lib
from diffmem.planning.export.leaves import Leaf
from diffmem.planning.export.rules import Rule
from diffmem.planning.result import Plan
from diffmem.workloads import stage as stage_lib

# What a tree of arrays is -> tensor group; None for the leaf's own.
STATES = {
  'parameters': None,
  'optimizer': stage_lib.OPTIMIZER,
  'gradients': stage_lib.GRADIENTS,
  **{name: name for name in rules_lib.CACHE_RULES},
}


@dataclasses.dataclass(frozen=True)
class JaxPlan:
  """A plan on devices.

  Attributes:
    mesh: all axes of `AXES`, outer first, those of one rank too.
    plan: what was planned.
    rules: of leaves, in the order in which they are tried.
    kinds: memory of the plan -> memory kind.
    help: what the program has to do itself.
  """

  mesh: Mesh | AbstractMesh
  plan: Plan
  rules: tuple[Rule, ...]
  kinds: Mapping[str, str]
  help: tuple[str, ...]

  def shardings(
    self, tree: Any, state: str = 'parameters', near: bool = False
  ) -> Any:
    """A `NamedSharding` for every leaf.

    Args:
      tree: arrays, or anything with `shape`: nested dicts, `nnx.state(...)`,
        an optax state.
      state: what it is, one of `STATES`.
      near: in the device's own memory, to fetch what lives elsewhere.

    Raises:
      PlanError: a leaf without rule; a dimension that its ranks do not divide,
        with the nearest that do; stacked layers in two memories (`split`).
    """
    found = [
      self._sharding(leaf.spec, kinds_lib.NEAR if near else leaf.kind)
      for leaf in self._leaves(tree, state)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), found)

  def place(self, tree: Any, state: str = 'parameters') -> Any:
    """Puts every leaf where the plan has it.

    On TPU a jitted step can do that itself, by `out_shardings` of
    `shardings(...)` (compiled ahead of time for v5p). On several CPU devices
    XLA of jax 0.10.1 refuses host memory in the outputs of a program: call this
    on what the step returns.
    """
    return self._moved(tree, state, away=True)

  def fetch(self, tree: Any, state: str = 'parameters') -> Any:
    """Copies to the device's memory what lives elsewhere; in `jit` or not.

    What lives near is constrained to its sharding.
    """
    return self._moved(tree, state, away=False)

  def _moved(self, tree: Any, state: str, away: bool) -> Any:
    def one(leaf: Leaf):
      kind = leaf.kind if away else kinds_lib.NEAR
      sharding = self._sharding(leaf.spec, kind)
      traced = isinstance(leaf.array, jax.core.Tracer)
      if traced and leaf.kind == kinds_lib.NEAR:
        if not leaf.array.shape:
          return leaf.array
        return jax.lax.with_sharding_constraint(leaf.array, sharding)
      return jax.device_put(leaf.array, sharding)

    found = [one(leaf) for leaf in self._leaves(tree, state)]
    return jax.tree.unflatten(jax.tree.structure(tree), found)

  def split(self, tree: Any, state: str = 'parameters') -> Any:
    """Arrays that live in two memories, cut between whole layers or pages.

    Args:
      tree: arrays, or `jax.ShapeDtypeStruct`s.
      state: what it is, one of `STATES`.

    Returns:
      the tree, where such an array is a dict of memory kind -> part: the first
      layers, or the newest tokens, are nearest. Every stage of a pipeline, and
      every context rank, has its own share of each part.
    """
    found = [leaf.parts() for leaf in self._leaves(tree, state)]
    return jax.tree.unflatten(jax.tree.structure(tree), found)

  def join(self, tree: Any, state: str = 'parameters') -> Any:
    """Undoes `split`; the result is in the device's memory."""

    def one(keys, leaf):
      if not leaves_lib.is_split(leaf):
        return leaf
      layer = rules_lib.layer_of(rules_lib.joined_path(keys))
      part = next(iter(leaf.values()))
      axis, ranks = self._cut(state, layer, len(part.shape))
      return leaves_lib.join(leaf, axis, ranks, state in rules_lib.PAGED)

    return jax.tree_util.tree_map_with_path(
      one, tree, is_leaf=leaves_lib.is_split
    )

  def batch_spec(self) -> PartitionSpec:
    """Of tokens [sequence, token]."""
    return PartitionSpec(specs_lib.BATCH_AXES, 'context')

  def batch_sharding(self) -> NamedSharding:
    """Of tokens [sequence, token], in the device's memory."""
    return self._sharding(self.batch_spec(), kinds_lib.NEAR)

  def stream_sharding(self) -> NamedSharding:
    """Of the residual stream [sequence, token, width] between the layers.

    The tensor ranks share its tokens (sequence parallelism: Korthikanti et
    al., 2023), as the plan counts them, when several have tokens to share.
    """
    spec = PartitionSpec(specs_lib.BATCH_AXES, ('context', 'tensor'), None)
    return self._sharding(spec, kinds_lib.NEAR)

  def micro_batches(self, sequences: int) -> int:
    """Micro-batches of a step of so many sequences: what is accumulated over.

    Raises:
      PlanError: they do not divide, with the nearest that do.
    """
    at_once = self.plan.micro_batch * int(
      np.prod([self._ranks(axis) for axis in specs_lib.BATCH_AXES])
    )
    if sequences % at_once:
      near = max(round(sequences / at_once), 1) * at_once
      raise errors.PlanError(
        f'{sequences} sequences are not a multiple of micro_batch x data ranks '
        f'= {at_once}; the nearest is {near}'
      )
    return sequences // at_once

  def checkpoint(self, layer):
    """`layer` with the plan's recomputation for the backward pass."""
    policies = jax.checkpoint_policies
    if self.plan.recompute == 'full':
      return jax.checkpoint(layer)
    if self.plan.recompute == 'selective':
      return jax.checkpoint(
        layer, policy=policies.dots_with_no_batch_dims_saveable
      )
    return layer

  def layer_order(self, layers: int) -> list[int]:
    """Layers in the order in which a stacked array has to hold them.

    With interleaved stages a stage has every `pipeline`-th chunk; the stacked
    axis is split in equal parts, so that it must hold them side by side.
    """
    stages, chunks = self._ranks('pipeline'), self.plan.mesh['interleave']
    if layers % (stages * chunks):
      raise errors.PlanError(_uneven(layers, stages * chunks))
    order = np.arange(layers).reshape(chunks, stages, -1)
    return order.transpose(1, 0, 2).ravel().tolist()

  def _sharding(self, spec: PartitionSpec, kind: str) -> NamedSharding:
    return NamedSharding(self.mesh, spec, memory_kind=kind)

  def _ranks(self, axis: str) -> int:
    return self.mesh.shape[axis]

  def _leaves(self, tree: Any, state: str) -> list[Leaf]:
    if state not in STATES:
      raise errors.PlanError(f'no state {state!r}; one of {", ".join(STATES)}')
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    paths = [rules_lib.joined_path(keys) for keys, _ in found]
    sizes = leaves_lib.stack_sizes(paths)
    return [
      self._leaf(path, array, state, sizes)
      for path, (_, array) in zip(paths, found, strict=True)
    ]

  def _leaf(self, path: str, array, state: str, sizes: dict) -> Leaf:
    shape = tuple(array.shape)
    if not shape:
      return Leaf(path, array, PartitionSpec(), {kinds_lib.NEAR: 1})
    path, part_of = leaves_lib.without_kind(path)
    layer = rules_lib.layer_of(path)
    rules = rules_lib.CACHE_RULES.get(state, self.rules)
    rule = rules_lib.find_rule(rules, path, shape)
    self._check_stages(path, shape, layer)
    spec = specs_lib.spec_of(
      path, shape, rule, layer.stacked, self.mesh.shape,
      specs_lib.strategies_of(self.plan.sharding), state,
    )  # fmt: skip
    if part_of:
      return Leaf(path, array, spec, {part_of: 1})
    shares = kinds_lib.shares_of(
      self.plan.placement, self.kinds, STATES[state] or rule.group
    )
    axis, ranks = self._cut(state, layer, len(shape))
    if len(shares) == 1:
      lengths = dict.fromkeys(shares, 1)
    elif state in rules_lib.PAGED:
      lengths = kinds_lib.tokens_of(shares, shape[axis] // ranks)
    elif layer.stacked:
      lengths = kinds_lib.layers_of(shares, shape[axis] // ranks)
    elif layer.index is not None:
      counts = kinds_lib.layers_of(shares, sizes[layer.stack])
      lengths = {leaves_lib.kind_of_layer(counts, layer.index): 1}
    else:
      # Outside of the layers: with the farthest, vectors near.
      kind = list(shares)[-1] if len(shape) > 1 else kinds_lib.NEAR
      lengths = {kind: 1}
    return Leaf(path, array, spec, lengths, axis, ranks)

  def _cut(
    self, state: str, layer: rules_lib.Layer, rank: int
  ) -> tuple[int, int]:
    """The dimension along which a leaf is cut, and the ranks that share it."""
    if state in rules_lib.PAGED:
      axes = next(
        rule.axes
        for rule in rules_lib.CACHE_RULES[state]
        if len(rule.axes) == rank - layer.stacked
      )
      axis = axes.index(rules_lib.CONTEXT) + layer.stacked
      return axis, self._ranks('context')
    return 0, self._ranks('pipeline')

  def _check_stages(self, path, shape, layer: rules_lib.Layer) -> None:
    stages = self._ranks('pipeline')
    if layer.index is not None and stages > 1:
      raise errors.PlanError(
        f'{path} {shape}: pipeline = {stages} splits stacked layers, and here '
        'layers are apart; stack them, as a scan over layers does'
      )


def to_jax(
  plan: Plan,
  devices: Sequence[jax.Device] | np.ndarray | AbstractMesh | None = None,
  rules: Sequence[Rule] = (),
  memory_kinds: Mapping[str, str] | None = None,
) -> JaxPlan:
  """A plan on devices.

  Args:
    plan: from `make_plan`.
    devices: as many as the plan has chips, those that are close together side
      by side; None for all of JAX's, which on TPU are laid over the torus; or
      `abstract_mesh(plan)`, to trace a program without devices.
    rules: of the program's own leaves, tried before `DEFAULT_RULES`.
    memory_kinds: memory of the plan -> memory kind, where the default does not
      fit: the first memory 'device', DRAM and CXL 'pinned_host'.

  Raises:
    PlanError: another number of devices, a rule with an unknown axis, or a
      memory without a memory kind, with what to do about it.
  """
  for rule in rules:
    for axis in rule.axes:
      if axis is not None and axis not in rules_lib.LOGICAL:
        raise errors.PlanError(
          f'rule {rule.pattern!r}: no logical axis {axis!r}; one of '
          f'{", ".join(rules_lib.LOGICAL)}, or None'
        )
  return JaxPlan(
    mesh=meshes.mesh_of(plan, devices),
    plan=plan,
    rules=(*rules, *rules_lib.DEFAULT_RULES),
    kinds=kinds_lib.kinds_of(plan.placement, memory_kinds),
    help=tuple(meshes.help_of(plan)),
  )


def _uneven(layers: int, parts: int) -> str:
  near = max(round(layers / parts), 1) * parts
  return f'{layers} layers do not divide by {parts} chunks; {near} would'
