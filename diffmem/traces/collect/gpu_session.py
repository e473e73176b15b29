"""What the probes of a GPU share: options, device, board, timing."""

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from diffmem import errors
from diffmem.traces.collect import samples

MIB = 1024**2
GIB = 1024**3
SOURCE = 'diffmem collect'
_USUAL_L2_BYTES = 50 * MIB
_USUAL_MEMORY_BYTES = 64 * GIB
_MOST_PASSES = 2000
_MOST_CALLS = 1000
_WARM_UP_CALLS = 2
# How the catalog names boards; 'PCIe' and 'NVL' cards are other machines.
_BOARDS = (
  (r'NVIDIA H100 80GB HBM3', 'h100-sxm'),
  (r'NVIDIA H200', 'h200-sxm'),
  (r'NVIDIA A100-SXM4-\d+GB', 'a100-sxm'),
  (r'NVIDIA B200', 'b200-sxm'),
  (r'NVIDIA GB200', 'gb200'),
)
_FLOAT32_RATE = 4e13


@dataclasses.dataclass(frozen=True)
class GpuOptions:
  """How a GPU is measured, and how long.

  Attributes:
    system: Name of the machine in the rows; None takes it from the device.
    budget_s: No measurement starts later.
    repeats: Repeats of a row.
    sample_s: Aimed duration of one repeat: many calls, one wait at the end,
      so that dispatch and wait (about 0.1 ms) are below 1 %.
    call_s: Aimed duration of one call, of which the passes are a loop.
    guess_Bps: Bandwidth that the number of passes is guessed from.
    guess_FLOPps: The same for matrix products of two-byte numbers.
    window_s: Length of a power window, after the part that is discarded.
    settle_s: What is discarded: NVML averages over about a second.
    warm_up_s: Work before the first probe, to bring the clocks up.
    seed: Order of the chains.
    quick: Whether every third probe will do.
    passes: Visits of each probe.
  """

  system: str | None = None
  budget_s: float = 480.0
  repeats: int = 7
  sample_s: float = 0.02
  call_s: float = 0.004
  guess_Bps: float = 2e12
  guess_FLOPps: float = 4e14
  window_s: float = 3.0
  settle_s: float = 1.2
  warm_up_s: float = 0.5
  seed: int = 0
  quick: bool = False
  passes: int = 1


class GpuSession:
  """Device, board and memory of the probes. A context manager.

  Attributes:
    options: of the run.
    device: the jax device.
    board: NVML's view of it, see `gpu_power`, or None.
    board_remark: why there is none.
    memo: measured once, used by several probes.
  """

  def __init__(
    self,
    options: GpuOptions,
    device: Any,
    board: Any = None,
    board_remark: str = 'no NVML',
  ):
    self.options = options
    self.device = device
    self.board = board
    self.board_remark = board_remark
    self.memo: dict[Any, Any] = {}
    self._kept: tuple[Any, Any] | None = None

  def __enter__(self) -> 'GpuSession':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Frees the device's memory."""
    self.memo.clear()
    self._kept = None

  @property
  def name(self) -> str:
    """Name of the machine in the rows."""
    return self.options.system or system_name(self.device.device_kind)

  @property
  def l2_bytes(self) -> int:
    """Capacity of the second-level cache, from the name of the machine."""
    return l2_bytes(self.name)

  def row(self, op: str, implementation: str, **columns: Any) -> dict[str, Any]:
    """A trace row; columns that are None are left out."""
    row = {
      'system': self.name,
      'op': op,
      'variant': variant(self.device, implementation),
      'source': SOURCE,
      **columns,
    }
    return {key: value for key, value in row.items() if value is not None}

  def passes(self, pass_s: float) -> int:
    """Passes of a loop in one call, from a guess of a pass's time [s].

    The number is part of the compiled program: XLA asks the host before each
    turn of a loop whose length it does not know.
    """
    wanted = round(self.options.call_s / pass_s)
    return min(max(wanted, 1), _MOST_PASSES)

  def guess_s(self, moved_B: float, flops: float = 0.0, size_B: float = 2.0):
    """Rough time [s] of a kernel, to choose the length of its loop."""
    rate = self.options.guess_FLOPps * 2 / size_B
    if size_B == 4:
      rate = min(rate, _FLOAT32_RATE)
    return max(moved_B / self.options.guess_Bps, flops / rate, 3e-6)

  def once(self, key: Any, make: Callable[[], Any]) -> Any:
    """The last large thing that was made, or a new one in its place."""
    if self._kept is None or self._kept[0] != key:
      self._kept = None  # freed before the next one is made
      self._kept = key, make()
    return self._kept[1]

  def put(self, value: Any) -> Any:
    """An array on the device."""
    import jax

    return jax.device_put(value, self.device)

  def time_calls(
    self, call: Callable[[], Any], repeats: int | None = None
  ) -> list[float]:
    """Times [s] of one call, from repeats of many calls and one wait."""
    return time_together([call], self.options, repeats)[0]


