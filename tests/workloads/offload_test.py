"""Bytes and FLOPs of offloaded passes, against sums done by hand."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from diffmem import errors
from diffmem.cost import predict
from diffmem.system import load_catalog
from diffmem.workloads import offload
from diffmem.workloads.offload import OffloadJob, Share
from diffmem.workloads.transformer import Attention, Experts, Transformer

LAYERS, WIDTH, VOCAB = 48, 7168, 50272


def opt(**changes):
  # OPT-30B: Zhang et al., arXiv:2205.01068, table 1.
  fields = dict(
    name='opt', source='test', layers=LAYERS, d_model=WIDTH, d_ff=4 * WIDTH,
    vocab=VOCAB, attention=Attention(heads=56, kv_heads=56, head_dim=128),
    gated=False, tied_embeddings=True, max_context=2048,
  )  # fmt: skip
  return Transformer(**{**fields, **changes})


MODEL = opt()
PARAMETERS = MODEL.parameters().total
TOKEN_B = 2 * 2 * LAYERS * WIDTH  # keys and values of a token, 16 bits
HOST = OffloadJob(96, 512, 32, Share(host=1.0), Share(host=1.0))
NEAR = HOST._replace(cache=Share(near=1.0))

shares = st.floats(0.0, 1.0)


def test_weights_cross_the_link_once_per_pass():
  for blocks in (1.0, 4.0):
    step = offload.decode_traffic(MODEL, NEAR._replace(blocks=blocks))
    assert step.link_B == pytest.approx(2.0 * PARAMETERS)
    assert step.layers == LAYERS * blocks
    keys_B = 96 * 528 * TOKEN_B
    assert step.near_B == pytest.approx(2 * PARAMETERS * blocks + keys_B)
  assert step.disk_read_B == step.host_B == step.unpacked == 0.0


def test_flops_of_prefill_and_step():
  matrices = 2.0 * PARAMETERS
  first = offload.prefill_traffic(MODEL, NEAR)
  core = 4 * WIDTH * 256 * LAYERS
  assert first.flops == pytest.approx(96 * 512 * (matrices + core))
  step = offload.decode_traffic(MODEL, NEAR)
  core = 4 * WIDTH * 528 * LAYERS
  assert step.flops == pytest.approx(96 * (matrices + core))


def test_a_cache_on_the_host_crosses_unless_the_host_attends():
  keys_B = 96 * 528 * TOKEN_B
  vectors_B = 96 * 4 * 2 * WIDTH * LAYERS
  sent = offload.decode_traffic(MODEL, HOST)
  assert sent.link_B == pytest.approx(2 * PARAMETERS + keys_B + vectors_B)
  assert sent.host_B == 0.0
  stays = offload.decode_traffic(MODEL, HOST._replace(host_attention=True))
  assert stays.link_B == pytest.approx(2 * PARAMETERS + vectors_B)
  assert stays.host_B == pytest.approx(keys_B)
  assert stays.flops < sent.flops


def test_grouped_heads_are_repeated_on_the_host():
  grouped = opt(attention=Attention(heads=56, kv_heads=7, head_dim=128))
  job = HOST._replace(host_attention=True)
  step = offload.decode_traffic(grouped, job)
  assert step.host_B == pytest.approx(96 * 528 * TOKEN_B / 8 * (1 + 3 * 8))


def test_a_cache_on_disk_is_written_once_and_read_in_every_step():
  job = HOST._replace(cache=Share(disk=1.0), weights=Share(host=0.5, disk=0.5))
  first = offload.prefill_traffic(MODEL, job)
  step = offload.decode_traffic(MODEL, job)
  assert first.disk_write_B == pytest.approx(96 * 512 * TOKEN_B)
  assert first.disk_read_B == pytest.approx(PARAMETERS)
  assert step.disk_read_B == pytest.approx(PARAMETERS + 96 * 528 * TOKEN_B)


def test_packed_values_are_unpacked_where_they_are_used():
  job = NEAR._replace(weight_B=0.5625, blocks=3.0)
  step = offload.decode_traffic(MODEL, job)
  assert step.link_B == pytest.approx(0.5625 * PARAMETERS)
  assert step.unpacked == pytest.approx(3.0 * PARAMETERS)
  packed = HOST._replace(cache_B=0.5625)
  step = offload.decode_traffic(MODEL, packed)
  assert step.unpacked == pytest.approx(96 * 528 * TOKEN_B / 2)


def test_all_experts_are_fetched_and_few_computed():
  sparse = opt(experts=Experts(count=8, top_k=2, d_ff=WIDTH), d_ff=0)
  step = offload.decode_traffic(sparse, NEAR)
  assert step.link_B == pytest.approx(2 * sparse.parameters().total)
  assert step.flops < 2.0 * 96 * sparse.parameters().total * 0.5


def test_accelerators_share_the_fetching():
  one = offload.decode_traffic(MODEL, NEAR)
  four = offload.decode_traffic(MODEL, NEAR._replace(gpus=4))
  assert four.link_B == pytest.approx(one.link_B / 4)
  assert four.flops == one.flops


@given(shares, shares)
def test_what_is_near_need_not_be_fetched(a, b):
  low, high = sorted((a, b))
  for make in (offload.prefill_traffic, offload.decode_traffic):
    less, more = (
      make(MODEL, HOST._replace(weights=Share(x, 1 - x), cache=Share(x, 1 - x)))
      for x in (high, low)
    )
    assert less.link_B <= more.link_B * (1 + 1e-12)


def test_the_largest_batch_fits_and_twice_it_does_not():
  job = OffloadJob(0, 4, 50, Share(host=1.0), Share(near=1.0))
  batch = offload.largest_batch(MODEL, job, 32e9)
  layer_B = 2 * PARAMETERS / LAYERS

  def used_B(n):
    return 2 * layer_B + n * (3 * 54 * TOKEN_B + 6 * 4 * VOCAB)

  assert used_B(batch) <= 32e9 < used_B(2 * batch)
  assert batch == 128
  assert offload.largest_batch(MODEL, job, 1e9) == 0


def test_demand_is_bound_by_the_link():
  system = load_catalog('a6000').system
  step = offload.decode_traffic(MODEL, NEAR)
  demand = offload.offload_demand(
    system, step, near='GDDR', engine='matrix:float16'
  )
  time_s = float(predict(system, demand).time_s)
  bound_s = step.link_B / 31.5e9
  assert bound_s < time_s < 1.3 * bound_s


def test_demand_through_a_drive():
  system = load_catalog('a6000').system
  step = offload.decode_traffic(MODEL, NEAR._replace(weights=Share(disk=1.0)))
  demand = offload.offload_demand(
    system, step, near='GDDR', engine='matrix:float16'
  )
  time_s = float(predict(system, demand).time_s)
  assert step.disk_read_B / 5.6e9 < time_s < 1.5 * step.disk_read_B / 5.6e9


def test_what_only_the_host_reads_has_no_demand():
  system = load_catalog('a6000').system
  job = HOST._replace(cache=Share(disk=1.0), host_attention=True)
  step = offload.decode_traffic(MODEL, job)
  with pytest.raises(errors.SpecError, match='for itself'):
    offload.offload_demand(system, step, near='GDDR', engine='matrix:float16')
