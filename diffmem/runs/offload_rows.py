"""Rows of measured weight offloading, read as jobs.

Columns are those of `weight_offload_inference_throughput.csv`; what a row
leaves open is filled by rules that are named in the answer.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from diffmem import errors
from diffmem.runs import machines
from diffmem.workloads import Transformer, find_workload
from diffmem.workloads.offload import VALUE_B, OffloadJob, Share, largest_batch

# FlexGen and ZeRO-Inference quantise in groups of 64, with a 16-bit minimum
# and scale each (Sheng et al., ICML 2023, section 4.2; ZeRO-Inference README).
GROUP = 64
# Share of the accelerator's memory that tensors may fill: data sheets give GB
# that are GiB (7 % more), which leaves as much to the context.
_USABLE = 1.0

# Read and write rates of host storage that a text names without a figure.
_DRIVES = {
  # Google Cloud documentation, local SSD performance: four NVMe partitions.
  'gcp 1.5tb local ssd': (2.65e9, 1.4e9),
  # unverified: eight NVMe drives of 3.2 GB/s, as DGX-2 data sheets of 2019.
  '30tb nvme (dgx-2)': (25.6e9, 17.6e9),
}
# Assumption: a Gen4 drive writes 70 % of what it reads (catalog, SSD).
_WRITE_SHARE = 0.7


class OffloadRun(NamedTuple):
  """A row as a job on a machine.

  Attributes:
    index: 0-based row of the input.
    stack: family of the framework, such as 'flexgen'.
    model: the transformer.
    machine: name in the catalog or in the folder of checkpoints.
    job: what runs.
    disk_read_Bps: published rate of the host's drives; None where unknown.
    disk_write_Bps: the same for writes.
    pinned: whether weights lie in pinned host memory.
    prefetch: whether drives, link and compute run beside each other.
    counted: accelerators whose tokens the row counts together.
    observed: tokens per second of the row's basis; NaN where none is given.
    doubt: why the observation is not to be trusted; '' if it is.
    guessed: what was filled in by a rule.
  """

  index: int
  stack: str
  model: Transformer
  machine: str
  job: OffloadJob
  disk_read_Bps: float | None
  disk_write_Bps: float | None
  pinned: bool
  prefetch: bool
  counted: int
  observed: float
  doubt: str
  guessed: str


def read_row(row: Mapping[str, Any], index: int, memory_B) -> OffloadRun:
  """Reads one row.

  Args:
    row: columns of the table, texts or numbers.
    index: 0-based row of the input.
    memory_B: function from a machine's name to its own memory [B].

  Raises:
    SpecError: an unknown model or accelerator, or an incomplete row.
  """
  name = _text(row, 'model')
  if not name:
    raise errors.SpecError('incomplete configuration: no model')
  model = find_workload(name)
  machine = machine_of(_text(row, 'gpu'))
  stack = stack_of(_text(row, 'system'))
  bits = _number(row, 'weight_bits', 16.0)
  policy = _text(row, 'policy_percent')
  packed_cache = '+int4' in _text(row, 'system').lower()
  weights = _weights(row, policy, model)
  cache = _cache(row, policy)
  job = OffloadJob(
    batch=0.0,
    prompt=_needed(row, 'prompt_len'),
    generated=_needed(row, 'gen_len'),
    weights=weights,
    cache=cache,
    blocks=_matched(r'nb=(\d+)', policy, 1.0),
    gpus=int(_number(row, 'n_gpu', 1.0)),
    weight_B=stored_B(bits),
    cache_B=stored_B(4.0) if packed_cache else VALUE_B,
    host_attention=cache.away > 0 and not packed_cache,
  )
  model.check_context(job.prompt + job.generated)
  batch, guessed = _number(row, 'batch', math.nan), ''
  if math.isnan(batch):
    guessed = 'batch: the largest power of two that fits the memory'
    batch = largest_batch(model, job, _USABLE * memory_B(machine))
    if not batch:
      raise errors.SpecError(
        'incomplete configuration: no batch, and none fits'
      )
  # A batch that is counted in total is shared by the accelerators.
  counted = 1 if _text(row, 'throughput_basis') == 'per_gpu' else job.gpus
  if not guessed:
    batch = batch / counted
  read_Bps, write_Bps = drive_rates(_text(row, 'storage'))
  note = _text(row, 'note')
  return OffloadRun(
    index=index,
    stack=stack,
    model=model,
    machine=machine,
    job=job._replace(batch=batch),
    disk_read_Bps=read_Bps,
    disk_write_Bps=write_Bps,
    pinned=_text(row, 'kv_offload') != 'yes' and stack != 'accelerate',
    prefetch=_text(row, 'prefetch') != 'no'
    and 'bounce' not in _text(row, 'storage'),
    counted=counted,
    observed=_number(row, 'throughput_tok_s', math.nan),
    doubt='its source contradicts it' if 'DO NOT TRUST' in note else '',
    guessed=guessed,
  )


def stored_B(bits: float) -> float:
  """Bytes of a stored value of so many bits; scales too when quantised."""
  scales_B = 0.0 if bits >= 16 else 2.0 * VALUE_B / GROUP
  return bits / 8.0 + scales_B


def stack_of(system: str) -> str:
  """Family of a framework; 'other' for one that no rule knows."""
  text = system.lower()
  for family, mark in (
    ('flexgen', 'flex'), ('zero-inference', 'zero'), ('accelerate', 'accel')
  ):  # fmt: skip
    if mark in text:
      return family
  return 'other'


def machine_of(gpu: str) -> str:
  """Catalog name of an accelerator such as 'A6000-48GB'.

  Raises:
    SpecError: one that is not known.
  """
  name = machines.Machines().name_of(gpu)
  if not name:
    raise errors.SpecError(machines.unknown(gpu))
  return name


def drive_rates(storage: str) -> tuple[float | None, float | None]:
  """Read and write rate of all drives that a text names [B/s].

  Examples:
    >>> drive_rates('2x NVMe 3.25GB/s each, GDS')[0]
    6500000000.0
    >>> drive_rates('2x NVMe RAID0 ~13GB/s read')[0]
    13000000000.0
  """
  text = storage.lower()
  for name, rates in _DRIVES.items():
    if name in text:
      return rates
  rate = _matched(r'([\d.]+)\s*gb/s', text, math.nan)
  if math.isnan(rate):
    return None, None
  drives = _matched(r'(\d+)\s*x ', text, 1.0) if 'each' in text else 1.0
  return drives * rate * 1e9, drives * rate * 1e9 * _WRITE_SHARE


def _weights(row, policy, model) -> Share:
  """Where the weights live: a policy, a count on the GPU, or a tier."""
  percents = re.match(r'\s*(\d+) (\d+) (\d+) (\d+)', policy)
  if percents:
    near, host = (float(x) / 100.0 for x in percents.groups()[:2])
    return Share(near, host, max(1.0 - near - host, 0.0))
  tier = _text(row, 'lowest_tier')
  near = _matched(r'on gpu ([\d.]+)b', policy.lower(), 0.0)
  near = min(near * 1e9 / model.parameters().total, 1.0)
  if tier == 'gpu':
    return Share(near=1.0)
  if tier == 'cpu':
    return Share(near, host=1.0 - near)
  if tier in ('disk', 'nvme'):
    return Share(near, disk=1.0 - near)
  raise errors.SpecError(
    f'incomplete configuration: lowest_tier {tier!r}; expected gpu, cpu, disk '
    'or nvme'
  )


def _cache(row, policy) -> Share:
  percents = re.match(r'\s*\d+ \d+ (\d+) (\d+)', policy)
  if percents:
    near, host = (float(x) / 100.0 for x in percents.groups())
    return Share(near, host, max(1.0 - near - host, 0.0))
  if _text(row, 'kv_offload') == 'yes':
    return Share(host=1.0)
  return Share(near=1.0)


def _text(row: Mapping[str, Any], name: str) -> str:
  value = row.get(name)
  if value is None or (isinstance(value, float) and math.isnan(value)):
    return ''
  return str(value).strip()


def _number(row: Mapping[str, Any], name: str, fill: float) -> float:
  text = _text(row, name)
  if not text:
    return fill
  try:
    return float(text)
  except ValueError:
    raise errors.SpecError(
      f'incomplete configuration: {name} {text!r} is no number'
    ) from None


def _needed(row: Mapping[str, Any], name: str) -> float:
  value = _number(row, name, math.nan)
  if not value > 0:
    raise errors.SpecError(f'incomplete configuration: no {name}')
  return value


def _matched(pattern: str, text: str, fill: float) -> float:
  found = re.search(pattern, text)
  return float(found.group(1)) if found else fill
