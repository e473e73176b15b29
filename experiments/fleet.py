"""Which parts to order when, which workload runs where, what shortages cost.

  python -m experiments.fleet
  python -m experiments.fleet --fleet=my_fleet.toml \
    --scenario=flat,shortage,glut --report=runs/fleet.html
  python -m experiments.fleet --fleet=my_fleet.toml --plan_rates=rates.json

A linear programme over quarters allocates workloads to parts and placements,
orders parts and memory a lead time ahead, and prices what limits it. The first
scenario is the base of the others. Without --fleet it is the example of ten
workloads, three parts and eight quarters (experiments/configs/fleet.toml):
7 s of processor time; 112.9 MUSD flat, 177.2 with half the HBM, which sends
fine-tuning from B200 to H100 with its optimizer in DRAM and leaves chat
unserved. The third form makes the rates: tokens/s, power and bytes of each
workload on each part, planned on the checkpoints that the parts name (10 to 40
s each; an interrupted run goes on where it stopped). Exit code 2 where demand
that must be met cannot be, with what would do.
"""

from absl import flags

from experiments import program

# Smaller costs are not printed.
_LEAST_USD = 5e3

_FLEET = flags.DEFINE_string(
  'fleet', None, 'TOML file; by default the example.'
)
_SCENARIO = flags.DEFINE_list(
  'scenario', 'flat,shortage',
  'Built-in (flat, shortage, glut) or of the fleet; the first is the base.',
)  # fmt: skip
_PLAN_RATES = flags.DEFINE_string(
  'plan_rates', None, 'JSON file of rates to make, which a fleet can name.'
)
_CHECKED = flags.DEFINE_integer(
  'checked', 3, 'Multipliers of each kind that are checked.', 0
)
_TOP = flags.DEFINE_integer('top', 12, 'Rows of the longer tables.', 1)
_REPORT = flags.DEFINE_string(
  'report', None, 'HTML file to write, of the last scenario.'
)
_JSON = flags.DEFINE_string('json', None, "File to write, '-' for stdout.")


def main() -> None:
  from diffmem.codesign import fleet

  path = _FLEET.value or program.config_path('fleet.toml')
  if _PLAN_RATES.value:
    _rates(path)
    return
  asked = fleet.load_fleet(path)
  results = [
    fleet.plan_fleet(asked, name, checked=_CHECKED.value)
    for name in dict.fromkeys(_SCENARIO.value)
  ]
  solved = [r for r in results if r.account]
  pairs = [(solved[0], other) for other in solved[1:]]
  compared = [fleet.compare(*pair) for pair in pairs]
  if _JSON.value != '-':
    for result in results:
      _print_result(result)
    for pair, comparison in zip(pairs, compared, strict=True):
      _print_comparison(*pair, comparison)
  program.write_json(
    _JSON.value,
    {
      'plans': [r.to_dict() for r in results],
      'comparisons': [c.to_dict() for c in compared],
    },
  )
  if _REPORT.value and solved:
    _write_report(solved[-1], compared[-1] if compared else None)
  failed = [r for r in results if not r.account]
  if failed:
    program.refuse(f'{failed[0].scenario}: {failed[0].help}')


def _rates(path: str) -> None:
  from diffmem.codesign import fleet

  with program.progress() as progress:
    rates, refused = fleet.plan_rates(
      fleet.load_fleet(path, rates=False), _PLAN_RATES.value,
      on_progress=progress,
    )  # fmt: skip
  program.table(
    'Rates of one accelerator',
    ['workload', 'part', 'variant', 'tokens/s', 'W', 'GB', 'plan'],
    [
      [r.workload, r.part, r.variant, f'{r.tokens_per_s:,.1f}',
       f'{r.power_W:.0f}',
       ' '.join(f'{m} {v:.0f}' for m, v in r.memory_GB.items()), r.source]
      for r in rates
    ],
    width=160,
  )  # fmt: skip
  for pair, why in refused.items():
    print(f'no plan of {pair}: {why}')


