"""The capacity law that the rows support, and how it is said."""

import numpy as np
import pytest

from diffmem.fitting import duplex
from diffmem.system import Duplex, System, Tier, prior
from diffmem.traces import from_rows

SHARES = np.linspace(0.0, 1.0, 11)
TRUE = {
  Duplex.HALF: (1e11, -0.9, -0.9),
  Duplex.TURNAROUND: (1e11, 0.8e11, 0.5e11),
  Duplex.FULL: (1e11, 0.8e11, 1.4e11),
}


def make_prior(kind: Duplex):
  return prior(System.of('box', [Tier.of('CXL', duplex=kind)]), 'test')


def measured(law: Duplex, shares=SHARES, stretch=None, noise=0.0):
  seconds = duplex.LAWS[law](1 - shares, shares, *TRUE[law])
  rng = np.random.default_rng(1)
  rows = []
  for w, t in zip(shares, np.asarray(seconds), strict=True):
    for load in (0.3, 1.0):
      rate = load / t * np.exp(noise * rng.standard_normal())
      row = {
        'system': 'box', 'op': 'stream_mix', 'tier': 'CXL',
        'bytes_read': 1e9 * (1 - w), 'bytes_written': 1e9 * w,
        'bandwidth_Bps': float(rate),
      }  # fmt: skip
      if stretch:
        row['op'] = 'loaded_latency'
        row['latency_s'] = 1e-7 * (1 + (stretch - 1) * (load > 0.5))
      rows.append(row)
  return from_rows(rows)


@pytest.mark.parametrize('true', TRUE)
@pytest.mark.parametrize('kind', TRUE)
def test_the_law_behind_the_rows_is_found(true, kind):
  found, (choice,) = duplex.choose(make_prior(kind), measured(true, noise=1e-3))
  assert choice.law is true and choice.before is kind
  assert found.system.tier('CXL').duplex is true
  assert choice.deviation[true] < 0.005
  assert true.value in choice.help()
  assert ('by its kind' in choice.help()) == (true is kind)


def test_without_clear_evidence_the_kind_decides():
  # Few writes and much noise: all three laws come near.
  flat = measured(Duplex.HALF, np.linspace(0.0, 0.1, 6), noise=0.02)
  for kind in TRUE:
    found, (choice,) = duplex.choose(make_prior(kind), flat)
    assert choice.law is kind is found.system.tier('CXL').duplex


def test_few_mixes_or_no_wall_say_nothing():
  few = measured(Duplex.FULL, np.array([0.0, 0.3, 0.5]))
  assert duplex.choose(make_prior(Duplex.HALF), few)[1] == ()
  idle = measured(Duplex.FULL, stretch=1.5)
  assert duplex.choose(make_prior(Duplex.HALF), idle)[1] == ()
  full = measured(Duplex.FULL, stretch=3.0)
  assert duplex.choose(make_prior(Duplex.HALF), full)[1][0].mixes == 11
