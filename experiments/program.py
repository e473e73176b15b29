"""What every program here shares: exit codes, progress, the compile cache.

Bad input ends a program with exit code 2 and one readable message; an
interrupt ends it with 130. `--help` answers before jax is loaded.
"""

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging

# Reasons for missing answers that are printed.
_MOST_REASONS = 12

Progress = Callable[[str, int, int], None]


def run(main: Callable[[], None]) -> None:
  """Parses flags and runs `main` without arguments.

  Errors of the user's input (`diffmem.errors.DiffmemError`) and of the flags
  are printed without traceback and end the program with exit code 2.
  """
  wants_help = any(a.split('=')[0] in _HELP for a in sys.argv[1:])
  try:
    app.run(lambda _: _guarded(main), flags_parser=_parse)
  except SystemExit as end:
    sys.exit(0 if wants_help else end.code)


_HELP = frozenset({'--help', '-help', '-h', '--helpshort', '--helpfull'})


def _parse(argv: list[str]) -> list[str]:
  argv = ['--help' if a == '-h' else a for a in argv]
  try:
    left = flags.FLAGS(argv)
  except flags.Error as error:
    refuse(f'{error}. See: python -m {_module()} --help')
  if len(left) > 1:
    refuse(f'unexpected argument {left[1]!r}; every value has a --flag')
  return left


def _guarded(main: Callable[[], None]) -> None:
  # `diffmem` itself is cheap: it loads jax on first use of a jax name.
  from diffmem import errors

  cache = pathlib.Path(
    os.environ.get('XDG_CACHE_HOME', pathlib.Path.home() / '.cache')
  )
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache / 'diffmem/xla'))
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
  # XLA logs the same harmless line for every program read from the cache.
  os.environ.setdefault('JAX_LOGGING_LEVEL', 'CRITICAL')
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  try:
    main()
  except errors.DiffmemError as error:
    refuse(str(error))
  except KeyboardInterrupt:
    print('\ninterrupted', file=sys.stderr)
    sys.exit(130)
  except BrokenPipeError:
    sys.stderr.close()
    sys.exit(141)


def refuse(message: str) -> None:
  """Says what is wrong with the input, and ends with exit code 2."""
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


def _module() -> str:
  spec = sys.modules['__main__'].__spec__
  return spec.name if spec else 'experiments'


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
  """A progress callback: bars on a terminal, log lines elsewhere.

  The callback takes a stage's name, how much is done and of how much.
  """
  if not sys.stderr.isatty():
    yield _logged_progress()
    return
  from rich import console
  from rich import progress as rich_progress

  columns = (
    rich_progress.TextColumn('{task.description:24.24}'),
    rich_progress.BarColumn(),
    rich_progress.MofNCompleteColumn(),
    rich_progress.TimeRemainingColumn(),
  )
  bars: dict[str, rich_progress.TaskID] = {}
  with rich_progress.Progress(
    *columns, console=console.Console(stderr=True), transient=True
  ) as display:

    def report(stage: str, done: int, total: int) -> None:
      if stage not in bars:
        bars[stage] = display.add_task(stage, total=total)
      display.update(bars[stage], completed=done, total=total)

    yield report


def _logged_progress() -> Progress:
  last: dict[str, float] = {}
  logging.set_verbosity(logging.INFO)

  def report(stage: str, done: int, total: int) -> None:
    now = time.monotonic()
    if done >= total or now - last.get(stage, 0.0) > 5.0:
      last[stage] = now
      logging.info('%s: %d of %d', stage, done, total)

  return report


def config_path(name: str) -> str:
  """Where a program's default configuration lies."""
  return str(pathlib.Path(__file__).parent / 'configs' / name)


def fit_options(config: Any, seed: int, resume_path: str | None = None) -> Any:
  """`fitting.FitOptions` of a configuration such as `configs/fit.py`."""
  from diffmem import fitting

  fields = {k: v for k, v in config.items() if k != 'holdout_every'}
  fields['residual'] = fitting.ResidualOptions(**fields['residual'])
  return fitting.FitOptions(**fields, seed=seed, resume_path=resume_path)


def chosen(recipes: Sequence[Any], names: Sequence[str]) -> list[Any]:
  """The recipes of these names, or all where none is given."""
  from diffmem import errors

  known = [recipe.name for recipe in recipes]
  for name in names:
    if name not in known:
      raise errors.SpecError(
        f'--only: {name!r} is not in the recipe, which has {", ".join(known)}'
      )
  return [r for r in recipes if not names or r.name in names]


