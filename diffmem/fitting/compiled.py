"""The compiled functions of a fit, one set per structure of problem.

Arrays are arguments, so that every start, bootstrap draw and rescaling of one
problem shares a compilation.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from diffmem.cost import predict
from diffmem.fitting import optimise
from diffmem.fitting.problem import Problem

Progress = Callable[[str, int, int], None]

LANES = 4  # fits that run side by side in one compiled call


def minimise(
  problem, thetas, steps, *, stage, on_progress, weights=None, priors=None
) -> optimise.Minimum:
  """Minimises from many starts, `LANES` at a time, reporting progress."""
  data = problem.data
  run = minimiser(Key(problem))
  n = len(thetas)
  weights = np.broadcast_to(
    data.weight if weights is None else weights, (n, len(data.weight))
  )
  priors = np.broadcast_to(
    data.prior if priors is None else priors, (n, len(data.prior))
  )
  parts = []
  for first in range(0, n, LANES):
    index = np.minimum(np.arange(first, first + LANES), n - 1)
    part = run(thetas[index], weights[index], priors[index], data, steps)
    parts.append(jax.tree.map(np.asarray, part))
    on_progress(stage, min(first + LANES, n), n)
  joined = jax.tree.map(lambda *x: np.concatenate(x)[:n], *parts)
  return optimise.Minimum(*joined)


class Key:
  """Identity of a problem's structure; its arrays are arguments.

  Rows, values and priors differ from run to run; what is compiled does not,
  so that the persistent compilation cache serves the next run too.
  """

  def __init__(self, problem: Problem):
    self.problem = problem
    self.id = (jax.tree.structure(problem.system), problem.names)

  def __hash__(self):
    return hash(self.id)

  def __eq__(self, other):
    return self.id == other.id


@functools.lru_cache(maxsize=4)
def minimiser(key: Key):
  """One compiled function: `LANES` fits with their own data side by side."""

  def one(theta, weight, prior, shared, steps):
    data = dataclasses.replace(shared, weight=weight, prior=prior)
    return optimise.levenberg_marquardt(
      lambda t: key.problem.terms(t, data), theta, steps=steps
    )

  return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None, None)))


@functools.lru_cache(maxsize=4)
def slope(key: Key):
  """Compiled: gradient of a mix of all equations."""

  def mixed(theta, data, mix):
    return mix @ key.problem.log_ratio(theta, data)

  return jax.jit(jax.grad(mixed))


@functools.lru_cache(maxsize=4)
def diagnoser(key: Key):
  """Compiled: bytes that every tier serves, and log ratios."""

  def diagnose(theta, data):
    cost = predict(key.problem.system_at(theta, data), data.demand)
    return cost.served_B, key.problem.log_ratio_of(cost, data)

  return jax.jit(diagnose)
