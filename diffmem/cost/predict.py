"""`predict`: the one function that is fitted, planned with and designed with.

The steps follow the bytes: home tier -> link on the way -> cache that serves
-> time waiting and time transferring -> overlap -> energy -> power cap.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffmem.cost import capacity, energy, overlap, residency, service
from diffmem.cost.demand import Cost, Demand
from diffmem.system import Duplex, System, parameters


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
  tiers = _stack(system.tiers)
  read_B = demand.read_B @ _routes(system)
  write_B = demand.write_B @ _routes(system)
  shares, scale = _serving_shares(system, tiers, demand)
  read_B, write_B = _served(system, shares, read_B, write_B)

  access_s = _access_latency_s(system, tiers, demand)
  wait_s = _rounds(system, tiers, demand, read_B, write_B) * access_s
  transfer_s = _transfer_s(system, tiers, demand, read_B, write_B) / scale
  tier_time_s = service.service_time_s(wait_s, transfer_s, tiers['queue_p'])

  engines = _stack(system.engines)
  if system.engines:
    engine_time_s = demand.flops / engines['rate_FLOPps']
    engine_J = demand.flops * engines['energy_J_per_FLOP']
  else:
    engine_time_s = engine_J = jnp.zeros_like(demand.flops)
  busy_s = _overlapped_s(system, tier_time_s, engine_time_s)
  free_time_s = busy_s + demand.launches * system.launch_s

  served_B = read_B + write_B
  device_J = served_B * tiers['device_J_per_B']
  path_J = served_B * tiers['path_J_per_B']
  dynamic_J = device_J.sum(-1) + path_J.sum(-1) + engine_J.sum(-1)
  time_s = energy.capped_time_s(
    free_time_s, dynamic_J, system.static_W, system.power_cap_W
  )
  asked_B = demand.read_B.sum(-1) + demand.write_B.sum(-1)
  tier_latency_s = _loaded_latency_s(wait_s, tier_time_s, access_s)
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
  )


def _stack(parts: tuple) -> dict[str, Float[Array, 'part']]:
  """Physical parameters of tiers or engines along one axis."""
  if not parts:
    return {}
  infos = parameters.parameter_infos(type(parts[0]))
  return {
    name: jnp.stack([jnp.asarray(getattr(p, name)) for p in parts])
    for name in infos
  }


def _routes(system: System) -> np.ndarray:
  """[tier, tier]: bytes at a tier also cross the link that it is `via`."""
  routes = np.eye(len(system.tiers))
  for i, tier in enumerate(system.tiers):
    if tier.via:
      routes[i, system.tier_names.index(tier.via)] = 1.0
  return routes


def _serving_shares(system, tiers, demand):
  """Share of its home's bytes that each tier serves, and its multiplicity.

  Returns:
    shares [op tier] and the factor [op tier] by which private tiers multiply.
  """
  private = np.array([t.private for t in system.tiers])
  scale = jnp.where(private, demand.participants[..., None], 1.0)
  hits = residency.hit_fraction(
    demand.working_set_B[..., None],
    tiers['capacity_B'] * scale,
    tiers['cliff_k'],
  )
  names = system.tier_names
  missed = dict.fromkeys(names, jnp.ones_like(demand.working_set_B))
  shares = []
  for i, tier in enumerate(system.tiers):
    if tier.is_cache:
      shares.append(missed[tier.home] * hits[..., i])
      missed[tier.home] = missed[tier.home] * (1.0 - hits[..., i])
    else:
      shares.append(None)
  filled = [
    missed[name] if share is None else share
    for name, share in zip(names, shares, strict=True)
  ]
  return jnp.stack(filled, -1), scale


def _homes(system: System) -> list[int]:
  """For each tier the index of the tier where its bytes live."""
  names = system.tier_names
  return [names.index(t.home or t.name) for t in system.tiers]


def _served(system, shares, read_B, write_B):
  homes = np.array(_homes(system))
  return read_B[..., homes] * shares, write_B[..., homes] * shares


def _access_latency_s(system, tiers, demand):
  """Unloaded latency of one access, its share of page walks included."""
  walks = residency.walk_fraction(
    demand.working_set_B[..., None],
    system.page_reach_B,
    demand.granule_B[..., np.array(_homes(system))],
  )
  links = np.array([t.link for t in system.tiers])
  walks = jnp.where(links, 0.0, walks)
  return tiers['latency_s'] + walks * system.page_walk_s


def _rounds(system, tiers, demand, read_B, write_B):
  """How many latencies the accesses wait: Little's law, or messages."""
  homes = np.array(_homes(system))
  per_read_B = demand.participants[..., None] * tiers['read_in_flight_B']
  per_write_B = demand.participants[..., None] * tiers['write_in_flight_B']
  given_B = demand.in_flight_B[..., homes]
  is_given = given_B > 0
  rounds = jnp.where(
    is_given,
    (read_B + write_B) / jnp.where(is_given, given_B, 1.0),
    read_B / per_read_B + write_B / per_write_B,
  )
  messages = demand.messages[..., homes]
  return jnp.where(messages > 0, messages, rounds)


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
    params = [tiers[name][at] for name in ('read_Bps', *others)]
    times_s = law(read_B[..., at], write_B[..., at], *params)
    for j, i in enumerate(index):
      columns[i] = times_s[..., j]
  homes = np.array(_homes(system))
  overhead = 1.0 + tiers['granule_B'] / demand.granule_B[..., homes]
  return jnp.stack(columns, -1) * overhead


def _overlapped_s(system, tier_time_s, engine_time_s):
  """Caches of one home take turns; memories, engines and links overlap."""
  chains = np.zeros((len(system.tiers), len(system.tiers)))
  chains[np.arange(len(system.tiers)), _homes(system)] = 1.0
  links = np.array([t.link for t in system.tiers])
  homes = np.array([not t.is_cache for t in system.tiers])
  local = chains[:, homes & ~links]
  parts = jnp.concatenate([tier_time_s @ local, engine_time_s], -1)
  local_s = overlap.p_norm(parts, system.overlap_p)
  if not links.any():
    return local_s
  parts = jnp.concatenate([local_s[..., None], tier_time_s[..., links]], -1)
  return overlap.p_norm(parts, system.link_overlap_p)


def _loaded_latency_s(wait_s, tier_time_s, access_s):
  """L = L0 T / T_wait: the access stretched by the queue (Little's law)."""
  busy = wait_s > 0
  stretch = tier_time_s / jnp.where(busy, wait_s, 1.0)
  return jnp.where(busy, access_s * stretch, access_s)


def _mean(values, weights):
  total = weights.sum(-1)
  return (values * weights).sum(-1) / jnp.where(total > 0, total, 1.0)


# The compiled form; systems of one structure and demands of one shape share it.
predict_jit = jax.jit(predict)
