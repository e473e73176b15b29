"""A part that nobody measured, from a fitted relative and both data sheets.

What a data sheet states is carried over by its ratio: a relative that reaches
92 % of its published bandwidth lets us expect 92 % of the new part's. The
data sheet states

- bandwidth and size of memories and links, and the size of caches,
- the peak rate of matrix and vector engines,
- the power cap, and the number of compute units.

Bytes in flight and the bandwidth of on-chip tiers grow with the compute
units. Everything else, latencies, start times, overlap, energy per byte and
the residuals, is the relative's own. Tiers that the relative lacks come from
the new part's own entry.

`part_swap` is the same as one step of a what-if, and `with_figures` writes the
data sheet of a part that the catalog lacks.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from diffmem import errors
from diffmem.system import (
  FittedSystem,
  Knowledge,
  Residual,
  Status,
  System,
  from_leaves,
  leaves_by_name,
)
from diffmem.system.system import index_of

# How far a sister of the same generation may fall from the ratio of the data
# sheets, in the logarithm: times of memory-bound kernels of H100 carried over
# to H200 are 5-9 % off in the mean, 10-16 % in the ninth decile, and 91-98 % of
# the speed-ups lie within (benchmarks/h200_from_h100.py). Another generation,
# told by its peak rate, has kernels of its own: from H100 to B200 (2.3 times
# the peak) they are 12-37 % off.
WIDENING = 0.1
_WIDENING_PER_PEAK = 0.25
_MEMORY = ('read_Bps', 'write_Bps', 'mixed_Bps', 'capacity_B')
_PER_UNIT = ('read_in_flight_B', 'write_in_flight_B')
_CACHE_PER_UNIT = ('read_Bps', 'write_Bps', 'mixed_Bps', *_PER_UNIT)
_ASSUMED = 'assumption:'


@dataclasses.dataclass(frozen=True)
class Change:
  """One parameter that the data sheets change.

  Attributes:
    name: full name.
    relative: value of the fitted relative, SI.
    value: value of the new part, SI.
    why: the figures behind it.
  """

  name: str
  relative: float
  value: float
  why: str


@dataclasses.dataclass(frozen=True)
class Transfer:
  """The new part, and what was changed to get there.

  Attributes:
    fitted: the new part; nothing in it counts as measured.
    changes: what the data sheets changed, largest first.
  """

  fitted: FittedSystem
  changes: tuple[Change, ...]


def transfer(
  relative: FittedSystem,
  relative_spec: FittedSystem,
  spec: FittedSystem,
  widening: float | None = None,
) -> Transfer:
  """Builds a system for a part that was never measured.

  Args:
    relative: fitted to measurements of a part of the same family.
    relative_spec: that part as published (`load_catalog`).
    spec: the new part as published.
    widening: standard deviation that the step to another part adds to every
      parameter, in the logarithm; by default `WIDENING`, and more where the
      peak rates differ.

  Returns:
    The new part. Its intervals are wider than the relative's: parameters by
    `widening`, observations and residuals likewise.
  """
  if widening is None:
    widening = _widening(relative_spec, spec)
  factors = _factors(relative.system, relative_spec, spec)
  system = _structure(relative.system, spec.system)
  leaves = dict(leaves_by_name(spec.system))
  own = leaves_by_name(relative.system)
  known, changes = dict(spec.knowledge), []
  for name, leaf in own.items():
    factor, why = factors.get(name, (1.0, ''))
    leaves[name] = leaf + np.log(factor)
    known[name] = _knowledge(relative, name, factor, why, widening)
    if abs(np.log(factor)) > 1e-9:
      value = float(np.exp(leaf))
      changes.append(Change(name, value, value * factor, why))
  names = list(system.infos())
  system = from_leaves(system, {n: leaves[n] for n in names})
  changes.sort(key=lambda c: -abs(np.log(c.value / c.relative)))
  return Transfer(
    FittedSystem(
      system=system,
      knowledge={n: known[n] for n in names},
      ensemble=_ensemble(relative, system, known, widening),
      scatter={
        k: float(np.hypot(v, widening)) for k, v in relative.scatter.items()
      },
      residuals={
        k: _widened(r, widening) for k, r in relative.residuals.items()
      },
    ),
    tuple(changes),
  )


def part_swap(
  fitted: FittedSystem,
  old: FittedSystem,
  new: FittedSystem,
  widening: float | None = None,
) -> FittedSystem:
  """A fitted system with one part changed for another: `transfer`, alone.

  What both specs state moves by its ratio; latencies, energies, start times
  and residuals stay the fitted system's. Specs that are alike change nothing.

  Args:
    fitted: fitted to measurements of the old part.
    old: the old part as published (`load_catalog`).
    new: the new part as published, or `with_figures` of the old one.
    widening: as in `transfer`.

  Examples:
    >>> from diffmem import checkpoint
    >>> h100 = checkpoint.load_system('h100-sxm')
    >>> sheet = with_figures(h100, {'HBM.read_Bps': 4.8e12}, 'its data sheet')
    >>> f'{part_swap(h100, h100, sheet).system.tier("HBM").read_Bps:.3g}'
    '4.8e+12'
  """
  return transfer(fitted, old, new, widening).fitted


def with_figures(
  spec: FittedSystem, values: Mapping[str, float], source: str
) -> FittedSystem:
  """A part as published, with some figures replaced.

  A memory's `write_Bps` and `mixed_Bps`, unless they are given, follow its
  `read_Bps`, as they do in the catalog.

  Args:
    spec: the part as published.
    values: figures by full name, SI units.
    source: where they come from.

  Raises:
    SpecError: a name that the part lacks, or a figure that is not above 0.
  """
  figures, now = dict(values), spec.system.values()
  for name, value in values.items():
    index_of(tuple(now), name, 'parameter', spec.system.name)
    if not 0.0 < value < np.inf:
      raise errors.SpecError(
        f'{name} = {value!r}: expected a finite figure above 0, in SI units'
      )
  for tier in spec.system.tiers:
    read = f'{tier.name}.read_Bps'
    for name in (f'{tier.name}.write_Bps', f'{tier.name}.mixed_Bps'):
      if read in values and name not in values:
        figures[name] = float(now[name] * values[read] / now[read])
  known = dict(spec.knowledge)
  for name, value in figures.items():
    known[name] = dataclasses.replace(known[name], prior=value, source=source)
  return dataclasses.replace(
    spec, system=spec.system.with_values(figures), knowledge=known
  )


def _widening(old: FittedSystem, new: FittedSystem) -> float:
  """What the step from one part to another costs in certainty."""
  steps = [
    abs(np.log(new.knowledge[name].prior / known.prior))
    for name, known in old.knowledge.items()
    if name.endswith('.rate_FLOPps') and name in new.knowledge
  ]
  return WIDENING + _WIDENING_PER_PEAK * max(steps, default=0.0)


def _structure(relative: System, spec: System) -> System:
  """The new part's name and units; tiers and engines of both."""
  tiers = {t.name: t for t in relative.tiers}
  engines = {e.name: e for e in relative.engines}
  for tier in spec.tiers:
    tiers.setdefault(tier.name, tier)
    if tier.span:
      tiers[tier.name] = dataclasses.replace(tiers[tier.name], span=tier.span)
  for engine in spec.engines:
    engines.setdefault(engine.name, engine)
  return dataclasses.replace(
    relative,
    name=spec.name,
    compute_units=spec.compute_units,
    tiers=tuple(tiers.values()),
    engines=tuple(engines.values()),
  )


