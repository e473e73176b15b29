"""An offloading runtime as a few named numbers, and what they make of a run.

The time of a pass is the norm (`diffmem.cost.overlap`) of what its streams
need - drives, link, accelerator with the host's attention - plus a fixed time
per layer. The numbers are shares of published rates and software times, each
with a prior; none knows the shape of a model.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffmem import errors
from diffmem.runs.offload_rows import OffloadRun
from diffmem.system import System, Tier, load_catalog
from diffmem.workloads import offload

STACKS = ('accelerate', 'flexgen', 'zero-inference')


class Parameter(NamedTuple):
  """A number of a stack.

  Attributes:
    unit: SI.
    prior: median of the prior.
    prior_sd: of its logarithm.
    help: one line.
  """

  unit: str
  prior: float
  prior_sd: float
  help: str


PARAMETERS = {
  'matrix_share': Parameter(
    '1', 0.5, 0.3, 'share of the published matrix rate that products reach'
  ),
  'near_share': Parameter(
    '1', 0.75, 0.15, 'share of the published rate of the near memory'
  ),
  'pinned_share': Parameter(
    '1', 0.75, 0.2, 'share of the link that copies reach'
  ),
  'staging_share': Parameter(
    '1', 0.12, 0.6, "share of the host memory's rate in copies to pinned memory"
  ),
  'drive_share': Parameter(
    '1', 0.95, 0.1, 'share of the published rate of the drives'
  ),
  'file_Bps': Parameter(
    'B/s', 10e9, 1.0, 'rate of the software path between drive and host'
  ),
  'host_share': Parameter(
    '1', 0.1, 0.5, "share of the host memory's rate in its attention"
  ),
  'unpack_B': Parameter(
    'B', 16.0, 0.8, 'bytes of near memory that unpacking a value goes over'
  ),
  'overlap_p': Parameter(
    '1', 2.0, 0.4, 'how far streams hide each other; 1 is not at all'
  ),
  'layer_s': Parameter(
    's', 4e-4, 0.8, 'fixed time of a layer and block in a pass'
  ),
  'crowding': Parameter(
    '1', 0.1, 1.0, 'slowdown of the link by each further accelerator'
  ),
}


@dataclasses.dataclass(frozen=True)
class OffloadStacks:
  """Fitted numbers of every stack; serialises as plain dicts.

  Attributes:
    values: stack -> parameter -> value, SI; 'other' stands for the rest.
    log_sd: standard deviation in logarithm, from whole models left out.
    unseen_log_sd: the same from whole machines left out.
    machines: stack -> machines that it was fitted on.
  """

  values: Mapping[str, Mapping[str, float]]
  log_sd: float = 0.5
  unseen_log_sd: float = 0.5
  machines: Mapping[str, Sequence[str]] = dataclasses.field(
    default_factory=dict
  )

  def of(self, stack: str) -> Mapping[str, float]:
    """Numbers of a stack, or those of 'other'."""
    return self.values.get(stack, self.values['other'])

  def sd_of(self, stack: str, machine: str) -> float:
    """How far a prediction is off, in logarithm."""
    seen = machine in self.machines.get(stack, ())
    return self.log_sd if seen else self.unseen_log_sd

  def document(self) -> dict[str, Any]:
    """What a JSON file holds: every number with unit and prior."""
    stacks = {
      stack: {
        name: {
          'value': float(f'{values[name]:.6g}'),
          'unit': PARAMETERS[name].unit,
          'prior': PARAMETERS[name].prior,
          'prior_sd': PARAMETERS[name].prior_sd,
        }
        for name in PARAMETERS
      }
      for stack, values in self.values.items()
    }
    return {
      'log_sd': float(f'{self.log_sd:.4g}'),
      'unseen_log_sd': float(f'{self.unseen_log_sd:.4g}'),
      'machines': {s: list(m) for s, m in self.machines.items()},
      'stacks': stacks,
    }

  @classmethod
  def from_document(cls, document: Mapping[str, Any]) -> 'OffloadStacks':
    """The stacks of a document that `document` gave.

    Raises:
      KeyError: a stack or a number is missing.
    """
    values = {
      stack: {name: float(numbers[name]['value']) for name in PARAMETERS}
      for stack, numbers in document['stacks'].items()
    }
    if 'other' not in values:
      raise KeyError('other')
    return cls(
      values,
      float(document['log_sd']),
      float(document['unseen_log_sd']),
      {s: list(m) for s, m in document['machines'].items()},
    )


def prior_stacks() -> OffloadStacks:
  """Every stack at its prior."""
  prior = {name: p.prior for name, p in PARAMETERS.items()}
  return OffloadStacks({s: prior for s in (*STACKS, 'other')})


class Published(NamedTuple):
  """Seconds that each pass would need at published rates; arrays [run, pass].

  The passes are the prefill and one decode step; `count` says how many.

  Attributes:
    matrix_s: matrix products [s].
    near_s: bytes of the near memory [s].
    unpack_s_per_B: unpacking, for each byte that it goes over per value [s/B].
    link_s: the host link [s].
    staged_s: the same bytes through the host's memory [s].
    drive_s: the drives [s].
    file_B: bytes of one accelerator on the software path to drives [B].
    host_s: attention on the host [s].
    layers: layers times blocks.
    count: passes of the run.
    crowd: further accelerators that use the same host.
    pinned: whether weights lie in pinned host memory.
    prefetch: whether streams run beside each other.
    tokens: generated in the whole run, of the accelerators counted; [run].
  """

  matrix_s: np.ndarray
  near_s: np.ndarray
  unpack_s_per_B: np.ndarray
  link_s: np.ndarray
  staged_s: np.ndarray
  drive_s: np.ndarray
  file_B: np.ndarray
  host_s: np.ndarray
  layers: np.ndarray
  count: np.ndarray
  crowd: np.ndarray
  pinned: np.ndarray
  prefetch: np.ndarray
  tokens: np.ndarray


def published(
  runs: Sequence[OffloadRun], checkpoints: Mapping[str, System] | None
) -> Published:
  """What the runs need at published rates."""
  found = []
  for run in runs:
    system = system_of(run.machine, checkpoints)
    passes = (
      offload.prefill_traffic(run.model, run.job),
      offload.decode_traffic(run.model, run.job),
    )
    columns = [_ideal(traffic, run, system) for traffic in passes]
    found.append([np.array(c) for c in zip(*columns, strict=True)])
  table = [np.stack(c) for c in zip(*found, strict=True)]

  def per_run(values):
    return np.array(values, float)[:, None]

  return Published(
    *table,
    count=np.stack(
      [np.ones(len(runs)), [r.job.generated - 1.0 for r in runs]], -1
    ),
    crowd=per_run([r.job.gpus - 1.0 for r in runs]),
    pinned=per_run([r.pinned for r in runs]) > 0,
    prefetch=per_run([r.prefetch for r in runs]) > 0,
    tokens=np.array([r.counted * r.job.batch * r.job.generated for r in runs]),
  )


def tokens_per_s(need: Published, at: Mapping[str, float]) -> np.ndarray:
  """Generated tokens per second of each run, prefill included; [run].

  Args:
    need: from `published`.
    at: a stack's numbers.
  """
  link_s = need.link_s / at['pinned_share']
  link_s = link_s * (1.0 + at['crowding'] * need.crowd)
  copied_s = need.staged_s / at['staging_share']
  link_s = link_s + np.where(need.pinned, 0.0, copied_s)
  disk_s = need.drive_s / at['drive_share'] + need.file_B / at['file_Bps']
  engine_s = need.matrix_s / at['matrix_share'] + need.host_s / at['host_share']
  unpack_s = need.unpack_s_per_B * at['unpack_B']
  engine_s = engine_s + (need.near_s + unpack_s) / at['near_share']
  p = np.where(need.prefetch, max(at['overlap_p'], 1.0), 1.0)
  hidden_s = (disk_s**p + link_s**p + engine_s**p) ** (1.0 / p)
  pass_s = hidden_s + need.layers * at['layer_s']
  return need.tokens / (need.count * pass_s).sum(-1)


def system_of(machine: str, checkpoints: Mapping[str, System] | None) -> System:
  """A machine's fitted system, or its published figures."""
  if checkpoints and machine in checkpoints:
    return checkpoints[machine]
  return _catalog(machine)


