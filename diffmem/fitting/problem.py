"""A fit as a function of one parameter vector."""

import dataclasses
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from diffmem.cost import Cost, Demand, predict
from diffmem.fitting import loss, observe, optimise
from diffmem.system import System, from_leaves, leaves_by_name, to_numpy
from diffmem.traces import Traces

# No observation weighs more than one of this relative precision: the model
# itself is not better than that, whatever the repeats say.
SCALE_FLOOR = 0.005
# How far a rate may exceed the published peak, in the logarithm.
_PEAK_SD = 0.02
_POWER = ('W', 'J')


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Data:
  """The arrays of a fit; leaves, so that one compilation serves all data.

  Attributes:
    base: the prior's centre; the fit replaces some of its leaves.
    demand: one operation per row.
    which: observable of each equation [equation].
    row: row of each equation [equation].
    log_value: log of the observations [equation].
    scale: expected relative deviation of each [equation].
    weight: bootstrap weight of each, 1 for none [equation].
    prior: centre of the prior [parameter].
    prior_sd: its standard deviation [parameter].
    ceiling: whether the prior is a peak that nothing exceeds [parameter].
  """

  base: System
  demand: Demand
  which: Int[ArrayLike, '*start equation']
  row: Int[ArrayLike, '*start equation']
  log_value: Float[ArrayLike, '*start equation']
  scale: Float[ArrayLike, '*start equation']
  weight: Float[ArrayLike, '*start equation']
  prior: Float[ArrayLike, '*start parameter']
  prior_sd: Float[ArrayLike, '*start parameter']
  ceiling: Bool[ArrayLike, '*start parameter']


@dataclasses.dataclass(frozen=True)
class Problem:
  """What is fitted, and to what.

  Attributes:
    system: structure, and the values of everything that is not fitted.
    names: full names of the fitted parameters [parameter].
    observations: the equations.
    data: their arrays.
  """

  system: System
  names: tuple[str, ...]
  observations: observe.Observations
  data: Data

  def system_at(
    self, theta: Float[Array, ' parameter'], data: Data | None = None
  ) -> System:
    """The system with these values of the fitted leaves."""
    base = self.data.base if data is None else data.base
    leaves = leaves_by_name(base)
    leaves |= {name: theta[i] for i, name in enumerate(self.names)}
    return from_leaves(base, leaves)

  def log_ratio(
    self, theta: Float[Array, ' parameter'], data: Data
  ) -> Float[Array, ' equation']:
    """log(predicted / observed) of every equation."""
    return self.log_ratio_of(
      predict(self.system_at(theta, data), data.demand), data
    )

  def log_ratio_of(self, cost: Cost, data: Data) -> Float[Array, ' equation']:
    """The same from a cost that is there already."""
    return observe.predicted_log(cost, data.which, data.row) - data.log_value

  def terms(
    self, theta: Float[Array, ' parameter'], data: Data
  ) -> optimise.Terms:
    """The loss at theta: robust data terms, then square prior terms."""
    z = self.log_ratio(theta, data) / data.scale
    prior_z = (theta - data.prior) / data.prior_sd
    above = data.ceiling & (prior_z > 0)
    prior_z = jnp.where(
      above,
      (theta - data.prior) / jnp.minimum(_PEAK_SD, data.prior_sd),
      prior_z,
    )
    return optimise.Terms(
      z=jnp.concatenate([z, prior_z]),
      weight=jnp.concatenate([data.weight, jnp.ones_like(prior_z)]),
      delta=jnp.concatenate(
        [jnp.full_like(z, loss.DELTA), jnp.full_like(prior_z, jnp.inf)]
      ),
    )


def make_problem(
  system: System,
  prior_sd: Mapping[str, float],
  traces: Traces,
  ceilings: Collection[str] = (),
) -> Problem:
  """Sets up a fit.

  Args:
    system: the prior's centre; parts that no row touches are left out.
    prior_sd: by full name, in leaf units; a parameter that is missing or 0
      is not fitted.
    traces: the observations.
    ceilings: full names of parameters whose prior is a peak.
  """
  system = _touched(system, observe.demand_of(system, traces))
  active = system.active()
  if not (observed(traces, 'power_W') or observed(traces, 'energy_J')):
    # Times tell of energy through the power cap alone: too thin to fit it.
    active = {
      n for n in active if not system.infos()[n].unit.startswith(_POWER)
    }
  names = tuple(
    name
    for name in leaves_by_name(system)
    if name in active and prior_sd.get(name, 0.0) > 0
  )
  leaves = leaves_by_name(system)
  observations = observe.observations_of(traces)
  n = len(observations)
  data = Data(
    base=to_numpy(system),
    which=observations.which,
    row=observations.row,
    demand=observe.demand_of(system, traces),
    log_value=observations.log_value,
    scale=np.full(n, 0.05),
    weight=np.ones(n),
    prior=np.array([float(leaves[name]) for name in names]),
    prior_sd=np.array([prior_sd[name] for name in names]),
    ceiling=np.array([name in ceilings for name in names]),
  )
  return Problem(system, names, observations, data)


def observed(traces: Traces, name: str) -> bool:
  """Whether any row has this observation."""
  return bool(np.any(~np.isnan(traces.get(name))))


def _touched(system: System, demand: Demand) -> System:
  """The system without tiers and engines that no row uses.

  Caches stay with their home and links with what lies behind them.
  """
  moved = np.asarray(demand.read_B) + np.asarray(demand.write_B)
  is_used = dict(
    zip(system.tier_names, (moved > 0).any(0).tolist(), strict=True)
  )
  for tier in system.tiers:
    if tier.via:
      is_used[tier.via] |= is_used[tier.name]
  tiers = [t for t in system.tiers if is_used[t.home or t.name]]
  ran = np.asarray(demand.flops) + np.asarray(demand.starts)
  engines = [
    e for e, runs in zip(system.engines, (ran > 0).any(0), strict=True) if runs
  ]
  if not tiers:
    return system
  return dataclasses.replace(system, tiers=tuple(tiers), engines=tuple(engines))
