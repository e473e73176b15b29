"""The pure roofline: what everybody can say without measuring anything."""

import numpy as np
from jaxtyping import Float

from diffmem.fitting import kernel_rows
from diffmem.system import System
from diffmem.traces import Traces


def roofline_time_s(spec: System, traces: Traces) -> Float[np.ndarray, ' row']:
  """Larger of bytes over bandwidth and operations over peak rate [s].

  Compulsory bytes at the main memory's published bandwidth, operations at the
  published peak of their number format (Williams, Waterman and Patterson,
  CACM 52(4), 2009); a collective's bytes at the innermost link's.

  Args:
    spec: the machine as published.
    traces: rows; NaN comes out where one has neither bytes nor operations.
  """
  memory = next(t for t in spec.tiers if not t.is_cache and not t.link)
  moved_B = traces.get('bytes_read', 0.0) + traces.get('bytes_written', 0.0)
  time_s = moved_B / float(memory.read_Bps)
  links = sorted((t for t in spec.tiers if t.span), key=lambda t: t.span)
  if links:
    sent_B = traces.get('message_bytes', 0.0)
    time_s = np.maximum(time_s, sent_B / float(links[0].read_Bps))
  rate = kernel_rows.peak_FLOPps(spec, traces)
  time_s = np.maximum(time_s, traces.get('flops', 0.0) / rate)
  return np.where(time_s > 0, time_s, np.nan)
