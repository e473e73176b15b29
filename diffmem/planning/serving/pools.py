"""What a fleet does under a rate of requests: latencies, energy, limits.

Requests arrive at random (Poisson) and go to the least loaded worker, so that
a pool is one queue (`queueing.py`). Two ways to serve:

* *aggregated* (`Mixed`): every worker decodes, and carries a piece of a prompt
  in a step where there is one (chunked prefill; Agrawal et al.,
  "Sarathi-Serve", OSDI 2024). With x prompts per second and rank, each of k
  pieces, d and m the times of a step without and with a piece, the mean step

      t = d + f (m - d),   f = x k t,   so   t = d / (1 - x k (m - d)).

  An answer of n tokens meets about x n t prompts, a Poisson number; more of
  them make it longer, so that it meets more. To first order, at a percentile
  with normal quantile z, the share of its steps that carry a piece is
  f + z sqrt(k f / n) / (1 - x k (m - d)), one at most.
* *disaggregated* (`Split`): one pool prefills, one decodes, and keys and values
  go over the network in between (Zhong et al., "DistServe", OSDI 2024).

Time to the first token is the wait for a prompt's turn, the wait for a place
in a decode batch, the running step's end, the prompt itself and its transfer;
percentiles of the waits are added, which is on the safe side where several
queues are long. Decode steps are taken as full: latencies hold at any
load below. A pool of which either queue is unstable has infinite latencies.
Energy is that of full steps, as many as the tokens need, and what all devices
draw at rest; batches that are not full need up to as much more for the weights
as they lack.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from diffmem.planning.serving import queueing

_One = Float[np.ndarray, ' plan'] | float
_ROUNDS = 50
# Waits are looked at up to this share of what a pool could do.
_CLOSE = 1.0 - 1e-9


class Demand(NamedTuple):
  """What is asked of the fleet; limits are infinite where there are none.

  Attributes:
    output_len: tokens of an answer.
    ttft_s: time to the first token, at the percentile [s].
    tpot_s: time per further token, at the percentile [s].
    percentile: share of the requests that keep the limits.
    variation: squared coefficient of variation of prompts' and answers' times.
    most_use: share of what a pool can do that may be asked of it.
  """

  output_len: int
  ttft_s: float
  tpot_s: float
  percentile: float
  variation: float = 0.0
  most_use: float = 1.0

  @property
  def further(self) -> float:
    """Tokens of an answer after the first."""
    return max(self.output_len - 1.0, 1.0)


class Point(NamedTuple):
  """A fleet under a rate of requests, arrays [plan].

  Attributes:
    ttft_s: at the percentile [s].
    tpot_s: at the percentile [s].
    queue_s: of the former, waits [s].
    energy_per_token_J: of all devices, per token of the answers [J].
    prefill_use: share of its time that what prefills is busy.
    decode_use: share of the places of decode batches that are taken.
  """

  ttft_s: _One
  tpot_s: _One
  queue_s: _One
  energy_per_token_J: _One
  prefill_use: _One
  decode_use: _One


class Mixed(NamedTuple):
  """Aggregated workers, arrays [plan].

  Attributes:
    chips: of a worker.
    ranks: of a worker that work on prompts of their own.
    slots: sequences of a worker.
    step_s: decode step [s].
    mixed_s: decode step with a piece of a prompt on every rank [s].
    pieces: of a prompt; need not be whole.
    step_J: of a worker, beyond what it draws at rest [J].
    mixed_J: of a step with pieces, likewise [J].
    rest_W: that a worker draws at rest [W].
  """

  chips: _One
  ranks: _One
  slots: _One
  step_s: _One
  mixed_s: _One
  pieces: _One
  step_J: _One
  mixed_J: _One
  rest_W: _One

  def select(self, index) -> 'Mixed':
    """Some of them."""
    return Mixed(*(x[index] for x in self))


class Split(NamedTuple):
  """Workers that prefill and workers that decode, arrays [plan].

  Attributes:
    prefill_chips: of a worker that prefills.
    ranks: of it that work on prompts of their own.
    prompts: that each of them takes at once.
    pass_s: time of these [s].
    pass_J: of the worker, beyond what it draws at rest [J].
    rest_W: that a device draws at rest [W].
    decode_chips: of a worker that decodes.
    receivers: ranks of it with sequences of their own.
    slots: sequences of it.
    step_s: decode step [s].
    step_J: of the worker, beyond what it draws at rest [J].
    transfer_s: of a prompt's keys and values [s].
  """

  prefill_chips: _One
  ranks: _One
  prompts: _One
  pass_s: _One
  pass_J: _One
  rest_W: _One
  decode_chips: _One
  receivers: _One
  slots: _One
  step_s: _One
  step_J: _One
  transfer_s: _One

  def select(self, index) -> 'Split':
    """Some of them."""
    return Split(*(x[index] for x in self))


def mixed_point(
  plan: Mixed, workers: _One, rate_per_s: _One, demand: Demand, waits=True
) -> Point:
  """Aggregated workers under a rate of requests.

  Args:
    plan: the workers.
    workers: how many of them.
    rate_per_s: requests [1/s].
    demand: lengths, percentile.
    waits: False for no queues, only what the workers can do.
  """
  further, p = demand.further, demand.percentile
  extra_s = np.maximum(plan.mixed_s - plan.step_s, 0.0)
  pieces_per_s = rate_per_s / (workers * plan.ranks) * plan.pieces
  stretch = 1.0 - pieces_per_s * extra_s
  with np.errstate(invalid='ignore', divide='ignore', over='ignore'):
    mean_s = np.where(stretch > 0.0, plan.step_s / stretch, np.inf)
    share = np.minimum(pieces_per_s * mean_s, 1.0)
    spread = special.ndtri(p) * np.sqrt(plan.pieces * share / further)
    spread = np.where(stretch > 0.0, spread / stretch, 0.0)
    met = np.clip(share + (spread if waits else 0.0), 0.0, 1.0)
    tpot_s = np.where(stretch > 0.0, plan.step_s + met * extra_s, np.inf)
    prompt_s = plan.pieces * plan.mixed_s
    stay_s = further * mean_s + prompt_s
    busy = rate_per_s * prompt_s / (workers * plan.ranks)
    taken = rate_per_s * stay_s / (workers * plan.slots)
    queue_s = _queue_s(
      [(workers * plan.ranks, prompt_s), (workers * plan.slots, stay_s)],
      rate_per_s, demand, waits,
    )  # fmt: skip
    queue_s = queue_s + (p * mean_s if waits else 0.0)
    steps = (further + plan.pieces) / plan.slots
    pieces_J = plan.pieces * np.maximum(plan.mixed_J - plan.step_J, 0.0)
    energy_J = steps * plan.step_J + pieces_J / plan.ranks
    energy_J = energy_J + workers * plan.rest_W / rate_per_s
    energy_J = energy_J / demand.output_len
  return Point(queue_s + prompt_s, tpot_s, queue_s, energy_J, busy, taken)


def split_point(
  plan: Split,
  prefill_workers: _One,
  decode_workers: _One,
  rate_per_s: _One,
  demand: Demand,
  waits: bool = True,
) -> Point:
  """Two pools under a rate of requests; arguments as for `mixed_point`."""
  n_p, n_d = prefill_workers, decode_workers
  served_s = plan.pass_s / plan.prompts
  stay_s = demand.further * plan.step_s + plan.transfer_s
  with np.errstate(invalid='ignore', divide='ignore', over='ignore'):
    busy = rate_per_s * served_s / (n_p * plan.ranks)
    taken = rate_per_s * stay_s / (n_d * plan.slots)
    senders = np.minimum(n_p * plan.ranks, n_d * plan.receivers)
    queue_s = _queue_s(
      [(n_p * plan.ranks, served_s), (n_d * plan.slots, stay_s),
       (senders, plan.transfer_s)],
      rate_per_s, demand, waits,
    )  # fmt: skip
    energy_J = plan.pass_J / (plan.ranks * plan.prompts)
    energy_J = energy_J + demand.further * plan.step_J / plan.slots
    chips = n_p * plan.prefill_chips + n_d * plan.decode_chips
    energy_J = energy_J + chips * plan.rest_W / rate_per_s
    energy_J = energy_J / demand.output_len
  ttft_s = queue_s + plan.pass_s + plan.transfer_s
  tpot_s = plan.step_s + np.zeros_like(ttft_s)
  return Point(ttft_s, tpot_s, queue_s, energy_J, busy, taken)


def _queue_s(queues, rate_per_s, demand: Demand, waits: bool):
  """Waits in front of several queues, each at the percentile [s]."""
  total_s = 0.0
  for servers, served_s in queues:
    if waits:
      found = queueing.wait(servers, rate_per_s, served_s, demand.variation)
      total_s = total_s + found.at(demand.percentile)
    else:
      full = rate_per_s * served_s >= servers
      total_s = total_s + np.where(full, np.inf, 0.0)
  return total_s


def keeps(point: Point, demand: Demand) -> np.ndarray:
  """Whether the limits are kept."""
  with np.errstate(invalid='ignore'):
    within = (point.ttft_s <= demand.ttft_s) & (point.tpot_s <= demand.tpot_s)
    within &= point.prefill_use <= demand.most_use
    within &= point.decode_use <= demand.most_use
  return within & np.isfinite(point.ttft_s) & np.isfinite(point.tpot_s)


def most_rate(point_at, ceiling_per_s: np.ndarray, demand: Demand):
  """The highest rate at which the limits are kept, by bisection [1/s].

  Latencies grow with the rate, so there is one.

  Args:
    point_at: rates [plan] -> `Point`.
    ceiling_per_s: rates that are too high [plan].
    demand: the limits.

  Returns:
    rates at which the limits are kept; 0 where none is [plan].
  """
  low = np.zeros_like(ceiling_per_s)
  high = _CLOSE * ceiling_per_s
  for _ in range(_ROUNDS):
    middle = 0.5 * (low + high)
    good = keeps(point_at(np.maximum(middle, 1e-300)), demand)
    low, high = np.where(good, middle, low), np.where(good, high, middle)
    if np.all(high - low <= 1e-6 * high):
      break
  return low


def mixed_ceiling_per_s(plan: Mixed, workers: _One) -> np.ndarray:
  """A rate that aggregated workers cannot exceed, prompts alone [1/s]."""
  with np.errstate(invalid='ignore', divide='ignore'):
    found = workers * plan.ranks / (plan.pieces * plan.mixed_s)
  return np.where(np.isfinite(found), found, 0.0)


def split_ceiling_per_s(
  plan: Split, prefill_workers: _One, decode_workers: _One, demand: Demand
) -> np.ndarray:
  """A rate that two pools cannot exceed [1/s]."""
  stay_s = demand.further * plan.step_s + plan.transfer_s
  prefill = prefill_workers * plan.ranks * plan.prompts / plan.pass_s
  return np.minimum(prefill, decode_workers * plan.slots / stay_s)
