import math
import subprocess
import sys

import numpy as np
import pytest

from diffmem.traces import table
from diffmem.traces.collect import programs, samples, session


@pytest.fixture
def run(tiny_options, machine):
  with session.Session(tiny_options, machine) as made:
    yield made


def _row(run, program):
  return program.row(run, [program.measure(run, 4) for _ in range(2)])


def test_rows_of_all_programs(run):
  gemm = _row(run, programs.Program('gemm', (16, 24, 32)))
  assert gemm['flops'] == 2 * 16 * 24 * 32
  assert gemm['bytes_read'] == 4 * (16 * 32 + 32 * 24)
  assert gemm['bytes_written'] == 4 * 16 * 24
  assert (gemm['m'], gemm['n'], gemm['k']) == (16, 24, 32)
  assert 'tier' not in gemm and gemm['launches'] == 1
  chain = _row(run, programs.Program('gemm_chain', (16, 32)))
  assert chain['flops'] == 4 * 2 * 16 * 32 * 32
  total = _row(run, programs.Program('reduce', (4096,)))
  assert total['flops'] == 4096 and total['bytes_read'] == 4 * 4096
  assert total['tier'] == 'DRAM'
  assert 1 <= total['repeats'] <= 12
  largest = _row(run, programs.Program('stream_reduce', (4096,)))
  assert len(table.from_rows([gemm, chain, total, largest])) == 4


def test_the_programs_compute_what_they_say():
  x, w = programs._arguments(programs.Program('gemm', (8, 12, 16)))
  found = programs._compiled(programs.Program('gemm', (8, 12, 16)))()
  np.testing.assert_allclose(found, x @ w, rtol=1e-4, atol=1e-5)
  x, *weights = programs._arguments(programs.Program('gemm_chain', (8, 16)))
  found = programs._compiled(programs.Program('gemm_chain', (8, 16)))()
  expected = np.linalg.multi_dot([x, *weights])
  assert len(weights) == 4
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
  (x,) = programs._arguments(programs.Program('reduce', (1000,)))
  found = programs._compiled(programs.Program('reduce', (1000,)))()
  assert float(found) == pytest.approx(float(x.sum()), rel=1e-3)
  found = programs._compiled(programs.Program('stream_reduce', (1000,)))()
  assert float(found) == x.max()


def test_held_out_sizes_lie_between_the_fitted_ones(machine):
  options = session.Options()
  fit = programs.program_probes(options, machine)
  held_out = programs.jax_program_probes(options, machine)
  assert {p.op for p in fit} == {'gemm', 'reduce'}
  assert {p.op for p in held_out} == {'gemm_chain', 'stream_reduce'}
  fitted = [p.shape[0] for p in fit if p.op == 'reduce']
  others = [p.shape[0] for p in held_out if p.op == 'stream_reduce']
  assert len(others) >= 5
  for other in others:
    assert min(abs(math.log2(other / size)) for size in fitted) > 0.3


def test_jax_is_imported_when_it_is_needed():
  code = (
    'import sys, diffmem.traces.collect as c; c.cpu_probes();'
    'c.jax_program_probes(); assert "jax" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_repeats_that_waited_are_taken_again(run, monkeypatch):
  program = programs.Program('reduce', (64,))
  monkeypatch.setattr(programs, '_compiled', lambda _: lambda: None)
  waits = iter([0.9, 0.0, 0.9, 0.0, 0.0])

  def timing(call, calls):
    return samples.Timing(1.0, waited_s=next(waits))

  monkeypatch.setattr(programs, '_timing', timing)
  found = program.measure(run, 8)  # two clean ones of a long program
  assert [t.preempted for t in found] == [True, False, True, False]
  monkeypatch.setattr(
    programs, '_timing', lambda *_: samples.Timing(1.0, waited_s=1.0)
  )
  assert len(program.measure(run, 8)) == 6  # it gives up
