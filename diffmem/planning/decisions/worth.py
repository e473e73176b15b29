"""What each measurement would bring to one choice between plans.

By evaluation where the caller can evaluate plans anew, else to first order
where the slopes are known, else by regression on the draws alone
(`diffmem.planning.decisions.information`).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffmem.planning.decisions import information, measurements
from diffmem.planning.decisions.decision import Worth
from diffmem.system import System, what_to_measure

_SHUFFLES = 40
_CHANCE = 0.9
# Measurements, and parameters, that are evaluated and reported.
_EVALUATED = 6
# A drop of regret below this share of it is rounding.
_LEAST_SHARE = 1e-6

# Leaves by full name [try] -> losses of the other plans less the first's.
EvaluateGaps = Callable[
  [Mapping[str, np.ndarray]], Float[np.ndarray, 'try other']
]


class Question(NamedTuple):
  """A choice that is open.

  Attributes:
    gaps: losses of the other plans less that of the first [draw, other].
    drawn: leaves of the parameters with a spread, by full name [draw].
    slopes: d gap / d leaf [other]; empty where they are not known.
    evaluate: gaps under other leaves; None where there is no way to.
    regret: expected loss of taking the first.
  """

  gaps: Float[np.ndarray, 'draw other']
  drawn: Mapping[str, Float[np.ndarray, ' draw']]
  slopes: Mapping[str, Float[np.ndarray, ' other']]
  evaluate: EvaluateGaps | None
  regret: float

  def columns(self, names) -> Float[np.ndarray, 'draw parameter']:
    """The draws of some parameters side by side."""
    return np.stack([self.drawn[n] for n in names], 1)

  def reach(self, names) -> float:
    """Deviation of the gap that these move most, to first order."""
    said = [n for n in names if n in self.slopes]
    if not said:
      return 0.0
    slopes = np.stack([self.slopes[n] for n in said])
    return float((self.columns(said) @ slopes).std(0).max())

  def drop(self, names) -> float:
    """Expected drop of regret if these parameters were known exactly."""
    if self.evaluate:
      known = information.crossed(self.evaluate, self.drawn, names, self.gaps)
    elif self.slopes:
      said = [n for n in names if n in self.slopes]
      if not said:
        return 0.0  # it moves no plan
      slopes = np.stack([self.slopes[n] for n in said])
      known = information.first_order(self.gaps, self.columns(said), slopes)
    else:
      known = information.regressed(self.gaps, self.columns(names))
    drop = min(float(information.drop(known)), self.regret)
    return drop if drop > _LEAST_SHARE * self.regret else 0.0


def worth_of(
  question: Question, system: System | None, rng: np.random.Generator
) -> tuple[tuple[Worth, ...], dict[str, float]]:
  """Measurements and single parameters by their drop of regret.

  Args:
    question: what is open.
    system: for the measurements; without it each parameter is its own.
    rng: for the shuffles that say what chance brings.
  """
  groups = _groups(question, system)
  if question.regret <= 0.0 or not groups:
    return (), {}
  singles = _nearest(question, [[n] for n in question.drawn])
  alone = {name: question.drop([name]) for (name,) in singles}
  chance = _chance(question, groups, rng)
  found = []
  for names in _nearest(question, list(groups.values())):
    group = next(g for g, members in groups.items() if members is names)
    names = sorted(names, key=lambda n: -alone.get(n, 0.0))
    drop = question.drop(names)
    if drop > 0.0:
      found.append(
        Worth(
          text=group.text if system else group.part,
          **group._asdict(),
          how=what_to_measure(system, names[0]) if system else '',
          parameters=tuple(names),
          drop=drop,
          drop_share=drop / question.regret,
          beyond_chance=drop > chance,
        )
      )
  found.sort(key=lambda w: -w.drop)
  ranked = sorted(alone, key=lambda n: -alone[n])[:_EVALUATED]
  told = {n: alone[n] for n in ranked if alone[n] > 0.0}
  return tuple(found[:_EVALUATED]), told


def _groups(question: Question, system: System | None):
  if system:
    return measurements.grouped(system, question.drawn)
  return {
    measurements.Measurement('', name, 'time_s', ''): [name]
    for name in question.drawn
  }


def _nearest(question: Question, groups: list[list[str]]) -> list[list[str]]:
  """Those worth an evaluation: by what they move to first order, if known."""
  if not (question.evaluate and question.slopes):
    return groups
  reach = [question.reach(names) for names in groups]
  order = np.argsort(-np.array(reach), kind='stable')[:_EVALUATED]
  return [groups[i] for i in order if reach[i] > 0.0]


def _chance(question: Question, groups, rng) -> float:
  """What a drop must exceed, where nothing but the draws tells."""
  if question.slopes or question.evaluate:
    return 0.0
  tables = [question.columns(names) for names in groups.values()]
  shuffled = information.chance_drops(question.gaps, tables, _SHUFFLES, rng)
  return float(np.quantile(shuffled, _CHANCE))
