"""Axes: from values to pixels, where the ticks are and what they say."""

import dataclasses
import enum
import math
from collections.abc import Iterable, Sequence

import numpy as np

from diffmem import units
from diffmem.report import markup

_MONEY = 'USD'
_SI = ('s', 'B', 'B/s', 'J', 'J/B', 'J/FLOP', 'W', 'FLOP', 'FLOP/s', '1', '%')
MINUS = '\N{MINUS SIGN}'
_TIMES = '\N{MIDDLE DOT}10'
_RAISED = str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹')


class Kind(enum.StrEnum):
  """How an axis is divided."""

  LINEAR = 'linear'
  LOG10 = 'log10'
  LOG2 = 'log2'


@dataclasses.dataclass(frozen=True)
class Scale:
  """Maps values of [low, high] on pixels of [start, end]."""

  kind: Kind
  low: float
  high: float
  start: float
  end: float

  def __call__(self, values):
    """Pixels of values; NaN where a value has no place on the axis."""
    values = np.asarray(values, np.float64)
    if self.kind is Kind.LINEAR:
      share = (values - self.low) / (self.high - self.low)
    else:
      values = np.where(values > 0, values, np.nan)
      share = np.log(values / self.low) / math.log(self.high / self.low)
    return self.start + share * (self.end - self.start)

  def ticks(self, room: float) -> list[float]:
    """Tick values that leave `room` pixels for each label."""
    most = max(2, int(abs(self.end - self.start) / room) + 1)
    return ticks(self.kind, self.low, self.high, most)


def scale(
  kind: Kind,
  values: Iterable[float],
  start: float,
  end: float,
  *,
  low: float | None = None,
  high: float | None = None,
  pad: float = 0.04,
) -> Scale:
  """A scale that holds all values that can be drawn.

  Args:
    kind: how the axis is divided.
    values: what must fit; values that have no place are ignored.
    start: pixel of the low end.
    end: pixel of the high end.
    low: a given low end, instead of the values' own.
    high: a given high end.
    pad: margin beyond the values, as a share of the axis.
  """
  values = np.asarray(list(values), np.float64)
  values = values[np.isfinite(values)]
  if kind is not Kind.LINEAR:
    values = np.log(values[values > 0])
    low, high = (None if v is None else math.log(v) for v in (low, high))
  ends = _ends(values, low, high, pad)
  if kind is not Kind.LINEAR:
    ends = [math.exp(v) for v in ends]
  return Scale(kind, *ends, start, end)


def _ends(values, low, high, pad) -> list[float]:
  """Padded ends; a range of no width is widened."""
  given = [v for v in (low, high) if v is not None]
  if values.size == 0 and not given:
    given = [1.0, 2.0]
  lowest = min([*values, *given]) if low is None else low
  highest = max([*values, *given]) if high is None else high
  if highest - lowest < 1e-9 * max(1.0, abs(lowest)):
    wide = 0.5 * (abs(lowest) or 1.0)
    lowest, highest = lowest - wide, highest + wide
  margin = pad * (highest - lowest)
  return [
    lowest - margin if low is None else lowest,
    highest + margin if high is None else highest,
  ]


def ticks(kind: Kind, low: float, high: float, most: int) -> list[float]:
  """Ascending round values within [low, high], `most` of them at most."""
  if kind is Kind.LOG2:
    found = _powers_of_two(low, high, most)
  elif kind is Kind.LOG10:
    found = _decades(low, high, most)
  else:
    return _linear(low, high, most)
  return found if len(found) >= 2 else _linear(low, high, most)


def _powers_of_two(low: float, high: float, most: int) -> list[float]:
  first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
  for stride in (1, 2, 3, 4, 5, 10, 20, 50, 100, 1000):
    powers = [p for p in range(first, last + 1) if p % stride == 0]
    if len(powers) <= most:
      return [2.0**p for p in powers]
  return []


def _decades(low: float, high: float, most: int) -> list[float]:
  first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
  options = [((1, 2, 5), 1)] + [((1,), s) for s in (1, 2, 3, 5, 10, 50)]
  for mantissas, stride in options:
    found = [
      float(f'{m}e{p}')
      for p in range(first, last + 1)
      if p % stride == 0
      for m in mantissas
    ]
    found = [v for v in found if low <= v <= high]
    if len(found) <= most:
      return found
  return []


def _linear(low: float, high: float, most: int) -> list[float]:
  power = math.floor(math.log10((high - low) / max(most, 1)))
  for exponent in (power, power + 1, power + 2):
    for mantissa in (1, 2, 5):
      step = float(f'{mantissa}e{exponent}')
      first, last = math.ceil(low / step), math.floor(high / step)
      if last - first + 1 <= most:
        return _multiples(first, last, mantissa, exponent, low, high)
  return []


def _multiples(first, last, mantissa, exponent, low, high) -> list[float]:
  """Multiples of a step, written as decimals so that 0.3 is 0.3."""
  found = [float(f'{i * mantissa}e{exponent}') for i in range(first, last + 1)]
  return [v for v in found if low <= v <= high]


