"""Turns files of other tools into a trace.

  python -m experiments.import_traces --format=mess --input=IN --out=TRACE

Takes seconds. Prints how many rows came in, and every row that was left out
with its reason. A fit takes all rows of a trace as one machine's, so keep one
of a table that holds several: --only='system=*Grace*'. Formats: mess,
gpu_kernels (a table, or a system's folder of them), collectives, fio, mlc,
nvbandwidth, stream, roofline_power, ml_energy, xplane; each is described in
`diffmem/traces/readers/<format>.py`.
"""

from absl import flags

from experiments import program

_FORMAT = flags.DEFINE_string('format', None, 'Format; see above.')
_INPUT = flags.DEFINE_string('input', None, 'File or folder to read.')
_OUT = flags.DEFINE_string('out', None, 'Trace: .parquet, .csv or .jsonl.')
_SYSTEM = flags.DEFINE_string('system', None, "Overrides the file's system.")
_ONLY = flags.DEFINE_multi_string(
  'only', [], "Rows that count, as 'system=*Grace*' or 'op=random_read'."
)
_OP = flags.DEFINE_string('op', None, 'Operation, where the file has none.')
_TIER = flags.DEFINE_string('tier', None, "Overrides the reader's tier.")
_CLOCK_GHz = flags.DEFINE_float(
  'clock_GHz', None, 'Clock behind latencies in cycles.', lower_bound=1e-3
)
_PARTICIPANTS = flags.DEFINE_integer(
  'participants', None, 'Threads, SMs or ranks, where the file is silent.'
)
flags.mark_flags_as_required(['format', 'input', 'out'])


def main() -> None:
  from diffmem import traces
  from diffmem.traces import readers

  traces.check_writable(_OUT.value)
  found = readers.read(
    _INPUT.value,
    _FORMAT.value,
    readers.Options(
      system=_SYSTEM.value,
      op=_OP.value,
      tier=_TIER.value,
      clock_Hz=_CLOCK_GHz.value and _CLOCK_GHz.value * 1e9,
      participants=_PARTICIPANTS.value,
      only=tuple(_ONLY.value),
    ),
  )
  traces.write_traces(_OUT.value, found.traces)
  print(found.summary())
  print(f'wrote {len(found.traces)} rows to {_OUT.value}')


if __name__ == '__main__':
  program.run(main)
