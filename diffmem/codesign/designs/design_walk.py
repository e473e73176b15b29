"""One walk of Adam along envelope gradients, within budgets.

Each step takes the gradient of what the mix costs, removes from it what the
binding budgets and bounds forbid (their multipliers are a non-negative least
squares fit: a first-order estimate of Karush-Kuhn-Tucker multipliers), moves
with Adam (Kingma and Ba, arXiv:1412.6980) in the logarithms, and returns to
the nearest design within the budgets. A budget of the fleet carries a price,
which rises while the fleet uses more than there is (proportional and integral
control of its multiplier). A design that cannot serve the mix halves the step.
"""

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from diffmem import errors
from diffmem.codesign.designs.budgets import Feasible
from diffmem.codesign.designs.design_value import Evaluation

# A budget of the fleet counts as kept within this share of its limit.
_FLEET_SLACK = 2e-3
# What binds a step, and what binds as far as a search settles, in logarithms.
ACTIVE, NEARLY = 1e-4, 1e-2
# With fewer evaluations a start leads nowhere.
_FEWEST = 8
_VERSION = 1


# Where even the start holds too little: one step up (logarithms).
_GROWTH = {
  'stacks': 0.3, 'stack_B': 0.3, 'channel_B': 0.5, 'drive_B': 0.5,
  'cxl_module_B': 0.5,
}  # fmt: skip


