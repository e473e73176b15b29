"""Rows of a trace that a kernel law describes, as work on engines and links.

Which engine: '<unit of the law>:<number format>', the format being the
quantization where there is one ('fp8_block') and else the dtype. Of a
collective, '<unit>:<library> <mode>' ('collective:nccl eager'): how a message
is launched decides when it starts. A system without that engine lends its
nearest one, so that every row has an answer.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from diffmem.cost.kernels import LAWS, Shape, Work, collectives
from diffmem.cost.kernels.collectives import LinkWork
from diffmem.system import (
  Engine,
  FittedSystem,
  Knowledge,
  Status,
  System,
  what_to_measure,
)
from diffmem.traces import Traces

# Bytes of one value; what a rate scales with where nothing else is known.
ELEMENT_B = {
  'float64': 8.0, 'float32': 4.0, 'bfloat16': 2.0, 'float16': 2.0,
  'float8': 1.0, 'int8': 1.0, 'float4': 0.5,
}  # fmt: skip
BORROWED = 'assumption: borrowed from'
_BORROWED_SD = 0.5
_COLLECTIVE = 'collective'
_UNITS_OF_LINKS = (_COLLECTIVE, 'expert_dispatch', 'expert_combine')


@dataclasses.dataclass(frozen=True)
class Group:
  """Rows of one op that a law describes.

  Attributes:
    op: operation.
    rows: of the trace [row].
    engine: index of each row's engine [row].
    work: what the law says of them.
    levels: indices of the network levels that a `LinkWork` speaks of.
  """

  op: str
  rows: np.ndarray
  engine: np.ndarray
  work: Work | LinkWork
  levels: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Law:
  """A kernel law, bound to a system."""

  unit: str
  columns: tuple[str, ...]
  work: Callable[[Shape], Work | LinkWork]
  levels: tuple[int, ...] = ()


def groups(system: System, traces: Traces) -> list[Group]:
  """The rows that kernel laws describe; none on a machine without units."""
  found = []
  for op, law, rows in _described(system, traces):
    part = traces.select(rows)
    found.append(
      Group(
        op=op,
        rows=rows,
        engine=_engines_of(system, law.unit, part),
        work=law.work(_shape(part)),
        levels=law.levels,
      )
    )
  return found


def _laws(system: System) -> dict[str, _Law]:
  """Laws by op: kernels on a device with units, collectives with links."""
  units = system.compute_units
  if units <= 1:
    return {}
  found = {
    op: _Law(
      law.unit, law.columns, functools.partial(_of_units, law.work, units)
    )
    for op, law in LAWS.items()
  }
  levels = [i for i, tier in enumerate(system.tiers) if tier.span]
  levels.sort(key=lambda i: system.tiers[i].span)
  spans = np.array([system.tiers[i].span for i in levels], float)
  if levels:
    for op, law in collectives.LAWS.items():
      found[op] = _Law(
        op if op.startswith('expert') else _COLLECTIVE,
        law.columns,
        functools.partial(_over_links, law.work, spans, units),
        tuple(levels),
      )
  return found


def _of_units(work, units, shape):
  return work(shape, units)


def _over_links(work, spans, units, shape):
  return work(shape, spans, units)


def _described(
  system: System, traces: Traces
) -> Iterator[tuple[str, _Law, np.ndarray]]:
  """Op, law and the rows with all of its columns, for every op of a trace."""
  laws = _laws(system)
  for op in sorted(set(traces['op']) & set(laws)):
    is_known = traces['op'] == op
    for name in laws[op].columns:
      is_known &= ~np.isnan(traces.get(name))
    if is_known.any():
      yield op, laws[op], np.flatnonzero(is_known)


def _shape(part: Traces) -> dict[str, np.ndarray]:
  """The numeric columns and the variant, and the bytes of one value."""
  shape = {
    name: values
    for name, values in part.columns.items()
    if values.dtype != object or name == 'variant'
  }
  dtype = part.get('dtype', 'bfloat16')
  cached = np.where(part['kv_dtype'] == '', dtype, part['kv_dtype'])
  return shape | {'element_B': _element_B(dtype), 'kv_B': _element_B(cached)}


def _element_B(dtypes: np.ndarray) -> np.ndarray:
  return np.array([ELEMENT_B.get(d, 2.0) for d in dtypes])


def _formats(unit: str, part: Traces) -> list[tuple[str, str]]:
  """What an engine is named by, and the dtype, of every row."""
  dtype = part.get('dtype', 'bfloat16')
  if unit in _UNITS_OF_LINKS:
    variants = part.get('variant', 'any')
    short = {v: _library_and_mode(v) for v in set(variants)}
    return [(short[v], d) for v, d in zip(variants, dtype, strict=True)]
  quantization = part['quantization']
  return [(q or d, d) for q, d in zip(quantization, dtype, strict=True)]


def _library_and_mode(variant: str) -> str:
  """'nccl eager' of 'nccl 2.29.2 NCCL eager'."""
  words = variant.lower().split()
  return ' '.join(dict.fromkeys((words[0], words[-1])))


def _engines_of(system: System, unit: str, part: Traces) -> np.ndarray:
  index = functools.cache(
    lambda form, dtype: system.engine_names.index(
      _nearest(system, unit, form, dtype)
    )
  )
  return np.array([index(*pair) for pair in _formats(unit, part)])


def _nearest(system: System, unit: str, form: str, dtype: str) -> str:
  """The engine itself, or the one to borrow from."""
  names = system.engine_names
  for name in (f'{unit}:{form}', f'{unit}:{dtype}', f'matrix:{dtype}'):
    if name in names:
      return name

  def distance(name: str) -> tuple:
    other, _, lent = name.partition(':')
    apart = abs(np.log2(ELEMENT_B.get(lent, 2.0) / ELEMENT_B.get(dtype, 2.0)))
    return (other != unit, other != 'matrix', apart)

  return min(names, key=distance)


def with_engines(prior: FittedSystem, traces: Traces) -> FittedSystem:
  """A prior that has an engine for every kernel family of a trace.

  A new engine starts from the one that it would borrow, scaled by the width
  of the numbers where the formats differ.
  """
  new: dict[str, tuple[Engine, str]] = {}
  for _, law, rows in _described(prior.system, traces):
    for form, dtype in sorted(set(_formats(law.unit, traces.select(rows)))):
      name = f'{law.unit}:{form}'
      if name not in (*prior.system.engine_names, *new):
        new[name] = _borrowed(prior.system, law.unit, form, dtype)
  return _extended(prior, new) if new else prior


def _borrowed(system, unit, form, dtype) -> tuple[Engine, str]:
  source = _nearest(system, unit, form, dtype)
  lender = system.engine(source)
  lent = source.partition(':')[2]
  narrower = ELEMENT_B.get(lent, 2.0) / ELEMENT_B.get(dtype, 2.0)
  faster = 1.0 if lent in (form, dtype) else narrower
  engine = Engine.of(
    f'{unit}:{form}',
    rate_FLOPps=float(lender.rate_FLOPps) * faster,
    energy_J_per_FLOP=float(lender.energy_J_per_FLOP) / faster,
  )
  return engine, f'{BORROWED} {source}'


def _extended(prior, new) -> FittedSystem:
  engines = (*prior.system.engines, *(engine for engine, _ in new.values()))
  system = dataclasses.replace(prior.system, engines=engines)
  values, knowledge = system.values(), {}
  for full, info in system.infos().items():
    if full in prior.knowledge:
      knowledge[full] = prior.knowledge[full]
      continue
    sd = max(_BORROWED_SD, info.prior_sd)
    knowledge[full] = Knowledge(
      status=Status.PRIOR,
      prior=float(values[full]),
      prior_sd=sd,
      stderr=sd,
      source=new[full.rpartition('.')[0]][1],
      measure=what_to_measure(system, full),
    )
  return dataclasses.replace(
    prior, system=system, knowledge=knowledge, ensemble=None
  )


_KIND = ('op', 'dtype', 'quantization', 'kv_dtype', 'variant')


def sample(system: System, traces: Traces, most: int, seed: int) -> Traces:
  """At most so many kernel rows, evenly over kinds, and all other rows.

  A kind is an op in one number format by one kernel; a kind with fewer rows
  than its share keeps them all.
  """
  is_kernel = np.zeros(len(traces), bool)
  for _, _, rows in _described(system, traces):
    is_kernel[rows] = True
  if is_kernel.sum() <= most:
    return traces
  codes = [
    np.unique(traces[n].astype(str), return_inverse=True)[1] for n in _KIND
  ]
  kinds = np.unique(np.stack(codes, 1), axis=0, return_inverse=True)[1].ravel()
  rng = np.random.default_rng(seed)
  of_kind = [
    rng.permutation(np.flatnonzero(is_kernel & (kinds == kind)))
    for kind in set(kinds[is_kernel])
  ]
  of_kind.sort(key=len)
  keep, left = ~is_kernel, most
  for i, rows in enumerate(of_kind):
    share = rows[: left // (len(of_kind) - i)]
    keep[share] = True
    left -= len(share)
  return traces.select(keep)


def peak_FLOPps(spec: System, traces: Traces) -> np.ndarray:
  """Published matrix rate of every row's number format, scaled where it has
  none [row]; infinite on a machine without engines.
  """
  if not spec.engines:
    return np.full(len(traces), np.inf)
  formats = _formats('matrix', traces)
  rates = {
    pair: float(_borrowed(spec, 'matrix', *pair)[0].rate_FLOPps)
    for pair in set(formats)
  }
  return np.array([rates[pair] for pair in formats])
