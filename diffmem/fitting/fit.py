"""`fit`: traces in, a system with honest errors out."""

import dataclasses
import os
from typing import Any

import jax
import numpy as np

from diffmem import errors
from diffmem.fitting import (
  compiled,
  corrections,
  duplex,
  kernel_rows,
  observe,
  open_form,
  optimise,
  resume,
  split,
  start,
  uncertainty,
)
from diffmem.fitting.evaluate import evaluate
from diffmem.fitting.problem import SCALE_FLOOR, Problem, make_problem
from diffmem.fitting.residual import ResidualOptions
from diffmem.system import (
  FittedSystem,
  Status,
  System,
  from_leaves,
  leaves_by_name,
  to_numpy,
  what_to_measure,
)
from diffmem.traces import Traces


@dataclasses.dataclass(frozen=True)
class FitOptions:
  """How to fit.

  Attributes:
    starts: starting points; the first is read off the data.
    steps: most Levenberg-Marquardt steps from the best few starts, after
      half as many from all.
    adam_steps: steps of Adam before them; 0 for none.
    draws: bootstrap refits; 0 for no ensemble.
    draw_steps: most Levenberg-Marquardt steps of each refit.
    max_rows: most rows of kernels that the laws are fitted to, evenly over
      ops, formats and kernels; residuals learn from all.
    residual: how residuals are trained.
    seed: of starts, bootstrap, samples and residuals.
    resume_path: a file that keeps finished work, so that an interrupted fit
      of the same data and options goes on; removed when the fit is done.
  """

  starts: int = 8
  steps: int = 60
  adam_steps: int = 0
  draws: int = 64
  draw_steps: int = 6
  max_rows: int = 1500
  residual: ResidualOptions = dataclasses.field(default_factory=ResidualOptions)
  seed: int = 0
  resume_path: str | os.PathLike | None = None


@dataclasses.dataclass(frozen=True)
class FitResult:
  """What a fit found.

  Attributes:
    fitted: the system, its knowledge and its ensemble.
    loss: half the sum of squared residuals at the best point.
    start_losses: the same for the few best starts: a spread means local
      minima.
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
  on_progress: compiled.Progress = lambda stage, done, total: None,
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
    prior, laws = duplex.choose(prior, traces)
    prior = kernel_rows.with_engines(prior, traces)
    sample = kernel_rows.sample(
      prior.system, traces, options.max_rows, options.seed
    )
    result, store = _fit(prior, sample, options, on_progress)
    residuals = corrections.train(
      result.fitted.system,
      traces,
      options.residual,
      options.seed,
      on_progress,
      store,
    )
  store.clear()
  fitted = dataclasses.replace(result.fitted, residuals=residuals)
  said = tuple(law.help() for law in laws)
  return dataclasses.replace(result, fitted=fitted, help=result.help + said)


def fit_held_out(
  prior: FittedSystem,
  traces: Traces,
  options: FitOptions,
  every: int,
  on_progress: compiled.Progress = lambda stage, done, total: None,
) -> tuple[FitResult, list[dict[str, Any]]]:
  """`fit` without one cell in `every`, and its errors on these.

  Args:
    prior: as for `fit`.
    traces: measurements of this system.
    options: as for `fit`; its seed chooses the cells too.
    every: one inner cell in so many of each sweep is held out; 0 for none.
    on_progress: called with stage, done, total.

  Returns:
    The fit, and errors by group (`evaluate`) on the rows that it has not seen.
  """
  held_out = split.hold_out(traces, every=every, seed=options.seed)
  found = fit(prior, traces.select(~held_out), options, on_progress)
  if not held_out.any():
    return found, []
  return found, evaluate(found.fitted, traces.select(held_out))


def _fit(prior, traces, options, on_progress) -> tuple[FitResult, resume.Store]:
  """The laws, and the store of the work behind them."""
  prior_sd = {name: known.prior_sd for name, known in prior.knowledge.items()}
  problem = make_problem(prior.system, prior_sd, traces, _ceilings(prior))
  problem = _drop_untouched(problem)
  plain = dataclasses.replace(options, resume_path=None)
  store = resume.Store(
    options.resume_path,
    resume.fingerprint(
      repr((plain, problem.names)), (problem.system, problem.data)
    ),
  )

  scale, *found = store.once(
    'starts', lambda: _search(problem, traces, options, on_progress)
  )
  starts = optimise.Minimum(*found)
  problem = _with_scale(problem, scale)
  best = jax.tree.map(lambda x: x[np.argmin(starts.loss)], starts)
  theta = best.theta
  draws = _bootstrap(problem, traces, theta, options, store, on_progress)
  fitted = _assemble(prior, problem, best, draws, traces)
  is_converged = bool(best.converged)
  result = FitResult(
    fitted=fitted,
    loss=float(best.loss),
    start_losses=tuple(float(x) for x in starts.loss),
    converged=is_converged,
    help=_help(fitted, starts.loss, is_converged),
  )
  return result, store


def _ceilings(prior: FittedSystem) -> set[str]:
  """Parameters whose prior is a published peak: nothing exceeds it.

  A rate on a data sheet is what the part can do at best. Caches have none.
  """
  caches = {t.name for t in prior.system.tiers if t.is_cache}
  found = set()
  for name, known in prior.knowledge.items():
    part, _, parameter = name.rpartition('.')
    is_rate = parameter in ('read_Bps', 'rate_FLOPps') and part not in caches
    is_published = not known.source.startswith(('assumption:', 'unverified:'))
    is_borrowed = known.source.startswith(kernel_rows.BORROWED)
    if is_rate and (is_published or is_borrowed):
      found.add(name)
  return found


def _drop_untouched(problem: Problem) -> Problem:
  """Leaves out parameters on which no equation depends."""
  # The gradient of a random mix of the equations is zero where all of them
  # are flat, and (almost surely) nowhere else.
  mix = np.random.default_rng(0).standard_normal(len(problem.observations))
  slope = compiled.slope(compiled.Key(problem))(
    problem.data.prior, problem.data, mix
  )
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
    ceiling=problem.data.ceiling[keep],
  )
  return dataclasses.replace(problem, names=names, data=data)


def _search(problem, traces, options, on_progress):
  """Minimises from all starts with equal scales, the best few with own.

  Returns:
    the scales [equation], then the fields of `optimise.Minimum` [start ...].
  """
  starts = _starting_points(problem, traces, options)
  if options.adam_steps:
    starts = _warm_up(problem, starts, options.adam_steps)
  rough = compiled.minimise(
    problem, starts, options.steps // 2, stage='search', on_progress=on_progress
  )
  best = np.argsort(rough.loss)[: compiled.LANES]
  scale = _own_scale(problem, traces, rough.theta[best[0]])
  fine = compiled.minimise(
    _with_scale(problem, scale),
    rough.theta[best],
    options.steps,
    stage='refine',
    on_progress=on_progress,
  )
  return scale, *fine


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


def _with_scale(problem: Problem, scale: np.ndarray) -> Problem:
  data = dataclasses.replace(problem.data, scale=scale)
  return dataclasses.replace(problem, data=data)


def _own_scale(problem, traces, theta) -> np.ndarray:
  """Expected deviation of every equation: how well its kind fits.

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
  return np.sqrt(np.maximum(scale, SCALE_FLOOR) ** 2 + noise**2)


