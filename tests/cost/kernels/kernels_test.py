"""What all kernel laws have in common, and the cast."""

import numpy as np
import pytest

from diffmem.cost import kernels
from diffmem.traces import schema

SHAPE = {
  'm': [1, 100, 4096], 'n': [64, 512, 4096], 'k': [64, 128, 4096],
  'batch_size': [1, 3, 64], 'seq_len': [1, 100, 4096],
  'kv_len': [1, 100, 4096], 'num_heads': [1, 32, 64],
  'num_kv_heads': [1, 8, 64], 'head_dim': [64, 128, 256],
  'window_size': [0, 0, 128], 'num_tokens': [1, 77, 4096],
  'hidden_size': [1024, 2880, 7168], 'inter_size': [512, 2880, 2048],
  'topk': [1, 4, 8], 'num_experts': [8, 32, 256],
  'tensor_shards': [1, 2, 8], 'expert_shards': [1, 2, 8],
}  # fmt: skip


def shape(**columns):
  return {
    name: np.asarray(v, float) for name, v in {**SHAPE, **columns}.items()
  }


@pytest.mark.parametrize('op', kernels.LAWS)
@pytest.mark.parametrize('units', [1, 108, 148])
class TestLaws:
  def test_work_is_whole_and_finite(self, op, units):
    law = kernels.LAWS[op]
    found = law.work(shape(), units)
    fields = [
      found.flops, found.read_B, found.write_B, found.working_set_B,
      found.occupancy,
    ]  # fmt: skip
    for values in fields:
      assert values.shape == (3,)
      assert values.dtype == np.float64
      assert (np.isfinite(values) & (values > 0)).all()
    for values in found.features.values():
      assert values.shape == (3,)
      assert np.isfinite(values).all()
    assert (found.occupancy <= 1).all()

  def test_rows_do_not_see_each_other(self, op, units):
    law = kernels.LAWS[op]
    found = law.work(shape(), units)
    for i in range(3):
      one = {name: v[i : i + 1] for name, v in shape().items()}
      alone = law.work(one, units)
      assert alone.flops[0] == pytest.approx(found.flops[i], rel=1e-12)
      for name, values in alone.features.items():
        assert values[0] == pytest.approx(found.features[name][i], rel=1e-9)

  def test_what_is_unknown_may_be_missing_or_nan(self, op, units):
    law = kernels.LAWS[op]
    nan = dict.fromkeys(
      ('weight_bytes', 'working_set_bytes', 'kv_B', 'element_B', 'gated'),
      [np.nan] * 3,
    )
    with_nan = law.work(shape(**nan), units)
    without = law.work(shape(), units)
    assert with_nan.read_B == pytest.approx(without.read_B)
    assert with_nan.working_set_B == pytest.approx(without.working_set_B)


def test_columns_are_of_the_schema():
  for op, law in kernels.LAWS.items():
    assert op in schema.OPS
    assert set(law.columns) <= set(schema.BY_NAME)


def test_units_of_their_own():
  units = [law.unit for law in kernels.LAWS.values()]
  assert len(set(units)) == len(units)


def test_cast_moves_three_bytes_for_a_value():
  found = kernels.LAWS['cast'].work(shape(), 132)
  values = np.array(SHAPE['m']) * np.array(SHAPE['k'])
  assert found.flops == pytest.approx(values)
  assert found.read_B + found.write_B == pytest.approx(3.0 * values)
