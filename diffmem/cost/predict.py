"""`predict`: the one function that is fitted, planned with and designed with.

The steps follow the bytes: home tier -> link on the way -> cache that serves
-> time waiting and time transferring -> overlap -> energy -> power cap.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffmem.cost import capacity, energy, overlap, residency, service
from diffmem.cost.demand import Cost, Demand
from diffmem.system import Duplex, System, fresh, parameters


def predict(system: System, demand: Demand) -> Cost:
  """Time and energy of every operation of a demand.

  Differentiable in both arguments, vmappable, jittable, float32 or float64.

  Args:
    system: the machine.
    demand: what is asked of it; its `tier` and `engine` axes follow
      `system.tier_names` and `system.engine_names`.

  Returns:
    The cost, per operation and per tier.

  Examples:
    >>> from diffmem.system import System, Tier
    >>> hbm = Tier.of('HBM', read_Bps=2e12, latency_s=500e-9)
    >>> s = System.of('one', [hbm])
    >>> d = Demand.of(s, read_B={'HBM': 4e12}, in_flight_B={'HBM': 1e9})
    >>> round(float(predict(s, d).time_s), 3)
    2.0
  """
  tiers = _stack(system.tiers, demand)
  homes = np.array(_homes(system))
  # As if every tier served all the bytes of its home: times are homogeneous
  # in bytes, so that a tier's real time is its share of that.
  read_B = (demand.read_B @ _routes(system))[..., homes]
  write_B = (demand.write_B @ _routes(system))[..., homes]
  access_s = _access_latency_s(system, tiers, demand)
  idle_wait_s = _rounds(system, tiers, demand, read_B, write_B) * access_s
  transfer_s = _transfer_s(system, tiers, demand, read_B, write_B)
  growth = _growth(system, tiers, idle_wait_s, transfer_s)
  wait_s = idle_wait_s
  if growth:
    grown_B = (read_B * growth['read'], write_B * growth['write'])
    wait_s = _rounds(system, tiers, demand, *grown_B) * access_s
  knee_p = service.knee_p(
    read_B, write_B, tiers['queue_p'], tiers['bend_queue']
  )
  whole_s = service.service_time_s(wait_s, transfer_s, knee_p)

  share = _serving_share(system, tiers, demand, read_B + write_B, whole_s)
  tier_time_s = share * whole_s
  served_B = share * (read_B + write_B)

  engines = _stack(system.engines, demand)
  if system.engines:
    fill_flops = engines['fill_rows'] * demand.row_flops
    engine_time_s = (demand.flops + fill_flops) / engines['rate_FLOPps']
    engine_J = demand.flops * engines['energy_J_per_FLOP']
    start_s = (demand.starts * engines['start_s']).sum(-1)
  else:
    start_s = 0.0
    engine_time_s = engine_J = jnp.zeros_like(demand.flops)
  busy_s = _overlapped_s(system, tier_time_s, engine_time_s)
  free_time_s = busy_s + start_s + demand.launches * system.launch_s

  device_J = served_B * tiers['device_J_per_B']
  path_J = served_B * tiers['path_J_per_B']
  dynamic_J = device_J.sum(-1) + path_J.sum(-1) + engine_J.sum(-1)
  time_s, saved_J = energy.throttled(
    free_time_s, dynamic_J, system.static_W, system.power_cap_W,
    system.throttle_share,
  )  # fmt: skip
  asked_B = demand.read_B.sum(-1) + demand.write_B.sum(-1)
  tier_latency_s = _loaded_latency_s(idle_wait_s, whole_s, access_s)
  return Cost(
    time_s=time_s,
    free_time_s=free_time_s,
    tier_time_s=tier_time_s,
    engine_time_s=engine_time_s,
    served_B=served_B,
    tier_latency_s=tier_latency_s,
    latency_s=_mean(tier_latency_s, served_B),
    bandwidth_Bps=asked_B / jnp.where(time_s > 0, time_s, 1.0),
    device_J=device_J,
    path_J=path_J,
    engine_J=engine_J,
    static_J=system.static_W * time_s,
    saved_J=saved_J,
  )


def _stack(parts: tuple, demand: Demand) -> dict[str, Array]:
  """Physical parameters of tiers or engines along the last axis."""
  if not parts:
    return {}
  infos = parameters.parameter_infos(type(parts[0]))
  return {
    name: _last_axis([getattr(p, name) for p in parts], demand)
    for name in infos
  }


def _last_axis(values: Sequence, demand: Demand) -> Array:
  """[part] as [1 ... part], of the rank that tables of the demand have."""
  leading = (1,) * demand.working_set_B.ndim
  return jnp.stack([jnp.asarray(v) for v in values]).reshape(*leading, -1)


def _routes(system: System) -> np.ndarray:
  """[tier, tier]: bytes at a tier also cross the link that it is `via`."""
  routes = np.eye(len(system.tiers))
  for i, tier in enumerate(system.tiers):
    if tier.via:
      routes[i, system.tier_names.index(tier.via)] = 1.0
  return routes


def _scale(system, demand):
  """[op tier]: by how much private tiers multiply."""
  private = _last_axis([t.private for t in system.tiers], demand)
  return jnp.where(private, demand.participants[..., None], 1.0)


def _serving_share(system, tiers, demand, bytes_B, whole_s):
  """[op tier]: share of its home's bytes that each tier serves."""
  seconds_per_B = whole_s / jnp.where(bytes_B > 0, bytes_B, 1.0)
  hits = residency.hit_fraction(
    residency.crowded_set_B(
      demand.working_set_B[..., None], tiers['churn_Bps'], seconds_per_B
    ),
    tiers['capacity_B'] * _scale(system, demand),
    tiers['cliff_k'],
  )
  names = system.tier_names
  missed = dict.fromkeys(names, jnp.ones_like(demand.working_set_B))
  shares = {}
  for i, tier in enumerate(system.tiers):
    if tier.is_cache:
      shares[tier.name] = missed[tier.home] * hits[..., i]
      missed[tier.home] = missed[tier.home] * (1.0 - hits[..., i])
  return jnp.stack([shares.get(n, missed[n]) for n in names], -1)


