"""What the collectors need to know about this machine.

Cache sizes come from sysfs (Linux), with plain defaults where it is absent:
they choose the grid of working sets, they are never reported as measured.
"""

import dataclasses
import math
import os
import pathlib
import platform
import shutil

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_DEFAULT_CACHES = (32 * KIB, 1 * MIB, 16 * MIB)  # L1, L2, L3
_DEFAULT_MEMORY = 2 * GIB
_SYSFS = pathlib.Path('/sys')
_PROC = pathlib.Path('/proc')


@dataclasses.dataclass(frozen=True)
class Machine:
  """One machine as its operating system describes it.

  Attributes:
    cpus: The CPUs that this process may use.
    cache_bytes: Data cache sizes, nearest first.
    private: Whether each of them serves one CPU alone.
    available_bytes: Main memory that can be taken without swapping.
    memory_bytes: Main memory in all.
    disk_bytes: Room left on the disk of the current folder.
    huge_pages: Whether `madvise` can give huge pages.
    cpu_model: Name and features of the CPU; a key for compiled code.
  """

  cpus: tuple[int, ...]
  cache_bytes: tuple[int, ...]
  private: tuple[bool, ...]
  available_bytes: int
  memory_bytes: int
  disk_bytes: int
  huge_pages: bool
  cpu_model: str

  @property
  def processor(self) -> str:
    """Name of the CPU, such as 'Intel(R) Xeon(R) Processor @ 2.50GHz'."""
    for line in self.cpu_model.splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
    return self.cpu_model.splitlines()[0]

  @property
  def last_cache_bytes(self) -> int:
    """Size of the last-level cache, bytes."""
    return self.cache_bytes[-1]

  def dram_bytes(self) -> int:
    """Largest working set: several last-level caches, bytes.

    Eight of them, between 256 MiB and 1 GiB, and never more than a twelfth
    of the available memory (several such buffers are alive at once).
    """
    wanted = min(max(8 * self.last_cache_bytes, 256 * MIB), GIB)
    allowed = max(self.available_bytes // 12, 16 * MIB)
    return min(wanted, allowed) // (2 * MIB) * (2 * MIB)


def describe() -> Machine:
  """Reads the machine that this process runs on. Never fails."""
  caches = _caches() or [(size, size < 4 * MIB) for size in _DEFAULT_CACHES]
  return Machine(
    cpus=allowed_cpus(),
    cache_bytes=tuple(size for size, _ in caches),
    private=tuple(alone for _, alone in caches),
    available_bytes=_meminfo('MemAvailable'),
    memory_bytes=_meminfo('MemTotal'),
    disk_bytes=shutil.disk_usage(os.getcwd()).free,
    huge_pages=_huge_pages(),
    cpu_model=_cpu_model(),
  )


def allowed_cpus() -> tuple[int, ...]:
  """The CPUs this process may run on (all of them where unknown)."""
  if hasattr(os, 'sched_getaffinity'):
    return tuple(sorted(os.sched_getaffinity(0)))
  return tuple(range(os.cpu_count() or 1))


def thread_counts(n_cpus: int) -> tuple[int, ...]:
  """1, 2, 4, ... and the number of CPUs itself."""
  powers = (2**i for i in range(int(math.log2(n_cpus)) + 1))
  return tuple(sorted({*powers, n_cpus}))


def waited_s() -> float:
  """Time that this process's threads have waited for a CPU so far, s.

  The sum over threads of the second field of Linux's `schedstat`
  (Documentation/scheduler/sched-stats.rst); 0 where it is not kept.
  """
  total_ns = 0
  for path in (_PROC / 'self/task').glob('*/schedstat'):
    try:
      total_ns += int(path.read_text().split()[1])
    except (OSError, ValueError, IndexError):
      continue
  return total_ns * 1e-9


def _caches() -> list[tuple[int, bool]]:
  """Size in bytes and privacy of each data cache level, nearest first."""
  found = {}
  folder = _SYSFS / 'devices/system/cpu/cpu0/cache'
  for index in sorted(folder.glob('index*')):
    try:
      if (index / 'type').read_text().strip() == 'Instruction':
        continue
      level = int((index / 'level').read_text())
      size = parse_size((index / 'size').read_text())
      shared = (index / 'shared_cpu_list').read_text().strip()
    except (OSError, ValueError):
      continue
    if size > 0:
      found[level] = (size, shared.isdigit())
  return [found[level] for level in sorted(found)]


def parse_size(text: str) -> int:
  """Reads sysfs sizes such as `'36608K'`, bytes."""
  text = text.strip()
  units = {'K': KIB, 'M': MIB, 'G': GIB}
  if text and text[-1] in units:
    return int(text[:-1]) * units[text[-1]]
  return int(text)


def _meminfo(key: str) -> int:
  try:
    for line in (_PROC / 'meminfo').read_text().splitlines():
      if line.startswith(f'{key}:'):
        return int(line.split()[1]) * KIB
  except (OSError, ValueError, IndexError):
    pass
  return _DEFAULT_MEMORY


def _huge_pages() -> bool:
  path = _SYSFS / 'kernel/mm/transparent_hugepage/enabled'
  try:
    return '[never]' not in path.read_text()
  except OSError:
    return False


def _cpu_model() -> str:
  keep = ('vendor_id', 'model name', 'flags', 'Features', 'CPU part')
  try:
    lines = (_PROC / 'cpuinfo').read_text().split('\n\n')[0].splitlines()
  except OSError:
    lines = []
  known = [line for line in lines if line.startswith(keep)]
  return '\n'.join([platform.machine(), platform.system(), *known])
