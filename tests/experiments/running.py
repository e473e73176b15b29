"""Runs a program as a user does, and checks how it refuses."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent


def run(*arguments, cwd=ROOT):
  return subprocess.run(
    [sys.executable, '-m', *map(str, arguments)],
    cwd=cwd, capture_output=True, text=True, check=False,
  )  # fmt: skip


def assert_refused(done, *said):
  assert done.returncode == 2, done.stdout + done.stderr
  assert 'Traceback' not in done.stderr
  assert done.stderr.startswith('error: ') or '\nerror: ' in done.stderr
  for text in said:
    assert str(text) in done.stderr
