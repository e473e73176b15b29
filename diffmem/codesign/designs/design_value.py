"""What a mix costs on a design, and the slope of that to every parameter.

The mix's best plans give the slope to every leaf of the machine, and how many
accelerators and watts the traffic needs (`mix_optimum`); the design's own map
gives the rest by the chain rule:

    d value / dx = sum over leaves slope * d leaf / dx
                 + accelerators * d usd_per_s / dx + power * d usd_per_J / dx

What a budget of the fleet costs beyond its price stands in the same sum, as a
price on what an accelerator holds.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffmem.codesign.designs import bill, budgets, design
from diffmem.codesign.designs.budgets import Budget
from diffmem.codesign.mixes.mix_optimum import MixOptimum, Rates
from diffmem.system import System

Solve = Callable[[System, Rates], MixOptimum]


class Evaluation(NamedTuple):
  """A design's value.

  Attributes:
    value: what serving the mix costs [USD/s]; inf where it cannot be served.
    gradient: of value + prices . used, to the logarithms [parameter].
    used: of each budget of the fleet.
    detail: what the evaluator found besides, such as the best plans.
  """

  value: float
  gradient: Float[np.ndarray, ' parameter']
  used: Mapping[str, float]
  detail: Any = None


# From a point and the prices of the fleet's budgets, by name.
Evaluate = Callable[
  [Float[np.ndarray, ' parameter'], Mapping[str, float]], Evaluation
]


class DesignValue:
  """Evaluates designs by the best plans of a mix.

  Attributes:
    space: base machine and kinds of parts.
    fleet: budgets of the fleet.
  """

  def __init__(
    self,
    space: design.DesignSpace,
    solve: Solve,
    limits: tuple[Budget, ...] = (),
  ):
    """Prepares the chain rule.

    Args:
      space: base machine and kinds of parts.
      solve: best plans of the mix, such as `MixSolver.solve`.
      limits: budgets; those of the fleet are used.
    """
    self.space = space
    self.fleet = tuple(b for b in limits if b.is_of_fleet)
    self._solve = solve
    self._names = tuple(space.base.infos())

  def __call__(
    self, x: Float[np.ndarray, ' parameter'], prices: Mapping[str, float]
  ) -> Evaluation:
    """Value and gradient of a design.

    Args:
      x: logarithms of the parameters [parameter].
      prices: of the budgets of the fleet [USD/s per unit].
    """
    fleet = tuple(b.name for b in self.fleet)
    price = np.array([prices.get(name, 0.0) for name in fleet])
    system, rates, each = _parts(self.space, fleet, x)
    paid = Rates(
      float(rates.usd_per_s + price @ each),
      float(rates.usd_per_J + prices.get('site power', 0.0) * self._site),
    )
    found = self._solve(system, paid)
    if not np.isfinite(found.value):
      return Evaluation(np.inf, np.zeros_like(x), {}, found)
    slopes = np.array([found.slopes.get(n, 0.0) for n in self._names])
    with jax.enable_x64(True):
      gradient = jax.device_get(
        _gradient(self.space, fleet, x, slopes, found.accelerators, price)
      )
    used = found.accelerators * each
    used += self._is_power * self._site * found.power_W
    value = (
      float(rates.usd_per_s) * found.accelerators
      + float(rates.usd_per_J) * found.power_W
    )
    return Evaluation(
      value,
      np.asarray(gradient),
      dict(zip(fleet, used.tolist(), strict=True)),
      found,
    )

  @property
  def _site(self) -> float:
    return self.space.prices.facility.energy_over_device_energy.value

  @property
  def _is_power(self) -> np.ndarray:
    return np.array([float(b.name == 'site power') for b in self.fleet])


def _parts(space, fleet, x):
  """The machine, what it costs, and what each uses of the fleet's budgets."""
  each = [budgets.used_each(space, x, name) for name in fleet]
  return design.machine(space, x), bill.rates(space, x), np.array(each)


def _envelope(x, space, fleet, slopes, accelerators, price):
  system, rates, _ = _parts(space, (), x)
  leaves = jnp.stack([jnp.asarray(v) for v in jax.tree.leaves(system)])
  paid = rates.usd_per_s
  for i, name in enumerate(fleet):
    paid = paid + price[i] * budgets.used_each(space, x, name)
  return slopes @ leaves + accelerators * paid


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(space, fleet, x, slopes, accelerators, price):
  """Compiled once for each space."""
  return jax.grad(_envelope)(x, space, fleet, slopes, accelerators, price)
