"""Rates from the planner: what each part does for each workload and placement.

Every (workload, part, variant) becomes one call of `planning.make_plan` for a
replica, and its tokens/s, board power and bytes in each memory become a rate of
one accelerator. A JSON file keeps what is done, so that an interrupted run goes
on where it stopped; the file is what `rates_file` of a fleet names. A plan is
made again where anything that it rests on has changed.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from diffmem import checkpoint, errors, planning
from diffmem.codesign.fleet.schema import Fleet, Rate, Variant, Workload
from diffmem.system import FittedSystem

Progress = Callable[[str, int, int], None]
# A memory that may hold nothing: the planner wants limits above zero.
_NOTHING = '1 B'


class Pair(NamedTuple):
  """One plan to be made.

  Attributes:
    workload: what runs.
    part: name of the part.
    variant: name of the placement.
    placement: the placement.
  """

  workload: Workload
  part: str
  variant: str
  placement: Variant


def pairs_of(fleet: Fleet) -> Iterator[Pair]:
  """The plans that a fleet's rates need, in the order of its workloads."""
  for workload in fleet.workloads:
    if workload.model is None:
      continue
    for part, spec in fleet.parts.items():
      if spec.system is None:
        continue
      for name in workload.variants:
        yield Pair(workload, part, name, fleet.variants[name])


def plan_rates(
  fleet: Fleet,
  cache: str | os.PathLike,
  systems: Mapping[str, FittedSystem] | None = None,
  on_progress: Progress | None = None,
) -> tuple[tuple[Rate, ...], Mapping[str, str]]:
  """Plans each pair that the cache lacks.

  Args:
    fleet: parts with `system`, workloads with `model` and `variants`.
    cache: JSON file, read where it exists and written after every plan.
    systems: part -> system; None to load those that the parts name.
    on_progress: called with a stage's name, how much is done and in all.

  Returns:
    the rates, and for pairs without a plan 'workload/part/variant' -> why.

  Raises:
    SpecError: an unknown model or a damaged cache.
    PlanError: a workload's figures that do not fit.
  """
  path = pathlib.Path(cache)
  pairs = list(pairs_of(fleet))
  if not pairs:
    raise errors.SpecError(
      'nothing to plan: no workload with model and variants, or no part with '
      'system'
    )
  if systems is None:
    systems = {
      name: checkpoint.load_system(fleet.parts[name].system)
      for name in dict.fromkeys(p.part for p in pairs)
    }
  prints = {name: _fingerprint(system) for name, system in systems.items()}
  known = _read(path)
  found = {}
  for i, pair in enumerate(pairs):
    key = '/'.join((pair.workload.name, pair.part, pair.variant))
    asked = {**_asked(pair), 'system': prints[pair.part]}
    done = known.get(key)
    if done is None or done['asked'] != asked:
      done = {'asked': asked, **_planned(pair, systems[pair.part], fleet)}
    found[key] = done
    _write(path, {**known, **found})
    if on_progress:
      on_progress('plans', i + 1, len(pairs))
  _write(path, found)
  rates = tuple(
    Rate.model_validate(d['rate']) for d in found.values() if d['rate']
  )
  refused = {k: d['why'] for k, d in found.items() if not d['rate']}
  return rates, refused


def _asked(pair: Pair) -> dict[str, Any]:
  """The arguments of `make_plan`, for the record."""
  workload, placement = pair.workload, pair.placement
  decode = workload.phase == 'decode'
  batch = _of_part(workload.batch, pair.part) * placement.batch_scale
  sizes = (
    {'batch': max(round(batch), 1), 'context': workload.context}
    if decode
    else {
      'seq_len': workload.seq_len,
      'global_batch_tokens': workload.global_batch_tokens,
    }
  )
  return {
    'model': workload.model,
    'phase': workload.phase,
    'chips': _of_part(workload.chips, pair.part),
    'dtype': workload.dtype,
    **sizes,
    'memories': list(placement.memories),
    'homes': {g: list(m) for g, m in placement.homes.items()},
  }


def _planned(pair: Pair, fitted: FittedSystem, fleet: Fleet) -> dict[str, Any]:
  """One plan: its rate, or why there is none."""
  asked = _asked(pair)
  model = asked.pop('model')
  constraints = _constraints(asked.pop('memories'), asked.pop('homes'), fitted)
  result = planning.make_plan(
    fitted, model, objective='tokens_per_s', top=1, details=False,
    constraints=constraints, **asked,
  )  # fmt: skip
  if not result.plans:
    return {'rate': None, 'why': result.help}
  plan, chips = result.plans[0], asked['chips']
  mesh = ' '.join(f'{a}={n}' for a, n in plan.mesh.items() if n > 1)
  gap = result.search.certified_gap
  sizes = {
    memory: round(size_B / 1e9, 6)
    for memory, size_B in plan.predicted['memory_bytes'].items()
    if memory in fleet.memories and size_B >= 1e6
  }
  rate = {
    'workload': pair.workload.name,
    'part': pair.part,
    'variant': pair.variant,
    'tokens_per_s': plan.predicted['tokens_per_s'] / chips,
    'power_W': plan.predicted['device_power_W'],
    'memory_GB': sizes,
    'source': (
      f'plan for {chips} x {fitted.system.name}: {mesh or "one device"}, '
      f'certified gap {gap:.1g}'
    ),
  }
  return {'rate': rate, 'why': ''}


def _constraints(memories, homes, fitted: FittedSystem):
  held = [t.name for t in fitted.system.tiers if not (t.is_cache or t.link)]
  left_out = [m for m in held if memories and m not in memories]
  return planning.Constraints.parse(
    memory=[f'{m}={_NOTHING}' for m in left_out],
    homes=[f'{group}={"|".join(m)}' for group, m in homes.items()],
  )


def _of_part(value: int | Mapping[str, int], part: str) -> int:
  if isinstance(value, int):
    return value
  if part not in value:
    raise errors.SpecError(
      f'chips or batch: nothing for {part} (there is {", ".join(value)})'
    )
  return value[part]


def _fingerprint(fitted: FittedSystem) -> str:
  """Of all parameters, so that another fit is another plan."""
  values = {n: f'{float(v):.9g}' for n, v in fitted.system.values().items()}
  return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _read(path: pathlib.Path) -> dict[str, Any]:
  if not path.exists():
    return {}
  try:
    return dict(json.loads(path.read_text(encoding='utf-8'))['plans'])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.SpecError(
      f'{path}: not a file of planned rates ({error}); take another name'
    ) from None


def _write(path: pathlib.Path, plans: Mapping[str, Any]) -> None:
  """Whole or not at all."""
  document = {
    'rates': [d['rate'] for d in plans.values() if d['rate']],
    'plans': dict(plans),
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(path.name + '.part')
  beside.write_text(json.dumps(document, indent=1) + '\n', encoding='utf-8')
  os.replace(beside, path)
