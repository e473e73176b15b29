"""`fit`: traces in, a system with honest errors out."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import errors
from diffmem.cost import predict
from diffmem.fitting import (
  observe,
  optimise,
  split,
  start,
  uncertainty,
)
from diffmem.fitting.problem import SCALE_FLOOR, Problem, make_problem
from diffmem.system import (
  FittedSystem,
  Status,
  System,
  from_leaves,
  leaves_by_name,
  to_numpy,
)
from diffmem.traces import Traces

Progress = Callable[[str, int, int], None]

_LANES = 8  # fits that run side by side in one compiled call


@dataclasses.dataclass(frozen=True)
class FitOptions:
  """How to fit.

  Attributes:
    starts: starting points; the first is read off the data.
    steps: most Levenberg-Marquardt steps from each start.
    adam_steps: steps of Adam before them; 0 for none.
    draws: bootstrap refits; 0 for no ensemble.
    draw_steps: most Levenberg-Marquardt steps of each refit.
    seed: of starts and bootstrap.
    resume_path: a file that keeps finished work, so that an interrupted fit
      of the same data and options goes on; removed when the fit is done.
  """

  starts: int = 8
  steps: int = 60
  adam_steps: int = 0
  draws: int = 64
  draw_steps: int = 10
  seed: int = 0
  resume_path: str | os.PathLike | None = None


@dataclasses.dataclass(frozen=True)
class FitResult:
  """What a fit found.

  Attributes:
    fitted: the system, its knowledge and its ensemble.
    loss: half the sum of squared residuals at the best point.
    start_losses: the same for every start: a spread means local minima.
    converged: whether the best start converged.
    help: what happened and what to do, one line each.
  """

  fitted: FittedSystem
  loss: float
  start_losses: tuple[float, ...]
  converged: bool
  help: tuple[str, ...]


def fit(
  prior: FittedSystem,
  traces: Traces,
  options: FitOptions = FitOptions(),
  on_progress: Progress = lambda stage, done, total: None,
) -> FitResult:
  """Fits a system to traces.

  Maximum a posteriori: pseudo-Huber loss on log residuals, normal priors on
  log-parameters, in float64. Parameters that no row touches keep their prior
  and say so.

  Args:
    prior: structure, prior medians and prior widths.
    traces: measurements of this system.
    options: see `FitOptions`.
    on_progress: called with stage, done, total.

  Returns:
    The fitted system with its errors.

  Raises:
    FitError: rows that name a tier or format which the system lacks, or fewer
      than three rows.
  """
  if len(traces) < 3:
    raise errors.FitError(
      f'{traces.origin}: {len(traces)} rows cannot constrain a system'
    )
  with jax.enable_x64(True):
    return _fit(prior, traces, options, on_progress)


def _fit(prior, traces, options, on_progress) -> FitResult:
  prior_sd = {name: known.prior_sd for name, known in prior.knowledge.items()}
  problem = make_problem(prior.system, prior_sd, traces)
  problem = _drop_untouched(problem)
  store = _Store(options, problem)

  thetas, losses = store.once(
    'starts', lambda: _search(problem, traces, options, on_progress)
  )
  problem = _rescale(problem, traces, thetas[np.argmin(losses)])
  best = _minimise(
    problem,
    thetas[np.argmin(losses)][None],
    2 * options.steps,
    stage='polish',
    on_progress=on_progress,
  )
  theta = best.theta[0]
  draws = _bootstrap(problem, traces, theta, options, store, on_progress)
  fitted = _assemble(prior, problem, best, draws, traces)
  store.clear()
  is_converged = bool(best.converged[0])
  return FitResult(
    fitted=fitted,
    loss=float(best.loss[0]),
    start_losses=tuple(float(x) for x in losses),
    converged=is_converged,
    help=_help(fitted, losses, is_converged),
  )


def _drop_untouched(problem: Problem) -> Problem:
  """Leaves out parameters on which no equation depends."""
  # The gradient of a random mix of the equations is zero where all of them
  # are flat, and (almost surely) nowhere else.
  mix = np.random.default_rng(0).standard_normal(len(problem.observations))
  slope = _slope(_Key(problem))(problem.data.prior, problem.data, mix)
  strength = np.abs(np.asarray(slope))
  keep = np.nan_to_num(strength, nan=1.0) * problem.data.prior_sd > 1e-9
  names = tuple(n for n, k in zip(problem.names, keep, strict=True) if k)
  if not names:
    raise errors.FitError(
      'no parameter of the system has any effect on these observations'
    )
  data = dataclasses.replace(
    problem.data,
    prior=problem.data.prior[keep],
    prior_sd=problem.data.prior_sd[keep],
  )
  return dataclasses.replace(problem, names=names, data=data)


def _search(problem, traces, options, on_progress):
  """Minimises from several starts, first with equal scales, then with own.

  Returns:
    theta [start parameter] and loss [start].
  """
  starts = _starting_points(problem, traces, options)
  if options.adam_steps:
    starts = _warm_up(problem, starts, options.adam_steps)
  rough = _minimise(
    problem, starts, options.steps, stage='search', on_progress=on_progress
  )
  problem = _rescale(problem, traces, rough.theta[np.argmin(rough.loss)])
  fine = _minimise(
    problem, rough.theta, options.steps, stage='refine', on_progress=on_progress
  )
  return fine.theta, fine.loss


def _starting_points(problem, traces, options) -> np.ndarray:
  """The data's own guess, the prior, and points around the guess."""
  data = problem.data
  guess = leaves_by_name(start.data_driven(problem.system, traces))
  guess = np.array([float(guess[name]) for name in problem.names])
  shift = np.clip(guess - data.prior, -3 * data.prior_sd, 3 * data.prior_sd)
  rng = np.random.default_rng(options.seed)
  noise = rng.standard_normal((options.starts, len(guess)))
  starts = data.prior + shift + 0.4 * data.prior_sd * noise
  starts[0] = data.prior + shift
  if options.starts > 1:
    starts[1] = data.prior
  return starts