def time_together(
  calls: Sequence[Callable[[], Any]],
  options: GpuOptions,
  repeats: int | None = None,
) -> list[list[float]]:
  """Times [s] of one call each, [call][repeat]; their repeats alternate.

  A call is asynchronous and returns what to wait for. The first calls
  compile, load and warm the caches and are not counted.
  """
  counts = []
  for call in calls:
    for _ in range(_WARM_UP_CALLS):
      _wait(call())
    wanted = options.sample_s / max(_seconds(call, 1), 1e-9)
    counts.append(min(max(round(wanted), 1), _MOST_CALLS))
  times: list[list[float]] = [[] for _ in calls]
  for _ in range(repeats or options.repeats):
    for call, count, found in zip(calls, counts, times, strict=True):
      found.append(_seconds(call, count) / count)
  return times


def median_row(times_s: Sequence[float]) -> dict[str, Any]:
  """Columns time_s, repeats, rel_std and note of repeats: their median."""
  timings = [samples.Timing(time_s) for time_s in times_s]
  return samples.summarise([timings], quantile=0.5).columns()


def open_gpu() -> Any:
  """The first GPU of this process.

  Raises:
    CollectError: jax sees none.
  """
  import jax

  try:
    return jax.local_devices(backend='gpu')[0]
  except (RuntimeError, IndexError) as error:
    why = (str(error).splitlines() or ['none found'])[0]
    raise errors.CollectError(
      f'--platform=gpu needs a GPU that jax can use, and there is none here '
      f'({why}). Install jax with its CUDA plugin (jax[cuda13]) on a machine '
      'with an NVIDIA GPU, and leave JAX_PLATFORMS unset'
    ) from None


def system_name(kind: str) -> str:
  """The catalog's name of a device kind; a plain name where it has none."""
  from diffmem import system

  for pattern, name in _BOARDS:
    if re.fullmatch(pattern, kind) and name in system.catalog_names():
      return name
  plain = re.sub(r'[^a-z0-9]+', '-', kind.lower().removeprefix('nvidia'))
  return plain.strip('-') or 'gpu'


def l2_bytes(name: str) -> int:
  """Capacity of the second-level cache [B], as the catalog has it."""
  from diffmem import system

  if name not in system.catalog_names():
    return _USUAL_L2_BYTES
  known = system.load_catalog(name).system
  if 'L2' not in known.tier_names:
    return _USUAL_L2_BYTES
  return round(float(known.tier('L2').capacity_B))


def memory_bytes(device: Any) -> int:
  """Memory of the device that jax may use [B]."""
  stats = device.memory_stats() or {}
  return int(stats.get('bytes_limit', _USUAL_MEMORY_BYTES))


def variant(device: Any, implementation: str) -> str:
  """What ran: 'jax 0.10.1 cuda 12080, cublas'."""
  import jax

  lines = getattr(device.client, 'platform_version', '').splitlines()
  known = [line for line in lines if line.startswith(('cuda', 'rocm'))]
  backend = known[0] if known else device.platform
  return f'jax {jax.__version__} {backend}, {implementation}'


def _seconds(call: Callable[[], Any], count: int) -> float:
  start = time.perf_counter()
  for _ in range(count):
    last = call()
  _wait(last)
  return time.perf_counter() - start


def _wait(value: Any) -> None:
  import jax

  jax.block_until_ready(value)
