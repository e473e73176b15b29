"""Request traces: who asked when, how long, and which prefixes they share.

Two files are read. JSON lines as Mooncake publishes them (Qin et al.,
"Mooncake", FAST 2025, section 4.1, and the traces beside it):

    {"timestamp": 27482, "input_length": 6955, "output_length": 52,
     "hash_ids": [46, 47, 48]}

with the time in ms and a hash per block of 512 tokens, the last one of which
may be part of a block; and Parquet with the same columns, or with
`arrival_ms` or `arrival_s`, `prompt_tokens`, `output_tokens`, `hash_ids`. A
trace without hashes (Azure, 2023) tells rates and lengths alone.
"""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffmem import errors
from diffmem.traces import files

# Tokens of a block whose hash Mooncake's traces have.
BLOCK_TOKENS = 512

# Columns by what they are called: of a time also its unit [s].
_TIMES = {'arrival_s': 1.0, 'arrival_ms': 1e-3, 'timestamp': 1e-3}
_PROMPTS = ('prompt_tokens', 'input_length')
_OUTPUTS = ('output_tokens', 'output_length')
_HASHES = ('hash_ids',)
_FORMATS = ('.parquet', '.jsonl')


class Requests(NamedTuple):
  """Requests in order of arrival.

  Attributes:
    arrival_s: since the first of them [s]; [request].
    prompt_tokens: of each prompt; [request].
    output_tokens: of each answer; [request].
    blocks: hashes of each prompt's blocks, from its start; None where the
      trace has none, and reuse cannot be seen.
    block_tokens: tokens of a block.
    source: where it was read.
  """

  arrival_s: np.ndarray
  prompt_tokens: np.ndarray
  output_tokens: np.ndarray
  blocks: tuple[Sequence[int], ...] | None
  block_tokens: int
  source: str

  @property
  def duration_s(self) -> float:
    """From the first arrival to the last [s]."""
    return float(self.arrival_s[-1])

  @property
  def requests_per_s(self) -> float:
    """Mean rate of requests [1/s]."""
    return len(self.arrival_s) / self.duration_s

  @property
  def tokens_per_s(self) -> float:
    """Mean rate of prompt tokens [1/s]."""
    return float(self.prompt_tokens.sum()) / self.duration_s


def read_requests(
  path: str | os.PathLike, block_tokens: int = BLOCK_TOKENS
) -> Requests:
  """Reads a request trace.

  Args:
    path: a `.jsonl` or `.parquet` file.
    block_tokens: tokens that a hash stands for.

  Raises:
    TraceError: names file, row, column, value and what was expected.
  """
  path = pathlib.Path(path)
  columns, count = files.read_columns(path, _FORMATS)
  if count < 2:
    raise errors.TraceError(
      path, value=count, expected='at least two requests, to have a rate'
    )
  time_name = _name_of(path, columns, tuple(_TIMES))
  arrival = _numbers(path, columns, time_name, least=0.0)
  _refuse_disorder(path, time_name, arrival)
  prompt_name = _name_of(path, columns, _PROMPTS)
  prompts = _numbers(path, columns, prompt_name, least=1.0, whole=True)
  outputs = _numbers(
    path, columns, _name_of(path, columns, _OUTPUTS), least=0.0, whole=True
  )
  hashes = next((name for name in _HASHES if name in columns), None)
  blocks = None
  if hashes is not None:
    blocks = _blocks(path, columns[hashes], hashes, prompts, block_tokens)
  return Requests(
    (arrival - arrival[0]) * _TIMES[time_name],
    prompts,
    outputs,
    blocks,
    block_tokens,
    str(path),
  )


def _name_of(path, columns, names: tuple[str, ...]) -> str:
  found = [name for name in names if name in columns]
  if len(found) != 1:
    raise errors.TraceError(
      path,
      value=', '.join(found) or ', '.join(columns),
      expected=f'exactly one of the columns {", ".join(names)}',
    )
  return found[0]


def _numbers(path, columns, name, *, least, whole=False) -> np.ndarray:
  expected = f'a {"whole " if whole else ""}number of at least {least:g}'
  for i, value in enumerate(columns[name]):
    if not _is_number(value, whole) or value < least:
      raise errors.TraceError(
        path, row=i + 1, column=name, value=value, expected=expected
      )
  return np.array(columns[name], np.float64)


def _is_number(value: Any, whole: bool) -> bool:
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return False
  return math.isfinite(value) and (not whole or value == int(value))


def _refuse_disorder(path, name, arrival) -> None:
  back = np.flatnonzero(np.diff(arrival) < 0)
  if len(back):
    row = int(back[0]) + 1
    raise errors.TraceError(
      path, row=row + 1, column=name, value=float(arrival[row]),
      expected=f'rows in order of arrival: at least {float(arrival[row - 1])}',
    )  # fmt: skip
  if not arrival[-1] > arrival[0]:
    raise errors.TraceError(
      path, column=name, value=float(arrival[0]),
      expected='requests at different times, to have a rate',
    )  # fmt: skip


def _blocks(path, values, name, prompts, block_tokens):
  """Hashes of each request, as many as its prompt has blocks."""
  for i, (hashes, tokens) in enumerate(zip(values, prompts, strict=True)):
    want = math.ceil(tokens / block_tokens)
    if not isinstance(hashes, list) or not all(
      isinstance(h, int) and not isinstance(h, bool) for h in hashes
    ):
      raise errors.TraceError(
        path, row=i + 1, column=name, value=hashes,
        expected='a list of whole numbers, one for each block',
      )  # fmt: skip
    if len(hashes) != want:
      raise errors.TraceError(
        path, row=i + 1, column=name, value=f'{len(hashes)} hashes',
        expected=f'{want}: {tokens:g} tokens in blocks of {block_tokens}',
      )  # fmt: skip
  return tuple(values)
