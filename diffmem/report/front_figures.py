"""Fronts: designs by two metrics, those that none beats, and the knee."""

from collections.abc import Sequence

import numpy as np

from diffmem.report import scales
from diffmem.report.figure import (
  Axis,
  Data,
  Key,
  Line,
  Plot,
  Points,
  Size,
  Swatch,
)
from diffmem.report.plane_data import Design, Front, Metric
from diffmem.report.plane_figures import axis_kind, column
from diffmem.report.scales import Kind


def front_of(front: Front) -> list[int]:
  """Indexes of the designs that none is better than in both, by x."""
  x, y = _costs(front)
  order = np.lexsort((y, x))
  found, best = [], np.inf
  for i in order:
    if np.isfinite(x[i]) and y[i] < best:
      found.append(int(i))
      best = y[i]
  return found


def knee_of(front: Front) -> int | None:
  """The design farthest below the chord between the front's ends.

  Distances are in shares of the front's extent (Das 1999, Structural
  Optimization 18, on normal-boundary intersection).

  Returns:
    Its index; None where fewer than three designs are on the front or none
    lies below the chord.
  """
  ends = front_of(front)
  if len(ends) < 3:
    return None
  x, y = (cost[ends] for cost in _costs(front))
  below = 1 - (x - x[0]) / (x[-1] - x[0]) - (y - y[-1]) / (y[0] - y[-1])
  at = int(np.argmax(below))
  return ends[at] if below[at] > 1e-9 else None


def _costs(front: Front) -> tuple[np.ndarray, np.ndarray]:
  """Both metrics with the better end down."""
  signs = [-1.0 if m.more_is_better else 1.0 for m in (front.x, front.y)]
  return (
    signs[0] * np.array([d.x for d in front.designs], np.float64),
    signs[1] * np.array([d.y for d in front.designs], np.float64),
  )


def front_plot(front: Front, i: int, size: Size) -> Plot:
  """Named points; dominated ones are hollow, the knee has its own sign.

  Args:
    front: designs by two metrics.
    i: number of the figure, for its id.
    size: width on a wide page.
  """
  on, knee = front_of(front), knee_of(front)
  off = [k for k in range(len(front.designs)) if k not in on]
  stairs = _stairs(front, on)
  layers = [stairs] if stairs else []
  plain = [k for k in on if k != knee]
  if knee is not None:
    layers.append(_points(front, [knee], 1))
  if plain:
    layers.append(_points(front, plain, 0))
  if off:
    layers.append(_points(front, off, 7, hollow=True))
  keys = [Key('front', Swatch.BOTH, 0)]
  if knee is not None:
    keys.append(Key('knee', Swatch.POINTS, 1))
  if off:
    keys.append(Key('dominated', Swatch.HOLLOW, 7))
  title = front.title or f'{front.y.label} against {front.x.label.lower()}'
  better = ' and '.join(
    f'{"more" if m.more_is_better else "less"} {m.label.lower()}'
    for m in (front.x, front.y)
  )
  return Plot(
    f'front-{i}', title,
    f'One point per design; better is {better}. A line joins those that no '
    'other design beats in both.',
    _metric_axis(front.x, [d.x for d in front.designs]),
    _metric_axis(front.y, [
      v for d in front.designs for v in (d.y, d.lo, d.hi) if v is not None
    ]),
    layers, _front_data(front, on, knee), keys=keys, size=size, height=320,
  )  # fmt: skip


def _metric_axis(metric: Metric, values: Sequence[float]) -> Axis:
  """Room for names beside the outermost points."""
  seen = np.array(values, np.float64)
  kind = axis_kind(seen)
  seen = seen[np.isfinite(seen)]
  if not seen.size or seen.min() == seen.max():
    return Axis(metric.label, metric.unit, kind)
  if kind is Kind.LOG10:
    room = (seen.max() / seen.min()) ** 0.09
    low, high = seen.min() / room, seen.max() * room
  else:
    room = 0.09 * (seen.max() - seen.min())
    low, high = seen.min() - room, seen.max() + room
  return Axis(metric.label, metric.unit, kind, float(low), float(high))


def _stairs(front: Front, on: Sequence[int]) -> Line | None:
  """What the designs of a front attain: along one, then down to the next."""
  if len(on) < 2:
    return None
  x = np.array([front.designs[k].x for k in on])
  y = np.array([front.designs[k].y for k in on])
  return Line(np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1], 0, name='')


def _points(
  front: Front, which: Sequence[int], style: int, hollow: bool = False
) -> Points:
  found = [front.designs[k] for k in which]
  spread = None
  if any(d.lo is not None and d.hi is not None for d in found):
    spread = np.array([_half(d) for d in found])
  return Points(
    np.array([d.x for d in found]), np.array([d.y for d in found]), style,
    [_design_tip(front, d) for d in found],
    np.full(len(found), hollow), spread, labels=[d.name for d in found],
  )  # fmt: skip


def _half(design: Design) -> float:
  """Half of the interval; NaN where it is not known."""
  if design.lo is None or design.hi is None:
    return np.nan
  return (design.hi - design.lo) / 2


def _design_tip(front: Front, design: Design) -> str:
  lines = [
    design.name,
    f'{front.x.label}: {scales.label(design.x, front.x.unit, Kind.LINEAR)}',
    f'{front.y.label}: {scales.label(design.y, front.y.unit, Kind.LINEAR)}',
  ]
  return '\n'.join([*lines, design.note] if design.note else lines)


def _front_data(front: Front, on: Sequence[int], knee: int | None) -> Data:
  columns = ['design', column(front.x.label, front.x.unit),
             column(front.y.label, front.y.unit), 'lo90', 'hi90',
             'on_front', 'knee', 'note']  # fmt: skip
  return Data(columns, [
    (d.name, d.x, d.y, d.lo, d.hi, k in on, k == knee, d.note)
    for k, d in enumerate(front.designs)
  ])  # fmt: skip
