"""What to measure next: the rows that would most reduce a decision's doubt.

    fitted = checkpoint.load_system('checkpoints/h100-sxm')
    target = Target('ln cost per token', slopes)      # d target / d leaf
    found = measure_next(fitted, target)
    found.to_recipe('next.toml')     # python -m experiments.collect --list=...

The parameters are normal with the covariance of the fit (`covariance`), the
decision is linear in them with the slopes of a plan or a mix of plans, and each
row that a collection could run says of them what the fit's own laws and noise
make it say (`row_slopes`). Rows are chosen one after the other, each for what
it adds (`choosing`); sets of rows, one op on one part, are judged whole. What
no row tells is listed apart: a data sheet, a maker or another tool must tell.

Rows of one family share a part of their errors (`row_slopes`), so that many of
one kind tell less than as many of several.

What this leaves out: curvature of the decision, and errors of kernels and
software that no parameter describes.
"""

import enum
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from diffmem import errors
from diffmem.codesign.measuring import candidates as candidates_lib
from diffmem.codesign.measuring import choosing, next_rows
from diffmem.codesign.measuring import covariance as covariance_lib
from diffmem.codesign.measuring.next_rows import NextRow, RowSet, Untold
from diffmem.codesign.measuring.row_slopes import (
  COMMON_SHARE,
  row_slopes,
  row_spread,
)
from diffmem.system import FittedSystem
from diffmem.traces import Traces
from diffmem.traces.collect import chosen

# A choice is settled where the wrong one is taken less often than this, as
# `planning.decisions` has it.
_SETTLED = 0.1
# Rows are worth their time where they narrow the interval by this share.
_WORTHWHILE = 0.1
_MOST_UNTOLD = 12


class NextOutcome(enum.StrEnum):
  """What measuring can do for the decision."""

  SETTLED = 'settled'  # the choice is clear already
  SETTLES = 'settles'  # the rows would probably make it clear
  HELPS = 'helps'  # the rows narrow the interval by a tenth at least
  UNTOLD = 'untold'  # no row that a collection runs tells much of it
  CERTAIN = 'certain'  # nothing uncertain moves the decision


class Target(NamedTuple):
  """The decision whose uncertainty shall fall.

  Attributes:
    name: for a person, such as 'ln USD per token'.
    slopes: d target / d leaf by full parameter name, a leaf being the natural
      logarithm of most parameters: the elasticities of a plan, or those of the
      second choice less those of the first.
    gap: for a choice between two, the target's value now, such as
      ln(cost of the second / cost of the first); its sign is the choice.
      None for a figure of which only the interval counts.
  """

  name: str
  slopes: Mapping[str, float]
  gap: float | None = None

  @classmethod
  def between(
    cls,
    name: str,
    first: Mapping[str, float],
    second: Mapping[str, float],
    gap: float,
  ) -> 'Target':
    """The gap between two plans.

    Args:
      name: for a person.
      first: d ln(value) / d leaf of the plan that would be taken.
      second: the same of the other one.
      gap: ln(value of the second / value of the first).
    """
    names = dict.fromkeys([*first, *second])
    slopes = {n: second.get(n, 0.0) - first.get(n, 0.0) for n in names}
    return cls(name, slopes, gap)


