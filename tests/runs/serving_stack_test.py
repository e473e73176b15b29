"""Overheads of serving software: units, priors, JSON."""

import json
import math

import pytest

from diffmem.runs import serving_stack
from diffmem.runs.serving_stack import NAMES, OVERHEADS, Stacks


def _stacks() -> Stacks:
  values = {
    b: {n: k * OVERHEADS[n].prior for n in NAMES}
    for b, k in (('vllm', 1.0), ('sglang', 4.0))
  }
  stderr = {b: dict.fromkeys(NAMES, 0.1) for b in values}
  effects = {'vllm|1|2026-01-01|m': {'tpot_s': -0.5, 'ttft_s': 0.25}}
  rows = {'vllm': 3, 'sglang': 5}
  return Stacks(values, stderr, rows, {'ttft_s': 0.4, 'tpot_s': 0.2}, effects)


def test_json_keeps_everything():
  stacks = _stacks()
  document = json.loads(json.dumps(stacks.document()))
  assert Stacks.from_document(document) == stacks


def test_a_document_says_unit_prior_and_help_of_every_number():
  document = _stacks().document()['stacks']['vllm']['overheads']
  assert set(document) == set(NAMES)
  for name, entry in document.items():
    assert entry['unit'] == ('s' if name.endswith('_s') else '1')
    assert entry['prior'] > 0 and entry['prior_sd'] > 0 and entry['help']


def test_an_unknown_backend_is_the_geometric_mean_of_the_known():
  values = _stacks().of('mlc')
  for name in NAMES:
    assert values[name] == pytest.approx(2.0 * OVERHEADS[name].prior)


def test_without_any_run_the_priors_speak():
  stacks = serving_stack.prior_stacks()
  assert stacks.of('vllm')['step_s'] == OVERHEADS['step_s'].prior
  assert stacks.of('sglang')['wave_share'] == 0.5
  assert all(math.isfinite(v) for v in stacks.of('').values())
