"""Compiled functions that outlive the process, traces and all.

XLA's persistent cache keeps what is compiled; but before it is asked, jax
traces the Python function, which for a planner's programs takes longer than
all the rest of a second run. `Program` keeps the executable itself, in the same
folder, under a key of diffmem's sources, jax's version, the processor, the
static arguments and the shapes, so that a second run traces nothing. Without a
folder, or with several devices, it is a plain jitted function.
"""

import functools
import hashlib
import logging
import os
import pathlib
import pickle
import platform
import uuid
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import serialize_executable

from diffmem.system import fresh

_log = logging.getLogger(__name__)
_PACKAGE = pathlib.Path(__file__).parent.parent


class Program:
  """A jitted function of arrays and hashable static arguments.

  Attributes:
    fn: the function; its results are pytrees of arrays.
    static: positions of its static arguments.
    options: of XLA's compiler.
  """

  def __init__(
    self,
    fn: Callable,
    static: tuple[int, ...] = (),
    options: dict[str, Any] | None = None,
  ):
    self.fn, self.static, self.options = fn, static, options
    self._calls: dict[Any, Callable] = {}

  def __call__(self, *args: Any) -> Any:
    """Calls the function; traces it where no process has before."""
    call, leaves = self._prepared(args)
    return call(leaves)

  def prepare(self, *args: Any) -> None:
    """Makes what a call with these arguments would need, and calls nothing."""
    self._prepared(args)

  def _prepared(self, args: tuple) -> tuple[Callable, list]:
    """The executable for the arguments, and their leaves."""
    static = tuple(args[i] for i in self.static)
    moving = [a for i, a in enumerate(args) if i not in self.static]
    leaves, structure = jax.tree.flatten(moving)
    # Not as jax may remember them.
    leaves = [
      x if hasattr(x, 'dtype') else np.asarray(x) for x in fresh(leaves)
    ]
    shapes = tuple((x.shape, x.dtype) for x in leaves)
    key = (static, structure, shapes, jax.config.jax_enable_x64)
    if key not in self._calls:
      self._calls[key] = self._load(key, args, leaves, structure)
    return self._calls[key], leaves

  def _load(self, key, args, leaves, structure) -> Callable:
    path = self._path(key)
    # An executable that came from XLA's cache cannot be kept again: no name
    # is used twice for one that is to be kept.
    name = self.fn.__name__ + (f'_{uuid.uuid4().hex}' if path else '')
    jitted, result = self._flat(args, structure, name)
    if path is None:
      return lambda leaves: _whole(jitted(*leaves), _skeleton(result))
    kept = _read(path)
    if kept is None:
      compiled = jitted.lower(*leaves).compile()
      kept = compiled, _skeleton(result)
      _write(path, (serialize_executable.serialize(compiled), kept[1]))
    compiled, skeleton = kept
    return lambda leaves: _whole(compiled(*leaves), skeleton)

  def _flat(self, args, structure, name: str) -> tuple[Callable, list]:
    """From leaves to leaves; the result's structure, once it was traced."""
    result = []

    def run(*leaves):
      rest = iter(jax.tree.unflatten(structure, leaves))
      given = [a if i in self.static else next(rest)
               for i, a in enumerate(args)]  # fmt: skip
      out, found = jax.tree.flatten(self.fn(*given))
      result[:] = [found]
      return out

    run.__name__ = run.__qualname__ = name
    return jax.jit(run, compiler_options=self.options), result

  def _path(self, key) -> pathlib.Path | None:
    folder = jax.config.jax_compilation_cache_dir
    if not folder or jax.device_count() > 1:
      return None
    name = f'{self.fn.__module__}.{self.fn.__qualname__}'
    text = repr((name, key, self.options, _version()))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return pathlib.Path(folder) / f'diffmem-{self.fn.__name__}-{digest}'


def _skeleton(result: list) -> Any:
  """The result with numbers for leaves: what a pickle can keep."""
  return jax.tree.unflatten(result[0], range(result[0].num_leaves))


def _whole(leaves, skeleton) -> Any:
  return jax.tree.map(lambda i: leaves[i], skeleton)


def _read(path: pathlib.Path) -> tuple[Callable, Any] | None:
  try:
    executable, skeleton = pickle.loads(path.read_bytes())
    return serialize_executable.deserialize_and_load(*executable), skeleton
  except FileNotFoundError:
    return None
  except Exception as error:  # a file cut short, or of another version
    _log.warning('%s is left out: %s', path, error)
    return None


def _write(path: pathlib.Path, kept: tuple[tuple, Any]) -> None:
  """Written aside and renamed; without it the next run only takes longer."""
  aside = path.with_name(f'{path.name}.{os.getpid()}')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside.write_bytes(pickle.dumps(kept))
    aside.replace(path)
  except OSError as error:
    _log.warning('%s is not kept: %s', path, error)


@functools.cache
def _version() -> str:
  """Of jax, the processor, and every source that a program is made from."""
  made_for = (
    jax.__version__, jax.default_backend(), jax.devices()[0].device_kind,
    platform.platform(), _processor(), os.environ.get('XLA_FLAGS', ''),
  )  # fmt: skip
  digest = hashlib.sha256(repr(made_for).encode())
  for path in sorted(_PACKAGE.rglob('*.py')):
    digest.update(path.read_bytes())
  return digest.hexdigest()


def _processor() -> str:
  """Its instructions, where the system tells them."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return platform.processor()
  return next((x for x in lines if x.startswith(('flags', 'Features'))), '')
