"""Finalists by kernels: as measured runs are priced, and what the laws add."""

import dataclasses
import json
import math

import numpy as np
import pytest

from diffmem import errors
from diffmem.planning.result import Plan, PlanOutcome, PlanResult
from diffmem.runs import finalist_laws, serving_steps
from diffmem.runs.finalists import price_finalists
from diffmem.runs.machines import Machines
from diffmem.runs.serving_job import Job, Pool
from diffmem.runs.serving_stack import OVERHEADS
from diffmem.runs.software import Software
from diffmem.runs.training import predict_training_runs
from diffmem.runs.training_rows import TrainingRun
from diffmem.system import to_numpy
from diffmem.workloads import load_workload
from diffmem.workloads.train_kernels import Mesh

CHIPS, SEQUENCES, SEQ_LEN = 64, 64, 4096
TRAINED = (
  'attention_weights', 'mlp_weights', 'embeddings', 'gradients', 'optimizer',
  'activations',
)  # fmt: skip
DECODED = ('attention_weights', 'mlp_weights', 'embeddings', 'kv_cache')
AXES = ('tensor', 'context', 'expert', 'fsdp', 'data', 'pipeline', 'interleave')


@pytest.fixture(scope='module')
def common(root):
  return {
    'machines': Machines(root / 'checkpoints'),
    'software': Software.prior(),
  }


def _plan(mesh, by_laws_s, groups=TRAINED, far=(), **others) -> Plan:
  """What is read of a planner's plan; `far` groups are in DRAM."""
  values = {
    'mesh': dict.fromkeys(AXES, 1) | mesh,
    'micro_batch': 1,
    'recompute': 'selective',
    'sharding': {'attention': 'tensor', 'mlp': 'tensor'},
    'number_format': 'bfloat16',
    'placement': {
      g: {'HBM': float(g not in far), 'DRAM': float(g in far), 'SSD': 0.0}
      for g in groups
    },
    'predicted': {'step_time_s': by_laws_s, 'tokens_per_s': 1000 / by_laws_s},
    **others,
  }
  names = [f.name for f in dataclasses.fields(Plan)]
  return Plan(**{name: values.get(name) for name in names})


def _result(*plans, **asked) -> PlanResult:
  request = {
    'system': 'h100-sxm', 'workload': 'llama-3.1-8b', 'chips': CHIPS,
    'phase': 'train', 'seq_len': SEQ_LEN, 'sequences': SEQUENCES,
    'engine': 'matrix:bfloat16', 'usable': 0.9,
  }  # fmt: skip
  return PlanResult(PlanOutcome.PLANNED, '', request | asked, plans)


def _run(index, mesh, stack, model) -> TrainingRun:
  """The same job as a row of a table of runs; the third recomputes all."""
  return TrainingRun(
    index, 'h100-sxm', stack, load_workload(model), mesh, SEQ_LEN, 1,
    SEQUENCES, 'full' if index == 2 else 'none', True, True, True, True, 1.0,
    '', '',
  )  # fmt: skip


def _measured(index, mesh, stack, common, model='llama-3.1-8b') -> float:
  run = _run(index, mesh, stack, model)
  stacks = common['software'].training
  (answer,) = predict_training_runs([run], common['machines'], stacks)
  return answer.predicted


MESHES = (
  {'tensor': 2, 'data': 32},
  {'tensor': 4, 'fsdp': 4, 'data': 4},
  {'tensor': 2, 'context': 2, 'data': 8, 'pipeline': 2, 'interleave': 2},
)


@pytest.fixture(scope='module')
def priced(common):
  plans = [
    _plan(MESHES[0], 1.0),
    _plan(MESHES[1], 1.1, far=['optimizer']),
    _plan(MESHES[2], 1.2, recompute='full'),
  ]
  return price_finalists(_result(*plans), **common), plans


