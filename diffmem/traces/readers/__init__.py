"""Readers of the files that people already have, into our trace schema.

Every reader has one interface: a path and `Options` in, `Imported` out, which
holds the traces and an account of what could not be used. `read` adds the
checks that all of them share.

  >>> from diffmem.traces import readers
  >>> sorted(readers.FORMATS)[:3]
  ['collectives', 'fio', 'gpu_kernels']
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from diffmem import errors
from diffmem.traces.readers import (
  collectives,
  fio,
  gpu_kernels,
  mess,
  ml_energy,
  mlc,
  nvbandwidth,
  only,
  roofline_power,
  stream,
  xplane,
)
from diffmem.traces.readers.ledger import Imported as Imported
from diffmem.traces.readers.ledger import Options as Options
from diffmem.traces.readers.ledger import Skipped as Skipped


class Reader(Protocol):
  """Reads one format.

  Raises:
    TraceError: names file, row, column, value and what was expected.
  """

  def __call__(self, path: pathlib.Path, options: Options) -> Imported:
    """Reads a file, or a folder where the format has folders."""


FORMATS: Mapping[str, Reader] = {
  'mess': mess.read,
  'gpu_kernels': gpu_kernels.read,
  'collectives': collectives.read,
  'fio': fio.read,
  'mlc': mlc.read,
  'nvbandwidth': nvbandwidth.read,
  'stream': stream.read,
  'roofline_power': roofline_power.read,
  'ml_energy': ml_energy.read,
  'xplane': xplane.read,
}
_NO_OPTIONS = Options()
_WITH_FOLDERS = frozenset({'mess', 'gpu_kernels', 'xplane'})


def read(
  path: str | os.PathLike, format: str, options: Options = _NO_OPTIONS
) -> Imported:
  """Reads a file of another tool.

  Args:
    path: a file; a folder for mess, gpu_kernels and xplane.
    format: a name of `FORMATS`.
    options: what the file does not say of itself.

  Returns:
    The traces, and what was left out with its reasons.

  Raises:
    TraceError: names file, row, column, value and what was expected.
  """
  path = pathlib.Path(path)
  if format not in FORMATS:
    raise errors.TraceError(
      path,
      column='format',
      value=format,
      expected=f'one of {", ".join(FORMATS)}',
    )
  if options.op and format != 'gpu_kernels':
    raise errors.TraceError(
      path, column='op', value=options.op,
      expected=f'no op: a {format} file tells its own',
    )  # fmt: skip
  if path.is_dir() and format not in _WITH_FOLDERS:
    raise errors.TraceError(path, expected='a file; this is a folder')
  if not path.exists():
    raise errors.TraceError(path, expected='a file; there is none')
  if path.is_file() and path.stat().st_size == 0:
    raise errors.TraceError(path, expected=f'a {format} file; it is empty')
  try:
    return _selected(FORMATS[format], path, options)
  except OSError as error:
    raise errors.TraceError(
      path, expected=f'a file that can be read ({error.strerror})'
    ) from None


def _selected(reader: Reader, path: pathlib.Path, options: Options) -> Imported:
  """What a reader finds, less what the patterns leave out.

  Patterns speak of the names that the file gives, so that a new name for the
  machine comes after them.
  """
  if not options.only:
    return reader(path, options)
  patterns = [only.parse(path, pattern) for pattern in options.only]
  renames = options.system and any(p.column == 'system' for p in patterns)
  if renames:
    found = reader(path, dataclasses.replace(options, system=None))
  else:
    found = reader(path, options)
  found = only.select(found, path, patterns)
  if renames:
    names = np.full(len(found.traces), options.system, object)
    columns = dict(found.traces.columns) | {'system': names}
    traces = dataclasses.replace(found.traces, columns=columns)
    found = dataclasses.replace(found, traces=traces)
  return found
