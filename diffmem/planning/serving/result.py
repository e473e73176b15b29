"""What the serving planner answers; `to_json` is the contract of its JSON."""

import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Any


class ServingOutcome(enum.StrEnum):
  """How a search ended."""

  PLANNED = 'planned'
  NO_MEMORY = 'no_memory'  # not one sequence fits on so many chips
  TOO_SLOW = 'too_slow'  # no fleet keeps the limits, even without load
  TOO_MUCH = 'too_much'  # the limits can be kept, but not at that rate


@dataclasses.dataclass(frozen=True)
class Pool:
  """Equal workers.

  Attributes:
    workers: how many.
    chips: of one worker.
    mesh: ranks of each axis of a worker.
    sharding: how the tensor ranks share each kind of layer.
    sequences: that a worker decodes at once; 0 where it only prefills.
    prompts: that a worker prefills at once.
    piece_tokens: tokens of a prompt that one step takes, of each prompt.
    step_time_s: of a decode step, or of a pass over prompts [s].
    mixed_step_time_s: of a decode step with pieces of prompts; None where
      there are none [s].
    placement: group -> memory -> share, in the fullest step.
    memory_bytes: memory -> bytes of a device in that step.
    certified_gap: no placement in fractions makes that step quicker by more
      than this share.
  """

  workers: int
  chips: int
  mesh: Mapping[str, int]
  sharding: Mapping[str, str]
  sequences: int
  prompts: int
  piece_tokens: int
  step_time_s: float
  mixed_step_time_s: float | None
  placement: Mapping[str, Mapping[str, float]]
  memory_bytes: Mapping[str, float]
  certified_gap: float


@dataclasses.dataclass(frozen=True)
class ServingPlan:
  """One fleet.

  Attributes:
    mode: 'aggregated' (every worker prefills and decodes) or 'disaggregated'.
    pools: 'serve', or 'prefill' and 'decode' -> its workers.
    predicted: `requests_per_s`, `tokens_per_s` (of answers), `ttft_s` and
      `tpot_s` at the percentile, `queue_s` and `transfer_s` (parts of
      `ttft_s`), `energy_per_token_J`, `cost_per_token_usd` (None without a
      price), `chips`, `prefill_use` and `decode_use` (shares of what the pools
      could do).
  """

  mode: str
  pools: Mapping[str, Pool]
  predicted: Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class ServingSearch:
  """What was searched.

  Attributes:
    workers: kinds of workers.
    steps: of a worker and a batch, that were valued.
    fleets: that were valued with their queues; all others cannot be better.
    seconds: wall time of the whole call [s].
    ceiling: of the objective: no fleet of the space betters it, with any
      placement, nor without queues (see `ceiling_unit`).
    ceiling_unit: 'requests/s', 'requests/s/chip', 'chips' or 'J/token'.
    gap: how far the best plan is from the ceiling, as a share of it.
  """

  workers: int
  steps: int
  fleets: int
  seconds: float
  ceiling: float | None = None
  ceiling_unit: str = ''
  gap: float | None = None


@dataclasses.dataclass(frozen=True)
class ServingResult:
  """The best fleets, or why there are none.

  Attributes:
    outcome: how the search ended.
    help: one sentence for a person: what to change where it failed.
    request: what was asked.
    plans: the best first.
    looser: limit -> gain of the best plan if that limit were a tenth looser,
      as a share (requests per second or their inverse cost; chips saved where
      a rate was asked); a limit without gain does not bind.
    search: what was searched.
    limit: where there is no plan, what is reachable: `ttft_s` with the other
      limit kept, `tpot_s` likewise, `requests_per_s`.
  """

  outcome: ServingOutcome
  help: str
  request: Mapping[str, Any]
  plans: tuple[ServingPlan, ...] = ()
  looser: Mapping[str, float] | None = None
  search: ServingSearch | None = None
  limit: Mapping[str, Any] | None = None

  @property
  def binds(self) -> tuple[str, ...]:
    """Limits that the best plan would use if they were looser."""
    return tuple(n for n, gain in (self.looser or {}).items() if gain > 1e-3)

  def to_dict(self) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers."""
    return {**dataclasses.asdict(self), 'binds': list(self.binds)}

  def to_json(self, indent: int | None = 2) -> str:
    """JSON; what is not computed is null."""
    return json.dumps(self.to_dict(), indent=indent, allow_nan=False)


def serving_table(result: ServingResult) -> list[list[str]]:
  """Rows for printing, the head first."""
  head = [
    'mode', 'chips', 'pools', 'requests/s', 'tokens/s', 'TTFT', 'TPOT',
    'J/token', '$/Mtoken',
  ]  # fmt: skip
  rows = [head]
  for plan in result.plans:
    p = plan.predicted
    usd = p['cost_per_token_usd']
    rows.append([
      plan.mode, f'{p["chips"]:.0f}',
      ' + '.join(_pool_text(n, pool) for n, pool in plan.pools.items()),
      f'{p["requests_per_s"]:.3g}', f'{p["tokens_per_s"]:.4g}',
      f'{p["ttft_s"]:.3g} s', f'{1e3 * p["tpot_s"]:.3g} ms',
      f'{p["energy_per_token_J"]:.3g}',
      '' if usd is None else f'{1e6 * usd:.3g}',
    ])  # fmt: skip
  return rows


def _pool_text(name: str, pool: Pool) -> str:
  """Such as 'decode 4 x (tensor 8, 96 sequences, attention by sequence)'."""
  inside = [f'{axis} {ranks}' for axis, ranks in pool.mesh.items() if ranks > 1]
  inside = inside or ['1 chip']
  if pool.sequences:
    inside.append(f'{pool.sequences} sequences')
  if pool.prompts:
    inside.append(f'{pool.prompts} x {pool.piece_tokens} prompt tokens')
  inside += [
    f'{kind} by {how}' for kind, how in pool.sharding.items() if how != 'tensor'
  ]
  return f'{name} {pool.workers} x ({", ".join(inside)})'