def _homes(system: System) -> list[int]:
  """For each tier the index of the tier where its bytes live."""
  names = system.tier_names
  return [names.index(t.home or t.name) for t in system.tiers]


def _access_latency_s(system, tiers, demand):
  """Unloaded latency of one access, its share of translations included."""
  granule_B = demand.granule_B[..., np.array(_homes(system))]
  of_one_B = (demand.working_set_B / demand.participants)[..., None]
  extra_s = (
    residency.translation_misses(of_one_B, system.tlb_reach_B, granule_B)
    * system.tlb_miss_s
    + residency.translation_misses(of_one_B, system.page_reach_B, granule_B)
    * system.page_walk_s
  )
  links = _last_axis([t.link for t in system.tiers], demand)
  return tiers['latency_s'] + jnp.where(links, 0.0, extra_s)


def _rounds(system, tiers, demand, read_B, write_B):
  """How many latencies the accesses wait.

  Dependent messages, or Little's law with the bytes in flight that are given,
  or with what the participants keep in flight: reads wait in line-fill
  buffers, writes in store buffers, and the two overlap in part.
  """
  homes = np.array(_homes(system))
  participants = demand.participants[..., None]
  own = overlap.pair_norm(
    read_B / (participants * tiers['read_in_flight_B']),
    write_B / (participants * tiers['write_in_flight_B']),
    tiers['wait_p'],
  )
  private = _last_axis([t.private for t in system.tiers], demand)
  own = jnp.where(private, 0.0, own)
  given_B = demand.in_flight_B[..., homes]
  is_given = given_B > 0
  rounds = jnp.where(
    is_given, (read_B + write_B) / jnp.where(is_given, given_B, 1.0), own
  )
  messages = demand.messages[..., homes]
  return jnp.where(messages > 0, messages, rounds)


