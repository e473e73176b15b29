"""The quick sweep says what `predict` says."""

import dataclasses

import jax
import numpy as np
import pytest

from diffmem import checkpoint
from diffmem.planning import mesh_sweep, model, space
from diffmem.planning.objective import Objective
from diffmem.workloads import Training, load_workload, machine_of

_CHIPS, _PLANS = 512, 64


def _plans(system, name):
  transformer = load_workload(name)
  training = Training(4096, 1024)
  machine = machine_of(system, _CHIPS)
  found = space.space_of(transformer, training, _CHIPS, machine)
  rng = np.random.default_rng(0)
  index = np.sort(rng.choice(len(found), _PLANS, replace=False))
  return transformer, training, machine, found.at(index)


@pytest.mark.parametrize(
  ('system', 'name'),
  [('h100-sxm', 'mixtral-8x7b'), ('tpu-v5p', 'llama-3.1-70b')],
)
def test_it_agrees_with_predict(system, name, x64):
  system = checkpoint.load_system(system).system
  transformer, training, machine, choices = _plans(system, name)
  quick = mesh_sweep.mesh_sweep(system, transformer, training, machine, choices)
  job = model.Job(transformer, training, machine, Objective())
  whole = model.sweep(
    system, job, job.objective.weights, choices, np.zeros(_PLANS)
  )
  np.testing.assert_allclose(quick.step_time_s, whole.value, rtol=1e-6)
  lowered = model.lower(job, choices)
  needed_B = np.asarray(lowered.size_B.sum(-1) + lowered.fixed_B)
  np.testing.assert_allclose(quick.needed_B, needed_B, rtol=1e-12)
  room_B = 0.9 * float(system.tier(machine.near).capacity_B)
  np.testing.assert_array_equal(quick.fits, needed_B <= room_B)


def test_float32_is_enough():
  system = checkpoint.load_system('h100-sxm').system
  transformer, training, machine, choices = _plans(system, 'llama-3.1-70b')
  with jax.enable_x64(True):
    exact = mesh_sweep.mesh_sweep(
      system, transformer, training, machine, choices
    )
  short = mesh_sweep.jitted(
    jax.tree.map(np.float32, system), transformer, training, machine,
    jax.tree.map(np.float32, choices),
  )  # fmt: skip
  assert short.step_time_s.dtype == np.float32
  np.testing.assert_allclose(short.step_time_s, exact.step_time_s, rtol=2e-5)


def test_contention_is_left_to_predict():
  system = checkpoint.load_system('h100-sxm').system
  tiers = tuple(dataclasses.replace(t, contended=True) for t in system.tiers)
  system = dataclasses.replace(system, tiers=tiers)
  transformer, training, machine, choices = _plans(system, 'llama-3.1-70b')
  with pytest.raises(ValueError, match='contention'):
    mesh_sweep.mesh_sweep(system, transformer, training, machine, choices)
