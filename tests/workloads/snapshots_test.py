"""Intervals of saves: the published laws, and a simulated run."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import optimize

from diffmem import errors
from diffmem.system import load_catalog
from diffmem.workloads import snapshots
from diffmem.workloads.snapshots import Saving
from diffmem.workloads.transformer import Attention, Transformer

MODEL = Transformer(
  name='405b', source='Llama 3, arXiv:2407.21783, table 3', layers=126,
  d_model=16384, d_ff=53248, vocab=128256, max_context=131072,
  attention=Attention(heads=128, kv_heads=8, head_dim=128),
)  # fmt: skip

stalls = st.floats(0.1, 1e4)
mtbfs = st.floats(1e3, 1e7)


@pytest.fixture(scope='module')
def h100():
  return load_catalog('h100-sxm').system


def lost(interval_s, stall_s, mtbf_s, restart_s=300.0):
  saving = Saving(np.asarray(1.0), np.asarray(stall_s), np.asarray(stall_s))
  return snapshots.schedule(
    saving, mtbf_s, restart_s=restart_s, interval_s=interval_s
  ).overhead


@given(stalls, mtbfs)
def test_the_interval_is_the_minimum(stall_s, mtbf_s):
  best = float(snapshots.best_interval_s(stall_s, mtbf_s))
  found = optimize.minimize_scalar(
    lambda x: float(np.log(lost(np.exp(x), stall_s, mtbf_s, 0.0) + 1.0)),
    bounds=(np.log(best) - 5, np.log(best) + 5),
    method='bounded',
  )
  at_best = float(np.log(lost(best, stall_s, mtbf_s, 0.0) + 1.0))
  assert at_best <= found.fun + 1e-9


@given(stalls, mtbfs)
def test_young_and_daly_are_near(stall_s, mtbf_s):
  ratio = stall_s / mtbf_s
  best = float(snapshots.best_interval_s(stall_s, mtbf_s))
  young = np.sqrt(2 * stall_s * mtbf_s)
  if ratio < 1e-4:
    assert best == pytest.approx(young, rel=0.01)
  if ratio < 0.5:  # Daly 2006, eq. 37
    root = np.sqrt(ratio / 2)
    daly = young * (1 + root / 3 + root**2 / 9) - stall_s
    assert best == pytest.approx(daly, rel=0.01)


def test_no_digits_are_lost_at_tiny_stalls():
  for ratio in (1e-14, 1e-11, 0.9e-9, 1.1e-9, 1e-7):
    best = float(snapshots.best_interval_s(ratio, 1.0))
    assert best == pytest.approx(np.sqrt(2 * ratio), rel=1e-3)


def test_against_a_simulated_run():
  rng = np.random.default_rng(0)
  stall_s, mtbf_s, restart_s, interval_s = 20.0, 2000.0, 100.0, 400.0
  total = 0.0
  for _ in range(20_000):  # one interval of work each, failures of any time
    need_s = interval_s + stall_s
    while (fails_s := rng.exponential(mtbf_s)) < need_s:
      total += fails_s
      while (again_s := rng.exponential(mtbf_s)) < restart_s:
        total += again_s
      total += restart_s
    total += need_s
  simulated = total / (20_000 * interval_s) - 1
  found = float(lost(interval_s, stall_s, mtbf_s, restart_s))
  assert found == pytest.approx(simulated, rel=0.05)


@given(stalls, mtbfs, st.floats(1.01, 10.0))
def test_worse_machines_lose_more(stall_s, mtbf_s, factor):
  def at_best(stall, mtbf):
    return float(lost(snapshots.best_interval_s(stall, mtbf), stall, mtbf))

  base = at_best(stall_s, mtbf_s)
  assert at_best(stall_s * factor, mtbf_s) >= base
  assert at_best(stall_s, mtbf_s / factor) >= base


def test_bytes_and_stall_of_a_save(h100):
  saving = snapshots.saving_of(h100, MODEL, 16384, to='SSD')
  each_B = 12 * MODEL.parameters().total / 16384
  assert saving.device_B == pytest.approx(each_B)
  assert each_B / 64e9 < saving.stall_s < 1.2 * each_B / 64e9 + 1e-4
  assert saving.flush_s - saving.stall_s == pytest.approx(each_B / 5e9, rel=0.2)
  twice = snapshots.saving_of(h100, MODEL, 16384, copies=2)
  assert twice.device_B == pytest.approx(2 * each_B)
  assert twice.flush_s == twice.stall_s


def test_published_failures():
  # Llama 3, section 3.3.4: an interruption about every three hours.
  hours = snapshots.DEVICE_MTBF_S / 16384 / 3600
  assert hours == pytest.approx(3.1, rel=0.01)


def test_parts_of_the_overhead(h100):
  saving = snapshots.saving_of(h100, MODEL, 16384, to='SSD')
  found = snapshots.schedule(saving, snapshots.DEVICE_MTBF_S / 16384)
  assert found.overhead == pytest.approx(found.saving + found.losing)
  assert found.share == pytest.approx(found.overhead / (1 + found.overhead))
  assert found.saving > 0 and found.losing > 0
  assert found.overhead < 0.1


def test_no_oftener_than_a_save_is_flushed():
  slow = Saving(np.asarray(1e9), np.asarray(0.1), np.asarray(1000.1))
  found = snapshots.schedule(slow, 1e4)
  assert found.interval_s == pytest.approx(1000.0)


def test_two_levels_beat_far_saves_alone():
  near = Saving(np.asarray(1e9), np.asarray(1.0), np.asarray(1.0))
  far = Saving(np.asarray(1e9), np.asarray(60.0), np.asarray(60.0))
  inner, outer = snapshots.two_levels(near, far, 1e4)
  alone = snapshots.schedule(far, 1e4)
  assert inner.overhead + outer.overhead < alone.overhead
  assert inner.interval_s < outer.interval_s
  with pytest.raises(errors.SpecError, match='near_share = 1'):
    snapshots.two_levels(near, far, 1e4, near_share=1.0)


def test_faults(h100):
  with pytest.raises(errors.SpecError, match='devices = 0'):
    snapshots.saving_of(h100, MODEL, 0)
  with pytest.raises(errors.SpecError, match=r'smallest number .* is 20$'):
    snapshots.saving_of(h100, MODEL, 2)
  with pytest.raises(errors.SpecError, match='TAPE'):
    snapshots.saving_of(h100, MODEL, 64, to='TAPE')
