"""Sections about the fitted model: roofline, errors, programs, parameters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffmem.report import scales
from diffmem.report.data import Program, Roofline, RoofPoint
from diffmem.report.figure import (
  Axis,
  Data,
  Key,
  Line,
  Plot,
  Points,
  Row,
  RowChart,
  Swatch,
)
from diffmem.report.page import Section
from diffmem.report.scales import Kind
from diffmem.report.table import (
  Cell,
  Column,
  Table,
  count,
  interval,
  percent,
  quantity,
  words,
)


def roofline_section(roofline: Roofline | None) -> Section | None:
  """Ceilings of every tier and engine with measured kernels below."""
  if roofline is None or not roofline.tiers or not roofline.engines:
    return None
  roof = max(roofline.engines.values())
  points = [p for p in roofline.points if p.intensity > 0 and p.measured > 0]
  low, high = _intensities(roofline, points, roof)
  lines = _ceilings(roofline, roof, low, high)
  floor = min(
    [min(line.y.min() for line in lines)] + [p.measured for p in points]
  )
  kinds = list(dict.fromkeys(p.kind for p in points))
  layers = [
    _roof_points([p for p in points if p.kind == kind], kind, i)
    for i, kind in enumerate(kinds)
  ]
  figure = Plot(
    'roofline', 'Roofline',
    'FLOP rate against arithmetic intensity, with the bandwidth of every tier '
    'and the rate of every engine as ceilings.',
    Axis('Arithmetic intensity, FLOP per byte', '1', Kind.LOG2, low, high),
    Axis('Rate', 'FLOP/s', Kind.LOG10, floor / 1.5, roof * 2.2),
    [*lines, *layers],
    Data(
      ['kind', 'label', 'intensity_FLOP_per_B', 'measured_FLOPps',
       'predicted_FLOPps'],
      [(p.kind, p.label, p.intensity, p.measured, p.predicted) for p in points],
    ),
    keys=[Key(k, Swatch.POINTS, i) for i, k in enumerate(kinds)],
    height=360,
  )  # fmt: skip
  return Section('roofline-section', 'Roofline', _roof_lead(roofline), [figure])


def _intensities(roofline, points: Sequence[RoofPoint], roof: float):
  """A range that shows every ridge and every point."""
  ridges = [roof / b for b in roofline.tiers.values()]
  seen = [*ridges, *(p.intensity for p in points)]
  return min(seen) / 4, max(seen) * 4


def _ceilings(roofline, roof, low, high) -> list[Line]:
  """Each tier's slope up to the highest roof, each engine's level."""
  lines = []
  for name, rate in roofline.tiers.items():
    ends = np.array([low, roof / rate])
    said = f'{name} {scales.label(rate, "B/s", Kind.LINEAR)}'
    lines.append(Line(ends, ends * rate, -1, along=said))
  fastest = max(roofline.tiers.values())
  for name, rate in roofline.engines.items():
    said = f'{name} {scales.label(rate, "FLOP/s", Kind.LINEAR)}'
    ends = np.array([rate / fastest, high])
    lines.append(Line(ends, np.full(2, rate), -1, rate < roof, along=said))
  return lines


def _roof_points(points: Sequence[RoofPoint], kind: str, style: int) -> Points:
  tips = []
  for p in points:
    said = [
      f'{kind} {p.label}',
      scales.label(p.measured, 'FLOP/s', Kind.LINEAR),
    ]
    if p.predicted is not None:
      predicted = scales.label(p.predicted, 'FLOP/s', Kind.LINEAR)
      error = 100 * (p.predicted / p.measured - 1)
      said.append(f'predicted {predicted} ({scales.signed(error)})')
    tips.append('\n'.join(said))
  x = np.array([p.intensity for p in points])
  return Points(x, np.array([p.measured for p in points]), style, tips)


def _roof_lead(roofline: Roofline) -> str:
  slowest = min(roofline.tiers, key=roofline.tiers.get)
  engine = max(roofline.engines, key=roofline.engines.get)
  ridge = roofline.engines[engine] / roofline.tiers[slowest]
  return (
    f'Work that streams from {slowest} needs {ridge:.3g} FLOP for every byte '
    f'before {engine}, and not the memory, is the limit.'
  )


def held_out_section(groups: Sequence[Mapping[str, Any]]) -> Section | None:
  """Errors on what the fit has not seen."""
  groups = [g for g in groups if g.get('n')]
  if not groups:
    return None
  rows = [
    Row(_group_name(g), g['median_ape'], g['median_ape'], g['p90_ape'],
        f'{g["median_ape"]:.1f} %, p90 {g["p90_ape"]:.1f} %')
    for g in groups if g.get('median_ape') is not None
  ]  # fmt: skip
  names = ['system', 'op', 'tier', 'observable', 'n', 'mape', 'median_ape',
           'p90_ape', 'bias', 'coverage90', 'unanswered']  # fmt: skip
  data = Data(names, [[g.get(n) for n in names] for g in groups])
  figure = RowChart(
    'held-out-errors', 'Absolute error by group',
    'Median absolute error of each group with a line to its 90th percentile.',
    Axis('Absolute error', '%'), rows, data, dots=True,
    keys=[Key('median, line to the 90th percentile', Swatch.BOTH, 0)],
  )  # fmt: skip
  table = Table(
    'held-out', 'Held-out errors', _held_out_columns(),
    [_held_out_row(g) for g in groups], data,
  )  # fmt: skip
  blocks = [figure, table] if rows else [table]
  return Section(
    'held-out-section', 'Held-out errors', _held_lead(groups), blocks
  )


def _group_name(group: Mapping[str, Any]) -> str:
  tier = f' {group["tier"]}' if group.get('tier') else ''
  return f'{group.get("op")}{tier}, {_observable(group)}'


def _observable(group: Mapping[str, Any]) -> str:
  """'latency_at_bandwidth_s' -> 'latency at bandwidth'."""
  name = str(group.get('observable', ''))
  for unit in ('_Bps', '_s', '_W', '_J'):
    name = name.removesuffix(unit)
  return name.replace('_', ' ')


def _held_out_columns() -> list[Column]:
  return [
    Column('Operation'),
    Column('Tier'),
    Column('Observable'),
    Column('n', True, 'predictions that were compared'),
    Column('Median', True, 'median absolute percentage error'),
    Column('p90', True, '90th percentile of the absolute percentage error'),
    Column('MAPE', True, 'mean absolute percentage error'),
    Column('Bias', True, 'mean signed error; positive is predicted too high'),
    Column('Coverage', True, 'share of measurements in the 90 % interval'),
    Column('Unanswered', True, 'rows that the model would not predict'),
  ]


def _held_out_row(group: Mapping[str, Any]) -> list[Cell]:
  coverage = group.get('coverage90')
  low = coverage is not None and coverage < 75
  return [
    words(group.get('op')),
    words(group.get('tier')),
    words(_observable(group)),
    count(group.get('n')),
    percent(group.get('median_ape')),
    percent(group.get('p90_ape')),
    percent(group.get('mape')),
    percent(group.get('bias'), signed=True),
    percent(coverage, tone='warn' if low else ''),
    count(group.get('unanswered')),
  ]


def _held_lead(groups: Sequence[Mapping[str, Any]]) -> str:
  total = sum(g['n'] for g in groups)
  lead = f'{total} measurements that the fit has not seen, in percent. '
  known = [g for g in groups if g.get('median_ape') is not None]
  if known:
    worst = max(known, key=lambda g: g['median_ape'])
    name, size = _group_name(worst), worst['median_ape']
    lead += f'Trust least: {name} (median {size:.1f} %). '
  refused = sum(g.get('unanswered') or 0 for g in groups)
  return lead + (f'{refused} were left unanswered.' if refused else '')


def programs_section(programs: Sequence[Program]) -> Section | None:
  """JAX programs: predicted beside measured."""
  if not programs:
    return None
  data = Data(
    ['program', 'size', 'measured_s', 'predicted_s', 'lo90_s', 'hi90_s',
     'error_percent'],
    [(p.name, p.size, p.measured_s, p.predicted_s, p.lo90, p.hi90, p.error)
     for p in programs],
  )  # fmt: skip
  figure = RowChart(
    'programs', 'Predicted against measured time',
    'Signed error of the predicted time of each program with its 90 % '
    'interval; zero is the measurement.',
    Axis('Predicted against measured', '%'),
    [_program_row(p) for p in programs], data, dots=True,
    keys=[Key('predicted, with its 90 % interval; 0 is the measurement',
              Swatch.BOTH, 0)],
  )  # fmt: skip
  columns = [
    Column('Program'), Column('Size'), Column('Measured', True),
    Column('Predicted', True), Column('90 % interval', True),
    Column('Error', True, 'predicted against measured'),
  ]  # fmt: skip
  rows = [
    [
      words(p.name), words(p.size), quantity(p.measured_s, 's'),
      quantity(p.predicted_s, 's'), words(interval(p.lo90, p.hi90, 's')),
      percent(p.error, signed=True, tone='warn' if abs(p.error) > 25 else ''),
    ]
    for p in programs
  ]  # fmt: skip
  table = Table(
    'programs-table', 'Predicted beside measured', columns, rows, data
  )
  return Section(
    'programs-section', 'Programs',
    _programs_lead(programs), [figure, table],
  )  # fmt: skip


def _program_row(p: Program) -> Row:
  lo, hi = (
    None if v is None else 100 * (v / p.measured_s - 1)
    for v in (p.lo90, p.hi90)
  )
  times = (
    scales.label(v, 's', Kind.LINEAR, 3) for v in (p.measured_s, p.predicted_s)
  )
  said = ' → '.join(times)
  error = scales.signed(p.error)
  tip = f'{p.name} {p.size}\nmeasured → predicted\n{said} ({error})'
  return Row(f'{p.name} {p.size}'.strip(), p.error, lo, hi, said, tip)


def _programs_lead(programs: Sequence[Program]) -> str:
  size = sorted(abs(p.error) for p in programs if math.isfinite(p.error))
  lead = 'Whole JAX programs that no trace row of the fit contains. '
  if not size:
    return lead
  inside = [
    p.lo90 <= p.measured_s <= p.hi90
    for p in programs if p.lo90 is not None and p.hi90 is not None
  ]  # fmt: skip
  lead += f'Median error {np.median(size):.1f} %, worst {size[-1]:.1f} %'
  if inside:
    lead += f'; {sum(inside)} of {len(inside)} lie in their 90 % interval'
  return lead + '.'
