"""Effects of layer shapes: learned where they repeat, shrunk, else nothing."""

import numpy as np
import pytest

from diffmem.runs import shapes
from diffmem.runs.training_rows import TrainingRun
from diffmem.workloads import load_workload
from diffmem.workloads.train_kernels import Mesh


def _run(micro_batch: int, pipeline: int) -> TrainingRun:
  return TrainingRun(
    index=0, machine='h100-sxm', stack='nemo',
    model=load_workload('llama-3.1-8b'),
    mesh=Mesh(devices=8, pipeline=pipeline), seq_len=1024,
    micro_batch=micro_batch, sequences=64, recompute='none', is_fused=True,
    trains_weights=True, is_pretraining=True, is_complete=True,
    observed_s=1.0, source='s', group='g',
  )  # fmt: skip


def _sample(between: float, within: float, seed: int = 0):
  rng = np.random.default_rng(seed)
  truth = between * rng.standard_normal(12)
  runs = [_run(m + 1, p) for m in range(12) for p in (1, 2, 4, 8)]
  missed = np.repeat(truth, 4) + within * rng.standard_normal(48)
  return runs, missed, truth


def test_shapes_that_repeat_are_learned_and_shrunk():
  runs, missed, truth = _sample(0.1, 0.02)
  found = shapes.effects(runs, missed)
  effect = np.array([found[shapes.shape_of(_run(m + 1, 1))] for m in range(12)])
  np.testing.assert_allclose(effect, truth, atol=0.03)
  means = missed.reshape(12, 4).mean(1)
  assert (np.abs(effect) < np.abs(means)).all()


def test_noise_is_not_learned():
  runs, missed, _ = _sample(0.0, 0.05)
  assert shapes.effects(runs, missed) == {}


def test_shapes_without_repeats_are_not_learned():
  runs = [_run(m + 1, 1) for m in range(30)]
  assert shapes.effects(runs, np.linspace(-0.2, 0.2, 30)) == {}


@pytest.mark.parametrize('pipeline', [1, 4])
def test_depth_is_no_part_of_a_shape(pipeline):
  assert shapes.shape_of(_run(2, pipeline)) == shapes.shape_of(_run(2, 2))
  assert shapes.shape_of(_run(2, 1)) != shapes.shape_of(_run(4, 1))
