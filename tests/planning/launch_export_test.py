"""Plans as launch arguments and as files, there and back."""

import dataclasses
import json

import numpy as np
import pytest
from hand_made_plans import plan_of
from hypothesis import given
from hypothesis import strategies as st

from diffmem import errors
from diffmem.planning import Breakdown, PlanOutcome, PlanResult, Search, export
from diffmem.planning.export import engines, maxtext
from diffmem.planning.serving.result import Pool, ServingPlan
from diffmem.workloads import AXES, Training

HOST = {'HBM': 0.0, 'DRAM': 1.0}


def test_maxtext_flags_of_a_plan():
  plan = plan_of(
    {'optimizer': HOST}, recompute='full', micro_batch=2,
    tensor=4, context=2, expert=2, fsdp=8, data=4,
  )  # fmt: skip
  found = export.to_maxtext(plan, Training(4096, 1024), 32, chips_per_slice=128)
  flags = found.arguments
  assert not found.left_out
  sizes = {k: v for k, v in flags.items() if k.endswith('parallelism')}
  assert {k: v for k, v in sizes.items() if v > 1} == {
    'ici_tensor_sequence_parallelism': 4, 'ici_context_parallelism': 2,
    'ici_expert_parallelism': 2, 'ici_fsdp_parallelism': 8,
    'dcn_data_parallelism': 4,
  }  # fmt: skip
  # As MaxText multiplies: sequences of a step.
  devices = np.prod(list(sizes.values()))
  sequences = flags['per_device_batch_size'] * devices
  assert sequences * flags['gradient_accumulation_steps'] == 1024
  assert flags['remat_policy'] == 'full'
  assert flags['optimizer_memory_host_offload'] is True
  assert flags['shard_optimizer_over_data'] is True
  command = found.command('python -m maxtext.train base.yml', '=')
  assert ' optimizer_memory_host_offload=true' in command
  assert ' ici_fsdp_parallelism=8' in command


def test_maxtext_pipeline():
  plan = plan_of(micro_batch=1, tensor=2, pipeline=4, interleave=2, data=2)
  found = export.to_maxtext(plan, Training(2048, 32), 64)
  flags = found.arguments
  assert flags['num_pipeline_microbatches'] == 16
  assert flags['num_pipeline_repeats'] == 2
  assert flags['num_layers_per_pipeline_stage'] == 8
  assert flags['per_device_batch_size'] * 16 == 32
  assert any('forward passes first' in line for line in found.left_out)


def test_what_maxtext_cannot_say_is_listed():
  plan = plan_of(
    {'optimizer': {'HBM': 0.5, 'DRAM': 0.5}, 'gradients': HOST}, tensor=2,
    sharding={'attention': 'sequence', 'mlp': 'tensor', 'experts': 'expert'},
  )  # fmt: skip
  lines = export.to_maxtext(plan, Training(128, 2), 4).left_out
  for said in (
    'optimizer: 50 % in DRAM', 'gradients: 100 % in DRAM',
    'attention by sequence', 'experts by expert', 'recompute none',
  ):  # fmt: skip
    assert any(said in line for line in lines)


_ranks = st.tuples(*[st.sampled_from([1, 2, 3, 8]) for _ in AXES])


@given(
  within=_ranks, across=_ranks, micro_batch=st.integers(1, 16),
  micro_batches=st.integers(1, 64), full=st.booleans(), away=st.booleans(),
)  # fmt: skip
def test_maxtext_round_trip(
  within, across, micro_batch, micro_batches, full, away
):
  piped = within[-1] * across[-1] > 1
  job = maxtext.TrainingJob(
    within=within, across=across, interleave=2 if piped else 1,
    micro_batch=micro_batch, micro_batches=micro_batches, seq_len=4096,
    recompute='full' if full and not away else 'selective',
    chunk_layers=3 if piped else 0, activations_away=away,
    optimizer_away=away, weights_away=not away,
  )  # fmt: skip
  flags = maxtext.flags_of(job)
  assert maxtext.job_of(flags) == job
  assert maxtext.flags_of(maxtext.job_of(flags)) == flags


def serving_plan(sharding=None, placement=None, held=None, **mesh):
  held = {'HBM': {}, 'DRAM': held or {}, 'SSD': held or {}}
  return plan_of(
    placement, sharding, recompute=None, micro_batch=64,
    predicted={'group_memory_bytes': held}, **mesh,
  )  # fmt: skip


