"""Speed of the planner's sweep: `make bench`.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false taskset -c 0 \
      python -m pytest benchmarks/sweep_benchmark.py

A mixture of experts of 1e12 parameters on 4,096 H100, lowering included, in
float32. Read it as ratios within one run; plans a second are 16,384 over the
mean.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import checkpoint
from diffmem.planning import mesh_sweep, model, space
from diffmem.planning.objective import Objective
from diffmem.planning.unrolled import minorant as unrolled_minorant
from diffmem.planning.unrolled import sweep as unrolled_sweep
from diffmem.workloads import Training, load_workload, machine_of

PLANS, CHIPS = 16_384, 4096
OPTIONS = {'xla_backend_optimization_level': 1}


@pytest.fixture(scope='module')
def case():
  system = checkpoint.load_system('h100-sxm').system
  job = model.Job(
    load_workload('claude-scale-moe-1t'),
    Training(8192, 2048),
    machine_of(system, CHIPS),
    Objective(),
  )
  found = space.space_of(job.model, job.phase, CHIPS, job.machine)
  rng = np.random.default_rng(0)
  some = np.sort(rng.choice(len(found), PLANS, replace=False))
  short = jax.tree.map(np.float32, (system, found.at(some)))
  return job, *jax.device_put(short)


def meshes(job, system, choices):
  return mesh_sweep.mesh_sweep(
    system, job.model, job.phase, job.machine, choices
  )


def everything_near(job, system, choices):
  lowered = model.lower(job, choices)
  return unrolled_sweep.swept(system, lowered, job.objective, None)


def greedy(job, system, choices):
  spill = jnp.ones_like(choices.tensor)
  lowered = model.lower(job, choices)
  return unrolled_sweep.swept(system, lowered, job.objective, spill)


def bound_and_slope(job, system, choices):
  lowered = model.lower(job, choices)
  shares, _ = unrolled_sweep.place(system, lowered)
  placement = jnp.moveaxis(shares, (0, 1), (2, 1))
  return unrolled_minorant.bound(system, lowered, placement, job.objective)


def predicted(job, system, choices):
  spill = jnp.ones_like(choices.tensor)
  return model._sweep(system, job.shape, job.objective.weights, choices, spill)


FUNCTIONS = {
  'meshes alone': meshes,
  'everything near, and what would spill': everything_near,
  'greedy placement': greedy,
  'greedy placement, bound and slope': bound_and_slope,
  'greedy placement by predict': predicted,
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_sweep(benchmark, case, name):
  job, *arguments = case

  def function(system, choices):
    return FUNCTIONS[name](job, system, choices)

  run = jax.jit(function, compiler_options=OPTIONS)
  jax.block_until_ready(run(*arguments))
  benchmark.group = f'{PLANS:,} plans'
  benchmark(lambda: jax.block_until_ready(run(*arguments)))
