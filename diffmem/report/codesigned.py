"""From a study of co-design to the data of a report."""

from collections.abc import Sequence

from diffmem import codesign
from diffmem.report import codesign_data as data

_SECONDS_PER_YEAR = 8766.0 * 3600.0
_MOST_ROWS = 16
# Lines of an account below this share stand together.
_LEAST_SHARE = 0.004
_WORTH = 'per accelerator and year'


def codesign_part(
  found: codesign.Study,
  designed: codesign.DesignedMemory | None = None,
  measured: codesign.MeasureNext | None = None,
  cost_map: codesign.CostMap | None = None,
) -> data.CodesignData:
  """What a report shows of a study.

  Args:
    found: the study.
    designed: the best memory within budgets.
    measured: what to measure next.
    cost_map: what a token costs over two parameters.
  """
  return data.CodesignData(
    mix=[_mix_row(item) for item in found.by_cost.items],
    accounts=_accounts(found),
    tornados=[_tornado(found)],
    what_ifs=[_what_if(a) for a in found.answers],
    fronts=_fronts(found, designed),
    maps=[_map(found, cost_map)] if cost_map else [],
    search=_search(found, designed),
    measurements=_measurements(measured),
  )


def _mix_row(item) -> data.MixRow:
  mesh = [f'{k} {v}' for k, v in item.mesh.items() if v != 1]
  if item.batch:
    mesh.append(f'batch {item.batch}')
  away = []
  for group, row in item.placement.items():
    # Of a search, where everything lives is the answer.
    near = next(iter(row)) if item.job else None
    away += [
      f'{group} {100 * share:.0f} % in {memory}'
      for memory, share in row.items()
      if memory != near and share > 0.005
    ]
  return data.MixRow(
    name=item.name,
    phase=_phase(item),
    tokens_per_s=item.rate_per_s,
    accelerators=item.accelerators,
    power_W=item.power_W,
    usd_per_Mtoken=1e6 * item.value / item.rate_per_s,
    joule_per_token=item.power_W / item.rate_per_s,
    step_time_s=item.step_time_s,
    mesh=', '.join(mesh),
    placement='; '.join(away) or 'all near',
  )


def _phase(item) -> str:
  if item.job is None:
    return 'search'
  kinds = {'Training': 'train', 'Prefilling': 'prefill'}
  return kinds.get(type(item.job.phase).__name__, 'decode')


def _accounts(found) -> list[data.Account]:
  best, accounts = found.by_cost, found.accounts
  tokens = best.tokens_per_s
  million = 'million tokens'
  return [
    _account('Cost by what is bought', 'USD', million,
             accounts.money_by_part, 1e6, 1e6 * best.per_token),
    _account('Cost by what holds it up', 'USD', million,
             accounts.money_by_resource, 1e6, 1e6 * best.per_token),
    _account('Accelerator time', 's', million, accounts.time, 1e6,
             1e6 * best.accelerators / tokens),
    _account('Energy', 'J', 'token', accounts.energy, 1.0,
             best.power_W / tokens),
  ]  # fmt: skip


def _account(quantity, unit, per, lines, factor, total) -> data.Account:
  """The larger lines, the largest first; the others together."""
  least = _LEAST_SHARE * abs(total) / factor
  large = [line for line in lines if abs(line.amount) >= least]
  large.sort(key=lambda line: -line.amount)
  rest = factor * sum(line.amount for line in lines if abs(line.amount) < least)
  parts = [
    data.AccountPart(_shown(line), factor * line.amount, line.kind)
    for line in large
  ]
  if rest:
    parts.append(data.AccountPart('others', rest, 'others'))
  return data.Account(quantity, unit, per, parts, total)


def _shown(line) -> str:
  if line.kind in ('time', 'purchase', 'all'):
    return line.part
  return f'{line.part}, {line.kind}'


def _tornado(found) -> data.Tornado:
  rows = []
  for w in found.worths[:_MOST_ROWS]:
    low, high = w.interval90 or (None, None)
    rows.append(
      data.Elasticity(
        w.name, w.elasticity, low, high,
        worth=w.usd_per_year,
        worth_unit=f'USD for 1 {w.unit} {w.better}'.replace('1 1 ', '1 '),
      )
    )  # fmt: skip
  return data.Tornado('cost per token', rows, _WORTH)


