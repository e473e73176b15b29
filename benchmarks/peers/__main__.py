"""diffmem beside FlexGen, Calculon and Galvatron, in one run.

    python -m benchmarks.peers --document=docs/peers.md
    python -m benchmarks.peers --runs=TABLE  # offload runs, for held-out fits

Prints every table; `--document` rewrites those of the document as well. Takes
two to three minutes on two cores, most of it for compiling our planner's
programs (`--skip_plans` leaves that out).
"""

import argparse
import pathlib
import time

import jax

from benchmarks.peers import flexgen_report, markdown, training_report
from diffmem.runs import software as software_lib
from diffmem.runs.machines import Machines

_ROOT = pathlib.Path(__file__).parents[2]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--document', type=pathlib.Path)
  parser.add_argument('--runs', type=pathlib.Path)
  parser.add_argument(
    '--checkpoints', type=pathlib.Path, default=_ROOT / 'checkpoints'
  )
  parser.add_argument('--skip_plans', action='store_true')
  flags = parser.parse_args()
  # As our planner's program: on the CPU, whatever else is there.
  jax.config.update('jax_platforms', 'cpu')
  machines = Machines(flags.checkpoints)
  software = software_lib.of_folder(flags.checkpoints)
  began = time.monotonic()
  parts = {
    'flexgen predictions': flexgen_report.predictions(software, flags.runs),
    'flexgen searches': flexgen_report.searches(),
    'flexgen own': flexgen_report.own_policies(software),
    'galvatron budgets': training_report.budgets(),
    'calculon memory': training_report.memory(),
    'calculon predictions': training_report.predictions(machines, software),
  }
  if not flags.skip_plans:
    parts['calculon choices'] = training_report.choices(machines, software)
  for name, part in parts.items():
    print(f'{name}\n\n{part}\n')
  print(f'{time.monotonic() - began:.0f} s in all')
  if flags.document:
    markdown.replace(flags.document, parts)


if __name__ == '__main__':
  main()
