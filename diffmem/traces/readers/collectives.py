"""Tables of collectives, four layouts told apart by their columns.

- `collectives` (ai-dynamo/aiconfigurator): `collective`, `ranks`,
  `message_bytes`, `latency_us`, `library`, `version`, `kernel_source`, `mode`
  (eager or CUDA graph), `dtype`; one node.
- `vidur_collectives` (microsoft/vidur): `cluster`, `collective`,
  `num_workers`, `devices_per_node` (that take part), `size_bytes`,
  `median_ms` in steps of 1 us. Two clusters whose times agree to the last
  digit are one measurement: the second is skipped.
- `allreduce_intranode` (VIA-Research/vTrain): nccl-tests output with `hw`,
  `gpus`, `bytes`, out-of-place and in-place times `oop_time_ns`,
  `ip_time_ns`; each gives a row.
- `expert_parallel` (DeepEP): `dispatch_us` and `combine_us` of
  mixture-of-experts traffic by `num_tokens` per rank, `hidden_size`, `topk`,
  `num_experts`, and `sms` that copy (0: the low-latency mode chooses).
  The rank count is not in the file: `Options.participants`, or eight a node.

message_bytes is the payload as NCCL counts it and as `cost.collective` takes
it: the vector of an all-reduce or reduce-scatter, the whole result of an
all-gather, all that a rank sends in an all-to-all. What crosses each network
level follows from participants and ranks_per_node, and is no column here.
"""

import pathlib

import numpy as np

from diffmem.traces.readers import formats, tables
from diffmem.traces.readers.ledger import Imported, Ledger, Options

_OPS = {
  'all_reduce': 'all_reduce',
  'all_gather': 'all_gather',
  'reduce_scatter': 'reduce_scatter',
  'alltoall': 'all_to_all',
  'all_to_all': 'all_to_all',
  'send_recv': 'send_recv',
}
_GPUS_PER_NODE = 8
# Two clusters are a copy where more than this share of times is the same.
_COPY_SHARE = 0.9
_COPY_MIN_ROWS = 20


def read(path: pathlib.Path, options: Options) -> Imported:
  """Reads one of the four tables.

  Raises:
    TraceError: other columns, or a value that makes no sense.
  """
  table = tables.read(path)
  ledger = Ledger(path, options)
  table.layout(_LAYOUTS)(table, ledger, options)
  if table.unused():
    ledger.remark(f'columns without use: {", ".join(table.unused())}')
  return ledger.done()


def _aiconfigurator(table, ledger, options) -> None:
  table.use('wire_bytes_per_rank', 'bus_gb_s')
  ranks = table.counts('ranks', low=2)
  names = ('library', 'version', 'kernel_source', 'mode')
  parts = [table.texts(name, '') for name in names]
  ledger.add_columns(
    {
      'system': [ledger.system(name) for name in table.texts('system')],
      'op': [_OPS[name] for name in table.one_of('collective', _OPS)],
      'tier': ledger.tier(),
      'dtype': [formats.dtype(name) for name in table.texts('dtype')],
      'message_bytes': table.positive('message_bytes', 'B'),
      'participants': ranks,
      'ranks_per_node': ranks,
      'variant': _joined(parts),
      'time_s': table.positive('latency_us', 'us') * 1e-6,
      'source': 'ai-dynamo/aiconfigurator',
    }
  )


def _vidur(table, ledger, options) -> None:
  clusters = table.texts('cluster')
  collectives = table.one_of('collective', _OPS)
  workers = table.counts('num_workers', low=2)
  per_node = table.counts('devices_per_node')
  size = table.positive('size_bytes', 'B')
  time = table.numbers('median_ms', 'ms') * 1e-3
  keep = ledger.keep(time <= 0, 'median_ms rounds to zero')
  shape = list(zip(collectives, workers, per_node, size, strict=True))
  for copy, original in _copies(clusters, shape, time):
    op, cluster = copy
    keep &= ledger.keep(
      keep & (clusters == cluster) & (collectives == op),
      f'{op} of {cluster} repeats that of {original} to the last digit: a copy',
    )
  ledger.add_columns(
    {
      'system': [ledger.system(name) for name in clusters],
      'op': [_OPS[name] for name in collectives],
      'tier': ledger.tier(),
      'message_bytes': size,
      'participants': workers,
      'ranks_per_node': per_node,
      'time_s': time,
      'source': 'microsoft/vidur',
      'note': 'time in steps of 1 us',
    },
    np.flatnonzero(keep),
  )


def _copies(clusters, shape, time):
  """Pairs ((op, cluster), original cluster) whose times are the same."""
  groups: dict[tuple, dict] = {}
  for cluster, key, value in zip(clusters, shape, time, strict=True):
    groups.setdefault((key[0], cluster), {})[key] = value
  found = []
  for i, (copy, times) in enumerate(groups.items()):
    for original, others in list(groups.items())[:i]:
      common = times.keys() & others.keys()
      same = sum(times[key] == others[key] for key in common)
      if len(common) >= _COPY_MIN_ROWS and same > _COPY_SHARE * len(common):
        found.append((copy, original[1]))
        break
  return found


def _nccl_tests(table, ledger, options) -> None:
  table.use('oop_busbw_gbs', 'ip_busbw_gbs', 'count', 'provenance')
  ranks = table.counts('gpus', low=2)
  for kind, column in (
    ('out of place', 'oop_time_ns'), ('in place', 'ip_time_ns')
  ):  # fmt: skip
    ledger.add_columns(
      {
        'system': [ledger.system(name) for name in table.texts('hw')],
        'op': 'all_reduce',
        'tier': ledger.tier(),
        'dtype': [formats.dtype(name) for name in table.texts('type')],
        'message_bytes': table.positive('bytes', 'B'),
        'participants': ranks,
        'ranks_per_node': ranks,
        'variant': f'nccl {kind}',
        'time_s': table.positive(column, 'ns') * 1e-9,
        'source': table.texts('source', ''),
      }
    )


def _expert_parallel(table, ledger, options) -> None:
  nodes = table.counts('nodes')
  ranks = nodes * _GPUS_PER_NODE
  if options.participants:
    ranks = np.full(len(table), float(options.participants))
  else:
    ledger.remark(f'{_GPUS_PER_NODE} ranks a node are taken for granted')
  sms = table.counts('sms', low=0)
  tokens = table.counts('num_tokens')
  for op, column in (
    ('expert_dispatch', 'dispatch_us'), ('expert_combine', 'combine_us')
  ):  # fmt: skip
    ledger.add_columns(
      {
        'system': [ledger.system(name) for name in table.texts('system')],
        'op': op,
        'tier': ledger.tier(),
        'participants': ranks,
        'ranks_per_node': np.ceil(ranks / nodes),
        'num_tokens': tokens,
        'hidden_size': table.counts('hidden_size'),
        'topk': table.counts('topk'),
        'num_experts': table.counts('num_experts'),
        'sms': np.where(sms > 0, sms, np.nan),
        'variant': [f'DeepEP {mode}' for mode in table.texts('mode')],
        'time_s': table.positive(column, 'us') * 1e-6,
        'source': 'ai-dynamo/aiconfigurator',
      }
    )


def _joined(parts) -> np.ndarray:
  rows = zip(*parts, strict=True)
  return np.array([' '.join(p for p in row if p) for row in rows], object)


# A column that only this layout has -> what reads it.
_LAYOUTS = {
  'wire_bytes_per_rank': _aiconfigurator,
  'cluster': _vidur,
  'oop_time_ns': _nccl_tests,
  'dispatch_us': _expert_parallel,
}
