"""What every program here shares: exit codes, progress, the compile cache.

Bad input ends a program with exit code 2 and one readable message; an
interrupt ends it with 130. `--help` answers before jax is loaded.
"""

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

from absl import app, flags, logging

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
    _refuse(f'{error}. See: python -m {_module()} --help')
  if len(left) > 1:
    _refuse(f'unexpected argument {left[1]!r}; every value has a --flag')
  return left


def _guarded(main: Callable[[], None]) -> None:
  # `diffmem` itself is cheap: it loads jax on first use of a jax name.
  from diffmem import errors

  cache = pathlib.Path(
    os.environ.get('XDG_CACHE_HOME', pathlib.Path.home() / '.cache')
  )
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache / 'diffmem/xla'))
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
  try:
    main()
  except errors.DiffmemError as error:
    _refuse(str(error))
  except KeyboardInterrupt:
    print('\ninterrupted', file=sys.stderr)
    sys.exit(130)
  except BrokenPipeError:
    sys.stderr.close()
    sys.exit(141)


def _refuse(message: str) -> None:
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
  from rich import console, progress as rich_progress

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


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
  """Prints a table: texts to the left, numbers to the right."""
  from rich import console, table as rich_table

  shown = rich_table.Table(title=title, title_justify='left', box=None)
  for i, name in enumerate(header):
    numeric = all(_is_number(row[i]) for row in rows)
    shown.add_column(name, justify='right' if numeric else 'left')
  for row in rows:
    shown.add_row(*row)
  width = None if sys.stdout.isatty() else 120
  console.Console(width=width, highlight=False).print(shown)


def _is_number(text: str) -> bool:
  return not text or text[0].isdigit() or text[0] in '-+.~'
