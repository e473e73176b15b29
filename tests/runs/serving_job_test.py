"""Rows of serving as jobs: parallelism in every way that it is written."""

import re

import pytest

from diffmem.runs.serving_job import Job, Pool, job_of
from diffmem.workloads import find_workload

_ROW = {
  'model': 'deepseek-ai/DeepSeek-R1', 'system': 'h200_sxm', 'mode': 'agg',
  'backend': 'sglang', 'input_len': 1024, 'output_len': 512,
  'concurrency': 64.0, 'tp_size': 8.0, 'pp_size': 1.0,
  'attention_dp_size': 1.0, 'moe_tp_size': 8.0, 'moe_ep_size': 1.0,
}  # fmt: skip
_APART = {
  'mode': 'disagg', 'prefill_num_workers': 2.0, 'prefill_tp_size': 8.0,
  'decode_num_workers': 3.0, 'decode_tp_size': 1.0,
  'decode_attention_dp_size': 8.0, 'decode_moe_ep_size': 8.0,
}  # fmt: skip


def _job(**changes) -> Job | str:
  return job_of({**_ROW, **changes}, find_workload)


def test_a_row_becomes_the_job_that_it_describes():
  job = _job()
  assert job.decode == Pool(1, 8, 1, 1, 8, 1) and job.is_mixed
  assert job.decode.devices == 8
  assert (job.input_tokens, job.output_tokens) == (1024.0, 512.0)
  assert job.concurrency == 64.0 and not job.is_drawn


@pytest.mark.parametrize(
  ('sizes', 'expected'),
  [
    # tp, attention dp, expert tp, expert ep as written -> tensor, data,
    # expert_tensor, expert as they ran.
    ((8, 1, 1, 8), (8, 1, 1, 8)),
    ((64, 1, 8, 8), (8, 1, 1, 8)),
    ((1, 64, 8, 8), (1, 8, 1, 8)),
    ((16, 1, 4, 4), (4, 1, 1, 4)),
    ((4, 4, 1, 16), (4, 1, 1, 4)),
    ((4, None, 2, 2), (4, 1, 2, 2)),
    ((4, None, 0, 0), (4, 1, 4, 1)),
    ((1, None, 2, 1), (1, 2, 2, 1)),
  ],
)
def test_parallelism_in_every_way_that_it_is_written(sizes, expected):
  names = ('tp_size', 'attention_dp_size', 'moe_tp_size', 'moe_ep_size')
  pool = _job(**dict(zip(names, sizes, strict=True))).decode
  found = (pool.tensor, pool.data, pool.expert_tensor, pool.expert)
  assert found == expected


def test_a_flag_tells_a_group_of_two_from_one_of_four():
  sizes = {'tp_size': 4, 'moe_tp_size': 2, 'moe_ep_size': 2}
  assert _job(**sizes).decode.tensor == 4
  assert _job(**sizes, suspect_parallelism=True).decode.tensor == 2


def test_prompt_and_token_replicas():
  job = _job(**_APART)
  assert job.prefill == Pool(2, 8, 1, 1, 8, 1)
  assert job.decode == Pool(3, 1, 8, 1, 1, 8)
  assert not job.is_mixed


def test_open_requests_follow_from_the_batch_of_a_group():
  assert _job(concurrency=None, batch_size=4.0).concurrency == 4.0
  apart = _job(**_APART, concurrency=None, decode_batch_size=4.0)
  assert apart.concurrency == 4.0 * 8 * 3


def test_lengths_that_are_drawn_are_shorter_than_stated():
  job = _job(provenance='inferencex-db-dump')
  assert job.is_drawn and job.input_tokens == 922.0


@pytest.mark.parametrize(
  ('changes', 'why'),
  [
    ({'model': 'DeepSeek-Q1'}, 'unknown model: .*deepseek'),
    ({'mode': 'both'}, "unknown mode 'both'; one of agg, disagg"),
    ({'input_len': None}, 'incomplete configuration: input_len'),
    ({'output_len': float('nan')}, 'incomplete configuration: output_len'),
    ({'tp_size': None}, 'incomplete configuration: tp_size'),
    ({'concurrency': None}, 'incomplete configuration: concurrency'),
    ({**_APART, 'decode_num_workers': None}, 'decode_num_workers must be'),
    ({'tp_size': 48.0}, 'tp_size = 48 does not divide 128 heads; 64 does|32'),
    ({'precision': 'fp3'}, 'unknown number format'),
    ({'input_len': 200000}, 'too many tokens: .*max_context = 163840'),
  ],
)
def test_what_cannot_be_a_job_says_why(changes, why):
  found = _job(**changes)
  assert isinstance(found, str) and re.search(why, found), found
