"""The search space against nested loops."""

import numpy as np

from diffmem.planning import space as space_lib
from diffmem.workloads import load_workload, machine_of


def _by_loops(moe, sequences, chips, spans):
  found = set()
  numbers = range(1, chips + 1)
  for t in numbers:
    for e in numbers:
      for f in numbers:
        for d in numbers:
          if t * e * f * d > chips or chips % (t * e * f * d):
            continue
          p = chips // (t * e * f * d)
          strides = np.cumprod([t, e, f, d, p])
          if any(s % x and x % s for s in spans for x in strides):
            continue
          if 16 % t or (4 % t and t % 4) or 4096 % t or 16 % e:
            continue
          if p > 4 or (4 % p and 6 % p) or sequences % (e * f * d):
            continue
          per_rank = sequences // (e * f * d)
          stage = 4 // p if 4 % p == 0 else 6 // p
          for b in space_lib.MICRO_BATCHES:
            for v in range(1, stage + 1):
              if per_rank % b or stage % v:
                continue
              if v > 1 and (p == 1 or (per_rank // b) % p):
                continue
              for r in range(3):
                found.add((t, e, f, d, p, v, b, r))
  return found


def test_training_space_is_complete_and_legal(system, moe):
  for chips in (8, 12, 24):
    machine = machine_of(system, chips)
    space = space_lib.training_space(moe, 48, chips, machine)
    order = ('tensor', 'expert', 'fsdp', 'data', 'pipeline', 'interleave',
             'micro_batch', 'recompute')  # fmt: skip
    rows = list(zip(*(space.choices[k] for k in order), strict=True))
    assert len(rows) == len(set(rows)) == len(space)
    assert set(rows) == _by_loops(moe, 48, chips, machine.spans)


def test_decode_space(system, moe):
  space = space_lib.decode_space(moe, 96, 16, machine_of(system, 16))
  meshes = {
    (int(t), int(e), int(d))
    for t, e, d in zip(
      *(space.choices[k] for k in ('tensor', 'expert', 'data')), strict=True
    )
  }
  expected = {
    (t, e, 16 // (t * e))
    for t in (1, 2, 4, 8, 16)
    for e in (1, 2, 4, 8, 16)
    if 16 % (t * e) == 0 and 96 % (16 // t) == 0
  }
  assert meshes == expected
  c = space.choices
  assert (c['micro_batch'] * c['data'] * c['expert'] == 96).all()


def test_what_alone_forbids_is_counted(system, moe):
  space = space_lib.training_space(moe, 7, 8, machine_of(system, 8))
  assert len(space) > 0  # tensor 4 and 2 stages
  assert space.refused['sequences of the batch'] > 0


def _tensor_ranks(system, name: str, chips: int) -> list[int]:
  machine = machine_of(system, chips)
  space = space_lib.decode_space(load_workload(name), 64, chips, machine)
  return sorted({int(t) for t in space.choices['tensor']})


def test_tensor_ranks_share_the_heads_of_every_kind_of_layer(system):
  # Latent attention: 128 heads of keys and values.
  assert _tensor_ranks(system, 'deepseek-v3', 64) == [1, 2, 4, 8, 16, 32, 64]
  # Full layers: 16 heads, 2 of keys; linear ones: 64 of values, 16 of keys.
  names = ('qwen3.5-397b-a17b', 'gemma-4-26b-a4b')
  for name in names:
    model = load_workload(name)
    heads = [
      (g.attention.heads, g.attention.kv_heads)
      for g in model.attention_groups()
    ]
    if model.linear:
      heads.append((model.linear.value_heads, model.linear.key_heads))
    widths = (model.d_ff, model.shared_ff, model.experts.d_ff)
    legal = [
      t
      for t in (1, 2, 4, 8, 16, 32, 64)
      if all(h % t == 0 and (k % t == 0 or t % k == 0) for h, k in heads)
      and all(w % t == 0 for w in widths)
    ]
    assert _tensor_ranks(system, name, 64) == legal
    assert max(legal) < 64
