"""Energy per token: parts by hand, a fit that recovers, families left out."""

import csv
import json
import math
import pathlib

import numpy as np
import pytest

from diffmem.runs import energy, energy_rows

MEASURED = pathlib.Path(__file__).parents[3] / 'shared/traces/energy'


def row(**changes):
  base = {
    'task': 'lm-arena-chat', 'model_id': 'meta-llama/Llama-3.1-8B-Instruct',
    'weight_precision': 'bfloat16', 'gpu': 'H100', 'num_gpus': '1', 'dp': '1',
    'avg_batch': '64', 'mean_decode_pos': '350', 'tokens_per_s': '4000',
    'median_itl_ms': '14', 'energy_per_token_J': '0.15',
  }  # fmt: skip
  return {**base, **changes}


AT = energy.prior_stacks().of('any')
H100 = energy.system_of('h100-sxm', None)


def parts(**changes):
  return energy.parts_W(energy_rows.read_row(row(**changes), 0), H100, AT)


def test_parts_by_hand():
  found = parts()
  # 7.5e9 weights without the input table, then 500 tokens of 131,072 B each.
  step_B = 2 * (8.03e9 - 128256 * 4096) + 64 * 500 * 131072
  joules = 15.3e-12 * 8
  assert found['near'] == pytest.approx(4000 / 64 * step_B * joules, rel=0.01)
  assert found['idle'] == pytest.approx(0.28 * 700)
  flops = 2 * (8.03e9 - 128256 * 4096)
  per_flop = float(H100.engine('matrix:bfloat16').energy_J_per_FLOP)
  assert found['matrix'] == pytest.approx(4000 * flops * per_flop, rel=0.01)
  assert found['link'] == found['ranks'] == found['quantising'] == 0.0
  decoding = 4000 / 64 * 0.014
  assert found['prefill'] == pytest.approx(0.42 * 700 * (1 - decoding))


def test_energy_is_power_over_throughput():
  run = energy_rows.read_row(row(num_gpus='2'), 0)
  power_W = sum(energy.parts_W(run, H100, AT).values())
  assert power_W < 550
  assert energy.token_J(run, H100, AT) == pytest.approx(
    2 * power_W / 4000, rel=0.02
  )


def test_no_board_draws_more_than_its_cap():
  run = energy_rows.read_row(row(tokens_per_s='40000', avg_batch='512'), 0)
  assert sum(energy.parts_W(run, H100, AT).values()) > 800
  assert energy.token_J(run, H100, AT) * 40000 <= 700


def test_more_ranks_share_bytes_and_talk():
  one, four = parts(), parts(num_gpus='4')
  assert four['near'] == pytest.approx(one['near'] / 4)
  payload = 2 * 4096 * 4000
  assert four['link'] == pytest.approx(
    2 * 32 * 2 * payload * 0.75 * 11e-12 * 8, rel=0.01
  )
  apart = parts(num_gpus='4', dp='4')
  assert four['near'] < apart['near'] < one['near']


def test_experts_are_read_as_they_are_touched():
  moe = 'Qwen/Qwen3-30B-A3B'
  few = parts(model_id=moe, avg_batch='2', tokens_per_s='200')
  many = parts(model_id=moe, avg_batch='256', tokens_per_s='25600')
  assert many['near'] > 2 * few['near']  # at equal steps per second
  narrow = parts(model_id=moe, weight_precision='fp8')
  wide = parts(model_id=moe)
  assert narrow['near'] < wide['near']
  assert narrow['matrix'] == pytest.approx(wide['matrix'] / 2)
  assert narrow['quantising'] > 0


def test_state_of_linear_attention_is_read_and_written():
  name = 'nvidia/NVIDIA-Nemotron-Nano-9B-v2'
  run = energy_rows.read_row(row(model_id=name), 0)
  state = run.model.linear.layers * run.model.linear.state_values
  longer = energy_rows.read_row(row(model_id=name, mean_decode_pos='700'), 0)
  grown = energy_rows.near_Bps(longer) - energy_rows.near_Bps(run)
  assert 0 < grown < 0.2 * 4000 * 8 * state


