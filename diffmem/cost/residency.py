"""Residency: which tier serves a byte of a working set, and page walks.

*Caches.* Going over a working set of S bytes again and again hits a cache of
capacity C with

    h = 1 / (1 + (S / C)^k)

k -> inf is the cliff of strict LRU on a cyclic sweep (Mattson et al., IBM
Systems Journal 9(2), 1970), k near 1 the C / S of random replacement; real
caches lie between, and k is fitted. A byte is served by the first cache that
hits, so shares are products and stay positive.

*Neighbours.* In a cache that others fill at F bytes per second, a line stays
for C / (B + F) while we come back to it every S / B (the characteristic time
of Che, Tung and Wang, IEEE JSAC 20(7), 2002), so that a working set of S
behaves like one of

    S (1 + F / B)

with B our own rate when it hits. A pointer chase is slow and loses a shared
cache long before a stream does.

*Translation.* A random access to a set larger than the reach R of a
translation cache misses it with 1 - R / S (uniform accesses), smoothed:

    miss = 1 - (1 + (S / R)^s)^(-1/s)

A core has two such caches (Intel 248966-050, section 2: 64 and 1,536 entries
of 4 KiB pages); a miss of the second walks the page table. Under a hypervisor
huge pages of the guest are split to those of the host.
"""

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Float

Array = Float[ArrayLike, '...']

LINE_B = 64.0  # x86-64 and Arm cache line; GPUs: 32 B sectors, 128 B lines
PAGE_B = 4096.0  # smallest page of x86-64 and of most Arm systems
_REACH_SHARPNESS = 4.0


def hit_fraction(
  working_set_B: Array, capacity_B: Array, cliff_k: Array
) -> Array:
  """Share of the bytes that a cache of that capacity serves."""
  return jax.nn.sigmoid(
    cliff_k * (jnp.log(capacity_B) - jnp.log(working_set_B))
  )


def crowded_set_B(
  working_set_B: Array, churn_Bps: Array, seconds_per_B: Array
) -> Array:
  """Working set as a cache with neighbours feels it [B]."""
  return working_set_B * (1.0 + churn_Bps * seconds_per_B)


def translation_misses(
  working_set_B: Array, reach_B: Array, granule_B: Array
) -> Array:
  """Misses of a translation cache per cache line fetched.

  A run of g bytes touches 1 + g / 4096 pages and g / 64 lines; a pointer
  chase translates once per line, a stream once in 64 lines.

  Args:
    working_set_B: of one core [B].
    reach_B: bytes that the translation cache covers [B].
    granule_B: length of a run of consecutive addresses [B].
  """
  log_ratio = jnp.log(working_set_B) - jnp.log(reach_B)
  covered = jnp.exp(
    -jax.nn.softplus(_REACH_SHARPNESS * log_ratio) / _REACH_SHARPNESS
  )
  lines = jnp.maximum(granule_B, LINE_B) / LINE_B
  pages = 1.0 + granule_B / PAGE_B
  return (1.0 - covered) * jnp.minimum(pages / lines, 1.0)
