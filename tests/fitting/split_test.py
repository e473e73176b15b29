"""Whole ratios, block sizes and copy sizes go out together."""

import numpy as np
import pytest

from diffmem.fitting import split
from diffmem.traces import from_rows


def loaded(share, load, variant=None, system='box'):
  return {
    'system': system, 'op': 'loaded_latency', 'tier': 'DRAM',
    'bytes_read': load * (1 - share), 'bytes_written': load * share,
    'in_flight_bytes': load, 'latency_s': 1e-7, 'bandwidth_Bps': load / 1e-7,
    'variant': variant,
  }  # fmt: skip


def held_sets(traces, values, every=4):
  """Values of the held-out rows, seed by seed."""
  return [
    set(values[split.hold_out(traces, every=every, seed=seed)])
    for seed in range(every)
  ]


def test_whole_ratios_go_out():
  shares = np.repeat(np.linspace(0.0, 0.5, 9), 5)
  loads = np.tile([1e3, 3e3, 1e4, 3e4, 1e5], 9)
  traces = from_rows([loaded(s, n) for s, n in zip(shares, loads, strict=True)])
  for seed, out in enumerate(held_sets(traces, shares)):
    held = split.hold_out(traces, every=4, seed=seed)
    assert 1 <= len(out) <= 2 and 0.0 not in out and 0.5 not in out
    # Every load of a ratio that is out is out.
    assert held.sum() == 5 * len(out)


def test_a_named_curve_is_one_mix_though_its_ratio_drifts():
  rows = [
    loaded(0.1 * i + 0.03 * (n < 2e3), n, f'{i} % loads')
    for i in range(6)
    for n in (1e3, 1e4, 1e5)
  ]
  traces = from_rows(rows)
  held = split.hold_out(traces, every=4, seed=0)
  assert set(traces['variant'][held]) == {'1 % loads'}
  assert held.sum() == 3
  assert len(set(split.mixes(traces))) == 6


def test_few_ratios_lose_load_levels_instead():
  traces = from_rows(
    [loaded(s, n) for s in (0.0, 0.5) for n in np.geomspace(1e3, 1e5, 9)]
  )
  held = split.hold_out(traces, every=4, seed=1)
  loads = traces['in_flight_bytes']
  assert 0 < held.sum() < len(held) / 2
  assert not held[(loads == loads.min()) | (loads == loads.max())].any()


def test_ratios_of_two_machines_are_apart():
  rows = [
    loaded(0.1 * i, n, system=name)
    for name in ('a', 'b')
    for i in range(5)
    for n in (1e3, 1e5)
  ]
  traces = from_rows(rows)
  assert len(set(split.mixes(traces))) == 10
  held = split.hold_out(traces, every=4, seed=0)
  assert set(traces['system'][held]) == {'a', 'b'}


@pytest.mark.parametrize(
  ('op', 'blocks'),
  [('random_read', 2.0 ** np.arange(9, 17)), ('copy', 4.0 ** np.arange(5, 13))],
)
def test_whole_block_sizes_go_out(op, blocks):
  granule = np.repeat(blocks, 3)
  rows = [
    {
      'system': 'box', 'op': op, 'tier': 'SSD', 'granule_bytes': g,
      'bytes_read': 1e9, 'bandwidth_Bps': 1e9, 'in_flight_bytes': g * q,
    }
    for g, q in zip(granule, np.tile([1, 8, 64], len(blocks)), strict=True)
  ]  # fmt: skip
  traces = from_rows(rows)
  for out in held_sets(traces, granule):
    assert out and blocks[0] not in out and blocks[-1] not in out
  held = split.hold_out(traces, every=4, seed=0)
  assert held.sum() == 3 * len(set(granule[held]))


def test_one_block_size_loses_queue_depths():
  rows = [
    {
      'system': 'box', 'op': 'random_read', 'tier': 'SSD',
      'granule_bytes': 4096, 'bytes_read': 1e9, 'bandwidth_Bps': 1e9,
      'in_flight_bytes': 4096 * 2.0**q,
    }
    for q in range(9)
  ]  # fmt: skip
  held = split.hold_out(from_rows(rows), every=4, seed=0)
  assert 0 < held.sum() < 4 and not held[0] and not held[-1]


def test_mixes_of_a_bandwidth_test_go_out():
  def row(share):
    return {
      'system': 'box', 'op': 'stream_mix', 'tier': 'CXL',
      'bytes_read': 1 - share, 'bytes_written': share, 'bandwidth_Bps': 1e9,
    }  # fmt: skip

  traces = from_rows([row(s) for s in (0.0, 0.25, 0.333, 0.5, 0.333)])
  assert held_sets(traces, split.written_share(traces)) == [
    {0.25}, {0.333}, set(), set()
  ]  # fmt: skip
