"""Ruff, and the laws of the house: who may import whom, how long a file is."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Ground floor first; a room imports from its own and from lower floors only.
FLOORS = {
  'errors': 0, 'units': 0, 'system': 1, 'cost': 2, 'traces': 3,
  'workloads': 3, 'checkpoint': 3, 'fitting': 4, 'planning': 4,
  'runs': 5, 'codesign': 5, 'report': 6,
}  # fmt: skip
MODULES = sorted((ROOT / 'diffmem').rglob('*.py'))


@pytest.mark.parametrize(
  'command', [['format', '--check'], ['check']], ids=['format', 'lint']
)
def test_ruff(command):
  done = subprocess.run(
    [sys.executable, '-m', 'ruff', *command, '.'],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr


def _imports(path: pathlib.Path) -> set[str]:
  """Rooms of diffmem that a module imports, lazily or not."""
  rooms = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      parts = node.module.split('.')
      if parts[0] == 'diffmem':
        names = parts[1:2] or [alias.name for alias in node.names]
        rooms |= set(names)
  return rooms & set(FLOORS)


@pytest.mark.parametrize(
  'path', MODULES, ids=lambda p: str(p.relative_to(ROOT))
)
def test_rooms_import_downwards(path):
  room = path.relative_to(ROOT / 'diffmem').parts[0].removesuffix('.py')
  if room == '__init__':
    return
  above = {r for r in _imports(path) if FLOORS[r] > FLOORS[room]}
  beside = {
    r for r in _imports(path) - {room} if FLOORS[r] == FLOORS[room] > 0
  }  # fmt: skip
  assert not above and not beside


@pytest.mark.parametrize(
  'path', MODULES, ids=lambda p: str(p.relative_to(ROOT))
)
def test_modules_stay_readable(path):
  assert len(path.read_text().splitlines()) <= 500


def test_the_lock_names_no_index():
  lock = (ROOT / 'requirements.lock').read_text()
  assert not re.search(r'https?://|--index-url|--find-links', lock)
  assert lock.count('--hash=sha256:') > 100
  assert re.search(r'^jax==', lock, re.M)
  assert not re.search(r'^jax==0\.(10\.2|11\.1)\b', lock, re.M)
