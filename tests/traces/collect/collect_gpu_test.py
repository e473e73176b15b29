"""The whole collector: its list, its trace, its journal, its refusals."""

import dataclasses
import math
import subprocess
import sys

import jax
import pytest

from diffmem import errors
from diffmem.traces import files
from diffmem.traces.collect import gpu, gpu_kernels, gpu_memory

MIB = 1024**2


def test_the_list_is_whole_unique_and_in_order_of_value():
  options = gpu.GpuOptions()
  probes = gpu.gpu_probes(options, 60 * 2**30, 50 * MIB)
  assert len({p.name for p in probes}) == len(probes) == len(set(probes))
  groups = list(dict.fromkeys(p.group for p in probes))
  deadlines = gpu.group_deadlines_s(options)
  assert groups == list(deadlines)
  assert list(deadlines.values()) == sorted(deadlines.values())
  assert max(deadlines.values()) == pytest.approx(options.budget_s)
  assert 540 - options.budget_s >= 30  # nine minutes, with start and end
  ops = {p.op for p in probes if hasattr(p, 'op')}
  assert ops >= {
    'stream', 'copy', 'triad', 'stream_mix', 'pointer_chase', 'gemm', 'cast',
    'random_read', 'sequential_read', 'prefill_attention', 'decode_attention',
  }  # fmt: skip
  for chase in (p for p in probes if isinstance(p, gpu_memory.Chase)):
    assert chase.working_set_bytes % chase.granule_bytes == 0
    assert chase.chains >= 1
  small = gpu.gpu_probes(options, 8 * 2**30, 50 * MIB)
  assert max(getattr(p, 'working_set_bytes', 0) for p in small) <= 4 * 2**30
  quick = gpu.gpu_probes(
    dataclasses.replace(options, quick=True), 60 * 2**30, 50 * MIB
  )
  assert len(quick) < len(probes) / 2


class _Bad(gpu_kernels.Cast):
  def program(self, session):
    raise RuntimeError('RESOURCE_EXHAUSTED: out of memory\n' * 100)


def test_a_run_writes_a_trace_keeps_remarks_and_goes_on(options, tmp_path):
  path = tmp_path / 'gpu.parquet'
  journal = tmp_path / 'gpu.parquet.journal.jsonl'
  probes = [gpu_kernels.Cast(8, 64), _Bad(8, 128), gpu_kernels.Cast(8, 256)]

  def run(**changes):
    made = dataclasses.replace(options, **changes)
    session = gpu.GpuSession(made, jax.devices('cpu')[0])
    return gpu.collect(session, path, probes=probes)

  with pytest.raises(errors.CollectError, match='nothing .*no time'):
    run(budget_s=-1.0)
  first = run()
  assert [f.reason for f in first.failures] == [
    'RESOURCE_EXHAUSTED: out of memory'
  ]
  assert not journal.exists()
  read = files.read_traces(path)
  assert list(read['op']) == ['cast', 'cast']
  assert math.isclose(read['time_s'][1], first.rows[1]['time_s'])
  assert list(read['k']) == [64, 256]


def test_an_unfinished_run_goes_on_from_the_journal(
  options, tmp_path, monkeypatch
):
  path = tmp_path / 'gpu.csv'
  probes = [gpu_kernels.Cast(8, 64), gpu_kernels.Cast(8, 256)]
  measured = []
  measure = gpu_kernels.Kernel.measure

  def stop_at_second(self, session, repeats):
    if measured:
      raise KeyboardInterrupt
    measured.append(self.name)
    return measure(self, session, repeats)

  def run():
    session = gpu.GpuSession(options, jax.devices('cpu')[0])
    return gpu.collect(session, path, probes=probes)

  monkeypatch.setattr(gpu_kernels.Kernel, 'measure', stop_at_second)
  first = run()
  assert first.interrupted and len(files.read_traces(path)) == 1
  monkeypatch.setattr(gpu_kernels.Kernel, 'measure', measure)
  second = run()
  assert second.rows[0] == first.rows[0]  # not measured again
  assert len(files.read_traces(path)) == 2
  assert list(tmp_path.iterdir()) == [path]


def test_the_trace_is_saved_on_the_way(options, tmp_path, monkeypatch):
  monkeypatch.setattr(gpu, '_SAVE_EVERY_S', -1.0)
  path = tmp_path / 'gpu.csv'
  seen = []

  class Looks(gpu_kernels.Cast):
    def program(self, session):
      seen.append(len(files.read_traces(path)))
      return super().program(session)

  session = gpu.GpuSession(options, jax.devices('cpu')[0])
  gpu.collect(session, path, probes=[gpu_kernels.Cast(8, 64), Looks(8, 256)])
  assert seen == [1]


def test_without_a_gpu_the_program_says_so(root, tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.collect', '--platform=gpu',
     f'--out={tmp_path / "x.parquet"}'],
    cwd=root, capture_output=True, text=True, check=False,
    env={'JAX_PLATFORMS': 'cpu', 'HOME': str(tmp_path), 'PATH': '/usr/bin'},
  )  # fmt: skip
  assert done.returncode == 2
  assert 'needs a GPU that jax can use' in done.stderr
  assert 'Traceback' not in done.stderr
  assert not (tmp_path / 'x.parquet').exists()
