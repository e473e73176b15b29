"""What a token of a mix costs on a machine, and which memory would be better.

  python -m experiments.codesign --checkpoint=checkpoints/h100-sxm \
    --workloads=experiments/configs/mix.toml --what_ifs=all
  python -m experiments.codesign --checkpoint=checkpoints/h100-sxm \
    --workloads=mix.toml --budgets='usd=50000,stacks=8,board=1000 W' \
    --stack=HBM4 --report=runs/codesign.html
  python -m experiments.codesign --checkpoint=checkpoints/h100-sxm \
    --workloads=mix.toml --usd_per_chip_hour=2.95 --measure=next.toml

The first prints the best plan of each workload, where a token's money goes,
what one more GB/s, GB, ns or pJ/bit is worth, and what HBM4, CXL, flash and
others would bring, with 90 % intervals: a million tokens cost 0.237 USD, 20 %
less with HBM4 (7 to 27), and a GB/s of HBM is worth 2 USD a year. With
--budgets the memory system itself is optimised. Programs compile for two to
three minutes the first time; all what-ifs, a design and a report took 14
minutes on two shared cores.
"""

import pathlib
import sys

from absl import flags

from experiments import program

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'Checkpoint folder, catalog name or TOML.', required=True
)
_WORKLOADS = flags.DEFINE_string(
  'workloads', program.config_path('mix.toml'), 'TOML file of the mix.'
)
_ONLY = flags.DEFINE_list('only', [], 'Workloads of it; all by default.')
_RENT = flags.DEFINE_float(
  'usd_per_chip_hour', None,
  'Rent, energy included; by default the accelerator is bought.', 0,
)  # fmt: skip
_PARTS_OF = flags.DEFINE_string(
  'parts_of', None, 'Accelerator of parts.toml whose inside is meant.'
)
_WHAT_IFS = flags.DEFINE_list(
  'what_ifs',
  [],
  "Names of what_ifs.toml, 'all', or a TOML file of your own.",
)
_BUDGETS = flags.DEFINE_list(
  'budgets', None,
  'Optimise the memory within: stacks=8, usd=50000, board=1000 W, '
  'HBM supply=200 TB, ...; see diffmem/codesign/designs/budgets.py.',
)  # fmt: skip
_STACK = flags.DEFINE_string('stack', None, 'Kind of stacks: HBM4, ...')
_CXL = flags.DEFINE_bool('cxl', False, 'Whether there may be CXL modules.')
_HBF = flags.DEFINE_bool('hbf', False, 'Whether there may be flash stacks.')
_EVALUATIONS = flags.DEFINE_integer('evaluations', 60, 'Of designs.', 1)
_RESUME = flags.DEFINE_string('resume', None, 'JSON file to go on from.')
_MEASURE = flags.DEFINE_string(
  'measure', None, "What to measure next: TOML for collect, '-' to print it."
)
_TRACES = flags.DEFINE_string(
  'traces', None, 'What the machine was fitted to: tells --measure more.'
)
_JSON = flags.DEFINE_string('json', None, "File to write, '-' for stdout.")
_REPORT = flags.DEFINE_string('report', None, 'HTML file to write.')


def main() -> None:
  if not pathlib.Path(_WORKLOADS.value).is_file():
    program.refuse(f'--workloads={_WORKLOADS.value}: there is no such file')
  from diffmem import checkpoint, codesign
  from experiments import codesigned

  mix = codesign.load_mix(_WORKLOADS.value)
  if _ONLY.value:
    mix = mix.only(tuple(_ONLY.value))
  asked = codesign.named_what_ifs(_WHAT_IFS.value)
  budgets = codesign.parse_budgets(_BUDGETS.value or [])
  fitted = checkpoint.load_system(_CHECKPOINT.value)
  with program.progress() as progress:
    found = codesign.study(
      fitted, mix, usd_per_chip_hour=_RENT.value, asked=asked,
      parts_of=_PARTS_OF.value, on_progress=progress,
    )  # fmt: skip
    designed = _designed(fitted, mix, budgets, progress)
    cost_map = None
    if _REPORT.value:
      near = codesign.near_memory(found.fitted.system)
      cost_map = codesign.cost_map(
        found.solver, found.fitted.system, found.rates, f'{near}.read_Bps',
        f'{near}.capacity_B', on_progress=progress,
      )  # fmt: skip
  measured = _measured(fitted, found)
  if _JSON.value != '-':
    codesigned.print_study(found)
    codesigned.print_design(designed)
    codesigned.print_measurements(measured)
  if measured and measured.rows and _MEASURE.value != '-':
    measured.to_recipe(_MEASURE.value)
    print(f'wrote {_MEASURE.value}', file=sys.stderr)
  document = found.to_dict()
  document['design'] = designed.to_dict() if designed else None
  document['measure_next'] = measured.to_dict() if measured else None
  program.write_json(_JSON.value, document)
  if _REPORT.value:
    _write_report(found, designed, measured, cost_map)


def _designed(fitted, mix, budgets, progress):
  """The best memory system within the budgets; None without any."""
  from diffmem import codesign

  if _BUDGETS.value is None:
    return None
  kit = codesign.Kit(_STACK.value, cxl=_CXL.value, hbf=_HBF.value)
  return codesign.design_memory(
    fitted.system, mix, kit, budgets,
    machine=_PARTS_OF.value, evaluations=_EVALUATIONS.value,
    resume_path=_RESUME.value, on_progress=progress,
  )  # fmt: skip


def _measured(fitted, found):
  """What to measure next; None where nobody asked."""
  from diffmem import codesign, traces

  if _MEASURE.value is None:
    return None
  rows = traces.read_traces(_TRACES.value) if _TRACES.value else None
  return codesign.measure_next(fitted, codesign.target_of(found), traces=rows)


def _write_report(found, designed, measured, cost_map) -> None:
  from diffmem import report

  fitted = found.fitted
  report.write_report(
    _REPORT.value,
    report.ReportData(
      title=f'{found.mix.name} on {fitted.system.name}',
      parameters=report.parameters_of(fitted),
      codesign=report.codesign_part(found, designed, measured, cost_map),
      provenance=report.provenance(program.command_line(), {}, None),
    ),
  )
  print(f'wrote {_REPORT.value}', file=sys.stderr)


if __name__ == '__main__':
  program.run(main)