def _write_report(result, comparison) -> None:
  from diffmem import report
  from diffmem.report import codesign_data, fleet_supply

  supply = fleet_supply.supply_of(result, comparison)
  report.write_report(
    _REPORT.value,
    report.ReportData(
      title=f'{result.name}: {result.scenario}',
      codesign=codesign_data.CodesignData(supply=supply),
      provenance=report.provenance(program.command_line(), {}, None),
    ),
  )
  print(f'wrote {_REPORT.value}')


def _print_result(result) -> None:
  program.headline(f'{result.name}: {result.scenario}')
  print(result.help)
  if result.account is None:
    return
  print(
    f'{result.present_usd / 1e6:,.1f} MUSD within the horizon, discounted; '
    f'{result.account.owed_usd / 1e6:,.1f} MUSD fall due after it; solved in '
    f'{result.seconds:.1f} s, accounts balance to {result.account.balance:.1g}'
  )
  _print_timeline(result)
  _print_served(result)
  _print_costs(result)
  _print_worth(result)
  _print_deadlines(result)


def _print_timeline(result) -> None:
  rows = []
  for name, part in result.parts.items():
    rows += [
      [name, 'ordered', *(_whole(v) for v in part.ordered)],
      ['', 'delivered', *map(_pair, part.delivered, part.contracted)],
      ['', 'in service', *(_whole(v) for v in part.in_service)],
      ['', 'busy', *(_whole(v) for v in part.busy)],
    ]
  for name, memory in result.memories.items():
    words = ('built in', 'reserved') if memory.soldered else ('full', 'bought')
    other = memory.reserved_GB if memory.soldered else memory.in_service_GB
    rows += [
      [f'{name}, TB', 'ordered', *(_whole(v / 1e3) for v in memory.ordered_GB)],
      ['', words[0], *(_whole(v / 1e3) for v in memory.used_GB)],
      ['', words[1], *(_whole(v / 1e3) for v in other)],
    ]
  rows.append(
    ['site, MW', 'drawn', *(f'{v / 1e6:.1f}' for v in result.power_W)]
  )
  if result.power_limit_W:
    limits = (f'{v / 1e6:.1f}' for v in result.power_limit_W)
    rows.append(['', 'limit', *limits])
  program.table(
    'Parts (delivered: new + contracted before)',
    ['', '', *result.quarters], rows,
  )  # fmt: skip


def _print_served(result) -> None:
  rows = []
  for name, demand in result.demand.items():
    places = [
      (f'{s.part} {s.variant}', s.tokens_per_s)
      for s in result.served
      if s.workload == name
    ]
    places.append(('unmet', demand.unmet_tokens_per_s))
    for place, tokens in places:
      shares = [t / d for t, d in zip(tokens, demand.tokens_per_s, strict=True)]
      if max(shares) > 5e-4:
        rows.append([name, place, *(_percent(s) for s in shares)])
    marginal = (f'{v:.3g}' for v in demand.marginal_usd_per_Mtok)
    rows.append(['', '$/Mtok at the margin', *marginal])
  program.table(
    'Where each workload runs, % of its demand',
    ['workload', 'place', *result.quarters], rows,
  )  # fmt: skip


def _print_costs(result) -> None:
  account = result.account
  kinds = list(dict.fromkeys(line.kind for line in account.lines))
  cells = account.by('workload', 'kind')
  names = list(dict.fromkeys(line.workload for line in account.lines))
  usd = {n: sum(cells.get((n, k), 0.0) for k in kinds) for n in names}
  names = [n for n in names if abs(usd[n]) > _LEAST_USD]
  names.sort(key=lambda n: -usd[n])
  rows = [
    [n, *(f'{cells.get((n, k), 0.0) / 1e6:,.2f}' for k in kinds),
     f'{usd[n] / 1e6:,.2f}']
    for n in names
  ]  # fmt: skip
  totals = account.by('kind')
  rows.append(
    ['all', *(f'{totals[(k,)] / 1e6:,.2f}' for k in kinds),
     f'{account.present_usd / 1e6:,.2f}']
  )  # fmt: skip
  program.table('Costs, MUSD discounted', ['for', *kinds, 'all'], rows)


