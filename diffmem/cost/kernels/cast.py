"""Streaming change of number format, [m k]: two bytes in, one out."""

import numpy as np

from diffmem.cost.kernels.work import Law, Shape, Work, column

_BLOCK = 1024  # values that one thread block casts; assumption


def work(shape: Shape, units: int) -> Work:
  """Work of casts.

  Args:
    shape: m, k; optional working_set_bytes.
    units: compute units of the device.
  """
  m, k = (np.asarray(shape[name], float) for name in ('m', 'k'))
  values = m * k
  blocks = np.ceil(values / _BLOCK)
  features = {
    'log m': np.log(m),
    'log k': np.log(k),
    'log values per unit': np.log(values / units),
  }
  return Work(
    flops=values,
    read_B=2.0 * values,
    write_B=values,
    working_set_B=column(shape, 'working_set_bytes', 3.0 * values),
    occupancy=np.minimum(1.0, blocks / units),
    features=features,
  )


LAW = Law('cast', ('m', 'k'), work)
