"""A mix whose cost is a sum of powers of a machine's rates and sizes."""

import functools

import numpy as np

from diffmem.codesign.designs import design
from diffmem.codesign.mixes.mix_optimum import MixOptimum
from diffmem.system import load_catalog

# Parameter of the base machine -> accelerators that it costs the traffic.
NEEDS = {
  'HBM.read_Bps': 2000.0, 'HBM.capacity_B': 600.0, 'NVLink.read_Bps': 200.0,
  'IB.read_Bps': 40.0, 'DRAM.capacity_B': 60.0, 'SSD.capacity_B': 20.0,
  'PCIe.read_Bps': 30.0, 'system.power_cap_W': 900.0, 'DRAM.read_Bps': 30.0,
  'SSD.read_Bps': 10.0,
}  # fmt: skip
FIXED, DEVICE_W = 1000.0, 500.0


@functools.cache
def h200_space():
  """One space for all tests: its gradient is compiled once."""
  return design.design_space(load_catalog('h200-sxm').system)


def make_solve(base, needs=NEEDS):
  """Best plans of the mix: what `MixSolver.solve` would answer."""
  own = {name: float(base.values()[name]) for name in needs}

  def solve(system, rates):
    values = system.values()
    terms = {n: c * own[n] / float(values[n]) for n, c in needs.items()}
    accelerators = FIXED + sum(terms.values())
    each = rates.usd_per_s + DEVICE_W * rates.usd_per_J
    value = accelerators * each
    slopes = {n: -t * each for n, t in terms.items()}
    return MixOptimum(
      value, value, slopes, accelerators, DEVICE_W * accelerators, 1e6, ()
    )

  return solve


def unserved(solve, is_served):
  """The same where `is_served(system)`, and nothing elsewhere."""

  def maybe(system, rates):
    if is_served(system):
      return solve(system, rates)
    return MixOptimum(np.inf, np.inf, {}, np.inf, np.inf, 1e6, (), ('chat',))

  return maybe
