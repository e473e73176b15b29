"""Continuous batching: against one job at a time, and its laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffmem.runs import serving_engine
from diffmem.runs.serving_engine import Batch, times
from diffmem.runs.serving_stack import NAMES, OVERHEADS

_SIZES = 2.0 ** np.arange(7)
_PARTS = 6


def _stack(**changes):
  values = {n: OVERHEADS[n].prior for n in NAMES} | changes
  return {n: np.array([v]) for n, v in values.items()}


def _bare(**changes):
  """Kernels alone: no overhead, nobody ahead."""
  free = dict.fromkeys(
    (
      'fused_cast_s', 'hidden_start_s', 'small_s', 'step_s', 'sequence_s',
      'prompt_kernel_s', 'request_s', 'waits', 'burst_share', 'wave_share',
      'handover_s',
    ),
    0.0,
  )  # fmt: skip
  ones = {n: 1.0 for n in NAMES if n.endswith('factor')}
  return _stack(**(free | ones | {'mixed_share': 1.0} | changes))


def _batch(**changes):
  """One job: a step takes 8 ms + 0.1 ms for a sequence, a prompt 50 ms."""
  decode_s = np.zeros((1, len(_SIZES), _PARTS))
  decode_s[0, :, 0] = 8e-3 + 1e-4 * _SIZES
  prompt_s = np.zeros((1, 4, _PARTS))
  prompt_s[0, :, 0] = 50e-3 * np.array([1.0, 2.0, 4.0, 8.0])
  values = dict(
    decode_s=decode_s, prompt_s=prompt_s,
    prompts=np.array([[1.0, 2.0, 4.0, 8.0]]), small=300.0, casts=200.0,
    large=400.0, prompt_kernels=1000.0, requests=32.0, per_prompt_replica=32.0,
    groups=1.0, prompt_groups=1.0, stages=1.0, prompt_stages=1.0,
    input_tokens=1000.0, output_tokens=1000.0, most_sequences=1e6,
    transfer_s=0.0, is_mixed=1.0, is_drawn=1.0,
  ) | changes  # fmt: skip
  return Batch(
    **{
      k: v if isinstance(v, np.ndarray) else np.array([float(v)])
      for k, v in values.items()
    }
  )


def _reference(requests, most=np.inf):
  """The same by bisection over the sequences that run, kernels alone."""

  def times_at(b):
    tpot = 8e-3 + 1e-4 * b + b / 1000.0 * 50e-3
    busy = min(b / 1000.0 * 50e-3 / tpot, 0.95)
    return tpot, 50e-3 * (1.0 + busy / (2.0 * (1.0 - busy)))

  low, high = 1e-6, min(requests, most)
  for _ in range(80):
    b = (low + high) / 2.0
    tpot, first = times_at(b)
    if requests * 1000.0 * tpot / (first + 1000.0 * tpot) > b:
      low = b
    else:
      high = b
  tpot, first = times_at(b)
  whole = first + 1000.0 * tpot
  waiting = max(requests * 1000.0 * tpot / whole / b, 1.0)
  return tpot, first + (waiting - 1.0) * whole, b


@pytest.mark.parametrize('requests', [2.0, 8.0, 32.0, 64.0])
def test_the_steady_state_of_kernels_alone(requests):
  found = times(_batch(requests=requests, per_prompt_replica=requests), _bare())
  tpot, ttft, running = _reference(requests)
  assert found.tpot_s[0] == pytest.approx(tpot, rel=1e-4)
  assert found.ttft_s[0] == pytest.approx(ttft, rel=1e-3)
  assert found.sequences[0] == pytest.approx(running, rel=1e-3)


def test_requests_wait_where_memory_is_full():
  found = times(_batch(most_sequences=8.0), _bare())
  tpot, ttft, running = _reference(32.0, most=8.0)
  assert running == pytest.approx(8.0) and found.sequences[0] <= 8.0 + 1e-9
  assert found.tpot_s[0] == pytest.approx(tpot, rel=1e-3)
  assert found.ttft_s[0] == pytest.approx(ttft, rel=0.01)
  # Little's law: 24 requests wait for the service of 8.
  assert found.ttft_s[0] == pytest.approx(3.0 * 1000.0 * tpot, rel=0.02)


def test_small_kernels_and_hidden_starts():
  alone = times(_batch(requests=1.0), _bare())
  slow = times(_batch(requests=1.0), _bare(small_s=1e-6, step_s=2e-3))
  gain = slow.tpot_s[0] - alone.tpot_s[0]
  assert gain == pytest.approx(300 * 1e-6 + 2e-3, rel=0.02)
  fast = times(_batch(requests=1.0), _bare(fused_cast_s=2e-6))
  assert alone.tpot_s[0] - fast.tpot_s[0] == pytest.approx(4e-4, rel=0.02)


def test_hidden_starts_never_hide_a_whole_step():
  found = times(_batch(requests=1.0), _bare(hidden_start_s=1.0))
  assert found.tpot_s[0] > 0.3 * 8.1e-3


def test_apart_tokens_do_not_wait_for_prompts_but_for_the_handover():
  found = times(
    _batch(is_mixed=0.0, transfer_s=0.3, requests=1.0, per_prompt_replica=1.0),
    _bare(handover_s=0.1),
  )
  assert found.tpot_s[0] == pytest.approx(8.1e-3, rel=1e-3)
  assert found.ttft_s[0] == pytest.approx(0.05 + 0.3 + 0.1, rel=1e-2)


def test_prompt_replicas_admit_no_more_than_they_can_do():
  batch = _batch(is_mixed=0.0, requests=16.0, per_prompt_replica=1000.0)
  found = times(batch, _bare())
  cycle_s = found.ttft_s[0] + 1000.0 * found.tpot_s[0]
  assert 1000.0 / cycle_s == pytest.approx(1.0 / 50e-3, rel=0.01)


@given(
  st.sampled_from(
    [n for n in NAMES if n not in ('group_share', 'wave_share', 'burst_share')]
  ),
  st.floats(1.1, 5.0),
)
def test_more_overhead_is_never_faster(name, more):
  if name in ('fused_cast_s', 'hidden_start_s'):
    more = 1.0 / more
  value = OVERHEADS[name].prior
  before = times(_batch(), _stack())
  after = times(_batch(), _stack(**{name: value * more}))
  whole = [t.ttft_s[0] + 999.0 * t.tpot_s[0] for t in (before, after)]
  assert whole[1] >= whole[0] * (1.0 - 1e-3)


def test_tables_are_straight_between_their_sizes():
  table = np.array([[1.0, 3.0, 4.0]])
  for size, value in ((0.5, 1.0), (1.5, 2.0), (3.0, 3.5), (9.0, 4.0)):
    assert serving_engine._at(table, np.array([size]))[0] == value
