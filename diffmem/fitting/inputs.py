"""What a residual sees of a row: the law's features and shares of the cost.

Shares say which part of the machine a row waits for; they move with the
system, so that a residual that was learned on one machine knows where a row
lies on its sister.
"""

from collections.abc import Iterator

import numpy as np

from diffmem.cost import Cost
from diffmem.fitting import kernel_rows
from diffmem.fitting.residual import Inputs
from diffmem.system import System
from diffmem.traces import Traces

# Ops of one physics learn together: a residual has one family.
_FAMILIES = dict.fromkeys(
  ('all_reduce', 'all_gather', 'reduce_scatter', 'all_to_all', 'send_recv'),
  'collective',
) | dict.fromkeys(('expert_dispatch', 'expert_combine'), 'expert_parallel')
_CATEGORIES = ('op', 'dtype', 'kv_dtype', 'quantization', 'variant', 'gated')
# A share below this one counts as this one.
_LEAST = 1e-3


def of_groups(
  system: System, traces: Traces, cost: Cost
) -> Iterator[tuple[str, np.ndarray, Inputs]]:
  """Family, rows and inputs of all rows that a residual may correct.

  A family is an op, or several of one physics.

  Args:
    system: the machine.
    traces: the rows.
    cost: what the laws say of all of them.
  """
  families: dict[str, list[kernel_rows.Group]] = {}
  for group in kernel_rows.groups(system, traces):
    families.setdefault(family(group.op), []).append(group)
  for name, groups in families.items():
    rows = np.concatenate([group.rows for group in groups])
    features = {
      key: np.concatenate([_feature(group, key) for group in groups])
      for key in groups[0].work.features
    }
    numbers = features | _shares(system, cost, rows)
    yield (
      name,
      rows,
      Inputs(
        names=tuple(numbers),
        numbers=np.stack(list(numbers.values()), 1),
        labels=_labels(traces.select(rows)),
      ),
    )


def family(op: str) -> str:
  """The ops that learn together with this one, by one name."""
  return _FAMILIES.get(op, op)


def _feature(group: kernel_rows.Group, key: str) -> np.ndarray:
  value = np.asarray(group.work.features[key], float)
  return np.broadcast_to(value, len(group.rows))


def _shares(system: System, cost: Cost, rows: np.ndarray) -> dict:
  """Logs of the parts of the time, and of memory over arithmetic."""

  def part(values):
    return np.asarray(values)[rows]

  whole = part(cost.free_time_s)
  engines = part(cost.engine_time_s).sum(-1)
  tiers = part(cost.tier_time_s)

  def log_share(time_s):
    return np.log(np.clip(time_s / whole, _LEAST, 1.0))

  found = {'share of arithmetic': log_share(engines)}
  busy = tiers.sum(-1)
  for i, name in enumerate(system.tier_names):
    if (tiers[:, i] > 0).any():
      found[f'share of {name}'] = log_share(tiers[:, i])
  found['share of start'] = log_share(whole - np.maximum(engines, busy))
  ratio = np.maximum(busy, 1e-12) / np.maximum(engines, 1e-12)
  found['memory over arithmetic'] = np.clip(np.log(ratio), -5.0, 5.0)
  static = part(cost.static_J) / np.maximum(part(cost.energy_J), 1e-30)
  found['share of static power'] = static
  return found


def _labels(part: Traces) -> np.ndarray:
  """'column=value' of every category [row column]."""
  columns = []
  for name in _CATEGORIES:
    values = part[name]
    unique, index = np.unique(values.astype(str), return_inverse=True)
    texts = np.array([f'{name}={value}' for value in unique], object)
    columns.append(texts[index])
  return np.stack(columns, 1)
