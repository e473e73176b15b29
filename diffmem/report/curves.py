"""Sections of measured curves: memory, loaded latency, disk."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from diffmem.report import scales
from diffmem.report.data import Curve, CurveSet, Disk
from diffmem.report.figure import (
  Axis,
  Band,
  Data,
  Key,
  Line,
  Mark,
  Plot,
  Points,
  Size,
  Strip,
  Swatch,
)
from diffmem.report.page import Section
from diffmem.report.scales import Kind

_WORKING_SET = Axis('Working set', 'B', Kind.LOG2)
_BLOCK = Axis('Block size', 'B', Kind.LOG2)
_ERROR = 'Fit against measurement'


def latency_section(curves: CurveSet | None) -> Section | None:
  """Unloaded latency against working set."""
  figure = _plot(
    curves, 'latency', 'Latency against working set', _WORKING_SET,
    Axis('Latency', 's', Kind.LOG10),
  )  # fmt: skip
  if figure is None:
    return None
  lead = (
    'Time of one dependent load (pointer chase) as the working set outgrows '
    'each cache; dotted lines are the fitted capacities. '
  )
  return Section(
    'memory-latency', 'Memory latency', lead + _verdict([curves]), [figure]
  )


def bandwidth_section(sets: Sequence[CurveSet]) -> Section | None:
  """Bandwidth against working set, one plot per operation."""
  sets = [s for s in sets if _has_points(s)]
  axis = _common_axis('Bandwidth', 'B/s', sets)
  size = {1: Size.FULL, 2: Size.HALF, 4: Size.HALF}.get(len(sets), Size.THIRD)
  figures = [
    _plot(s, f'bandwidth-{i}', 'Bandwidth', _WORKING_SET, axis, size)
    for i, s in enumerate(sets, 1)
  ]
  if not figures:
    return None
  lead = 'Bytes read and written per second while they fit each level. '
  return Section(
    'memory-bandwidth', 'Memory bandwidth', lead + _verdict(sets), figures
  )


def loaded_section(curves: CurveSet | None) -> Section | None:
  """Latency against the bandwidth that flows beside it."""
  if not _has_points(curves):
    return None
  seen = _all(curves, 'measured')
  kind = Kind.LOG10 if seen.max() > 8 * seen.min() else Kind.LINEAR
  figure = _plot(
    curves, 'loaded-latency', 'Loaded latency',
    Axis('Bandwidth', 'B/s', low=0.0),
    Axis('Latency', 's', kind, low=0.0 if kind is Kind.LINEAR else None),
  )  # fmt: skip
  lead = (
    'What a load costs while other threads keep the memory busy: where the '
    f'curve turns up, queues form. Latency rises {seen.max() / seen.min():.2g} '
    'times over the measured range. '
  )
  return Section(
    'loaded', 'Loaded latency', lead + _verdict([curves]), [figure]
  )


def disk_section(disk: Disk | None) -> Section | None:
  """File reads against block size and queue depth."""
  if disk is None:
    return None
  parts = [s for s in (disk.bandwidth, disk.latency) if _has_points(s)]
  size = Size.HALF if len(parts) == 2 else Size.FULL
  figures = [
    _plot(disk.bandwidth, 'disk-bandwidth', 'Read bandwidth', _BLOCK,
          Axis('Bandwidth', 'B/s', Kind.LOG10), size),
    _plot(disk.latency, 'disk-latency', 'Read latency', _BLOCK,
          Axis('Latency', 's', Kind.LOG10), size),
  ]  # fmt: skip
  figures = [f for f in figures if f is not None]
  if not figures:
    return None
  lead = (
    'Direct reads past the page cache: more requests in flight and larger '
    'blocks buy bandwidth with latency. '
  )
  return Section('disk', 'Disk', lead + _verdict(parts), figures)


def _has_points(curves: CurveSet | None) -> bool:
  return curves is not None and _all(curves, 'measured').size > 0


def _all(curves: CurveSet, name: str) -> np.ndarray:
  """Every positive finite value of one attribute."""
  found = [getattr(c, name) for c in curves.curves]
  values = np.concatenate([v for v in found if v is not None] or [[]])
  return values[np.isfinite(values) & (values > 0)]


def _common_axis(label: str, unit: str, sets: Sequence[CurveSet]) -> Axis:
  """One range for all plots, so that they can be compared."""
  seen = [_all(s, n) for s in sets for n in ('measured', 'fitted')]
  values = np.concatenate(seen or [[]])
  if values.size == 0:
    return Axis(label, unit, Kind.LOG10)
  low, high = values.min() / 1.15, values.max() * 1.15
  return Axis(label, unit, Kind.LOG10, low, high)


def _verdict(sets: Sequence[CurveSet]) -> str:
  """How well the fit does, in one sentence from the data."""
  size = np.abs(np.concatenate([c.error for s in sets for c in s.curves]))
  size = size[np.isfinite(size)]
  if size.size == 0:
    return 'Nothing was fitted here.'
  return (
    f'Half of the {size.size} points lie within {np.median(size):.2g} % of '
    f'the fit, nine in ten within {np.quantile(size, 0.9):.2g} %; the worst '
    f'is {size.max():.2g} % off.'
  )


def _plot(
  curves: CurveSet | None, id: str, title: str, x: Axis, y: Axis,
  size: Size = Size.FULL,
) -> Plot | None:  # fmt: skip
  """Measured points, fitted lines, intervals and residuals."""
  if not _has_points(curves):
    return None
  several = len(curves.curves) > 1
  bands, lines, points, errors = [], [], [], []
  for style, curve in enumerate(curves.curves):
    x_fit, y_fit, lo, hi = _model(curve)
    name = curve.label if several else ''
    if x_fit is not None:
      lines.append(Line(x_fit, y_fit, style, name=name))
    if lo is not None and hi is not None:
      bands.append(Band(x_fit, lo, hi, style))
    shown = _points(curve, style, x, y)
    points.append(shown if lines else dataclasses.replace(shown, name=name))
    if curve.fitted is not None:
      errors.append(_residuals(curve, style, x))
  return Plot(
    id, curves.title or title,
    f'{y.label} against {x.label.lower()}. {_verdict([curves])}',
    x, y, [*bands, *lines, *points], _data(curves, x, y),
    marks=[Mark(v, k) for k, v in sorted(curves.marks.items(), key=_second)],
    keys=_keys(curves, bool(lines), bool(bands), -1 if several else 0),
    strip=Strip(_ERROR, errors) if errors else None,
    size=size,
  )  # fmt: skip


def _second(pair):
  return pair[1]


def _model(curve: Curve):
  """x, y, lo and hi of the fitted line, ascending in x; None if none."""
  if curve.line is not None:
    found = curve.line.x, curve.line.y, curve.line.lo, curve.line.hi
  elif curve.fitted is not None:
    found = curve.x, curve.fitted, curve.lo, curve.hi
  else:
    return None, None, None, None
  order = np.argsort(found[0], kind='stable')
  return tuple(None if v is None else v[order] for v in found)


def _points(curve: Curve, style: int, x: Axis, y: Axis) -> Points:
  tips = []
  for i in range(curve.x.size):
    said = [
      curve.label,
      f'{scales.label(curve.x[i], x.unit, x.kind)}: '
      f'{scales.label(curve.measured[i], y.unit, y.kind)}',
    ]
    if np.isfinite(curve.error[i]):
      fitted = scales.label(curve.fitted[i], y.unit, y.kind)
      said.append(f'fit {fitted} ({scales.signed(curve.error[i])})')
    if curve.held_out is not None and curve.held_out[i]:
      said.append('held out')
    tips.append('\n'.join(s for s in said if s))
  return Points(curve.x, curve.measured, style, tips, _held_out(curve))


def _residuals(curve: Curve, style: int, x: Axis) -> Points:
  """Errors in percent with the noise of the measurement as whisker."""
  tips = [
    f'{scales.label(at, x.unit, x.kind)}: {scales.signed(error)}'
    for at, error in zip(curve.x, curve.error, strict=True)
  ]
  noise = None if curve.rel_std is None else 100 * curve.rel_std
  return Points(curve.x, curve.error, style, tips, _held_out(curve), noise)


def _held_out(curve: Curve) -> np.ndarray | None:
  return None if curve.held_out is None else curve.held_out > 0


def _keys(curves: CurveSet, lines: bool, bands: bool, style: int) -> list[Key]:
  keys = [Key('measured', Swatch.POINTS, style)]
  if any(c.held_out is not None and c.held_out.any() for c in curves.curves):
    keys.append(Key('held out', Swatch.HOLLOW, style))
  if lines:
    keys.append(Key('fitted', Swatch.LINE, style))
  if bands:
    keys.append(Key('90 % interval', Swatch.BAND, style))
  return keys


def _data(curves: CurveSet, x: Axis, y: Axis) -> Data:
  """One row per measured point."""
  x_name = f'{x.label.lower().replace(" ", "_")}_{x.unit}'
  columns = ['series', x_name, f'measured_{y.unit}', f'fitted_{y.unit}',
             'lo90', 'hi90', 'rel_std', 'held_out']  # fmt: skip
  rows = []
  for curve in curves.curves:
    rest = (curve.fitted, curve.lo, curve.hi, curve.rel_std, curve.held_out)
    for i in range(curve.x.size):
      tail = (None if v is None else float(v[i]) for v in rest)
      rows.append((curve.label, curve.x[i], curve.measured[i], *tail))
  return Data(columns, rows)
