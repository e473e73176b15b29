"""Which plan to take when the machine is known only so well.

The best predicted plan is the one where the model flatters itself (optimizer's
curse: Smith and Winkler, Management Science 52(3), 2006): plans are ranked by
an upper quantile of their loss over the ensemble of the fit. Beside the order
stand how probably the first beats each other one, what is lost on average by
taking it (expected regret), and which measurement would lower that most
(`diffmem.planning.decisions.worth`).

The draws are refits of the laws' parameters. What no parameter of the laws
says (kernels, software) is an error of each plan's own; `own_log_sd` adds it.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from diffmem import errors
from diffmem.planning.decisions import worth as worth_lib
from diffmem.planning.decisions.decision import (
  Beats,
  Decision,
  DecisionOutcome,
  Ranked,
)
from diffmem.system import System

_QUANTILE = 0.9
# How probably the first must beat every other one to be settled, by the lower
# end of that probability's 90 % interval.
_SURE = 0.9
# Expected regret over the loss below which any of the plans will do.
_NEGLIGIBLE = 1e-3
# Draws of a plan's own error for each draw of the parameters; even.
_OWN_DRAWS = 64

# Leaves by full name [try] -> value of every plan [plan, try].
Evaluate = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def decide(
  values: Float[np.ndarray, 'plan draw'] | None,
  parameters: Mapping[str, Float[np.ndarray, ' draw']],
  *,
  system: System | None = None,
  slopes: Mapping[str, Float[np.ndarray, ' plan']] | None = None,
  evaluate: Evaluate | None = None,
  names: Sequence[str] | None = None,
  less_is_better: bool = True,
  quantile: float = _QUANTILE,
  own_log_sd: float = 0.0,
  seed: int = 0,
) -> Decision:
  """Ranks plans under an ensemble and says what to measure.

  Args:
    values: objective of every plan under every draw, more than 0; None where
      there is no ensemble.
    parameters: what was drawn, by full name, in leaf units.
    system: for the measurements; without it parameters stand alone.
    slopes: d ln(value) / d leaf of every plan, by full parameter name, for
      some or all parameters; without them the draws alone must tell.
    evaluate: value of every plan under leaves of these parameters, for what
      measurements are worth; with `slopes`, only what moves the plans most is
      evaluated, 8 times for each draw.
    names: what plans are called in the sentence; by default 'plan 1' and on.
    less_is_better: False for tokens per second.
    quantile: of the loss, by which plans are ranked.
    own_log_sd: standard deviation of the logarithm of each plan's own error,
      independent of the others' and of every parameter.
    seed: of the shuffles and own errors.

  Raises:
    PlanError: values of no plan, of fewer than two draws, or not above 0.
  """
  if values is None:
    return Decision(
      DecisionOutcome.NO_ENSEMBLE,
      'nothing was fitted, so there is no ensemble and no probability; fit '
      'the machine to traces of its own (experiments.collect, experiments.fit)',
      (), quantile, 0, fixed=tuple(parameters),
    )  # fmt: skip
  values = _checked(values, parameters)
  rng = np.random.default_rng(seed)
  loss = values if less_is_better else -values
  noisy = _with_own_errors(values, own_log_sd, rng)
  noisy = noisy if less_is_better else -noisy
  flat = noisy.reshape(len(noisy), -1)
  upper = np.quantile(flat, quantile, axis=1)
  order = np.lexsort((flat.mean(1), upper))
  plans = _ranked(flat, upper, order, less_is_better)
  first = order[0]
  beats = tuple(_beats(noisy[first], noisy[j], int(j)) for j in order[1:])
  regret = float((flat[first] - flat.min(0)).mean())
  share = regret / abs(float(flat[first].mean()))
  moved = [n for n, v in parameters.items() if np.std(v) > 1e-12]
  gaps = np.delete(loss - loss[first], first, 0).T  # [draw, other]
  question = worth_lib.Question(
    gaps=gaps,
    drawn={n: np.asarray(parameters[n], float) for n in moved},
    slopes=_gap_slopes(slopes, loss, first),
    evaluate=_gap_evaluation(evaluate, first, less_is_better),
    regret=regret,
  )
  worth, alone = worth_lib.worth_of(question, system, rng)
  outcome = _outcome(beats, share)
  names = names or [f'plan {i + 1}' for i in range(len(values))]
  return Decision(
    outcome=outcome,
    help=_help(outcome, names, order, beats, share, worth, quantile),
    order=tuple(int(i) for i in order),
    quantile=quantile,
    draws=values.shape[1],
    plans=plans,
    beats=beats,
    regret=regret,
    regret_share=share,
    measurements=worth,
    parameters=alone,
    fixed=tuple(n for n in parameters if n not in moved),
  )


def _checked(values, parameters) -> np.ndarray:
  values = np.asarray(values, float)
  if values.ndim != 2 or not len(values) or values.shape[1] < 2:
    raise errors.PlanError(
      f'values have shape {values.shape}: expected [plan, draw] with at least '
      'one plan and two draws'
    )
  if not (np.isfinite(values).all() and (values > 0).all()):
    raise errors.PlanError('values of plans must be finite and more than 0')
  for name, drawn in parameters.items():
    if np.shape(drawn) != values.shape[1:]:
      raise errors.PlanError(
        f'{name} has shape {np.shape(drawn)}: expected one value for each of '
        f'{values.shape[1]} draws'
      )
  return values


def _with_own_errors(values, log_sd, rng) -> Float[np.ndarray, 'plan draw own']:
  """Every draw again and again with errors of the plan's own."""
  if not log_sd:
    return values[..., None]
  half = rng.normal(size=(*values.shape, _OWN_DRAWS // 2))
  # Antithetic: the mean of the logarithm stays.
  return values[..., None] * np.exp(log_sd * np.concatenate([half, -half], -1))


def _ranked(flat, upper, order, less_is_better) -> tuple[Ranked, ...]:
  sign = 1.0 if less_is_better else -1.0
  best = np.bincount(flat.argmin(0), minlength=len(flat)) / flat.shape[1]
  return tuple(
    Ranked(
      int(i),
      sign * float(flat[i].mean()),
      sign * float(upper[i]),
      float(best[i]),
    )
    for i in order
  )


def _gap_evaluation(evaluate, first, less_is_better):
  """The others' losses less the first's [try, other] under other leaves."""
  if evaluate is None:
    return None
  sign = 1.0 if less_is_better else -1.0

  def gaps(leaves):
    loss = sign * np.asarray(evaluate(leaves), float)
    return np.delete(loss - loss[first], first, 0).T

  return gaps


def _beats(first, other, index: int) -> Beats:
  """From [draw, own error]; draws are independent, own errors share one."""
  share = (0.5 * (first < other) + 0.5 * (first <= other)).mean(1)
  draws, probability = len(share), float(share.mean())
  # Jeffreys' posterior of a proportion (Brown et al., Statistical Science
  # 16(2), 2001), with as many draws as explain the spread between them.
  spread = float(share.var())
  worth = draws
  if 0.0 < spread < probability * (1.0 - probability):
    worth = draws * probability * (1.0 - probability) / spread
  a, b = worth * probability + 0.5, worth * (1.0 - probability) + 0.5
  known = stats.beta(a, b)
  low, high = known.ppf([0.05, 0.95])
  return Beats(
    index, probability, float(known.std()), (float(low), float(high))
  )


def _gap_slopes(slopes, loss, first) -> dict[str, np.ndarray]:
  """Slopes of the other plans' losses less the first's, by parameter."""
  size = loss.mean(1)

  def gap(slope):
    moved = np.asarray(slope, float) * size
    return np.delete(moved - moved[first], first)

  return {name: gap(slope) for name, slope in (slopes or {}).items()}


def _outcome(beats, share) -> DecisionOutcome:
  if not beats:
    return DecisionOutcome.ONE_PLAN
  if all(b.interval90[0] >= _SURE for b in beats):
    return DecisionOutcome.SETTLED
  if share <= _NEGLIGIBLE:
    return DecisionOutcome.INDIFFERENT
  return DecisionOutcome.TOO_CLOSE


def _help(outcome, names, order, beats, share, worth, quantile) -> str:
  first = names[order[0]]
  if outcome is DecisionOutcome.ONE_PLAN:
    return f'{first} is the only plan'
  rival = min(beats, key=lambda b: b.probability)
  why = f' (ranked by its {quantile:.0%} quantile)'
  against = f'{first}{why if rival.probability < 0.5 else ""} beats '
  against += f'{names[rival.index]} with probability '
  against += f'{rival.probability:.2f} +- {rival.stderr:.2f}'
  if outcome is DecisionOutcome.SETTLED:
    return f'settled: {against}'
  lost = f'taking it loses {share:.2%} on average'
  if outcome is DecisionOutcome.INDIFFERENT:
    return f'either will do: {against}, and {lost}'
  said = f'too close to call: {against}, and {lost}'
  told = [w for w in worth if w.beyond_chance and w.drop_share > 0.05]
  if not told:
    return (
      f'{said}; no single measurement is known to settle it: run a few '
      'steps of both'
    )
  by = f', by {told[0].tool}' if told[0].tool else ''
  # Without a part, only the sizes and conditions say what is meant.
  what = told[0].text if told[0].part else told[0].how or told[0].text
  return (
    f'{said}; measure {what}{by}, which would save '
    f'{told[0].drop_share:.0%} of that, or run a few steps of both'
  )
