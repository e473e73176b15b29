"""Finished stages of a fit on disk, so that an interrupted one can go on."""

import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


class Store:
  """Arrays by name, kept in one file as long as its key is the same."""

  def __init__(self, path: str | os.PathLike | None, key: str):
    """Opens a store.

    Args:
      path: the file; None keeps everything in memory.
      key: of the work; what another key has stored is not used.
    """
    self._path = pathlib.Path(path) if path else None
    self._key = key
    self._kept: dict[str, np.ndarray] = {}
    if self._path and self._path.is_file():
      try:
        with np.load(self._path) as file:
          kept = {name: file[name] for name in file.files}
      except (OSError, ValueError, EOFError):
        kept = {}
      if str(kept.pop('key', '')) == self._key:
        self._kept = kept

  def get(self, name: str, default: np.ndarray) -> np.ndarray:
    """What is stored under a name, or the default."""
    return self._kept.get(name, default)

  def put(self, name: str, value: np.ndarray) -> None:
    """Stores an array, atomically."""
    self._kept[name] = value
    if not self._path:
      return
    self._path.parent.mkdir(parents=True, exist_ok=True)
    scratch = self._path.with_name(f'{self._path.stem}.{os.getpid()}.tmp.npz')
    np.savez(scratch, key=np.array(self._key), **self._kept)
    scratch.replace(self._path)

  def once(self, name: str, make: Callable[[], tuple]) -> tuple:
    """The stored parts of a stage, or those that `make` gives, stored."""
    if f'{name}_0' in self._kept:
      stored = [k for k in self._kept if k.startswith(f'{name}_')]
      return tuple(self._kept[f'{name}_{i}'] for i in range(len(stored)))
    parts = make()
    for i, part in enumerate(parts):
      self.put(f'{name}_{i}', np.asarray(part))
    return parts

  def clear(self) -> None:
    """Removes the file: the work is done."""
    if self._path:
      self._path.unlink(missing_ok=True)


def fingerprint(text: str, tree: Any) -> str:
  """A key for work on these arrays with this description."""
  digest = hashlib.sha256(text.encode())
  for leaf in jax.tree.leaves(tree):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()