def test_kernels_are_those_of_measured_runs(priced, common):
  found, _ = priced
  by_index = {one.index: one for one in found.finalists}
  for i, mesh in enumerate(MESHES):
    axes = dict.fromkeys(AXES, 1) | mesh
    same = Mesh(
      devices=CHIPS, tensor=axes['tensor'], pipeline=axes['pipeline'],
      interleave=axes['interleave'], context=axes['context'],
      sharded=axes['fsdp'], optimizer_sharded=True, sequence=True,
    )  # fmt: skip
    one = by_index[i]
    right = _measured(i, same, '', common)
    assert one.kernels_s == pytest.approx(right, rel=1e-9)
    if i != 1:
      assert one.step_time_s == one.kernels_s
      wide = math.exp(1.645 * common['software'].training.log_sd[''])
      assert one.interval90[1] == pytest.approx(one.kernels_s * wide, rel=1e-3)


def test_far_memories_cost_what_the_laws_say(priced, common):
  found, _ = priced
  by_index = {one.index: one for one in found.finalists}
  one, system = by_index[1], common['machines']['h100-sxm'].system
  # Master weights and two moments of 4 bytes, in and out over PCIe.
  owned_B = 12.0 * load_workload('llama-3.1-8b').parameters().total / CHIPS
  path = [system.tier('PCIe'), system.tier('DRAM')]
  slowest_Bps = min(float(t.read_Bps) for t in path)
  assert 0.5 < one.placement_s / (2.0 * owned_B / slowest_Bps) < 2.0
  assert one.step_time_s == pytest.approx(one.kernels_s + one.placement_s)
  assert by_index[0].placement_s == pytest.approx(0.0, abs=1e-12)
  assert one.unknown_to_kernels == ('tensors in DRAM: added by the laws',)
  assert by_index[0].unknown_to_kernels == ()


def test_the_order_is_that_of_the_calibrated_times(priced):
  found, plans = priced
  times_s = [one.step_time_s for one in found.finalists]
  assert times_s == sorted(times_s)
  order = [one.index for one in found.finalists]
  pairs = [(a, b) for a in range(3) for b in range(a + 1, 3)]
  kept = np.mean([order.index(a) < order.index(b) for a, b in pairs])
  assert found.pairs_kept == pytest.approx(kept)
  assert found.keeps_first == (order[0] == 0)
  for one in found.finalists:
    plan = plans[one.index]
    assert one.over_laws == one.step_time_s / plan.predicted['step_time_s']
    assert one.tokens_per_s * one.step_time_s == pytest.approx(1000)
  ratios = np.log([one.over_laws for one in found.finalists])
  assert found.laws_log_sd == pytest.approx(ratios.std(ddof=1))
  told = json.loads(json.dumps(found.to_dict()))
  assert told['finalists'][0]['over_laws'] == found.finalists[0].over_laws
  assert 'kernels and software say' in found.help


def test_shardings_scale_by_the_laws(common):
  plain = _plan(MESHES[0], 1.0)
  other = _plan(
    MESHES[0], 1.0, sharding={'attention': 'sequence', 'mlp': 'tensor'}
  )
  model = load_workload('llama-3.1-8b')
  told = finalist_laws.other_shardings(other, model, True)
  assert told == {'attention': 'sequence'}
  found = price_finalists(_result(plain, other, plain), **common)
  one = next(f for f in found.finalists if f.index == 1)
  same = next(f for f in found.finalists if f.index == 0)
  assert one.kernels_s == same.kernels_s and same.sharding_s == 0.0
  times_s = finalist_laws.step_times_s(
    to_numpy(common['machines']['h100-sxm'].system),
    load_workload('llama-3.1-8b'), _result().request, [plain, other, plain],
  )  # fmt: skip
  factor = times_s[1] / times_s[0]
  assert factor != 1.0 and times_s[6:] == pytest.approx(times_s[:1].repeat(3))
  assert one.step_time_s == pytest.approx(one.kernels_s * factor)
  assert 'attention by sequence' in one.unknown_to_kernels[0]


@pytest.fixture
def without_laws(monkeypatch):
  """Kernels alone, so that no laws need compiling."""

  def nothing(system, model, asked, plans):
    return finalist_laws.Added(np.zeros(len(plans)), np.ones(len(plans)))

  monkeypatch.setattr(finalist_laws, 'added', nothing)


