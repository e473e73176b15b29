"""Every error that a user can meet, each with what to do about it.

A program ends with exit code 2 and the text of the error, never with a
traceback (`experiments.program.run`). A numerical outcome that is not a bug
(an infeasible plan, a parameter that the data cannot identify) is a value in
a result object instead.
"""

import difflib
from collections.abc import Iterable


class DiffmemError(Exception):
  """The base: something the user gave, or the machine, does not fit."""


class JaxVersionError(DiffmemError):
  """The installed jax is known to compute wrong results."""


class UnitError(DiffmemError):
  """A text such as '3.35 TB/s' could not be read as a quantity."""


class SpecError(DiffmemError):
  """A system, workload or configuration description does not fit."""


class CheckpointError(DiffmemError):
  """A checkpoint is damaged, incomplete or of another schema version."""


class FitError(DiffmemError):
  """The traces cannot constrain the system that they should fit."""


class PlanError(DiffmemError):
  """No plan can be made of what was asked."""


class CollectError(DiffmemError):
  """This machine cannot be measured as asked."""


class TraceError(DiffmemError):
  """A trace breaks the schema.

  Attributes:
    file: the file's path.
    row: 1-based data row (the header does not count), or None for the file.
    column: the column's name, or None.
    value: the offending value, or None.
    expected: what should stand there.
  """

  def __init__(
    self,
    file: object,
    *,
    expected: str,
    row: int | None = None,
    column: str | None = None,
    value: object = None,
  ):
    self.file = str(file)
    self.row = row
    self.column = column
    self.value = value
    self.expected = expected
    where = [self.file]
    if row is not None:
      where.append(f'row {row}')
    if column is not None:
      where.append(f'column {column!r}')
    shown = '' if value is None else f' found {value!r};'
    super().__init__(f'{", ".join(where)}:{shown} expected {expected}')


def check_name(what: str, name: object, names: Iterable[str]) -> None:
  """Refuses a name that a plan's request should choose among others.

  Args:
    what: what it names, such as 'objective'.
    name: what was given.
    names: the legal ones.

  Raises:
    PlanError: it is none of them, with the nearest.
  """
  names = list(names)
  if name in names:
    return
  near = difflib.get_close_matches(str(name), names, 1, 0.4)
  hint = f'; did you mean {near[0]!r}?' if near else ''
  raise PlanError(
    f'no {what} {name!r}{hint} (expected one of {", ".join(names)})'
  )
