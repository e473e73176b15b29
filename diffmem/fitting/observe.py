"""Between traces and the model: what a row asked for, what it observed.

Each row becomes one operation of a `Demand`; each observation of a row that
says something of its own becomes one equation of the fit.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from diffmem import errors
from diffmem.cost import STREAM_B, UNCACHED_B, Cost, Demand, service
from diffmem.system import System
from diffmem.traces import Traces

# What a row is about, in order of preference: time, bandwidth and latency of
# one row are the same measurement by Little's law, and count once.
FITTED_ON_LATENCY = ('pointer_chase', 'loaded_latency')
FITTED_ON_BANDWIDTH = (
  'stream', 'copy', 'triad', 'random_read', 'sequential_read'
)  # fmt: skip
_MATRIX_OPS = frozenset({'gemm', 'gemm_chain'})
_LINE_B = 64.0
# The open form is judged only below this share of the highest bandwidth seen.
OPEN_LOAD_LIMIT = 0.95


@dataclasses.dataclass(frozen=True)
class Observations:
  """Equations of a fit.

  Attributes:
    names: what each equation observes, such as 'latency_s' [equation].
    row: row of the trace [equation].
    log_value: log of what was observed [equation].
    rel_std: relative standard deviation of the repeats, NaN if unknown.
  """

  names: Sequence[str]
  row: Int[np.ndarray, ' equation']
  log_value: Float[np.ndarray, ' equation']
  rel_std: Float[np.ndarray, ' equation']

  def __len__(self) -> int:
    return len(self.names)

  @property
  def which(self) -> Int[np.ndarray, ' equation']:
    """Index of each observable in `OBSERVABLES`."""
    return np.array([OBSERVABLES.index(name) for name in self.names])


def demand_of(system: System, traces: Traces) -> Demand:
  """What the rows of a trace asked of a system.

  Raises:
    FitError: a tier or number format that the system lacks, with the row.
  """
  home = _home_index(system, traces)
  flops = _flops(system, traces)
  shape = (len(traces), len(system.tiers))
  rows = np.arange(len(traces))

  def at_home(values, fill):
    table = np.full(shape, fill)
    table[rows, home] = values
    return table

  op = traces['op']
  chase = np.isin(op, FITTED_ON_LATENCY)
  granule = np.where(op == 'pointer_chase', _LINE_B, STREAM_B)
  in_flight = np.where(op == 'pointer_chase', _LINE_B, 0.0)
  read_B = _first_known(traces.get('bytes_read'), np.where(chase, _LINE_B, 0.0))
  return Demand(
    read_B=at_home(read_B, 0.0),
    write_B=at_home(traces.get('bytes_written', 0.0), 0.0),
    granule_B=at_home(
      _first_known(traces.get('granule_bytes'), granule), STREAM_B
    ),
    in_flight_B=at_home(
      _first_known(traces.get('in_flight_bytes'), in_flight), 0.0
    ),
    messages=np.zeros(shape),
    working_set_B=traces.get('working_set_bytes', UNCACHED_B),
    participants=traces.get('participants', 1.0),
    flops=flops,
    row_flops=flops / traces.get('m', np.inf)[:, None],
    launches=traces.get('launches', 0.0),
  )


def observations_of(traces: Traces) -> Observations:
  """The independent observations of a trace."""
  names, rows = [], []
  for name, is_primary in _primary(traces).items():
    picked = np.flatnonzero(is_primary)
    names += [name] * len(picked)
    rows.append(picked)
  row = np.concatenate(rows)
  value = np.array([traces.get(n)[r] for n, r in zip(names, row, strict=True)])
  return Observations(names, row, np.log(value), traces.get('rel_std')[row])


# Columns of a trace that a cost speaks of.
OBSERVABLES = ('time_s', 'bandwidth_Bps', 'latency_s', 'power_W', 'energy_J')


def predicted_log(
  cost: Cost,
  which: Int[ArrayLike, ' equation'],
  row: Int[ArrayLike, ' equation'],
) -> Float[Array, ' equation']:
  """Log of what the model says of each observation.

  Args:
    cost: of the rows.
    which: observable of each equation, as an index into `OBSERVABLES`.
    row: row of each equation.
  """
  table = observable_table(cost)
  stacked = jnp.stack([table[name] for name in OBSERVABLES])
  value = stacked[which, row]
  return jnp.log(jnp.maximum(value, jnp.finfo(value.dtype).tiny))


def observable_table(cost: Cost) -> dict[str, Float[Array, ' op']]:
  """What a cost says of each observable column."""
  return {name: getattr(cost, name) for name in OBSERVABLES}


# Bytes in flight at which an operation is idle, and at which it is saturated.
_IDLE_B, _FULL_B = 1e-3, 1e15


def with_limits(demand: Demand, rows: Int[np.ndarray, ' open']) -> Demand:
  """A demand followed by some of its rows, first idle, then saturated.

  The unloaded latency and the capacity of a row's mix are what `predict` says
  with next to nothing and with everything in flight.
  """

  def extend(name: str, values):
    values = np.asarray(values)
    if name != 'in_flight_B':
      return np.concatenate([values, values[rows], values[rows]])
    limits = [np.full_like(values[rows], n) for n in (_IDLE_B, _FULL_B)]
    return np.concatenate([values, *limits])

  return Demand(
    **{
      f.name: extend(f.name, getattr(demand, f.name))
      for f in dataclasses.fields(demand)
    }
  )


def open_latency_s(
  system: System,
  demand: Demand,
  cost: Cost,
  bandwidth_Bps: Float[ArrayLike, ' open'],
) -> tuple[Float[Array, ' open'], Float[Array, ' open']]:
  """Loaded latency from a given bandwidth (open form), and the load.

  Args:
    system: the machine.
    demand: made by `with_limits`.
    cost: its cost.
    bandwidth_Bps: of the rows that were appended there [B/s].

  Returns:
    latency [s] and bandwidth over capacity [1].
  """
  n = bandwidth_Bps.shape[0]
  first = cost.time_s.shape[0] - 2 * n
  idle, full = slice(first, first + n), slice(first + n, None)
  home = jnp.argmax(cost.served_B[idle], -1)[:, None]

  def at_home(values):
    return jnp.take_along_axis(values, home, -1)[:, 0]

  def of_tier(name):
    column = jnp.stack([jnp.asarray(getattr(t, name)) for t in system.tiers])
    return column[home[:, 0]]

  queue_p = service.knee_p(
    at_home(demand.read_B[idle]),
    at_home(demand.write_B[idle]),
    of_tier('queue_p'),
    of_tier('bend_queue'),
  )
  capacity_Bps = cost.bandwidth_Bps[full]
  latency_s = service.latency_at_bandwidth_s(
    bandwidth_Bps, cost.latency_s[idle], capacity_Bps, queue_p
  )
  return latency_s, bandwidth_Bps / capacity_Bps


def tier_labels(
  system: System, served: Float[np.ndarray, 'op tier']
) -> np.ndarray:
  """The tier that really served each row: 'L2', or 'L2|L3' on a cliff."""
  links = np.array([t.link for t in system.tiers])
  served = np.where(links, 0.0, served)
  total = served.sum(-1, keepdims=True)
  share = served / np.where(total > 0, total, 1.0)
  names = np.array(system.tier_names)
  labels = np.array([''] * len(share), object)
  for i, row in enumerate(share):
    order = np.argsort(-row)
    if row[order[0]] >= 0.9:
      labels[i] = str(names[order[0]])
    elif row[order[0]] > 0:
      labels[i] = '|'.join(str(names[j]) for j in sorted(order[:2]))
  return labels


def _primary(traces: Traces) -> dict[str, np.ndarray]:
  """Observable -> mask of the rows that it is fitted on."""
  op = traces['op']
  known = {
    n: ~np.isnan(traces.get(n))
    for n in ('time_s', 'bandwidth_Bps', 'latency_s', 'power_W', 'energy_J')
  }
  order = {
    'latency_s': ('latency_s', 'bandwidth_Bps', 'time_s'),
    'bandwidth_Bps': ('bandwidth_Bps', 'time_s', 'latency_s'),
    'time_s': ('time_s', 'bandwidth_Bps', 'latency_s'),
  }
  wanted = np.where(
    np.isin(op, FITTED_ON_LATENCY), 'latency_s',
    np.where(np.isin(op, FITTED_ON_BANDWIDTH), 'bandwidth_Bps', 'time_s'),
  )  # fmt: skip
  masks = {n: np.zeros(len(traces), bool) for n in known}
  for first, choices in order.items():
    left = wanted == first
    for name in choices:
      masks[name] |= left & known[name]
      left &= ~known[name]
  masks['power_W'] = known['power_W']
  masks['energy_J'] = known['energy_J'] & ~known['power_W']
  return masks


def _home_index(system: System, traces: Traces) -> np.ndarray:
  names = system.tier_names
  memories = [t.name for t in system.tiers if not t.is_cache and not t.link]
  index = np.empty(len(traces), int)
  for i, name in enumerate(traces['tier']):
    name = name or memories[0]
    if name not in names:
      raise errors.FitError(
        f'{traces.origin}, row {i + 1}: tier {name!r} is not in the system '
        f'{system.name!r}, which has {", ".join(names)}. Give a system that '
        'has it with --system'
      )
    index[i] = names.index(system.tier(name).home or name)
  return index


def _flops(system: System, traces: Traces) -> np.ndarray:
  # The additions of a bandwidth test never bound it, and are not counted.
  counted = ~np.isin(traces['op'], FITTED_ON_BANDWIDTH)
  flops = traces.get('flops', 0.0) * counted
  table = np.zeros((len(traces), len(system.engines)))
  for i in np.flatnonzero(flops > 0):
    unit = 'matrix' if traces['op'][i] in _MATRIX_OPS else 'vector'
    name = f'{unit}:{traces["dtype"][i] or "float32"}'
    if name not in system.engine_names:
      raise errors.FitError(
        f'{traces.origin}, row {i + 1}: engine {name!r} is not in the system '
        f'{system.name!r}, which has {", ".join(system.engine_names)}'
      )
    table[i, system.engine_names.index(name)] = flops[i]
  return table


def _first_known(values: np.ndarray, fill: np.ndarray) -> np.ndarray:
  return np.where(np.isnan(values), fill, values)


def scatter_key(kind: str) -> str:
  """'stream@L2|L3' -> 'stream|cliff', 'stream@L2' -> 'stream'."""
  op, _, label = kind.partition('@')
  return f'{op}|cliff' if '|' in label else op
