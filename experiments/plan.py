"""Chooses mesh, sharding, recompute and placement for a workload on many chips.

  python -m experiments.plan --checkpoint=h100-sxm \
    --workload=claude-scale-moe-1t --chips=4096 --report=runs/plan.html
  python -m experiments.plan --checkpoint=h100-sxm --workload=llama-3.1-70b \
    --phase=serve --chips=64 --input_len=4096 --output_len=512 --ttft_s=1 \
    --tpot_s=0.05
  python -m experiments.plan --checkpoint=h100-sxm --workload=llama-3.1-70b \
    --chips=256,512 --pareto=step_time_s,energy_per_token_J

The first takes about 15 s, 5 s the second time. The checkpoint is a fitted
folder or the name of a catalog system, which is a prior from published figures
and says so. Ctrl-C gives the best plans that are known by then, with their
gap. Exit code 2 and the limit that binds where nothing fits.
"""

import sys

from absl import flags

from experiments import program

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'Checkpoint folder, catalog name or TOML.', required=True
)
_WORKLOAD = flags.DEFINE_string(
  'workload', None, 'Preset, TOML file, or config.json of a transformer.',
  required=True,
)  # fmt: skip
_CHIPS = flags.DEFINE_list(
  'chips', None, 'Devices; several numbers for --pareto.', required=True
)
_PHASE = flags.DEFINE_enum(
  'phase', 'train', ['train', 'decode', 'serve'], 'What runs.'
)
_OBJECTIVE = flags.DEFINE_list(
  'objective', None,
  'step_time_s, tokens_per_s, energy_per_token_J or cost_per_token_usd; or a '
  'weighted sum, as step_time_s=1,energy_per_token_J=2. By default '
  'step_time_s; tokens_per_s to serve.',
)  # fmt: skip
_PARETO = flags.DEFINE_list('pareto', None, 'Two objectives: their front.')
_TOKENS = flags.DEFINE_integer(
  'global_batch_tokens', 16 * 2**20, 'Tokens of a training step.', 1
)
_SEQ_LEN = flags.DEFINE_integer('seq_len', 8192, 'Training sequence.', 1)
_BATCH = flags.DEFINE_integer('batch', None, 'Sequences decoded at once.', 1)
_CONTEXT = flags.DEFINE_integer('context', 8192, 'Cached tokens of each.', 1)
_INPUT_LEN = flags.DEFINE_integer('input_len', 1024, 'Prompt to serve.', 1)
_OUTPUT_LEN = flags.DEFINE_integer('output_len', 256, 'Answer to serve.', 1)
_RATE = flags.DEFINE_float(
  'requests_per_s', None, 'To be served; by default as many as possible.', 0
)
_TTFT = flags.DEFINE_float('ttft_s', None, 'Limit: time to first token.', 0)
_TPOT = flags.DEFINE_float('tpot_s', None, 'Limit: time per output token.', 0)
_PERCENTILE = flags.DEFINE_float('percentile', 0.9, 'Of both.', 0, 1)
_PREFIX_HIT = flags.DEFINE_float(
  'prefix_hit', 0.0, 'Share of prompts whose KV is cached.', 0, 1
)
_MODE = flags.DEFINE_enum(
  'mode', 'any', ['any', 'aggregated', 'disaggregated'], 'How to serve.'
)
_DTYPE = flags.DEFINE_list(
  'dtype', 'bfloat16', 'Of the matrix products; several to choose from.'
)
_ONLY = flags.DEFINE_multi_string(
  'only', [], 'choice=value[|value]: tensor=8, recompute=none|full.'
)
_NEVER = flags.DEFINE_multi_string('never', [], 'choice=value[|value].')
_HOMES = flags.DEFINE_multi_string(
  'home', [], 'group=memory[|memory]: optimizer=DRAM.'
)
_MEMORY = flags.DEFINE_multi_string(
  'memory', [], 'Most of a memory on a device: "HBM=60 GB".'
)
_SUPPLY = flags.DEFINE_multi_string(
  'supply', [], 'Most of a memory in the fleet: "HBM=200 TB".'
)
_POWER = flags.DEFINE_float('power_W', None, 'Power cap of a device.', 0)
_PRICE = flags.DEFINE_float(
  'usd_per_chip_hour', None, 'Rent, for the cost per token.', 0
)
_KWH = flags.DEFINE_float('usd_per_kWh', None, 'Electricity, on top.', 0)
_TOP = flags.DEFINE_integer('top', 5, 'How many plans.', 1)
_VERIFY = flags.DEFINE_bool(
  'verify', False, 'Check the elasticities by solving again.'
)
_CALIBRATED = flags.DEFINE_bool(
  'calibrated', False, 'Price the plans kernel by kernel too, with software.'
)
_CHECKPOINTS = flags.DEFINE_string(
  'checkpoints', 'checkpoints', 'Fitted systems and software for that.'
)
_STACK = flags.DEFINE_string(
  'stack', '', 'Software for that: nemo, vllm, ...; by default a mean.'
)
_EXPORT = flags.DEFINE_multi_enum(
  'export', [], ['maxtext', 'vllm', 'sglang'], 'Launch flags of the first.'
)
_JSON = flags.DEFINE_string('json', None, "File to write, '-' for stdout.")
_REPORT = flags.DEFINE_string('report', None, 'HTML file to write.')


