"""Tables of what a study of co-design answers."""

from experiments import program

# Rows of each table that are printed.
_MOST = 16
_MOST_UNTOLD = 5
# Less of a memory, or of an account, is not shown.
_LEAST_B = 1e6
_LEAST_SHARE = 5e-4
_WORKLOAD_HEAD = [
  'workload', 'plan', 'batch', 'step', 'accelerators', 'of the cost', 'USD/M',
  'J', 'memory of a device',
]  # fmt: skip


def print_study(found) -> None:
  """Prints a `codesign.Study`."""
  _print_workloads(found)
  _print_accounts(found)
  _print_worths(found)
  if found.answers:
    _print_answers(found.answers)


def _print_workloads(found) -> None:
  from diffmem import units

  best, rows = found.by_cost, []
  for item in best.items:
    mesh = [f'{k}={v}' for k, v in item.mesh.items() if v != 1]
    memory = [
      f'{k} {units.format_si(v, "B", 3)}'
      for k, v in item.used_B.items()
      if v > _LEAST_B
    ]
    rows.append([
      item.name, ' '.join(mesh) or 'one device', f'{item.batch or "-"}',
      units.format_si(item.step_time_s, 's', 3), f'{item.accelerators:,.0f}',
      f'{100 * item.value / best.value:.1f} %',
      f'{1e6 * item.value / item.rate_per_s:.3g}',
      f'{item.power_W / item.rate_per_s:.3g}', ', '.join(memory),
    ])  # fmt: skip
  program.table(
    f'{found.mix.name}: the cheapest plan of each workload, per token or query',
    _WORKLOAD_HEAD, rows, width=160,
  )  # fmt: skip
  gap = 1.0 - best.bound / best.value
  print(
    f'a million tokens cost {1e6 * best.per_token:.3g} USD and take '
    f'{1e6 * best.power_W / best.tokens_per_s:.3g} J; {best.accelerators:,.0f} '
    f'accelerators are busy ({found.by_time.value:,.0f} at the least), at '
    f'{3600 * found.rates.usd_per_s:.2f} USD an hour and '
    f'{3.6e6 * found.rates.usd_per_J:.3g} USD/kWh'
  )
  print(
    f'no plan that was looked at is cheaper by more than {100 * gap:.2g} % '
    '(for the laws as they are stated)'
  )


def _print_accounts(found) -> None:
  accounts = found.accounts
  _print_lines(
    'What a million tokens cost, by what was bought [USD]',
    accounts.money_by_part, 1e6,
  )  # fmt: skip
  _print_lines(
    'The same, by what holds the accelerators up [USD]',
    accounts.money_by_resource, 1e6,
  )  # fmt: skip
  _print_lines('Energy of a token [J]', accounts.energy, 1.0)


def _print_lines(title: str, lines, factor: float) -> None:
  total = sum(line.amount for line in lines)
  shown = sorted(lines, key=lambda line: -line.amount)
  shown = [x for x in shown if abs(x.amount) > _LEAST_SHARE * total][:_MOST]
  rows = [
    [line.part, line.kind, f'{factor * line.amount:.4g}',
     f'{100 * line.amount / total:.1f}']
    for line in shown
  ]  # fmt: skip
  rest = total - sum(line.amount for line in shown)
  if rest:
    rows.append(
      ['others', '', f'{factor * rest:.4g}', f'{100 * rest / total:.1f}']
    )
  rows.append(['all', '', f'{factor * total:.4g}', '100.0'])
  program.table(title, ['part', 'kind', 'amount', '%'], rows)


def _print_worths(found) -> None:
  rows = []
  for w in found.worths[:_MOST]:
    spread = '-'
    if w.interval90:
      spread = f'{w.interval90[0]:+.3f} .. {w.interval90[1]:+.3f}'
    rows.append([
      w.name, f'{w.value:.4g} {w.unit}', f'{w.elasticity:+.3f}', spread,
      f'{w.by_time:+.3f}', f'{w.by_energy:+.3f}', f'1 {w.unit} {w.better}',
      f'{w.usd_per_year:.3g}', f'{w.usd_at_most:.3g}',
    ])  # fmt: skip
  program.table(
    'What a token depends on (percent per percent), and what a unit is worth '
    'on each accelerator',
    ['parameter', 'value', 'cost', '90 %', 'time', 'energy', 'unit',
     'USD/year', 'USD at most'],
    rows, width=150,
  )  # fmt: skip


def _print_answers(answers) -> None:
  rows = []
  for a in answers:
    if a.missing:
      rows.append([a.name, *['-'] * 6, a.help])
      continue
    per_GB = a.worth_usd_per_GB
    rows.append([
      a.name, _change(a.tokens_per_s), _change(a.token_J),
      _change(a.token_usd), '-' if a.pays is None else f'{a.pays:.2f}',
      f'{a.extra_usd:+,.0f}', f'{a.worth_usd:+,.0f}',
      '-' if per_GB is None else f'{per_GB:,.3g} at {a.extra_GB:+,.0f} GB',
    ])  # fmt: skip
  program.table(
    'What if: percent more, with 90 % intervals; USD for each accelerator',
    ['change', 'tokens/s', 'J/token', 'USD/token', 'P(pays)', 'USD more',
     'worth', 'worth per GB'],
    rows, width=170,
  )  # fmt: skip
  for a in answers:
    late = f'; {", ".join(a.late)}: longer than tpot_s' if a.late else ''
    print(f'{a.name}: {a.about}{late}')


def _change(change) -> str:
  said = f'{100 * change.best:+.1f}'
  if change.low is None:
    return said
  return f'{said} ({100 * change.low:+.1f} .. {100 * change.high:+.1f})'


def print_design(designed) -> None:
  """Prints a `codesign.DesignedMemory`, if there is one."""
  if designed is None:
    return
  head, *rows = designed.table()
  program.table('The best memory within the budgets', head, rows, width=150)
  head, *rows = designed.budget_table()
  if rows:
    program.table('Budgets', head, rows)
  print(designed.help)


def print_measurements(found) -> None:
  """Prints what to measure next, if it was asked."""
  if found is None:
    return
  rows = [
    [r.text, ', '.join(r.tells), f'{100 * r.alone:.1f}', f'{100 * r.drop:.1f}',
     f'{r.half_width90_after:.3g}', f'{r.seconds:.0f}']
    for r in found.rows
  ]  # fmt: skip
  program.table(
    f'What to measure next for {found.target}: percent off its 90 % interval',
    ['row', 'tells', 'alone', 'after those above', '+- then', 's'],
    rows, width=150,
  )  # fmt: skip
  if found.untold:
    asked = ', '.join(
      f'{u.parameter} ({100 * u.share:.0f} %)'
      for u in found.untold[:_MOST_UNTOLD]
    )
    print(
      f'{100 * found.untold_share:.0f} % of the variance no row tells: {asked}'
    )
  print(found.help)
