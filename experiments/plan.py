"""Chooses mesh, recompute and placement for a workload on many chips.

  python -m experiments.plan --checkpoint=h100-sxm \
    --workload=claude-scale-moe-1t --chips=4096 --report=runs/plan.html

Takes about 15 s. The checkpoint is a fitted folder or the name of a catalog
system, which is a prior from published figures and says so. Exit code 2 and
the limit that binds where nothing fits.
"""

from absl import flags

from experiments import program

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'Checkpoint folder, catalog name or TOML.', required=True
)
_WORKLOAD = flags.DEFINE_string(
  'workload', None, 'Preset or TOML file of a transformer.', required=True
)
_CHIPS = flags.DEFINE_integer('chips', None, 'Devices.', 1, required=True)
_PHASE = flags.DEFINE_enum('phase', 'train', ['train', 'decode'], 'What runs.')
_OBJECTIVE = flags.DEFINE_enum(
  'objective',
  'step_time_s',
  ['step_time_s', 'tokens_per_s', 'energy_per_token_J', 'cost_per_token_usd'],
  'What is optimised.',
)
_TOKENS = flags.DEFINE_integer(
  'global_batch_tokens', 16 * 2**20, 'Tokens of a training step.', 1
)
_SEQ_LEN = flags.DEFINE_integer('seq_len', 8192, 'Training sequence.', 1)
_BATCH = flags.DEFINE_integer('batch', None, 'Sequences decoded at once.', 1)
_CONTEXT = flags.DEFINE_integer('context', 8192, 'Cached tokens of each.', 1)
_DTYPE = flags.DEFINE_string('dtype', 'bfloat16', 'Of the matrix products.')
_PRICE = flags.DEFINE_float(
  'usd_per_chip_hour', None, 'Rent, for the cost per token.', 0
)
_TOP = flags.DEFINE_integer('top', 5, 'How many plans.', 1)
_JSON = flags.DEFINE_string('json', None, "File to write, '-' for stdout.")
_REPORT = flags.DEFINE_string('report', None, 'HTML file to write.')


def main() -> None:
  import sys

  from diffmem import checkpoint, planning

  fitted = checkpoint.load_system(_CHECKPOINT.value)
  with program.progress() as progress:
    result = planning.make_plan(
      fitted,
      _WORKLOAD.value,
      chips=_CHIPS.value,
      phase=_PHASE.value,
      objective=_OBJECTIVE.value,
      global_batch_tokens=_TOKENS.value,
      seq_len=_SEQ_LEN.value,
      batch=_BATCH.value,
      context=_CONTEXT.value,
      dtype=_DTYPE.value,
      usd_per_chip_hour=_PRICE.value,
      top=_TOP.value,
      on_progress=lambda done, total: progress('configurations', done, total),
    )
  if _JSON.value != '-':
    program.print_plans(result)
  program.write_json(_JSON.value, result.to_dict())
  if not result.plans:
    print(f'error: {result.help}', file=sys.stderr)
    sys.exit(2)
  if _REPORT.value:
    from diffmem import report

    report.write_report(
      _REPORT.value,
      report.ReportData(
        title=f'{_WORKLOAD.value} on {_CHIPS.value} x {fitted.system.name}',
        parameters=report.parameters_of(fitted),
        plan=report.plan_part(result, fitted),
        provenance=report.provenance(program.command_line(), {}, None),
      ),
    )
    print(f'wrote {_REPORT.value}')


if __name__ == '__main__':
  program.run(main)
