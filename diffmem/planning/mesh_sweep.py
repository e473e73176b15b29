"""Millions of meshes a second: a step with everything in the near memory.

The same laws as `diffmem.cost.predict`, for the one case that a sweep over
meshes needs: every tensor in the near memory, no cache that could serve it,
links that carry messages. Operations and tiers are unrolled, so that plans are
the innermost axis and one compiled loop goes over them; what `predict` would
find zero is not computed. `tests/planning/mesh_sweep_test.py` holds the two to
the same answer.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffmem.cost import (
  STREAM_B,
  UNCACHED_B,
  capacity,
  energy,
  overlap,
  residency,
  service,
)
from diffmem.planning import greedy
from diffmem.system import Duplex, System, Tier
from diffmem.workloads import (
  Choices,
  Lowered,
  Machine,
  Training,
  Transformer,
  lower_train,
)

Plans = Float[Array, ' plan']


class Meshes(NamedTuple):
  """What the sweep says of each plan.

  Attributes:
    step_time_s: with everything in the near memory, whether it fits or not.
    needed_B: bytes of the near memory of one device that it would need [B].
    fits: whether there is room for them.
  """

  step_time_s: Plans
  needed_B: Plans
  fits: Plans


def mesh_sweep(
  system: System,
  model: Transformer,
  training: Training,
  machine: Machine,
  choices: Choices,
) -> Meshes:
  """Step time and memory of many plans of a training step.

  Args:
    system: the machine; float32 leaves make it fastest.
    model: the transformer.
    training: sequence length and batch.
    machine: from `machine_of`.
    choices: the plans [plan].
  """
  near = machine._replace(memories=machine.memories[:1], vias=('',))
  lowered = lower_train(model, training, choices, near)
  needed_B = lowered.size_B.sum(-1) + lowered.fixed_B
  return Meshes(
    step_time_s=near_step_time_s(system, lowered),
    needed_B=needed_B,
    fits=needed_B <= greedy.capacities_B(system, near)[0],
  )


jitted = jax.jit(mesh_sweep, static_argnums=(1, 2, 3))


def near_step_time_s(system: System, lowered: Lowered) -> Plans:
  """Step time of lowered plans with everything in the near memory.

  Raises:
    ValueError: a near memory with contention, which this path leaves out.
  """
  total_s = 0.0
  for op in range(len(lowered.operations)):
    weight = lowered.time_weight[..., op] + lowered.bubble_weight[..., op]
    total_s = total_s + weight * _time_s(system, lowered, op)
  return total_s


def _time_s(system: System, lowered: Lowered, op: int) -> Plans:
  """Time of one operation."""
  near = system.tier(lowered.machine.near)
  if near.contended:
    raise ValueError(f'{near.name} has contention: use predict')
  engine = system.engine(lowered.machine.engine)
  flops = lowered.flops[..., op]
  padded = flops + engine.fill_rows * lowered.row_flops[..., op]
  engine_s = padded / engine.rate_FLOPps
  dynamic_J = flops * engine.energy_J_per_FLOP
  grouped_read_B = lowered.group_read_B[..., op, :].sum(-1)
  grouped_write_B = lowered.group_write_B[..., op, :].sum(-1)
  read_B = lowered.near_read_B[..., op] + grouped_read_B
  write_B = lowered.near_write_B[..., op] + grouped_write_B
  in_flight_B = read_B + write_B + grouped_read_B + grouped_write_B
  rounds = lowered.phases[..., op].clip(1.0) * (read_B + write_B)
  rounds = rounds / jnp.where(in_flight_B > 0, in_flight_B, 1.0)
  near_s = _tier_s(
    near, read_B, write_B, rounds * _access_latency_s(system, near)
  )
  dynamic_J = dynamic_J + (read_B + write_B) * _J_per_B(near)
  p = overlap.at_least_one(system.overlap_p)
  busy_s = overlap.pair_norm(engine_s, near_s, p)
  p = overlap.at_least_one(system.link_overlap_p)
  for i, name in enumerate(lowered.machine.levels):
    link, sent_B = system.tier(name), lowered.sent_B[..., op, i]
    wait_s = lowered.messages[..., op, i] * link.latency_s
    busy_s = overlap.pair_norm(busy_s, _tier_s(link, sent_B, sent_B, wait_s), p)
    dynamic_J = dynamic_J + 2.0 * sent_B * _J_per_B(link)
  free_s = busy_s + lowered.launches[..., op] * system.launch_s
  return energy.throttled(
    free_s, dynamic_J, system.static_W, system.power_cap_W,
    system.throttle_share,
  ).time_s  # fmt: skip


def _access_latency_s(system: System, tier: Tier) -> Array:
  """Unloaded latency of one access of a stream that no cache serves."""
  uncached_B = jnp.asarray(UNCACHED_B)
  missed = residency.translation_misses
  return (
    tier.latency_s
    + missed(uncached_B, system.tlb_reach_B, STREAM_B) * system.tlb_miss_s
    + missed(uncached_B, system.page_reach_B, STREAM_B) * system.page_walk_s
  )


def _tier_s(tier: Tier, read_B: Plans, write_B: Plans, wait_s: Plans) -> Plans:
  """Time that one tier alone would need."""
  laws = {
    Duplex.HALF: (capacity.half_duplex_s, 'bend_read', 'bend_write'),
    Duplex.TURNAROUND: (capacity.turnaround_s, 'write_Bps', 'mixed_Bps'),
    Duplex.FULL: (capacity.full_duplex_s, 'write_Bps', 'mixed_Bps'),
  }
  law, *others = laws[tier.duplex]
  wire_s = law(
    read_B, write_B, tier.read_Bps, *(getattr(tier, n) for n in others)
  )
  wire_s = wire_s * (1.0 + tier.granule_B / STREAM_B)
  knee = service.knee_p(read_B, write_B, tier.queue_p, tier.bend_queue)
  return service.service_time_s(wait_s, wire_s, knee)


def _J_per_B(tier: Tier) -> Array:
  return tier.device_J_per_B + tier.path_J_per_B
