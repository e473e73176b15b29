"""Probe of attention on a GPU: a prompt, or one token over a cache.

`jax.nn.dot_product_attention` by cuDNN, by XLA where cuDNN does not take the
shape; `variant` says which, the note why. Columns as `readers.gpu_kernels`
fills them: compulsory bytes, FLOPs with the causal half left out. Repeats go
over the same keys and values.
"""

import dataclasses
import functools
from typing import Any

from diffmem.traces.collect import gpu_kernels, gpu_programs
from diffmem.traces.collect import gpu_session as session_lib

_TURNS = 4  # attentions per pass


@dataclasses.dataclass(frozen=True)
class Attention(gpu_kernels.Kernel):
  """Causal attention over a prompt, or of one token over a cache."""

  op: str  # 'prefill_attention' or 'decode_attention'
  batch_size: int
  length: int  # tokens of the prompt or of the cache
  num_heads: int
  num_kv_heads: int
  head_dim: int
  dtype: str = 'bfloat16'
  group: str = 'attention'

  @property
  def name(self) -> str:
    """Unique name of the row."""
    return (
      f'{self.op} {self.batch_size}x{self.length}, {self.num_heads}/'
      f'{self.num_kv_heads} heads of {self.head_dim} {self.dtype}'
    )

  @property
  def is_prefill(self) -> bool:
    """Whether every token of the prompt asks."""
    return self.op == 'prefill_attention'

  @property
  def queries(self) -> int:
    """Query tokens of one sequence."""
    return self.length if self.is_prefill else 1

  def kernels_per_pass(self, session: session_lib.GpuSession) -> int:
    """Attentions that feed each other."""
    return _TURNS

  def program(self, session: session_lib.GpuSession) -> gpu_programs.Program:
    """The compiled loop, by cuDNN or else by XLA."""
    import jax

    try:
      program = self._program(session, 'cudnn')
      jax.block_until_ready(program())  # some shapes fail only here
      return program
    except Exception as error:  # no cuDNN, or not for this shape
      reason = (str(error).splitlines() or [''])[0][:120]
      return self._program(session, 'xla', f'not by cuDNN: {reason}')

  def _program(self, session, library, remark=None):
    work = self.work(session)
    moved = work['bytes_read'] + work['bytes_written']
    pass_s = _TURNS * session.guess_s(moved, work['flops'])
    heads = (self.num_kv_heads, self.head_dim)
    cache = (self.batch_size, self.length, *heads)
    asked = (self.batch_size, self.queries, self.num_heads, self.head_dim)
    fixed = [
      gpu_kernels.random_array(session, cache, self.dtype, 1.0, i)
      for i in range(2)
    ]
    return gpu_programs.build(
      functools.partial(
        gpu_programs.attend,
        causal=self.is_prefill, library=library, turns=_TURNS,
      ),
      fixed,
      [gpu_kernels.random_array(session, asked, self.dtype, 1.0, 2)],
      session.passes(pass_s), library, remark,
    )  # fmt: skip

  def work(self, session: session_lib.GpuSession) -> dict[str, Any]:
    """Columns of one attention."""
    size = gpu_kernels.FORMATS[self.dtype][2]
    per_head = self.batch_size * self.head_dim
    query = float(size * per_head * self.queries * self.num_heads)
    cache = 2.0 * size * per_head * self.length * self.num_kv_heads
    flops = 4.0 * per_head * self.queries * self.length * self.num_heads
    length = 'seq_len' if self.is_prefill else 'kv_len'
    return {
      'dtype': self.dtype,
      'kv_dtype': self.dtype,
      'batch_size': self.batch_size,
      length: self.length,
      'num_heads': self.num_heads,
      'num_kv_heads': self.num_kv_heads,
      'head_dim': self.head_dim,
      'window_size': 0,
      'bytes_read': query + cache,
      'bytes_written': query,
      'flops': flops / 2 if self.is_prefill else flops,
      'working_set_bytes': 2 * query + cache,
    }
