"""Collectives as kernels: what a row of a trace sends at each network level.

Ranks fill nodes, and nodes the next level: `participants` ranks with
`ranks_per_node` in each domain of the innermost level. Bytes and dependent
messages are those of `diffmem.cost.collective`, with NCCL's flat rings for
all-reduce, all-gather and reduce-scatter. NCCL, its tests and this law count
`message_bytes` alike: the vector of an all-reduce or reduce-scatter, the whole
result of an all-gather, all that a rank sends in an all-to-all. An all-reduce
whose ranks read each other directly (vLLM, SGLang and TensorRT-LLM have one)
sends the same bytes in two messages, whatever the ranks: the two-stage kernel
of vLLM's custom_all_reduce.cuh. `variant` tells.

Expert parallelism (DeepEP, deepseek-ai/DeepEP README, 2025). A rank has
`num_tokens` tokens, each for `topk` of `num_experts` experts, which are spread
evenly over the ranks. A token is sent once to every *other rank* that holds
one of its experts,

    reached = (n - 1) (1 - C(E - E / n, k) / C(E, k)),

or, in the low-latency mode, once for every *expert* on another rank,
k (n - 1) / n. It travels with one byte for an element when dispatched (float8
with a float32 scale for 128 elements) and with two (bfloat16) when combined.
All sends are independent: no messages wait for each other. The kernel is
bound by what its `sms` keep in flight, 32 KiB each: 2048 resident threads with
16 bytes under way. Little's law in `predict` does the rest.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
from scipy import special

from diffmem.cost import collective
from diffmem.cost.kernels.work import Shape

# A float8 element and its share of a float32 scale; a bfloat16 element.
_DISPATCH_B, _COMBINE_B = 1.0 + 4.0 / 128.0, 2.0
# What a variant's name says when every pair of ranks exchanges directly.
_DIRECT = ('custom', 'trtllm')
_LOW_LATENCY = 'low_latency'
_IN_FLIGHT_PER_SM_B = 2048.0 * 16.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinkWork:
  """Collectives of one operation; arrays [op], totals of one device.

  Attributes:
    sent_B: bytes sent, and as many received, by network level [op, level] [B].
    messages: messages that wait one for the other [op, level]; 0 where none
      does.
    in_flight_B: bytes in flight [op, level] [B]; 0 where messages say it.
    read_B: bytes read from the device's memory [B].
    write_B: bytes written to it [B].
    occupancy: share of the compute units that move bytes, in (0, 1].
    features: what the residual may look at beside the cost: dimensionless or
      logarithms of the shape, by name.
    starts: kernels that run one after the other.
  """

  sent_B: np.ndarray
  messages: np.ndarray
  in_flight_B: np.ndarray
  read_B: np.ndarray
  write_B: np.ndarray
  occupancy: np.ndarray
  features: Mapping[str, np.ndarray]
  starts: np.ndarray | float = 1.0


@dataclasses.dataclass(frozen=True)
class LinkLaw:
  """One collective's law.

  Attributes:
    columns: columns of the trace schema that `work` needs; `ranks_per_node`,
      `sms` and `variant` are used where they are known.
    work: (shape, spans of the network levels, compute units) -> `LinkWork`.
  """

  columns: tuple[str, ...]
  work: Callable[[Shape, np.ndarray, int], LinkWork]


def ranks_at(
  participants: np.ndarray, ranks_per_node: np.ndarray | None, spans: np.ndarray
) -> np.ndarray:
  """Ranks of a group within one domain of each level [op, level].

  Args:
    participants: ranks of the group [op].
    ranks_per_node: of them within one domain of the innermost level [op];
      None or NaN where all that fit are.
    spans: devices within a domain of each level, inner first [level].
  """
  spans = np.asarray(spans, float)
  ranks = np.asarray(participants, float)[:, None]
  filled = np.full_like(ranks, spans[0])
  if ranks_per_node is not None:
    given = np.asarray(ranks_per_node, float)[:, None]
    filled = np.where(np.isnan(given), filled, np.minimum(given, filled))
  within = np.clip(spans * (filled / spans[0]), 1.0, ranks)
  # Whatever lies beyond the last level is reached over it.
  within[:, -1] = ranks[:, 0]
  return within


def _collective(traffic_of, is_reducible: bool = False):
  """The law of one of the collectives of `diffmem.cost.collective`."""

  def work(shape: Shape, spans: np.ndarray, units: int) -> LinkWork:
    payload_B = np.asarray(shape['message_bytes'], float)
    ranks = ranks_at(shape['participants'], shape.get('ranks_per_node'), spans)
    traffic = traffic_of(payload_B, ranks)
    sent_B = np.asarray(traffic.sent_B, float)
    messages = np.asarray(traffic.messages, float)
    is_direct = np.zeros(len(payload_B))
    if is_reducible and 'variant' in shape:
      is_direct = _says(shape['variant'], _DIRECT)
      messages = np.where(
        (is_direct > 0)[:, None], np.minimum(messages, 2.0), messages
      )
    features = _features(payload_B, sent_B, messages, ranks)
    return LinkWork(
      sent_B=sent_B,
      messages=messages,
      in_flight_B=np.zeros_like(messages),
      read_B=payload_B,
      write_B=payload_B,
      occupancy=np.ones_like(payload_B),
      features=features | {'is_direct': is_direct},
    )

  return LinkLaw(('message_bytes', 'participants'), work)


def _expert(element_B: float, is_combine: bool):
  """The law of dispatch or combine."""

  def work(shape: Shape, spans: np.ndarray, units: int) -> LinkWork:
    tokens, width, top, experts = (
      np.asarray(shape[name], float)
      for name in ('num_tokens', 'hidden_size', 'topk', 'num_experts')
    )
    ranks = ranks_at(shape['participants'], shape.get('ranks_per_node'), spans)
    n = ranks[:, -1]
    is_low_latency = np.zeros_like(tokens)
    if 'variant' in shape:
      is_low_latency = _says(shape['variant'], (_LOW_LATENCY,))
    copies = np.where(
      is_low_latency > 0, top, n * reached_share(experts, n, top)
    )
    token_B = element_B * width
    payload_B = tokens * copies * token_B
    sent_B = np.asarray(collective.all_to_all(payload_B, ranks).sent_B, float)
    sms = np.asarray(shape.get('sms', np.full_like(tokens, np.nan)), float)
    sms = np.where(np.isnan(sms), units, np.minimum(sms, units))
    once_B = tokens * token_B
    features = _features(payload_B, sent_B, np.ones_like(sent_B), ranks) | {
      'log_tokens': np.log(tokens),
      'log_width': np.log(width),
      'log_topk': np.log(top),
      'log_copies': np.log(copies),
      'log_local_experts': np.log(experts / n),
      'log_experts': np.log(experts),
      'log_sms': np.log(sms),
      'log_sent_per_sm': np.log(payload_B / sms),
      'log_tokens_per_sm': np.log(tokens / sms),
      'is_low_latency': is_low_latency,
    }
    return LinkWork(
      sent_B=sent_B,
      messages=np.zeros_like(sent_B),
      in_flight_B=np.where(sent_B > 0, sms[:, None] * _IN_FLIGHT_PER_SM_B, 0.0),
      read_B=payload_B if is_combine else once_B,
      write_B=once_B if is_combine else payload_B,
      occupancy=sms / units,
      features=features,
    )

  columns = (
    'participants', 'num_tokens', 'hidden_size', 'topk', 'num_experts'
  )  # fmt: skip
  return LinkLaw(columns, work)


def reached_share(
  experts: np.ndarray, ranks: np.ndarray, topk: np.ndarray
) -> np.ndarray:
  """Share of the ranks that hold one of the experts of a token.

  Experts of a token are drawn without repetition, all alike.
  """
  elsewhere = experts - experts / ranks
  fits = elsewhere >= topk
  rest = np.where(fits, elsewhere - topk, 0.0)
  log_missed = (
    special.gammaln(elsewhere + 1.0) - special.gammaln(rest + 1.0)
    - special.gammaln(experts + 1.0) + special.gammaln(experts - topk + 1.0)
  )  # fmt: skip
  return np.where(fits, -np.expm1(log_missed), 1.0)


def _features(payload_B, sent_B, messages, ranks) -> dict[str, np.ndarray]:
  """Logarithms that every collective has."""
  n, inner = ranks[:, -1], ranks[:, 0]
  total_B = np.maximum(sent_B.sum(-1), 1.0)
  waits = np.maximum(messages.sum(-1), 1.0)
  return {
    'log_payload_B': np.log(payload_B),
    'log_payload_per_rank_B': np.log(payload_B / n),
    'log_message_B': np.log(total_B / waits),
    'log_ranks': np.log(n),
    'log_ranks_per_node': np.log(inner),
    'log_nodes': np.log(n / inner),
    'is_across': (n > inner).astype(float),
  }


def _says(variant: np.ndarray, words: tuple[str, ...]) -> np.ndarray:
  """1 where a variant's name has one of the words, else 0 [op]."""
  names = [str(name).lower() for name in variant]
  return np.array([float(any(w in name for w in words)) for name in names])


LAWS: Mapping[str, LinkLaw] = {
  'all_reduce': _collective(
    functools.partial(collective.flat_ring, passes=2.0), is_reducible=True
  ),
  'all_gather': _collective(collective.flat_ring),
  'reduce_scatter': _collective(collective.flat_ring),
  'all_to_all': _collective(collective.all_to_all),
  'send_recv': _collective(collective.send_recv),
  'expert_dispatch': _expert(_DISPATCH_B, is_combine=False),
  'expert_combine': _expert(_COMBINE_B, is_combine=True),
}