def _what_if(a) -> data.WhatIf:
  per_GB = a.worth_usd_per_GB
  return data.WhatIf(
    name=a.name,
    tokens_per_s=_change(a.tokens_per_s),
    joule_per_token=_change(a.token_J),
    usd_per_token=_change(a.token_usd),
    pays=a.pays,
    price=f'{a.extra_usd:+,.0f} USD an accelerator',
    break_even_usd_per_GB=None if per_GB is None else data.Change(per_GB),
    plan='' if a.missing else _plan(a.optimum),
    note=_note(a),
  )


def _note(a) -> str:
  if a.missing:
    return a.help
  late = f'; {", ".join(a.late)}: longer than tpot_s' if a.late else ''
  return f'{a.about}{late}'


def _plan(optimum) -> str:
  largest = max(optimum.items, key=lambda i: i.value)
  mesh = [f'{k} {v}' for k, v in largest.mesh.items() if v != 1]
  batch = f', batch {largest.batch}' if largest.batch else ''
  return f'{largest.name}: {", ".join(mesh) or "one device"}{batch}'


def _change(change) -> data.Change | None:
  if change is None:
    return None
  low, high = (
    None if x is None else 100 * x for x in (change.low, change.high)
  )
  return data.Change(100 * change.best, low, high)


def _fronts(found, designed) -> list[data.Front]:
  """Dollars against joules of the machine and of everything beside it."""
  points = [_point(found.fitted.system.name, found.by_cost)]
  points += [_point(a.name, a.optimum) for a in found.answers if a.optimum]
  if designed is not None and designed.optimum is not None:
    points.append(_point('best within budgets', designed.optimum))
  if len(points) < 2:
    return []
  return [
    data.Front(
      data.Metric('Energy per token', 'J'),
      data.Metric('Cost of a million tokens', 'USD'),
      points,
      'Machines by cost and energy',
    )
  ]


def _point(name: str, optimum) -> data.Design:
  return data.Design(
    name, optimum.power_W / optimum.tokens_per_s, 1e6 * optimum.per_token
  )


def _map(found, cost_map) -> data.Sensitivity:
  infos = found.fitted.system.infos()
  values = found.fitted.system.values()
  factor, unit = (1e9, 'G') if infos[cost_map.x_name].unit == 'B/s' else (1, '')
  return data.Sensitivity(
    metric='Cost of a million tokens', unit='USD',
    x_label=cost_map.x_name, x_unit=unit + infos[cost_map.x_name].unit,
    x=cost_map.x / factor,
    y_label=cost_map.y_name, y_unit='GB', y=cost_map.y / 1e9,
    values=1e6 * cost_map.token_usd,
    current=(
      float(values[cost_map.x_name]) / factor,
      float(values[cost_map.y_name]) / 1e9,
    ),
  )  # fmt: skip


def _search(found, designed) -> data.Search | None:
  if designed is None or designed.found.x is None:
    return None
  import numpy as np

  best = designed.found.best_so_far
  known = np.isfinite(best)
  tokens = found.by_cost.tokens_per_s
  series = data.Series(
    'Adam, envelope gradients', 1.0 + np.flatnonzero(known),
    1e6 * best[known] / tokens,
  )  # fmt: skip
  tables = [
    data.TextTable(title, head, rows)
    for title, (head, *rows) in (
      ('The best memory within the budgets', designed.table()),
      ('Budgets', designed.budget_table()),
    )
  ]
  return data.Search(
    'Cost of a million tokens', 'USD', [series], tables=tables,
    help=designed.help,
  )  # fmt: skip


def _measurements(measured) -> Sequence[data.Measurement]:
  if measured is None:
    return []
  return [
    data.Measurement(
      name=row.text,
      reduction=100 * row.alone,
      tells=', '.join(row.tells),
      after=100 * row.drop,
    )
    for row in measured.rows
  ]
