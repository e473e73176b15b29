"""Builds a part that was never measured from a fitted relative.

  python -m experiments.transfer --checkpoint=checkpoints/h100-sxm \
    --spec=h200-sxm --out=runs/h200-from-h100

Takes seconds. Only what the two data sheets state differently changes; the
program prints each change, and the intervals become wider. With --traces (rows
that were measured on the new part after all) it prints how far off it is.
"""

from absl import flags

from experiments import program

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'Checkpoint folder of the relative.', required=True
)
_SPEC = flags.DEFINE_string(
  'spec', None, 'The new part: a catalog name or a TOML file.', required=True
)
_RELATIVE_SPEC = flags.DEFINE_string(
  'relative_spec',
  None,
  'The relative as published; the catalog entry of its own name.',
)
_OUT = flags.DEFINE_string('out', None, 'Checkpoint folder.')
_TRACES = flags.DEFINE_multi_string('traces', [], 'Rows of the new part.')


def main() -> None:
  from diffmem import traces

  rows = [traces.read_traces(path) for path in _TRACES.value]
  if _OUT.value:
    program.check_output_folder(_OUT.value)

  from diffmem import checkpoint, fitting

  relative = checkpoint.load_system(_CHECKPOINT.value)
  found = fitting.transfer(
    relative,
    checkpoint.load_system(_RELATIVE_SPEC.value or relative.system.name),
    checkpoint.load_system(_SPEC.value),
  )
  program.print_changes(relative.system.name, found)
  groups = []
  if rows:
    groups = fitting.evaluate(found.fitted, traces.concat(rows))
    program.print_groups('Errors on the new part, percent', groups)
  if _OUT.value:
    notes = (
      f'transferred from {_CHECKPOINT.value} by the data sheet {_SPEC.value}; '
      'nothing in it was measured on this part'
    )
    card = checkpoint.Card.now(held_out=groups, notes=notes)
    checkpoint.save_checkpoint(_OUT.value, found.fitted, card)
    print(f'wrote the checkpoint {_OUT.value}')


if __name__ == '__main__':
  program.run(main)