def _print_worth(result) -> None:
  units = {
    'part': 'one more in service', 'part_supply': 'one more to buy',
    'memory': 'GB', 'memory_supply': 'GB to buy', 'power': 'kW',
  }  # fmt: skip
  found = {}
  for one in result.worth:
    if one.kind in units:
      found.setdefault((one.name, units[one.kind]), {})[one.quarter] = one
  program.table(
    'What one more is worth from a quarter on, USD discounted',
    ['of', 'unit', *result.quarters],
    [
      line
      for key, row in found.items()
      for line in _worth_rows(key, [row.get(q) for q in result.quarters])
    ],
  )
  checked = [
    w for w in result.worth if w.kind in units and w.more_usd is not None
  ]
  program.table(
    'The same, solved again with more and with fewer',
    ['of', 'unit', 'from', 'worth', 'costs', 'one more', 'one fewer',
     'holds from', 'to'],
    [
      [w.name, units[w.kind], w.quarter, _usd(w.usd), _usd(w.price_usd),
       _usd(w.more_usd), _usd(w.fewer_usd), _amount(w.holds_from),
       _amount(w.holds_to)]
      for w in checked[: 2 * _TOP.value]
    ],
  )  # fmt: skip


def _print_deadlines(result) -> None:
  rows = [
    [d.name, f'{d.lead_quarters}', d.first_order or 'no order',
     d.first_service or '-', d.latest_order or '-',
     ', '.join(_waiting(q, v) for q, v in d.waiting_usd.items()) or '-']
    for d in result.deadlines
  ]  # fmt: skip
  program.table(
    'When to order',
    ['', 'lead, quarters', 'first order', 'in service', 'latest at no loss',
     'first order in ... costs, MUSD'], rows, width=150,
  )  # fmt: skip


def _print_comparison(base, other, comparison) -> None:
  program.headline(f'{other.scenario} beside {base.scenario}')
  print(f'costs {comparison.extra_usd / 1e6:+,.2f} MUSD')
  program.table(
    'More to pay, MUSD',
    ['for', 'MUSD'],
    [
      [name, f'{usd / 1e6:+,.2f}']
      for table in (comparison.by_workload, comparison.by_kind)
      for name, usd in sorted(table.items(), key=lambda kv: -abs(kv[1]))
      if abs(usd) > _LEAST_USD
    ],
  )
  if not comparison.moves:
    print('Nothing moves.')
    return
  program.table(
    'What moves (the largest shares)',
    ['workload', 'quarter', 'from', 'to', '% of demand', 'accelerators',
     'MUSD', '$/Mtok at the margin'],
    [
      [m.workload, m.quarter, ' '.join(m.source).strip(),
       ' '.join(m.target).strip(), _percent(m.share),
       f'{m.accelerators:+,.0f}', f'{m.extra_usd / 1e6:+,.2f}',
       ' -> '.join(f'{v:.3g}' for v in m.marginal_usd_per_Mtok)]
      for m in sorted(comparison.moves, key=lambda m: -m.share)[: _TOP.value]
    ],
  )  # fmt: skip


def _whole(value: float) -> str:
  return f'{value:,.0f}'


def _pair(new: float, contracted: float) -> str:
  return f'{new:,.0f}' + (f'+{contracted:,.0f}' if contracted else '')


def _percent(share: float) -> str:
  return f'{100 * share:.1f}' if share >= 5e-4 else '-'


def _usd(value: float | None) -> str:
  return '-' if value is None else f'{value:,.4g}'


def _waiting(quarter: str, usd: float | None) -> str:
  return f'{quarter} ' + ('impossible' if usd is None else f'{usd / 1e6:,.2f}')


def _worth_rows(key: tuple[str, str], row: list) -> list[list[str]]:
  """What one more saves, and what one costs that comes in time."""
  saves = ['0' if w is None else _usd(w.one_more_usd) for w in row]
  costs = ['-' if w is None else _usd(w.price_usd) for w in row]
  rows = [[*key, *saves]]
  return rows if set(costs) == {'-'} else [*rows, ['', 'it costs', *costs]]


def _amount(value: float | None) -> str:
  return '-' if value is None else f'{value:+,.3g}'


if __name__ == '__main__':
  program.run(main)
