"""Checkpoints of a training run: bytes, stalls, the interval that costs least.

A run of mean time between failures M that saves every tau seconds of work,
each save stalling it for delta, and that needs R to restart, takes

    T(tau) = T_work / tau  M e^(R / M) (e^((tau + delta) / M) - 1)

(J. T. Daly, "A higher order estimate of the optimum checkpoint interval",
Future Generation Computer Systems 22(3), 2006, eq. 20). Its minimum is

    tau = M (1 + W(-e^(-1 - delta / M)))

with Lambert's W; Young's sqrt(2 delta M) (CACM 17(9), 1974) is its limit for
short stalls. A save stalls the run while the state is copied to the host's
memory; the host then writes it to drives beside the run, which bounds how
often that can be done.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike
from scipy import special

from diffmem import errors
from diffmem.cost import Demand, predict_jit
from diffmem.system import System
from diffmem.workloads import stage
from diffmem.workloads.transformer import Transformer

# Master weights and Adam's two moments in float32: what a restart needs.
STATE_B = stage.OPTIMIZER_B

# Llama Team, "The Llama 3 Herd of Models", arXiv:2407.21783, section 3.3.4
# and table 5: 419 unexpected interruptions in 54 days on 16,384 GPUs.
DEVICE_MTBF_S = 54 * 86400.0 * 16384 / 419


class Saving(NamedTuple):
  """One save of a run; arrays where the inputs are.

  Attributes:
    device_B: bytes that each device saves [B].
    stall_s: time that the run stands still [s].
    flush_s: time until the save is where it should be [s].
  """

  device_B: np.ndarray
  stall_s: np.ndarray
  flush_s: np.ndarray


class Schedule(NamedTuple):
  """How often to save, and what it costs.

  Attributes:
    interval_s: work between saves [s].
    overhead: time lost over time of work: saves, lost work and restarts.
    saving: of it, the stalls of saves.
    losing: of it, work done again and restarts.
    share: of the run's time, and so of its rent, that is lost.
  """

  interval_s: np.ndarray
  overhead: np.ndarray
  saving: np.ndarray
  losing: np.ndarray
  share: np.ndarray


def saving_of(
  system: System,
  model: Transformer,
  devices: int,
  *,
  copies: int = 1,
  via: str = 'DRAM',
  to: str | None = None,
  state_B: float = STATE_B,
) -> Saving:
  """One save of a run whose state is spread evenly over its devices.

  Args:
    system: the machine of one device.
    model: the transformer.
    devices: that hold the state once, all together.
    copies: of the state that are saved; 2 keeps one on another host.
    via: the tier that the run waits for.
    to: the tier where the save ends up; `via` when not given.
    state_B: bytes of a parameter's state that are saved [B].

  Raises:
    SpecError: a tier that the system lacks, or one that is too small.
  """
  if devices < 1:
    raise errors.SpecError(f'devices = {devices}; expected 1 or more')
  device_B = copies * state_B * model.parameters().total / devices
  for name in {via, to or via}:
    room_B = float(system.tier(name).capacity_B)
    if device_B > room_B:
      raise errors.SpecError(
        f'a save of {device_B / 1e9:.0f} GB exceeds {name} of {system.name}: '
        f'{room_B / 1e9:.0f} GB; the smallest number of devices that fits is '
        f'{int(np.ceil(device_B * devices / room_B))}'
      )
  stall_s = _write_s(system, via, device_B)
  flush_s = stall_s
  if to and to != via:
    flush_s = stall_s + _write_s(system, to, device_B)
  return Saving(np.asarray(device_B), stall_s, flush_s)


def best_interval_s(stall_s: ArrayLike, mtbf_s: ArrayLike) -> np.ndarray:
  """Work between saves that makes the run shortest [s].

  Args:
    stall_s: time that one save takes from the run [s].
    mtbf_s: mean time between failures of the whole run [s].
  """
  ratio = np.asarray(stall_s, float) / mtbf_s
  w = np.real(special.lambertw(-np.exp(-1.0 - ratio)))
  # Next to the branch point W loses its digits; there Young's law holds.
  young = np.sqrt(2.0 * ratio) - ratio / 3.0
  return np.asarray(mtbf_s * np.where(ratio < 1e-9, young, 1.0 + w))


def schedule(
  saving: Saving,
  mtbf_s: ArrayLike,
  *,
  restart_s: ArrayLike = 300.0,
  interval_s: ArrayLike | None = None,
) -> Schedule:
  """How often to save, and what failures then cost.

  Args:
    saving: one save.
    mtbf_s: mean time between failures of the whole run [s]
      (`DEVICE_MTBF_S` over its devices).
    restart_s: from a failure until work goes on from the last save [s].
    interval_s: work between saves; the best by default, and never more often
      than one save can be flushed.
  """
  mtbf_s, stall_s = np.asarray(mtbf_s, float), np.asarray(saving.stall_s, float)
  if interval_s is None:
    behind_s = np.asarray(saving.flush_s) - stall_s
    interval_s = np.maximum(best_interval_s(stall_s, mtbf_s), behind_s)
  interval_s = np.asarray(interval_s, float)
  again = np.exp(np.asarray(restart_s) / mtbf_s) * mtbf_s
  total = again / interval_s * np.expm1((interval_s + stall_s) / mtbf_s)
  overhead, saves = total - 1.0, stall_s / interval_s
  return Schedule(
    interval_s, overhead, saves, overhead - saves, overhead / (1.0 + overhead)
  )


def two_levels(
  near: Saving,
  far: Saving,
  mtbf_s: float,
  *,
  near_share: float = 0.9,
  restart_s: float = 300.0,
) -> tuple[Schedule, Schedule]:
  """Frequent saves nearby, rare ones far away.

  Failures of two kinds are independent, and to first order their overheads
  add (Vaidya, "A case for two-level distributed recovery schemes", SIGMETRICS
  1995; Moody et al., SC 2010): those that a near save mends set the pace of
  near saves, the others that of far ones.

  Args:
    near: a save to memory, such as that of a second host.
    far: a save to drives.
    mtbf_s: mean time between failures of the whole run [s].
    near_share: failures that a near save mends, over all.
    restart_s: of either kind [s].

  Returns:
    The schedules of near and of far saves.

  Raises:
    SpecError: a share that is not between 0 and 1.
  """
  if not 0.0 < near_share < 1.0:
    raise errors.SpecError(
      f'near_share = {near_share}; expected a number between 0 and 1'
    )
  return (
    schedule(near, mtbf_s / near_share, restart_s=restart_s),
    schedule(far, mtbf_s / (1.0 - near_share), restart_s=restart_s),
  )


def _write_s(system: System, tier: str, size_B: float) -> np.ndarray:
  """Time of one stream into a tier."""
  demand = Demand.of(system, write_B={tier: size_B}, launches=1.0)
  return np.asarray(predict_jit(system, demand).time_s, float)