def _warm_up(problem, starts, steps):
  @jax.jit
  def run(theta, data):
    return optimise.adam(
      lambda t: problem.terms(t, data), theta, steps=steps
    ).theta

  return np.stack([np.asarray(run(t, problem.data)) for t in starts])


def _minimise(
  problem, thetas, steps, *, stage, on_progress, weights=None, priors=None
) -> optimise.Minimum:
  """Minimises from many starts, `_LANES` at a time, reporting progress."""
  data = problem.data
  run = _minimiser(_Key(problem))
  n = len(thetas)
  weights = np.broadcast_to(
    data.weight if weights is None else weights, (n, len(data.weight))
  )
  priors = np.broadcast_to(
    data.prior if priors is None else priors, (n, len(data.prior))
  )
  parts = []
  for first in range(0, n, _LANES):
    index = np.minimum(np.arange(first, first + _LANES), n - 1)
    part = run(thetas[index], weights[index], priors[index], data, steps)
    parts.append(jax.tree.map(np.asarray, part))
    on_progress(stage, min(first + _LANES, n), n)
  joined = jax.tree.map(lambda *x: np.concatenate(x)[:n], *parts)
  return optimise.Minimum(*joined)


class _Key:
  """Identity of a problem's structure; its arrays are arguments."""

  def __init__(self, problem: Problem):
    self.problem = problem
    names = tuple(problem.observations.names)
    rows = problem.observations.row.tobytes()
    structure = jax.tree.structure(problem.system)
    leaves = np.array(jax.tree.leaves(problem.system), float).tobytes()
    self.id = (structure, leaves, problem.names, names, rows)

  def __hash__(self):
    return hash(self.id)

  def __eq__(self, other):
    return self.id == other.id


@functools.lru_cache(maxsize=4)
def _minimiser(key: _Key):
  """One compiled function: `_LANES` fits with their own data side by side."""

  def one(theta, weight, prior, shared, steps):
    data = dataclasses.replace(shared, weight=weight, prior=prior)
    return optimise.levenberg_marquardt(
      lambda t: key.problem.terms(t, data), theta, steps=steps
    )

  return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None, None)))


@functools.lru_cache(maxsize=4)
def _slope(key: _Key):
  """Compiled: gradient of a mix of all equations."""

  def mixed(theta, data, mix):
    return mix @ key.problem.log_ratio(theta, data)

  return jax.jit(jax.grad(mixed))


