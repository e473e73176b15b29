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
# Most programs of the suite run once: compiling them is what takes time. The
# last two compile large gradients three times faster.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true '
  '--xla_cpu_use_fusion_emitters=false '
  '--xla_cpu_parallel_codegen_split_count=1',
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


# Files that take longest: whichever worker has one should have it early.
_LONGEST = (
  'programs_test.py', 'plan_test.py', 'fit_test.py', 'plan_serving_test.py',
  'predict_test.py', 'unrolled_test.py', 'examples_test.py',
  'runs_programs_test.py', 'residual_test.py', 'finalists_test.py',
  'whole_space_test.py', 'compiled_plan_test.py', 'contention_test.py',
)  # fmt: skip


def pytest_collection_modifyitems(items):
  """Puts the longest files first; `make test` keeps this order."""
  rank = {name: i for i, name in enumerate(_LONGEST)}
  items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture
def x64():
  """float64 within one test."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope='session')
def root() -> pathlib.Path:
  """The project's folder."""
  return ROOT
