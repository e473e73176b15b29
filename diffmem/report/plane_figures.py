"""Sensitivity maps, regions and curves: figures over two quantities."""

from collections.abc import Sequence

import numpy as np

from diffmem.report import scales
from diffmem.report.figure import (
  Axis,
  Band,
  Data,
  Key,
  Line,
  Plot,
  Points,
  Size,
  Swatch,
)
from diffmem.report.heat_map import Framed, HeatMap
from diffmem.report.plane_data import Regions, Sensitivity, Series
from diffmem.report.region_map import Pin, RegionMap
from diffmem.report.scales import Kind


def axis_kind(values: np.ndarray) -> Kind:
  """Logarithmic where positive values span more than a decade."""
  seen = np.asarray(values, np.float64)
  seen = seen[np.isfinite(seen)]
  if seen.size and seen.min() > 0 and seen.max() > 10 * seen.min():
    return Kind.LOG10
  return Kind.LINEAR


def grid_kind(values: np.ndarray) -> Kind:
  """Logarithmic where the ratios of neighbours vary less than the steps."""
  at = np.asarray(values, np.float64)
  if at.size < 3 or at[0] <= 0:
    return Kind.LINEAR
  steps, ratios = np.diff(at), np.diff(np.log(at))
  even = ratios.std() / ratios.mean() < 0.9 * steps.std() / steps.mean()
  return Kind.LOG10 if even else Kind.LINEAR


def column(label: str, unit: str) -> str:
  """Name of a column of the download.

  Examples:
    >>> column('Energy per token', 'J')
    'energy_per_token_J'
  """
  name = label.lower().replace(' ', '_').replace('/', '_')
  return name if unit in ('', '1') else f'{name}_{unit.replace(" ", "_")}'


def sensitivity_map(part: Sensitivity, i: int, size: Size) -> HeatMap:
  """Shades of a metric, today's and the best cell framed.

  Args:
    part: the metric over two parameters.
    i: number of the figure, for its id.
    size: width on a wide page.
  """
  framed = []
  if part.current:
    framed.append(Framed('today', *part.current))
  best = best_of(part)
  if best:
    framed.append(Framed('best on this map', *best, dashed=True))
  columns = [column(part.x_label, part.x_unit),
             column(part.y_label, part.y_unit),
             column(part.metric, part.unit)]  # fmt: skip
  rows = [
    (part.x[k], part.y[j], value)
    for (j, k), value in np.ndenumerate(part.values)
  ]
  return HeatMap(
    f'map-{i}',
    f'{part.metric} by {_lower(part.x_label)} and {_lower(part.y_label)}',
    f'{part.metric} for {part.x.size} values of {part.x_label} and '
    f'{part.y.size} of {part.y_label}; darker is more on paper.',
    Axis(part.x_label, part.x_unit, grid_kind(part.x)),
    Axis(part.y_label, part.y_unit, grid_kind(part.y)),
    part.x, part.y, part.values, part.metric, part.unit, Data(columns, rows),
    framed, size=size,
  )  # fmt: skip


def _lower(label: str) -> str:
  """Without a capital at the start of an ordinary word."""
  return label if label[1:2].isupper() else label[:1].lower() + label[1:]


def best_of(part: Sensitivity) -> tuple[float, float] | None:
  """Where the metric is best; None where nothing is known."""
  if not np.isfinite(part.values).any():
    return None
  pick = np.nanargmax if part.more_is_better else np.nanargmin
  j, k = np.unravel_index(pick(part.values), part.values.shape)
  return float(part.x[k]), float(part.y[j])


def series_plot(
  id: str, title: str, description: str, x: Axis, y: Axis,
  series: Sequence[Series], *, extra: Sequence[Line] = (),
  keys: Sequence[Key] = (), size: Size = Size.FULL,
  labels: tuple[str, str] = ('x', 'y'),
) -> Plot:  # fmt: skip
  """Lines with bands; measured series are points.

  Args:
    id: unique on the page.
    title: short.
    description: what a reader who cannot see it should know.
    x: horizontal.
    y: vertical.
    series: at most eight.
    extra: reference lines.
    keys: legend entries of these.
    size: width on a wide page.
    labels: columns of the download, with units in them.
  """
  layers = []
  for i, s in enumerate(series):
    if s.lo is not None and s.hi is not None:
      layers.append(Band(s.x, s.lo, s.hi, i))
  keys = [*keys]
  for i, s in enumerate(series):
    tips = [_series_tip(s, k, x, y) for k in range(s.x.size)]
    if s.measured:
      layers.append(Points(s.x, s.y, i, tips))
      keys.append(Key(s.label, Swatch.POINTS, i))
    else:
      layers.append(Line(s.x, s.y, i, name=s.label))
      if s.x.size <= 16:
        layers.append(Points(s.x, s.y, i, tips))
  if any(isinstance(la, Band) for la in layers):
    keys.append(Key('90 % interval', Swatch.BAND, -1))
  rows = [
    (s.label, s.x[k], s.y[k], None if s.lo is None else s.lo[k],
     None if s.hi is None else s.hi[k], s.measured)
    for s in series for k in range(s.x.size)
  ]  # fmt: skip
  data = Data(['series', *labels, 'lo90', 'hi90', 'measured'], rows)
  return Plot(
    id, title, description, x, y, [*extra, *layers], data, keys=keys, size=size
  )


def _series_tip(s: Series, k: int, x: Axis, y: Axis) -> str:
  return (
    f'{s.label}\n{x.label}: {scales.label(s.x[k], x.unit, x.kind)}\n'
    f'{y.label}: {scales.label(s.y[k], y.unit, Kind.LINEAR)}'
  )


def region_map(part: Regions, id: str, size: Size) -> RegionMap:
  """Which choice is best over two quantities.

  Args:
    part: the choices.
    id: unique on the page.
    size: width on a wide page.
  """
  columns = [column(part.x_label, part.x_unit),
             column(part.y_label, part.y_unit), 'choice']  # fmt: skip
  rows = [
    (part.x[k], part.y[j], part.names[int(c)] if c >= 0 else None)
    for (j, k), c in np.ndenumerate(part.choice)
  ]
  return RegionMap(
    id, part.title,
    f'{part.title}: ' + ', '.join(part.names) + f' over {part.x_label} and '
    f'{part.y_label}.',
    Axis(part.x_label, part.x_unit, grid_kind(part.x)),
    Axis(part.y_label, part.y_unit, grid_kind(part.y)),
    part.x, part.y, part.choice, part.names, Data(columns, rows),
    [Pin(name, *at) for name, at in part.marks.items()], size,
  )  # fmt: skip