def test_vllm_and_sglang_of_a_dense_plan():
  plan = serving_plan(
    placement={'kv_cache': {'HBM': 0.5, 'DRAM': 0.5}},
    held={'kv_cache': 4 * 2.0**30}, tensor=4, data=3,
  )  # fmt: skip
  del plan.placement['expert_weights']
  found = export.to_vllm(plan, context=8192, role='decode')
  assert found.replicas == 3
  assert found.arguments == {
    '--tensor-parallel-size': 4, '--data-parallel-size': 1,
    '--pipeline-parallel-size': 1, '--max-num-seqs': 64,
    '--gpu-memory-utilization': 0.9, '--max-model-len': 8192,
    '--kv-offloading-backend': 'native', '--kv-offloading-size': 16.0,
    '--kv-transfer-config':
      '{"kv_connector": "NixlConnector", "kv_role": "kv_consumer"}',
  }  # fmt: skip
  assert any('waiting sequences' in line for line in found.left_out)
  found = export.to_sglang(plan, role='prefill')
  assert found.arguments['--tp-size'] == 4
  assert found.arguments['--max-running-requests'] == 64
  assert found.arguments['--hicache-size'] == pytest.approx(4 * 1.073741824)
  command = found.command('python -m sglang.launch_server --model-path M')
  assert ' --enable-hierarchical-cache --hicache-size' in command
  assert ' --disaggregation-mode prefill' in command


def test_attention_by_data_and_whole_experts():
  sharding = {'attention': 'sequence', 'mlp': 'sequence', 'experts': 'expert'}
  plan = serving_plan(sharding, tensor=8, expert=4)
  vllm, sglang = export.to_vllm(plan), export.to_sglang(plan)
  assert vllm.arguments['--tensor-parallel-size'] == 1
  assert vllm.arguments['--data-parallel-size'] == 32
  assert vllm.arguments['--enable-expert-parallel'] is True
  assert vllm.arguments['--max-num-seqs'] == 8
  assert sglang.arguments['--tp-size'] == 32
  assert sglang.arguments['--dp-size'] == 32
  assert sglang.arguments['--ep-size'] == 32
  assert sglang.arguments['--max-running-requests'] == 256
  assert sglang.arguments['--moe-dense-tp-size'] == 1
  assert not vllm.left_out and not sglang.left_out


def test_what_engines_cannot_say_is_listed():
  sharding = {'attention': 'tensor', 'mlp': 'sequence', 'experts': 'tensor'}
  plan = serving_plan(
    sharding, {'mlp_weights': {'HBM': 0.0, 'SSD': 1.0}}, {'mlp_weights': 5e9},
    tensor=2, expert=2,
  )  # fmt: skip
  lines = export.to_vllm(plan).left_out
  for said in ('weights in SSD (5e+09 B)', 'split both alike', '2 of 4 ranks'):
    assert any(said in line for line in lines)


_servers = st.builds(
  engines.Server,
  attention=st.sampled_from([1, 2, 8]), copies=st.sampled_from([1, 4, 16]),
  expert=st.booleans(), dense_whole=st.booleans(),
  pipeline=st.integers(1, 4), sequences=st.integers(1, 512),
  step_tokens=st.sampled_from([0, 2048]),
  context=st.sampled_from([0, 32768]), usable=st.sampled_from([0.8, 0.9]),
  cache_away_B=st.sampled_from([0.0, 3e9]),
  weights_away_B=st.sampled_from([0.0, 7e9]),
  role=st.sampled_from(engines.ROLES),
)  # fmt: skip


@given(server=_servers)
def test_engines_round_trip(server):
  ranks = server.attention * server.copies
  server = server._replace(expert=ranks if server.expert else 1)
  flags = engines.sglang_arguments(server)
  found = engines.server_of_sglang(flags)
  assert engines.sglang_arguments(found) == pytest.approx(flags)
  if server.copies > 1:
    assert (
      found._replace(
        cache_away_B=pytest.approx(server.cache_away_B),
        weights_away_B=pytest.approx(server.weights_away_B),
      )
      == server
    )
  flags = engines.vllm_arguments(server)
  again = engines.vllm_arguments(engines.server_of_vllm(flags))
  numbers = {k: v for k, v in flags.items() if not isinstance(v, str)}
  assert {k: again[k] for k in numbers} == pytest.approx(numbers)
  assert set(again) == set(flags)
  assert all(again[k] == v for k, v in flags.items() if isinstance(v, str))


def pool_of(**changes):
  given = {
    'workers': 3, 'chips': 8, 'mesh': {'tensor': 4, 'expert': 2, 'data': 1},
    'sharding': {'attention': 'sequence', 'mlp': 'sequence',
                 'experts': 'expert'},
    'sequences': 64, 'prompts': 0, 'piece_tokens': 0, 'step_time_s': 0.01,
    'mixed_step_time_s': None, 'memory_bytes': {'HBM': 6e10, 'DRAM': 8e9},
    'placement': {
      'expert_weights': {'HBM': 1.0, 'DRAM': 0.0},
      'kv_cache': {'HBM': 0.5, 'DRAM': 0.5},
    },
    'certified_gap': 0.0,
  }  # fmt: skip
  return Pool(**{**given, **changes})


