"""Measures this machine's memory hierarchy and writes a trace.

  python -m experiments.collect --out=runs/this-machine.parquet

Takes under 60 s (about 10 s with --quick). Expect latencies from about 1 ns
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
_SCRATCH = flags.DEFINE_string(
  'scratch_dir', None, 'Folder on the disk to measure; default: that of --out.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Order of the measurements.')


def main() -> None:
  from diffmem import traces
  from diffmem.traces import collect

  traces.check_writable(_OUT.value)
  with program.progress() as report:
    found = collect.collect_cpu(
      collect.CollectOptions(
        system=_SYSTEM.value,
        quick=_QUICK.value,
        scratch_dir=_SCRATCH.value,
        seed=_SEED.value,
      ),
      on_progress=report,
    )
  traces.write_traces(_OUT.value, traces.from_rows(found.rows))
  print(found.summary())
  print(f'wrote {len(found.rows)} rows to {_OUT.value}')


if __name__ == '__main__':
  program.run(main)
