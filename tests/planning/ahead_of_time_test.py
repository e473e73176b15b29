"""diffmem's own programs on other processors than this one.

They compile for TPU v5p and H100 where the extra `xla-truth` is installed,
and where jax has a GPU they run on it and agree with this processor.
"""

import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from benchmarks import ahead_of_time


@pytest.mark.parametrize(
  ('chip', 'plugin'), [('v5p', 'libtpu'), ('h100', 'jax_cuda12_plugin')]
)
def test_programs_compile_ahead_of_time(chip, plugin, root):
  pytest.importorskip(plugin, reason='needs the extra xla-truth')
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.ahead_of_time', f'--chip={chip}'],
    cwd=root, env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True, text=True, check=False, timeout=500,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  rows = [json.loads(line) for line in done.stdout.splitlines()]
  assert [row['what'] for row in rows] == [
    'predict', 'fit step', 'sweep, all near', 'sweep, greedy',
  ]  # fmt: skip
  print(*rows, sep='\n')


def _gpus() -> list[jax.Device]:
  try:
    return jax.devices('gpu')
  except RuntimeError:
    return []


def _seconds(function, arguments) -> float:
  """The least of five runs."""
  found = []
  for _ in range(5):
    began = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    found.append(time.perf_counter() - began)
  return min(found)


def test_gpu_agreement():
  gpus = _gpus()
  if not gpus:
    pytest.skip('jax has no GPU here')
  for name, (function, arguments) in ahead_of_time.programs(4096).items():
    short = jax.tree.map(
      lambda x: np.asarray(x, jax.dtypes.canonicalize_dtype(np.result_type(x))),
      arguments,
    )
    here = jax.device_put(short, jax.devices('cpu')[0])
    there = jax.device_put(short, gpus[0])
    run = jax.jit(function)
    expected, found = run(*here), run(*there)
    if name != 'fit step':  # a search may stop one step earlier
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-12),
        jax.device_get(found),
        jax.device_get(expected),
      )
    print(f'{name}: {_seconds(run, there):.2e} s on {gpus[0].device_kind}')
