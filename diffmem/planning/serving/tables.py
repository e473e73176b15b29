"""Steps of every worker and batch, as candidates for pools.

All decode batches are valued first; those that have no room, or cannot keep
the limit of a further token, are left out of the mixed steps.
"""

from typing import NamedTuple

import numpy as np

from diffmem.planning.serving import space as space_lib
from diffmem.planning.serving.pools import Demand, Mixed, Split
from diffmem.planning.serving.space import Job, Rows, Steps, Workers
from diffmem.system import System
from diffmem.workloads import caches as caches_lib
from diffmem.workloads.prefill import Prompt


class Factors(NamedTuple):
  """Measured over predicted times.

  Attributes:
    prefill: of prompts.
    decode: of decode steps.
  """

  prefill: float = 1.0
  decode: float = 1.0


PLAIN = Factors()


class Tables(NamedTuple):
  """Everything that pools are made of.

  Attributes:
    system: the machine.
    job: what is served.
    workers: kinds of workers.
    pieces: of prompts, with their tokens; the last is a whole prompt.
    decode: rows of decode steps.
    decode_steps: their times.
    prefill: rows of prompts.
    prefill_steps: their times.
    mixed: rows of decode steps with a piece of a prompt on every rank.
    mixed_steps: their times.
    mixed_of: decode row of each mixed row.
    static_W: of one device [W].
    link_Bps: of the network between pools [B/s]; 0 without one.
    link_s: its latency [s].
    lacking_B: bytes of a device that the smallest step has no room for [B].
    factors: measured over predicted times, in all of these.
  """

  system: System
  job: Job
  workers: Workers
  pieces: list[tuple[int, Prompt]]
  decode: Rows
  decode_steps: Steps
  prefill: Rows
  prefill_steps: Steps
  mixed: Rows
  mixed_steps: Steps
  mixed_of: np.ndarray
  static_W: float
  link_Bps: float
  link_s: float
  lacking_B: float
  factors: Factors

  @property
  def configurations(self) -> int:
    """Steps that were valued."""
    tables = (self.decode, self.prefill, self.mixed)
    return sum(len(t.worker) for t in tables)


def tables_of(
  system: System,
  job: Job,
  chips: int,
  demand: Demand,
  modes: tuple[str, ...],
  factors: Factors = PLAIN,
  on_progress=None,
) -> Tables:
  """Values every step that a fleet of at most so many chips can take."""
  workers = space_lib.workers_of(job.model, job.machine, chips)
  pieces = space_lib.pieces_of(job)
  whole = len(pieces) - 1

  def value(rows):
    return space_lib.evaluate(system, job, workers, pieces, rows, on_progress)

  each, sizes = _product(len(workers), space_lib.batch_sizes())
  decode = Rows(
    each, sizes * workers.attention_ranks[each], np.full(len(each), whole),
    np.zeros(len(each)),
  )  # fmt: skip
  steps = scaled(value(decode), factors.decode)
  lacking_B = float(steps.overflow_B.min())
  kept = np.flatnonzero(steps.least_s <= demand.tpot_s)
  kept = kept[np.isfinite(steps.least_s[kept])]
  decode, steps = decode.select(kept), steps.select(kept)
  none = np.zeros(0, int)
  prefill, mixed = decode.select(none), decode.select(none)
  prefill_steps = mixed_steps = steps.select(none)
  mixed_of = none
  if 'disaggregated' in modes:
    each, prompts = _product(len(workers), np.array(space_lib.PROMPTS))
    prefill = Rows(
      each, np.zeros(len(each)), np.full(len(each), whole),
      prompts * workers.ranks[each],
    )  # fmt: skip
    prefill_steps = scaled(value(prefill), factors.prefill)
    kept = np.flatnonzero(prefill_steps.least_s <= demand.ttft_s)
    kept = kept[np.isfinite(prefill_steps.least_s[kept])]
    prefill = prefill.select(kept)
    prefill_steps = prefill_steps.select(kept)
  if 'aggregated' in modes and len(decode.worker):
    mixed_of, piece = _product(len(decode.worker), np.arange(len(pieces)))
    mixed = decode.select(mixed_of)._replace(piece=piece)
    mixed = mixed._replace(prompts=workers.ranks[mixed.worker])
    mixed_steps = _scaled_mixed(value(mixed), steps.select(mixed_of), factors)
    kept = np.flatnonzero(np.isfinite(mixed_steps.time_s))
    mixed, mixed_of = mixed.select(kept), mixed_of[kept]
    mixed_steps = mixed_steps.select(kept)
  link_Bps, link_s = _link(system, job, chips)
  return Tables(
    system, job, workers, pieces, decode, steps, prefill, prefill_steps,
    mixed, mixed_steps, mixed_of, float(system.static_W), link_Bps, link_s,
    lacking_B, factors,
  )  # fmt: skip


