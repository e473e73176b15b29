"""Tables of measured runs: which kind one is, and its rows."""

import enum
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from diffmem import errors
from diffmem.runs.answer import Answer

Z90 = 1.6448536269514722


class Kind(enum.StrEnum):
  """What a table measures."""

  TRAINING = 'training'
  SERVING = 'serving'
  OFFLOAD = 'offload'
  ENERGY = 'energy'


# Columns that tell the kinds apart.
_SIGNS = {
  Kind.TRAINING: ('n_accel', 'accelerator'),
  Kind.SERVING: ('input_len', 'concurrency'),
  Kind.OFFLOAD: ('prompt_len', 'gen_len'),
  Kind.ENERGY: ('energy_per_token_J', 'num_gpus'),
}


def read(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """The rows of a Parquet or CSV file.

  Raises:
    TraceError: a file that is missing, unreadable or empty.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise errors.TraceError(path, expected='a file; there is none')
  try:
    if path.suffix == '.csv':
      table = pyarrow.csv.read_csv(path)
    else:
      table = pyarrow.parquet.read_table(path)
  except (pa.ArrowException, OSError) as error:
    raise errors.TraceError(
      path, expected=f'a Parquet or CSV table of runs: {error}'
    ) from None
  if not table.num_rows:
    raise errors.TraceError(path, expected='at least one row; it has none')
  return table.to_pylist()


def kind_of(rows: Sequence[dict[str, Any]], origin: str) -> Kind:
  """Which kind of runs the rows are, by their columns.

  Raises:
    TraceError: columns of no kind.
  """
  for kind, signs in _SIGNS.items():
    if all(name in rows[0] for name in signs):
      return kind
  known = '; '.join(f'{k}: {", ".join(s)}, ...' for k, s in _SIGNS.items())
  raise errors.TraceError(
    origin,
    expected=f'the columns of one kind of runs ({known}); it has '
    f'{", ".join(rows[0])}',
  )


def write(path: str | pathlib.Path, answers: Sequence[Answer]) -> None:
  """Writes one row per answer, as Parquet."""
  low, high = (
    [a.predicted * math.exp(sign * Z90 * a.log_sd) for a in answers]
    for sign in (-1.0, 1.0)
  )
  table = pa.table(
    {
      'index': pa.array([a.index for a in answers], pa.int64()),
      'observable': [a.observable for a in answers],
      'observed': pa.array([_null(a.observed) for a in answers], pa.float64()),
      'predicted': pa.array(
        [_null(a.predicted) for a in answers], pa.float64()
      ),
      'lo90': pa.array([_null(v) for v in low], pa.float64()),
      'hi90': pa.array([_null(v) for v in high], pa.float64()),
      'status': [a.status for a in answers],
    }
  )
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  pyarrow.parquet.write_table(table, path)


def _null(value: float) -> float | None:
  return None if math.isnan(value) else value
