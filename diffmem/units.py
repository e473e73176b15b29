"""SI inside, engineers' units at the edges.

Library code holds plain SI floats (s, B, B/s, J, W, FLOP/s); this module reads
and writes the units that people use: `'3.35 TB/s'`, `'89 ns'`, `'5.5 pJ/bit'`.

Decimal prefixes are powers of 1000, binary ones (KiB) of 1024. `b` and `bit`
are bits, `B` is bytes.
"""

import math
import re

from diffmem import errors

_DECIMAL = {
  'p': 1e-12, 'n': 1e-9, 'u': 1e-6, 'µ': 1e-6, 'm': 1e-3, '': 1.0,
  'k': 1e3, 'K': 1e3, 'M': 1e6, 'G': 1e9, 'T': 1e12, 'P': 1e15, 'E': 1e18,
}  # fmt: skip
_BINARY = {'Ki': 2.0**10, 'Mi': 2.0**20, 'Gi': 2.0**30, 'Ti': 2.0**40}

# Unit text -> (SI unit, factor of the unit without its prefix).
_UNITS = {
  's': ('s', 1.0),
  'B': ('B', 1.0),
  'b': ('B', 1 / 8),
  'bit': ('B', 1 / 8),
  'B/s': ('B/s', 1.0),
  'b/s': ('B/s', 1 / 8),
  'bit/s': ('B/s', 1 / 8),
  'J': ('J', 1.0),
  'J/B': ('J/B', 1.0),
  'J/b': ('J/B', 8.0),
  'J/bit': ('J/B', 8.0),
  'J/FLOP': ('J/FLOP', 1.0),
  'W': ('W', 1.0),
  'FLOP': ('FLOP', 1.0),
  'FLOP/s': ('FLOP/s', 1.0),
  'OP/s': ('FLOP/s', 1.0),
  '1': ('1', 1.0),
}

# SI unit -> the unit shown to people and its factor.
_SHOWN = {'J/B': ('J/bit', 8.0)}

_QUANTITY = re.compile(
  r'^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\s\d].*?)?\s*$'
)


def _split_unit(unit: str) -> tuple[str, float] | None:
  """'TB/s' -> ('B/s', 1e12); None when the unit is not known."""
  for prefix, scale in {**_BINARY, **_DECIMAL}.items():
    base = unit[len(prefix) :]
    if unit.startswith(prefix) and base in _UNITS:
      if prefix in _BINARY and not base.startswith(('B', 'b')):
        continue
      si, factor = _UNITS[base]
      return si, scale * factor
  return None


def parse(text: str | float | int, si_unit: str) -> float:
  """Reads a quantity into SI.

  Args:
    text: such as `'3.35 TB/s'`; a bare number is taken as SI already.
    si_unit: the SI unit that is wanted: one of `s`, `B`, `B/s`, `J`, `J/B`,
      `J/FLOP`, `W`, `FLOP`, `FLOP/s`, `1`.

  Returns:
    The value in `si_unit`.

  Raises:
    UnitError: unknown unit, wrong dimension, or not a finite number.

  Examples:
    >>> parse('3.35 TB/s', 'B/s')
    3350000000000.0
    >>> parse('2 KiB', 'B')
    2048.0
    >>> round(parse('8 pJ/bit', 'J/B') * 1e12, 9)
    64.0
  """
  if isinstance(text, bool):
    raise errors.UnitError(f'{text!r} is not a quantity in {si_unit}')
  if isinstance(text, (int, float)):
    value, unit = float(text), None
  else:
    match = _QUANTITY.match(text)
    if not match:
      raise errors.UnitError(
        f'{text!r} is not a quantity; expected a number and a unit such as '
        f"'{format_si(1e9, si_unit)}'"
      )
    value, unit = float(match[1]), match[2]
  if not math.isfinite(value):
    raise errors.UnitError(f'{text!r} is not finite')
  if unit is None:
    return value
  known = _split_unit(unit)
  if known is None:
    raise errors.UnitError(
      f'unknown unit {unit!r} in {text!r}; expected a multiple of {si_unit}'
    )
  if known[0] != si_unit:
    raise errors.UnitError(
      f'{text!r} is in {known[0]}; expected a multiple of {si_unit}'
    )
  return value * known[1]


def format_si(value: float, si_unit: str, digits: int = 4) -> str:
  """Writes an SI value the way engineers read it.

  Examples:
    >>> format_si(3.35e12, 'B/s')
    '3.35 TB/s'
    >>> format_si(8.9e-8, 's')
    '89 ns'
    >>> format_si(44e-12, 'J/B')
    '5.5 pJ/bit'
  """
  shown, factor = _SHOWN.get(si_unit, (si_unit, 1.0))
  value = float(value) / factor
  if value == 0 or not math.isfinite(value):
    return f'{value:g} {shown}'.removesuffix(' 1')
  if shown == '1':
    return f'{value:.{digits}g}'
  prefixes = {s: p for p, s in _DECIMAL.items() if p not in ('K', 'µ', '')}
  prefixes[1.0] = ''
  scales = sorted(prefixes)
  magnitude = float(f'{abs(value):.{digits}g}')
  scale = max([s for s in scales if magnitude >= s], default=scales[0])
  number = f'{value / scale:.{digits}g}'
  if 'e' in number:
    number = f'{value / scale:.0f}'
  return f'{number} {prefixes[scale]}{shown}'
