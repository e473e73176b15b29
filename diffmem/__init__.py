"""diffmem: a differentiable model of bandwidth, latency and energy.

One function, three gradients:

    cost = predict(system, demand)       # seconds and joules, per tier
    demand = lower(workload, plan)       # bytes, granules, FLOPs, messages

Names are imported on first use, so that `import diffmem` is cheap and a
program can check its flags and files before jax is loaded.
"""

import importlib
import importlib.metadata

from diffmem import errors as errors
from diffmem import units as units

__version__ = '0.1.0'

_HOME = {
  'Cost': 'diffmem.cost',
  'Demand': 'diffmem.cost',
  'predict': 'diffmem.cost',
  'Engine': 'diffmem.system',
  'System': 'diffmem.system',
  'Tier': 'diffmem.system',
  'load_catalog': 'diffmem.system',
  'catalog_names': 'diffmem.system',
  'load_system': 'diffmem.checkpoint',
  'Card': 'diffmem.checkpoint',
  'read_traces': 'diffmem.traces',
  'write_traces': 'diffmem.traces',
  'fit': 'diffmem.fitting',
  'evaluate': 'diffmem.fitting',
  'load_checkpoint': 'diffmem.checkpoint',
  'save_checkpoint': 'diffmem.checkpoint',
  'load_workload': 'diffmem.workloads',
  'workload_from_jax': 'diffmem.workloads',
  'make_plan': 'diffmem.planning',
}

__all__ = ['__version__', 'errors', 'units', *sorted(_HOME)]

# jax-ml/jax#39103: on CPU a jitted, vmapped matrix-vector product followed by
# a reduction silently computes wrong numbers; 0.11.1 carries the same fault.
_BROKEN_JAX = frozenset({'0.10.2', '0.11.1'})


def _check_jax(version: str) -> None:
  if version in _BROKEN_JAX:
    raise errors.JaxVersionError(
      f'jax {version} computes silently wrong results on CPU '
      '(jax-ml/jax#39103). Install another version: '
      "pip install 'jax>=0.10.1,!=0.10.2,!=0.11.1'"
    )


_check_jax(importlib.metadata.version('jax'))


def __getattr__(name: str):
  if name not in _HOME:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_HOME[name]), name)


def __dir__():
  return sorted(__all__)
