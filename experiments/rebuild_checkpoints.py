"""Fits every system of a recipe to a folder of traces; writes checkpoints.

  python -m experiments.rebuild_checkpoints --traces_dir=DIR --out=checkpoints

Takes two to three minutes for a GPU's whole kernel set on two cores, seconds
for a memory platform. One shape, ratio or size in five is held out, and each
card says how far off the fit is there. A system without sources is written as
published: all of it prior. An interrupted run goes on with the system that it
was at; --only=NAME (repeated) rebuilds some.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from experiments import program

_TRACES_DIR = flags.DEFINE_string(
  'traces_dir', None, 'Folder that the recipe speaks of.', required=True
)
_OUT = flags.DEFINE_string('out', 'checkpoints', 'Folder of checkpoints.')
_RECIPE = flags.DEFINE_string(
  'recipe', 'checkpoints/recipe.toml', 'What to fit to what.'
)
_ONLY = flags.DEFINE_multi_string('only', [], 'Systems to rebuild; all.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of starts, split and bootstrap.')
_CONFIG = config_flags.DEFINE_config_file(
  'config', program.config_path('rebuild.py'), 'How to fit.'
)


def main() -> None:
  from diffmem.traces import recipe as recipe_lib

  recipes = program.chosen(recipe_lib.load_recipes(_RECIPE.value), _ONLY.value)
  program.check_output_folder(f'{_OUT.value}/any')
  for recipe in recipes:
    program.headline(f'{recipe.name}: {recipe.about}')
    _rebuild(recipe, pathlib.Path(_OUT.value) / recipe.name)


def _rebuild(recipe, target: pathlib.Path) -> None:
  from diffmem import checkpoint, fitting, traces

  prior = checkpoint.load_system(recipe.spec)
  config, groups = _CONFIG.value, []
  parts = recipe.read(_TRACES_DIR.value)
  if parts:
    rows = traces.concat([part.traces for part in parts])
    options = program.fit_options(
      config, _SEED.value, resume_path=f'{target}.fitting.npz'
    )
    with program.progress() as report:
      found, groups = fitting.fit_held_out(
        prior, rows, options, config.holdout_every, report
      )
    prior = found.fitted
    program.print_groups('Held-out errors, percent', groups)
  card = checkpoint.Card.now(
    traces=[
      checkpoint.TraceFile(
        file=part.path, sha256=part.sha256, rows=len(part.traces)
      )
      for part in parts
    ],
    held_out=groups,
    notes=recipe.about,
    seed=_SEED.value,
  )
  checkpoint.save_checkpoint(target, prior, card)
  print(f'wrote the checkpoint {target}')


if __name__ == '__main__':
  program.run(main)
