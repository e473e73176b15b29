"""Every test runs with shape checks, no rank promotion, and float64 at hand.

jaxtyping annotations of diffmem are checked by beartype at every call. The
suite keeps its XLA programs in one cache, so that a second run is quick.
"""

import os
import pathlib

import hypothesis
import pytest
from jaxtyping import install_import_hook

ROOT = pathlib.Path(__file__).parent.parent

os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(ROOT / '.pytest_cache/xla')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
# Most programs of the suite run once: compiling them is what takes time.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true',
)

# Not the modules with pytree classes: jax rebuilds those with placeholders.
_CHECKED = [
  'diffmem.cost.capacity',
  'diffmem.cost.collective',
  'diffmem.cost.energy',
  'diffmem.cost.overlap',
  'diffmem.cost.predict',
  'diffmem.cost.residency',
  'diffmem.cost.service',
  'diffmem.fitting.evaluate',
  'diffmem.fitting.loss',
  'diffmem.fitting.observe',
  'diffmem.fitting.optimise',
  'diffmem.fitting.split',
  'diffmem.fitting.uncertainty',
]
_hook = install_import_hook(_CHECKED, 'beartype.beartype')

import jax  # noqa: E402 - after the environment is set

jax.config.update('jax_numpy_rank_promotion', 'raise')

hypothesis.settings.register_profile(
  'diffmem', deadline=None, max_examples=40, derandomize=True
)
hypothesis.settings.load_profile('diffmem')


@pytest.fixture
def x64():
  """float64 within one test."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope='session')
def root() -> pathlib.Path:
  """The project's folder."""
  return ROOT
