"""What the probes of one run share: options, kernels, files, calibration."""

import dataclasses
import pathlib
import random
from typing import Any

from diffmem.traces.collect import disk_file, fallback
from diffmem.traces.collect import kernels as kernels_lib
from diffmem.traces.collect import machine as machine_lib

MIB = machine_lib.MIB


class SkipProbe(Exception):  # noqa: N818  (an outcome, not an error)
  """This machine cannot answer the probe; the text says why."""


@dataclasses.dataclass(frozen=True)
class Options:
  """What to measure and how long.

  Attributes:
    system: Name of this machine in the rows.
    scratch_dir: Where the disk probes put their file (removed afterwards);
      the current folder by default. It decides which disk is measured.
    passes: How often the whole list is run; the repeats of one row are
      spread over the passes, so that a burst of noise hits few of them.
      Slow probes take part in every other pass only.
    repeats: Repeats of a row in one pass.
    repeat_s: Aimed duration of one repeat: short, to fit between the bursts
      of other programs.
    budget_s: No measurement starts later; rows then have fewer passes.
    chase_per_octave: Working sets per factor of two, pointer chase.
    sweep_per_octave: The same for stream, copy and triad.
    load_levels: Throttle levels of one loaded-latency series.
    disk_bytes: Size of the scratch file.
    disk_blocks: Block sizes of the file reads.
    disk_depths: Queue depths of the random reads.
    disk_repeat_s: Aimed duration of one repeat of file reads.
    disk_repeats: Repeats of file reads in one pass.
    programs: Whether JAX programs are measured too.
    largest_bytes: Largest working set; by default several last-level caches.
    seed: Order of the probes, permutations and file offsets.
    native: Whether C kernels may be built; numpy measures otherwise.
  """

  system: str = 'this-machine'
  scratch_dir: pathlib.Path | None = None
  passes: int = 7
  repeats: int = 12
  repeat_s: float = 0.0007
  budget_s: float = 45.0
  chase_per_octave: float = 2.0
  sweep_per_octave: float = 1.25
  load_levels: int = 8
  disk_bytes: int = 256 * MIB
  disk_blocks: tuple[int, ...] = tuple(4096 * 4**i for i in range(6))
  disk_depths: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
  disk_repeat_s: float = 0.02
  disk_repeats: int = 2
  programs: bool = True
  largest_bytes: int | None = None
  seed: int = 0
  native: bool = True

  @classmethod
  def quick(cls, **changes: Any) -> 'Options':
    """A coarse profile of about ten seconds, for tests and first looks."""
    fast = cls(
      passes=3, repeats=8, repeat_s=0.0005, budget_s=10.0, chase_per_octave=1.0,
      sweep_per_octave=0.5, load_levels=4, disk_bytes=128 * MIB,
      disk_blocks=(4096, 65536, MIB), disk_depths=(1, 4, 16),
      disk_repeat_s=0.015,
    )  # fmt: skip
    return dataclasses.replace(fast, **changes)


class Session:
  """Everything the probes of one run share. A context manager."""

  def __init__(
    self, options: Options, machine: machine_lib.Machine | None = None
  ):
    self.options = options
    self.machine = machine or machine_lib.describe()
    self.random = random.Random(options.seed)
    self.memo: dict[Any, Any] = {}
    native = None
    if options.native:
      native = kernels_lib.open_kernels(self.machine)
    self.kernels = native or fallback.NumpyKernels()
    self._file: disk_file.ScratchFile | None = None

  def __enter__(self) -> 'Session':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def scratch_file(self) -> disk_file.ScratchFile:
    """The file of the disk probes, made at the first call."""
    if self._file is None:
      folder = self.options.scratch_dir or pathlib.Path.cwd()
      self._file = disk_file.ScratchFile(folder, self.options.disk_bytes)
    return self._file

  def largest_bytes(self) -> int:
    """Largest working set of the memory probes."""
    return self.options.largest_bytes or self.machine.dram_bytes()

  def row(self, op: str, **columns: Any) -> dict[str, Any]:
    """A trace row of this run; columns that are None are left out."""
    row = {'system': self.options.system, 'op': op, **columns}
    row.setdefault('source', self.kernels.source)
    return {key: value for key, value in row.items() if value is not None}

  def close(self) -> None:
    """Frees the memory and removes the file."""
    self.kernels.close()
    self.memo.clear()
    if self._file is not None:
      self._file.close()
      self._file = None
