"""A plan's discrete choices, as arrays over many plans at once.

The axes are laid over the machine innermost first: tensor, context, expert,
fully sharded data, data, pipeline. The bytes that are exchanged most often thus
stay on the shortest links (Narayanan et al., SC 2021, section 3; with context
next to tensor: Llama 3, arXiv:2407.21783, section 3.3.2).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from diffmem import errors
from diffmem.cost import collective
from diffmem.system import System

RECOMPUTE = ('none', 'selective', 'full')
AXES = ('tensor', 'context', 'expert', 'fsdp', 'data', 'pipeline')
# How the tensor ranks share each kind of layer; a choice is an index.
#   tensor: its matrices are split over them.
#   sequence: each has whole matrices and a share of the tokens; where every
#     sequence has one token, a share of the sequences.
#   expert: they join the expert ranks, and have whole experts.
SHARDING = {
  'attention_by': ('tensor', 'sequence'),
  'mlp_by': ('tensor', 'sequence'),
  'experts_by': ('tensor', 'expert'),
}

_One = Float[ArrayLike, '*plan']


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
  """Discrete choices of many plans.

  Attributes:
    tensor: ranks that share matrices or tokens, by the kind of layer (with
      sequence parallelism).
    context: ranks that share each sequence.
    expert: ranks that share the experts; other weights are replicated there.
    fsdp: ranks that share weights, gradients and optimizer (ZeRO stage 3).
    data: ranks that share the optimizer only (ZeRO stage 1).
    pipeline: stages.
    interleave: model chunks of each stage (virtual stages).
    micro_batch: sequences of one micro-batch on one data rank.
    recompute: index into `RECOMPUTE`.
    attention_by: index into `SHARDING['attention_by']`.
    mlp_by: index into `SHARDING['mlp_by']`; shared experts are MLPs too.
    experts_by: index into `SHARDING['experts_by']`.
  """

  tensor: _One
  expert: _One
  fsdp: _One
  data: _One
  pipeline: _One
  interleave: _One
  micro_batch: _One
  recompute: _One
  context: _One = 1.0
  attention_by: _One = 0.0
  mlp_by: _One = 0.0
  experts_by: _One = 0.0

  @classmethod
  def of(cls, **given: _One) -> 'Choices':
    """Choices by name; what is not given is 1, an index 0.

    Values broadcast against each other.
    """
    plain = dict.fromkeys((f.name for f in dataclasses.fields(cls)), 1.0)
    indices = dict.fromkeys(('recompute', *SHARDING), 0.0)
    full = {**plain, **indices, **given}
    real = jnp.result_type(float)
    values = [jnp.asarray(v, real) for v in full.values()]
    values = jnp.broadcast_arrays(*values)
    return cls(**dict(zip(full, values, strict=True)))

  @property
  def data_ranks(self) -> _One:
    """Ranks with sequences of their own."""
    return self.expert * self.fsdp * self.data

  def is_sliced(self, kind: str) -> Array:
    """1 where the tensor ranks split the matrices of a kind of `SHARDING`."""
    return jnp.where(jnp.asarray(getattr(self, kind)) == 0, 1.0, 0.0)

  def slices(self, kind: str) -> Array:
    """Slices that the matrices of a kind are split into; 1 where whole."""
    return jnp.where(self.is_sliced(kind) > 0, self.tensor, 1.0)

  def ranks(self, axis: str, spans: tuple[int, ...]) -> Array:
    """Ranks of an axis within each network level [plan, level]."""
    stride = jnp.ones_like(jnp.asarray(self.tensor))
    for inner in AXES[: AXES.index(axis)]:
      stride = stride * getattr(self, inner)
    spans = jnp.asarray(spans, stride.dtype)
    size, stride = jnp.broadcast_arrays(getattr(self, axis), stride)
    return collective.ranks_within(size, stride, spans)


class Machine(NamedTuple):
  """How a workload uses a system; hashable, part of the compiled program.

  Attributes:
    memories: tiers that can hold tensors, the engines' own first, of these
      the one behind the caches, then by the bandwidth with which they are
      reached.
    vias: the link on the way to each memory; '' for none.
    levels: network levels, inner first.
    spans: chips within a domain of each level that a mesh of this size uses.
    engine: where matrix products run.
    usable: share of each memory that tensors may fill.
  """

  memories: tuple[str, ...]
  vias: tuple[str, ...]
  levels: tuple[str, ...]
  spans: tuple[int, ...]
  engine: str
  usable: float

  @property
  def near(self) -> str:
    """The memory that the engines compute from."""
    return self.memories[0]


def machine_of(
  system: System, chips: int, *, dtype: str = 'bfloat16', usable: float = 0.9
) -> Machine:
  """Finds the memories, network levels and engine that a workload uses.

  A level of 72 chips can hold 64 of a mesh of 4,096: its span is taken as the
  largest divisor of `chips` that it can hold.

  Args:
    system: the machine.
    chips: devices of the mesh.
    dtype: number format of the matrix products.
    usable: share of each memory that tensors may fill; the rest is left to
      the runtime, fragmentation and communication buffers (0.9 is what vLLM's
      `gpu_memory_utilization` takes by default).

  Raises:
    SpecError: no memory, or no engine for `dtype` or float32.
  """

  def reach_Bps(tier):
    via = [float(system.tier(tier.via).read_Bps)] if tier.via else []
    return min([float(tier.read_Bps), *via])

  held = [t for t in system.tiers if not (t.is_cache or t.link)]
  if not held:
    raise errors.SpecError(f'{system.name} has no tier that can hold tensors')
  cached = {t.home for t in system.tiers if t.is_cache}
  held.sort(key=lambda t: (bool(t.via), t.name not in cached, -reach_Bps(t)))
  levels = [t for t in system.tiers if t.link and t.span > 1]
  levels.sort(key=lambda t: t.span)
  spans = [_largest_divisor(chips, t.span) for t in levels]
  used = [i for i, s in enumerate(spans) if s > max([1, *spans[:i]])]
  return Machine(
    memories=tuple(t.name for t in held),
    vias=tuple(t.via for t in held),
    levels=tuple(levels[i].name for i in used),
    spans=tuple(spans[i] for i in used),
    engine=_engine(system, dtype),
    usable=usable,
  )


def _largest_divisor(number: int, limit: int) -> int:
  if number <= limit:
    return number
  return next(d for d in range(limit, 0, -1) if number % d == 0)


def _engine(system: System, dtype: str) -> str:
  wanted = [
    f'{u}:{d}' for d in (dtype, 'float32') for u in ('matrix', 'vector')
  ]
  for name in wanted:
    if name in system.engine_names:
      return name
  has = ', '.join(system.engine_names) or 'none'
  raise errors.SpecError(
    f'{system.name} has no engine for {dtype}: expected one of '
    f'{", ".join(wanted)} (it has {has})'
  )
