"""Finished rows on disk, so that a run that was cut off can go on."""

import collections
import json
import os
import pathlib
from typing import Any

Row = dict[str, Any]
_ATTEMPTS = 2


class Journal:
  """One line per probe, appended as it happens; a torn last line is no harm.

  A probe that was begun and never ended may have taken the program with it.
  Where that happened twice it is not tried again.

  Attributes:
    rows: finished rows by probe.
    unended: how often a probe was begun and not ended.
  """

  def __init__(self, path: str | os.PathLike, key: str):
    """Opens a journal.

    Args:
      path: the file.
      key: of the measurement; what was kept under another key is discarded.
    """
    self.path = pathlib.Path(path)
    self.rows: dict[str, Row] = {}
    self.unended: collections.Counter[str] = collections.Counter()
    lines = _lines(self.path)
    if lines and lines[0].get('key') == key:
      self._replay(lines[1:])
    scratch = self.path.with_name(f'.{self.path.name}.{os.getpid()}.tmp')
    with open(scratch, 'w', encoding='utf-8') as file:
      for line in (
        {'key': key},
        *({'done': name, 'row': row} for name, row in self.rows.items()),
        *({'begun': name} for name in self.unended.elements()),
      ):
        file.write(json.dumps(line) + '\n')
    scratch.replace(self.path)

  def is_broken(self, name: str) -> bool:
    """Whether a probe has ended the program, by all appearances."""
    return self.unended[name] >= _ATTEMPTS

  def begin(self, name: str) -> None:
    """A probe is about to be measured."""
    self._append({'begun': name})

  def done(self, name: str, row: Row) -> None:
    """A probe has its row."""
    self._append({'done': name, 'row': row})
    self.rows[name] = row

  def failed(self, name: str) -> None:
    """A probe could not be measured; the next run tries it again."""
    self._append({'failed': name})

  def remove(self) -> None:
    """Removes the file: nothing is left to do."""
    self.path.unlink(missing_ok=True)

  def _replay(self, lines: list[dict[str, Any]]) -> None:
    for line in lines:
      if 'begun' in line:
        self.unended[line['begun']] += 1
      else:
        self.unended.pop(line.get('done', line.get('failed')), None)
        if 'done' in line:
          self.rows[line['done']] = line['row']

  def _append(self, line: dict[str, Any]) -> None:
    with open(self.path, 'a', encoding='utf-8') as file:
      file.write(json.dumps(line) + '\n')


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The whole lines of a journal; [] where there is none."""
  try:
    text = path.read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError):
    return []
  found = []
  for line in text.splitlines():
    try:
      found.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return [line for line in found if isinstance(line, dict)]
