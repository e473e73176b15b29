"""The section of the plan: what to run where, and what limits it."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffmem.report import markup, plan_figures, scales
from diffmem.report.data import Plan
from diffmem.report.figure import (
  Data,
)
from diffmem.report.markup import Markup, join, tag
from diffmem.report.page import Banner, Section
from diffmem.report.scales import Kind
from diffmem.report.table import (
  Cell,
  Column,
  Table,
  interval,
  percent,
  quantity,
  words,
)


def plan_section(plan: Plan | None) -> Section | None:
  """Everything that the planner said; None without a plan."""
  if plan is None or not plan.document.get('plans'):
    return None
  blocks = [
    *_banners(plan),
    _plans_table(plan),
    plan_figures.memory(plan),
    plan_figures.breakdown(plan),
    plan_figures.elasticities(plan),
    _prices(plan),
    _search(plan),
  ]
  return Section(
    'plan', 'The plan', _lead(plan), [b for b in blocks if b is not None]
  )


def headline(plan: Plan) -> tuple[str, str]:
  """The best plan in a few words: its step time and its mesh."""
  best = plan.document['plans'][0]
  time = _predicted(best, 'step_time_s')
  big = '–' if time is None else f'{_si(time, "s")} per step'  # noqa: RUF001
  what = plan.workload
  if plan.chips:
    what = f'{what} on {plan.chips} {plan.system} chips'
  said = (what, mesh_text(best.get('mesh')))
  return big, ' · '.join(text for text in said if text)


def mesh_text(mesh: Any) -> str:
  """{'data': 8, 'tensor': 4} -> 'data 8 x tensor 4'; axes of 1 left out."""
  if not isinstance(mesh, Mapping):
    return '' if mesh is None else str(mesh)
  axes = [f'{k} {v}' for k, v in mesh.items() if v != 1]
  return ' × '.join(axes) or 'one device'  # noqa: RUF001


def _si(value: float, unit: str) -> str:
  return scales.label(value, unit, Kind.LINEAR)


def _predicted(plan: Mapping[str, Any], name: str) -> float | None:
  return (plan.get('predicted') or {}).get(name)


def _lead(plan: Plan) -> str:
  plans = plan.document['plans']
  what = plan.workload or 'the workload'
  where = f'{plan.chips or ""} {plan.system or "devices"}'.strip()
  goal = f', ranked by {plan.objective}' if plan.objective else ''
  lead = f'The best ways found to run {what} on {where}{goal}. '
  times = [_predicted(p, 'step_time_s') for p in plans]
  if len(times) > 1 and times[0] and times[-1]:
    ratio = 100 * (times[-1] / times[0] - 1)
    lead += f'Plan {len(times)} takes {ratio:.2g} % longer than the first. '
  return lead


def _banners(plan: Plan) -> list[Banner]:
  found = []
  if plan.system_is_prior:
    found.append(Banner(
      'Catalog prior.',
      f'{plan.system or "The system"} stands here with published '
      'specifications, not with measurements: read the predicted times as a '
      'datasheet estimate.',
    ))  # fmt: skip
  if plan.workload_is_hypothetical:
    found.append(Banner(
      'Hypothetical workload.',
      f'{plan.workload or "The workload"} is an assumption of this project, '
      'not a published model.',
    ))  # fmt: skip
  return found


# Key of `predicted`, heading, unit; a column without values is left out.
_PREDICTED = (
  ('step_time_s', 'Step time', 's'),
  ('tokens_per_s', 'Tokens/s', '1/s'),
  ('energy_per_token_J', 'Energy/token', 'J'),
  ('cost_per_token_usd', '$/Mtoken', 'usd'),
)


def _plans_table(plan: Plan) -> Table:
  plans = plan.document['plans']
  keys = [c for c in _PREDICTED if any(_predicted(p, c[0]) for p in plans)]
  gaps = [
    (k, label)
    for k, label in (
      ('certified_gap', 'Certified gap'), ('rounding_loss', 'Rounding loss')
    )
    if any(p.get(k) is not None for p in plans)
  ]  # fmt: skip
  columns = [
    Column('Rank'), Column('Mesh'), Column('Micro-batch', True),
    Column('Recompute'), *(Column(label, True) for _, label, _ in keys),
    *(Column(label, True) for _, label in gaps),
  ]  # fmt: skip
  rows = [
    [
      Cell(f'Plan {i}', i), words(mesh_text(p.get('mesh'))),
      Cell(f'{p.get("micro_batch", "–")}', p.get('micro_batch')),  # noqa: RUF001
      words(p.get('recompute')),
      *(_predicted_cell(p, key, unit) for key, _, unit in keys),
      *(_share(p.get(k)) for k, _ in gaps),
    ]
    for i, p in enumerate(plans, 1)
  ]  # fmt: skip
  names = [k for k, _, _ in keys]
  data = Data(
    ['plan', 'mesh', 'micro_batch', 'recompute', *names, *(k for k, _ in gaps)],
    [
      (i, mesh_text(p.get('mesh')), p.get('micro_batch'), p.get('recompute'),
       *(_predicted(p, k) for k in names), *(p.get(k) for k, _ in gaps))
      for i, p in enumerate(plans, 1)
    ],
  )  # fmt: skip
  return Table('plans', 'Top plans', columns, rows, data, cards=True)


def _predicted_cell(plan: Mapping[str, Any], key: str, unit: str) -> Cell:
  """A prediction with its interval below."""
  value = _predicted(plan, key)
  if value is None:
    return quantity(None, 's')
  ends = (plan.get('interval90') or {}).get(key)
  if unit == 'usd':
    return Cell(f'{1e6 * value:.3g}', value)
  if unit == '1/s':
    shown = f'{value:,.0f}'.replace(',', '\N{THIN SPACE}')
    return Cell(shown, value)
  between = interval(*ends, unit) if ends else ''
  note = tag('span', between, class_='range') if between else None
  return Cell(tag('span', _si(value, unit), note), value)


def _share(value: float | None) -> Cell:
  """A fraction in percent, small ones with their first digits."""
  return percent(None) if value is None else Cell(f'{100 * value:.2g} %', value)


def _prices(plan: Plan) -> Table | None:
  """Shadow prices: what one more unit of a limit is worth."""
  found = plan_figures.entries(plan.document.get('shadow_prices'))
  if not found:
    return None
  has_note = any(e.get('note') for e in found)
  columns = [Column('Limit'), Column('Worth', True), Column('Unit')]
  rows = [
    [
      words(e['name']),
      Cell(markup.minus(f'{e["value"]:.4g}'), e['value']),
      words(e.get('unit')),
      *([words(e.get('note'))] if has_note else []),
    ]
    for e in found
  ]
  if has_note:
    columns.append(Column('Note'))
  data = Data(
    ['limit', 'value', 'unit'],
    [(e['name'], e['value'], e.get('unit')) for e in found],
  )
  return Table(
    'shadow-prices', 'Shadow prices', columns, rows, data, cards=True
  )


def _search(plan: Plan) -> Markup | None:
  """How much was searched."""
  search = plan.document.get('search') or {}
  configurations, seconds = search.get('configurations'), search.get('seconds')
  said: Sequence[str] = []
  if configurations is not None:
    number = f'{configurations:,.0f}'.replace(',', '\N{THIN SPACE}')
    said = [f'{number} configurations']
  if seconds is not None:
    said = [*said, f'{_si(seconds, "s")}']
  if configurations and seconds:
    said = [*said, f'{configurations / seconds:,.0f} per second'.replace(
      ',', '\N{THIN SPACE}')]  # fmt: skip
  if not said:
    return None
  return tag('p', join('Searched: ', ', '.join(said), '.'), class_='note')
