"""The search space against nested loops."""

import itertools
import math

import numpy as np
import pytest

from diffmem.planning import space as space_lib
from diffmem.workloads import (
  AXES,
  SHARDING,
  Training,
  load_workload,
  machine_of,
)
from diffmem.workloads.prefill import Prefilling

_LENGTH, _CHOICES = 48, (*AXES, *SHARDING)


def _meshes_by_loops(chips, spans, free=AXES):
  """Meshes of a machine with every sharding that is another one."""
  divisors = [n for n in range(1, chips + 1) if chips % n == 0]
  for ranks in itertools.product(divisors, repeat=len(free)):
    if math.prod(ranks) != chips:
      continue
    mesh = {**dict.fromkeys(AXES, 1), **dict(zip(free, ranks, strict=True))}
    strides = np.cumprod(list(mesh.values()))
    if any(s % x and x % s for s in spans for x in strides):
      continue
    for by in itertools.product((0, 1), repeat=3 if mesh['tensor'] > 1 else 0):
      yield (*mesh.values(), *(by or (0, 0, 0)))


def _fits_by_loops(row, sequences, length):
  """Whether the model `moe` of the fixtures fits a mesh."""
  t, c, e, f, d, p, by_tokens, mlp_by_tokens, whole_experts = row
  if not by_tokens and (16 % t or (4 % t and t % 4)):
    return False
  if not (mlp_by_tokens and whole_experts) and 4096 % t:
    return False
  if 16 % (e * t if whole_experts else e) or sequences % (e * f * d):
    return False
  sharing = c * t if by_tokens else c
  if sharing > 1 and length % (2 * sharing):
    return False
  if (mlp_by_tokens or whole_experts) and length % (c * t):
    return False
  return p <= 4 and not (4 % p and 6 % p)


def _training_by_loops(sequences, chips, spans):
  found = set()
  for row in _meshes_by_loops(chips, spans):
    if not _fits_by_loops(row, sequences, _LENGTH):
      continue
    e, f, d, p = row[2:6]
    per_rank = sequences // (e * f * d)
    stage = 4 // p if 4 % p == 0 else 6 // p
    for b in space_lib.MICRO_BATCHES:
      for v in range(1, stage + 1):
        if per_rank % b or stage % v:
          continue
        if v > 1 and (p == 1 or (per_rank // b) % p):
          continue
        found |= {(*row, v, b, r) for r in range(3)}
  return found


def _rows(space, names):
  return list(zip(*(space.choices[k].tolist() for k in names), strict=True))


def test_training_space_is_complete_and_legal(system, moe):
  names = (*_CHOICES, 'interleave', 'micro_batch', 'recompute')
  for chips in (8, 12, 24):
    machine = machine_of(system, chips)
    space = space_lib.space_of(moe, Training(_LENGTH, 48), chips, machine)
    rows = _rows(space, names)
    assert len(rows) == len(set(rows)) == len(space)
    assert set(rows) == _training_by_loops(48, chips, machine.spans)


def test_prefill_space_is_complete_and_legal(system, moe):
  machine = machine_of(system, 24)
  space = space_lib.space_of(moe, Prefilling(12, _LENGTH), 24, machine)
  free = ('tensor', 'context', 'expert', 'data')
  expected = {
    row
    for row in _meshes_by_loops(24, machine.spans, free)
    if _fits_by_loops(row, 12, _LENGTH)
  }
  assert len(expected) == len(space) and set(_rows(space, _CHOICES)) == expected
  c = space.choices
  assert (c['micro_batch'] * c['data'] * c['expert'] == 12).all()


def test_only_what_differs_is_enumerated(system):
  dense = load_workload('llama-3.1-8b')
  space = space_lib.space_of(dense, Training(64, 64), 8, machine_of(system, 8))
  c = space.choices
  assert not c['experts_by'].any()
  assert c['mlp_by'].any() and c['attention_by'].any()
  alone = c['tensor'] == 1
  assert alone.any()
  assert not any(c[kind][alone].any() for kind in SHARDING)
  assert space_lib.describe_sharding({k: v[0] for k, v in c.items()}) == {
    'attention': 'tensor', 'mlp': 'tensor', 'experts': 'tensor',
  }  # fmt: skip


def test_a_million_configurations_are_small(system):
  model = load_workload('claude-scale-moe-1t')
  machine = machine_of(system, 64)._replace(spans=(8, 4096))
  space = space_lib.space_of(model, Training(8192, 2048), 4096, machine)
  assert len(space) > 1_000_000
  assert sum(v.nbytes for v in space.choices.values()) < 100e6
  choices = space.at(np.array([0, len(space) - 1]))
  assert choices.tensor.dtype == np.float64
  devices = math.prod(getattr(choices, axis) for axis in AXES)
  assert (devices == 4096).all()
  with pytest.raises(IndexError):
    space.at(len(space))


def test_decode_space(system, moe):
  machine = machine_of(system, 16)
  space = space_lib.decode_space(moe, 24, 16, machine)
  expected = set()
  for row in _meshes_by_loops(16, machine.spans, ('tensor', 'expert', 'data')):
    t, _, e, _, d, _, own, mlp_by, whole_experts = row
    if mlp_by or 24 % (e * d * (t if own else 1)):
      continue
    if 16 % (e * t if whole_experts else e):
      continue
    if own or 16 % t == 0:
      expected.add(row)
  assert len(expected) == len(space) and set(_rows(space, _CHOICES)) == expected
  c = space.choices
  assert (c['micro_batch'] * c['data'] * c['expert'] == 24).all()


def test_a_space_is_empty_where_no_mesh_is_legal(system, moe):
  found = set()
  for chips in range(1, 40):
    machine = machine_of(system, chips)
    for phase in (Training(_LENGTH, 6), Prefilling(6, _LENGTH)):
      space = space_lib.space_of(moe, phase, chips, machine)
      is_legal = space_lib.has_mesh(moe, phase, chips, machine)
      assert is_legal == (len(space) > 0)
      found.add(is_legal)
  assert found == {True, False}


def test_what_alone_forbids_is_counted(system, moe):
  space = space_lib.training_space(
    moe, Training(49, 7), 8, machine_of(system, 8)
  )
  assert len(space) > 0  # tensor 4 and 2 stages
  assert space.refused['sequences of the batch'] > 0


def _tensor_ranks(system, name: str, chips: int) -> list[int]:
  machine = machine_of(system, chips)
  space = space_lib.decode_space(load_workload(name), 64, chips, machine)
  sliced = sum(space.choices[kind] for kind in SHARDING) == 0
  return sorted({int(t) for t in space.choices['tensor'][sliced]})


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
