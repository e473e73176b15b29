"""The arrays of a checkpoint: Orbax v1, numpy in and numpy out.

Numpy arrays are written as they are, float64 whether or not jax is in x64
mode, and restored to numpy on any number of devices. Orbax is imported on
first use: it takes half a second.
"""

import contextlib
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes named arrays to a new folder (an absolute path)."""
  with _orbax() as ocp:
    ocp.save(path, dict(arrays))
  # Says where it was written, which is nobody's business once it is moved;
  # the rename of the whole folder is what commits a checkpoint.
  (path / 'commit_success.txt').unlink(missing_ok=True)


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads all arrays of a folder (an absolute path), exactly as saved."""
  with _orbax() as ocp:
    return {name: np.asarray(a) for name, a in ocp.load(path).items()}


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
  """The Orbax module, silent."""
  import orbax.checkpoint.experimental.v1 as ocp

  logger = logging.getLogger('absl')
  logger.addFilter(_is_worth_showing)
  try:
    yield ocp
  finally:
    logger.removeFilter(_is_worth_showing)


def _is_worth_showing(record: logging.LogRecord) -> bool:
  """Drops Orbax's reports of progress, and nothing else."""
  return record.levelno >= logging.ERROR or 'orbax' not in record.pathname
