"""Steps of serving jobs, priced kernel by kernel."""

import numpy as np
import pytest

from diffmem.runs.machines import Machines
from diffmem.runs.serving_job import job_of
from diffmem.runs.serving_steps import PARTS, most_sequences, priced
from diffmem.workloads import find_workload

_ROW = {
  'model': 'llama-3.1-8b', 'system': 'h100_sxm', 'mode': 'agg',
  'backend': 'vllm', 'input_len': 1024, 'output_len': 256, 'concurrency': 8.0,
  'tp_size': 1.0,
}  # fmt: skip


def _job(**changes):
  return job_of({**_ROW, **changes}, find_workload)


@pytest.fixture(scope='module')
def machines(root):
  return Machines(root / 'checkpoints')


@pytest.fixture(scope='module')
def steps(machines):
  jobs = [_job(), _job(tp_size=2.0), _job(system='abacus')]
  return priced(jobs, machines)


def test_steps_of_an_unknown_machine_say_so(steps):
  assert steps[2] == "unknown accelerator 'abacus'"


def test_a_step_takes_at_least_its_weights(steps, machines):
  decode = steps[0].decode
  assert decode.sequences.tolist() == [1.0, 2.0, 4.0, 8.0]
  system = machines['h100-sxm'].system
  read_s = 2.0 * 7.5e9 / float(system.tier('HBM').read_Bps)
  products_s = decode.time_s[:, PARTS.index('products')]
  assert np.all(products_s > 0.9 * read_s)
  assert np.all(products_s < 2.0 * read_s)
  assert np.all(decode.time_s[:, PARTS.index('links')] == 0.0)
  assert np.all(decode.time_s[:, PARTS.index('experts')] == 0.0)


def test_a_prompt_does_its_operations(steps, machines):
  flops = 2.0 * 7.5e9 * 1024
  peak = machines['h100-sxm'].system.engine('matrix:bfloat16').rate_FLOPps
  time_s = steps[0].prompt.time_s[0].sum()
  assert flops / float(peak) < time_s < 3.0 * flops / float(peak)
  each = steps[0].prompt.time_s.sum(1) / steps[0].prompt.sequences
  assert np.all(each <= each[0] * 1.05)


def test_two_devices_share_the_weights_and_talk(steps):
  one, two = (s.decode.time_s for s in steps[:2])
  products, links = PARTS.index('products'), PARTS.index('links')
  assert np.all(two[:, products] < 0.75 * one[:, products])
  assert np.all(two[:, links] > 0.0)


def test_memory_holds_what_weights_leave():
  # 80 GB in GiB x 0.9 less 4 GB less 8.03e9 weights of two bytes, over
  # 2 x 8 heads x 128 x 2 B x 32 layers for each of 1024 + 128 tokens.
  free_B = 0.9 * 80.0 * 2**30 / 1e9 * 1e9 - 4e9 - 2.0 * 8.03e9
  one_B = 2 * 8 * 128 * 2 * 32 * (1024 + 128)
  found = most_sequences(_job(), 80e9)
  assert found == pytest.approx(free_B / one_B, rel=0.01)


def test_latents_are_kept_by_every_device_of_a_group():
  mla = {'model': 'deepseek-r1', 'precision': 'fp8', 'system': 'h200_sxm'}
  shared = most_sequences(_job(**mla, tp_size=8.0), 141e9)
  own = most_sequences(
    _job(**mla, tp_size=1.0, attention_dp_size=8.0, moe_ep_size=8.0), 141e9
  )
  assert own > 3.0 * shared
