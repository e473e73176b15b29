"""nvbandwidth (NVIDIA/nvbandwidth), text and JSON; and tables of host links.

Text has for every test a headline, a description and a matrix in GB/s (1e9 B/s;
latencies in ns), 'N/A' where nothing was measured:

    Running host_to_device_memcpy_ce.
    memcpy CE CPU(row) -> GPU(column) bandwidth (GB/s)
              0         1
    0     55.36     55.41

JSON (--json) has `nvbandwidth.testcases`, each with `name`, `status` and
`bandwidth_matrix` of texts. Copies become rows `copy` on the tier where the
far end lives: DRAM for the host's memory, NVLink for another GPU's, HBM for
`device_local_copy`; bytes_read come from there, bytes_written go there. The
tool counts a byte once, a local copy moves it twice (read and write).
Bidirectional tests measure one direction beside a copy in the other, unless
they print a total; that half is taken to be as fast, and the note says so.
`..._latency_sm` are pointer chases. Tests in which several GPUs share the host
or a peer (`all_to_host`, `one_to_all` and the like) are skipped.
"""

import itertools
import pathlib
import re

from diffmem import errors
from diffmem.traces.readers import links, tables, text
from diffmem.traces.readers.ledger import Imported, Ledger, Options

_DEVICE = re.compile(r'Device \d+:\s*(.+?)(?:\s*\([0-9a-fA-F:.]+\))?\s*$')
_LISTED = re.compile(r'\d+:\s*(.+?)(?:\s*\([0-9a-fA-F:.]+\))?:?\s*$')
_RUNNING = re.compile(r'Running (\w+)\.')


def read(path: pathlib.Path, options: Options) -> Imported:
  """Reads nvbandwidth's text or JSON, or a table of link measurements.

  Raises:
    TraceError: neither, or a value that makes no sense.
  """
  if path.suffix in tables.SUFFIXES:
    return links.read(path, options)
  ledger = Ledger(path, options)
  if text.read(path).lstrip().startswith('{'):
    _read_json(ledger)
  else:
    _read_text(ledger)
  return ledger.done()


def _read_text(ledger: Ledger) -> None:
  content = text.lines(ledger.path)
  whole = '\n'.join(row for _, row in content)
  names = [m[1] for _, row in content if (m := _DEVICE.match(row.strip()))]
  if not _RUNNING.search(whole):
    raise errors.TraceError(
      ledger.path, expected="nvbandwidth's text: lines 'Running <test>.'"
    )
  test, title, columns = '', '', []
  for line, row in content:
    if found := _RUNNING.search(row):
      test, title, columns = found[1], '', []
    elif row.lstrip().startswith(('Waived', 'ERROR', 'Error')):
      ledger.skip(line, f'{test}: {row.strip()[:60]}')
    elif '(row)' in row or '(column)' in row:
      title, columns = row, []
    elif not title or row.startswith('SUM'):
      title = ''
    elif not columns:
      columns = row.split()
    else:
      _text_row(ledger, line, row, names, test, title, columns)


def _text_row(ledger, line, row, names, test, title, columns) -> None:
  label, *cells = row.split()
  if len(cells) != len(columns):
    raise errors.TraceError(
      ledger.path, row=line, column=test, value=row.strip()[:60],
      expected=f'{len(columns)} values, as in the line above',
    )  # fmt: skip
  if _is_part(title):
    ledger.skip(line, f'{test}: one direction; the total is used')
    return
  for column, cell in zip(columns, cells, strict=True):
    _cell(
      ledger, line, names, test, f'row {label} column {column}', cell,
      None, 'Total' in title,
    )  # fmt: skip


def _is_part(title: str) -> bool:
  return bool(re.search(r'(Read|Write)[12] ', title))


def _cell(ledger, row, names, test, where, cell, buffer_B, is_total) -> None:
  if str(cell) == 'N/A':
    return  # A device and itself, or a pair without a path: not measured.
  value = text.number(ledger.path, row, test, cell)
  if value <= 0:
    ledger.skip(row, f'{test} {where}: no bandwidth')
    return
  system = ledger.system(names[0] if names else None)
  links.add_test(ledger, row, system, test, where, value, buffer_B, is_total)


def _read_json(ledger: Ledger) -> None:
  path = ledger.path
  content = text.read_json(path)
  body = content.get('nvbandwidth', content)
  tests = body.get('testcases') if isinstance(body, dict) else None
  if not isinstance(tests, list):
    raise errors.TraceError(
      path, column='nvbandwidth.testcases', expected='a list of tests'
    )
  listed = body.get('GPU Device list')
  listed = listed if isinstance(listed, list) else []
  names = [m[1] for device in listed if (m := _LISTED.match(str(device)))]
  for i, test in enumerate(tests, 1):
    if not isinstance(test, dict) or not isinstance(test.get('name'), str):
      raise errors.TraceError(path, row=i, value=test, expected='a test case')
    matrix = test.get('bandwidth_matrix')
    if test.get('status') != 'Passed' or not matrix:
      ledger.skip(i, f'{test["name"]}: {test.get("status", "no status")}')
      continue
    _json_test(ledger, i, names, test, matrix)


def _json_test(ledger, i, names, test, matrix) -> None:
  if not isinstance(matrix, list) or not all(
    isinstance(row, list) for row in matrix
  ):
    raise errors.TraceError(
      ledger.path, row=i, column='bandwidth_matrix', value=matrix,
      expected='a list of rows',
    )  # fmt: skip
  title = str(test.get('bandwidth_description', ''))
  width = len(matrix[0])
  is_total = 'Total' in title
  if is_total and len(matrix) == 3 * width:
    # The matrices of both directions stand before that of their sum.
    matrix = matrix[-width:]
  buffer_B = test.get('bufferSize')
  if buffer_B is not None:
    buffer_B = text.number(ledger.path, i, 'bufferSize', buffer_B, low=1)
  for (r, row), c in itertools.product(enumerate(matrix), range(width)):
    if c < len(row):
      _cell(
        ledger, i, names, test['name'], f'row {r} column {c}', row[c],
        buffer_B, is_total,
      )  # fmt: skip
