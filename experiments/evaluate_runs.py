"""Predicts whole measured runs and says how well: training, serving, offload.

  python -m experiments.evaluate_runs --checkpoints=checkpoints \
    --runs=training_runs.parquet --predictions=runs/predictions.parquet

The table's columns tell what it measures; the accelerator of a row picks the
checkpoint in the folder, or a relative's carried over by data sheet. Software
overheads come from the folder's software.json, or are fitted with
`--calibrate_on=FILE` to other runs first. One row out per row and observable,
answered or not. Takes about a minute for training, two for serving.
"""

import pathlib

from absl import flags

from experiments import program

_CHECKPOINTS = flags.DEFINE_string(
  'checkpoints', 'checkpoints', 'Folder of fitted systems.'
)
_RUNS = flags.DEFINE_string('runs', None, 'Table of runs.', required=True)
_PREDICTIONS = flags.DEFINE_string(
  'predictions', None, 'Parquet file to write.', required=True
)
_CALIBRATE_ON = flags.DEFINE_multi_string(
  'calibrate_on', [], 'Other runs to fit the software to.'
)
_SOFTWARE_OUT = flags.DEFINE_string(
  'software_out', None, 'File for the fitted software.'
)
_JSON = flags.DEFINE_string(
  'json', None, "File for the errors, '-' for stdout."
)


def main() -> None:
  from diffmem.runs import score, table

  rows = table.read(_RUNS.value)
  kind = table.kind_of(rows, _RUNS.value)
  others = [(path, table.read(path)) for path in _CALIBRATE_ON.value]
  others = [(table.kind_of(r, path), r) for path, r in others]

  from diffmem.runs import machines as machines_lib
  from diffmem.runs import software as software_lib

  folder = pathlib.Path(_CHECKPOINTS.value)
  machines = machines_lib.Machines(folder)
  software = software_lib.of_folder(folder)
  for other, measured in others:
    software = software.fitted(other, measured, machines)
  if _SOFTWARE_OUT.value:
    software.save(_SOFTWARE_OUT.value)
    print(f'wrote {_SOFTWARE_OUT.value}')
  answers = software.predict(kind, rows, machines)
  table.write(_PREDICTIONS.value, answers)
  document = {
    'kind': kind,
    'scores': score.scores(kind, rows, answers),
    'regret': score.regrets(kind, rows, answers),
    'refused': score.refusals(answers),
  }
  if _JSON.value != '-':
    program.print_runs(document)
    print(f'wrote {_PREDICTIONS.value}')
  program.write_json(_JSON.value, document)


if __name__ == '__main__':
  program.run(main)
