"""Memories of a plan as memory kinds of JAX, and layers between them.

JAX knows the device's own memory ('device') and that of its host, page-locked
('pinned_host') or not ('unpinned_host'). A plan's first memory is the one that
the engines compute from; DRAM and CXL are memory of the host. A drive has no
kind: a program must read it by itself.
"""

import re
from collections.abc import Mapping

from diffmem import errors
from diffmem.workloads.caches import PAGE_TOKENS

NEAR, HOST = 'device', 'pinned_host'
KINDS = (NEAR, HOST, 'unpinned_host')  # the nearest first
_HOST = re.compile(r'(DRAM|CXL|DDR|LPDDR|HOST|CPU)', re.IGNORECASE)


def kinds_of(
  placement: Mapping[str, Mapping[str, float]],
  given: Mapping[str, str] | None = None,
) -> dict[str, str]:
  """Memory -> kind, of every memory that holds something.

  Args:
    placement: group -> memory -> share, the nearest memory first.
    given: memory -> kind, of the caller; goes before the rules here.

  Raises:
    PlanError: a memory that holds something has no kind, or `given` names a
      memory that the plan does not have.
  """
  given = dict(given or {})
  memories = list(next(iter(placement.values())))
  for name in given:
    if name not in memories:
      raise errors.PlanError(
        f'memory_kinds: the plan has no memory {name!r}; it has '
        f'{", ".join(memories)}'
      )
    if given[name] not in KINDS:
      raise errors.PlanError(
        f'memory_kinds: {given[name]!r} of {name} is not one of '
        f'{", ".join(KINDS)}'
      )
  kinds = {}
  for i, name in enumerate(memories):
    held = [g for g, row in placement.items() if row.get(name, 0.0) > 0]
    if name in given:
      kinds[name] = given[name]
    elif i == 0:
      kinds[name] = NEAR
    elif is_host(name):
      kinds[name] = HOST
    elif held:
      raise errors.PlanError(
        f'{", ".join(held)} of this plan live in {name}, for which JAX has no '
        f'memory kind; plan without {name}, or keep it in the program and name '
        f"the memory that it is staged in, memory_kinds={{{name!r}: '{HOST}'}}"
      )
  return kinds


def is_host(memory: str) -> bool:
  """Whether a memory, not the nearest, is the host's own."""
  return bool(_HOST.match(memory))


def shares_of(
  placement: Mapping[str, Mapping[str, float]],
  kinds: Mapping[str, str],
  group: str | None,
) -> dict[str, float]:
  """Kind -> share of a group, the nearest first.

  Raises:
    PlanError: the plan has no such group.
  """
  if group is None:
    return {NEAR: 1.0}
  if group not in placement:
    raise errors.PlanError(
      f'the plan has no group {group!r}: it was made for another model; it has '
      f'{", ".join(placement)}'
    )
  shares: dict[str, float] = {NEAR: 0.0}
  for memory, share in placement[group].items():
    if share > 0:
      kind = kinds[memory]
      shares[kind] = shares.get(kind, 0.0) + share
  return {k: shares[k] for k in KINDS if shares.get(k, 0.0) > 0}


def layers_of(shares: Mapping[str, float], layers: int) -> dict[str, int]:
  """Kind -> whole layers, the nearest first and rounded down.

  No kind but the last, which is the farthest, has more than its share.
  """
  counts, left = {}, layers
  for kind, share in list(shares.items())[:-1]:
    counts[kind] = min(int(share * layers + 1e-6), left)
    left -= counts[kind]
  counts[list(shares)[-1]] = left
  return {kind: count for kind, count in counts.items() if count}


def tokens_of(shares: Mapping[str, float], tokens: int) -> dict[str, int]:
  """Kind -> tokens in whole pages, the oldest and farthest first.

  Args:
    shares: kind -> share, the nearest first.
    tokens: of a sequence, in the cache of one device.
  """
  pages = layers_of(shares, tokens // PAGE_TOKENS)
  lengths = {kind: PAGE_TOKENS * pages[kind] for kind in reversed(pages)}
  newest = next(iter(pages), next(iter(shares)))
  lengths[newest] = lengths.get(newest, 0) + tokens % PAGE_TOKENS
  return lengths
