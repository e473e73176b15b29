"""Dated prices with their sources, from one file (`prices.toml`).

    [accelerator_usd_per_hour.h100-sxm]
    value = 2.95
    low = 1.99                       # optional
    high = 5.0                       # optional
    date = '2026-05-20'
    source = 'where it was read'

Tables: `accelerator_usd_per_hour` by catalog name, `memory_usd_per_GB` by
tier, `energy_usd_per_kWh`, and `facility` (energy over device energy, years of
service, share of hours used).
"""

import difflib
import functools
import os
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Annotated

import pydantic

from diffmem import errors

_FILE = pathlib.Path(__file__).with_name('prices.toml')
_CONFIG = pydantic.ConfigDict(frozen=True, extra='forbid')
_Positive = Annotated[float, pydantic.Field(gt=0)]


class Price(pydantic.BaseModel):
  """One price.

  Attributes:
    value: what is used, in the unit of its table's name.
    low: lowest that a source of the time gives; None for `value`.
    high: highest; None for `value`.
    date: of the figure, as in the source: '2026', '2026-05' or a day.
    source: where it was read.
  """

  model_config = _CONFIG

  value: _Positive
  low: _Positive | None = None
  high: _Positive | None = None
  date: Annotated[str, pydantic.Field(pattern=r'^\d{4}(-\d{2}){0,2}$')]
  source: Annotated[str, pydantic.Field(min_length=3)]

  @pydantic.model_validator(mode='after')
  def _ordered(self):
    if (self.low or self.value) > self.value or (
      self.high or self.value
    ) < self.value:
      raise ValueError('expected low <= value <= high')
    return self


class Facility(pydantic.BaseModel):
  """What surrounds the machine.

  Attributes:
    energy_over_device_energy: of the whole site, PUE.
    years_of_service: over which owned parts are paid off [years].
    share_of_hours_used: of those years.
  """

  model_config = _CONFIG

  energy_over_device_energy: Price
  years_of_service: Price
  share_of_hours_used: Price


class Prices(pydantic.BaseModel):
  """All prices.

  Attributes:
    accelerator_usd_per_hour: rent, by catalog name [USD/h].
    memory_usd_per_GB: by tier; a GB is 1e9 bytes [USD/GB].
    energy_usd_per_kWh: by contract [USD/kWh].
    facility: what surrounds the machine.
  """

  model_config = _CONFIG

  accelerator_usd_per_hour: Mapping[str, Price]
  memory_usd_per_GB: Mapping[str, Price]
  energy_usd_per_kWh: Mapping[str, Price]
  facility: Facility

  def of(self, table: str, name: str) -> float:
    """The value of a price.

    Raises:
      SpecError: none of that name, with the nearest.
    """
    found = getattr(self, table)
    if name not in found:
      near = difflib.get_close_matches(name, found, 1, 0.4)
      hint = f'; did you mean {near[0]!r}?' if near else ''
      raise errors.SpecError(
        f'no {table} of {name!r}{hint} (there is {", ".join(found)})'
      )
    return found[name].value


def load_prices(path: str | os.PathLike | None = None) -> Prices:
  """Reads a price file; the shipped one without a path.

  Raises:
    SpecError: unreadable, or a field that does not fit, with its path.
  """
  return _shipped() if path is None else _read(pathlib.Path(path))


@functools.cache
def _shipped() -> Prices:
  return _read(_FILE)


def _read(path: pathlib.Path) -> Prices:
  try:
    return Prices.model_validate(
      tomllib.loads(path.read_text(encoding='utf-8'))
    )
  except OSError as error:
    raise errors.SpecError(f'{path}: {error.strerror or error}') from None
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise errors.SpecError(f'{path}: not TOML: {error}') from None
  except pydantic.ValidationError as error:
    lines = [
      f'{path}: {".".join(str(p) for p in e["loc"])}: {e["msg"]}'
      for e in error.errors()
    ]
    raise errors.SpecError('\n'.join(lines)) from None
