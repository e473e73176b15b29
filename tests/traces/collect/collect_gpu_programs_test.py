"""The programs compute what they say, and their loops stay loops."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem.traces.collect import gpu_programs


def _array(values):
  return jnp.array(np.asarray(values))


def _ints(n, seed):
  return np.random.default_rng(seed).integers(-(2**31), 2**31, n, np.int32)


def _run(function, fixed, carry, passes):
  program = gpu_programs.build(
    function, list(map(_array, fixed)), list(map(_array, carry)), passes
  )
  return program, [np.asarray(x) for x in program()]


def test_read_takes_the_maximum_of_all_rows_and_passes():
  x, rows = _ints(50, 0), 3
  read = functools.partial(gpu_programs.read, rows=rows)
  _, (found,) = _run(read, [x], [np.int32(-5)], 4)
  top = np.int32(-5)
  with np.errstate(over='ignore'):
    for _ in range(4):
      number = np.arange(rows, dtype=np.int32) * np.int32(gpu_programs._ODD)
      top = np.max(x[None, :] ^ (number + top)[:, None])
  assert found == top


def test_read_needs_every_element():
  highest = np.int32(2**31 - 1)
  x = _ints(50, 1)
  read = functools.partial(gpu_programs.read, rows=1)
  program, _ = _run(read, [x], [np.int32(0)], 1)
  for i, value in enumerate(x):
    start = value ^ highest  # this element alone gives the highest number
    (found,) = program.run(_array(x), _array(start))
    assert found == highest
    changed = x.copy()
    changed[i] = ~value
    (found,) = program.run(_array(changed), _array(start))
    assert found < highest


@pytest.mark.parametrize(
  'reads, writes, total',
  [(1, 1, 1), (1, 1, 2), (2, 1, 3), (3, 1, 4), (1, 2, 2), (0, 1, 1)],
)
def test_mixes_write_what_the_last_pass_says(reads, writes, total):
  arrays = [_ints(40, i) for i in range(total)]
  fixed, carry = arrays[: total - writes], arrays[total - writes :]
  mix = functools.partial(
    gpu_programs.read_and_write, reads=reads, writes=writes
  )
  passes = 5
  _, found = _run(mix, fixed, carry, passes)
  with np.errstate(over='ignore'):
    for i in range(passes):
      step = np.int32(2 * i + 3)
      if reads == 0:
        carry = [np.full_like(carry[0], step)]
      elif not fixed:
        carry = [carry[0] ^ np.int32(step + j) for j in range(writes)]
      elif len(fixed) == 1:
        carry = [fixed[0] ^ step]
      else:
        scaled = [np.int32(step + j) * x for j, x in enumerate(fixed[1:])]
        carry = [fixed[0] + sum(scaled)]
  assert len(found) == writes
  for a, b in zip(found, carry, strict=True):
    np.testing.assert_array_equal(a, b)


def test_chase_walks_the_table_and_goes_on_where_it_was():
  table = np.roll(np.random.default_rng(0).permutation(64), 1).astype(np.uint32)
  places = np.array([0, 5, 9], np.uint32)
  chase = functools.partial(gpu_programs.chase, hops=3)
  program, (found,) = _run(chase, [table], [places], 4)
  for calls in (1, 2):
    expected = places
    for _ in range(12 * calls):
      expected = table[expected]
    np.testing.assert_array_equal(found, expected)
    found = np.asarray(program()[0])


def test_gemm_adds_the_products_of_all_weights():
  random = np.random.default_rng(0)
  weights = [random.standard_normal((6, 8), np.float32) for _ in range(2)]
  x = random.standard_normal((4, 8), np.float32)
  y = np.full((4, 6), 7, np.float32)  # what was there does not matter
  gemm = functools.partial(gpu_programs.gemm, output='float32')
  _, (x_found, found) = _run(gemm, weights, [x, y], 3)
  y = 0
  for _ in range(3):
    for w in weights:
      y = y + x @ w.T
    x[0, 0] = 0.5 if y[0, 0] > 0 else -0.5
  np.testing.assert_allclose(found, y, rtol=2e-5, atol=1e-5)
  np.testing.assert_array_equal(x_found, x)


@pytest.mark.parametrize('causal', [False, True])
def test_attention_feeds_its_output_back(causal):
  random = np.random.default_rng(0)
  key, value = random.standard_normal((2, 1, 5, 2, 8)).astype(np.float32)
  query = random.standard_normal((1, 5, 4, 8)).astype(np.float32)
  attend = functools.partial(
    gpu_programs.attend, causal=causal, library='xla', turns=2
  )
  _, (found,) = _run(attend, [key, value], [query], 2)
  mask = np.tril(np.ones((5, 5), bool)) if causal else np.ones((5, 5), bool)
  for _ in range(4):
    grouped = query.reshape(1, 5, 2, 2, 8)
    score = np.einsum('btkgh,bskh->bkgts', grouped, key) / np.sqrt(8)
    score = np.where(mask, score, -np.inf)
    share = np.exp(score - score.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    query = np.einsum('bkgts,bskh->btkgh', share, value).reshape(1, 5, 4, 8)
  np.testing.assert_allclose(found, query, rtol=1e-4, atol=1e-5)


def test_cast_and_multiply_add():
  x = np.linspace(-2, 2, 32, dtype=np.float32).reshape(4, 8)
  x = x.astype(jnp.bfloat16)
  y = np.zeros((4, 8), jnp.float8_e4m3fn)
  _, (found,) = _run(gpu_programs.cast, [x], [y], 2)
  scaled = (x * np.asarray(0.5, jnp.bfloat16)).astype(jnp.float8_e4m3fn)
  np.testing.assert_array_equal(
    found.astype(np.float32), scaled.astype(np.float32)
  )
  x = np.linspace(0, 1, 9, dtype=np.float32)
  add = functools.partial(gpu_programs.multiply_add, fmas=3)
  _, (found,) = _run(add, [x], [np.float32(0)], 2)
  top = 0.0
  for _ in range(2):
    value = x + 1e-3 * top
    for _ in range(3):
      value = value * 0.999 + 1e-3
    top = value.max()
  assert found == pytest.approx(top, rel=1e-6)


def _cases():
  i, f = np.ones(64, np.int32), np.ones((8, 8), np.float32)
  part = functools.partial
  mix = gpu_programs.read_and_write
  return {
    'read': (part(gpu_programs.read, rows=2), [i], [np.int32(0)], r' reduce\('),
    'copy': (part(mix, reads=1, writes=1), [], [i], r' xor\('),
    'triad': (part(mix, reads=2, writes=1), [i, i], [i], r' multiply\('),
    'write': (part(mix, reads=0, writes=1), [], [i], r' broadcast\('),
    'gemm': (part(gpu_programs.gemm, output='float32'), [f], [f, f], 'dot'),
    'cast': (
      gpu_programs.cast, [f.astype(jnp.bfloat16)],
      [f.astype(jnp.float8_e4m3fn)], r' convert\(',
    ),
  }  # fmt: skip


@pytest.mark.parametrize('name', list(_cases()))
def test_no_pass_is_hoisted_or_dropped(name):
  """XLA keeps a loop of the length asked for, and the work inside of it."""
  function, fixed, carry, work = _cases()[name]
  program, _ = _run(function, fixed, carry, 13)
  text = program.run.as_text()
  assert re.search(r'"known_trip_count":\{"n":"13"\}', text)
  body = re.search(r' while\(.*body=%?([\w.\-]+)', text)[1]
  assert re.search(work, _with_callees(text, body))


def _with_callees(text, name):
  """A computation's text and that of those it calls."""
  start = re.search(rf'^%?{re.escape(name)} .*\{{$', text, re.M)
  own = text[start.start() : text.index('\n}', start.start())]
  called = re.findall(r'(?:calls|to_apply)=%?([\w.\-]+)', own)
  return own + ''.join(_with_callees(text, c) for c in called)


def test_an_unknown_compiler_option_is_left_out(monkeypatch):
  class Lowered:
    def __init__(self, message):
      self.message, self.asked = message, []

    def lower(self, *_):
      return self

    def compile(self, compiler_options=None):
      self.asked.append(compiler_options)
      if compiler_options:
        raise RuntimeError(self.message)
      return 'executable'

  class Array:
    def devices(self):
      return {type('Device', (), {'platform': 'gpu'})}

  known = Lowered('No such compile option: xla_gpu_enable_triton_gemm')
  monkeypatch.setattr(jax, 'jit', lambda *_, **__: known)
  program = gpu_programs.build(None, [], [Array()], 1)
  assert program.run == 'executable'
  assert known.asked == [gpu_programs._GPU_COMPILER_OPTIONS, None]
  full = Lowered('RESOURCE_EXHAUSTED')
  monkeypatch.setattr(jax, 'jit', lambda *_, **__: full)
  with pytest.raises(RuntimeError, match='EXHAUSTED'):
    gpu_programs.build(None, [], [Array()], 1)
