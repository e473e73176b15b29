"""Overheads are recovered from runs that were made with them."""

import math

import numpy as np
import pytest

from diffmem.runs import serving_fit
from diffmem.runs.serving_engine import Batch, times
from diffmem.runs.serving_fit import Observed
from diffmem.runs.serving_stack import NAMES, prior

_RUNS = 60


def _runs(seed=0) -> Batch:
  rng = np.random.default_rng(seed)
  sizes = 2.0 ** np.arange(8)
  decode_s = rng.uniform(0.2e-3, 4e-3, (_RUNS, 1, 6)) * np.ones((1, 8, 1))
  decode_s = decode_s * (1.0 + sizes[:, None] / rng.uniform(20, 200))
  prompt_s = rng.uniform(1e-3, 40e-3, (_RUNS, 1, 6)) * np.array(
    [1.0, 1.9, 3.7, 7.2]
  ).reshape(1, 4, 1)
  requests = 2.0 ** rng.integers(0, 7, _RUNS)
  ones = np.ones(_RUNS)
  return Batch(
    decode_s=decode_s,
    prompt_s=prompt_s,
    prompts=np.tile([1.0, 2.0, 4.0, 8.0], (_RUNS, 1)),
    small=rng.uniform(100, 900, _RUNS),
    casts=rng.integers(0, 2, _RUNS) * 300.0,
    large=rng.uniform(100, 600, _RUNS),
    prompt_kernels=rng.uniform(500, 2000, _RUNS),
    requests=requests,
    per_prompt_replica=requests,
    groups=ones,
    prompt_groups=ones,
    stages=ones,
    prompt_stages=ones,
    input_tokens=ones * 1024,
    output_tokens=rng.choice([128.0, 1024.0], _RUNS),
    most_sequences=ones * 1e6,
    transfer_s=ones * 0.0,
    is_mixed=ones,
    is_drawn=ones,
  )


def _fit(true, spoiled=0):
  batch = _runs()
  said = times(batch, {n: np.full(_RUNS, v) for n, v in true.items()})
  wrong = np.where(np.arange(_RUNS) < spoiled, 6.0, 1.0)
  observed = Observed(said.ttft_s, said.tpot_s * wrong, np.ones(_RUNS))
  return batch, said, serving_fit.fit(batch, ['vllm'] * _RUNS, observed)


@pytest.mark.parametrize('spoiled', [0, 4])
def test_runs_are_explained_by_what_made_them(spoiled):
  true = {n: prior('vllm', n) for n in NAMES}
  true |= {'step_s': 4e-3, 'expert_factor': 1.4, 'request_s': 0.2}
  batch, said, stacks = _fit(true, spoiled)
  stack = serving_fit.stack_of(stacks, ['vllm'] * _RUNS)
  again = times(batch, stack)
  assert np.median(np.abs(again.tpot_s / said.tpot_s - 1.0)) < 0.03
  assert np.median(np.abs(again.ttft_s / said.ttft_s - 1.0)) < 0.05
  assert stacks.values['vllm']['step_s'] == pytest.approx(4e-3, rel=0.5)
  assert stacks.rows == {'vllm': _RUNS}


def test_what_no_run_tells_keeps_its_prior():
  true = {n: prior('vllm', n) for n in NAMES}
  stacks = _fit(true)[2]
  for name in ('handover_s', 'wave_share', 'group_share'):
    assert stacks.values['vllm'][name] == pytest.approx(true[name], rel=0.02)
  assert all(0.0 < sd < 2.0 for sd in stacks.stderr['vllm'].values())


def test_slopes_agree_with_differences_of_all_residuals():
  batch = _runs(1)
  stack = {n: np.full(_RUNS, prior('vllm', n)) for n in NAMES}
  said = times(batch, stack)
  observed = Observed(said.ttft_s * 1.2, said.tpot_s * 0.9, np.ones(_RUNS))
  own = np.zeros(len(NAMES))
  part = serving_fit.Part(batch, observed, own)
  theta = np.concatenate([serving_fit._PRIOR, own])
  slopes = serving_fit._slopes(theta, [part])
  for k in (0, len(NAMES) - 3, len(NAMES) + 1):
    step = np.zeros_like(theta)
    step[k] = 1e-5
    up = serving_fit._residuals(theta + step, [part])
    down = serving_fit._residuals(theta - step, [part])
    assert slopes[:, k] == pytest.approx((up - down) / 2e-5, abs=2e-2)


def test_missing_observations_are_no_evidence():
  batch = _runs()
  nothing = np.full(_RUNS, math.nan)
  observed = Observed(nothing, nothing, np.ones(_RUNS))
  stacks = serving_fit.fit(batch, ['vllm'] * _RUNS, observed)
  for name in NAMES:
    value = stacks.values['vllm'][name]
    assert value == pytest.approx(prior('vllm', name), rel=1e-3)
