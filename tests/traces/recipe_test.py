"""Recipes: which files of a folder each system is fitted to."""

import pathlib

import numpy as np
import pytest

from diffmem import errors
from diffmem.system import catalog_names
from diffmem.traces import from_rows, readers, recipe, write_traces

ROOT = pathlib.Path(__file__).parent.parent.parent
OWN = """
[[system]]
name = 'mine'
spec = 'h100-sxm'
about = 'two files of ours'
[[system.source]]
format = 'trace'
path = 'a.parquet'
[[system.source]]
format = 'trace'
path = 'below/b.csv'

[[system]]
name = 'nobody-measured'
spec = 'tpu-v5e'
about = 'published figures'
"""


def write(path, rows, system='mine'):
  path.parent.mkdir(parents=True, exist_ok=True)
  write_traces(
    path,
    from_rows(
      [
        {'system': system, 'op': 'stream', 'time_s': 1e-3 * (i + 1)}
        for i in range(rows)
      ]
    ),
  )


def test_the_recipe_that_ships_is_sound():
  recipes = recipe.load_recipes(ROOT / 'checkpoints/recipe.toml')
  names = [r.name for r in recipes]
  assert len(set(names)) == len(names)
  for r in recipes:
    assert r.spec in catalog_names(), r.name
    for source in r.source:
      assert source.format in {*readers.FORMATS, 'trace'}


def test_sources_are_read_and_hashed(tmp_path):
  file = tmp_path / 'recipe.toml'
  file.write_text(OWN)
  write(tmp_path / 'a.parquet', 3)
  write(tmp_path / 'below/b.csv', 2)
  mine, unmeasured = recipe.load_recipes(file)
  parts = mine.read(tmp_path)
  assert [part.path for part in parts] == ['a.parquet', 'below/b.csv']
  assert [len(part.traces) for part in parts] == [3, 2]
  np.testing.assert_allclose(parts[1].traces['time_s'], [1e-3, 2e-3])
  assert len({part.sha256 for part in parts}) == 2
  assert all(len(part.sha256) == 64 for part in parts)
  assert unmeasured.read(tmp_path) == []


def test_a_changed_file_changes_its_hash(tmp_path):
  file = tmp_path / 'recipe.toml'
  file.write_text(OWN)
  write(tmp_path / 'a.parquet', 3)
  write(tmp_path / 'below/b.csv', 2)
  before = recipe.load_recipes(file)[0].read(tmp_path)
  write(tmp_path / 'below/b.csv', 1)
  after = recipe.load_recipes(file)[0].read(tmp_path)
  assert before[0].sha256 == after[0].sha256
  assert before[1].sha256 != after[1].sha256


def test_a_file_that_is_not_there(tmp_path):
  file = tmp_path / 'recipe.toml'
  file.write_text(OWN)
  with pytest.raises(errors.TraceError, match='a.parquet'):
    recipe.load_recipes(file)[0].read(tmp_path)


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('', 'system'),
    ("[[system]]\nname = 'x'\n", 'system.0.spec'),
    (OWN.replace('about', 'abuot', 1), 'abuot'),
    ('[[system', 'TOML'),
  ],
)
def test_faults_are_named(tmp_path, text, said):
  file = tmp_path / 'recipe.toml'
  file.write_text(text)
  with pytest.raises(errors.SpecError) as caught:
    recipe.load_recipes(file)
  assert str(file) in str(caught.value) and said in str(caught.value)


def test_no_recipe_file(tmp_path):
  with pytest.raises(errors.SpecError, match='recipe'):
    recipe.load_recipes(tmp_path / 'none.toml')
