"""Rows of offloaded inference: read, answered, fitted, held out."""

import csv
import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest

from diffmem.runs import offload, offload_rows, offload_stack
from diffmem.workloads.offload import Share

MEASURED = (
  pathlib.Path(__file__).parents[3]
  / 'shared/traces/offload/weight_offload_inference_throughput.csv'
)


def row(**changes):
  base = {
    'system': 'DeepSpeed ZeRO-Inference', 'model': 'OPT-30B',
    'gpu': 'V100-32GB', 'n_gpu': '1', 'host_dram_gb': '1536.0',
    'storage': '30TB NVMe (DGX-2)', 'lowest_tier': 'cpu', 'prompt_len': '4',
    'gen_len': '10', 'batch': '256.0', 'weight_bits': '16',
    'kv_offload': 'no', 'policy_percent': '', 'prefetch': '',
    'throughput_tok_s': '40', 'throughput_basis': 'per_gpu', 'note': '',
  }  # fmt: skip
  return {**base, **changes}


def test_a_row_becomes_a_job():
  run = offload_rows.read_row(row(), 7, lambda _: 32e9)
  assert (run.index, run.stack, run.machine) == (
    7,
    'zero-inference',
    'v100-sxm',
  )
  assert run.job.batch == 256 and run.job.weights == Share(host=1.0)
  assert run.job.cache == Share(near=1.0) and not run.job.host_attention
  assert run.model.parameters().total == pytest.approx(30e9, rel=0.01)
  assert run.pinned and run.prefetch and not run.guessed


def test_a_policy_says_where_everything_lives():
  text = '20 80 0 50 0 100; gbs=48 nb=3'
  run = offload_rows.read_row(
    row(policy_percent=text, system='FlexGen', gpu='T4-16GB'), 0, None
  )
  assert run.job.weights == Share(0.2, 0.8, 0.0)
  assert run.job.cache == Share(0.0, 0.5, 0.5)
  assert run.job.blocks == 3 and run.job.host_attention
  packed = offload_rows.read_row(
    row(policy_percent=text, system='FlexGen+int4', weight_bits='4'), 0, None
  )
  assert packed.job.weight_B == packed.job.cache_B == 0.5625
  assert not packed.job.host_attention


def test_a_part_of_the_weights_stays_near():
  text = 'weights pinned on GPU 12B / offloaded 18B'
  run = offload_rows.read_row(row(policy_percent=text), 0, None)
  assert run.job.weights.near == pytest.approx(0.4, rel=0.01)


@pytest.mark.parametrize(
  ('storage', 'rates'),
  [
    ('GCP 1.5TB local SSD', (2.65e9, 1.4e9)),
    ('1x PNY CS3040 NVMe 5.6GB/s read', (5.6e9, 3.92e9)),
    ('2x NVMe 3.25GB/s each (Azure), GDS', (6.5e9, 4.55e9)),
    ('2x NVMe RAID0 ~13GB/s read, bounce buffer', (13e9, 9.1e9)),
    ('a tape', (None, None)),
  ],
)
def test_drives(storage, rates):
  found = offload_rows.drive_rates(storage)
  if rates[0] is None:
    assert found == rates
  else:
    assert found == pytest.approx(rates)


def test_a_missing_batch_is_guessed_and_named():
  run = offload_rows.read_row(row(batch='', gen_len='50'), 0, lambda _: 32e9)
  assert run.job.batch == 128 and 'batch' in run.guessed


@pytest.mark.parametrize(
  ('changes', 'why'),
  [
    ({'model': 'OPT-31B'}, 'OPT'),
    ({'model': ''}, 'no model'),
    ({'gpu': 'Riva 128'}, 'unknown accelerator'),
    ({'gpu': ''}, 'no accelerator'),
    ({'prompt_len': ''}, 'no prompt_len'),
    ({'gen_len': 'many'}, 'gen_len'),
    ({'lowest_tier': 'tape'}, 'lowest_tier'),
    ({'gen_len': '1000000'}, 'context'),
  ],
)
def test_no_row_is_lost(changes, why):
  rows = [row(), row(**changes), row(throughput_tok_s='')]
  answers = offload.predict_offload(rows, None, offload.prior_stacks())
  assert [a.index for a in answers] == [0, 1, 2]
  assert answers[0].status == 'answered' and answers[0].predicted > 0
  assert why in answers[1].status and math.isnan(answers[1].predicted)
  assert answers[2].status == 'answered' and math.isnan(answers[2].observed)


def test_a_contradicted_observation_is_answered_and_named():
  doubted = row(note='DO NOT TRUST: contradicts table 4')
  (answer,) = offload.predict_offload([doubted], None, offload.prior_stacks())
  assert answer.predicted > 0 and 'contradicts' in answer.status
  assert not offload.usable_runs([doubted])


def test_a_stack_of_no_known_name_takes_the_rest():
  (answer,) = offload.predict_offload(
    [row(system='Somebody else')], None, offload.prior_stacks()
  )
  assert answer.status == 'answered' and answer.predicted > 0


