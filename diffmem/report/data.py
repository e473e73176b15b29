"""What a report is made of: plain data, every part optional.

The caller fills these from traces, `predict`, `evaluate` and `plan`. Arrays are
anything numpy takes, in SI units; NaN is 'not there'. A part that is None or
empty has no section: nothing is invented.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from diffmem.report.codesign_data import CodesignData


@dataclasses.dataclass(frozen=True)
class Fit:
  """The model along a grid of its own, for a smooth line.

  Attributes:
    x: ascending.
    y: predicted.
    lo: lower end of the 90 % interval.
    hi: its upper end.
  """

  x: ArrayLike
  y: ArrayLike
  lo: ArrayLike | None = None
  hi: ArrayLike | None = None

  def __post_init__(self):
    _as_arrays(self, ('x', 'y', 'lo', 'hi'))


@dataclasses.dataclass(frozen=True)
class Curve:
  """One measured series and what the model says of it.

  Attributes:
    label: such as '2 threads'; '' where there is only one.
    x: where it was measured.
    measured: what was observed there.
    fitted: predicted at the same x; gives the residuals.
    lo: lower end of the 90 % interval at x.
    hi: its upper end.
    rel_std: relative noise of the measurement.
    held_out: bool, points that the fit has not seen.
    line: the model on a finer grid; without it the line joins `fitted`.
  """

  label: str
  x: ArrayLike
  measured: ArrayLike
  fitted: ArrayLike | None = None
  lo: ArrayLike | None = None
  hi: ArrayLike | None = None
  rel_std: ArrayLike | None = None
  held_out: ArrayLike | None = None
  line: Fit | None = None

  def __post_init__(self):
    names = ('x', 'measured', 'fitted', 'lo', 'hi', 'rel_std', 'held_out')
    _as_arrays(self, names)

  @property
  def error(self) -> np.ndarray:
    """(fitted - measured) / measured, in percent; NaN where unknown."""
    if self.fitted is None:
      return np.full(self.x.shape, np.nan)
    with np.errstate(divide='ignore', invalid='ignore'):
      error = 100 * (self.fitted / self.measured - 1)
    return np.where(np.isfinite(error), error, np.nan)


def _as_arrays(part: Any, names: Sequence[str]) -> None:
  """Makes float64 arrays of one length.

  Raises:
    ValueError: lengths differ.
  """
  for name in names:
    value = getattr(part, name)
    if value is None:
      continue
    value = np.asarray(value, np.float64)
    if value.ndim != 1 or value.shape != np.shape(part.x):
      raise ValueError(
        f'{type(part).__name__}.{name} has shape {value.shape}, '
        f'x has {np.shape(part.x)}'
      )
    object.__setattr__(part, name, value)


@dataclasses.dataclass(frozen=True)
class CurveSet:
  """Curves that share a plot.

  Attributes:
    curves: in the order of their legend.
    title: such as 'copy'; '' takes the section's.
    marks: label -> x of a vertical line, such as a cache's fitted capacity.
  """

  curves: Sequence[Curve]
  title: str = ''
  marks: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Machine:
  """What was measured and when.

  Attributes:
    name: of the system.
    measured_at: date and time as it should be read.
    facts: such as {'Processor': 'Xeon ...', 'Cores': '2'}.
    observations: number of trace rows.
    seconds: how long the collection took.
    quiet: the noise verdict; None where nobody judged.
    noise: the verdict in words.
  """

  name: str
  measured_at: str = ''
  facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  observations: int | None = None
  seconds: float | None = None
  quiet: bool | None = None
  noise: str = ''


@dataclasses.dataclass(frozen=True)
class Disk:
  """File reads against block size, one curve per queue depth."""

  bandwidth: CurveSet | None = None
  latency: CurveSet | None = None


@dataclasses.dataclass(frozen=True)
class RoofPoint:
  """A measured kernel or program on the roofline.

  Attributes:
    kind: points of one kind share a marker: 'gemm float32'.
    label: such as 'n = 512'.
    intensity: FLOP per byte.
    measured: FLOP/s.
    predicted: FLOP/s, for the tooltip.
  """

  kind: str
  label: str
  intensity: float
  measured: float
  predicted: float | None = None


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Ceilings by name: B/s of each tier, FLOP/s of each engine."""

  tiers: Mapping[str, float]
  engines: Mapping[str, float]
  points: Sequence[RoofPoint] = ()


