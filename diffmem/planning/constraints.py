"""What a user fixes, forbids or limits, and what that leaves of a space.

Limits of memory and power change the machine that is planned for: a device
with less of a memory, a board with a lower cap. Their multipliers and
elasticities are then those of any capacity. Choices leave out configurations;
homes say where a tensor group may live.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from diffmem import errors, units
from diffmem.planning.space import Space
from diffmem.system import System
from diffmem.workloads import AXES, RECOMPUTE, SHARDING, Machine

_NUMBERS = (*AXES, 'interleave', 'micro_batch')
_NAMED = {'recompute': RECOMPUTE, **SHARDING}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
  """What a plan must keep to.

  Attributes:
    only: choice -> values that it may take; others are left out. Choices are
      the axes, 'interleave', 'micro_batch', and by name 'recompute' and the
      shardings of layer kinds ('attention_by', 'mlp_by', 'experts_by').
    never: choice -> values that it may not take.
    memory_B: memory -> most bytes of it on one device, the runtime's share
      included [B].
    supply_B: memory -> most bytes of it in the whole fleet [B].
    power_W: cap on the power of a device [W].
    homes: tensor group -> memories where it may live.
  """

  only: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
  never: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
  memory_B: Mapping[str, float] = dataclasses.field(default_factory=dict)
  supply_B: Mapping[str, float] = dataclasses.field(default_factory=dict)
  power_W: float | None = None
  homes: Mapping[str, tuple] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    """Checks names and values of choices.

    Raises:
      PlanError: an unknown choice or value, a limit that is not positive.
    """
    for table in (self.only, self.never):
      for choice, values in table.items():
        _check_choice(choice, values)
    limits = {**self.memory_B, **self.supply_B}
    if self.power_W is not None:
      limits['power_W'] = self.power_W
    for name, limit in limits.items():
      if not limit > 0:
        raise errors.PlanError(f'limit of {name} = {limit!r}: expected > 0')

  @classmethod
  def parse(
    cls,
    *,
    only: Iterable[str] = (),
    never: Iterable[str] = (),
    memory: Iterable[str] = (),
    supply: Iterable[str] = (),
    homes: Iterable[str] = (),
    power_W: float | None = None,
  ) -> 'Constraints':
    """Constraints from text, as flags give it.

    Args:
      only: 'choice=value' or 'choice=value|value'.
      never: the same.
      memory: 'memory=60 GB'.
      supply: the same, of the whole fleet.
      homes: 'group=memory' or 'group=memory|memory'.
      power_W: cap on the power of a device [W].

    Raises:
      PlanError: a text of another form, an unknown choice or value.

    Examples:
      >>> found = Constraints.parse(only=['tensor=4|8'], memory=['HBM=60 GB'])
      >>> found.only, found.memory_B
      ({'tensor': (4, 8)}, {'HBM': 60000000000.0})
    """
    return cls(
      only=_choices(only),
      never=_choices(never),
      memory_B={k: _bytes(k, v) for k, v in _pairs(memory)},
      supply_B={k: _bytes(k, v) for k, v in _pairs(supply)},
      power_W=power_W,
      homes={k: tuple(v.split('|')) for k, v in _pairs(homes)},
    )

  def machine(self, system: System, chips: int) -> System:
    """The system with less memory, or with a lower power cap.

    Args:
      system: the machine as it is.
      chips: devices, which share the supply.

    Raises:
      PlanError: a memory that the system lacks, or power below what the
        device draws at rest.
    """
    changed = {}
    most_B = dict(self.memory_B)
    for memory, supply_B in self.supply_B.items():
      share_B = supply_B / chips
      most_B[memory] = min(share_B, most_B.get(memory, share_B))
    held = [t.name for t in system.tiers if not (t.is_cache or t.link)]
    for memory, limit_B in most_B.items():
      errors.check_name('memory', memory, held)
      has_B = float(system.tier(memory).capacity_B)
      changed[f'{memory}.capacity_B'] = min(limit_B, has_B)
    if self.power_W is not None:
      rest_W = float(system.static_W)
      if self.power_W <= 1.02 * rest_W:
        raise errors.PlanError(
          f'power_W = {self.power_W:g}: {system.name} draws '
          f'{units.format_si(rest_W, "W")} at rest; ask for more than '
          f'{1.02 * rest_W:.0f}'
        )
      cap_W = float(system.power_cap_W)
      changed['system.power_cap_W'] = min(self.power_W, cap_W)
    return system.with_values(changed) if changed else system

  def homes_of(
    self, groups: Iterable[str], machine: Machine
  ) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """`homes`, checked against a workload's groups and a machine's memories.

    Raises:
      PlanError: an unknown group or memory, or a group without a home.
    """
    groups = tuple(groups)
    for group, memories in self.homes.items():
      errors.check_name('tensor group', group, groups)
      for memory in memories:
        errors.check_name('memory', memory, machine.memories)
      if not memories:
        raise errors.PlanError(f'{group} may live nowhere')
    return tuple((g, tuple(m)) for g, m in sorted(self.homes.items()))

  def apply(self, space: Space) -> Space:
    """The configurations that keep to the choices.

    What each constraint alone leaves out joins `refused`.
    """
    rules = {}
    for choice, values in self.only.items():
      column = space.choices[choice]
      allowed = [_number(choice, v) for v in values]
      rules[f'{choice} = {_shown(values)}'] = np.isin(column, allowed)
    for choice, values in self.never.items():
      column = space.choices[choice]
      refused = [_number(choice, v) for v in values]
      rules[f'{choice} other than {_shown(values)}'] = ~np.isin(column, refused)
    if not rules:
      return space
    kept = np.logical_and.reduce(list(rules.values()))
    alone = {
      name: int((_all_but(rules, name) & ~rules[name]).sum()) for name in rules
    }
    choices = {k: v[kept] for k, v in space.choices.items()}
    return Space(choices, {**space.refused, **alone})

  def to_dict(self) -> dict[str, Any]:
    """What was asked, for the record; empty without constraints."""
    asked = dataclasses.asdict(self)
    return {k: v for k, v in asked.items() if v}


def _pairs(texts: Iterable[str]) -> list[tuple[str, str]]:
  """('name', 'value') of 'name=value'."""
  found = []
  for text in texts:
    name, equals, value = (part.strip() for part in text.partition('='))
    if not (name and equals and value):
      raise errors.PlanError(f'{text!r}: expected name=value')
    found.append((name, value))
  return found


def _choices(texts: Iterable[str]) -> dict[str, tuple]:
  found = {}
  for choice, value in _pairs(texts):
    values = [v.strip() for v in value.split('|')]
    if choice not in _NAMED:
      for v in values:
        if not v.isdigit():
          raise errors.PlanError(f'{choice}={v}: expected a whole number')
      values = [int(v) for v in values]
    found[choice] = tuple(values)
  return found


def _bytes(memory: str, text: str) -> float:
  try:
    return units.parse(text, 'B')
  except errors.DiffmemError as error:
    raise errors.PlanError(f'{memory}={text}: {error}') from None


def _all_but(rules: Mapping[str, np.ndarray], name: str) -> np.ndarray:
  others = [kept for other, kept in rules.items() if other != name]
  return np.logical_and.reduce([np.ones_like(rules[name]), *others])


def _shown(values) -> str:
  return ' or '.join(str(v) for v in values)


def _number(choice: str, value: Any) -> float:
  return float(_NAMED[choice].index(value) if choice in _NAMED else int(value))


def _check_choice(choice: str, values: tuple) -> None:
  errors.check_name('choice', choice, (*_NUMBERS, *_NAMED))
  if not values:
    raise errors.PlanError(f'{choice}: no value is named')
  for value in values:
    if choice in _NAMED:
      errors.check_name(choice, value, _NAMED[choice])
    elif isinstance(value, bool) or value != int(value) or value < 1:
      raise errors.PlanError(
        f'{choice} = {value!r}: expected a whole number of at least 1'
      )