@functools.lru_cache(maxsize=4)
def _diagnoser(key: _Key):
  """Compiled: bytes that every tier serves, and log ratios."""

  def diagnose(theta, data):
    cost = predict(key.problem.system_at(theta), data.demand)
    return cost.served_B, key.problem.log_ratio_of(cost, data)

  return jax.jit(diagnose)


def _rescale(problem, traces, theta) -> Problem:
  """Sets every equation's scale to how well its kind fits.

  The scale of a kind (op, tier that serves it) is the robust deviation of its
  residuals, with the deviation of the row's own repeats added in squares, so
  that a noisy row and a kind that the laws describe badly weigh less.
  """
  residual, kinds = _residuals(problem, traces, theta)
  overall = _robust_sd(residual)
  scale = np.empty(len(residual))
  for kind in set(kinds):
    rows = kinds == kind
    # A handful of rows says little of its own spread: shrink to the whole.
    n = rows.sum()
    variance = (n * _robust_sd(residual[rows]) ** 2 + 4 * overall**2) / (n + 4)
    scale[rows] = np.sqrt(variance)
  noise = np.nan_to_num(problem.observations.rel_std, nan=0.0)
  scale = np.sqrt(np.maximum(scale, SCALE_FLOOR) ** 2 + noise**2)
  data = dataclasses.replace(problem.data, scale=scale)
  return dataclasses.replace(problem, data=data)


def _residuals(problem, traces, theta) -> tuple[np.ndarray, np.ndarray]:
  """log(predicted / observed) and kind ('stream@L2') of every equation."""
  served_B, residual = _diagnoser(_Key(problem))(theta, problem.data)
  labels = observe.tier_labels(problem.system, np.asarray(served_B))
  row = problem.observations.row
  kinds = [f'{traces["op"][r]}@{labels[r]}' for r in row]
  return np.asarray(residual), np.array(kinds, object)


def _robust_sd(residual: np.ndarray) -> float:
  """Root mean square, with the largest tenth left out when there is one."""
  size = np.sort(np.abs(residual))
  kept = size[: max(1, int(np.ceil(0.9 * len(size))))]
  return float(np.sqrt(np.mean(kept**2)))


def _bootstrap(problem, traces, theta, options, store, on_progress):
  """Refits under random weights and priors [draw, parameter]."""
  if not options.draws:
    return np.empty((0, len(theta)))
  rng = np.random.default_rng([options.seed, 1])
  cell_of_row = np.unique(split.cells(traces), return_inverse=True)[1]
  cell = cell_of_row[problem.observations.row]
  weights = uncertainty.cell_weights(cell, options.draws, rng)
  data = problem.data
  priors = data.prior + data.prior_sd * rng.standard_normal(
    (options.draws, len(theta))
  )
  draws = store.get('draws', np.empty((0, len(theta))))
  on_progress('bootstrap', len(draws), options.draws)
  for first in range(len(draws), options.draws, _LANES):
    index = slice(first, first + _LANES)
    n = len(weights[index])
    found = _minimise(
      problem,
      np.broadcast_to(theta, (n, len(theta))),
      options.draw_steps,
      stage='',
      on_progress=lambda *_: None,
      weights=weights[index],
      priors=priors[index],
    )
    draws = np.concatenate([draws, found.theta])
    store.put('draws', draws)
    on_progress('bootstrap', len(draws), options.draws)
  sound = np.isfinite(draws).all(-1)
  return draws[sound]


def _assemble(prior, problem, best, draws, traces) -> FittedSystem:
  theta = best.theta[0]
  stderr = uncertainty.standard_errors(best.normal[0])
  system = to_numpy(problem.system_at(theta))
  knowledge = {}
  for name, info in system.infos().items():
    known = prior.knowledge[name]
    measure = uncertainty.what_to_measure(name, info)
    if name in problem.names:
      error = float(stderr[problem.names.index(name)])
      status = uncertainty.status_of(error, known.prior_sd)
      known = dataclasses.replace(known, status=status, stderr=error)
    elif known.status is not Status.UNUSED:
      known = dataclasses.replace(
        known, status=Status.PRIOR, stderr=known.prior_sd
      )
    if known.status in (Status.FITTED, Status.UNUSED):
      measure = ''
    knowledge[name] = dataclasses.replace(known, measure=measure)
  return FittedSystem(
    system=system,
    knowledge=knowledge,
    ensemble=_ensemble(system, problem.names, draws, knowledge),
    scatter=_scatter(problem, traces, theta),
  )


