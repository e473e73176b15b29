"""Named scenarios: what is built in, what a fleet adds, and their factors.

Built in are 'flat', 'shortage' and 'glut' (`scenarios.toml`, with sources). A
scenario of a fleet's own of the same name takes the place of a built-in one.
"""

import difflib
import functools
import pathlib
import tomllib
from collections.abc import Mapping

import numpy as np

from diffmem import errors
from diffmem.codesign.fleet.schema import Amounts, Fleet, Scenario

_FILE = pathlib.Path(__file__).with_name('scenarios.toml')
FLAT = 'flat'
ENERGY, POWER, ALL = 'energy', 'power', 'all'


@functools.cache
def built_in() -> Mapping[str, Scenario]:
  """The scenarios that every fleet has."""
  document = tomllib.loads(_FILE.read_text(encoding='utf-8'))
  return {n: Scenario.model_validate(d) for n, d in document.items()}


def scenarios_of(fleet: Fleet) -> dict[str, Scenario]:
  """All scenarios of a fleet by name, its own last."""
  return {**built_in(), **fleet.scenarios}


def scenario_of(fleet: Fleet, name: str) -> Scenario:
  """A scenario by name.

  A built-in one may name memories that the fleet lacks; one of the fleet's own
  may not.

  Raises:
    SpecError: no such scenario, or it names what the fleet does not have.
  """
  known = scenarios_of(fleet)
  if name not in known:
    near = difflib.get_close_matches(name, known, 1, 0.4)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    raise errors.SpecError(
      f'no scenario {name!r}{hint} (there is {", ".join(known)})'
    )
  if name in fleet.scenarios:
    _check_names(fleet, name)
  return known[name]


def by_quarter(amounts: Amounts | None, quarters: int) -> np.ndarray:
  """A number or list as an array [quarter]; None is infinite.

  Examples:
    >>> by_quarter((1.0, 2.0), 4)
    array([1., 2., 2., 2.])
  """
  if amounts is None:
    return np.full(quarters, np.inf)
  values = np.atleast_1d(np.asarray(amounts, float))[:quarters]
  return np.concatenate([values, np.full(quarters - len(values), values[-1])])


def counts(values: tuple[float, ...], quarters: int) -> np.ndarray:
  """A list as an array [quarter] that ends in zeros."""
  return np.concatenate([values, np.zeros(quarters - len(values))])


def factor(
  table: Mapping[str, Amounts], name: str, quarters: int, default: str = ''
) -> np.ndarray:
  """A scenario's factors [quarter] for a name; ones where it has none."""
  found = table.get(name, table.get(default, 1.0) if default else 1.0)
  return by_quarter(found, quarters)


def _check_names(fleet: Fleet, name: str) -> None:
  scenario = fleet.scenarios[name]
  things = {*fleet.parts, *fleet.memories}
  workloads = {w.name for w in fleet.workloads}
  tables = {
    'price': (scenario.price, things | {ENERGY}),
    'supply': (scenario.supply, things | {POWER}),
    'later_quarters': (scenario.later_quarters, things),
    'demand': (scenario.demand, workloads | {ALL}),
  }
  for field, (table, known) in tables.items():
    for key in table:
      if key not in known:
        near = difflib.get_close_matches(key, known, 1, 0.4)
        hint = f'; did you mean {near[0]!r}?' if near else ''
        raise errors.SpecError(
          f'scenarios.{name}.{field}.{key}: no such name{hint} (expected one '
          f'of {", ".join(sorted(known))})'
        )
