"""Errors of a checkpoint on traces, per system, op, tier and observable.

  python -m experiments.evaluate --checkpoint=runs/fitted \
    --traces=runs/this-machine.parquet --json=runs/errors.json

Takes a few seconds. `--json=-` prints the JSON alone.
"""

from absl import flags

from experiments import program

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'Checkpoint folder or catalog name.', required=True
)
_TRACES = flags.DEFINE_multi_string('traces', None, 'Trace files.')
_JSON = flags.DEFINE_string('json', None, "File to write, '-' for stdout.")
flags.mark_flag_as_required('traces')


def main() -> None:
  from diffmem import traces

  everything = traces.concat([traces.read_traces(p) for p in _TRACES.value])

  from diffmem import checkpoint, fitting

  fitted = checkpoint.load_system(_CHECKPOINT.value)
  predictions = fitting.predict_traces(fitted, everything)
  document = {
    'checkpoint': _CHECKPOINT.value,
    'traces': _TRACES.value,
    'groups': fitting.group_errors(predictions),
    'total': fitting.summary(predictions),
    'laws_alone': fitting.summary(predictions.without_residuals()),
  }
  if _JSON.value != '-':
    program.print_groups('Errors, percent', document['groups'])
  program.write_json(_JSON.value, document)


if __name__ == '__main__':
  program.run(main)
