"""Measures this machine's memory hierarchy and writes a trace.

  python -m experiments.collect --out=runs/this-machine.parquet

Takes under 60 s (about 15 s with --quick). Expect latencies from about 1 ns
(L1) to 100 ns (DRAM) and a note on every noisy row. Ctrl-C keeps what was
measured.
"""

from absl import flags

from experiments import program

_OUT = flags.DEFINE_string(
  'out', None, 'Trace to write: .parquet, .csv or .jsonl.', required=True
)
_SYSTEM = flags.DEFINE_string('system', 'this-machine', 'Name of the machine.')
_QUICK = flags.DEFINE_bool('quick', False, 'Fewer sizes and repeats.')
_PROGRAMS = flags.DEFINE_bool('programs', True, 'Measure JAX kernels too.')
_SCRATCH = flags.DEFINE_string(
  'scratch_dir', None, 'Folder on the disk to measure; default: that of --out.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Order of the measurements.')


def main() -> None:
  import pathlib

  from diffmem import traces
  from diffmem.traces import collect

  traces.check_writable(_OUT.value)
  make = collect.Options.quick if _QUICK.value else collect.Options
  options = make(
    system=_SYSTEM.value,
    scratch_dir=pathlib.Path(
      _SCRATCH.value or pathlib.Path(_OUT.value).resolve().parent
    ),
    programs=_PROGRAMS.value,
    seed=_SEED.value,
  )
  with program.progress() as report:
    found = collect.run_probes(
      collect.cpu_probes(options),
      options,
      on_progress=lambda p: report('measuring', p.index + 1, p.total),
    )
  program.print_collection(found)
  traces.write_traces(_OUT.value, traces.from_rows(found.rows, 'collect'))
  print(f'wrote {len(found.rows)} rows to {_OUT.value}')


if __name__ == '__main__':
  program.run(main)
