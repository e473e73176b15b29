"""What is asked of a machine, and what it costs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from diffmem.system import System

# A working set that no cache holds; finite, so that gradients stay finite.
UNCACHED_B = 1e30
# A run of consecutive addresses without end: a stream.
STREAM_B = 1e15


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Demand:
  """Operations x tiers (or engines). Build with `Demand.of`.

  Bytes name the tier where the data *lives*; caches in front of it and the
  link on the way are found by `predict`. All totals are per device.

  Attributes:
    read_B: bytes read [B].
    write_B: bytes written [B].
    granule_B: length of a run of consecutive addresses [B].
    in_flight_B: bytes in flight [B]; 0 lets the hardware decide, from
      `participants` and what each keeps in flight.
    messages: dependent transfers that wait one after the other; 0 for none
      (then `in_flight_B` says how the bytes wait).
    working_set_B: bytes that the operation goes over again and again [B].
    participants: cores or SMs at work.
    flops: floating-point operations.
    row_flops: FLOPs of one row of a matrix product, 2 n k, summed over the
      products; loading the weights costs `fill_rows` of them.
    launches: framework launches.
    starts: kernels that each engine runs one after the other; each costs
      `start_s`.
  """

  read_B: Float[ArrayLike, '*op tier']
  write_B: Float[ArrayLike, '*op tier']
  granule_B: Float[ArrayLike, '*op tier']
  in_flight_B: Float[ArrayLike, '*op tier']
  messages: Float[ArrayLike, '*op tier']
  working_set_B: Float[ArrayLike, '*op']
  participants: Float[ArrayLike, '*op']
  flops: Float[ArrayLike, '*op engine']
  row_flops: Float[ArrayLike, '*op engine']
  launches: Float[ArrayLike, '*op']
  starts: Float[ArrayLike, '*op engine']

  @classmethod
  def of(
    cls,
    system: System,
    *,
    read_B: Mapping[str, Any] | None = None,
    write_B: Mapping[str, Any] | None = None,
    granule_B: Mapping[str, Any] | None = None,
    in_flight_B: Mapping[str, Any] | None = None,
    messages: Mapping[str, Any] | None = None,
    flops: Mapping[str, Any] | None = None,
    row_flops: Mapping[str, Any] | None = None,
    starts: Mapping[str, Any] | None = None,
    working_set_B: Any = UNCACHED_B,
    participants: Any = 1.0,
    launches: Any = 0.0,
  ) -> 'Demand':
    """Builds a demand from mappings by tier (or engine) name.

    Values are arrays that broadcast against each other to the shape [op];
    what is not given is 0 (granule: a stream; working set: not cached).

    Raises:
      SpecError: a tier or engine that the system lacks.

    Examples:
      >>> from diffmem.system import System, Tier
      >>> s = System.of('one', [Tier.of('HBM', read_Bps=3.35e12)])
      >>> Demand.of(s, read_B={'HBM': [1e6, 1e9]}).read_B.shape
      (2, 1)
    """
    tables = {
      'read_B': (read_B, 0.0),
      'write_B': (write_B, 0.0),
      'granule_B': (granule_B, STREAM_B),
      'in_flight_B': (in_flight_B, 0.0),
      'messages': (messages, 0.0),
    }
    values = [v for table, _ in tables.values() for v in (table or {}).values()]
    by_engine = {'flops': flops, 'row_flops': row_flops, 'starts': starts}
    for table in by_engine.values():
      values += (table or {}).values()
    values += [working_set_B, participants, launches]
    shape = jnp.broadcast_shapes(*(np.shape(v) for v in values))

    def table_of(names, what, mapping, fill):
      for name in mapping or {}:
        getattr(system, what)(name)
      columns = [(mapping or {}).get(name, fill) for name in names]
      return jnp.stack([_full(c, shape) for c in columns], -1)

    tier_tables = {
      field: table_of(system.tier_names, 'tier', mapping, fill)
      for field, (mapping, fill) in tables.items()
    }
    engine_tables = {
      field: table_of(system.engine_names, 'engine', mapping, 0.0)
      if system.engines
      else jnp.zeros((*shape, 0))
      for field, mapping in by_engine.items()
    }
    return cls(
      **tier_tables,
      **engine_tables,
      working_set_B=_full(working_set_B, shape),
      participants=_full(participants, shape),
      launches=_full(launches, shape),
    )


def _full(value: Any, shape: tuple[int, ...]) -> jax.Array:
  value = value if isinstance(value, jax.Array) else np.asarray(value)
  dtype = jnp.promote_types(jnp.result_type(float), jnp.result_type(value))
  return jnp.broadcast_to(jnp.asarray(value, dtype), shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """What a demand costs on a system; the answer of `predict`.

  Attributes:
    time_s: time of each operation, with overlap and power cap [s].
    free_time_s: the same had the board no power cap [s].
    tier_time_s: time that each tier alone would need [s].
    engine_time_s: time that each engine alone would need [s].
    served_B: bytes that each tier really moved, caches and links too [B].
    tier_latency_s: loaded latency of an access at each tier [s].
    latency_s: loaded latency of an access, mean over served bytes [s].
    bandwidth_Bps: bytes asked for over time [B/s].
    device_J: energy inside the memory devices [J].
    path_J: energy between device and engine [J].
    engine_J: energy of arithmetic [J].
    static_J: static power times time [J].
    saved_J: dynamic energy that a lower voltage saves at the power cap [J];
      the parts above are without it.
  """

  time_s: Float[ArrayLike, '*op']
  free_time_s: Float[ArrayLike, '*op']
  tier_time_s: Float[ArrayLike, '*op tier']
  engine_time_s: Float[ArrayLike, '*op engine']
  served_B: Float[ArrayLike, '*op tier']
  tier_latency_s: Float[ArrayLike, '*op tier']
  latency_s: Float[ArrayLike, '*op']
  bandwidth_Bps: Float[ArrayLike, '*op']
  device_J: Float[ArrayLike, '*op tier']
  path_J: Float[ArrayLike, '*op tier']
  engine_J: Float[ArrayLike, '*op engine']
  static_J: Float[ArrayLike, '*op']
  saved_J: Float[ArrayLike, '*op']

  @property
  def energy_J(self) -> Float[ArrayLike, '*op']:
    """Total energy of each operation [J]."""
    moved = self.device_J.sum(-1) + self.path_J.sum(-1)
    return self.static_J + moved + self.engine_J.sum(-1) - self.saved_J

  @property
  def power_W(self) -> Float[ArrayLike, '*op']:
    """Mean power of each operation [W]."""
    return self.energy_J / jnp.where(self.time_s > 0, self.time_s, 1.0)
