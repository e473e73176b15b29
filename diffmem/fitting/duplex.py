"""Which capacity law a tier follows, by what its rows show.

A tier has the law of its kind (its catalog entry, or the default of
`system.Duplex`): one bus whose capacity bends with the mix, one bus that pays
to change direction, or two directions. Where the highest bandwidth is known at
four mixes or more, the three laws are fitted to these few points, three
parameters each, and another law takes over only if it is much more likely:
by Bayes' rule with equal priors and as many parameters, the likelihoods of two
laws differ by (n / 2) ln(RSS / RSS') with n points (Schwarz, Annals of
Statistics 6(2), 1978).

  >>> from diffmem.fitting import duplex
  >>> duplex.LAWS[duplex.Duplex.FULL].__name__
  'full_duplex_s'
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float

from diffmem.cost import capacity
from diffmem.fitting import split
from diffmem.system import Duplex, FittedSystem, Tier
from diffmem.traces import Traces

LAWS = {
  Duplex.HALF: capacity.half_duplex_s,
  Duplex.TURNAROUND: capacity.turnaround_s,
  Duplex.FULL: capacity.full_duplex_s,
}
FEWEST_MIXES = 4
# Odds of 20 to 1, and a gain that matters: below this nobody would notice.
_LOG_ODDS = 3.0
_LEAST_GAIN = 0.01
_OPS = frozenset({'stream', 'stream_mix', 'copy', 'triad', 'loaded_latency'})
# A loaded latency so many times the unloaded one shows the wall.
_STRETCH_AT_WALL = 2.0
# Logarithms stay within so much of the highest bandwidth.
_WIDEST = 5.0


@dataclasses.dataclass(frozen=True)
class Choice:
  """The law of one tier.

  Attributes:
    tier: its name.
    before: the law of its kind.
    law: the law that the rows support.
    deviation: by law, root mean square deviation of the log capacities.
    mixes: at how many mixes the capacity is known.
  """

  tier: str
  before: Duplex
  law: Duplex
  deviation: dict[Duplex, float]
  mixes: int

  def help(self) -> str:
    """One line for the help of a fit."""
    others = ', '.join(
      f'{law.value} {100 * value:.2g} %'
      for law, value in self.deviation.items()
      if law is not self.law
    )
    why = 'by its kind' if self.law is self.before else 'by its rows'
    return (
      f'{self.tier} follows {self.law.value}, {why}: its capacity at '
      f'{self.mixes} mixes deviates by '
      f'{100 * self.deviation[self.law]:.2g} % ({others}).'
    )


def choose(
  prior: FittedSystem, traces: Traces
) -> tuple[FittedSystem, tuple[Choice, ...]]:
  """The prior with the law that the rows support, and what was chosen.

  Args:
    prior: structure and prior of a fit.
    traces: the rows that it will be fitted to.

  Returns:
    The prior, its tiers' `duplex` replaced where the evidence is clear; and
    one choice per tier whose capacity is known at four mixes or more.
  """
  choices = []
  tiers = []
  for tier in prior.system.tiers:
    share, peak_Bps = highest_Bps(tier, prior, traces)
    if len(share) >= FEWEST_MIXES and not tier.is_cache:
      choices.append(_choose(tier, share, peak_Bps))
      tier = dataclasses.replace(tier, duplex=choices[-1].law)
    tiers.append(tier)
  system = dataclasses.replace(prior.system, tiers=tuple(tiers))
  return dataclasses.replace(prior, system=system), tuple(choices)


def highest_Bps(
  tier: Tier, prior: FittedSystem, traces: Traces
) -> tuple[Float[np.ndarray, ' mix'], Float[np.ndarray, ' mix']]:
  """Written share and highest bandwidth [B/s] of every mix on a tier.

  The share is that of the rows within 2 % of the highest bandwidth: counters
  see other traffic too where the load is low. Loaded latencies that never
  double tell of latency, not of capacity, and do not count.
  """
  memories = [
    t.name for t in prior.system.tiers if not t.is_cache and not t.link
  ]
  where = traces.get('tier', (memories or [''])[0])
  bandwidth = traces.get('bandwidth_Bps')
  rows = (where == tier.name) & ~np.isnan(bandwidth)
  rows &= np.isin(traces['op'], list(_OPS))
  mixes, share = split.mixes(traces), split.written_share(traces)
  latency_s = traces.get('latency_s')
  idle_s = np.nanmin(np.where(rows, latency_s, np.inf), initial=np.inf)
  found = []
  for mix in sorted(set(mixes[rows])):
    same = rows & (mixes == mix)
    peak = bandwidth[same].max()
    top = same & (bandwidth >= 0.98 * peak)
    if (latency_s[top] < _STRETCH_AT_WALL * idle_s).all():
      continue
    found.append((np.median(share[top]), peak))
  points = np.array(sorted(found)).reshape(-1, 2)
  return points[:, 0], points[:, 1]


def _choose(tier: Tier, share: np.ndarray, peak_Bps: np.ndarray) -> Choice:
  deviation = {law: _deviation(law, share, peak_Bps) for law in LAWS}
  best = min(deviation, key=deviation.get)
  own, least = deviation[tier.duplex], max(deviation[best], 1e-6)
  # RSS is the square of the deviation, so that n / 2 of its logarithm is n.
  odds = len(share) * np.log(own / least)
  is_clear = odds > _LOG_ODDS and own - least > _LEAST_GAIN
  return Choice(
    tier.name, tier.duplex, best if is_clear else tier.duplex, deviation,
    len(share),
  )  # fmt: skip


def _deviation(law: Duplex, share: np.ndarray, peak_Bps: np.ndarray) -> float:
  """How far the best capacities of a law are from the points [1]."""
  from scipy import optimize

  top_Bps = peak_Bps.max()
  log_peak = np.log(peak_Bps / top_Bps)

  def residual(theta: np.ndarray) -> np.ndarray:
    others = theta[1:] if law is Duplex.HALF else np.exp(theta[1:])
    seconds = LAWS[law](1.0 - share, share, np.exp(theta[0]), *others)
    return -np.log(np.asarray(seconds)) - log_peak

  start = np.zeros(3) if law is Duplex.HALF else np.array([0.0, 0.0, 0.7])
  with jax.enable_x64(True):
    found = optimize.least_squares(residual, start, bounds=(-_WIDEST, _WIDEST))
  return float(np.sqrt(np.mean(found.fun**2)))
