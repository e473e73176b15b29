"""A sweep over devices and processes gives what one device gives.

The others run in processes of their own: devices are counted when jax starts.
"""

import dataclasses
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffmem.cost import overlap
from diffmem.planning import spread
from diffmem.planning.space import Space
from diffmem.workloads import Choices

_PLANS, _BATCH = 1000, 64
_ROOT = pathlib.Path(__file__).parent.parent.parent


def _space() -> Space:
  rng = np.random.default_rng(0)
  names = [field.name for field in dataclasses.fields(Choices)]
  return Space({n: rng.uniform(1.0, 64.0, _PLANS) for n in names}, {})


@jax.jit
def _joined(choices):
  """Norms, as the laws are made of."""
  norm = overlap.pair_norm(choices.tensor, choices.fsdp, 3.0)
  return norm, norm + choices.data


def _swept(index=None) -> list[np.ndarray]:
  index = np.arange(_PLANS) if index is None else index
  batches = list(spread.map_batches(_joined, _space(), index, _BATCH))
  np.testing.assert_array_equal(np.concatenate([b[0] for b in batches]), index)
  return [
    np.concatenate(column)
    for column in zip(*(found for _, found in batches), strict=True)
  ]


@pytest.fixture(scope='module')
def alone():
  return _swept()


def test_every_plan_is_valued_in_order(alone):
  choices = jax.tree.map(np.float32, _space().at(np.arange(_PLANS)))
  expected = _joined(choices)
  np.testing.assert_allclose(alone, expected, rtol=1e-6)
  assert alone[0].dtype == np.float64


def test_some_plans_are_valued_in_the_order_that_is_asked_for(alone):
  index = np.array([7, 3, 999, 3])
  np.testing.assert_array_equal(_swept(index), [x[index] for x in alone])


def test_of_no_plans_nothing_is_said():
  nothing = np.zeros(0, np.int64)
  assert not list(spread.map_batches(_joined, _space(), nothing, _BATCH))


def test_batches_come_one_by_one():
  asked = []

  def slow(choices):
    asked.append(len(choices.tensor))
    return (choices.tensor,)

  index = np.arange(_PLANS)
  batches = spread.map_batches(slow, _space(), index, _BATCH)
  some, _ = next(batches)
  assert len(some) == _BATCH and asked == [_BATCH]
  batches.close()


def test_an_error_of_the_function_is_the_error_of_the_sweep():
  def broken(choices):
    raise ValueError('no such law')

  with pytest.raises(ValueError, match='no such law'):
    list(spread.map_batches(broken, _space(), np.arange(9), _BATCH))


def _started(file, devices: int, *arguments) -> subprocess.Popen:
  """Runs the end of this file with so many devices."""
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(_ROOT),
    'XLA_FLAGS': os.environ.get('XLA_FLAGS', '')
    + f' --xla_force_host_platform_device_count={devices}',
  }
  return subprocess.Popen(
    [sys.executable, __file__, str(file), *map(str, arguments)],
    env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    text=True, cwd=_ROOT,
  )  # fmt: skip


def _address() -> str:
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{free.getsockname()[1]}'


def test_four_devices_and_two_processes_give_the_same(alone, tmp_path):
  files = [tmp_path / f'{i}.npz' for i in range(3)]
  address = _address()
  started = [
    _started(files[0], 4),
    _started(files[1], 1, address, 0),
    _started(files[2], 1, address, 1),
  ]
  for process in started:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
  four, *processes = map(np.load, files)
  assert four['devices'] == 4
  np.testing.assert_allclose(four['values'], alone, rtol=1e-6)
  for found in processes:
    assert found['devices'] == 2
    np.testing.assert_array_equal(found['values'], alone)


if __name__ == '__main__':
  _file, *_pair = sys.argv[1:]
  if _pair:
    jax.distributed.initialize(_pair[0], 2, int(_pair[1]))
  np.savez(_file, values=_swept(), devices=jax.device_count())
