"""What memory for keys and values is worth, from a trace of requests.

  python -m experiments.kv_capacity --checkpoint=checkpoints/h100-sxm \
    --workload=llama-3.1-70b --requests=requests.jsonl
  python -m experiments.kv_capacity --checkpoint=checkpoints/h100-sxm \
    --workload=deepseek-v3 --requests=requests.parquet --requests_per_s=20 \
    --tiers=HBM,DRAM,CXL,SSD --given=DRAM=2TB --kv_dtype=float8

The trace is JSON lines as Mooncake publishes them (timestamp in ms,
input_length, output_length, hash_ids) or Parquet; without hash_ids only rates
and patience are told. On Mooncake's conversation trace (12,031 requests, 59
minutes; not part of this project) the first command takes 20 s of processor
time. It shows that reuse serves 37 % of the prompt tokens (35 to 39), nearly
all from 6.5 TB of DRAM beside the 8.6 accelerators that stay busy of 13.4, and
makes a prompt token 28 % cheaper; flash would wear out. Exit code 2, with row
and column, on a trace that does not fit.
"""

import sys

from absl import flags

from experiments import kv_shown, program

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'Checkpoint folder, catalog name or TOML.', required=True
)
_WORKLOAD = flags.DEFINE_string(
  'workload', None, 'Preset, TOML file, or config.json of a transformer.',
  required=True,
)  # fmt: skip
_REQUESTS = flags.DEFINE_string(
  'requests', None, 'Trace: .jsonl or .parquet.', required=True
)
_BLOCK = flags.DEFINE_integer(
  'block_tokens', 512, 'Tokens that a hash of the trace stands for.', 1
)
_RATE = flags.DEFINE_float(
  'requests_per_s', None,
  "Rate of the service, as more sessions of the same kind; the trace's by "
  'default.', 0,
)  # fmt: skip
_TIERS = flags.DEFINE_list(
  'tiers', ['HBM', 'DRAM', 'SSD'], 'What can be bought, fastest first.'
)
_CXL = flags.DEFINE_string(
  'cxl', 'cxl-expander',
  'Where the tier CXL comes from if the system has none; behind its PCIe.',
)  # fmt: skip
_MOST = flags.DEFINE_list(
  'most', [],
  'Limits, all accelerators together, as "HBM=200GB,DRAM=4TB"; without one, '
  'HBM is bought as if it could be added.',
)  # fmt: skip
_GIVEN = flags.DEFINE_list(
  'given', [], 'Capacities to judge beside the best, as "DRAM=2TB".'
)
_PRICES = flags.DEFINE_string('prices', None, 'Price file; the shipped one.')
_USD_PER_GB = flags.DEFINE_list(
  'usd_per_GB', [], 'Prices that replace those of the file, as "DRAM=5".'
)
_WRITES = flags.DEFINE_list(
  'writes_per_day', [],
  'Full writes a day that drives are rated for, as "SSD=3"; 1 by default.',
)  # fmt: skip
_SECOND_USE = flags.DEFINE_list(
  'second_use', [],
  'Tiers that take a block only when it has been used again, as SSD.',
)  # fmt: skip
_USD_PER_HOUR = flags.DEFINE_float(
  'usd_per_chip_hour', None, 'Of an accelerator; by default of the file.', 0
)
_KV_DTYPE = flags.DEFINE_string(
  'kv_dtype', None, "Format of cached values; the model's by default."
)
_DTYPE = flags.DEFINE_string(
  'dtype', None, "Of all matrices; the model's own formats by default."
)
_TENSOR = flags.DEFINE_integer(
  'tensor', None,
  'Accelerators that share each layer; by default a power of two whose memory '
  'has room for the weights and half as much.', 1,
)  # fmt: skip
_LAWS = flags.DEFINE_bool(
  'laws', False, 'Time prompts by the laws alone, not kernel by kernel.'
)
_WAIT = flags.DEFINE_float(
  'wait_share', 1.0,
  'Share of the reloading that accelerators wait for; 1 is no overlap.', 0, 1,
)  # fmt: skip
_SET = flags.DEFINE_multi_string(
  'set', [], 'A parameter of the system, as PCIe.read_Bps=51e9.'
)
_IDLE = flags.DEFINE_list(
  'idle_s', [],
  'Ages, as 60,300,900: caches of silent sessions as groups for a decode plan.',
)  # fmt: skip
_STEP = flags.DEFINE_float(
  'step_s', 0.03, 'Of the decode step that reads of --idle_s are counted in.',
  1e-6,
)  # fmt: skip
_MODELS = flags.DEFINE_list(
  'boundary', None, 'Models of the reload boundary; the workload by default.'
)
_REPLICATES = flags.DEFINE_integer(
  'replicates', 200, 'Resampled traces for the intervals.', 10
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the resampling.')
_JSON = flags.DEFINE_string('json', None, "File to write, '-' for stdout.")
_REPORT = flags.DEFINE_string(
  'report', None, 'HTML file to write, for traces with hash_ids.'
)


def main() -> None:
  from diffmem.traces import requests as requests_lib

  # Refuses a bad trace before anything slow is loaded.
  trace = requests_lib.read_requests(_REQUESTS.value, _BLOCK.value)

  from diffmem.codesign.kv import boundary as kv_boundary
  from diffmem.codesign.kv import capacity as kv_capacity
  from diffmem.codesign.kv import patience as kv_patience
  from diffmem.codesign.kv import tiers as kv_tiers
  from diffmem.cost import prices as prices_lib
  from diffmem.workloads import formats

  model, *others = [
    _model(name) for name in (_WORKLOAD.value, *(_MODELS.value or []))
  ]
  prices = prices_lib.load_prices(_PRICES.value)
  fitted, system = _system()
  tiers = kv_tiers.kv_tiers(
    system, prices, _TIERS.value,
    most_B=_sizes('most', _MOST.value),
    usd_per_GB=program.weights('usd_per_GB', _USD_PER_GB.value),
    writes_per_day=program.weights('writes_per_day', _WRITES.value),
    second_use=_SECOND_USE.value,
  )  # fmt: skip
  asked = {
    'rate': _RATE.value / trace.requests_per_s if _RATE.value else 1.0,
    'kv_B': formats.value_B(_KV_DTYPE.value) if _KV_DTYPE.value else None,
    'compute': _compute(fitted, model),
    'wait_share': _WAIT.value,
  }
  usd = _USD_PER_HOUR.value or prices.of(
    'accelerator_usd_per_hour', system.name
  )
  if trace.blocks is None:
    found = kv_patience.patience(trace, system, model, tiers, usd, **asked)
  else:
    found = kv_capacity.kv_capacity(
      trace, system, model, tiers, usd,
      given_B=_sizes('given', _GIVEN.value) or None,
      replicates=_REPLICATES.value, seed=_SEED.value, **asked,
    )  # fmt: skip
  maps = [
    kv_boundary.boundary(
      system, one, [t.name for t in tiers if t.name != 'HBM'],
      kv_B=asked['kv_B'], compute=_compute(fitted, one),
    )
    for one in others or [model]
  ]  # fmt: skip
  idle = _idle(trace, asked['rate'])
  if _JSON.value != '-':
    kv_shown.show(found, tiers, trace, maps, idle)
  document = found.to_dict() | {
    'boundaries': [m.to_dict() for m in maps],
    'idle': [group._asdict() for group in idle],
  }
  program.write_json(_JSON.value, document)
  if _REPORT.value and trace.blocks is not None:
    _write_report(found, tiers, maps[0], trace.source)


def _write_report(found, tiers, boundary, source: str) -> None:
  from diffmem import report

  part = report.kv_part(found, tiers, boundary, source)
  report.write_report(
    _REPORT.value,
    report.ReportData(
      title=f'Memory for keys and values of {_WORKLOAD.value}',
      codesign=report.CodesignData(kv=part),
      provenance=report.provenance(program.command_line(), {}, None),
    ),
  )
  print(f'wrote {_REPORT.value}', file=sys.stderr)


def _system():
  """The checkpoint, and its system with CXL where asked for, and --set."""
  from diffmem import checkpoint
  from diffmem.codesign.kv import tiers as kv_tiers

  fitted = checkpoint.load_system(_CHECKPOINT.value)
  system = fitted.system
  if 'CXL' in _TIERS.value and 'CXL' not in system.tier_names:
    other = checkpoint.load_system(_CXL.value).system
    system = kv_tiers.with_tier(system, other, 'CXL', 'PCIe')
  return fitted, system.with_values(program.weights('set', _SET.value))


def _model(name: str):
  from diffmem import workloads

  model = workloads.load_workload(name)
  return model.with_weights(_DTYPE.value) if _DTYPE.value else model


def _compute(fitted, model):
  """Time of prompts: kernel by kernel, or None for the laws."""
  from diffmem.runs import prompt_pass

  if _LAWS.value:
    return None
  tensor = _TENSOR.value or prompt_pass.least_tensor(fitted, model)
  return prompt_pass.PromptPass(fitted, model, tensor=tensor)


def _idle(trace, rate: float) -> tuple:
  """Groups of silent sessions by --idle_s."""
  from diffmem.workloads import kv_lifetimes

  if not _IDLE.value:
    return ()
  if trace.blocks is None:
    program.refuse(f'--idle_s: {trace.source} has no column hash_ids')
  ages = program.whole_numbers('idle_s', _IDLE.value)
  lifetimes = kv_lifetimes.lifetimes_of(
    trace.blocks, trace.arrival_s, trace.prompt_tokens, trace.block_tokens, rate
  )
  return lifetimes.idle(ages, _STEP.value)


def _sizes(flag: str, texts: list[str]) -> dict[str, float]:
  """A list flag of 'tier=size' [B]."""
  from diffmem import errors, units

  found = {}
  for text in texts:
    name, _, size = text.partition('=')
    try:
      found[name.strip()] = units.parse(size, 'B')
    except errors.UnitError as error:
      program.refuse(f'--{flag}={text}: expected tier=size ({error})')
  return found


if __name__ == '__main__':
  program.run(main)
