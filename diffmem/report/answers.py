"""From planner, checkpoint and machine to the remaining parts of a report."""

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import diffmem
from diffmem.planning import PlanResult
from diffmem.report import data
from diffmem.system import FittedSystem, Status
from diffmem.traces import Traces, collect
from diffmem.workloads import load_workload

_NOT_MEASURED = {
  Status.PRIOR: 'prior only',
  Status.UNIDENTIFIED: 'not identified by the traces',
}


def machine_part(traces: Traces, elapsed_s: float) -> data.Machine:
  """This machine and how quiet it was while it was measured."""
  machine = collect.describe()
  verdict = collect.noise_report(traces.rows())
  caches = ', '.join(f'{size / 1024:,.0f} KiB' for size in machine.cache_bytes)
  now = datetime.datetime.now(datetime.UTC)
  return data.Machine(
    name=str(traces['system'][0]),
    measured_at=now.strftime('%Y-%m-%d %H:%M UTC'),
    facts={
      'Processor': machine.processor,
      'CPUs used': str(len(machine.cpus)),
      'Caches (reported)': caches,
      'Memory': f'{machine.memory_bytes / 2**30:.3g} GiB',
    },
    observations=len(traces),
    seconds=elapsed_s,
    quiet=not verdict.too_noisy,
    noise=verdict.help,
  )


def plan_part(result: PlanResult, fitted: FittedSystem) -> data.Plan | None:
  """The planner's answer as a part of a report; None without a plan."""
  if not result.plans:
    return None
  best = result.plans[0]
  workload = load_workload(result.request['workload'])
  return data.Plan(
    document=_for_people(result.to_dict(), fitted),
    system=fitted.system.name,
    workload=workload.name,
    chips=result.request['chips'],
    objective=result.request['objective'],
    system_is_prior=not fitted.named(Status.FITTED),
    workload_is_hypothetical=workload.hypothetical,
    memory=best.predicted['group_memory_bytes'],
    capacity={
      name: float(fitted.system.tier(name).capacity_B)
      for name in best.predicted['memory_bytes']
    },
    breakdown={
      **best.breakdown.operations_s,
      **(
        {'bubble': best.breakdown.bubble_s} if best.breakdown.bubble_s else {}
      ),
    },
  )


# Unit of the objective that a byte of capacity saves (or gains).
_SAVED = {
  'step_time_s': 's', 'tokens_per_s': 'tokens/s', 'energy_per_token_J': 'J',
  'cost_per_token_usd': 'USD',
}  # fmt: skip


def _for_people(
  document: dict[str, Any], fitted: FittedSystem
) -> dict[str, Any]:
  """The document with notes, and prices for each GB instead of each byte.

  Bends have either sign and no percent: their slopes stay in the JSON.
  """
  elasticities = {}
  for name, value in (document['elasticities'] or {}).items():
    if value is None or '.bend_' in name:
      continue
    known = fitted.knowledge.get(name)
    note = _NOT_MEASURED.get(known.status, '') if known else ''
    elasticities[name] = {'value': value, 'note': note}
  unit = f'{_SAVED[document["request"]["objective"]]} per GB'
  prices = {
    name: {'value': 1e9 * value, 'unit': unit}
    for name, value in (document['shadow_prices'] or {}).items()
  }
  return document | {'elasticities': elasticities, 'shadow_prices': prices}


def provenance(
  command: str, files: Mapping[str, str], seed: int | None
) -> data.Provenance:
  """How the page came about, with the versions of what computed it."""
  packages = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
  versions = {p: importlib.metadata.version(p) for p in packages}
  now = datetime.datetime.now(datetime.UTC)
  return data.Provenance(
    versions={
      'diffmem': diffmem.__version__,
      'python': platform.python_version(),
      **versions,
    },
    files=files,
    command=command,
    seed=seed,
    created_at=now.strftime('%Y-%m-%d %H:%M UTC'),
  )