def check_output_folder(path: str) -> None:
  """Refuses a folder that cannot be made, before any work is done."""
  from diffmem import errors

  parent = pathlib.Path(path).resolve().parent
  try:
    parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.CheckpointError(
      f'{path}: its folder cannot be made ({error.strerror})'
    ) from None
  if not os.access(parent, os.W_OK):
    raise errors.CheckpointError(f'{path}: its folder cannot be written to')


def prior_system(name: str, traces):
  """The prior of a fit: 'cpu' for this machine, or what `load_system` takes."""
  if name != 'cpu':
    from diffmem import checkpoint

    return checkpoint.load_system(name)
  from diffmem import system
  from diffmem.traces import collect

  machine = collect.describe()
  return system.cpu_system(
    str(traces['system'][0]),
    machine.cache_bytes,
    machine.private,
    dram_B=machine.memory_bytes,
    disk_B=machine.disk_bytes,
  )


def print_collection(found) -> None:
  """What a collection brought home: failures, noise, what to do."""
  from diffmem.traces import collect

  for failure in found.failures:
    print(f'not measured: {failure.name}: {failure.reason}')
  if found.missing:
    print(f'not reached: {len(found.missing)} of the measurements')
  if found.interrupted:
    print('interrupted; what was measured is kept')
  print(collect.noise_report(found.rows).help)


def print_changes(relative: str, found: Any) -> None:
  """Prints what the data sheets change in a transfer."""
  from diffmem import units

  infos = found.fitted.system.infos()
  table(
    f'From {relative} to {found.fitted.system.name}',
    ['parameter', 'relative', 'new part', 'because'],
    [
      [
        change.name,
        units.format_si(change.relative, infos[change.name].unit),
        units.format_si(change.value, infos[change.name].unit),
        change.why,
      ]
      for change in found.changes
    ],
  )


def print_accuracy(groups: list[dict], path: str | None) -> None:
  """Prints held-out errors beside those of others; writes them as Markdown."""
  header = [
    'system', 'operation', 'observed', 'rows', 'roofline', 'laws', 'mean',
    'median', 'p90', 'in 90 %', 'elsewhere',
  ]  # fmt: skip
  names = (
    'roofline_mape', 'laws_mape', 'mape', 'median_ape', 'p90_ape', 'coverage90'
  )  # fmt: skip
  rows = [
    [
      g['system'], g['op'], g['observable'], str(g['n']),
      *('-' if g[k] is None else f'{g[k]:.3g}' for k in names),
      g['elsewhere'] or '-',
    ]
    for g in groups
  ]  # fmt: skip
  table('Errors on held-out rows, percent', header, rows, width=160)
  if path:
    lines = [header, ['---'] * len(header), *rows]
    text = ''.join(f'| {" | ".join(line)} |\n' for line in lines)
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_text(text)
    print(f'wrote {path}')


def print_groups(title: str, groups: list[dict]) -> None:
  """Prints the groups of `evaluate --json`."""
  names = ('n', 'mape', 'median_ape', 'p90_ape', 'bias', 'coverage90')
  table(
    title,
    ['system', 'op', 'tier', 'observable', *names, 'unanswered'],
    [
      [
        *(g[k] or '-' for k in ('system', 'op', 'tier', 'observable')),
        *('-' if g[k] is None else f'{g[k]:.3g}' for k in names),
        str(g['unanswered']),
      ]
      for g in groups
    ],
  )


def print_programs(programs: list) -> None:
  """Prints measured beside predicted times of programs."""
  table(
    'Programs',
    ['program', 'size', 'measured', 'predicted', 'error %'],
    [
      [p.name, p.size, f'{p.measured_s * 1e3:.3g} ms',
       f'{p.predicted_s * 1e3:.3g} ms', f'{p.error:+.1f}']
      for p in programs
    ],
  )  # fmt: skip