def test_fleets():
  prefill = pool_of(
    workers=2, sequences=0, prompts=8, piece_tokens=2048,
    placement={'kv_cache': {'HBM': 1.0}},
  )  # fmt: skip
  fleet = ServingPlan(
    'disaggregated', {'prefill': prefill, 'decode': pool_of()}, {}
  )
  found = export.fleet_launches(fleet, 'sglang', context=4096)
  assert {n: one.replicas for n, one in found.items()} == {
    'prefill': 2, 'decode': 3
  }  # fmt: skip
  assert found['prefill'].arguments['--chunked-prefill-size'] == 8 * 2048
  decode = found['decode'].arguments
  assert decode['--tp-size'] == decode['--dp-size'] == decode['--ep-size'] == 8
  assert decode['--max-running-requests'] == 64
  assert decode['--hicache-size'] == 8.0
  assert decode['--disaggregation-mode'] == 'decode'
  decode = export.fleet_launches(fleet, 'vllm')['decode']
  assert decode.arguments['--data-parallel-size'] == 8
  assert decode.arguments['--max-num-seqs'] == 8
  with pytest.raises(errors.PlanError, match="no engine 'trt'"):
    export.fleet_launches(fleet, 'trt')


def test_a_kind_that_the_model_lacks_is_not_missed():
  pool = pool_of(sharding={'attention': 'sequence', 'experts': 'expert'},
                 placement={'expert_weights': {'HBM': 1.0}})  # fmt: skip
  fleet = ServingPlan('aggregated', {'serve': pool}, {})
  assert not export.fleet_launches(fleet, 'vllm')['serve'].left_out


def test_bytes_of_a_fleet_that_cannot_be_told_apart():
  pool = pool_of(
    placement={g: {'DRAM': 1.0} for g in ('mlp_weights', 'kv_cache')}
  )
  fleet = ServingPlan('aggregated', {'serve': pool}, {})
  lines = export.fleet_launches(fleet, 'vllm')['serve'].left_out
  assert any('mlp_weights, kv_cache share DRAM' in line for line in lines)


def test_training_and_serving_are_not_confused():
  with pytest.raises(errors.PlanError, match='plan for serving'):
    export.to_maxtext(serving_plan(), Training(64, 2), 4)
  with pytest.raises(errors.PlanError, match='plan for training'):
    export.to_vllm(plan_of())
  with pytest.raises(errors.PlanError, match="role 'both'"):
    export.to_sglang(serving_plan(), role='both')
  with pytest.raises(errors.PlanError, match='cut tensor = 4 unevenly'):
    export.to_maxtext(plan_of(tensor=4), Training(64, 2), 4, chips_per_slice=3)
  with pytest.raises(errors.PlanError, match='--max-num-seqs is missing'):
    engines.server_of_vllm({})
  with pytest.raises(errors.PlanError, match="'ici_tensor_sequence_parall"):
    maxtext.job_of({})


def full_plan():
  return dataclasses.replace(
    plan_of({'optimizer': HOST}, tensor=2),
    predicted={'step_time_s': 1.5, 'memory_bytes': {'HBM': 3e9}},
    interval90={'step_time_s': (1.0, 2.0), 'cost_per_token_usd': None},
    breakdown=Breakdown({'layers': 1.0}, 0.5, 0.0, {'HBM': 0.1}, {'m': 0.2}),
  )


def test_a_plan_comes_back_equal(tmp_path):
  plan = full_plan()
  text = export.plan_to_json(plan)
  assert export.plan_from_json(text) == plan
  (tmp_path / 'plan.json').write_text(text)
  assert export.load_plan(tmp_path / 'plan.json') == plan


def test_a_result_comes_back_equal():
  result = PlanResult(
    outcome=PlanOutcome.PLANNED, help='', request={'chips': 2},
    plans=(full_plan(),), elasticities={'a': 0.5, 'b': None},
    search=Search(configurations=3, seconds=0.5), spare_bytes={'HBM': 1.0},
  )  # fmt: skip
  assert export.result_from_json(result.to_json()) == result
  assert export.plan_from_json(result.to_json()) == result.plans[0]


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda d: d.update(colour='red'), "unknown field 'colour'; Plan has mesh"),
    (lambda d: d.pop('mesh'), "the field 'mesh' is missing"),
    (lambda d: d['breakdown'].pop('bubble_s'), "breakdown: the field 'bubble"),
    (lambda d: d.update(plans=[]), "unknown field 'mesh'; PlanResult has"),
    (lambda d: d.update(breakdown=3), 'breakdown: expected an object'),
  ],
)
def test_files_of_something_else_are_refused(change, said):
  document = json.loads(export.plan_to_json(full_plan()))
  change(document)
  with pytest.raises(errors.PlanError, match=said):
    export.plan_from_json(json.dumps(document), 'plan.json')


def test_files_that_cannot_be_read_are_refused(tmp_path):
  with pytest.raises(errors.PlanError, match="'done'; expected one of planned"):
    export.result_from_json('{"outcome": "done", "help": "", "request": {}}')
  with pytest.raises(errors.PlanError, match='cannot be read'):
    export.load_plan(tmp_path / 'none.json')
  with pytest.raises(errors.PlanError, match='not JSON'):
    export.plan_from_json('{')
  with pytest.raises(errors.PlanError, match='expected an object, not list'):
    export.plan_from_json('[]')
  empty = PlanResult(PlanOutcome.NO_MESH, 'no legal mesh', {})
  with pytest.raises(errors.PlanError, match='no plan: no legal mesh'):
    export.plan_from_json(empty.to_json())
