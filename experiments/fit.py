"""Fits a system to traces and writes a checkpoint.

  python -m experiments.fit --traces=runs/this-machine.parquet --out=runs/fitted

Takes about 20 s, most of it compilation. One size in four is held out; expect
a median held-out error of a few percent, or the noise of the measurements. An
interrupted fit goes on where it stopped when it is started again.
"""

from absl import flags
from ml_collections import config_flags

from experiments import program

_TRACES = flags.DEFINE_multi_string('traces', None, 'Trace files.')
_SYSTEM = flags.DEFINE_string(
  'system',
  'cpu',
  "Prior: 'cpu' (this machine's cache sizes), a catalog name, a checkpoint "
  'folder or a TOML file.',
)
_OUT = flags.DEFINE_string('out', None, 'Checkpoint folder.', required=True)
_SEED = flags.DEFINE_integer('seed', 0, 'Of starts, split and bootstrap.')
_CONFIG = config_flags.DEFINE_config_file(
  'config', program.config_path('fit.py'), 'How to fit.'
)
flags.mark_flag_as_required('traces')


def main() -> None:
  from diffmem import traces

  parts = [traces.read_traces(path) for path in _TRACES.value]
  program.check_output_folder(_OUT.value)

  from diffmem import checkpoint, fitting

  everything = traces.concat(parts)
  config = _CONFIG.value
  prior = program.prior_system(_SYSTEM.value, everything)
  options = program.fit_options(
    config, _SEED.value, resume_path=f'{_OUT.value}.fitting.npz'
  )
  with program.progress() as report:
    found, groups = fitting.fit_held_out(
      prior, everything, options, config.holdout_every, report
    )
  checkpoint.save_checkpoint(
    _OUT.value,
    found.fitted,
    checkpoint.Card.now(
      traces=[
        checkpoint.TraceFile(
          file=path, sha256=traces.sha256(path), rows=len(part)
        )
        for path, part in zip(_TRACES.value, parts, strict=True)
      ],
      held_out=groups,
      seed=_SEED.value,
    ),
  )
  program.print_groups('Held-out errors, percent', groups)
  for line in found.help:
    print(f'- {line}')
  print(f'wrote the checkpoint {_OUT.value}')


if __name__ == '__main__':
  program.run(main)