def label(value: float, unit: str, kind: Kind, digits: int = 4) -> str:
  """What a tick or a tooltip says."""
  if unit == 'B' and kind is Kind.LOG2:
    return binary_bytes(value)
  if unit == '1' and kind is Kind.LOG2 and 2**-10 <= value < 1:
    inverse = 1 / value
    if inverse == round(inverse):
      return f'1/{inverse:.0f}'
  if unit == '%':
    return f'{markup.minus(f"{value:.3g}")} %'
  if unit.startswith(_MONEY):
    return money(value, digits) + unit.removeprefix(_MONEY)
  if not _is_si(unit):
    return f'{compact(value, digits)} {unit}'
  return _micro(markup.minus(units.format_si(value, unit, digits)))


def labels(
  values: Sequence[float], unit: str, kind: Kind, digits: int = 6
) -> tuple[list[str], str]:
  """Labels of an axis, and the unit that its title then has to name.

  Linear axes have one unit for all ticks, so it stands in the title;
  logarithmic ones span prefixes, so every tick names its own.

  Examples:
    >>> labels([0, 5e9, 1e10], 'B/s', Kind.LINEAR)
    (['0', '5', '10'], 'GB/s')
    >>> labels([2**15, 2**20], 'B', Kind.LOG2)
    (['32 KiB', '1 MiB'], '')
  """
  if unit.startswith(_MONEY):
    texts = _prices if kind is Kind.LINEAR else _each_price
    return texts(values, digits), unit.removeprefix(_MONEY).strip()
  if not _is_si(unit):
    return [compact(v, digits) for v in values], unit
  if unit == '1' and kind is Kind.LOG10:
    return [compact(v) for v in values], ''
  if kind is not Kind.LINEAR:
    return [label(v, unit, kind) for v in values], ''
  shown, factor = ('', 1.0) if unit == '1' else (unit, 1.0)
  if unit not in ('1', '%') and values:
    largest = max(abs(v) for v in values)
    shown = _micro(units.format_si(largest or 1.0, unit)).partition(' ')[2]
    factor = units.parse(f'1 {shown}', unit)
  return [markup.minus(f'{v / factor:.{digits}g}') for v in values], shown


def _each_price(values: Sequence[float], digits: int) -> list[str]:
  return [money(v, digits) for v in values]


def _prices(values: Sequence[float], digits: int) -> list[str]:
  """Dollars with the same number of decimals: $0.50 beside $0.55."""
  texts = _each_price(values, digits)
  if any(t[-1:].isalpha() or _TIMES in t for t in texts):
    return texts
  decimals = max((len(t.partition('.')[2]) for t in texts), default=0)
  if decimals == 0:
    return texts
  decimals = max(decimals, 2)
  return [
    f'{MINUS if v < 0 else ""}${abs(v):.{decimals}f}' if v else '$0'
    for v in values
  ]


def compact(value: float, digits: int = 4) -> str:
  """A number without a unit that takes prefixes.

  Examples:
    >>> compact(0.25), compact(12500), compact(2.5e6), compact(2e-6)
    ('0.25', '12.5k', '2.5M', '2·10⁻⁶')
  """
  size = abs(value)
  for name, factor in (('G', 1e9), ('M', 1e6), ('k', 1e4)):
    if size >= factor * 0.99995:
      scaled = value / (1e3 if name == 'k' else factor)
      return markup.minus(f'{float(f"{scaled:.{digits}g}"):g}{name}')
  if size >= 1000:
    return markup.minus(f'{value:.0f}')
  if 0 < size < 1e-4:
    number, _, power = f'{value:.{digits - 1}e}'.partition('e')
    raised = str(int(power)).translate(_RAISED)
    return markup.minus(f'{float(number):g}{_TIMES}{raised}')
  return markup.minus(f'{value:.{digits}g}')


def money(value: float, digits: int = 4) -> str:
  """US dollars.

  Examples:
    >>> money(0.25), money(12500), money(3.2e9)
    ('$0.25', '$12.5k', '$3.2bn')
  """
  text = compact(abs(value), digits).replace('G', 'bn')
  return f'{MINUS}${text}' if value < 0 else f'${text}'


def percent_of(share: float) -> str:
  """A share in percent with two digits; a trace is not nothing.

  Examples:
    >>> percent_of(0.126), percent_of(1.0), percent_of(1e-5)
    ('13 %', '100 %', '<0.1 %')
  """
  if 0 < abs(share) < 5e-4:
    return '<0.1 %'
  return label(float(f'{100 * share:.2g}'), '%', Kind.LINEAR)


def _is_si(unit: str) -> bool:
  """Whether prefixes can stand before a unit."""
  return unit in _SI


def signed(percent: float) -> str:
  """An error in percent, with its sign."""
  return f'{markup.minus(f"{percent:+.1f}")} %'


def _micro(text: str) -> str:
  """The Greek letter in place of the ASCII 'u'."""
  return text.replace(' u', ' µ')


def binary_bytes(value: float) -> str:
  """Bytes in powers of 1024.

  Examples:
    >>> binary_bytes(32768), binary_bytes(37.5 * 2**20)
    ('32 KiB', '37.5 MiB')
  """
  for prefix, power in (('Ti', 40), ('Gi', 30), ('Mi', 20), ('Ki', 10)):
    if abs(value) >= 2.0**power * 0.9995:
      return f'{float(f"{value / 2.0**power:.4g}"):g} {prefix}B'
  return f'{float(f"{value:.4g}"):g} B'
