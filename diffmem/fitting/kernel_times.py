"""What a fitted system says of kernels that nobody has timed yet."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from diffmem.fitting import corrections, observe, residual
from diffmem.system import FittedSystem
from diffmem.traces import Traces


class KernelTimes(NamedTuple):
  """Times of kernels.

  Attributes:
    time_s: one after the other, laws and residuals together [kernel] [s].
    by_laws_s: by the laws alone [kernel] [s].
    log_sd: standard deviation of the logarithm; NaN where no residual speaks
      of the kernel [kernel].
  """

  time_s: Float[np.ndarray, ' kernel']
  by_laws_s: Float[np.ndarray, ' kernel']
  log_sd: Float[np.ndarray, ' kernel']


def kernel_times(fitted: FittedSystem, kernels: Traces) -> KernelTimes:
  """Times of kernels that are given by their shapes.

  Args:
    fitted: the machine.
    kernels: rows of the trace schema; what they observe is not looked at.

  Raises:
    FitError: rows that name a tier or number format which the system lacks.
  """
  with jax.enable_x64(True):
    cost = corrections.cost_of(
      fitted.system, observe.demand_of(fitted.system, kernels)
    )
    rows = np.arange(len(kernels))
    equations = observe.Observations(
      ['time_s'] * len(rows), rows, np.zeros(len(rows)), np.zeros(len(rows))
    )
    found = corrections.of_equations(
      fitted.residuals, fitted.system, kernels, cost, equations
    )
  by_laws_s = np.asarray(cost.time_s)
  return KernelTimes(
    time_s=by_laws_s * np.exp(found.log_value),
    by_laws_s=by_laws_s,
    log_sd=found.half_width / residual.Z90,
  )
