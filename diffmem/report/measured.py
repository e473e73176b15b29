"""From traces and a fitted system to the measured parts of a report.

All curves of a page are predicted in one call: the measured rows, and rows of
a finer grid between them for the smooth lines.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffmem.fitting import Predictions, predict_traces
from diffmem.report import data
from diffmem.system import FittedSystem
from diffmem.traces import Traces, concat, from_rows

_GRID = 97  # points of a smooth line
_BANDWIDTH_OPS = ('stream', 'copy', 'triad')
_DISK_OPS = ('random_read',)
_DEPTHS = 4  # queue depths shown at most, spread over those measured


@dataclasses.dataclass(frozen=True)
class _Series:
  """One curve: which rows, and the grid rows for its line."""

  group: str
  label: str
  rows: np.ndarray
  grid: list[dict[str, Any]]


def measured_parts(
  fitted: FittedSystem, traces: Traces, held_out: np.ndarray
) -> dict[str, Any]:
  """The `ReportData` fields that come from measurements.

  Args:
    fitted: the system.
    traces: everything that was measured.
    held_out: mask of the rows that the fit has not seen [row].

  Returns:
    `latency`, `bandwidth`, `loaded_latency`, `disk` and `roofline`; those
    without rows are absent.
  """
  series = [
    *_latency_series(traces),
    *_bandwidth_series(traces),
    *_loaded_series(traces),
    *_disk_series(traces),
  ]
  grid = [row for s in series for row in s.grid]
  everything = concat([traces, from_rows(grid, 'grid')]) if grid else traces
  answer = _ByRow(predict_traces(fitted, everything), len(everything))
  curves: dict[str, list[data.Curve]] = {}
  first = len(traces)
  for s in series:
    at = np.arange(first, first + len(s.grid))
    first += len(s.grid)
    make = {'loaded': _loaded_curve, 'disk': _disk_curve}.get(
      s.group, _sweep_curve
    )
    for group, curve in make(s, everything, answer, held_out, at):
      curves.setdefault(group, []).append(curve)
  parts = _assemble(curves, _cache_marks(fitted))
  parts['roofline'] = _roofline(fitted, traces, answer)
  return {name: part for name, part in parts.items() if part}


def program_rows(fitted: FittedSystem, traces: Traces) -> list[data.Program]:
  """Measured programs beside their predictions."""
  answer = predict_traces(fitted, traces)
  programs = []
  for i in range(len(answer.row)):
    row = traces.rows()[answer.row[i]]
    size = f'{row["working_set_bytes"] / 2**20:.3g} MiB'
    if 'm' in row:
      size = f'{row["m"]} x {row["k"]} x {row["n"]}'
    programs.append(
      data.Program(
        name=row['op'],
        size=size,
        measured_s=float(answer.observed[i]),
        predicted_s=float(answer.predicted[i]),
        lo90=float(answer.lo90[i]),
        hi90=float(answer.hi90[i]),
      )
    )
  return programs


class _ByRow:
  """Predictions of the main observable, by row of the trace."""

  def __init__(self, predictions: Predictions, n: int):
    main = np.isin(
      predictions.observable, ['time_s', 'bandwidth_Bps', 'latency_s']
    )
    part = predictions.select(main)
    self.value = np.full(n, np.nan)
    self.lo = np.full(n, np.nan)
    self.hi = np.full(n, np.nan)
    self.tier = np.full(n, '', object)
    self.value[part.row] = part.predicted
    self.lo[part.row], self.hi[part.row] = part.lo90, part.hi90
    self.tier[part.row] = part.tier


def _template(traces: Traces, i: int, **changes: Any) -> dict[str, Any]:
  """A row like the i-th, with changes and without what the change voids."""
  row = traces.select([i]).rows()[0]
  drop = ('rel_std', 'cpu_time_s', 'note', 'repeats', 'time_s')
  return {k: v for k, v in row.items() if k not in drop} | changes


def _sweep(
  traces: Traces, group: str, label: str, rows: np.ndarray, y: str
) -> _Series:
  rows = rows[np.argsort(traces.get('working_set_bytes')[rows])]
  sizes = traces.get('working_set_bytes')[rows]
  grid = []
  for size in np.geomspace(sizes[0], sizes[-1], _GRID):
    # Bytes in proportion: a line has the mix and the granule of its points.
    factor = size / sizes[0]
    base = traces.select([rows[0]]).rows()[0]
    scaled = {
      name: base[name] * factor
      for name in ('bytes_read', 'bytes_written')
      if name in base
    }
    grid.append(
      _template(traces, rows[0], working_set_bytes=size, **scaled, **{y: 1.0})
    )
  return _Series(group, label, rows, grid)


def _latency_series(traces: Traces) -> list[_Series]:
  return _by_threads(traces, 'pointer_chase', 'latency', 'latency_s')


def _bandwidth_series(traces: Traces) -> list[_Series]:
  return [
    series
    for op in _BANDWIDTH_OPS
    for series in _by_threads(traces, op, op, 'bandwidth_Bps')
  ]


def _by_threads(traces, op: str, group: str, y: str) -> list[_Series]:
  threads = traces.get('participants', 1.0)
  series = []
  for count in sorted(set(threads[traces['op'] == op])):
    rows = np.flatnonzero((traces['op'] == op) & (threads == count))
    if len(rows) > 1:
      label = '1 thread' if count == 1 else f'{count:.0f} threads'
      series.append(_sweep(traces, group, label, rows, y))
  return series


def _loaded_series(traces: Traces) -> list[_Series]:
  loaded = np.flatnonzero(traces['op'] == 'loaded_latency')
  written = traces.get('bytes_written', 0.0)
  total = written + traces.get('bytes_read', 0.0)
  is_mixed = written / np.where(total > 0, total, 1.0) > 0.1
  series = []
  for label, mixed in (('reads', False), ('reads and writes', True)):
    rows = loaded[is_mixed[loaded] == mixed]
    if len(rows) < 2:
      continue
    in_flight = traces.get('in_flight_bytes')[rows]
    typical = rows[len(rows) // 2]
    grid = [
      _template(traces, typical, in_flight_bytes=n, latency_s=1.0)
      for n in np.geomspace(in_flight.min(), in_flight.max(), _GRID)
    ]
    series.append(_Series('loaded', label, rows, grid))
  return series


def _disk_series(traces: Traces) -> list[_Series]:
  is_read = np.isin(traces['op'], _DISK_OPS)
  granule = traces.get('granule_bytes', 1.0)
  depth = np.round(traces.get('in_flight_bytes', 1.0) / granule)
  depths = np.array(sorted(set(depth[is_read])))
  if len(depths) > _DEPTHS:
    picked = np.linspace(0, len(depths) - 1, _DEPTHS).round().astype(int)
    depths = depths[picked]
  series = []
  for count in depths:
    rows = np.flatnonzero(is_read & (depth == count))
    rows = rows[np.argsort(granule[rows])]
    if len(rows) < 2:
      continue
    grid = [
      _template(
        traces, rows[0], granule_bytes=g, in_flight_bytes=g * count,
        bytes_read=g * count, bandwidth_Bps=1.0,
      )
      for g in np.geomspace(granule[rows[0]], granule[rows[-1]], _GRID)
    ]  # fmt: skip
    series.append(_Series('disk', f'depth {count:.0f}', rows, grid))
  return series


def _sweep_curve(s, everything, answer, held_out, at):
  size = everything.get('working_set_bytes')
  y = 'latency_s' if s.group == 'latency' else 'bandwidth_Bps'
  line = data.Fit(size[at], answer.value[at], answer.lo[at], answer.hi[at])
  yield s.group, _points(s, everything, answer, held_out, size, y, line)


def _loaded_curve(s, everything, answer, held_out, at):
  bandwidth = everything.get('bandwidth_Bps')
  in_flight = everything.get('in_flight_bytes')
  x = in_flight[at] / answer.value[at]
  ascending = np.maximum.accumulate(x) == x
  at, x = at[ascending], x[ascending]
  line = data.Fit(x, answer.value[at], answer.lo[at], answer.hi[at])
  curve = _points(s, everything, answer, held_out, bandwidth, 'latency_s', line)
  order = np.argsort(curve.x)
  yield (
    s.group,
    dataclasses.replace(
      curve,
      **{
        f.name: getattr(curve, f.name)[order]
        for f in dataclasses.fields(curve)
        if isinstance(getattr(curve, f.name), np.ndarray)
      },
    ),
  )


def _disk_curve(s, everything, answer, held_out, at):
  granule = everything.get('granule_bytes')
  in_flight = everything.get('in_flight_bytes')
  line = data.Fit(granule[at], answer.value[at], answer.lo[at], answer.hi[at])
  curve = _points(
    s, everything, answer, held_out, granule, 'bandwidth_Bps', line
  )
  yield 'disk bandwidth', curve
  # Latency is the same measurement by Little's law.
  n, m = in_flight[s.rows], in_flight[at]
  yield (
    'disk latency',
    dataclasses.replace(
      curve,
      measured=n / curve.measured,
      fitted=n / curve.fitted,
      lo=n / curve.hi,
      hi=n / curve.lo,
      line=data.Fit(line.x, m / line.y, m / line.hi, m / line.lo),
    ),
  )


def _points(s, everything, answer, held_out, x, y, line) -> data.Curve:
  rows = s.rows
  return data.Curve(
    label=s.label,
    x=x[rows],
    measured=everything.get(y)[rows],
    fitted=answer.value[rows],
    lo=answer.lo[rows],
    hi=answer.hi[rows],
    rel_std=everything.get('rel_std')[rows],
    held_out=held_out[rows],
    line=line,
  )


def _cache_marks(fitted: FittedSystem) -> dict[str, float]:
  return {
    t.name: float(t.capacity_B) for t in fitted.system.tiers if t.is_cache
  }


def _assemble(curves: dict, marks: dict[str, float]) -> dict[str, Any]:
  def one(group: str, title: str = '', lines: Any = None):
    if group not in curves:
      return None
    return data.CurveSet(curves[group], title, lines or {})

  disk = data.Disk(one('disk bandwidth'), one('disk latency'))
  return {
    'latency': one('latency', lines=marks),
    'bandwidth': [one(op, op, marks) for op in _BANDWIDTH_OPS if op in curves],
    'loaded_latency': one('loaded'),
    'disk': disk if disk.bandwidth else None,
  }


def _roofline(fitted, traces: Traces, answer: _ByRow) -> data.Roofline | None:
  flops = traces.get('flops', 0.0)
  bytes_ = traces.get('bytes_read', 0.0) + traces.get('bytes_written', 0.0)
  kernel = (flops > 0) & (bytes_ > 0) & (traces.get('launches', 0.0) > 0)
  if not kernel.any():
    return None
  time_s = traces.get('time_s')
  points = [
    data.RoofPoint(
      kind=traces['op'][i],
      label=_kernel_label(traces, i),
      intensity=float(flops[i] / bytes_[i]),
      measured=float(flops[i] / time_s[i]),
      predicted=float(flops[i] / answer.value[i]),
    )
    for i in np.flatnonzero(kernel & ~np.isnan(time_s))
  ]
  return data.Roofline(
    tiers=_tier_ceilings(fitted.system.tier_names, traces, answer),
    engines={
      e.name: float(e.rate_FLOPps)
      for e in fitted.system.engines
      if any(k.status == 'fitted' for n, k in fitted.knowledge.items()
             if n.startswith(f'{e.name}.'))
    },
    points=points,
  )  # fmt: skip


def _kernel_label(traces: Traces, i: int) -> str:
  m, n, k = (traces.get(name)[i] for name in ('m', 'n', 'k'))
  if not np.isnan(m):
    return f'{m:.0f} x {k:.0f} x {n:.0f}'
  return f'{traces.get("working_set_bytes")[i] / 2**20:.3g} MiB'


def _tier_ceilings(
  names: Sequence[str], traces: Traces, answer: _ByRow
) -> dict[str, float]:
  """Highest predicted read bandwidth of the rows that each tier serves."""
  ceilings = {}
  for name in names:
    rows = (traces['op'] == 'stream') & (answer.tier[: len(traces)] == name)
    if rows.any():
      ceilings[name] = float(np.nanmax(answer.value[: len(traces)][rows]))
  return ceilings
