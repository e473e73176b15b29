"""Vector search as one workload of a mix, at its best pair of memories.

The codes that are compared live in one memory and the graph's vertices in
another; all pairs in which both fit are valued, and the cheapest is taken.
What a device holds is its share of the index, and a query visits every device.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.codesign.mixes.mix import Retrieved
from diffmem.cost import predict
from diffmem.system import System
from diffmem.workloads import machine_of
from diffmem.workloads.retrieval import graph_search, retrieval_demand

# Bytes of a neighbour's number in a vertex, and what a disk reads at least.
_ID_B = 4.0
_SECTOR_B = 4096.0


class Found(NamedTuple):
  """The cheapest pair of memories.

  Attributes:
    value: what the traffic costs [USD/s].
    slopes: d value / d leaf.
    accelerators: that the traffic keeps busy.
    power_W: that these draw [W].
    latency_s: mean time of a query [s].
    memory: where the codes live.
    store: where the vertices live.
    used_B: of each memory, on one device [B].
  """

  value: float
  slopes: Mapping[str, float]
  accelerators: float
  power_W: float
  latency_s: float
  memory: str
  store: str
  used_B: Mapping[str, float]


def solve(
  system: System, search: Retrieved, usd_per_s: float, usd_per_J: float
) -> Found | None:
  """The cheapest pair; None where no pair has room. Call with x64 enabled."""
  machine = machine_of(system, search.chips)
  best = None
  for memory in machine.memories:
    for store in machine.memories:
      if memory == store:
        continue
      used_B = _used_B(search, memory, store)
      if any(
        used > search.usable * float(system.tier(m).capacity_B)
        for m, used in used_B.items()
      ):
        continue
      one = _valued(system, search, usd_per_s, usd_per_J, memory, store)
      if best is None or one.value < best.value:
        best = one._replace(used_B=used_B)
  return best


def _vertex_B(search: Retrieved) -> float:
  return search.vector_B + search.degree * _ID_B


def _used_B(search: Retrieved, memory: str, store: str) -> dict[str, float]:
  vectors = search.vectors / search.chips
  return {memory: vectors * search.code_B, store: vectors * _vertex_B(search)}


def _valued(system, search, usd_per_s, usd_per_J, memory, store) -> Found:
  rates = jnp.array([usd_per_s, usd_per_J])
  engine = _engine(system)
  (time_s, energy_J), slopes = _slopes(
    system, rates, search, memory, store, engine
  )
  per_query = search.chips / search.queries_in_flight
  traffic = search.queries_per_s * per_query
  value = traffic * float(usd_per_s * time_s + usd_per_J * energy_J)
  active = system.active()
  return Found(
    value=value,
    slopes={
      name: value * float(slope)
      for name, slope in zip(
        system.infos(), jax.tree.leaves(slopes), strict=True
      )
      if name in active
    },
    accelerators=traffic * float(time_s),
    power_W=traffic * float(energy_J),
    latency_s=float(time_s),
    memory=memory,
    store=store,
    used_B={},
  )


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _slopes(system, rates, search, memory, store, engine):
  """Time and energy of all queries in flight; slopes of ln(their cost)."""
  granule_B = _vertex_B(search)
  if system.tier(store).via or store == 'SSD':
    granule_B = np.ceil(granule_B / _SECTOR_B) * _SECTOR_B
  asked = graph_search(
    reads=search.reads, degree=search.degree, beam=search.beam,
    code_B=search.code_B, granule_B=granule_B,
  )  # fmt: skip

  def log_cost(moved):
    cost = predict(
      moved,
      retrieval_demand(
        moved, asked, search.queries_in_flight, memory=memory, store=store,
        engine=engine,
      ),
    )  # fmt: skip
    # At full voltage, as plans are minimised.
    energy_J = (
      cost.static_J + cost.device_J.sum(-1) + cost.path_J.sum(-1)
      + cost.engine_J.sum(-1)
    )  # fmt: skip
    parts = cost.time_s, energy_J
    return jnp.log(rates[0] * parts[0] + rates[1] * parts[1]), parts

  slopes, parts = jax.grad(log_cost, has_aux=True)(
    jax.tree.map(jnp.asarray, system)
  )
  return parts, slopes


def _engine(system: System) -> str:
  """What compares codes: vector units, or whatever there is."""
  vector = [n for n in system.engine_names if n.startswith('vector:')]
  return (vector or list(system.engine_names))[0]