def main() -> None:
  chips = program.whole_numbers('chips', _CHIPS.value)
  if len(chips) > 1 and not _PARETO.value:
    program.refuse('--chips: several numbers need --pareto')
  answer = _front if _PARETO.value else _serve if _is_serving() else _plan
  answer(chips)


def _is_serving() -> bool:
  return _PHASE.value == 'serve'


def _objective() -> str | dict[str, float]:
  asked = _OBJECTIVE.value or ['step_time_s']
  if len(asked) == 1 and '=' not in asked[0]:
    return asked[0]
  return program.weights('objective', asked)


def _asked() -> dict:
  """What training and decode plans are asked."""
  from diffmem import planning

  return {
    'phase': _PHASE.value,
    'global_batch_tokens': _TOKENS.value,
    'seq_len': _SEQ_LEN.value,
    'batch': _BATCH.value,
    'context': _CONTEXT.value,
    'dtype': _DTYPE.value,
    'usd_per_chip_hour': _PRICE.value,
    'usd_per_kWh': _KWH.value,
    'top': _TOP.value,
    'constraints': planning.Constraints.parse(
      only=_ONLY.value,
      never=_NEVER.value,
      memory=_MEMORY.value,
      supply=_SUPPLY.value,
      homes=_HOMES.value,
      power_W=_POWER.value,
    ),
  }


def _plan(chips: list[int]) -> None:
  from diffmem import checkpoint, planning
  from experiments import planned

  fitted = checkpoint.load_system(_CHECKPOINT.value)
  with program.progress() as progress:
    result = planning.make_plan(
      fitted, _WORKLOAD.value, chips=chips[0], objective=_objective(),
      verify=_VERIFY.value, on_progress=progress, **_asked(),
    )  # fmt: skip
  if _JSON.value != '-':
    planned.print_plans(result)
  document = result.to_dict()
  if result.plans and _CALIBRATED.value:
    document['finalists'] = _calibrated(result, fitted)
  program.write_json(_JSON.value, document)
  if not result.plans:
    program.refuse(result.help)
  if _EXPORT.value:
    planned.print_exports(result, _WORKLOAD.value, _EXPORT.value)
  if _REPORT.value:
    _write_report(result, fitted, chips[0])


def _calibrated(result, fitted) -> dict:
  """The plans by kernels and software, as measured jobs are priced."""
  from diffmem.runs import finalists, machines, software
  from experiments import planned

  found = finalists.price_finalists(
    result,
    machines.Machines(_CHECKPOINTS.value),
    software.of_folder(_CHECKPOINTS.value),
    system=fitted.system,
    stack=_STACK.value,
  )
  planned.print_finalists(found)
  return found.to_dict()


def _serve(chips: list[int]) -> None:
  from diffmem import checkpoint, planning
  from experiments import planned

  fitted = checkpoint.load_system(_CHECKPOINT.value)
  with program.progress() as progress:
    result = planning.plan_serving(
      fitted,
      _WORKLOAD.value,
      chips=chips[0],
      input_len=_INPUT_LEN.value,
      output_len=_OUTPUT_LEN.value,
      requests_per_s=_RATE.value,
      ttft_s=_TTFT.value,
      tpot_s=_TPOT.value,
      percentile=_PERCENTILE.value,
      prefix_hit=_PREFIX_HIT.value,
      objective=(_OBJECTIVE.value or ['tokens_per_s'])[0],
      usd_per_chip_hour=_PRICE.value,
      mode=_MODE.value,
      top=_TOP.value,
      on_progress=lambda done, total: progress('steps', done, total),
    )
  if _JSON.value != '-':
    planned.print_serving(result)
  program.write_json(_JSON.value, result.to_dict())
  if not result.plans:
    program.refuse(result.help)


def _front(chips: list[int]) -> None:
  from diffmem import checkpoint, planning
  from experiments import planned

  fitted = checkpoint.load_system(_CHECKPOINT.value)
  with program.progress() as progress:
    front = planning.trade_off(
      fitted, _WORKLOAD.value, tuple(_PARETO.value), chips,
      on_progress=progress, **_asked(),
    )  # fmt: skip
  if _JSON.value != '-':
    planned.print_front(front)
  program.write_json(_JSON.value, front.to_dict())
  if not front.points:
    program.refuse(front.help)


def _write_report(result, fitted, chips: int) -> None:
  from diffmem import report

  report.write_report(
    _REPORT.value,
    report.ReportData(
      title=f'{_WORKLOAD.value} on {chips} x {fitted.system.name}',
      parameters=report.parameters_of(fitted),
      plan=report.plan_part(result, fitted),
      provenance=report.provenance(program.command_line(), {}, None),
    ),
  )
  print(f'wrote {_REPORT.value}', file=sys.stderr)


if __name__ == '__main__':
  program.run(main)
