"""What a planner answers; `to_json` is the contract of `plan --json`."""

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffmem.planning.decisions.decision import Decision
from diffmem.planning.decisions.margins import MemoryMargin, Overtaking

if TYPE_CHECKING:
  from diffmem.planning.export import JaxPlan


class PlanOutcome(enum.StrEnum):
  """How a search ended."""

  PLANNED = 'planned'
  INTERRUPTED = 'interrupted'  # plans, but not of the whole space
  NO_MEMORY = 'no_memory'  # legal meshes, but nothing fits
  NO_MESH = 'no_mesh'  # no legal mesh of so many chips
  NO_NETWORK = 'no_network'  # no network level reaches so many chips


@dataclasses.dataclass(frozen=True)
class Breakdown:
  """Where a step's time goes, on one device.

  `operations_s`, and `bubble_s`, add up to the step time; the other tables
  say what each resource alone would need, so they overlap.

  Attributes:
    operations_s: time of each operation, its overlap included [s].
    bubble_s: time that passes idle in the pipeline [s].
    launch_s: framework launches, part of the operations [s].
    tiers_s: time that each tier alone would need [s].
    engines_s: time that each engine alone would need [s].
  """

  operations_s: Mapping[str, float]
  bubble_s: float
  launch_s: float
  tiers_s: Mapping[str, float]
  engines_s: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Plan:
  """One plan.

  Attributes:
    mesh: ranks of each axis, inner first, and `interleave`.
    micro_batch: sequences of a micro-batch on a data rank.
    recompute: 'none', 'selective' or 'full'; None for decode.
    sharding: how the tensor ranks share each kind of layer: 'tensor',
      'sequence' or 'expert' (`diffmem.workloads.choices.SHARDING`).
    number_format: of the matrix products.
    placement: group -> memory -> share.
    predicted: `step_time_s`, `tokens_per_s`, `energy_per_token_J`,
      `cost_per_token_usd` (None without a price), `memory_bytes` by memory,
      `group_memory_bytes` by memory and tensor group, `device_power_W`,
      `model_FLOPps_per_chip` and its share of the engine's rate,
      `engine_use`.
    interval90: 5 % and 95 % quantile of the first four over the fit's
      ensemble; None where nothing was fitted.
    certified_gap: no placement of this mesh in fractions is better than the
      fractional optimum by more than this share; None where rounding failed.
    rounding_loss: what whole pieces cost against that optimum.
    breakdown: where the time goes.
  """

  mesh: Mapping[str, int]
  micro_batch: int
  recompute: str | None
  sharding: Mapping[str, str]
  number_format: str
  placement: Mapping[str, Mapping[str, float]]
  predicted: Mapping[str, Any]
  interval90: Mapping[str, tuple[float, float] | None] | None
  certified_gap: float
  rounding_loss: float | None
  breakdown: Breakdown

  def to_jax(
    self,
    devices: Sequence | None = None,
    rules: Sequence = (),
    memory_kinds: Mapping[str, str] | None = None,
  ) -> 'JaxPlan':
    """Mesh, shardings and memory kinds for a JAX program.

    Args:
      devices: as many as the mesh has; None for jax's first ones.
      rules: of paths, tried before the default ones (`export.rules`).
      memory_kinds: memory -> kind of jax; None for what jax knows.

    Raises:
      PlanError: what a JAX program cannot be told, with what to change.
    """
    from diffmem.planning import export  # which imports this module

    return export.to_jax(self, devices, rules, memory_kinds)


@dataclasses.dataclass(frozen=True)
class Search:
  """What was searched.

  Attributes:
    configurations: legal meshes x micro-batches x recompute policies.
    seconds: wall time of the whole call [s].
    feasible: configurations that fit.
    placed: configurations whose placement was solved by cutting planes.
    certified_gap: no configuration of the space, in any placement, is better
      than the best fractional one by more than this share.
    bound: of the objective, in its own unit: none in fractions is better.
  """

  configurations: int
  seconds: float
  feasible: int = 0
  placed: int = 0
  certified_gap: float | None = None
  bound: float | None = None


@dataclasses.dataclass(frozen=True)
class PlanResult:
  """The best plans, or why there are none.

  Attributes:
    outcome: how the search ended.
    help: one sentence for a person: what to change where it failed.
    request: what was asked.
    plans: the best first.
    elasticities: d ln(minimised sum) / d ln(parameter) of the best plan, by
      the gradient; for `bend_...` per unit. The capacity of a memory comes from
      its multiplier.
    elasticities_checked: the same by 1 % up and down, with the placement solved
      again for capacities and the strongest parameters.
    shadow_prices: memory -> gain of the objective, in its unit (tokens/s are
      gained, everything else saved), per additional byte on every device.
    spare_bytes: memory -> bytes of a device that the best plan leaves free.
    decision: which plan to take under the fit's ensemble, how sure that is,
      and what to measure (`planning.decisions`).
    overtakings: moves of single parameters that let another plan be first,
      the nearest first (`planning.decisions`).
    memory_margins: for each memory, over which capacities its price holds.
    search: what was searched.
    limit: where there is no plan, which limit binds and by how much.
  """

  outcome: PlanOutcome
  help: str
  request: Mapping[str, Any]
  plans: tuple[Plan, ...] = ()
  elasticities: Mapping[str, float | None] | None = None
  elasticities_checked: Mapping[str, float | None] | None = None
  shadow_prices: Mapping[str, float] | None = None
  spare_bytes: Mapping[str, float] | None = None
  decision: Decision | None = None
  overtakings: tuple[Overtaking, ...] = ()
  memory_margins: tuple[MemoryMargin, ...] = ()
  search: Search | None = None
  limit: Mapping[str, Any] | None = None

  def to_dict(self) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers."""
    return dataclasses.asdict(self)

  def to_json(self, indent: int | None = 2) -> str:
    """The text of `plan --json`; what is not computed is null."""
    return json.dumps(self.to_dict(), indent=indent, allow_nan=False)
