"""A fleet of the serving planner as arguments of an engine, pool by pool."""

from diffmem import errors
from diffmem.planning.export import engines, launch
from diffmem.planning.export.launch import Launch
from diffmem.planning.export.specs import strategies_of
from diffmem.planning.serving.result import Pool, ServingPlan
from diffmem.workloads import stage as stage_lib

ENGINES = {'vllm': engines.vllm_launch, 'sglang': engines.sglang_launch}


def fleet_launches(
  plan: ServingPlan, engine: str, context: int = 0, usable: float = 0.9
) -> dict[str, Launch]:
  """Launches of each pool.

  Args:
    plan: a fleet.
    engine: 'vllm' or 'sglang'.
    context: tokens of the longest sequence; 0 for the model's own.
    usable: share of a device's memory that the plan was made with.

  Returns:
    pool -> arguments of a worker, with as many replicas as it has workers.

  Raises:
    PlanError: an unknown engine.
  """
  if engine not in ENGINES:
    raise errors.PlanError(f'no engine {engine!r}; one of {", ".join(ENGINES)}')
  return {
    name: _launch(pool, name, engine, context, usable)
    for name, pool in plan.pools.items()
  }


def _launch(
  pool: Pool, name: str, engine: str, context: int, usable: float
) -> Launch:
  ranks = pool.mesh.get('data', 1) * pool.mesh.get('expert', 1)
  sequences = max(pool.sequences or pool.prompts, 1)
  away_B, unknown = _away_B(pool)
  server, left_out = engines.server_of(
    pool.mesh,
    strategies_of(pool.sharding),
    stage_lib.EXPERTS in pool.placement,
    away_B,
    sequences=max(sequences // ranks, 1),
    # New tokens of running sequences are among those of a step.
    step_tokens=(pool.piece_tokens * pool.prompts + pool.sequences) // ranks
    if pool.piece_tokens
    else 0,
    context=context,
    usable=usable,
    role=name if name in ('prefill', 'decode') else '',
  )
  replicas = pool.workers * pool.mesh.get('data', 1)
  return ENGINES[engine](server, replicas, left_out + unknown)


def _away_B(pool: Pool) -> tuple[dict[str, dict[str, float]], list[str]]:
  """Bytes of a device beyond the nearest memory, of caches and of weights.

  A pool knows the bytes of each memory, and the share of each group: what a
  memory holds is told apart where it holds caches or weights alone.
  """
  found: dict[str, dict[str, float]] = {'cache': {}, 'weights': {}}
  unknown = []
  for memory in list(pool.memory_bytes)[1:]:
    held = [g for g, row in pool.placement.items() if row.get(memory, 0.0) > 0]
    if not held:
      continue
    size_B = pool.memory_bytes[memory]
    if all(g in launch.WEIGHTS for g in held):
      found['weights'][memory] = size_B
    elif not any(g in launch.WEIGHTS for g in held):
      found['cache'][memory] = size_B
    else:
      unknown.append(
        f'{", ".join(held)} share {memory}: its {size_B:.3g} B are not told '
        'apart'
      )
  return found, unknown
