"""Measures this machine's memory hierarchy and writes a trace.

  python -m experiments.collect --out=runs/this-machine.parquet
  python -m experiments.collect --platform=gpu --out=runs/gpu.parquet

The CPU takes under 60 s (about 15 s with --quick). Expect latencies from about
1 ns (L1) to 100 ns (DRAM) and a note on every noisy row. Ctrl-C keeps what was
measured.

A GPU takes up to 9 minutes (--budget_s, --quick): bandwidth, latency and bytes
in flight of its memory, the host link, matrix products, attention, and with
nvidia-ml-py the board's power. The same command goes on where a run was cut
off or its budget ended.

  python -m experiments.collect --list=next.toml --out=runs/next.parquet

measures what a list names and nothing else (`diffmem.codesign.measure_next`
writes one: what would most reduce the uncertainty of a decision).
"""

from absl import flags

from experiments import program

_OUT = flags.DEFINE_string(
  'out', None, 'Trace to write: .parquet, .csv or .jsonl.', required=True
)
_PLATFORM = flags.DEFINE_enum(
  'platform', 'cpu', ['cpu', 'gpu'], 'What to measure.'
)
_LIST = flags.DEFINE_string(
  'list', None, 'TOML: measure exactly this, on the platform that it names.'
)
_SYSTEM = flags.DEFINE_string(
  'system',
  None,
  'Name of the machine; default: this-machine, or after the GPU.',
)
_BUDGET_S = flags.DEFINE_float(
  'budget_s',
  None,
  'No measurement starts later, s; default: 45, GPU 480.',
  lower_bound=1.0,
)
_QUICK = flags.DEFINE_bool('quick', False, 'Fewer sizes and repeats.')
_PROGRAMS = flags.DEFINE_bool('programs', True, 'Measure JAX kernels too.')
_SCRATCH = flags.DEFINE_string(
  'scratch_dir', None, 'Folder on the disk to measure; default: that of --out.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Order of the measurements.')


def main() -> None:
  from diffmem import traces

  traces.check_writable(_OUT.value)
  platform, probes = _PLATFORM.value, None
  if _LIST.value:
    platform, probes = _listed()
  measure = {'cpu': _measure_cpu, 'gpu': _measure_gpu}[platform]
  with program.progress() as report:
    found = measure(probes, lambda p: report('measuring', p.index + 1, p.total))
  program.print_collection(found)
  print(f'wrote {len(found.rows)} rows to {_OUT.value}')


def _listed():
  """Platform and probes of the list."""
  from diffmem.traces.collect import chosen

  if _PLATFORM.present:
    program.refuse('--platform: the list names its own')
  return chosen.load_list(_LIST.value)


def _measure_cpu(probes, on_progress):
  import pathlib

  from diffmem import traces
  from diffmem.traces import collect

  make = collect.Options.quick if _QUICK.value else collect.Options
  options = make(
    system=_SYSTEM.value or 'this-machine',
    scratch_dir=pathlib.Path(
      _SCRATCH.value or pathlib.Path(_OUT.value).resolve().parent
    ),
    programs=_PROGRAMS.value,
    seed=_SEED.value,
  )
  found = collect.run_probes(
    collect.cpu_probes(options) if probes is None else probes,
    options,
    on_progress=on_progress,
    deadline_s=_BUDGET_S.value,
  )
  traces.write_traces(_OUT.value, traces.from_rows(found.rows, 'collect'))
  return found


def _measure_gpu(probes, on_progress):
  from diffmem.traces.collect import gpu

  device = gpu.open_gpu()
  board, remark = gpu.open_board()
  options = gpu.GpuOptions(
    system=_SYSTEM.value,
    budget_s=_BUDGET_S.value or gpu.GpuOptions.budget_s,
    quick=_QUICK.value,
    seed=_SEED.value,
  )
  session = gpu.GpuSession(options, device, board, remark)
  found = gpu.collect(
    session, _OUT.value, probes=probes, on_progress=on_progress
  )
  if found.missing:
    print(f'left for the next run: {"; ".join(found.missing)}')
  return found


if __name__ == '__main__':
  program.run(main)
