"""Figures of the plan: memory per tier, time by part, elasticities."""

from collections.abc import Mapping
from typing import Any

from diffmem.report import markup, scales
from diffmem.report.data import Plan
from diffmem.report.figure import (
  Axis,
  Data,
  Key,
  Row,
  RowChart,
  Size,
  Stack,
  StackChart,
  Swatch,
)
from diffmem.report.scales import Kind

_MOST_ELASTICITIES = 16
_MOST_GROUPS = 8  # as many as there are styles


def memory(plan: Plan) -> StackChart | None:
  """Memory of the best plan, each tier against its own capacity."""
  placed = {t: g for t, g in plan.memory.items() if sum(g.values()) > 0}
  if not placed:
    return None
  stacks = [
    Stack(tier, parts, plan.capacity.get(tier))
    for tier, parts in _merged(placed).items()
  ]
  rows = [(t, g, b) for t, gs in placed.items() for g, b in gs.items()]
  return StackChart(
    'plan-memory', 'Memory of the best plan, per device and tier',
    "Bytes of each tensor group in each tier; a bar's full width is the "
    'capacity of the tier.',
    'B', stacks, Data(['tier', 'group', 'bytes'], rows),
    size=Size.HALF if plan.breakdown else Size.FULL,
  )  # fmt: skip


def _merged(placed: Mapping[str, Mapping[str, float]]):
  """Tier -> parts, the smallest groups together where there are many."""
  total: dict[str, float] = {}
  for groups in placed.values():
    for group, size in groups.items():
      total[group] = total.get(group, 0.0) + size
  ordered = sorted(total, key=lambda g: -total[g])
  kept = (
    ordered if len(ordered) <= _MOST_GROUPS else ordered[: _MOST_GROUPS - 1]
  )
  result = {}
  for tier, groups in placed.items():
    parts = [(g, b) for g, b in groups.items() if g in kept]
    rest = sum(b for g, b in groups.items() if g not in kept)
    result[tier] = [*parts, ('other', rest)] if rest else parts
  return result


def breakdown(plan: Plan) -> RowChart | None:
  """Where the step's time goes."""
  parts = sorted(plan.breakdown.items(), key=lambda p: -p[1])
  best = plan.document['plans'][0].get('predicted') or {}
  step = best.get('step_time_s')
  if not parts:
    return None
  rows = [
    Row(name, seconds, note=scales.label(seconds, 's', Kind.LINEAR)
        + (f', {100 * seconds / step:.3g} %' if step else ''))
    for name, seconds in parts
  ]  # fmt: skip
  return RowChart(
    'plan-time', 'Time of the best plan, by part; parts may overlap',
    'Seconds of each part of a step and its share of the step.',
    Axis('Time', 's'), rows, Data(['part', 'seconds'], parts), size=Size.HALF,
  )  # fmt: skip


def entries(found: Any, value_key: str = 'value') -> list[dict[str, Any]]:
  """Normalises a JSON mapping of numbers or dicts; nulls are left out."""
  result = []
  for name, entry in (found or {}).items():
    if entry is None:
      continue
    entry = dict(entry) if isinstance(entry, Mapping) else {'value': entry}
    if entry.get(value_key) is not None:
      result.append({'name': name, **entry})
  return result


def elasticities(plan: Plan) -> RowChart | None:
  """What a percent of every parameter is worth, signed."""
  found = entries(plan.document.get('elasticities'))
  found = sorted(found, key=lambda e: -abs(e['value']))
  shown = [e for e in found if abs(e['value']) >= 5e-4][:_MOST_ELASTICITIES]
  if not shown:
    return None
  rows = [
    Row(e['name'], e['value'], e.get('lo90'), e.get('hi90'),
        markup.minus(f'{e["value"]:+.3f}'))
    for e in shown
  ]  # fmt: skip
  left = len(found) - len(shown)
  more = f' ({left} smaller in the CSV)' if left else ''
  keys = [
    Key('more of it makes the step faster', Swatch.BOX, 0),
    Key('more of it makes the step slower', Swatch.BOX, 1),
  ]
  return RowChart(
    'elasticities', f'Elasticity of the step time{more}',
    'Percent change of the step time for one percent more of each parameter.',
    Axis('Change of the step time in % for 1 % more'), rows,
    Data(['parameter', 'elasticity', 'lo90', 'hi90'], [
      (e['name'], e['value'], e.get('lo90'), e.get('hi90')) for e in found
    ]), keys=keys,
  )  # fmt: skip