def print_runs(document: dict) -> None:
  """Errors on measured runs, what choices cost, and what has no answer."""
  names = ('mape', 'median_ape', 'p90_ape', 'bias', 'coverage90')
  rows = []
  for one in document['scores']:
    counts = [f'{one[n]}' for n in ('rows', 'answered', 'judged')]
    errors = ['' if one[n] is None else f'{one[n]:.1f}' for n in names]
    rows.append([one['observable'], one['dataset'], *counts, *errors])
  header = ['observable', 'dataset', 'rows', 'answered', 'judged', 'MAPE %',
            'median', 'p90', 'bias', 'in 90 %']  # fmt: skip
  table('Errors on whole runs', header, rows)
  regret = document['regret']
  if regret:
    print(
      f'Our first choice in {regret["jobs"]} jobs that were run in several '
      f'ways is slower than the best measured by {regret["median"]:.1f} % '
      f'(median), {regret["p90"]:.1f} % (p90), {regret["worst"]:.1f} % (worst).'
    )
  for why, count in list(document['refused'].items())[:_MOST_REASONS]:
    print(f'no answer for {count}: {why}')


def print_estimate(title: str, found) -> None:
  """Times, memory, energy and cost of one job."""
  rows = [
    [name, f'{best:.4g} s', f'{low:.4g} to {high:.4g} s']
    for name, (best, low, high) in found.times_s.items()
  ]
  rows.append(['tokens per second', f'{found.tokens_per_s:,.0f}', ''])
  table(f'{title}, {found.devices} devices', ['', 'best', '90 %'], rows)
  parts = {n: float(v) / 1e9 for n, v in found.memory.parts_B.items()}
  rows = [[n.removesuffix('_B'), f'{v:.1f}'] for n, v in parts.items() if v]
  rows.append(['peak', f'{sum(parts.values()):.1f}'])
  rows.append(['capacity', f'{found.capacity_B / 1e9:.1f}'])
  table('Memory of one device', ['', 'GB'], rows)
  lines = [line for line in found.account.lines if line.energy_J]
  total_J = found.account.total_J
  rows = [
    [line.part, line.kind, f'{line.energy_J / found.account.tokens:.4g}',
     f'{100 * line.energy_J / total_J:.1f}']
    for line in sorted(lines, key=lambda line: -line.energy_J)
  ]  # fmt: skip
  rows.append(['all', '', f'{found.account.token_J:.4g}', '100.0'])
  table('Energy of a token', ['part', 'kind', 'J', '%'], rows)
  print(f'mean power of a device: {found.account.device_power_W:.0f} W')
  if found.bill:
    print(f'rent: {1e6 * found.bill.token_usd:.3g} USD per million tokens')
  if found.help:
    print(found.help)


def headline(text: str) -> None:
  """Announces a part of a long program."""
  print(f'\n== {text}', flush=True)


def command_line() -> str:
  """The command as a user would type it again."""
  return ' '.join(['python -m', _module(), *sys.argv[1:]])


def whole_numbers(flag: str, texts: Sequence[str]) -> list[int]:
  """A list flag of whole numbers of at least 1."""
  for text in texts:
    if not text.strip().isdigit() or not int(text):
      refuse(f'--{flag}={text}: expected a whole number of at least 1')
  return [int(text) for text in texts]


def weights(flag: str, texts: Sequence[str]) -> dict[str, float]:
  """A list flag of 'name=weight'."""
  found = {}
  for text in texts:
    name, _, value = text.partition('=')
    try:
      found[name.strip()] = float(value)
    except ValueError:
      refuse(f'--{flag}={text}: expected name=weight')
  return found


def write_json(path: str | None, document: dict) -> None:
  """Writes JSON to a file, to stdout for '-', nowhere for None."""
  import json

  text = json.dumps(document, indent=2, allow_nan=False)
  if path == '-':
    print(text)
  elif path:
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text + '\n')
    print(f'wrote {path}')


def table(
  title: str, header: list[str], rows: list[list[str]], width: int = 120
) -> None:
  """Prints a table: texts to the left, numbers to the right."""
  from rich import console
  from rich import table as rich_table

  shown = rich_table.Table(title=title, title_justify='left', box=None)
  for i, name in enumerate(header):
    numeric = all(_is_number(row[i]) for row in rows)
    shown.add_column(name, justify='right' if numeric else 'left')
  for row in rows:
    shown.add_row(*row)
  console.Console(
    width=None if sys.stdout.isatty() else width, highlight=False
  ).print(shown)


def _is_number(text: str) -> bool:
  return not text or text[0].isdigit() or text[0] in '-+.~'