def _residuals(problem, traces, theta) -> tuple[np.ndarray, np.ndarray]:
  """log(predicted / observed) and kind ('stream@L2') of every equation."""
  served_B, residual = compiled.diagnoser(compiled.Key(problem))(
    theta, problem.data
  )
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
  for first in range(len(draws), options.draws, compiled.LANES):
    index = slice(first, first + compiled.LANES)
    n = len(weights[index])
    found = compiled.minimise(
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
  theta = best.theta
  stderr = uncertainty.standard_errors(best.normal)
  leaves = leaves_by_name(prior.system)
  leaves |= dict(zip(problem.names, theta, strict=True))
  system = to_numpy(from_leaves(prior.system, leaves))
  knowledge = {}
  for name in system.infos():
    known = prior.knowledge[name]
    measure = what_to_measure(system, name)
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
    scatter=_scatter(problem, traces, best) | open_form.scatter(system, traces),
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


def _scatter(problem, traces, best) -> dict[str, float]:
  """Relative deviation of single rows around the model, by op; cliffs apart.

  Residuals of the rows that were fitted are too small by the freedom that the
  fit used up; small groups are drawn towards the whole.
  """
  residual, kinds = _residuals(problem, traces, best.theta)
  kinds = np.array([observe.scatter_key(kind) for kind in kinds])
  stderr = uncertainty.standard_errors(best.normal)
  used = np.sum(1.0 - np.minimum(stderr / problem.data.prior_sd, 1.0) ** 2)
  freedom = len(residual) / max(len(residual) - used, 1.0)
  overall = _quantile_sd(residual)
  scatter = {}
  for kind in sorted(set(kinds)):
    rows = kinds == kind
    n, own = rows.sum(), _quantile_sd(residual[rows])
    if '|' in kind:
      own = max(own, scatter.get(kind.split('|')[0], overall))
    variance = (n * own**2 + 4 * overall**2) / (n + 4)
    scatter[str(kind)] = float(np.sqrt(freedom * variance))
  return scatter


def _quantile_sd(residual: np.ndarray) -> float:
  """The normal deviation whose 90 % interval holds 90 % of the residuals."""
  return float(np.quantile(np.abs(residual), 0.9) / 1.645)


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
