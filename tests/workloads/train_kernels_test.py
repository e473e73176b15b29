"""A training step's kernels: backward passes, stages, what is reduced."""

import pytest

from diffmem.workloads import load_workload
from diffmem.workloads.kernels import Pass
from diffmem.workloads.train_kernels import Mesh, stage_layers, training_step


def _gemm_flops(found: Pass) -> float:
  return sum(
    2.0 * k.count * k.shape['m'] * k.shape['n'] * k.shape['k']
    for k in found.kernels
    if k.op == 'gemm'
  )


def _step(mesh: Mesh, **changes):
  asked = {'seq_len': 1024, 'micro_batch': 2, 'sequences': 64} | changes
  return training_step(load_workload('llama-3.1-8b'), mesh, **asked)


def test_backward_products_are_twice_the_forward_ones():
  step = _step(Mesh(devices=8, tensor=2))
  assert _gemm_flops(step.backward) == pytest.approx(
    2.0 * _gemm_flops(step.forward)
  )
  cores = [p.of('prefill_attention')[0] for p in (step.forward, step.backward)]
  assert cores[1].count == 2.5 * cores[0].count


def test_adapters_need_no_gradient_of_the_weights():
  step = _step(Mesh(devices=8), trains_weights=False)
  assert _gemm_flops(step.backward) == pytest.approx(_gemm_flops(step.forward))
  assert step.adam_B == 0.0 and not step.reduce.kernels


def test_a_step_does_six_operations_per_parameter_and_token():
  model = load_workload('llama-3.1-8b')
  step = _step(Mesh(devices=1), sequences=2)
  total = sum(_gemm_flops(p) for p in (step.forward, step.backward, step.head))
  count = model.parameters()
  matrices = count.attention + count.mlp + model.vocab * model.d_model
  assert total == pytest.approx(6.0 * matrices * 2 * 1024)


@pytest.mark.parametrize(
  ('layers', 'stages', 'expected'),
  [(32, 4, 8), (126, 16, 8), (79, 4, 21), (3, 2, 3)],
)
def test_the_fullest_stage(layers, stages, expected):
  assert stage_layers(layers, stages) == expected


def test_micro_batches_follow_from_the_mesh():
  mesh = Mesh(devices=16, tensor=2, pipeline=2)
  assert mesh.data == 4
  assert _step(mesh).micro_batches == 64 / (4 * 2)


def test_gradients_are_reduced_over_the_data_ranks_alone():
  model = load_workload('llama-3.1-8b')
  (one,) = _step(Mesh(devices=8), gradient_B=4.0).reduce.kernels
  assert one.op == 'all_reduce' and one.shape['participants'] == 8
  count = model.parameters()
  assert one.shape['message_bytes'] == pytest.approx(4.0 * count.total)
  assert not _step(Mesh(devices=8, tensor=8)).reduce.kernels
  scattered = _step(Mesh(devices=8, optimizer_sharded=True)).reduce.kernels
  assert {k.op for k in scattered} == {'reduce_scatter', 'all_gather'}


def test_sharded_weights_are_gathered_layer_by_layer():
  step = _step(Mesh(devices=8, sharded=8))
  gathered_B = sum(
    k.count * k.shape['message_bytes'] for k in step.gather.kernels
  )
  model = load_workload('llama-3.1-8b')
  assert gathered_B == pytest.approx(2.0 * model.parameters().total)
  assert not step.reduce.kernels


def test_context_ranks_share_the_core_evenly():
  alone = _step(Mesh(devices=8)).forward.of('prefill_attention')[0]
  shared = _step(Mesh(devices=8, context=4)).forward.of('prefill_attention')[0]
  assert shared.shape['seq_len'] == alone.shape['seq_len']
  assert shared.count == pytest.approx(alone.count / 4)


def test_experts_are_reduced_over_fewer_ranks():
  model = load_workload('mixtral-8x7b')
  step = training_step(
    model, Mesh(devices=8, expert=4), seq_len=512, micro_batch=1, sequences=8
  )
  ranks = {k.shape['participants'] for k in step.reduce.kernels}
  assert ranks == {8, 2}


def test_tensor_ranks_route_shares_of_their_tokens():
  """Eight ranks with whole experts: half the tokens each on two tensor ranks.

  What is computed of the experts, all devices together, does not change.
  """
  model = load_workload('mixtral-8x7b')
  asked = {'seq_len': 512, 'micro_batch': 1, 'sequences': 8}
  steps = [
    training_step(model, Mesh(devices=8, tensor=t, expert=8), **asked)
    for t in (1, 2)
  ]
  alone, shared = (s.forward.of('moe')[0].shape for s in steps)
  assert alone['num_tokens'] == 8 * 512
  assert shared['num_tokens'] == 8 * 512 / 2
  sent, sent_less = (s.forward.of('expert_dispatch')[0].shape for s in steps)
  assert sent_less['num_tokens'] == sent['num_tokens'] / 2 == 512 / 2
  tokens = [
    s.micro_batches * 8 * s.forward.of('moe')[0].shape['num_tokens']
    for s in steps
  ]
  assert tokens[0] == tokens[1]


def test_whole_experts_lie_on_tensor_ranks_too():
  model = load_workload('mixtral-8x7b')
  mesh = Mesh(devices=16, tensor=2, expert=8)
  step = training_step(model, mesh, seq_len=512, micro_batch=1, sequences=8)
  dense, experts = step.reduce.kernels
  assert dense.shape['participants'] == 8
  assert experts.shape['participants'] == 2
  experts_B = 4.0 * model.parameters().experts / 8
  assert experts.shape['message_bytes'] == pytest.approx(experts_B)


def test_optimizer_states_are_shared_by_those_with_the_same_weights():
  model = load_workload('mixtral-8x7b')
  asked = {'seq_len': 512, 'micro_batch': 1, 'sequences': 8}
  mesh = Mesh(devices=8, expert=4, optimizer_sharded=True)
  alone = training_step(model, Mesh(devices=1), **asked).adam_B
  shared = training_step(model, mesh, **asked).adam_B
  count = model.parameters()
  # Four ranks share the experts, two of them each; eight share the rest.
  rest = count.total - count.experts
  share = (count.experts / 4 / 2 + rest / 8) / count.total
  assert shared / alone == pytest.approx(share)
