"""The jax that must not be used, and the program that it gets wrong."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffmem
from diffmem import errors


@pytest.mark.parametrize('version', ['0.10.2', '0.11.1'])
def test_refuses_broken_jax(version):
  with pytest.raises(errors.JaxVersionError, match='jax-ml/jax#39103'):
    diffmem._check_jax(version)


@pytest.mark.parametrize('version', ['0.10.1', '0.11.0', '0.12.0.1'])
def test_accepts_sound_jax(version):
  diffmem._check_jax(version)


def test_metadata_excludes_broken_jax():
  wants = [
    r for r in importlib.metadata.requires('diffmem') if r.startswith('jax>')
    or r.startswith('jax!')
  ]  # fmt: skip
  assert wants and '!=0.10.2' in wants[0] and '!=0.11.1' in wants[0]


@pytest.mark.parametrize('size', [3, 17, 64])
def test_matvec_then_reduction(size):
  """jax-ml/jax#39103: wrong in jax 0.10.2 on CPU."""
  rng = np.random.default_rng(size)
  matrices = rng.standard_normal((32, size, size)).astype(np.float32)
  vectors = rng.standard_normal((32, size)).astype(np.float32)

  @jax.jit
  def program(matrices, vectors):
    products = jax.vmap(lambda a, x: a @ x)(matrices, vectors)
    return jnp.sum(products, axis=-1), jnp.sum(products**2)

  sums, squares = program(matrices, vectors)
  products = np.einsum('bij,bj->bi', matrices, vectors, dtype=np.float64)
  np.testing.assert_allclose(sums, products.sum(-1), rtol=1e-4, atol=1e-3)
  np.testing.assert_allclose(squares, (products**2).sum(), rtol=1e-4)
