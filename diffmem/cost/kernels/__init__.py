"""Kernel laws: what one kernel of a given shape asks of a device.

A law turns the shape columns of the trace schema into `Work`: operations that
the tiles really do, bytes, share of the device that is busy. It has no fitted
parameters: rates, start times and bandwidths belong to engines and tiers.
`LAWS` has one law per operation.
"""

from diffmem.cost.kernels import attention, cast, gemm, mla, moe
from diffmem.cost.kernels.work import Law, Shape, Work

LAWS: dict[str, Law] = {
  'gemm': gemm.LAW,
  'prefill_attention': attention.PREFILL,
  'decode_attention': attention.DECODE,
  'mla_prefill': mla.PREFILL,
  'mla_decode': mla.DECODE,
  'mla_bmm': mla.BMM,
  'moe': moe.LAW,
  'cast': cast.LAW,
}

__all__ = ['LAWS', 'Law', 'Shape', 'Work']
