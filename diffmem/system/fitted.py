"""A system with what is known about each of its parameters."""

import dataclasses
import enum
from collections.abc import Mapping

import jax

from diffmem.system.residual import Residual
from diffmem.system.system import System


class Status(enum.StrEnum):
  """How a parameter came by its value."""

  FITTED = 'fitted'  # the traces decide it
  UNIDENTIFIED = 'unidentified'  # in the traces, but the prior decides it
  PRIOR = 'prior'  # no trace touches it
  UNUSED = 'unused'  # no law of this system reads it


@dataclasses.dataclass(frozen=True)
class Knowledge:
  """What is known about one parameter.

  Attributes:
    status: how it came by its value.
    prior: physical value of the prior's median, SI.
    prior_sd: the prior's standard deviation, in leaf (log) units.
    stderr: standard error after the fit, in leaf (log) units.
    source: where the prior's value comes from.
    measure: what to measure to learn it; '' when it is known.
  """

  status: Status
  prior: float
  prior_sd: float
  stderr: float
  source: str = ''
  measure: str = ''


@dataclasses.dataclass(frozen=True)
class FittedSystem:
  """A system, its ensemble and the knowledge behind each parameter.

  Attributes:
    system: the best estimate.
    knowledge: by full parameter name.
    ensemble: the same structure with a leading axis [draw] on every leaf, for
      intervals; None when nothing was fitted.
    scatter: relative deviation of single observations around the model, by
      op (`op|cliff` where two tiers share the work); an interval for an
      observation is wider than the ensemble by this much.
    residuals: learned corrections, by key such as 'gemm.time_s'.
  """

  system: System
  knowledge: Mapping[str, Knowledge]
  ensemble: System | None = None
  scatter: Mapping[str, float] = dataclasses.field(default_factory=dict)
  residuals: Mapping[str, Residual] = dataclasses.field(default_factory=dict)

  @property
  def draws(self) -> int:
    """Size of the ensemble."""
    if self.ensemble is None:
      return 0
    return jax.tree.leaves(self.ensemble)[0].shape[0]

  def named(self, *statuses: Status) -> list[str]:
    """Full names of the parameters with one of these statuses."""
    return [n for n, k in self.knowledge.items() if k.status in statuses]
