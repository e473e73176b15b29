"""The continuous part of a retrieval design: a small smooth program.

For one candidate (layout, shards, code, re-ranking) it chooses the `Point`

    R   copies of the index
    d   drives of a machine
    x   share of the vertices or vectors that lie on drives in memory too
    u   share of its time that a thread (server) is busy
    v   share of its time that a drive is busy

for the least cost per second, with servers, drives, capacities, memory
bandwidth and the latency as constraints (`retrieval_cost`).

A grid over x, u and v, with R and d in closed form, gives the start; SLSQP on
logarithms polishes it, with derivatives by complex steps (exact to rounding:
Martins et al., ACM TOMS 29(3), 2003). Multipliers are the non-negative least
squares of the Karush-Kuhn-Tucker conditions; what is left of them says how
stationary the point is. The Lagrangian's derivative by any number that goes in
is the derivative of the least cost (envelope theorem).
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize

from diffmem.codesign.retrieval.cost import (
  FULL_BUS,
  Point,
  slacks,
  usd_per_s,
)
from diffmem.codesign.retrieval.layouts import Candidate, Question, asked
from diffmem.codesign.retrieval.site import Site

_MOST_SHARE = 0.98
_LEAST = 0.01  # Drives of a machine before rounding.
_STEP = 1e-30  # Of complex steps.
# The share of hot vertices is exp(y) less this: zero is inside.
_TINY_SHARE = 1e-7
_ACTIVE = 1e-6  # Slack of a constraint that binds.
_FAR = 12.0  # How far a logarithm moves from its start, at most.
_SHARES = np.concatenate(
  [[0.0], np.geomspace(1e-6, 1e-2, 6), np.geomspace(0.02, _MOST_SHARE, 24)]
)
_LOADS = np.geomspace(0.05, 1.0, 8)  # Of the most that is allowed.


class Solved(NamedTuple):
  """A candidate at its best.

  Attributes:
    candidate: the discrete choices.
    point: the continuous ones.
    usd_per_s: cost of the whole fleet [USD/s].
    multipliers: of each constraint, d ln cost / d ln(slack) [constraint].
    stationarity: what is left of the conditions, over ln cost.
  """

  candidate: Candidate
  point: Point
  usd_per_s: float
  multipliers: dict[str, float]
  stationarity: float


def start(question: Question, site: Site, candidate: Candidate):
  """The best point of a grid, and its cost; None where none is feasible.

  Raises:
    SpecError: as `retrieval_layouts.asked`.
  """
  per = asked(question, candidate, site.rates)
  on_drives = candidate.layout.on_drives
  busy = loads = _LOADS * question.most_busy
  share = _SHARES
  if not on_drives:
    share, loads = np.array([float(bool(candidate.layout.vectors))]), loads[:1]
  share, busy, loads = np.meshgrid(share, busy, loads, indexing='ij')
  missed = per.missed(share) if on_drives else 0.0 * share
  serving_s = per.server_s + per.read_s * per.reads * missed
  copies = np.maximum(
    np.maximum(
      question.queries_per_s * serving_s / (site.servers * busy),
      question.copies,
    ),
    question.queries_per_s * per.traffic_B / (FULL_BUS * site.bandwidth_Bps),
  )
  rate = question.queries_per_s / copies
  busy = rate * serving_s / site.servers
  drives = np.maximum(
    rate * per.reads * missed / (site.drive_reads_per_s * loads),
    per.drive_B / site.drive_B,
  )
  drives = np.maximum(drives, _LEAST)
  loads = rate * per.reads * missed / (drives * site.drive_reads_per_s)
  point = Point(copies, drives, share, busy, np.maximum(loads, 1e-9))
  with np.errstate(divide='ignore', invalid='ignore'):
    found = slacks(question, site, candidate, per, point)
    worst = np.minimum.reduce(
      [np.broadcast_to(v, share.shape) for v in found.values()]
    )
  cost = np.where(
    worst >= -1e-9, usd_per_s(question, site, candidate, per, point), np.inf
  )
  best = np.unravel_index(np.argmin(cost), cost.shape)
  if not np.isfinite(cost[best]):
    return None
  return Point(*(float(v[best]) for v in point)), float(cost[best])


def polish(
  question: Question, site: Site, candidate: Candidate, point: Point
) -> Solved:
  """The least cost near a point, with multipliers."""
  per = asked(question, candidate, site.rates)
  names = ['copies', 'busy']
  if candidate.layout.on_drives:
    names += ['drives', 'share', 'drive_busy']

  def at(y) -> Point:
    moved = dict(zip(names, np.exp(y), strict=True))
    if 'share' in moved:
      moved['share'] = moved['share'] - _TINY_SHARE
    return point._replace(**moved)

  def log_cost(y):
    return np.log(usd_per_s(question, site, candidate, per, at(y)))

  def limits(y):
    inner = slacks(question, site, candidate, per, at(y))
    return np.array([*inner.values(), *_bounds(question, at(y), names)])

  begin = np.log(
    [getattr(point, n) + _TINY_SHARE * (n == 'share') for n in names]
  )
  found = optimize.minimize(
    lambda y: float(log_cost(y)),
    begin,
    jac=lambda y: _complex_slopes(log_cost, y),
    constraints={
      'type': 'ineq',
      'fun': limits,
      'jac': lambda y: _complex_slopes(limits, y),
    },
    bounds=_box(question, begin, names),
    method='SLSQP',
    options={'maxiter': 200, 'ftol': 1e-13},
  )
  y = found.x if _better(found.x, begin, log_cost, limits) else begin
  inner = list(slacks(question, site, candidate, per, at(y)))
  free, left = _multipliers(log_cost, limits, y)
  return Solved(
    candidate=candidate,
    point=at(y),
    usd_per_s=float(np.exp(log_cost(y))),
    multipliers=dict(zip(inner, free.tolist(), strict=False)),
    stationarity=left,
  )


def _box(question, begin, names) -> list[tuple[float, float]]:
  """Where each logarithm may go; loads stay below 1, where latencies end."""
  most = {
    'share': np.log(_MOST_SHARE + _TINY_SHARE),
    'busy': np.log(question.most_busy),
    'drive_busy': np.log(question.most_busy),
  }
  least = {'share': np.log(_TINY_SHARE)}
  return [
    (
      least.get(name, min(at, most.get(name, at)) - _FAR),
      most.get(name, at + _FAR),
    )
    for name, at in zip(names, begin, strict=True)
  ]


def _bounds(question, point: Point, names) -> list:
  """Slacks of the bounds of each continuous choice."""
  found = [np.log(question.most_busy / point.busy)]
  if 'share' in names:
    found += [
      np.log((point.share + _TINY_SHARE) / _TINY_SHARE),
      np.log(_MOST_SHARE / (point.share + _TINY_SHARE)),
      np.log(question.most_busy / point.drive_busy),
    ]
  return found


def _better(y, begin, log_cost, limits) -> bool:
  """Whether a point is feasible and, if the start was so too, not dearer."""
  if not np.all(np.isfinite(y)) or np.min(limits(y)) < -1e-7:
    return False
  if np.min(limits(begin)) < -1e-7:
    return True
  return log_cost(y) <= log_cost(begin) + 1e-12


def _complex_slopes(function, y) -> np.ndarray:
  """Derivatives of a real function by complex steps; [..., variable]."""
  columns = []
  for i in range(len(y)):
    moved = np.array(y, complex)
    moved[i] += 1j * _STEP
    columns.append(np.imag(function(moved)) / _STEP)
  return np.stack(columns, -1)


def _multipliers(log_cost, limits, y) -> tuple[np.ndarray, float]:
  """Multipliers of all limits, and the norm of what they leave."""
  slope, normals = _complex_slopes(log_cost, y), _complex_slopes(limits, y)
  binding = limits(y) < _ACTIVE
  found = np.zeros(len(normals))
  if binding.any():
    found[binding], left = optimize.nnls(normals[binding].T, slope)
  else:
    left = np.linalg.norm(slope)
  return found, float(left)


def elasticity(
  question: Question, site: Site, solved: Solved, name: str
) -> float:
  """Slope of ln cost over ln of a number that goes in, re-optimised.

  Args:
    question: what is served.
    site: machines.
    solved: its optimum.
    name: a field of `Question` or `Site`, or of the rates as 'rates.code_s'.
  """
  step = 1.0 + 1j * _STEP
  if name.startswith('rates.'):
    field = name.removeprefix('rates.')
    moved = site.rates._replace(**{field: getattr(site.rates, field) * step})
    site = site._replace(rates=moved)
  elif name in Question._fields:
    question = question._replace(**{name: getattr(question, name) * step})
  else:
    site = site._replace(**{name: getattr(site, name) * step})
  per = asked(question, solved.candidate, site.rates)
  cost = np.log(usd_per_s(question, site, solved.candidate, per, solved.point))
  inner = slacks(question, site, solved.candidate, per, solved.point)
  for limit, slack in inner.items():
    cost = cost - solved.multipliers[limit] * slack
  return float(np.imag(cost) / _STEP)


def worth_of_memory(question: Question, site: Site, solved: Solved) -> float:
  """What a byte more for hot vertices saves, before its own price [USD/(B s)].

  Equal to the price of memory where the share is free; 0 without drives.
  """
  candidate, point = solved.candidate, solved.point
  if not candidate.layout.on_drives:
    return 0.0
  free = site._replace(memory_usd_per_Bs=0.0)
  per = asked(question, candidate, site.rates)
  moved = point._replace(share=point.share + 1j * _STEP)
  cost = usd_per_s(question, free, candidate, per, moved)
  inner = slacks(question, site, candidate, per, moved)
  gain = -np.imag(cost) + solved.usd_per_s * sum(
    solved.multipliers[n] * np.imag(s)
    for n, s in inner.items()
    if n != 'memory'
  )
  fleet_B = point.copies * candidate.shards * per.hot_B
  return float(gain / _STEP / fleet_B)
