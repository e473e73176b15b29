"""A tier: anything that holds or carries bytes.

SRAM, HBM, DRAM, CXL, flash, a link, a network level: one closed-loop law
serves them all (`diffmem.cost.service`), and a tier is that law's parameters.
"""

import enum
from typing import Any

from jaxtyping import ArrayLike, Float

from diffmem.system import parameters

Scalar = Float[ArrayLike, '...']


class Duplex(enum.StrEnum):
  """How reads and writes share a tier's capacity (`diffmem.cost.capacity`)."""

  HALF = 'half_duplex'  # one bus, capacity bends with the mix: DDR, HBM
  TURNAROUND = 'turnaround'  # one bus that pays to change direction: GPU HBM
  FULL = 'full_duplex'  # two directions and a common limit: links, L1 ports


@parameters.pytree
class Tier:
  """Parameters of one tier. Build with `Tier.of`.

  Attributes:
    name: such as 'HBM' or 'L2'.
    duplex: the capacity law.
    home: for a cache, the tier whose bytes it holds; '' for a memory.
    via: the link that every byte to or from this tier crosses; '' for none.
    private: whether every participant has one of its own (a core's L2), so
      that size and bandwidth scale with the participants; its bandwidth is
      then what one participant draws, and nothing is said of bytes in flight.
    link: whether it only carries bytes; nothing is placed on it.
    span: for a network level, the devices within it; 0 for anything else.
    contended: whether latency grows well before the capacity binds, as it
      does where cores share a memory controller (`cost.service`); without it
      the contention parameters do not matter.
  """

  name: str = parameters.static()
  duplex: Duplex = parameters.static(Duplex.HALF)
  home: str = parameters.static('')
  via: str = parameters.static('')
  private: bool = parameters.static(False)
  link: bool = parameters.static(False)
  span: int = parameters.static(0)
  contended: bool = parameters.static(False)

  log_latency_s: Scalar = parameters.parameter(
    's', 100e-9, 1.0, 'unloaded latency of one access'
  )
  log_read_Bps: Scalar = parameters.parameter(
    'B/s', 100e9, 1.0, 'capacity when everything is read'
  )
  log_write_Bps: Scalar = parameters.parameter(
    'B/s', 100e9, 1.0, 'capacity when everything is written'
  )
  log_mixed_Bps: Scalar = parameters.parameter(
    'B/s', 200e9, 1.0, 'turnaround: 1/t; full duplex: both directions together'
  )
  bend_read: Scalar = parameters.parameter(
    '1', 0.0, 0.5, 'half duplex: atanh of dlogC/dw where all is read'
  )
  bend_write: Scalar = parameters.parameter(
    '1', 0.0, 0.5, 'half duplex: atanh of dlogC/dw where all is written'
  )
  log_queue_p: Scalar = parameters.parameter(
    '1', 3.0, 0.7, 'sharpness of the knee between latency and capacity'
  )
  bend_queue: Scalar = parameters.parameter(
    '1', 0.0, 0.5, 'atanh of dlog(queue_p)/dw: writes sharpen or blunt the knee'
  )
  log_read_contention: Scalar = parameters.parameter(
    '1', 0.3, 1.0, 'contended: growth of the latency of reads under full load'
  )
  log_write_contention: Scalar = parameters.parameter(
    '1', 0.3, 1.0, 'contended: growth of the latency of writes under full load'
  )
  bend_contention: Scalar = parameters.parameter(
    '1', 0.0, 1.0, 'contended: atanh of (order of that growth in the load - 2)'
  )
  log_granule_B: Scalar = parameters.parameter(
    'B', 1.0, 2.0, 'granule at which half of the capacity is lost'
  )
  log_read_in_flight_B: Scalar = parameters.parameter(
    'B', 1e3, 1.5, 'bytes that one participant keeps in flight, reading'
  )
  log_write_in_flight_B: Scalar = parameters.parameter(
    'B', 1e3, 1.5, 'bytes that one participant keeps in flight, writing'
  )
  log_wait_p: Scalar = parameters.parameter(
    '1', 1.5, 0.3, 'overlap of the waits of reads and writes; 1 is none'
  )
  log_capacity_B: Scalar = parameters.parameter(
    'B', 64e9, 0.5, 'bytes that it holds; effective size for a cache'
  )
  log_cliff_k: Scalar = parameters.parameter(
    '1', 4.0, 0.7, 'cache: sharpness of the miss curve around its capacity'
  )
  log_churn_Bps: Scalar = parameters.parameter(
    'B/s', 1.0, 2.0, 'shared cache: rate at which neighbours fill it'
  )
  log_device_J_per_B: Scalar = parameters.parameter(
    'J/B', 5e-12 * 8, 0.5, 'energy inside the memory device'
  )
  log_path_J_per_B: Scalar = parameters.parameter(
    'J/B', 5e-12 * 8, 0.5, 'energy of the path from device to engine'
  )

  @classmethod
  def of(cls, name: str, **physical: Any) -> 'Tier':
    """Builds a tier from physical values in SI units.

    Examples:
      >>> hbm = Tier.of('HBM', latency_s=600e-9, read_Bps=3.35e12)
      >>> round(float(hbm.latency_s) * 1e9)
      600
    """
    if 'duplex' in physical:
      physical['duplex'] = Duplex(physical['duplex'])
    if 'read_Bps' in physical:
      physical.setdefault('write_Bps', physical['read_Bps'])
      physical.setdefault(
        'mixed_Bps', physical['read_Bps'] + physical['write_Bps']
      )
    return parameters.build(cls, name=name, **physical)

  @property
  def is_cache(self) -> bool:
    """Whether it serves another tier's bytes."""
    return bool(self.home)

  def active_parameters(self) -> frozenset[str]:
    """Names of the parameters that matter to this tier's laws."""
    names = {
      'latency_s', 'read_Bps', 'queue_p', 'device_J_per_B', 'path_J_per_B'
    }  # fmt: skip
    if self.private:
      names -= {'queue_p'}
    else:
      names |= {'read_in_flight_B', 'write_in_flight_B', 'wait_p'}
    if not self.is_cache and not self.link:
      names |= {'bend_queue'}
    if self.contended:
      names |= {'read_contention', 'write_contention', 'bend_contention'}
    if self.duplex is Duplex.HALF:
      names |= {'bend_read', 'bend_write'}
    else:
      names |= {'write_Bps', 'mixed_Bps'}
    if self.is_cache:
      names |= {'capacity_B', 'cliff_k'}
    else:
      names |= {'granule_B'}
    if self.is_cache and not self.private:
      names |= {'churn_Bps'}
    return frozenset(names)
