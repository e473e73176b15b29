"""What a user fixes, forbids and limits."""

import numpy as np
import pytest

from diffmem import errors
from diffmem.planning import Constraints
from diffmem.planning import space as space_lib
from diffmem.workloads import Training, machine_of


@pytest.fixture(scope='module')
def space(system, moe):
  return space_lib.space_of(moe, Training(4096, 64), 8, machine_of(system, 8))


def test_choices_leave_out_the_rest(space):
  found = Constraints.parse(
    only=['tensor=2|4', 'recompute=full'], never=['pipeline=2']
  ).apply(space)
  c = found.choices
  assert set(c['tensor']) == {2, 4} and set(c['recompute']) == {2}
  assert 2 not in c['pipeline']
  kept = np.isin(space.choices['tensor'], (2, 4))
  kept &= (space.choices['recompute'] == 2) & (space.choices['pipeline'] != 2)
  assert len(found) == kept.sum()


def test_what_contradicts_is_counted(space):
  found = Constraints.parse(only=['tensor=2', 'experts_by=expert'],
                            never=['tensor=2']).apply(space)  # fmt: skip
  assert len(found) == 0
  alone = {k: v for k, v in found.refused.items() if 'tensor' in k and v}
  # Either of the two alone forbids what the other leaves.
  assert set(alone) == {'tensor = 2', 'tensor other than 2'}


def test_limits_change_the_machine(system):
  constraints = Constraints.parse(
    memory=['HBM=6 GB', 'DRAM=1 TB'], supply=['HBM=40 GB'], power_W=300
  )
  limited = constraints.machine(system, chips=8)
  assert float(limited.tier('HBM').capacity_B) == pytest.approx(5e9)
  assert float(limited.tier('DRAM').capacity_B) == pytest.approx(16e9)
  assert float(limited.power_cap_W) == pytest.approx(300)
  assert Constraints().machine(system, 8) is system


@pytest.mark.parametrize(
  ('asked', 'message'),
  [
    ({'only': ['tensr=2']}, "did you mean 'tensor'"),
    ({'only': ['recompute=ful']}, "did you mean 'full'"),
    ({'only': ['tensor=two']}, 'expected a whole number'),
    ({'never': ['tensor']}, 'expected name=value'),
    ({'memory': ['HBM=60 apples']}, 'HBM=60 apples'),
    ({'memory': ['HBM=0 GB']}, 'expected > 0'),
    ({'power_W': -1.0}, 'power_W'),
  ],
)
def test_bad_texts_say_what_fits(asked, message):
  with pytest.raises(errors.PlanError, match=message):
    Constraints.parse(**asked)


def test_names_are_checked_where_they_are_known(system):
  with pytest.raises(errors.PlanError, match="did you mean 'HBM'"):
    Constraints(memory_B={'HBN': 1e9}).machine(system, 8)
  with pytest.raises(errors.PlanError, match='at rest'):
    Constraints(power_W=40.0).machine(system, 8)
  machine = machine_of(system, 8)
  with pytest.raises(errors.PlanError, match="did you mean 'optimizer'"):
    Constraints(homes={'optimiser': ('DRAM',)}).homes_of(['optimizer'], machine)