class SearchOptions(NamedTuple):
  """How a search goes.

  Attributes:
    evaluations: most of them.
    polish: share of them for the end, from the best design.
    starts: designs that Adam starts from, with equal shares of the rest: the
      given one, and others anywhere within the budgets.
    step: of Adam at a start, in logarithms.
    last_step: at its end; it falls geometrically.
    b1: memory of the mean gradient.
    b2: memory of its square.
    seed: of the further starts.
    price_gain: integral gain of the prices of the fleet's budgets.
    price_push: proportional gain.
  """

  evaluations: int = 100
  polish: float = 0.3
  starts: int = 3
  step: float = 0.4
  last_step: float = 0.02
  b1: float = 0.6
  b2: float = 0.9
  seed: int = 0
  price_gain: float = 0.3
  price_push: float = 0.5

  @property
  def adam_evaluations(self) -> int:
    """Evaluations before the polishing."""
    return round(self.evaluations * (1.0 - self.polish))

  @property
  def each_start(self) -> int:
    """Evaluations of each start; few evaluations have fewer starts."""
    starts = max(1, min(self.starts, self.adam_evaluations // _FEWEST))
    return max(1, -(-self.adam_evaluations // starts))


class Tried(NamedTuple):
  """One evaluated design.

  Attributes:
    x: logarithms of the parameters.
    value: [USD/s]; inf where the mix cannot be served.
    gradient: of the value and the priced use.
    used: of the fleet's budgets.
    prices: of them [USD/s per unit].
    kept: whether it keeps all budgets.
  """

  x: tuple[float, ...]
  value: float
  gradient: tuple[float, ...]
  used: Mapping[str, float]
  prices: Mapping[str, float]
  kept: bool


def best_so_far(history: Sequence[Tried]) -> np.ndarray:
  """Lowest value of a kept design after each evaluation [evaluation]."""
  values = [t.value if t.kept else np.inf for t in history]
  return np.minimum.accumulate(np.array(values, np.float64))


class Walk:
  """State of a search: where it is, Adam's moments, prices, history."""

  def __init__(self, inside: Feasible, fleet, options: SearchOptions, start):
    self.inside, self.fleet, self.options = inside, fleet, options
    self.history: list[Tried] = []
    self.x = inside.project(start)
    self.good = self.x
    self.shrink = 1.0
    self.share = {b.name: 0.0 for b in fleet}
    self.push = {b.name: 0.0 for b in fleet}
    self.scale = 0.0
    with jax.enable_x64(True):
      self.moments = _adam(options).init(np.zeros_like(self.x))

  def prices(self) -> dict[str, float]:
    """Of the fleet's budgets [USD/s per unit]."""
    return {
      b.name: max(0.0, self.share[b.name] + self.push[b.name])
      * self.scale
      / b.limit
      for b in self.fleet
    }

  def begin_leg(self, start: np.ndarray) -> None:
    """Where the evaluations of a start are used up: to the next.

    Args:
      start: the first one.
    """
    leg, into = divmod(len(self.history), self.options.each_start)
    if leg and not into:
      self._restart(_starts(self.inside, start, self.options)[leg])

  def _restart(self, x: np.ndarray) -> None:
    self.x = self.good = self.inside.project(x)
    self.shrink = 1.0
    with jax.enable_x64(True):
      self.moments = _adam(self.options).init(np.zeros_like(self.x))

  def _rate(self) -> float:
    """Adam's step here: it falls along each leg."""
    o = self.options
    share = (len(self.history) - 1) % o.each_start / max(o.each_start - 1, 1)
    return o.step * (o.last_step / o.step) ** share

  def record(
    self, x: np.ndarray, prices: Mapping[str, float], found: Evaluation
  ) -> None:
    """Adds an evaluation to the history."""
    kept = bool(np.isfinite(found.value)) and all(
      found.used[b.name] <= b.limit * (1.0 + _FLEET_SLACK) for b in self.fleet
    )
    self.history.append(
      Tried(
        tuple(x.tolist()), float(found.value),
        tuple(np.asarray(found.gradient).tolist()), dict(found.used),
        dict(prices), kept,
      )
    )  # fmt: skip

  def move(self, found: Evaluation) -> None:
    """Goes on from what the design here is worth."""
    if not np.isfinite(found.value):
      self._retreat()
      return
    self.good, self.shrink = self.x, min(1.0, 2.0 * self.shrink)
    self.scale = self.scale or float(found.value)
    for b in self.fleet:
      over = float(np.log(found.used[b.name] / (b.limit * (1 - _FLEET_SLACK))))
      step = self.options.price_gain * np.clip(over, -1.0, 1.0)
      self.share[b.name] = max(0.0, self.share[b.name] + step)
      self.push[b.name] = self.options.price_push * np.clip(over, -1.0, 1.0)
    self._step(np.asarray(found.gradient) / float(found.value))

  def _step(self, slope) -> None:
    """Moves along the slope, less what budgets and bounds forbid."""
    options, space = self.options, self.inside.space
    rows = normals(self.inside, self.x)[0]
    if len(rows):
      slope = slope + multipliers(rows, slope) @ rows
    with jax.enable_x64(True):
      moved, self.moments = _moved(options.b1, options.b2, slope, self.moments)
    step = -self._rate() * self.shrink * np.asarray(moved)
    wanted = np.clip(self.x + step, space.low - 1.0, space.high + 1.0)
    self.x = self.inside.project(wanted)

  def _retreat(self) -> None:
    """Half-way back to the last design that could serve the mix."""
    self.shrink *= 0.5
    if len(self.history) > 1 and not np.array_equal(self.good, self.x):
      self.x = self.inside.project(0.5 * (self.good + self.x))
      return
    # Nothing has served the mix yet: more of everything that holds bytes.
    grown = [_GROWTH.get(n, 0.0) for n in self.inside.space.names]
    self.x = self.inside.project(self.x + np.array(grown))
    self.good = self.x

  def save(self, path: pathlib.Path, key: dict[str, Any]) -> None:
    """Writes the state: to a temporary name first."""
    count, mu, nu = self.moments
    document = {
      'version': _VERSION,
      'key': key,
      'x': self.x.tolist(),
      'good': self.good.tolist(),
      'shrink': self.shrink,
      'scale': self.scale,
      'share': self.share,
      'push': {k: float(v) for k, v in self.push.items()},
      'adam': [int(count), np.asarray(mu).tolist(), np.asarray(nu).tolist()],
      'history': [t._asdict() for t in self.history],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + '.writing')
    temporary.write_text(json.dumps(document))
    temporary.replace(path)

  def load(self, path: pathlib.Path, key: dict[str, Any]) -> None:
    """Reads the state; SpecError where it is of another search."""
    try:
      document = json.loads(path.read_text())
      is_ours = document['version'] == _VERSION and document['key'] == key
    except (OSError, ValueError, KeyError, TypeError):
      raise errors.SpecError(
        f'{path}: expected the state of a search of designs; remove it'
      ) from None
    if not is_ours:
      raise errors.SpecError(
        f'{path}: the state of another search (its machine, parts or budgets '
        'differ); remove it, or name another file'
      )
    self.x, self.good = (np.array(document[k]) for k in ('x', 'good'))
    self.shrink, self.scale = document['shrink'], document['scale']
    self.share, self.push = document['share'], document['push']
    count, mu, nu = document['adam']
    with jax.enable_x64(True):
      self.moments = self.moments._replace(
        count=np.int32(count), mu=np.array(mu), nu=np.array(nu)
      )
    self.history = [
      Tried(**t | {'x': tuple(t['x']), 'gradient': tuple(t['gradient'])})
      for t in document['history']
    ]


def _adam(options: SearchOptions):
  return optax.scale_by_adam(options.b1, options.b2, eps=1e-12)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _moved(b1, b2, slope, moments):
  """Adam's direction and its next moments."""
  return optax.scale_by_adam(b1, b2, eps=1e-12).update(slope, moments)


def _starts(
  inside: Feasible, start: np.ndarray, options: SearchOptions
) -> np.ndarray:
  """The start and others anywhere [start parameter]."""
  rng = np.random.default_rng(options.seed)
  space, more = inside.space, options.starts - 1
  others = rng.uniform(space.low, space.high, (more, len(start)))
  return np.vstack([start, others])


def normals(
  inside: Feasible, x: np.ndarray, by: float = ACTIVE
) -> tuple[np.ndarray, list[tuple[str, str]]]:
  """Outward slopes of what binds at x [binding parameter], and its names."""
  space = inside.space
  rows, labels = [], []
  if inside.budgets:
    over, slopes = inside.overuse(x)
    for budget, o, slope in zip(inside.budgets, over, slopes, strict=True):
      if o > -by:
        rows.append(slope)
        labels.append((budget.name, ''))
  for i, name in enumerate(space.names):
    for end, sign, at in (('low', -1.0, space.low), ('high', 1.0, space.high)):
      if abs(x[i] - at[i]) < by:
        rows.append(sign * np.eye(len(x))[i])
        labels.append((name, end))
  return np.array(rows), labels


def multipliers(rows: np.ndarray, slope: np.ndarray) -> np.ndarray:
  """Non-negative m that bring slope + m rows nearest to zero."""
  import scipy.optimize

  return scipy.optimize.nnls(rows.T, -slope)[0]
