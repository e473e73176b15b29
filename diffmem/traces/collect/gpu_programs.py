"""The JAX programs of the GPU probes: loops that XLA cannot shorten.

Every program is a loop of a known length over `passes` passes, with a carry
that each pass changes, so that no pass can be hoisted, merged or dropped:

- `read` takes a maximum of x ^ (pass, carry): it needs every element again.
- the mixes write arrays that the loop carries; what they write depends on
  the number of the pass.
- `chase` carries the places where its chains are.
- `gemm` adds every product to one carried output (C of the GEMM, no kernel of
  its own) and changes one element of x by the sign of a result.
- `attend` takes its output as the next query.

Compiled for an H100 without one (XLA of jax 0.10.1, ahead of time), a pass is
one kernel: vector loads and stores of 8 or 16 B for `read` and the mixes; load,
minimum, multiply, add (the last three about 13 cycles) for a hop of `chase`;
one cuBLAS or cuDNN call for `gemm` and `attend`. Loops of known length run
without asking the host. Beside it come kernels of a few threads, about 2 us
in all, which the probes subtract or make negligible.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

# XLA's Triton kernels need seconds to tune for each shape; cuBLAS and cuDNN
# are what is measured. Known to XLA as debug options, ignored elsewhere.
_GPU_COMPILER_OPTIONS = {'xla_gpu_enable_triton_gemm': False}
_ODD = 0x1E3779B1  # spreads the number of a row over all bits


@dataclasses.dataclass
class Program:
  """A compiled program that goes on from where its last call ended.

  Attributes:
    run: the executable; takes `fixed` and `carry`, returns the next carry.
    fixed: arrays that stay.
    carry: arrays that a call replaces; their memory is reused.
    passes: passes in one call.
    implementation: whose kernels, for people.
    remark: what to know, or None.
  """

  run: Callable[..., Any]
  fixed: Sequence[Any]
  carry: Sequence[Any]
  passes: int
  implementation: str = 'xla'
  remark: str | None = None

  def __call__(self) -> Any:
    """Starts one call; returns what to wait for."""
    self.carry = self.run(*self.fixed, *self.carry)
    return self.carry


def build(
  function: Callable[..., Any],
  fixed: Sequence[Any],
  carry: Sequence[Any],
  passes: int,
  implementation: str = 'xla',
  remark: str | None = None,
) -> Program:
  """Compiles `function(passes, *fixed, *carry) -> carry` for their device."""
  import jax

  def run(*arguments):
    return function(passes, *arguments)

  first = len(fixed)
  donated = tuple(range(first, first + len(carry)))
  lowered = jax.jit(run, donate_argnums=donated).lower(*fixed, *carry)
  platform = next(iter(carry[0].devices())).platform
  options = _GPU_COMPILER_OPTIONS if platform == 'gpu' else None
  try:
    executable = lowered.compile(compiler_options=options)
  except Exception as error:
    if options is None or 'option' not in str(error):
      raise
    executable = lowered.compile()
  return Program(executable, fixed, carry, passes, implementation, remark)


def read(passes, x, top, *, rows: int):
  """Reads x [n] `rows` times per pass, in one kernel; carries the maximum."""
  import jax
  import jax.numpy as jnp

  def body(_, top):
    number = jax.lax.broadcasted_iota(x.dtype, (rows, 1), 0)
    return jnp.max(x[None, :] ^ (number * _ODD + top))

  return (jax.lax.fori_loop(0, passes, body, top),)


def read_and_write(passes, *arrays, reads: int, writes: int):
  """A pass over arrays [n] that reads and writes in the ratio given.

  In place where one array is read and one written (`copy`); else the arrays
  that are read stay, `triad` being b + s c with another s in each pass.
  """
  import jax
  import jax.numpy as jnp

  fixed, carry = arrays[: len(arrays) - writes], arrays[-writes:]

  def body(i, carry):
    step = (2 * i + 3).astype(carry[0].dtype)
    if reads == 0:
      return tuple(jnp.full_like(x, step) for x in carry)
    if not fixed:  # the first is read and written
      return tuple(carry[0] ^ (step + j) for j in range(writes))
    total = fixed[0]
    for j, x in enumerate(fixed[1:]):
      total = total + (step + j) * x
    if len(fixed) == 1:
      total = total ^ step
    return (total,) * writes

  return jax.lax.fori_loop(0, passes, body, tuple(carry))


def chase(passes, table, place, *, hops: int):
  """Moves each place [chain] on by `hops` per pass: place = table[place]."""
  import jax

  numbers = jax.lax.GatherDimensionNumbers(
    offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,)
  )

  def body(_, place):
    for _ in range(hops):
      place = jax.lax.gather(
        table, place[:, None], numbers, slice_sizes=(1,),
        mode=jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS,
      )  # fmt: skip
    return place

  return (jax.lax.fori_loop(0, passes, body, place),)


def multiply_add(passes, x, top, *, fmas: int):
  """Reads x [n], with `fmas` multiply-adds per element; carries a maximum."""
  import jax
  import jax.numpy as jnp

  def body(_, top):
    value = x + 1e-3 * top
    for _ in range(fmas):
      value = value * 0.999 + 1e-3
    return jnp.max(value)

  return (jax.lax.fori_loop(0, passes, body, top),)


def gemm(passes, *arrays, output: Any):
  """Adds x w^T to y for each weight w [n, k]; x [m, k], y [m, n].

  Carries x, which a pass changes in one element, and y.
  """
  import jax
  import jax.numpy as jnp

  *weights, x, y = arrays
  precision = 'highest' if jnp.dtype(output) == jnp.float32 else None

  def body(_, carry):
    x, y = carry
    for w in weights:
      y = y + jax.lax.dot_general(
        x, w, (((1,), (1,)), ((), ())),
        precision=precision, preferred_element_type=output,
      )  # fmt: skip
      x, y = jax.lax.optimization_barrier((x, y))
    sign = jnp.where(y[0, 0] > 0, 0.5, -0.5).astype(x.dtype)
    return x.at[0, 0].set(sign), y

  return jax.lax.fori_loop(0, passes, body, (x, jnp.zeros_like(y)))


def attend(passes, key, value, query, *, causal: bool, library: str, turns=4):
  """Attention whose output is the next query; several turns per pass.

  Args:
    passes: of the loop.
    key: [batch, cached, kv head, dim].
    value: as the key.
    query: [batch, token, head, dim].
    causal: whether a token sees only those before it.
    library: 'cudnn' or 'xla'.
    turns: attentions of one pass, so that few copies of the carry are made.
  """
  import jax

  def body(_, query):
    for _ in range(turns):
      query = jax.nn.dot_product_attention(
        query, key, value, is_causal=causal, implementation=library
      )
    return query

  return (jax.lax.fori_loop(0, passes, body, query),)


def cast(passes, x, y):
  """Writes x [m, k], scaled, in the number format of y [m, k]."""
  import jax

  def body(i, y):
    scale = 1 / (1 + i.astype(x.dtype))
    return (x * scale).astype(y.dtype)

  return (jax.lax.fori_loop(0, passes, body, y),)
