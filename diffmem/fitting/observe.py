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
from diffmem.cost import STREAM_B, UNCACHED_B, Cost, Demand
from diffmem.fitting import kernel_rows
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
    position = {name: i for i, name in enumerate(OBSERVABLES)}
    return np.array([position[name] for name in self.names])


def demand_of(system: System, traces: Traces) -> Demand:
  """What the rows of a trace asked of a system.

  Raises:
    FitError: a tier or number format that the system lacks, with the row.
  """
  groups = kernel_rows.groups(system, traces)
  is_kernel = np.zeros(len(traces), bool)
  for group in groups:
    is_kernel[group.rows] = True
  home = _home_index(system, traces)
  flops = _flops(system, traces, ~is_kernel)
  op = traces['op']
  chase = np.isin(op, FITTED_ON_LATENCY)
  granule = np.where(op == 'pointer_chase', _LINE_B, STREAM_B)
  in_flight = np.where(op == 'pointer_chase', _LINE_B, 0.0)
  read_B = _first_known(traces.get('bytes_read'), np.where(chase, _LINE_B, 0.0))
  columns = {
    'read_B': read_B,
    'write_B': traces.get('bytes_written', 0.0),
    'granule_B': _first_known(traces.get('granule_bytes'), granule),
    'in_flight_B': _first_known(traces.get('in_flight_bytes'), in_flight),
    'working_set_B': traces.get('working_set_bytes', UNCACHED_B),
    'participants': traces.get('participants', 1.0),
  }
  for group in groups:
    rows, work = group.rows, group.work
    columns['read_B'][rows] = work.read_B
    columns['write_B'][rows] = work.write_B
    columns['in_flight_B'][rows] = 0.0
    columns['participants'][rows] = work.occupancy
    if group.levels:
      home[rows] = _memory_index(system)
      columns['working_set_B'][rows] = UNCACHED_B
    else:
      columns['working_set_B'][rows] = work.working_set_B

  def at_home(name, fill=0.0):
    table = np.full((len(traces), len(system.tiers)), fill)
    table[np.arange(len(traces)), home] = columns[name]
    return table

  rows_of_product = np.where(is_kernel, np.inf, traces.get('m', np.inf))
  demand = Demand(
    read_B=at_home('read_B'),
    write_B=at_home('write_B'),
    granule_B=at_home('granule_B', STREAM_B),
    in_flight_B=at_home('in_flight_B'),
    messages=np.zeros((len(traces), len(system.tiers))),
    working_set_B=columns['working_set_B'],
    participants=columns['participants'],
    flops=flops,
    row_flops=flops / rows_of_product[:, None],
    launches=traces.get('launches', 0.0),
    starts=np.zeros_like(flops),
  )
  for group in groups:
    _put(demand, group)
  return demand


def _put(demand: Demand, group: kernel_rows.Group) -> None:
  """Writes a group's engines and links into the tables of a demand."""
  rows, work = group.rows, group.work
  demand.starts[rows, group.engine] = work.starts
  if not group.levels:
    demand.flops[rows, group.engine] = work.flops
    return
  at = np.ix_(rows, group.levels)
  demand.read_B[at] = demand.write_B[at] = work.sent_B
  demand.messages[at] = work.messages
  demand.in_flight_B[at] = work.in_flight_B


def observations_of(traces: Traces) -> Observations:
  """The independent observations of a trace."""
  names, rows = [], []
  masks = _primary(traces)
  for name, is_primary in masks.items():
    picked = np.flatnonzero(is_primary)
    names += [name] * len(picked)
    rows.append(picked)
  row = np.concatenate(rows)
  value = np.concatenate(
    [traces.get(n)[r] for n, r in zip(masks, rows, strict=True)]
  )
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


def log_of(
  cost: Cost, equations: Observations
) -> Float[np.ndarray, ' equation']:
  """`predicted_log` of equations, in numpy."""
  table = np.stack([np.asarray(observable_table(cost)[n]) for n in OBSERVABLES])
  value = table[equations.which, equations.row]
  return np.log(np.maximum(value, np.finfo(float).tiny))


def observable_table(cost: Cost) -> dict[str, Float[ArrayLike, ' op']]:
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


def _memory_index(system: System) -> int:
  """The main memory: the first tier that is no cache and no link, if any."""
  is_memory = [not t.is_cache and not t.link for t in system.tiers]
  return int(np.argmax(is_memory))


def _home_index(system: System, traces: Traces) -> np.ndarray:
  names = system.tier_names
  tiers = traces.get('tier', names[_memory_index(system)])
  index = np.empty(len(traces), int)
  for name in set(tiers):
    rows = tiers == name
    if name not in names:
      raise errors.FitError(
        f'{traces.origin}, row {np.argmax(rows) + 1}: tier {name!r} is not in '
        f'the system {system.name!r}, which has {", ".join(names)}. Give a '
        'system that has it with --system'
      )
    index[rows] = names.index(system.tier(name).home or name)
  return index


def _flops(system: System, traces: Traces, is_plain: np.ndarray) -> np.ndarray:
  """FLOPs by engine of the rows that no kernel law describes."""
  # The additions of a bandwidth test never bound it, and are not counted.
  counted = is_plain & ~np.isin(traces['op'], FITTED_ON_BANDWIDTH)
  flops = traces.get('flops', 0.0) * counted
  unit = np.where(np.isin(traces['op'], list(_MATRIX_OPS)), 'matrix', 'vector')
  engine = unit.astype(object) + ':' + traces.get('dtype', 'float32')
  table = np.zeros((len(traces), len(system.engines)))
  for name in set(engine[flops > 0]):
    rows = np.flatnonzero((engine == name) & (flops > 0))
    if name not in system.engine_names:
      raise errors.FitError(
        f'{traces.origin}, row {rows[0] + 1}: engine {name!r} is not in the '
        f'system {system.name!r}, which has {", ".join(system.engine_names)}'
      )
    table[rows, system.engine_names.index(name)] = flops[rows]
  return table


def _first_known(values: np.ndarray, fill: np.ndarray) -> np.ndarray:
  return np.where(np.isnan(values), fill, values)


def scatter_key(kind: str) -> str:
  """'stream@L2|L3' -> 'stream|cliff', 'stream@L2' -> 'stream'."""
  op, _, label = kind.partition('@')
  return f'{op}|cliff' if '|' in label else op