@functools.cache
def _catalog(machine: str) -> System:
  return load_catalog(machine).system


def near_tier(system: System) -> Tier:
  """The accelerator's own memory: the first tier that is no cache."""
  return next(t for t in system.tiers if not t.is_cache)


def _ideal(traffic, run, system) -> tuple[float, ...]:
  """The first columns of `Published`, of one pass."""
  near_Bps = float(near_tier(system).read_Bps)
  gpus = run.job.gpus
  ssd = system.tier('SSD')
  drive_s = traffic.disk_read_B / (run.disk_read_Bps or float(ssd.read_Bps))
  drive_s += traffic.disk_write_B / (run.disk_write_Bps or float(ssd.write_Bps))
  return (
    traffic.flops / _matrix_rate(system),
    traffic.near_B / near_Bps,
    traffic.unpacked / near_Bps,
    traffic.link_B / float(system.tier('PCIe').read_Bps),
    traffic.link_B / float(system.tier('DRAM').read_Bps),
    gpus * drive_s,
    traffic.disk_read_B + traffic.disk_write_B,
    traffic.host_B / float(system.tier('DRAM').read_Bps),
    traffic.layers,
  )


def _matrix_rate(system: System) -> float:
  for name in ('matrix:float16', 'matrix:bfloat16'):
    if name in system.engine_names:
      return float(system.engine(name).rate_FLOPps)
  raise errors.SpecError(f'{system.name} has no engine for 16-bit products')
