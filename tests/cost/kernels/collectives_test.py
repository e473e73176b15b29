"""The laws of collectives against counts made token by token, edge by edge."""

import itertools

import numpy as np
import pytest

from diffmem.cost.kernels import collectives

SPANS = np.array([8, 64, 65536])
RINGS = ('all_reduce', 'all_gather', 'reduce_scatter')


def collective(op, payload_B=1e6, n=16.0, per_node=8.0, **more):
  shape = {
    'message_bytes': np.atleast_1d(np.asarray(payload_B, float)),
    'participants': np.atleast_1d(np.asarray(n, float)),
    'ranks_per_node': np.atleast_1d(np.asarray(per_node, float)),
  } | {name: np.array([value]) for name, value in more.items()}
  return collectives.LAWS[op].work(shape, SPANS, 132)


def expert(op, tokens=128.0, top=8.0, experts=64.0, n=8.0, **more):
  shape = {
    'participants': np.array([n]),
    'num_tokens': np.array([tokens]),
    'hidden_size': np.array([1024.0]),
    'topk': np.array([top]),
    'num_experts': np.array([experts]),
  } | {name: np.array([value]) for name, value in more.items()}
  return collectives.LAWS[op].work(shape, SPANS, 132)


@pytest.mark.parametrize(
  ('n', 'per_node', 'expected'),
  [
    (4, np.nan, (4, 4, 4)),
    (16, np.nan, (8, 16, 16)),
    (16, 4, (4, 16, 16)),
    (2, 1, (1, 2, 2)),
    (64, 4, (4, 32, 64)),
    (16, 16, (8, 16, 16)),
  ],
)
def test_ranks_at_each_level(n, per_node, expected):
  found = collectives.ranks_at(
    np.array([float(n)]), np.array([float(per_node)]), SPANS
  )
  np.testing.assert_array_equal(found, [expected])


def test_ranks_fill_nodes_where_nothing_else_is_said():
  given = collectives.ranks_at(np.array([16.0]), None, SPANS)
  np.testing.assert_array_equal(given, [[8, 16, 16]])


@pytest.mark.parametrize('op', RINGS)
@pytest.mark.parametrize(('n', 'per_node'), [(8, 8), (16, 8), (4, 2), (2, 1)])
def test_rings_are_counted_edge_by_edge(op, n, per_node):
  """Ring i starts at another rank of a node; its edges have their levels."""
  passes = 2 if op == 'all_reduce' else 1
  edges = np.zeros(3)
  for shift in range(per_node):
    order = [
      node * per_node + (place + shift) % per_node
      for node in range(n // per_node)
      for place in range(per_node)
    ]
    for i, rank in enumerate(order):
      following = order[(i + 1) % n]
      edges[int(rank // per_node != following // per_node)] += 1
  share = edges / edges.sum()
  work = collective(op, 3e6, n, per_node)
  np.testing.assert_allclose(
    work.sent_B[0], passes * 3e6 * (n - 1) / n * share, rtol=1e-6
  )
  np.testing.assert_allclose(
    work.messages[0], passes * (n - 1) * share, rtol=1e-6
  )


def test_direct_all_reduce_has_two_messages_and_the_bytes_of_a_ring():
  ring = collective('all_reduce', n=8.0, variant='nccl 2.29 NCCL eager')
  direct = collective('all_reduce', n=8.0, variant='vllm vLLM_custom_graph')
  np.testing.assert_array_equal(direct.sent_B, ring.sent_B)
  assert direct.messages.sum() == 2 and ring.messages.sum() == 14
  assert direct.features['is_direct'][0] == 1


@pytest.mark.parametrize('experts', [4, 8, 16])
@pytest.mark.parametrize('top', [1, 2, 3, 4])
def test_reached_share_is_the_count_over_all_choices(experts, top):
  ranks = 4
  per_rank = experts // ranks
  reached = np.mean(
    [
      len({e // per_rank for e in choice}) / ranks
      for choice in itertools.combinations(range(experts), top)
    ]
  )
  found = collectives.reached_share(
    np.array([float(experts)]), float(ranks), np.array([float(top)])
  )
  np.testing.assert_allclose(found, reached, rtol=1e-9)


def test_dispatch_sends_once_to_each_rank_and_low_latency_to_each_expert():
  once = expert('expert_dispatch', variant='DeepEP normal')
  each = expert('expert_dispatch', variant='DeepEP low_latency')
  token_B = 1024 * (1 + 4 / 128)
  np.testing.assert_allclose(
    each.sent_B.sum(), 128 * 8 * 7 / 8 * token_B, rtol=1e-6
  )
  assert once.sent_B.sum() < each.sent_B.sum()
  assert once.sent_B.sum() > 128 * token_B


def test_combine_returns_wider_elements_and_writes_each_token_once():
  out, back = expert('expert_dispatch'), expert('expert_combine')
  np.testing.assert_allclose(
    back.sent_B.sum() / out.sent_B.sum(), 2 / (1 + 4 / 128), rtol=1e-6
  )
  assert back.write_B[0] == 128 * 1024 * 2
  assert back.read_B[0] > back.write_B[0]
  assert out.write_B[0] > out.read_B[0]


def test_bytes_in_flight_follow_the_sms():
  few, many = (expert('expert_combine', sms=s) for s in (4.0, 24.0))
  np.testing.assert_allclose(
    many.in_flight_B.sum() / few.in_flight_B.sum(), 6.0
  )
  assert few.occupancy[0] == 4 / 132
  assert expert('expert_combine').occupancy[0] == 1.0
  assert expert('expert_combine', sms=np.nan).occupancy[0] == 1.0


@pytest.mark.parametrize('op', [*RINGS, 'all_to_all', 'send_recv'])
def test_collectives_are_linear_in_the_payload(op):
  work = collective(op, [1e3, 2e3, 1e9], [16.0] * 3, [8.0] * 3)
  np.testing.assert_allclose(work.sent_B[1], 2 * work.sent_B[0], rtol=1e-6)
  np.testing.assert_allclose(work.sent_B[2], 1e6 * work.sent_B[0], rtol=1e-6)
  np.testing.assert_array_equal(work.messages[0], work.messages[2])
  assert (work.sent_B[0] > 0).any() and np.isfinite(work.sent_B).all()


@pytest.mark.parametrize('op', collectives.LAWS)
def test_features_are_finite_numbers_of_every_row(op):
  if op.startswith('expert'):
    work = expert(op, tokens=1.0, top=1.0, experts=8.0)
  else:
    work = collective(op, 256.0, 2.0, 1.0)
  for name, values in work.features.items():
    assert np.shape(values) == (1,) and np.isfinite(values).all(), name
