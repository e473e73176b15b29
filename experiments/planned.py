"""Tables of what the planners answer."""

from experiments import program

# Rows of each table that are printed.
_MOST = 8


def print_plans(result) -> None:
  """Prints a `PlanResult`, best plan first, or why there is none."""
  if not result.plans:
    print(result.help)
    return
  _print_table(result)
  _print_elasticities(result)
  _print_limits(result)
  if result.decision:
    print(f'under the ensemble of the fit: {result.decision.help}')
  for one in result.overtakings[:1]:
    moved = one.factor if one.factor is not None else one.first_order
    if one.factor is not None or not one.is_checked:
      print(
        f'plan {one.plan + 1} overtakes the first when {one.parameter} is '
        f'{moved:.3g} times as large (the nearest of all parameters)'
      )
  search = result.search
  print(
    f'searched {search.configurations:,} configurations in '
    f'{search.seconds:.1f} s; none is better than the first in fractions by '
    f'more than {100 * search.certified_gap:.2g} % (proven for the stated '
    'model)'
  )
  if result.help:
    print(result.help)


def _print_table(result) -> None:
  from diffmem import units

  several = len({p.number_format for p in result.plans}) > 1
  rows = []
  for plan in result.plans:
    said = plan.predicted
    axes = [f'{k}={v}' for k, v in plan.mesh.items() if v != 1]
    axes += [f'{k} by {v}' for k, v in plan.sharding.items() if v != 'tensor']
    axes += [plan.number_format] if several else []
    memory = said['memory_bytes'].items()
    loss = plan.rounding_loss
    rows.append([
      ' '.join(axes) or 'one device',
      f'{plan.micro_batch}',
      plan.recompute or '-',
      units.format_si(said['step_time_s'], 's'),
      f'{said["tokens_per_s"]:,.0f}',
      f'{said["energy_per_token_J"]:.3g}',
      ', '.join(f'{k} {units.format_si(v, "B", 3)}' for k, v in memory if v),
      f'{100 * plan.certified_gap:.2g} %',
      '-' if loss is None else f'{100 * max(loss, 0.0):.2g} %',
    ])  # fmt: skip
  program.table(
    'Plans',
    ['mesh', 'micro', 'recompute', 'step', 'tokens/s', 'J/token',
     'memory of a device', 'gap', 'rounding'],
    rows,
  )  # fmt: skip


def _print_elasticities(result) -> None:
  strongest = sorted(
    ((k, v) for k, v in (result.elasticities or {}).items() if v),
    key=lambda pair: -abs(pair[1]),
  )
  what = result.request['objective']
  what = 'step_time_s' if what == 'tokens_per_s' else what
  program.table(
    f'What {what} of the first depends on: percent per percent',
    ['parameter', 'elasticity', 'checked'],
    [
      [name, f'{value:+.3f}', _signed(result.elasticities_checked.get(name))]
      for name, value in strongest[:_MOST]
    ],
  )


def _signed(value: float | None) -> str:
  return '-' if value is None else f'{value:+.3f}'


def _print_limits(result) -> None:
  """What another byte of each memory is worth, and what binds next."""
  from diffmem import units

  rows = []
  for margin in result.memory_margins:
    price = result.shadow_prices[margin.memory]
    per_GB = f'{1e9 * price:.3g}' if price else '0'
    rows.append([
      margin.memory, units.format_si(margin.spare_B, 'B', 3), per_GB,
      f'{margin.below} below {units.format_si(margin.holds_from_B, "B", 3)}',
      f'{margin.above} above {units.format_si(margin.holds_to_B, "B", 3)}',
    ])  # fmt: skip
  what = result.request['objective']
  program.table(
    f'What one more GB of a device is worth, in {what}',
    ['memory', 'spare', 'per GB', 'less of it', 'more of it'],
    rows,
  )


def print_finalists(found) -> None:
  """Prints plans as they are priced kernel by kernel."""
  from diffmem import units

  rows = []
  for one in found.finalists:
    low, high = (units.format_si(x, 's', 3) for x in one.interval90)
    rows.append([
      f'{one.index + 1}', units.format_si(one.by_laws_s, 's'),
      units.format_si(one.step_time_s, 's'), f'{low} .. {high}',
      f'{one.tokens_per_s:,.0f}', ', '.join(one.unknown_to_kernels) or '-',
    ])  # fmt: skip
  program.table(
    f'The same, kernel by kernel with software ({found.stack or "mean"})',
    ['plan', 'by laws', 'calibrated', '90 %', 'tokens/s', 'by laws alone'],
    rows,
  )
  print(found.help)


def print_serving(result) -> None:
  """Prints a `ServingResult`, best fleet first, or why there is none."""
  from diffmem import planning

  if not result.plans:
    print(result.help)
    return
  head, *rows = planning.serving_table(result)
  program.table('Fleets', head, rows)
  print(result.help)


def print_front(front) -> None:
  """Prints a front of two metrics."""
  rows = [
    [
      f'{p.chips}',
      *(f'{p.metrics[m]:.4g}' for m in front.metrics),
      f'{100 * p.slack:.2g} %',
      'knee' if i == front.knee else '',
    ]
    for i, p in enumerate(front.points)
  ]
  program.table(
    'Front', ['chips', *front.metrics, 'better by at most', ''], rows
  )
  print(front.help)


def print_exports(result, workload: str, targets) -> None:
  """Prints launch flags of the first plan, and what they cannot say."""
  from diffmem.planning import export

  for target in targets:
    launch, command = _launch(export, result, workload, target)
    print(f'\n{target}, {launch.replicas} side by side:\n  {command}')
    for line in launch.left_out:
      print(f'  not expressed: {line}')


def _launch(export, result, workload: str, target: str):
  """The launch of one target, and its command line."""
  from diffmem.workloads import Training, load_workload

  plan, asked = result.plans[0], result.request
  if target == 'maxtext':
    training = Training(asked['seq_len'], asked['sequences'])
    layers = load_workload(workload).layers
    launch = export.to_maxtext(plan, training, layers)
    return launch, launch.command('python -m MaxText.train base.yml', '=')
  if target == 'vllm':
    launch = export.to_vllm(plan, asked.get('context', 0), asked['usable'])
    return launch, launch.command(f'vllm serve {workload}')
  launch = export.to_sglang(plan, asked.get('context', 0), asked['usable'])
  start = f'python -m sglang.launch_server --model-path {workload}'
  return launch, launch.command(start)
