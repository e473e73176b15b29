"""Kernels of an H200, answered from H100 data and both data sheets.

*Memory-bound* is told on the H100 side alone, before any H200 row is looked
at: a row counts if its bytes (those that the shape has to move, or those that
the law says the HBM moves, whichever are fewer) would keep the H100's fitted
HBM busy for at least half of the time that its checkpoint predicts.
"""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from diffmem.fitting import corrections, observe
from diffmem.fitting.transfer import WIDENING
from diffmem.system import FittedSystem
from diffmem.traces import Traces, readers

OPS = ('decode_attention', 'mla_decode', 'gemm', 'moe', 'stream_cast_fp8',
       'mla_bmm')  # fmt: skip
# Kernels of other software (vLLM), which no H100 table has.
UNSEEN = ('decode_attention_power', 'gemm_power', 'moe_power',
          'stream_cast_fp8_power')  # fmt: skip
MEMORY_BOUND = 0.5
_Z90 = 1.6448536269514722  # 90 % of a normal distribution lie within.
_FORMATS = ('dtype', 'quantization', 'kv_dtype')
_OBSERVED = ('system', 'time_s', 'power_W', 'note', 'source')


class Kernels(NamedTuple):
  """Rows of one table of the H200.

  Attributes:
    op: of the table.
    form: number formats, such as 'bfloat16/float8' of values and KV [row].
    share: of the predicted H100 time that the HBM is busy [row].
    observed_s: as measured [row] [s].
    what_if_s: predicted by the what-if, residuals included [row] [s].
    laws_s: the same by laws alone, which is what plans use [row] [s].
    log_sd: that the what-if claims for its time [row].
    on_old_s: predicted on the H100 [row] [s].
    laws_on_old_s: the same by laws alone [row] [s].
    old_s: measured on the H100, equal shape and software; NaN where its table
      has none [row] [s].
  """

  op: str
  form: np.ndarray
  share: np.ndarray
  observed_s: np.ndarray
  what_if_s: np.ndarray
  laws_s: np.ndarray
  log_sd: np.ndarray
  on_old_s: np.ndarray
  laws_on_old_s: np.ndarray
  old_s: np.ndarray

  def select(self, mask: np.ndarray) -> 'Kernels':
    """Some of the rows."""
    return Kernels(self.op, *(column[mask] for column in self[1:]))

  @property
  def error(self) -> np.ndarray:
    """Relative error of the predicted time [row]."""
    return self.what_if_s / self.observed_s - 1.0

  @property
  def speed_up(self) -> np.ndarray:
    """Measured: H100 time over H200 time [row]."""
    return self.old_s / self.observed_s

  @property
  def said(self) -> np.ndarray:
    """The same as predicted [row]."""
    return self.on_old_s / self.what_if_s

  @property
  def said_by_laws(self) -> np.ndarray:
    """The same as predicted by laws alone [row]."""
    return self.laws_on_old_s / self.laws_s

  @property
  def inside(self) -> np.ndarray:
    """Whether the time lies in the what-if's 90 % interval [row]."""
    return abs(np.log(1.0 + self.error)) <= _Z90 * self.log_sd

  @property
  def ratio_inside(self) -> np.ndarray:
    """Whether the speed-up lies in its 90 % interval [row].

    What the H100 checkpoint gets wrong of a kernel is common to both times, so
    that the swap's own `WIDENING` is left.
    """
    return abs(np.log(self.said / self.speed_up)) <= _Z90 * WIDENING


def tables(
  folder: pathlib.Path, old: FittedSystem, new: FittedSystem, ops=OPS
) -> Iterator[Kernels]:
  """Every table, answered.

  Args:
    folder: with `h100_sxm/` and `h200_sxm/`.
    old: fitted to the H100's tables.
    new: the what-if.
    ops: names of tables, without suffix.
  """
  for op in ops:
    rows = readers.read(folder / f'h200_sxm/{op}.parquet', 'gpu_kernels')
    before = None
    if (folder / f'h100_sxm/{op}.parquet').exists():
      path = folder / f'h100_sxm/{op}.parquet'
      before = readers.read(path, 'gpu_kernels').traces
    yield answered(op, rows.traces, before, old, new)


def answered(
  op: str,
  rows: Traces,
  before: Traces | None,
  old: FittedSystem,
  new: FittedSystem,
) -> Kernels:
  """What both systems say of the rows, and what was measured.

  Args:
    op: name of the table.
    rows: of the H200.
    before: of the H100; None for kernels that nobody timed there.
    old: fitted to the H100.
    new: the what-if.
  """
  import jax

  with jax.enable_x64(True):
    first, then = (_told(fitted, rows) for fitted in (old, new))
  least_B = rows['bytes_read'] + rows['bytes_written']
  least_s = least_B / float(old.system.tier('HBM').read_Bps)
  return Kernels(
    op=op,
    form=_forms(rows),
    share=np.minimum(least_s, first.memory_s) / first.time_s,
    observed_s=rows['time_s'],
    what_if_s=then.time_s,
    laws_s=then.laws_s,
    log_sd=then.log_sd,
    on_old_s=first.time_s,
    laws_on_old_s=first.laws_s,
    old_s=_partners(rows, before),
  )


class _Told(NamedTuple):
  """Time with residuals, by laws, at the HBM; what is claimed of it [row]."""

  time_s: np.ndarray
  laws_s: np.ndarray
  memory_s: np.ndarray
  log_sd: np.ndarray


def _told(fitted: FittedSystem, rows: Traces) -> _Told:
  cost = corrections.cost_of(
    fitted.system, observe.demand_of(fitted.system, rows)
  )
  n = len(rows)
  equations = observe.Observations(
    ['time_s'] * n, np.arange(n), np.zeros(n), np.zeros(n)
  )
  found = corrections.of_equations(
    fitted.residuals, fitted.system, rows, cost, equations
  )
  laws_s = np.asarray(cost.time_s)
  memory = fitted.system.tier_names.index('HBM')
  return _Told(
    time_s=laws_s * np.exp(found.log_value),
    laws_s=laws_s,
    memory_s=np.asarray(cost.tier_time_s)[:, memory],
    log_sd=found.half_width / _Z90,
  )


def _forms(rows: Traces) -> np.ndarray:
  columns = [rows[name].astype(str) for name in _FORMATS]
  joined = ['/'.join(t for t in row if t) for row in zip(*columns, strict=True)]
  return np.array(joined, object)


def _partners(rows: Traces, before: Traces | None) -> np.ndarray:
  """Time on the other machine of the same shape and software [row] [s]."""
  if before is None:
    return np.full(len(rows), np.nan)
  names = [name for name in rows.columns if name not in _OBSERVED]
  known: dict[tuple, list[float]] = {}
  for key, time_s in zip(_keys(before, names), before['time_s'], strict=True):
    known.setdefault(key, []).append(time_s)
  found = [np.median(known.get(key, np.nan)) for key in _keys(rows, names)]
  return np.array(found, float)


def _keys(rows: Traces, names: list[str]) -> list[tuple]:
  columns = [rows[name] for name in names]
  columns = [
    c.tolist() if c.dtype == object else np.nan_to_num(c, nan=-1.0).tolist()
    for c in columns
  ]
  return list(zip(*columns, strict=True))
