"""The workload of any function that JAX can trace.

`workload_from_jax` traces a function without running it and walks the jaxpr:
loops count as often as they run, recomputation counts, named scopes and the
backward pass stay apart. The bytes follow the fusion model of
`from_jax.bytes`. Counts are of the whole program, all devices together.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.interpreters import partial_eval

from diffmem import errors
from diffmem.workloads.from_jax import rules
from diffmem.workloads.from_jax.blocks import Block, Place, Walk
from diffmem.workloads.from_jax.bytes import Account
from diffmem.workloads.from_jax.result import (
  Argument,
  Collective,
  JaxWorkload,
  Scope,
)

# Groups of arguments by words of their path, the first that fits.
_GROUPS = (
  ('gradients', r'grads?|gradients?'),
  ('optimizer', r'opt\w*|mu|nu|\w*moments?|momentum|trace|adam\w*|ema'),
  ('kv_cache', r'kv\w*|\w*cache\w*|keys|values'),
  ('weights', r'params?|parameters|weights?|kernel|embeddings?|model|w'),
)


def workload_from_jax(
  fn: Callable[..., Any],
  *abstract_args: Any,
  groups: Mapping[str, str] | None = None,
  while_trips: float = 1.0,
) -> JaxWorkload:
  """Traces a function and counts what it asks for; nothing runs.

  FLOPs are those of XLA's cost analysis of the unrolled program; bytes follow
  the fusion model of `diffmem.workloads.from_jax.bytes`. Where a program
  branches the dearest branch counts. A `while` whose number of trips the trace
  does not tell is listed in `unknown` and counts `while_trips` times.

  Args:
    fn: any function that `jax.make_jaxpr` traces, jitted or not.
    *abstract_args: arrays or `jax.ShapeDtypeStruct`s, in pytrees.
    groups: group of an argument by its name in `fn`'s signature; what is not
      given is guessed from the words of its path, integers are inputs.
    while_trips: how often a `while` of unknown length runs.

  Raises:
    SpecError: the function cannot be traced with these arguments, or `groups`
      names an argument that it does not have.

  Examples:
    >>> import jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((64, 32), jnp.float32)
    >>> workload_from_jax(lambda x: x @ x.T, x).flops
    262144.0
  """
  name = getattr(fn, '__name__', None) or type(fn).__name__
  try:
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*abstract_args)
  except (TypeError, ValueError) as error:
    raise errors.SpecError(f'{name} cannot be traced: {error}') from error
  walk = Walk(while_trips)
  used = [True] * len(closed.jaxpr.outvars)
  jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, used, instantiate=True)
  block = walk.block(jaxpr, Place())
  account = Account()
  read_B = account.add(block)
  scopes = tuple(
    Scope(
      scope, phase, dict(t.flops), t.work.vector, t.work.transcendental,
      t.read_B, t.write_B, t.kernels,
    )
    for (scope, phase), t in account.tallies.items()
  )  # fmt: skip
  return JaxWorkload(
    name,
    scopes,
    _arguments(fn, abstract_args, read_B, groups or {}),
    sum(rules.size_B(leaf) for leaf in jax.tree.leaves(shape)),
    _activations_B(block),
    tuple(Collective(*k, n) for k, n in account.collectives.items()),
    tuple(
      f'{what}{f" in {scope}" if scope else ""} ({count} times)'
      for (what, scope), count in walk.unknown.items()
    ),
  )


def _arguments(fn, args, read_B, groups) -> tuple[Argument, ...]:
  names = _names(fn, len(args))
  for name in groups:
    if name not in names:
      raise errors.SpecError(
        f'groups: no argument {name!r}; it has {", ".join(names) or "none"}'
      )
  leaves = [
    (name, name + jax.tree_util.keystr(path), leaf)
    for name, arg in zip(names, args, strict=True)
    for path, leaf in jax.tree_util.tree_leaves_with_path(arg)
  ]
  return tuple(
    Argument(path, groups.get(name) or _group(path, leaf), _leaf_B(leaf), read)
    for (name, path, leaf), read in zip(leaves, read_B, strict=True)
  )


def _leaf_B(leaf) -> float:
  return rules.size_B(jax.typeof(leaf))


def _names(fn, count: int) -> list[str]:
  try:
    parameters = list(inspect.signature(fn).parameters.values())
  except (TypeError, ValueError):
    parameters = []
  names = [
    p.name
    for p in parameters
    if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
  ]
  return [names[i] if i < len(names) else f'arg{i}' for i in range(count)]


def _group(path: str, leaf) -> str:
  words = [w.lower() for w in re.findall(r'\w+', path)]
  if not jax.numpy.issubdtype(jax.typeof(leaf).dtype, jax.numpy.floating):
    return 'inputs'
  for group, pattern in _GROUPS:
    if any(re.fullmatch(pattern, word) for word in words):
      return group
  return 'inputs'


def _activations_B(block: Block) -> float:
  """Bytes that the forward pass leaves for the backward pass."""
  made = {}
  kept = {}
  for operation in block.operations:
    if operation.phase == 'forward':
      for value, _ in operation.writes:
        made[id(value.origin)] = value
      continue
    for value, _ in operation.reads:
      if id(value.origin) in made:
        kept[id(value.origin)] = value.origin.size_B
  return sum(kept.values())
