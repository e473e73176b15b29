"""Probes of a GPU's kernels: matrix products, casts, multiply-adds.

Columns as `readers.gpu_kernels` fills them: compulsory bytes of one kernel, and
in working_set_bytes what repeated calls go over. Matrix products take turns
with up to six weights, as many as exceed two second-level caches, so that a
small batch finds its weights in HBM. They add to their output (y += x w^T, one
cuBLAS call): the read of y, written a moment before, is not counted. Outputs
have two bytes (float32: four). float32 is multiplied as such, without TF32.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import numpy as np

from diffmem.traces.collect import gpu_programs, memory
from diffmem.traces.collect import gpu_session as session_lib
from diffmem.traces.collect import session as cpu_session

_MOST_WEIGHTS = 6
_PIECE = 262_139  # random numbers that fill an array; prime: no equal rows
# Our names of number formats -> numpy's, and that of the output.
FORMATS = {
  'bfloat16': ('bfloat16', 'bfloat16', 2),
  'float16': ('float16', 'float16', 2),
  'float32': ('float32', 'float32', 4),
  'float8': ('float8_e4m3fn', 'bfloat16', 1),
}
_OUTPUT_BYTES = {'float32': 4}


class Kernel:
  """What the probes of this module share: time of a program, one row."""

  stride: ClassVar[int] = 1

  def measure(
    self, session: session_lib.GpuSession, repeats: int
  ) -> list[tuple[float, str, str | None]]:
    """Times of one kernel, each with its implementation and remark."""
    program = self.program(session)
    kernels = program.passes * self.kernels_per_pass(session)
    times = session.time_calls(program, repeats)
    return [(t / kernels, program.implementation, program.remark)
            for t in times]  # fmt: skip

  def kernels_per_pass(self, session: session_lib.GpuSession) -> int:
    """Kernels in a pass of the program."""
    return 1

  def row(
    self,
    session: session_lib.GpuSession,
    visits: list[list[tuple[float, str, str | None]]],
  ) -> dict[str, Any]:
    """One row per shape."""
    columns = session_lib.median_row([found[0] for found in visits[0]])
    _, implementation, remark = visits[0][0]
    work = self.work(session)
    note = '; '.join(filter(None, [columns.pop('note', None), remark]))
    moved = work['bytes_read'] + work['bytes_written']
    return session.row(
      self.op,
      implementation,
      **work,
      bandwidth_Bps=moved / columns['time_s'],
      note=note or None,
      **columns,
    )


@dataclasses.dataclass(frozen=True)
class Gemm(Kernel):
  """A matrix product of (m, k) by (k, n)."""

  m: int
  n: int
  k: int
  dtype: str = 'bfloat16'
  group: str = 'gemm'
  op: ClassVar[str] = 'gemm'

  @property
  def name(self) -> str:
    """Unique name of the row."""
    return f'gemm {self.m}x{self.n}x{self.k} {self.dtype}'

  @property
  def flops(self) -> float:
    """Of one product."""
    return 2.0 * self.m * self.n * self.k

  @property
  def weight_bytes(self) -> float:
    """Of one weight."""
    return float(self.n * self.k * FORMATS[self.dtype][2])

  def kernels_per_pass(self, session: session_lib.GpuSession) -> int:
    """Weights that take turns."""
    wanted = math.ceil(2 * session.l2_bytes / self.weight_bytes)
    return min(max(wanted, 1), _MOST_WEIGHTS)

  def program(self, session: session_lib.GpuSession) -> gpu_programs.Program:
    """The compiled loop.

    Raises:
      SkipProbe: XLA would convert float8 and multiply in another format.
    """
    import jax.numpy as jnp

    stored, output, size = FORMATS[self.dtype]
    shape = (self.n, self.k)
    count = self.kernels_per_pass(session)
    scale = 1 / math.sqrt(self.k)
    weights = [
      random_array(session, shape, stored, scale, i) for i in range(count)
    ]
    x = random_array(session, (self.m, self.k), stored, 1.0, count)
    y = jnp.zeros((self.m, self.n), output, device=session.device)
    work = self.work(session)
    moved = work['bytes_read'] + work['bytes_written']
    passes = session.passes(count * session.guess_s(moved, self.flops, size))
    program = gpu_programs.build(
      functools.partial(gpu_programs.gemm, output=output),
      weights, [x, y], passes,
    )  # fmt: skip
    if session.device.platform == 'gpu':
      _check_library(program, self.dtype)
    return program

  def work(self, session: session_lib.GpuSession) -> dict[str, Any]:
    """Columns of one product."""
    size = FORMATS[self.dtype][2]
    written = float(self.m * self.n * _OUTPUT_BYTES.get(self.dtype, 2))
    read = self.m * self.k * size + self.weight_bytes
    others = self.kernels_per_pass(session) - 1
    return {
      'dtype': self.dtype,
      'm': self.m,
      'n': self.n,
      'k': self.k,
      'bytes_read': read,
      'bytes_written': written,
      'flops': self.flops,
      'weight_bytes': self.weight_bytes,
      'working_set_bytes': read + written + others * self.weight_bytes,
    }


@dataclasses.dataclass(frozen=True)
class Cast(Kernel):
  """bfloat16 (m, k) to float8, element by element."""

  m: int
  k: int
  group: str = 'cast'
  op: ClassVar[str] = 'cast'

  @property
  def name(self) -> str:
    """Unique name of the row."""
    return f'cast {self.m}x{self.k}'

  def program(self, session: session_lib.GpuSession) -> gpu_programs.Program:
    """The compiled loop."""
    import jax.numpy as jnp

    stored = FORMATS['float8'][0]
    x = random_array(session, (self.m, self.k), 'bfloat16', 1.0, 0)
    y = jnp.zeros((self.m, self.k), stored, device=session.device)
    pass_s = session.guess_s(3.0 * self.m * self.k)
    passes = session.passes(pass_s)
    return gpu_programs.build(gpu_programs.cast, [x], [y], passes)

  def work(self, session: session_lib.GpuSession) -> dict[str, Any]:
    """Columns of one cast."""
    elements = float(self.m * self.k)
    return {
      'dtype': 'bfloat16',
      'm': self.m,
      'k': self.k,
      'bytes_read': 2 * elements,
      'bytes_written': elements,
      'flops': 0.0,
      'working_set_bytes': 3 * elements,
    }


@dataclasses.dataclass(frozen=True)
class MultiplyAdd(Kernel):
  """A stream of float32 with multiply-adds on every element.

  XLA of jax 0.10.1 makes a multiply and an add of each, not one fused
  instruction: half of the published peak is the most that this can show.
  """

  array_bytes: int
  fmas: int
  group: str = 'cast'
  op: ClassVar[str] = 'roofline'

  @property
  def name(self) -> str:
    """Unique name of the row."""
    size = memory.readable(self.array_bytes)
    return f'roofline {size}, {self.fmas} multiply-adds'

  def program(self, session: session_lib.GpuSession) -> gpu_programs.Program:
    """The compiled loop."""
    work = self.work(session)
    pass_s = session.guess_s(work['bytes_read'], work['flops'], 4)
    x = random_array(session, (self.array_bytes // 4,), 'float32', 1.0, 0)
    return gpu_programs.build(
      functools.partial(gpu_programs.multiply_add, fmas=self.fmas),
      [x], [session.put(np.float32(0))], session.passes(pass_s),
      f'xla, {self.fmas} multiply-adds',
    )  # fmt: skip

  def work(self, session: session_lib.GpuSession) -> dict[str, Any]:
    """Columns of one pass."""
    return {
      'tier': 'HBM',
      'dtype': 'float32',
      'bytes_read': float(self.array_bytes),
      'bytes_written': 0.0,
      'flops': 2.0 * self.fmas * self.array_bytes / 4,
      'working_set_bytes': float(self.array_bytes),
    }


def _check_library(program: gpu_programs.Program, dtype: str) -> None:
  """Names the library that a product calls.

  Raises:
    SkipProbe: XLA would multiply converted operands instead of float8.
  """
  text = program.run.as_text()
  if dtype == 'float8' and 'matmul$f8' not in text:
    raise cpu_session.SkipProbe('XLA has no float8 product on this device')
  if '__cublas' in text:  # XLA may take a product of one row on itself
    program.implementation = 'cublas'


def random_array(session, shape, dtype: str, scale: float, seed: int):
  """Normal numbers on the device: a random piece, over and over."""
  import jax.numpy as jnp

  random = np.random.default_rng((session.options.seed, seed))
  piece = random.standard_normal(_PIECE, dtype=np.float32) * scale
  return session.put(np.resize(piece.astype(jnp.dtype(dtype)), shape))
