"""Reading and writing traces: Parquet, CSV and JSON lines."""

import csv
import hashlib
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from diffmem import errors
from diffmem.traces import schema, table

FORMATS = ('.parquet', '.csv', '.jsonl')


def read_traces(path: str | os.PathLike) -> table.Traces:
  """Reads a trace file; the format follows from the name's ending.

  Args:
    path: a `.parquet`, `.csv` or `.jsonl` file in the schema of
      `diffmem.traces.schema`. Empty cells and JSON nulls mean "unknown".

  Returns:
    Every row of the file; nothing is dropped.

  Raises:
    TraceError: names file, row, column, value and what was expected.
  """
  values, n = read_columns(path)
  path = pathlib.Path(path)
  _refuse_nan(values, path)
  return table.from_columns(values, n, str(path))


def read_columns(
  path: str | os.PathLike, formats: tuple[str, ...] = FORMATS
) -> tuple[dict[str, list], int]:
  """Reads the columns of a table file as they are; unread texts in CSV.

  Args:
    path: a file of one of the formats.
    formats: endings that are allowed.

  Returns:
    Values by column, None where there is none, and the number of rows.

  Raises:
    TraceError: no such file, or a damaged one.
  """
  path = pathlib.Path(path)
  if path.suffix not in formats:
    raise errors.TraceError(path, expected=f'a name ending in {formats}')
  if not path.is_file():
    raise errors.TraceError(path, expected='a file; there is none')
  if path.stat().st_size == 0:
    raise errors.TraceError(path, expected='a trace; the file is empty')
  reader = {
    '.parquet': _read_parquet, '.csv': _read_csv, '.jsonl': _read_jsonl
  }[path.suffix]  # fmt: skip
  return reader(path)


def check_writable(path: str | os.PathLike) -> None:
  """Makes sure, before hours of measuring, that the trace can be written.

  Raises:
    TraceError: an unknown ending, or a folder that cannot be written to.
  """
  path = pathlib.Path(path)
  if path.suffix not in FORMATS:
    raise errors.TraceError(path, expected=f'a name ending in {FORMATS}')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.TraceError(
      path, expected=f'a folder to write to ({error.strerror})'
    ) from None
  if path.is_dir() or not os.access(path.parent, os.W_OK):
    raise errors.TraceError(path, expected='a file that can be written')


def write_traces(path: str | os.PathLike, traces: table.Traces) -> None:
  """Writes a trace under a temporary name, then renames it.

  Raises:
    TraceError: an unknown ending, or a folder that cannot be written to.
  """
  path = pathlib.Path(path)
  check_writable(path)
  scratch = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    {
      '.parquet': _write_parquet, '.csv': _write_csv, '.jsonl': _write_jsonl
    }[path.suffix](scratch, traces)  # fmt: skip
    scratch.replace(path)
  finally:
    scratch.unlink(missing_ok=True)


def sha256(path: str | os.PathLike) -> str:
  """SHA-256 of a file, in hexadecimal."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _read_parquet(path: pathlib.Path):
  import pyarrow as pa
  import pyarrow.parquet as pq

  try:
    data = pq.ParquetFile(path).read()
  except (pa.ArrowException, OSError) as error:
    reason = str(error).splitlines()[0]
    raise errors.TraceError(
      path, expected=f'a whole Parquet file; it is damaged ({reason})'
    ) from None
  return {n: data[n].to_pylist() for n in data.column_names}, data.num_rows


def _read_csv(path: pathlib.Path):
  try:
    with open(path, newline='', encoding='utf-8') as file:
      lines = list(csv.reader(file, strict=True))
  except (UnicodeDecodeError, csv.Error) as error:
    raise errors.TraceError(path, expected=f'CSV in UTF-8 ({error})') from None
  header, *rows = lines or [[]]
  repeated = {name for name in header if header.count(name) > 1}
  if repeated:
    raise errors.TraceError(
      path, column=min(repeated), expected='every column once'
    )
  rows = [row for row in rows if row]
  for i, row in enumerate(rows):
    if len(row) != len(header):
      raise errors.TraceError(
        path, row=i + 1, value=','.join(row)[:80],
        expected=f'{len(header)} cells as in the header; it has {len(row)}',
      )  # fmt: skip
  values = {
    name: [row[j] or None for row in rows] for j, name in enumerate(header)
  }
  return values, len(rows)


def _read_jsonl(path: pathlib.Path):
  rows: list[dict[str, Any]] = []
  try:
    lines = path.read_text(encoding='utf-8').splitlines()
  except UnicodeDecodeError as error:
    raise errors.TraceError(path, expected=f'UTF-8 ({error})') from None
  for line in lines:
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      raise errors.TraceError(
        path, row=len(rows) + 1, value=line[:80],
        expected=f'one JSON object ({error.msg} at character {error.pos})',
      ) from None  # fmt: skip
    if not isinstance(row, dict):
      raise errors.TraceError(
        path, row=len(rows) + 1, value=line[:80], expected='a JSON object'
      )
    rows.append(row)
  names = dict.fromkeys(name for row in rows for name in row)
  return {n: [row.get(n) for row in rows] for n in names}, len(rows)


def _refuse_nan(values, path) -> None:
  """In memory NaN is null; in a file it is a failed measurement."""
  for name, column in values.items():
    for i, value in enumerate(column):
      if isinstance(value, float) and math.isnan(value):
        raise errors.TraceError(
          path, row=i + 1, column=name, value=value,
          expected='a number, or an empty cell where nothing is known',
        )  # fmt: skip


def _write_parquet(path: pathlib.Path, traces: table.Traces) -> None:
  import pyarrow as pa
  import pyarrow.parquet as pq

  types = {
    schema.Kind.TEXT: pa.string(),
    schema.Kind.NUMBER: pa.float64(),
    schema.Kind.COUNT: pa.int64(),
  }
  arrays = {}
  for name, values in traces.columns.items():
    kind = schema.BY_NAME[name].kind
    is_text = kind is schema.Kind.TEXT
    null = values == '' if is_text else np.isnan(values)
    if kind is schema.Kind.COUNT:
      values = np.where(null, 0, values).astype(np.int64)
    arrays[name] = pa.array(values, types[kind], mask=null)
  pq.write_table(pa.table(arrays), path, compression='zstd')


def _write_csv(path: pathlib.Path, traces: table.Traces) -> None:
  with open(path, 'w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, list(traces.columns))
    writer.writeheader()
    writer.writerows(traces.rows())


def _write_jsonl(path: pathlib.Path, traces: table.Traces) -> None:
  with open(path, 'w', encoding='utf-8') as file:
    for row in traces.rows():
      file.write(json.dumps(row) + '\n')