@pytest.mark.usefixtures('without_laws')
def test_decode_steps_are_those_of_serving(common):
  batch, context = 64 * 8, 2049
  meshes = ({'tensor': 8, 'data': 8}, {'tensor': 2, 'data': 32})
  plans = [
    _plan(m, 0.01, groups=DECODED, recompute=None, sharding={}) for m in meshes
  ]
  asked = {'phase': 'decode', 'batch': batch, 'context': context}
  found = price_finalists(_result(*plans, **asked), **common)
  for one in found.finalists:
    axes = meshes[one.index]
    pool = Pool(axes['data'], axes['tensor'], 1, 1, 1, 1)
    job = Job(
      load_workload('llama-3.1-8b'), 'h100-sxm', '', pool, pool, 1.0,
      2.0 * (context - 1), float(batch),
    )  # fmt: skip
    (steps,) = serving_steps.priced([job], common['machines'])
    size = batch / axes['data']
    at = list(steps.decode.sequences).index(size)
    p = {name: o.prior for name, o in OVERHEADS.items()}
    factors = [1.0, 1.0, 1.0, p['narrow_factor'], p['link_factor'], 1.0]
    right = float(steps.decode.time_s[at] @ factors)
    hidden_s = steps.decode.large * p['hidden_start_s']
    right -= min(hidden_s + steps.decode.casts * p['fused_cast_s'], 0.6 * right)
    right += steps.decode.small * p['small_s'] + p['step_s']
    right += p['sequence_s'] * size
    # A few sequences of the batch are always at their prompts.
    assert one.kernels_s == pytest.approx(right, rel=0.01)
    assert one.step_time_s == one.kernels_s and one.unknown_to_kernels == ()


@pytest.mark.usefixtures('without_laws')
def test_experts_are_shared_by_the_tensor_ranks_too(common):
  sliced = _plan({'tensor': 2, 'expert': 4, 'data': 8}, 1.0)
  alone = _plan({'expert': 8, 'data': 8}, 1.0)
  found = price_finalists(
    _result(sliced, alone, workload='mixtral-8x7b'), **common
  )
  assert found.stack == 'nemo'
  by_index = {one.index: one for one in found.finalists}
  said = 'experts by tensor: the difference is that of the laws'
  assert by_index[0].unknown_to_kernels == (said,)
  assert by_index[1].unknown_to_kernels == ()
  meshes = [
    Mesh(CHIPS, tensor=t, expert=8, optimizer_sharded=True, sequence=t > 1)
    for t in (2, 1)
  ]
  for index, mesh in enumerate(meshes):
    right = _measured(0, mesh, 'nemo-experts', common, 'mixtral-8x7b')
    assert by_index[index].kernels_s == pytest.approx(right, rel=1e-9)


def test_kernels_of_a_decode_step_know_experts_both_ways(common, monkeypatch):
  pools = []

  def priced(jobs, machines):
    pools.extend(job.decode for job in jobs)
    return ['seen']

  monkeypatch.setattr(serving_steps, 'priced', priced)
  mesh = {'tensor': 2, 'expert': 4, 'data': 8}
  plans = [
    _plan(mesh, 1.0, recompute=None, sharding={'experts': how})
    for how in ('tensor', 'expert')
  ]
  asked = {'phase': 'decode', 'batch': 64, 'context': 1024}
  result = _result(*plans, workload='mixtral-8x7b', **asked)
  with pytest.raises(errors.SpecError, match='seen'):
    price_finalists(result, **common)
  assert [(p.expert_tensor, p.expert) for p in pools] == [(2, 4), (1, 8)]
  assert all(p.devices == 8 and p.workers == 8 for p in pools)
  model = load_workload('mixtral-8x7b')
  for plan in plans:
    assert finalist_laws.other_shardings(plan, model, False) == {}
  assert finalist_laws.other_shardings(plans[0], model, True) == {
    'experts': 'tensor'
  }


def test_what_cannot_be_priced_says_why(common):
  none = PlanResult(PlanOutcome.NO_MESH, 'no legal mesh', {})
  with pytest.raises(errors.PlanError, match='no legal mesh'):
    price_finalists(none, **common)
  plan = _plan(MESHES[0], 1.0)
  with pytest.raises(errors.PlanError, match="phase 'prefill'"):
    price_finalists(_result(plan, phase='prefill'), **common)
  with pytest.raises(errors.SpecError, match='unknown accelerator'):
    price_finalists(_result(plan, system='abacus'), **common)
