"""Which memory to build, buy and place: gradients to hardware and dollars.

Names are imported on first use: what needs no planner does not wait for one.
"""

import importlib

_HOME = {
  'Mix': 'mixes.mix',
  'load_mix': 'mixes.mix',
  'MixOptimum': 'mixes.mix_optimum',
  'MixSolver': 'mixes.mix_optimum',
  'Rates': 'mixes.mix_optimum',
  'Study': 'studies.study',
  'study': 'studies.study',
  'target_of': 'studies.study',
  'Worth': 'studies.value',
  'CostMap': 'studies.cost_map',
  'cost_map': 'studies.cost_map',
  'near_memory': 'studies.cost_map',
  'WhatIf': 'studies.what_ifs',
  'load_what_ifs': 'studies.what_ifs',
  'named_what_ifs': 'studies.what_ifs',
  'DesignedMemory': 'studies.designed',
  'design_memory': 'studies.designed',
  'Kit': 'designs.design',
  'parse_budgets': 'designs.budgets',
  'MeasureNext': 'measuring.measure_next',
  'Target': 'measuring.measure_next',
  'measure_next': 'measuring.measure_next',
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
  if name not in _HOME:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_HOME[name]}'), name)


def __dir__():
  return __all__
