"""Probes that are JAX programs: fit data, and the held-out demonstration."""

import dataclasses
import math
import time
from typing import Any

import numpy as np

from diffmem.traces.collect import machine as machine_lib
from diffmem.traces.collect import memory, samples
from diffmem.traces.collect import session as session_lib

SOURCE = 'diffmem collect'
_FLOAT_BYTES = 4
_CHAIN = 4  # matrix products of one gemm_chain
_MOST_TRIES = 3  # for each repeat, where other programs are in the way

_GEMM_SHAPES = (  # m, n, k
  (256, 256, 256), (512, 512, 512), (768, 768, 768), (1024, 1024, 1024),
  (1536, 1536, 1536), (128, 1024, 1024), (1024, 128, 1024),
  (1024, 1024, 128), (64, 2048, 2048), (2048, 512, 512), (16, 1024, 4096),
  (384, 768, 1536),
)  # fmt: skip
_CHAIN_SHAPES = ((96, 640), (320, 896), (768, 640), (1280, 384), (48, 1792))


@dataclasses.dataclass(frozen=True)
class Program:
  """One jitted program of `shape`.

  `gemm`: (m, n, k). `gemm_chain`: (m, n), four products of (m, n) by (n, n).
  `reduce` (a sum) and `stream_reduce` (a maximum): (elements,).
  """

  op: str
  shape: tuple[int, ...]
  stride: int = 2
  group = None

  @property
  def name(self) -> str:
    """Unique name of the row."""
    if len(self.shape) == 1:
      return f'{self.op} {memory.readable(self.shape[0] * _FLOAT_BYTES)}'
    return f'{self.op} {"x".join(map(str, self.shape))}'

  def measure(
    self, session: session_lib.Session, repeats: int
  ) -> list[samples.Timing]:
    """Wall times of one launch each (mean of a few for short ones).

    XLA uses every CPU, so another program in the way is more likely than for
    the pinned probes: such repeats are taken again.
    """
    if self not in session.memo:
      call = _compiled(self)
      call()
      calls = session.options.repeat_s / min(_seconds(call) for _ in range(3))
      session.memo[self] = call, max(1, round(calls))
    call, calls = session.memo[self]
    call()
    repeats = max(2, repeats // 4)  # they are long
    timings: list[samples.Timing] = []
    clean = 0
    while clean < repeats and len(timings) < _MOST_TRIES * repeats:
      timings.append(_timing(call, calls))
      clean += not timings[-1].preempted
    return timings

  def row(
    self, session: session_lib.Session, visits: list[list[samples.Timing]]
  ) -> dict[str, Any]:
    """One row; bytes are those of inputs and output, each touched once."""
    summary = samples.summarise(visits)
    work = work_of(self)
    moved = work['bytes_read'] + work['bytes_written']
    return session.row(
      self.op,
      dtype='float32',
      participants=len(session.machine.cpus),
      working_set_bytes=moved,
      launches=1,
      bandwidth_Bps=moved / summary.time_s,
      source=SOURCE,
      **work,
      **summary.columns(),
    )


def program_probes(
  options: session_lib.Options, machine: machine_lib.Machine
) -> list[Program]:
  """Fit data: matrix products and sums."""
  step = 1 if options.chase_per_octave >= 2 else 3
  sizes = _sum_sizes(machine, 32 * machine_lib.KIB, 2.0)
  sums = [Program('reduce', (size // _FLOAT_BYTES,)) for size in sizes]
  return [*(Program('gemm', s) for s in _GEMM_SHAPES), *sums][::step]


def jax_program_probes(
  options: session_lib.Options | None = None,
  machine: machine_lib.Machine | None = None,
) -> list[Program]:
  """Held-out programs: other operations at sizes between the fitted ones."""
  options = options or session_lib.Options()
  machine = machine or machine_lib.describe()
  step = 1 if options.chase_per_octave >= 2 else 3
  sizes = _sum_sizes(machine, 45 * machine_lib.KIB, 4.0)
  chains = [Program('gemm_chain', shape) for shape in _CHAIN_SHAPES]
  sums = [Program('stream_reduce', (s // _FLOAT_BYTES,)) for s in sizes]
  return [*chains, *sums][::step]


def is_demonstration(traces: Any) -> np.ndarray:
  """Mask of the rows of `jax_program_probes`: never to be fitted [row]."""
  return np.isin(traces['op'], ('gemm_chain', 'stream_reduce'))


def _sum_sizes(
  machine: machine_lib.Machine, smallest: int, ratio: float
) -> list[int]:
  """Array sizes in bytes up to four last-level caches."""
  largest = min(4 * machine.last_cache_bytes, machine.dram_bytes())
  count = int(math.log(largest / smallest, ratio)) + 1
  return [int(smallest * ratio**i) // 1024 * 1024 for i in range(count)]


def work_of(program: Program) -> dict[str, Any]:
  """Bytes, FLOPs and shape columns of one launch."""
  if program.op == 'gemm':
    m, n, k = program.shape
    read, written, flops = m * k + k * n, m * n, 2.0 * m * n * k
    shape = {'m': m, 'n': n, 'k': k, 'granule_bytes': k * _FLOAT_BYTES}
  elif program.op == 'gemm_chain':
    m, n = program.shape
    read, written = _CHAIN * (m * n + n * n), _CHAIN * m * n
    flops = 2.0 * _CHAIN * m * n * n
    shape = {'m': m, 'n': n, 'k': n, 'granule_bytes': n * _FLOAT_BYTES}
  else:
    (elements,) = program.shape
    read, written = elements, 1
    flops = float(elements)
    shape = {'tier': 'DRAM', 'granule_bytes': elements * _FLOAT_BYTES}
  return {
    'bytes_read': float(read * _FLOAT_BYTES),
    'bytes_written': float(written * _FLOAT_BYTES),
    'flops': flops,
    **shape,
  }


def _compiled(program: Program):
  """A call without arguments that runs the program and waits for it."""
  import jax
  import jax.numpy as jnp

  def product(x, w):
    return jnp.dot(x, w, precision='highest')

  def chain(x, *weights):
    for w in weights:
      x = product(x, w)
    return x

  functions = {
    'gemm': product,
    'gemm_chain': chain,
    'reduce': jnp.sum,
    'stream_reduce': jnp.max,
  }
  run = jax.jit(functions[program.op])
  arguments = [jax.device_put(a) for a in _arguments(program)]
  return lambda: run(*arguments).block_until_ready()


def _arguments(program: Program) -> list[np.ndarray]:
  """Random inputs; long ones repeat a short random piece."""
  random = np.random.default_rng(0)
  if program.op == 'gemm':
    m, n, k = program.shape
    shapes = [(m, k), (k, n)]
  elif program.op == 'gemm_chain':
    m, n = program.shape
    shapes = [(m, n), *_CHAIN * [(n, n)]]
  else:
    shapes = [program.shape]
  piece = random.standard_normal(1 << 18, dtype=np.float32) / 32
  return [np.resize(piece, shape) for shape in shapes]


def _timing(call, calls: int) -> samples.Timing:
  """Mean wall time of one call, and how long threads waited for a CPU."""
  waited_s = machine_lib.waited_s()
  wall_s = _seconds(call, calls)
  waited_s = (machine_lib.waited_s() - waited_s) / calls
  return samples.Timing(wall_s, waited_s=waited_s)


def _seconds(call, calls: int = 1) -> float:
  """Mean wall time of one call."""
  start = time.perf_counter()
  for _ in range(calls):
    call()
  return (time.perf_counter() - start) / calls
