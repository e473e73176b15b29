"""The whole way on this machine: measure, fit, check, plan, report.

  python -m experiments.quickstart --out=runs/quickstart

About 70 s, of which 45 s are measurements (20 s more the first time, when
everything is compiled). Writes OUT/trace.parquet, OUT/checkpoint/,
OUT/plan.json and OUT/report.html.
"""

from absl import flags

from experiments import planned, program

_OUT = flags.DEFINE_string('out', 'runs/quickstart', 'Folder to write.')
_QUICK = flags.DEFINE_bool('quick', False, 'Measure less, in about 15 s.')
_WORKLOAD = flags.DEFINE_string(
  'workload', 'claude-scale-moe-1t', 'Workload of the plans.'
)
_CHIPS = flags.DEFINE_integer('chips', 512, 'Machines like this one.', 1)
_SEED = flags.DEFINE_integer('seed', 0, 'Of order, split, starts, bootstrap.')


def main() -> None:
  import pathlib

  from diffmem import traces
  from diffmem.traces import collect

  out = pathlib.Path(_OUT.value)
  trace_path = out / 'trace.parquet'
  traces.check_writable(trace_path)

  program.headline('1 of 5: measuring this machine')
  machine = collect.describe()
  make = collect.Options.quick if _QUICK.value else collect.Options
  options = make(scratch_dir=out.resolve(), seed=_SEED.value)
  probes = collect.cpu_probes(options, machine)
  demonstration = collect.jax_program_probes(options, machine)
  with program.progress() as progress:
    found = collect.run_probes(
      [*probes, *demonstration],
      options,
      machine=machine,
      on_progress=lambda p: progress('measuring', p.index + 1, p.total),
    )
  program.print_collection(found)
  everything = traces.from_rows(found.rows, str(trace_path))
  traces.write_traces(trace_path, everything)
  print(f'wrote {len(everything)} rows to {trace_path}')

  from diffmem import checkpoint, fitting, planning, report

  program.headline('2 of 5: fitting; one size in four is held out')
  is_program = collect.is_demonstration(everything)
  held_out = fitting.hold_out(everything, seed=_SEED.value) & ~is_program
  with program.progress() as progress:
    fit = fitting.fit(
      program.prior_system('cpu', everything),
      everything.select(~held_out & ~is_program),
      fitting.FitOptions(seed=_SEED.value),
      progress,
    )
  groups = fitting.evaluate(fit.fitted, everything.select(held_out))
  program.print_groups('Held-out errors, percent', groups)

  program.headline('3 of 5: predicted against measured, programs never fitted')
  programs = report.program_rows(fit.fitted, everything.select(is_program))
  program.print_programs(programs)

  folder = out / 'checkpoint'
  digest = traces.sha256(trace_path)
  file = checkpoint.TraceFile(
    file=trace_path.name, sha256=digest, rows=len(everything)
  )
  checkpoint.save_checkpoint(
    folder,
    fit.fitted,
    checkpoint.Card.now(traces=[file], held_out=groups, seed=_SEED.value),
  )
  print(f'wrote the checkpoint {folder}')

  program.headline(
    f'4 of 5: planning {_WORKLOAD.value} on {_CHIPS.value} machines like this'
  )
  fitted = checkpoint.load_system(folder)
  with program.progress() as progress:
    result = planning.make_plan(
      fitted,
      _WORKLOAD.value,
      chips=_CHIPS.value,
      phase='decode',
      dtype='float32',
      on_progress=progress,
    )
  planned.print_plans(result)
  program.write_json(str(out / 'plan.json'), result.to_dict())

  program.headline('5 of 5: report')
  report_path = out / 'report.html'
  report.write_report(
    report_path,
    report.ReportData(
      title='This machine, measured and fitted',
      machine=report.machine_part(everything, found.elapsed_s),
      **report.measured_parts(fitted, everything.select(~is_program),
                              held_out[~is_program]),
      held_out=groups,
      programs=programs,
      parameters=report.parameters_of(fitted),
      plan=report.plan_part(result, fitted),
      provenance=report.provenance(
        program.command_line(), {str(trace_path): digest}, _SEED.value
      ),
    ),
  )  # fmt: skip
  print(f'wrote {report_path}')


if __name__ == '__main__':
  program.run(main)
