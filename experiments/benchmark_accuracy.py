"""Held-out errors of every system of a recipe, beside roofline and others.

  python -m experiments.benchmark_accuracy --traces_dir=DIR \
    --markdown=runs/accuracy.md

Takes about two minutes with the checkpoints that ship; they left out one
shape, ratio or size in five, and are judged on exactly these rows. A system
whose checkpoint is not there, or was made with another seed, is fitted first
(two to three minutes for a GPU). The columns: mean (of the absolute percentage
error) of the pure roofline, of the laws alone, and of laws with residuals;
median and 90th percentile; coverage of the 90 % intervals; the best published
tool.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from experiments import program

_TRACES_DIR = flags.DEFINE_string(
  'traces_dir', None, 'Folder that the recipe speaks of.', required=True
)
_CHECKPOINTS = flags.DEFINE_string(
  'checkpoints', 'checkpoints', 'Folder of fitted systems; empty: fit all.'
)
_RECIPE = flags.DEFINE_string(
  'recipe', 'checkpoints/recipe.toml', 'Systems and their traces.'
)
_ONLY = flags.DEFINE_multi_string('only', [], 'Systems to judge; all.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the split and the fits.')
_MARKDOWN = flags.DEFINE_string('markdown', None, 'File for the table.')
_JSON = flags.DEFINE_string('json', None, "File to write, '-' for stdout.")
_CONFIG = config_flags.DEFINE_config_file(
  'config', program.config_path('rebuild.py'), 'How to fit and hold out.'
)


def main() -> None:
  from diffmem.traces import recipe as recipe_lib

  recipes = program.chosen(recipe_lib.load_recipes(_RECIPE.value), _ONLY.value)
  groups = []
  for recipe in recipes:
    if recipe.source:
      program.headline(recipe.name)
      groups += _judge(recipe)
  program.print_accuracy(groups, _MARKDOWN.value)
  program.write_json(_JSON.value, {'groups': groups})


def _judge(recipe) -> list[dict]:
  from diffmem import checkpoint, fitting, traces

  config = _CONFIG.value
  rows = traces.concat([p.traces for p in recipe.read(_TRACES_DIR.value)])
  held_out = fitting.hold_out(
    rows, every=config.holdout_every, seed=_SEED.value
  )
  fitted = _stored(pathlib.Path(_CHECKPOINTS.value) / recipe.name)
  prior = checkpoint.load_system(recipe.spec)
  if fitted is None:
    options = program.fit_options(config, _SEED.value)
    with program.progress() as report:
      fitted = fitting.fit(
        prior, rows.select(~held_out), options, report
      ).fitted
  return fitting.accuracy(fitted, prior.system, rows.select(held_out))


def _stored(path: pathlib.Path):
  """The checkpoint there, if its fit held out the rows of this seed."""
  from diffmem import checkpoint

  if not _CHECKPOINTS.value or not path.is_dir():
    return None
  found = checkpoint.load_checkpoint(path)
  return found.fitted if found.card.seed == _SEED.value else None


if __name__ == '__main__':
  program.run(main)