def _growth(system, tiers, idle_wait_s, transfer_s) -> dict[str, Array]:
  """By which factor contention lengthens the waits of each direction."""
  if not any(t.contended for t in system.tiers):
    return {}
  contended = np.array([t.contended for t in system.tiers])
  share = jnp.where(
    contended,
    service.contention(idle_wait_s, transfer_s, tiers['bend_contention']),
    0.0,
  )
  return {
    way: service.latency_growth(tiers[f'{way}_contention'], share)
    for way in ('read', 'write')
  }


def _transfer_s(system, tiers, demand, read_B, write_B):
  """Time that the bytes need on the wires, by each tier's capacity law."""
  laws = {
    Duplex.HALF: (capacity.half_duplex_s, 'bend_read', 'bend_write'),
    Duplex.TURNAROUND: (capacity.turnaround_s, 'write_Bps', 'mixed_Bps'),
    Duplex.FULL: (capacity.full_duplex_s, 'write_Bps', 'mixed_Bps'),
  }
  columns = [None] * len(system.tiers)
  for duplex, (law, *others) in laws.items():
    index = [i for i, t in enumerate(system.tiers) if t.duplex is duplex]
    if not index:
      continue
    at = np.array(index)
    params = [tiers[name][..., at] for name in ('read_Bps', *others)]
    times_s = law(read_B[..., at], write_B[..., at], *params)
    for j, i in enumerate(index):
      columns[i] = times_s[..., j]
  homes = np.array(_homes(system))
  overhead = 1.0 + tiers['granule_B'] / demand.granule_B[..., homes]
  # Cores that work together run slower than one alone (power, clock).
  speedup = _scale(system, demand) ** (1.0 - system.private_loss)
  return jnp.stack(columns, -1) * overhead / speedup


# A memory and the link to it are a pipeline: the slower stage decides, with
# 4 % more where both are equally slow.
_PIPELINE_P = 16.0


def _overlapped_s(system, tier_time_s, engine_time_s):
  """Joins the times of tiers and engines.

  Caches of one home take turns, and so do engines. Memories at hand overlap
  with engines (`overlap_p`); links, each a pipeline with the memories behind
  it, overlap with all of that (`link_overlap_p`).
  """
  homes, tiers = _homes(system), range(len(system.tiers))

  def chain_s(home):
    return sum(tier_time_s[..., i] for i in tiers if homes[i] == home)

  local = [engine_time_s.sum(-1)]
  behind = {t.name: [] for t in system.tiers if t.link}
  for i, tier in enumerate(system.tiers):
    if tier.link:
      behind[tier.name].append(tier_time_s[..., i])
    elif tier.via:
      behind[tier.via].append(chain_s(i))
    elif not tier.is_cache:
      local.append(chain_s(i))
  parts = [
    overlap.p_norm(jnp.stack(local, -1), overlap.at_least_one(system.overlap_p))
  ]
  for stages in behind.values():
    parts.append(
      overlap.p_norm(jnp.stack(stages, -1), _PIPELINE_P)
      if len(stages) > 1
      else stages[0]
    )
  if len(parts) == 1:
    return parts[0]
  return overlap.p_norm(
    jnp.stack(parts, -1), overlap.at_least_one(system.link_overlap_p)
  )


def _loaded_latency_s(wait_s, whole_s, access_s):
  """L = L0 T / T_wait: the access stretched by the queue (Little's law)."""
  busy = wait_s > 0
  stretch = whole_s / jnp.where(busy, wait_s, 1.0)
  return jnp.where(busy, access_s * stretch, access_s)


def _mean(values, weights):
  total = weights.sum(-1)
  return (values * weights).sum(-1) / jnp.where(total > 0, total, 1.0)


_compiled = jax.jit(predict)


def predict_jit(system: System, demand: Demand) -> Cost:
  """As `predict`, compiled: once for a structure and a shape of the demand."""
  return _compiled(fresh(system), fresh(demand))
