"""What the exports of launch arguments share."""

import shlex
from collections.abc import Mapping
from typing import NamedTuple

from diffmem.planning.export.specs import Strategies, strategies_of
from diffmem.planning.result import Plan
from diffmem.workloads import stage as stage_lib

WEIGHTS = (
  stage_lib.ATTENTION, stage_lib.MLP, stage_lib.EXPERTS, stage_lib.EMBEDDINGS,
)  # fmt: skip
Value = str | int | float | bool


class Launch(NamedTuple):
  """Arguments of a program, and what they cannot say.

  Attributes:
    arguments: name -> value, as the program spells them.
    replicas: programs that are started with these arguments, side by side.
    left_out: what of the plan the program cannot be told, line by line.
  """

  arguments: Mapping[str, Value]
  replicas: int
  left_out: tuple[str, ...]

  def command(self, program: str, separator: str = ' ') -> str:
    """The command line of one of them; True is the argument alone.

    Args:
      program: such as 'vllm serve MODEL'.
      separator: between name and value; '=' for MaxText.
    """
    words = []
    for name, value in self.arguments.items():
      if value is True and separator == ' ':
        words.append(name)
      else:
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        words.append(f'{name}{separator}{shlex.quote(shown)}')
    return ' '.join([program, *words])


def away_shares(plan: Plan) -> dict[str, dict[str, float]]:
  """Group -> memory -> share, without the nearest memory and without zeros."""
  return {
    group: {m: s for m, s in list(row.items())[1:] if s > 0}
    for group, row in plan.placement.items()
  }


def bytes_away(plan: Plan, groups: tuple[str, ...]) -> dict[str, float]:
  """Memory -> bytes of a device that these groups have there."""
  found: dict[str, float] = {}
  held = plan.predicted.get('group_memory_bytes', {})
  for group, row in away_shares(plan).items():
    if group in groups:
      for memory in row:
        size_B = held.get(memory, {}).get(group, 0.0)
        found[memory] = found.get(memory, 0.0) + size_B
  return found


def strategies(plan: Plan) -> Strategies:
  """Strategies that matter: one tensor rank has no choice."""
  found = strategies_of(plan.sharding)
  return found if plan.mesh.get('tensor', 1) > 1 else Strategies()