@dataclasses.dataclass(frozen=True)
class Program:
  """One run of a program beside its prediction, in seconds."""

  name: str
  size: str
  measured_s: float
  predicted_s: float
  lo90: float | None = None
  hi90: float | None = None

  @property
  def error(self) -> float:
    """(predicted - measured) / measured, in percent."""
    return 100 * (self.predicted_s / self.measured_s - 1)


@dataclasses.dataclass(frozen=True)
class Parameter:
  """One parameter of the system; `parameters_of`
  makes them.

  Attributes:
    name: full, such as 'L2.latency_s'.
    value: physical, SI.
    unit: SI unit or '1'.
    stderr: in log units (0.02 reads as 2 %); of `value` itself where not
      `is_log`; None where nothing is known.
    prior: the prior's median.
    status: 'fitted', 'unidentified', 'prior' or 'unused'.
    measure: what to measure to learn it.
    source: where the prior comes from.
    is_log: whether the fit moves the logarithm.
  """

  name: str
  value: float
  unit: str
  stderr: float | None
  prior: float | None
  status: str
  measure: str = ''
  source: str = ''
  is_log: bool = True


@dataclasses.dataclass(frozen=True)
class Plan:
  """The answer of the planner.

  Attributes:
    document: what `plan --json` prints; null keys are left out of the page.
      `elasticities` and `shadow_prices` map a name to a number or to a dict
      with `value` and perhaps `lo90`, `hi90`, `unit`, `note`.
    system: name of the system that was planned for.
    workload: its name.
    chips: how many.
    objective: what was minimised.
    system_is_prior: the system is a catalog's, not fitted to measurements.
    workload_is_hypothetical: the workload is not a published model.
    memory: tier -> tensor group -> bytes, of the best plan, per device.
    capacity: tier -> bytes.
    breakdown: part of the best plan's step -> seconds.
  """

  document: Mapping[str, Any]
  system: str = ''
  workload: str = ''
  chips: int | None = None
  objective: str = ''
  system_is_prior: bool = False
  workload_is_hypothetical: bool = False
  memory: Mapping[str, Mapping[str, float]] = dataclasses.field(
    default_factory=dict
  )
  capacity: Mapping[str, float] = dataclasses.field(default_factory=dict)
  breakdown: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Provenance:
  """How the page came about.

  Attributes:
    versions: package -> version.
    files: path -> SHA-256.
    command: as it was typed.
    seed: of the random numbers.
    created_at: of the page.
  """

  versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
  files: Mapping[str, str] = dataclasses.field(default_factory=dict)
  command: str = ''
  seed: int | None = None
  created_at: str = ''


@dataclasses.dataclass(frozen=True)
class ReportData:
  """Everything a report may show.

  Attributes:
    title: of the page.
    machine: what was measured.
    latency: pointer chase against working set.
    bandwidth: one set per operation, against working set.
    loaded_latency: latency against bandwidth.
    disk: file reads.
    roofline: ceilings and measured points.
    held_out: the `groups` of `evaluate --json`, errors in percent.
    programs: predicted beside measured.
    parameters: of the fitted system.
    plan: the planner's answer.
    provenance: how the page came about.
    codesign: what memory to build, buy and place.
  """

  title: str = 'diffmem report'
  machine: Machine | None = None
  latency: CurveSet | None = None
  bandwidth: Sequence[CurveSet] = ()
  loaded_latency: CurveSet | None = None
  disk: Disk | None = None
  roofline: Roofline | None = None
  held_out: Sequence[Mapping[str, Any]] = ()
  programs: Sequence[Program] = ()
  parameters: Sequence[Parameter] = ()
  plan: Plan | None = None
  provenance: Provenance | None = None
  codesign: CodesignData | None = None
