import numpy as np
import pytest

from diffmem import system
from diffmem.traces.collect import gpu_session


def test_passes_and_guesses(session):
  assert session.passes(1e-4) == 2
  assert session.passes(1.0) == 1
  assert session.passes(1e-12) == gpu_session._MOST_PASSES
  guess_s = session.guess_s
  assert guess_s(1e10) == 1.0 and guess_s(0.0) == 3e-6
  assert guess_s(0.0, 1e10, 1.0) == 0.5
  assert guess_s(0.0, 1e10, 4.0) == 2.0


def test_calls_are_waited_for_once_and_warmed_up(options, monkeypatch):
  waits = []
  monkeypatch.setattr(gpu_session, '_wait', waits.append)
  clock = iter(np.arange(1000) * 1e-4)  # each look takes 0.1 ms
  monkeypatch.setattr(
    gpu_session.time, 'perf_counter', lambda: float(next(clock))
  )
  calls = []
  call = lambda: calls.append(0) or len(calls)  # noqa: E731
  (times,) = gpu_session.time_together([call], options, 3)
  # Two to warm up, one to see how long it takes, three repeats of ten.
  assert len(calls) == 2 + 1 + 3 * 10
  assert waits == [1, 2, 3, 13, 23, 33]
  assert times == pytest.approx([1e-5] * 3)


def test_one_large_thing_is_kept(session):
  made = []

  def make(name):
    made.append(name)
    return name

  for name in ('a', 'a', 'b', 'a'):
    assert session.once(name, lambda n=name: make(n)) == name
  assert made == ['a', 'b', 'a']


@pytest.mark.parametrize(
  'kind, name',
  [
    ('NVIDIA H100 80GB HBM3', 'h100-sxm'),
    ('NVIDIA H200', 'h200-sxm'),
    ('NVIDIA A100-SXM4-40GB', 'a100-sxm'),
    ('NVIDIA B200', 'b200-sxm'),
    ('NVIDIA H100 PCIe', 'h100-pcie'),
    ('NVIDIA GeForce RTX 4090', 'geforce-rtx-4090'),
    ('', 'gpu'),
  ],
)
def test_systems_are_named_as_in_the_catalog(kind, name):
  assert gpu_session.system_name(kind) == name
  if name.endswith('-sxm'):
    assert name in system.catalog_names()
