"""Working sets and silent caches against a walk through the trace."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from diffmem import errors
from diffmem.workloads import kv_lifetimes
from diffmem.workloads.decode import Decoding, Idle, pieces_of
from diffmem.workloads.transformer import Attention, Transformer

BLOCK = 4


def trace(seed, count=40):
  """Requests of prefixes at random times; the last block is not whole."""
  rng = np.random.default_rng(seed)
  arrival_s = np.sort(rng.uniform(0.0, 50.0, count)) * (rng.random() + 0.5)
  arrival_s -= arrival_s[0]
  talks = rng.integers(0, 6, count)
  lengths = rng.integers(1, 6, count)
  blocks = [
    [100 * talk + i for i in range(n)]
    for talk, n in zip(talks, lengths, strict=True)
  ]
  tokens = lengths * BLOCK - rng.integers(0, BLOCK, count)
  return blocks, arrival_s, tokens


def walked(blocks, arrival_s, tokens, age_s):
  """Tokens used within the last `age_s`, mean over time; and reused ones."""
  last, kept, again = {}, 0.0, 0.0
  end = arrival_s[-1]
  for names, now, n in zip(blocks, arrival_s, tokens, strict=True):
    for i, name in enumerate(names):
      size = min(BLOCK, n - i * BLOCK)
      if name in last:
        then, held = last[name]
        kept += held * min(now - then, age_s)
        again += held * (now - then <= age_s)
      last[name] = (now, size)
  kept += sum(held * min(end - then, age_s) for then, held in last.values())
  return kept / end, again / end


@given(st.integers(0, 10**6), st.sampled_from([0.5, 2.0, 7.0, 20.0]))
def test_against_a_walk(seed, age_s):
  blocks, arrival_s, tokens = trace(seed)
  found = kv_lifetimes.lifetimes_of(blocks, arrival_s, tokens, BLOCK)
  kept, again = walked(blocks, arrival_s, tokens, age_s)
  assert found.working_set(age_s) == pytest.approx(kept)
  assert found.reused_per_s(age_s) == pytest.approx(again)
  # Ages of a cache are the inverse of its working sets, by a table.
  assert found.age_of(kept) == pytest.approx(age_s, rel=0.01)


def test_more_sessions_need_more_room_for_the_same_time():
  one, three = (
    kv_lifetimes.lifetimes_of(*trace(3), BLOCK, rate=r) for r in (1.0, 3.0)
  )
  ages = np.array([1.0, 5.0, 9.0])
  np.testing.assert_allclose(
    three.working_set(ages), 3.0 * one.working_set(ages)
  )
  assert (np.diff(one.working_set(ages)) > 0).all()
  assert np.isinf(one.age_of(1e9))


def test_silent_groups_hold_and_read_what_the_walk_says():
  found = kv_lifetimes.lifetimes_of(*trace(5), BLOCK)
  splits, step_s = (2.0, 6.0, 12.0), 0.03
  groups = found.idle(splits, step_s)
  sums = [walked(*trace(5), age) for age in splits]
  kept = np.diff([k for k, _ in sums], prepend=0.0)
  again = np.diff([a for _, a in sums], prepend=0.0)
  np.testing.assert_allclose([g.tokens for g in groups], kept)
  np.testing.assert_allclose(
    [g.tokens * g.reads_per_step / step_s for g in groups], again
  )


def test_a_plan_has_a_group_for_each():
  groups = kv_lifetimes.lifetimes_of(*trace(5), BLOCK).idle((2.0, 6.0), 0.03)
  model = Transformer(
    name='tiny', source='of this test', layers=2, d_model=64, d_ff=128,
    vocab=100, max_context=1024,
    attention=Attention(heads=4, kv_heads=2, head_dim=16),
  )  # fmt: skip
  phase = Decoding(batch=4, context=64, idle=groups)
  assert {'kv_idle_0', 'kv_idle_1'} <= set(pieces_of(model, phase))
  assert all(isinstance(group, Idle) for group in groups)


@pytest.mark.parametrize('splits', [(), (3.0, 3.0), (0.0, 1.0), (1.0, 1e6)])
def test_splits_that_the_trace_cannot_tell(splits):
  found = kv_lifetimes.lifetimes_of(*trace(5), BLOCK)
  with pytest.raises(errors.SpecError, match='splits_s'):
    found.idle(splits, 0.03)