def scaled(steps: Steps, factor: float) -> Steps:
  """Steps that take so many times longer."""
  return steps._replace(
    time_s=factor * steps.time_s, least_s=factor * steps.least_s
  )


def _scaled_mixed(mixed: Steps, decode: Steps, factors: Factors) -> Steps:
  """The decode step by its factor, what a piece adds by that of prompts."""

  def longer(whole_s, own_s):
    # Decode steps are scaled already.
    added_s = np.maximum(whole_s - own_s / factors.decode, 0.0)
    return own_s + factors.prefill * added_s

  with np.errstate(invalid='ignore'):
    return mixed._replace(
      time_s=longer(mixed.time_s, decode.time_s),
      least_s=longer(mixed.least_s, decode.least_s),
    )


def _product(count: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Every index below `count` with every value."""
  return np.repeat(np.arange(count), len(values)), np.tile(values, count)


def _link(system: System, job: Job, chips: int) -> tuple[float, float]:
  """Bandwidth and latency of the innermost level that joins all chips."""
  for name, span in zip(job.machine.levels, job.machine.spans, strict=True):
    if span >= chips:
      tier = system.tier(name)
      return float(tier.read_Bps), float(tier.latency_s)
  return 0.0, 0.0


def mixed_of(tables: Tables, least: bool = False) -> Mixed:
  """Aggregated workers, one for each mixed row.

  Args:
    tables: the steps.
    least: whether with times that no placement can better.
  """
  t, worker = tables, tables.mixed.worker
  tokens = np.array([float(n) for n, _ in t.pieces])[t.mixed.piece]
  decode = t.decode_steps.select(t.mixed_of)
  return Mixed(
    chips=t.workers.chips[worker],
    ranks=t.workers.ranks[worker],
    slots=t.mixed.sequences,
    step_s=decode.least_s if least else decode.time_s,
    mixed_s=t.mixed_steps.least_s if least else t.mixed_steps.time_s,
    pieces=t.job.new / tokens,
    step_J=decode.least_J if least else decode.energy_J,
    mixed_J=t.mixed_steps.least_J if least else t.mixed_steps.energy_J,
    rest_W=t.workers.chips[worker] * t.static_W,
  )


def split_of(
  tables: Tables, prefill: np.ndarray, decode: np.ndarray, least: bool = False
) -> Split:
  """Pairs of a prefill row and a decode row.

  Args:
    tables: the steps.
    prefill: rows [plan].
    decode: rows [plan].
    least: whether with times that no placement can better.
  """
  t = tables
  sender, receiver = t.prefill.worker[prefill], t.decode.worker[decode]
  before, after = t.prefill_steps, t.decode_steps
  chips = t.workers.chips[sender]
  return Split(
    prefill_chips=chips,
    ranks=t.workers.ranks[sender],
    prompts=t.prefill.prompts[prefill] / t.workers.ranks[sender],
    pass_s=(before.least_s if least else before.time_s)[prefill],
    pass_J=(before.least_J if least else before.energy_J)[prefill],
    rest_W=np.full(len(chips), t.static_W),
    decode_chips=t.workers.chips[receiver],
    receivers=t.workers.attention_ranks[receiver],
    slots=t.decode.sequences[decode],
    step_s=(after.least_s if least else after.time_s)[decode],
    step_J=(after.least_J if least else after.energy_J)[decode],
    transfer_s=transfer_s(tables, sender, receiver),
  )


def transfer_s(
  tables: Tables, sender: np.ndarray, receiver: np.ndarray
) -> np.ndarray:
  """Time of a prompt's keys and values between two workers [s].

  Every device that keeps a part receives it; the tensor ranks of the sender
  share the sending. After the prompt, as one transfer: layers that are sent
  while the next ones are computed would hide some of it.
  """
  choices = tables.workers.choices
  caches = caches_lib.prompt_caches(tables.job.model, tables.job.input_len, 0.0)
  shares = caches_lib.shares(tables.job.model, tables.workers.at(receiver))
  own = choices['attention_by'][receiver] > 0
  received_B = sum(
    cache.kept_B / np.where(own, 1.0, np.asarray(shares[group], float))
    for group, cache in caches.items()
  )
  receivers = np.where(own, 1.0, choices['tensor'][receiver])
  sent_B = received_B * receivers / choices['tensor'][sender]
  busiest_B = np.maximum(received_B, sent_B)
  if not tables.link_Bps:
    return np.full(len(busiest_B), np.inf)
  return tables.link_s + busiest_B / tables.link_Bps