@pytest.mark.parametrize(
  ('changes', 'why'),
  [
    ({'model_id': 'nobody/Nothing-1B'}, 'Nothing'),
    ({'gpu': 'Riva 128'}, 'unknown accelerator'),
    ({'tokens_per_s': ''}, 'no tokens_per_s'),
    ({'weight_precision': 'int3'}, 'weight_precision'),
  ],
)
def test_no_row_is_lost(changes, why):
  rows = [row(), row(**changes), row(energy_per_token_J='')]
  answers = energy.predict_energy(rows, None, energy.prior_stacks())
  assert [a.index for a in answers] == [0, 1, 2]
  assert answers[0].is_answered and answers[0].predicted > 0
  assert why in answers[1].status and math.isnan(answers[1].predicted)
  assert answers[1].observed == 0.15
  assert answers[2].is_answered and math.isnan(answers[2].observed)


def test_families():
  for name, family in (
    ('meta-llama/Llama-3.1-8B-Instruct', 'llama-3'),
    ('meta-llama/Llama-4-Scout-17B-16E-Instruct', 'llama-4'),
    ('Qwen/Qwen3-VL-8B-Instruct', 'qwen3'),
    ('google/gemma-3-12b-it', 'gemma-3'),
    ('nvidia/NVIDIA-Nemotron-Nano-9B-v2', 'nemotron'),
  ):
    run = energy_rows.read_row(row(model_id=name), 0)
    assert energy_rows.family_of(run.model) == family


def test_fit_recovers_what_made_the_rows():
  truth = {**AT, 'idle': 0.2, 'near': 1.2, 'prefill': 0.6}
  rng = np.random.default_rng(0)
  rows = []
  for i in range(60):
    changed = row(
      model_id=['Qwen/Qwen3-8B', 'google/gemma-3-12b-it', 'openai/gpt-oss-20b'][
        i % 3
      ],
      avg_batch=str(2.0 ** rng.uniform(2, 8)),
      tokens_per_s=str(2.0 ** rng.uniform(8, 12)),
      median_itl_ms=str(rng.uniform(5, 15)),
    )
    run = energy_rows.read_row(changed, i)
    changed['energy_per_token_J'] = str(energy.token_J(run, H100, truth))
    rows.append(changed)
  fitted = energy.fit_energy(rows)
  found = fitted.of('h100-sxm')
  assert found['near'] == pytest.approx(truth['near'], rel=0.1)
  # Idle power and what prefill adds to it are told apart less well.
  for name in ('idle', 'prefill'):
    assert found[name] == pytest.approx(truth[name], rel=0.3)
  assert fitted.log_sd < 0.05
  answers = energy.predict_energy(rows, None, fitted)
  misses = [math.log(a.predicted / a.observed) for a in answers]
  assert np.abs(misses).max() < 0.05


def test_stacks_survive_a_json_file():
  stacks = energy.prior_stacks()
  plain = json.loads(json.dumps(stacks.document()))
  assert energy.EnergyStacks.from_document(plain) == stacks
  del plain['boards']['other']
  with pytest.raises(KeyError, match='other'):
    energy.EnergyStacks.from_document(plain)


def test_families_left_out_of_the_published_runs():
  path = MEASURED / 'ml_energy.csv'
  if not path.is_file():
    pytest.skip('no ../shared/traces')
  with path.open(encoding='utf-8') as file:
    rows = [r for r in csv.DictReader(file) if r['dataset'] == 'mlenergy_v3']
  # B200 on gpqa is bound by its host.
  rows = [r for r in rows if (r['gpu'], r['task']) != ('B200', 'gpqa')]
  runs = energy.usable_runs(rows)
  assert len(runs) == len(rows)
  misses = np.array([miss for _, miss in energy.held_out_errors(runs)])
  assert np.abs(np.expm1(misses)).mean() < 0.10
