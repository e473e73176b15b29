"""A scratch file of random data that bypasses the page cache where it can."""

import os
import pathlib
import shutil
import tempfile

import numpy as np

_PIECE = 4 * 1024**2
_LEAST_BYTES = 16 * 1024**2
_FREE_SHARE = 0.25  # of the file system's free space, at most


class ScratchFile:
  """An open, already unlinked file: nothing of it outlives the process.

  Attributes:
    fd: File descriptor for reading.
    size: Bytes.
    direct: Whether reads bypass the page cache (O_DIRECT).
  """

  def __init__(self, folder: pathlib.Path, size: int):
    """Writes the file.

    Args:
      folder: Where; decides which disk is measured.
      size: Wanted bytes; less where the file system is nearly full.

    Raises:
      OSError: The folder cannot be written or has no room.
    """
    free = shutil.disk_usage(folder).free
    self.size = min(size, int(free * _FREE_SHARE)) // _PIECE * _PIECE
    if self.size < min(size, _LEAST_BYTES):
      raise OSError(f'{folder}: only {free} bytes free')
    handle, path = tempfile.mkstemp(prefix='diffmem-scratch-', dir=folder)
    try:
      with open(handle, 'wb', buffering=0) as file:
        _fill(file, self.size)
      self.fd, self.direct = _open_for_reading(path)
    finally:
      os.unlink(path)

  def forget(self) -> None:
    """Asks the kernel to drop cached pages of the file."""
    if hasattr(os, 'posix_fadvise'):
      os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

  def close(self) -> None:
    """Closes the file, which frees its space."""
    os.close(self.fd)


def _fill(file, size: int) -> None:
  random = np.random.default_rng()
  for _ in range(size // _PIECE):
    view = memoryview(random.bytes(_PIECE))
    while view:
      view = view[file.write(view) :]
  os.fsync(file.fileno())


def _open_for_reading(path: str) -> tuple[int, bool]:
  """Descriptor and whether it bypasses the page cache."""
  flag = getattr(os, 'O_DIRECT', 0)
  if flag:
    try:
      return os.open(path, os.O_RDONLY | flag), True
    except OSError:
      pass
  return os.open(path, os.O_RDONLY), False