def test_streams_add_up_without_prefetch():
  run = offload_rows.read_row(row(lowest_tier='nvme'), 0, None)
  at = offload.prior_stacks().of('zero-inference')
  with_it, without = (
    offload_stack.tokens_per_s(offload_stack.published([r], None), at)[0]
    for r in (run, run._replace(prefetch=False))
  )
  assert without < with_it
  # By hand: 60 GB from drives, then over the link, per token of the batch.
  total_B = 2 * run.model.parameters().total
  each_s = total_B / (25.6e9 * 0.95) + total_B / 10e9
  each_s += total_B / (15.75e9 * 0.75)
  assert without < 256 / each_s
  assert without == pytest.approx(256 / each_s, rel=0.15)


def test_pageable_memory_is_copied_first():
  run = offload_rows.read_row(row(prefetch='no'), 0, None)
  at = offload.prior_stacks().of('zero-inference')
  pinned_s, pageable_s = (
    256 / offload_stack.tokens_per_s(offload_stack.published([r], None), at)[0]
    for r in (run, run._replace(pinned=False))
  )
  more_s = 2 * run.model.parameters().total / (0.12 * 16e9)
  assert pageable_s - pinned_s == pytest.approx(more_s, rel=0.01)


def test_total_counts_every_accelerator():
  four, total = (
    offload.predict_offload(
      [row(n_gpu='4', batch=batch, throughput_basis=basis)],
      None,
      offload.prior_stacks(),
    )[0].predicted
    for batch, basis in (('64', 'per_gpu'), ('256', 'total'))
  )
  assert total == pytest.approx(4 * four)


def synthetic(values):
  rows = []
  for model in ('OPT-6.7B', 'OPT-13B', 'OPT-30B', 'OPT-66B'):
    for tier in ('cpu', 'nvme'):
      for batch in ('8', '64'):
        for bits in ('4', '16'):
          for cache in ('yes', 'no'):
            rows.append(row(
              model=model, lowest_tier=tier, batch=batch, weight_bits=bits,
              kv_offload=cache, prompt_len='256', gpu='A6000-48GB',
            ))  # fmt: skip
  answers = offload.predict_offload(rows, None, values)
  return [
    {**r, 'throughput_tok_s': str(a.predicted)}
    for r, a in zip(rows, answers, strict=True)
  ]


def test_fit_recovers_what_made_the_rows():
  prior = offload.prior_stacks()
  truth = dict(prior.of('zero-inference'))
  truth.update(pinned_share=0.6, host_share=0.15, unpack_B=6.0)
  stacks = dataclasses.replace(
    prior, values={**prior.values, 'zero-inference': truth}
  )
  rows = synthetic(stacks)
  fitted = offload.fit_offload(rows)
  answers = offload.predict_offload(rows, None, fitted)
  misses = [math.log(a.predicted / a.observed) for a in answers]
  assert np.abs(misses).max() < 0.05
  found = fitted.of('zero-inference')
  for name in ('pinned_share', 'host_share'):
    assert found[name] == pytest.approx(truth[name], rel=0.15)
  # Little of the time: pulled from its prior of 16 towards 6.
  assert found['unpack_B'] == pytest.approx(truth['unpack_B'], rel=0.4)
  assert fitted.log_sd < 0.1
  # Nothing was seen of the others: they stay at their priors.
  assert fitted.of('flexgen')['unpack_B'] == pytest.approx(16.0, rel=1e-3)


def test_a_machine_that_was_not_seen_is_less_certain():
  prior = offload.prior_stacks()
  stacks = dataclasses.replace(
    prior, log_sd=0.1, unseen_log_sd=0.3,
    machines={'zero-inference': ['v100-sxm']},
  )  # fmt: skip
  rows = [row(), row(gpu='A100-80GB'), row(system='FlexGen')]
  answers = offload.predict_offload(rows, None, stacks)
  assert [a.log_sd for a in answers] == [0.1, 0.3, 0.3]


def test_stacks_survive_a_json_file():
  stacks = dataclasses.replace(
    offload.prior_stacks(), machines={'flexgen': ['t4']}
  )
  plain = json.loads(json.dumps(stacks.document()))
  assert offload.OffloadStacks.from_document(plain) == stacks
  del plain['stacks']['other']
  with pytest.raises(KeyError, match='other'):
    offload.OffloadStacks.from_document(plain)


def test_models_left_out_of_the_published_runs():
  if not MEASURED.is_file():
    pytest.skip('no ../shared/traces')
  with MEASURED.open(encoding='utf-8') as file:
    rows = list(csv.DictReader(file))
  runs = offload.usable_runs(rows)
  assert len(runs) >= 0.9 * len(rows)
  misses = np.array([miss for _, miss in offload.held_out_errors(runs)])
  assert np.abs(np.expm1(misses)).mean() < 0.20