def _factors(
  relative: System, old: FittedSystem, new: FittedSystem
) -> dict[str, tuple[float, str]]:
  """By what the data sheets change each parameter of the relative, and why."""
  units = new.system.compute_units / old.system.compute_units
  per_unit = (
    units,
    f'{new.system.compute_units} units, not {old.system.compute_units}',
  )
  found = {}
  for tier in relative.tiers:
    stated = ('capacity_B',) if tier.is_cache else _MEMORY
    for parameter in stated:
      found |= _stated(f'{tier.name}.{parameter}', old, new)
    if not tier.link:
      for parameter in _CACHE_PER_UNIT if tier.is_cache else _PER_UNIT:
        found[f'{tier.name}.{parameter}'] = per_unit
  for engine in relative.engines:
    found |= _rate(engine.name, old, new)
  return found | _stated('system.power_cap_W', old, new)


def _stated(name, old, new) -> dict[str, tuple[float, str]]:
  """The ratio of two published figures; nothing where one is missing."""
  before, after = old.knowledge.get(name), new.knowledge.get(name)
  if before is None or after is None:
    return {}
  derived = name.endswith(('write_Bps', 'mixed_Bps'))
  assumed = before.source.startswith(_ASSUMED) or after.source.startswith(
    _ASSUMED
  )
  if assumed and not derived:
    return {}
  return {name: (after.prior / before.prior, after.source)}


def _rate(engine: str, old, new) -> dict[str, tuple[float, str]]:
  """An engine's rate by its own figures, or by those of its number format."""
  unit, _, form = engine.partition(':')
  lenders = [engine, f'matrix:{form}', 'matrix:float8', 'matrix:bfloat16']
  if form == 'nvfp4':
    lenders.insert(2, 'matrix:float4')
  if unit != 'vector' and form in ('bfloat16', 'float16', 'int8_wo', 'int4_wo'):
    lenders = [engine, 'matrix:bfloat16']
  for lender in lenders:
    ratio = _stated(f'{lender}.rate_FLOPps', old, new)
    if ratio:
      return {f'{engine}.rate_FLOPps': next(iter(ratio.values()))}
  return {}


def _knowledge(relative, name, factor, why, widening) -> Knowledge:
  """A prior for the new part: nothing of it has been measured."""
  known = relative.knowledge[name]
  sd = float(np.hypot(known.stderr, widening))
  source = f'transferred from {relative.system.name}, {known.status}'
  if why:
    source += f'; times {factor:.3g}: {why}'
  return Knowledge(
    status=Status.UNUSED if known.status is Status.UNUSED else Status.PRIOR,
    prior=float(relative.system.values()[name]) * factor,
    prior_sd=sd,
    stderr=sd,
    source=source,
    measure=known.measure,
  )


def _ensemble(relative, system, known, widening) -> System | None:
  if relative.ensemble is None:
    return None
  rng = np.random.default_rng(relative.draws)
  best, draws = leaves_by_name(system), {}
  own = leaves_by_name(relative.system)
  drawn = leaves_by_name(relative.ensemble)
  for name, leaf in best.items():
    noise = rng.standard_normal(relative.draws)
    if name in drawn:
      draws[name] = leaf + drawn[name] - own[name] + widening * noise
    else:
      draws[name] = leaf + known[name].prior_sd * noise
  return from_leaves(system, draws)


def _widened(residual: Residual, widening: float) -> Residual:
  """The same corrections, trusted less."""
  return dataclasses.replace(residual, floor=widening)