def _ensemble(system, names, draws, knowledge) -> System | None:
  """One system per draw; what no row touches is drawn from its prior."""
  if not len(draws):
    return None
  rng = np.random.default_rng(len(draws))
  leaves = {}
  for name, leaf in leaves_by_name(system).items():
    leaves[name] = np.full(len(draws), float(leaf))
    if knowledge[name].status is Status.PRIOR:
      noise = rng.standard_normal(len(draws))
      leaves[name] = leaves[name] + knowledge[name].prior_sd * noise
  leaves |= {name: draws[:, i] for i, name in enumerate(names)}
  return from_leaves(system, leaves)


def _scatter(problem, traces, theta) -> dict[str, float]:
  """Relative deviation of single rows, by op; cliffs apart."""
  residual, kinds = _residuals(problem, traces, theta)
  kinds = np.array([observe.scatter_key(kind) for kind in kinds])
  return {
    str(kind): float(np.quantile(np.abs(residual[kinds == kind]), 0.9) / 1.645)
    for kind in sorted(set(kinds))
  }


def _help(fitted, losses, converged) -> tuple[str, ...]:
  lines = []
  if not converged:
    lines.append(
      'The best start had not converged: raise `steps`, or look for rows that '
      'contradict each other.'
    )
  losses = np.sort(np.asarray(losses))
  if len(losses) > 1 and losses[1] > 1.05 * losses[0] + 1.0:
    lines.append(
      'Only one start reached the best loss: raise `starts` to be surer that '
      'it is the global one.'
    )
  for name in fitted.named(Status.UNIDENTIFIED):
    measure = fitted.knowledge[name].measure
    lines.append(f'{name} is decided by its prior; measure: {measure}.')
  return tuple(lines)


class _Store:
  """Finished stages on disk, so that an interrupted fit can go on."""

  def __init__(self, options: FitOptions, problem: Problem):
    self._path = options.resume_path and pathlib.Path(options.resume_path)
    self._key = _fingerprint(options, problem)
    self._kept: dict[str, np.ndarray] = {}
    if self._path and self._path.is_file():
      try:
        with np.load(self._path) as file:
          kept = {name: file[name] for name in file.files}
      except (OSError, ValueError, EOFError):
        kept = {}
      if str(kept.pop('key', '')) == self._key:
        self._kept = kept

  def get(self, name: str, default: np.ndarray) -> np.ndarray:
    return self._kept.get(name, default)

  def put(self, name: str, value: np.ndarray) -> None:
    self._kept[name] = value
    if not self._path:
      return
    self._path.parent.mkdir(parents=True, exist_ok=True)
    scratch = self._path.with_name(f'{self._path.stem}.{os.getpid()}.tmp.npz')
    np.savez(scratch, key=np.array(self._key), **self._kept)
    scratch.replace(self._path)

  def once(self, name: str, make: Callable[[], tuple]) -> tuple:
    """The stored parts of a stage, or those that `make` gives, stored."""
    if f'{name}_0' in self._kept:
      stored = [k for k in self._kept if k.startswith(f'{name}_')]
      return tuple(self._kept[f'{name}_{i}'] for i in range(len(stored)))
    parts = make()
    for i, part in enumerate(parts):
      self.put(f'{name}_{i}', np.asarray(part))
    return parts

  def clear(self) -> None:
    if self._path:
      self._path.unlink(missing_ok=True)


def _fingerprint(options: FitOptions, problem: Problem) -> str:
  plain = dataclasses.replace(options, resume_path=None)
  digest = hashlib.sha256(repr((plain, problem.names)).encode())
  for leaf in jax.tree.leaves((problem.system, problem.data)):
    digest.update(np.ascontiguousarray(jnp.asarray(leaf)).tobytes())
  return digest.hexdigest()