class MeasureNext(NamedTuple):
  """What to measure next, and what it would bring.

  Attributes:
    outcome: what measuring can do.
    help: one sentence for a person.
    target: name of the decision.
    gap: its value now where it is a choice, else None.
    half_width90: half of the decision's 90 % interval now, in its own unit;
      0.05 of a logarithm is 5 %.
    half_width90_after: with all of `rows`.
    half_width90_least: with every row that a collection could run.
    wrong_share: probability that the choice is wrong now; None for a figure.
    wrong_share_after: expected, with all of `rows`.
    regret: expected loss of choosing now, in the target's unit.
    regret_after: expected, with all of `rows`.
    rows: what to measure, in order; ready for `to_recipe`.
    sets: one op on one part each, the most telling first.
    untold: parameters that no row tells, by their share of the variance.
    untold_share: share of the decision's variance that no row tells.
    platform: where the rows run: 'cpu' or 'gpu'.
    seconds: about how long `rows` take together [s].
    known_from: 'traces', 'ensemble' or 'standard errors' of the fit.
    shrinkage: share of the ensemble's correlations taken for chance.
    candidates: how many rows there were to choose from.
    left_out: what a collection has and this system does not, and why.
  """

  outcome: NextOutcome
  help: str
  target: str
  gap: float | None
  half_width90: float
  half_width90_after: float
  half_width90_least: float
  wrong_share: float | None
  wrong_share_after: float | None
  regret: float | None
  regret_after: float | None
  rows: tuple[NextRow, ...]
  sets: tuple[RowSet, ...]
  untold: tuple[Untold, ...]
  untold_share: float
  platform: str
  seconds: float
  known_from: str
  shrinkage: float
  candidates: int
  left_out: tuple[str, ...]

  def to_dict(self) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers."""
    found = self._asdict()
    found['rows'] = [r.to_dict() for r in self.rows]
    found['sets'] = [s._asdict() for s in self.sets]
    found['untold'] = [u._asdict() for u in self.untold]
    return found

  def to_recipe(self, path: str | os.PathLike) -> None:
    """Writes the rows as a list that `experiments.collect --list` runs.

    Raises:
      PlanError: there is nothing to measure.
      SpecError: the file cannot be written.
    """
    if not self.rows:
      raise errors.PlanError(f'nothing to measure: {self.help}')
    text = chosen.list_text(
      chosen.ProbeList(self.platform, tuple(r.probe for r in self.rows)),
      [
        f'{r.text}: +-{r.half_width90_after:.4g} of {self.target} after it'
        for r in self.rows
      ],
    )
    try:
      pathlib.Path(path).write_text(text, encoding='utf-8')
    except OSError as error:
      raise errors.SpecError(
        f'{path}: cannot be written ({error.strerror})'
      ) from None


def measure_next(
  fitted: FittedSystem,
  target: Target,
  *,
  traces: Traces | None = None,
  candidates: candidates_lib.Candidates | None = None,
  most: int = 12,
  per_second: bool = False,
  common_share: float = COMMON_SHARE,
) -> MeasureNext:
  """Ranks the rows of a collection by what they would tell of a decision.

  Args:
    fitted: the machine.
    target: the decision, with its slopes.
    traces: what the machine was fitted to, where at hand; they tell more of
      the parameters' correlations than a small ensemble does.
    candidates: rows to choose from; by default all that a collection runs.
    most: rows to choose.
    per_second: choose for the drop of variance per second of measuring
      instead of per row.
    common_share: of the variance of a row's error that its family has in
      common, from 0 to less than 1.

  Raises:
    PlanError: slopes of parameters that the machine lacks or that are not
      finite, or nothing of the machine is uncertain.
  """
  _check(fitted, target, common_share)
  candidates = candidates or candidates_lib.candidates_of(fitted)
  known = covariance_lib.covariance_of(fitted, traces, common_share)
  planned = candidates.traces()
  with jax.enable_x64(True):
    slopes = row_slopes(fitted, known.names, planned)
    if known.source == 'ensemble':
      known = covariance_lib.sharpened(
        known, fitted, slopes.slopes, row_spread(fitted, planned)
      )
  slopes = slopes.with_common_errors(common_share)
  known = known.with_common_errors(slopes)
  question = known.slope_vector(target.slopes)
  blocks = [
    choosing.Block(
      slopes.slopes[slopes.row == i],
      slopes.noise[slopes.row == i],
      row.seconds if per_second else 1.0,
    )
    for i, row in enumerate(candidates.rows)
  ]
  sds = _Deviations(known.matrix, question, blocks, most)
  rows = next_rows.ranked(known, question, candidates, blocks, sds.bought)
  untold, untold_share = next_rows.untold(
    fitted.system, known, question, blocks
  )
  outcome = _outcome(target, sds, untold_share)
  wrong, regret = _of_choice(target.gap, sds)
  return MeasureNext(
    outcome=outcome,
    help=_help(outcome, target, sds, rows, untold, untold_share),
    target=target.name,
    gap=target.gap,
    half_width90=choosing.Z90 * sds.now,
    half_width90_after=choosing.Z90 * sds.after,
    half_width90_least=choosing.Z90 * sds.least,
    wrong_share=wrong[0],
    wrong_share_after=wrong[1],
    regret=regret[0],
    regret_after=regret[1],
    rows=rows,
    sets=next_rows.sets(known, question, candidates, blocks),
    untold=untold[:_MOST_UNTOLD],
    untold_share=untold_share,
    platform=candidates.platform,
    seconds=sum(r.seconds for r in rows),
    known_from=known.source,
    shrinkage=known.shrinkage,
    candidates=len(candidates.rows),
    left_out=candidates.left_out,
  )


class _Deviations:
  """Standard deviations of the decision: now, with the rows, with all."""

  def __init__(self, matrix, question, blocks, most):
    variance = float(question @ matrix @ question)
    self.now = float(np.sqrt(max(variance, 0.0)))
    self.bought = choosing.greedy(matrix, question, blocks, most)
    self.after = self.now
    if self.bought:
      self.after = float(np.sqrt(self.bought[-1].variance))
    left = variance - choosing.variance_drop(
      matrix, question, choosing.joined(blocks)
    )
    self.least = min(float(np.sqrt(max(left, 0.0))), self.after)


def _check(fitted: FittedSystem, target: Target, common_share: float) -> None:
  for name, slope in target.slopes.items():
    if name not in fitted.knowledge:
      raise errors.PlanError(
        f'slopes of {target.name!r}: found {name!r}; expected parameters of '
        f'{fitted.system.name}, such as {next(iter(fitted.knowledge))!r}'
      )
    if not np.isfinite(slope):
      raise errors.PlanError(
        f'slopes of {target.name!r}: {name}: found {slope}; expected a finite '
        'number'
      )
  if not 0.0 <= common_share < 1.0:
    raise errors.PlanError(
      f'common_share: found {common_share}; expected 0 to less than 1'
    )
  if target.gap is not None and not np.isfinite(target.gap):
    raise errors.PlanError(
      f'gap of {target.name!r}: found {target.gap}; expected a finite number'
    )


def _of_choice(gap: float | None, sds: _Deviations):
  """Probability of a wrong choice and expected loss, now and after."""
  if gap is None:
    return (None, None), (None, None)
  wrong = choosing.wrong_now(gap, sds.now)
  regret = choosing.regret_now(gap, sds.now)
  saved = choosing.regret_drop(gap, sds.now, sds.after)
  return (
    (wrong, choosing.wrong_after(gap, sds.now, sds.after)),
    (regret, max(regret - saved, 0.0)),
  )


def _outcome(target, sds, untold_share) -> NextOutcome:
  if sds.now == 0:
    return NextOutcome.CERTAIN
  if target.gap is not None:
    if choosing.wrong_now(target.gap, sds.now) < _SETTLED:
      return NextOutcome.SETTLED
    if choosing.wrong_after(target.gap, sds.now, sds.after) < _SETTLED:
      return NextOutcome.SETTLES
  if sds.after <= (1.0 - _WORTHWHILE) * sds.now:
    return NextOutcome.HELPS
  return NextOutcome.UNTOLD


def _help(outcome, target, sds, rows, untold, untold_share) -> str:
  wide = f'{target.name} is known to +-{choosing.Z90 * sds.now:.3g} (90 %)'
  if outcome is NextOutcome.CERTAIN:
    return f'nothing that is uncertain moves {target.name}'
  if target.gap is not None:
    wrong = choosing.wrong_now(target.gap, sds.now)
    wide += f', the choice is wrong with probability {wrong:.2f}'
  if outcome is NextOutcome.SETTLED:
    return f'settled: {wide}; no measurement is needed for it'
  if outcome is NextOutcome.UNTOLD:
    return f'{wide}, and no row tells much of it: {_ask(untold, untold_share)}'
  after = f'{len(rows)} rows would bring it to +-{choosing.Z90 * sds.after:.3g}'
  if target.gap is not None:
    then = choosing.wrong_after(target.gap, sds.now, sds.after)
    after += f' and {then:.2f}'
    if outcome is NextOutcome.SETTLES:
      after += ', which settles it'
  first = f'first {rows[0].text}'
  if untold_share > 0.5:
    first += f'; {_ask(untold, untold_share)}'
  return f'{wide}; {after}; {first}'


def _ask(untold: Sequence[Untold], share: float) -> str:
  if not untold:
    return 'its rows are too noisy for what is asked'
  return (
    f'{share:.0%} of the variance is what no row of a collection tells, first '
    f'{untold[0].parameter} ({untold[0].how})'
  )
