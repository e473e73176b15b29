"""The section of the parameters: what is known, and what is not."""

import math
from collections.abc import Sequence
from typing import Any

from diffmem.report import scales
from diffmem.report.data import Parameter
from diffmem.report.figure import Data
from diffmem.report.page import Section
from diffmem.report.table import Cell, Column, Table, quantity, words

_STATUS = {
  'fitted': ('● fitted', 'good'),
  'unidentified': ('◐ unidentified', 'warn'),
  'prior': ('○ prior only', 'warn'),
  'unused': ('· unused', ''),
}


def parameters_of(fitted: Any) -> tuple[Parameter, ...]:
  """The parameters of a `diffmem.system.FittedSystem`."""
  infos, values = fitted.system.infos(), fitted.system.values()
  return tuple(
    Parameter(
      name,
      float(values[name]),
      infos[name].unit,
      float(known.stderr),
      float(known.prior),
      str(known.status),
      known.measure,
      known.source,
      infos[name].is_log,
    )
    for name, known in fitted.knowledge.items()
  )


def parameters_section(parameters: Sequence[Parameter]) -> Section | None:
  """What is known about every parameter, and what is not."""
  if not parameters:
    return None
  used = [p for p in parameters if p.status != 'unused']
  rest = [p for p in parameters if p.status == 'unused']
  blocks = []
  if used:
    blocks.append(_parameter_table('parameters', 'Parameters', used, False))
  if rest:
    caption = f'{len(rest)} parameters that no law of this system reads'
    blocks.append(_parameter_table('parameters-unused', caption, rest, True))
  counts = {s: sum(p.status == s for p in parameters) for s in _STATUS}
  lead = (
    f'The traces decide {counts["fitted"]} of {len(used)} parameters. '
    f'{counts["unidentified"]} appear in the traces but are held by their '
    f'prior (◐), {counts["prior"]} are prior only (○): do not rely on them '
    'before you measure what the last column says.'
  )
  return Section('parameters-section', 'Parameters', lead, blocks)


def _parameter_table(id, caption, parameters, folded: bool) -> Table:
  columns = [
    Column('Parameter'), Column('Value', True),
    Column('± error', True, 'standard error'), Column('Prior', True),
    Column('Status'), Column('What to measure'),
  ]  # fmt: skip
  data = Data(
    ['parameter', 'value', 'unit', 'stderr', 'stderr_is_log', 'prior',
     'status', 'measure', 'source'],
    [(p.name, p.value, p.unit, p.stderr, p.is_log, p.prior, p.status,
      p.measure, p.source) for p in parameters],
  )  # fmt: skip
  rows = [_parameter_row(p) for p in parameters]
  return Table(id, caption, columns, rows, data, cards=True, folded=folded)


def _parameter_row(p: Parameter) -> list[Cell]:
  shown, tone = _STATUS.get(p.status, (p.status, ''))
  if p.stderr is None or not math.isfinite(p.stderr):
    error = Cell('–')  # noqa: RUF001
  elif p.is_log:
    error = Cell(f'± {100 * p.stderr:.2g} %', 100 * p.stderr)
    if p.stderr > 1:
      error = Cell(f'× {math.exp(min(p.stderr, 99)):.2g}', 100 * p.stderr)  # noqa: RUF001
  else:
    error = Cell(f'± {p.stderr:.2g}', p.stderr)
  measure = p.measure or (f'prior: {p.source}' if p.source else '')
  return [
    words(p.name), _value(p, p.value), error,
    _value(p, p.prior), words(shown, tone), words(measure),
  ]  # fmt: skip


def _value(p: Parameter, value: float | None) -> Cell:
  """A value; caches are sized in powers of two, memories are not."""
  if p.unit == 'B' and value is not None and 0 < value < 2**30:
    return Cell(scales.binary_bytes(value), value)
  return quantity(value, p.unit)
