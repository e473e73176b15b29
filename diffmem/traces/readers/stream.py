"""STREAM (McCalpin) and BabelStream (UoB-HPC), text and CSV.

STREAM 5.10 prints sizes and a table of best rate [MB/s, 1e6 B/s] and average,
minimum and maximum time [s]:

    Array size = 10000000 (elements), Offset = 0 (elements)
    Number of Threads counted = 8
    Triad:          21536.7     0.011245     0.011144     0.011361

BabelStream 3 to 5 prints the same columns without a colon, `Array size: 268.4
MB (=0.3 GB)`, `Precision: double`; or with --csv the columns `function`,
`num_times`, `n_elements`, `sizeof`, `max_mbytes_per_sec` (or mibytes),
`min_runtime`. Its Init and Read phases are host copies and are skipped, as is
`Triad` alone, which is given in GB/s over the whole run.

Both rates count what the program asks for: no write-allocate. time_s and
bandwidth_Bps are those of the best run, as printed. Copy and Scale (Mul) are
op `copy`, Add, Triad and Nstream are `triad`, Dot is `stream`; `variant` names
the kernel. participants are the threads, where they are printed or given.
"""

import pathlib
import re

from diffmem import errors
from diffmem.traces.readers import text
from diffmem.traces.readers.ledger import Imported, Ledger, Options

# Kernel -> op, arrays read, arrays written.
_KERNELS = {
  'copy': ('copy', 1, 1),
  'scale': ('copy', 1, 1),
  'mul': ('copy', 1, 1),
  'add': ('triad', 2, 1),
  'triad': ('triad', 2, 1),
  'nstream': ('triad', 3, 1),
  'dot': ('stream', 2, 0),
}
_ROW = re.compile(
  r'(\w+):?\s+([\d.eE+-]+)\s+([\d.eE+-]+)\s+([\d.eE+-]+)\s+([\d.eE+-]+)\s*$'
)
_REPEATS = re.compile(r'(?:Running kernels|will be executed) (\d{1,12}) times')
_THREADS = re.compile(
  r'Number of Threads (?:counted|requested) = (\d{1,12})', re.IGNORECASE
)
_HEADER = 'Function'
# The rate's text agrees with bytes over the shortest time to its digits.
_TOLERANCE = 0.02


def read(path: pathlib.Path, options: Options) -> Imported:
  """Reads the output of STREAM or BabelStream.

  Raises:
    TraceError: neither, or rates and times that contradict each other.
  """
  ledger = Ledger(path, options)
  content = text.lines(path)
  if any(line.startswith('function,') for _, line in content):
    _read_csv(ledger, content, options)
  else:
    _read_text(ledger, content, options)
  return ledger.done()


def _read_text(ledger: Ledger, content, options: Options) -> None:
  whole = '\n'.join(line for _, line in content)
  repeats = _REPEATS.search(whole)
  threads = _THREADS.search(whole)
  n = options.participants or (int(threads[1]) if threads else None)
  in_table, unit = False, 1e6
  for line, row in content:
    if row.strip().startswith(_HEADER):
      in_table = True
      unit = 2.0**20 if 'MiB' in row else 1e6
      continue
    match = _ROW.match(row.strip())
    if not in_table or not match:
      continue
    name = match[1].lower()
    rate, *times = (
      text.number(ledger.path, line, column, value)
      for column, value in zip(
        ('rate', 'time', 'time', 'time'), match.groups()[1:], strict=True
      )
    )
    # STREAM prints the average first, BabelStream the minimum.
    best = min(times)
    _add(ledger, line, name, rate * unit, best, repeats and int(repeats[1]), n)
  if not in_table:
    raise errors.TraceError(
      ledger.path, expected="a table that starts with 'Function'"
    )


def _read_csv(ledger: Ledger, content, options: Options) -> None:
  start = next(
    i for i, (_, row) in enumerate(content) if row.startswith('function,')
  )
  for line, row in content[:start]:
    ledger.skip(line, f'not a kernel: {row.split(",")[0]}')
  header = [name.strip() for name in content[start][1].split(',')]
  for line, row in content[start + 1 :]:
    cells = row.split(',')
    if len(cells) != len(header):
      raise errors.TraceError(
        ledger.path, row=line, value=row[:60],
        expected=f'{len(header)} cells, as in the header',
      )  # fmt: skip
    _read_csv_row(ledger, line, dict(zip(header, cells, strict=True)), options)


def _read_csv_row(ledger: Ledger, line: int, cells: dict, options) -> None:
  def value(name: str) -> float:
    if name not in cells:
      raise errors.TraceError(
        ledger.path, column=name,
        expected=f'this column; the file has {", ".join(cells)}',
      )  # fmt: skip
    return text.number(ledger.path, line, name, cells[name])

  if 'min_runtime' not in cells:
    ledger.skip(line, 'a rate over the whole run, not of one kernel')
    return
  is_binary = 'max_mibytes_per_sec' in cells
  rate = value('max_mibytes_per_sec' if is_binary else 'max_mbytes_per_sec')
  _add(
    ledger,
    line,
    cells['function'].strip().lower(),
    rate * (2.0**20 if is_binary else 1e6),
    value('min_runtime'),
    int(value('num_times')),
    options.participants,
    array_B=value('n_elements') * value('sizeof'),
  )


def _add(
  ledger, line, name, rate, time_s, repeats, participants, array_B=None
) -> None:
  """One kernel; the array's size follows from rate and time if not given."""
  if name not in _KERNELS:
    ledger.skip(line, f'kernel {name!r} is not one of STREAM or BabelStream')
    return
  if rate < 1 or time_s <= 0:
    ledger.skip(line, 'no rate or no time')
    return
  op, reads, writes = _KERNELS[name]
  found = rate * time_s / (reads + writes)
  if array_B and abs(found / array_B - 1) > _TOLERANCE:
    raise errors.TraceError(
      ledger.path, row=line, column='rate', value=rate,
      expected=f'{(reads + writes) * array_B / time_s:.4g} B/s: '
      'arrays over the shortest time',
    )  # fmt: skip
  array_B = array_B or found
  ledger.add(
    line,
    system=ledger.system(),
    op=op,
    tier=ledger.tier(),
    bytes_read=reads * array_B,
    bytes_written=writes * array_B,
    participants=participants,
    working_set_bytes=(reads + writes) * array_B,
    variant=name,
    time_s=time_s,
    bandwidth_Bps=rate,
    repeats=repeats,
    source='STREAM',
    note='best run; write-allocate is not counted',
  )
