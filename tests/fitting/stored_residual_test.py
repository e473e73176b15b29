"""A residual survives a checkpoint, bit by bit."""

import dataclasses

import jax
import numpy as np

from diffmem import checkpoint, fitting
from diffmem.fitting import corrections

from . import device


def test_predictions_are_the_same_after_loading(tmp_path):
  rows, _ = device.products(rows=300)
  options = fitting.ResidualOptions(members=2, hidden=8, steps=(50, 50))
  with jax.enable_x64(True):
    residuals = corrections.train(
      device.spec().system, rows, options, 0, lambda *_: None
    )
  fitted = dataclasses.replace(device.spec(), residuals=residuals)
  checkpoint.save_checkpoint(
    tmp_path / 'a', fitted, checkpoint.Card.now(seed=0)
  )
  loaded = checkpoint.load_checkpoint(tmp_path / 'a').fitted
  assert loaded.system.compute_units == 100
  before, after = (fitting.predict_traces(f, rows) for f in (fitted, loaded))
  for field in ('predicted', 'lo90', 'hi90', 'by_laws'):
    np.testing.assert_array_equal(getattr(before, field), getattr(after, field))
  known, again = residuals['gemm.time_s'], loaded.residuals['gemm.time_s']
  assert known.inputs == again.inputs and known.rows == again.rows
  for name, weights in known.weights.items():
    np.testing.assert_array_equal(weights, again.weights[name])
