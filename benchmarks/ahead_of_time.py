"""diffmem's own programs, compiled for chips that are not here.

    pip install 'diffmem[xla-truth]'
    JAX_PLATFORMS=cpu python -m benchmarks.ahead_of_time --chip=v5p

compiles `predict`, a fit's search (Levenberg-Marquardt steps with Jacobian and
solve) and both programs of the planner's sweep in float32, and prints one JSON
row for each: what, the chip, seconds to compile, bytes of temporaries.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from benchmarks import xla_truth
from diffmem import checkpoint
from diffmem.cost import predict
from diffmem.fitting import compiled
from diffmem.fitting.problem import make_problem
from diffmem.planning import model, space
from diffmem.planning.objective import Objective
from diffmem.planning.unrolled import sweep as unrolled_sweep
from diffmem.system import cpu_system
from diffmem.traces import from_rows
from diffmem.workloads import Training, demand, load_workload, machine_of

CHIPS = {'v5p': 'tpu', 'h100': 'gpu'}
_PLATFORMS = {'tpu': 'tpu', 'gpu': 'cuda'}
_CHIPS = 64


def programs(plans: int = 256) -> dict[str, tuple[Callable, tuple]]:
  """By name, a function of arrays and arguments for it.

  Args:
    plans: how many are swept.
  """
  system = checkpoint.load_system('h100-sxm').system
  job = model.Job(
    load_workload('mixtral-8x7b'),
    Training(4096, 256),
    machine_of(system, _CHIPS),
    Objective(),
  )
  found = space.space_of(job.model, job.phase, _CHIPS, job.machine)
  choices = found.at(np.arange(plans) % len(found))

  def lower(choices):
    return model.lower(job, choices)

  def near(system, choices):
    goal = job.objective
    return unrolled_sweep.swept(system, lower(choices), goal, None)

  def greedy(system, choices, spill):
    goal = job.objective
    return unrolled_sweep.swept(system, lower(choices), goal, spill)

  def predicted(system, choices):
    lowered = lower(choices)
    asked = demand(system, lowered, lowered.near_placement())
    return predict(system, asked)

  return {
    'predict': (predicted, (system, choices)),
    'fit step': _fit(),
    'sweep, all near': (near, (system, choices)),
    'sweep, greedy': (greedy, (system, choices, np.ones(plans))),
  }


def _fit() -> tuple[Callable, tuple]:
  """The compiled search of a fit of eight rows."""
  prior = cpu_system('any', (32e3, 1e6, 32e6), (True, True, False))
  rows = [
    {
      'system': 'any', 'tier': 'DRAM', 'op': 'stream', 'participants': 1,
      'working_set_bytes': size, 'bytes_read': 1e9, 'bandwidth_Bps': 1e10,
    }
    for size in np.geomspace(8e3, 4e8, 8)
  ]  # fmt: skip
  prior_sd = {name: known.prior_sd for name, known in prior.knowledge.items()}
  problem = make_problem(prior.system, prior_sd, from_rows(rows))
  lanes = compiled.LANES
  theta = np.tile(problem.data.prior, (lanes, 1))
  weight = np.ones((lanes, len(problem.data.weight)))
  arguments = theta, weight, theta, problem.data, np.int32(10)
  return compiled.minimiser(compiled.Key(problem)), arguments


def compiled_for(chip: str, function: Callable, arguments: tuple) -> dict:
  """Compiles a function for one device of a chip, in float32."""
  platform = CHIPS[chip]
  mesh = xla_truth.mesh_of(
    {'platform': platform, 'topology': 'v5p:2x2x1', 'mesh': {}}
  )
  place = SingleDeviceSharding(mesh.devices.flat[0])

  def described(value: Any) -> jax.ShapeDtypeStruct:
    kind = jax.dtypes.canonicalize_dtype(np.asarray(value).dtype)
    return jax.ShapeDtypeStruct(np.shape(value), kind, sharding=place)

  began = time.process_time()
  lowered = (
    jax.jit(function)
    .trace(*jax.tree.map(described, arguments))
    .lower(lowering_platforms=(_PLATFORMS[platform],))
  )
  memory = lowered.compile().memory_analysis()
  return {
    'seconds': round(time.process_time() - began, 2),
    'temporary_B': memory.temp_size_in_bytes if memory else None,
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--chip', choices=sorted(CHIPS), default='v5p')
  options = parser.parse_args()
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  for what, (function, arguments) in programs().items():
    row = compiled_for(options.chip, function, arguments)
    print(json.dumps({'what': what, 'chip': options.chip, **row}), flush=True)


if __name__ == '__main__':
  main()
