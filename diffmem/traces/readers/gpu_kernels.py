"""Tables of GPU kernel times, `<system>/<op>.parquet` or `<op>_power.parquet`.

One row is one kernel at one shape, as ai-dynamo/aiconfigurator publishes them:
`latency_us`, `flops` and compulsory `bytes_moved` per call, the shape columns
of `_OPS`, `dtype` (a name of `formats`), `kv_cache_dtype`, and `backend`,
`version`, `kernel_source`. Times, flops and bytes are those of one device.

- bytes_written is what the kernel must store; the rest of bytes_moved is read.
- working_set_bytes is what repeated calls go over. Attention, MLA and MoE runs
  repeat on the same buffers. GEMM runs rotate over up to six weights (the
  collector's `outside_loop_count`), so that the cache holds less of them.
- Power tables add `power_w` over a window of `power_window_ms`. NVML averages
  over about a second: below 900 ms the power is left out, the time stays.
  `energy_mj` is power times latency and not used.

System and op come from the names of folder and file, or from the options. A
folder is read whole.
"""

import pathlib

import numpy as np

from diffmem import errors
from diffmem.traces.readers import formats, tables
from diffmem.traces.readers.ledger import Imported, Ledger, Options, concat

MIN_POWER_WINDOW_MS = 900.0
_GEMM_WEIGHT_COPIES = 6

# Op -> its shape columns, named as in the schema.
_ATTENTION = ('num_heads', 'num_kv_heads', 'head_dim', 'window_size')
_OPS = {
  'gemm': ('m', 'n', 'k'),
  'prefill_attention': ('batch_size', 'seq_len', *_ATTENTION),
  'decode_attention': ('batch_size', 'kv_len', *_ATTENTION),
  'mla_prefill': ('batch_size', 'seq_len', 'num_heads'),
  'mla_decode': ('batch_size', 'kv_len', 'num_heads'),
  'mla_bmm': ('num_tokens', 'num_heads'),
  'moe': ('num_tokens', 'hidden_size', 'inter_size', 'topk', 'num_experts'),
  'cast': ('m', 'k'),
}
_FILE_OPS = {'stream_cast_fp8': 'cast'}
_NOT_NEEDED = ('kv_bytes', 'power_limit_w', 'energy_mj')


def read(path: pathlib.Path, options: Options) -> Imported:
  """Reads one table, or every table of a system's folder.

  Raises:
    TraceError: an unknown op, a missing column, a value that makes no sense.
  """
  if not path.is_dir():
    return _read_table(path, options)
  files = sorted(p for p in path.iterdir() if p.suffix in tables.SUFFIXES)
  files = [p for p in files if _op_of(p) in _OPS]
  if not files:
    raise errors.TraceError(
      path, expected=f'tables named after {", ".join(_OPS)}'
    )
  return concat([_read_table(file, options) for file in files])


def _op_of(path: pathlib.Path) -> str:
  stem = path.stem.removesuffix('_power')
  return _FILE_OPS.get(stem, stem)


def _read_table(path: pathlib.Path, options: Options) -> Imported:
  op = options.op or _op_of(path)
  if op not in _OPS:
    raise errors.TraceError(
      path, column='op', value=op,
      expected=f'one of {", ".join(_OPS)}: name the file so, or give --op',
    )  # fmt: skip
  table = tables.read(path)
  ledger = Ledger(path, options)
  table.use(*_NOT_NEEDED)
  shape = {
    name: table.counts(name, low=name != 'window_size') for name in _OPS[op]
  }
  names = table.texts('dtype')
  unknown = sorted({name for name in names if not formats.is_known(name)})
  if unknown:
    ledger.remark(f'unknown number formats, kept so: {", ".join(unknown)}')
  moved = table.numbers('bytes_moved', 'B')
  weight = _weight_bytes(op, table, shape, names)
  own = _OWN[op](table, shape, names)
  stored = own.pop('stored')
  if (stored > moved).any():
    i = int(np.argmax(stored > moved))
    raise table.refuse(
      'bytes_moved', i, f'at least the {stored[i]:g} B that the kernel stores'
    )
  columns = {
    'system': ledger.system(path.resolve().parent.name),
    'op': op,
    'tier': ledger.tier(),
    'dtype': [formats.dtype(name) for name in names],
    'quantization': [formats.quantization(name) for name in names],
    'bytes_read': moved - stored,
    'bytes_written': stored,
    'flops': table.numbers('flops', 'FLOP'),
    'weight_bytes': weight,
    'working_set_bytes': _working_set(op, moved, weight),
    **shape,
    'variant': _variant(table),
    'time_s': table.positive('latency_us', 'us') * 1e-6,
    'source': 'ai-dynamo/aiconfigurator',
  }
  columns |= own | _kv(op, table) | _power(table, ledger)
  ledger.add_columns(columns)
  if table.unused():
    ledger.remark(f'columns without use: {", ".join(table.unused())}')
  return ledger.done()


def _weight_bytes(op, table, shape, names) -> np.ndarray | None:
  if op == 'mla_bmm':
    size = np.array([formats.number_format(n).activation_B for n in names])
    return 128.0 * 512.0 * size * shape['num_heads']
  if op in ('gemm', 'moe'):
    return table.numbers('weight_bytes', 'B')
  return None


def _working_set(op, moved, weight) -> np.ndarray:
  if op == 'gemm':
    return moved + (_GEMM_WEIGHT_COPIES - 1) * weight
  return moved


def _variant(table: tables.Table) -> np.ndarray:
  parts = [
    table.texts(name, '')
    for name in ('backend', 'version', 'kernel_source', 'op_name')
  ]
  rows = zip(*parts, strict=True)
  return np.array([' '.join(p for p in row if p) for row in rows], object)


def _kv(op: str, table: tables.Table) -> dict:
  if 'attention' not in op and op not in ('mla_prefill', 'mla_decode'):
    return {}
  names = table.texts('kv_cache_dtype')
  return {'kv_dtype': [formats.dtype(name) for name in names]}


def _power(table: tables.Table, ledger: Ledger) -> dict:
  """Power where its window is long enough, and a note where it is not."""
  if 'power_w' not in table:
    return {}
  power = table.numbers('power_w', 'W')
  window = table.numbers('power_window_ms', 'ms')
  trusted = (window >= MIN_POWER_WINDOW_MS) & (power > 0)
  if not trusted.all():
    ledger.remark(
      f'{np.sum(~trusted)} of {len(table)} rows keep their time without power: '
      f'its window is below {MIN_POWER_WINDOW_MS:g} ms'
    )
  return {
    'power_W': np.where(trusted, power, np.nan),
    'note': [
      '' if ok else f'power left out: window of {ms:.0f} ms'
      for ok, ms in zip(trusted, window, strict=True)
    ],
  }


# What a kernel stores, in bytes, and columns of its own. Outputs have two
# bytes, whatever the inputs are.


def _gemm(table, shape, names):
  return {'stored': 2.0 * shape['m'] * shape['n']}


def _attention(table, shape, names):
  queries = shape['batch_size'] * shape.get('seq_len', 1.0)
  return {'stored': 2.0 * queries * shape['num_heads'] * shape['head_dim']}


def _mla_prefill(table, shape, names):
  queries = shape['batch_size'] * shape['seq_len']
  return {'stored': 2.0 * 128 * queries * shape['num_heads']}


def _mla_decode(table, shape, names):
  return {'stored': 2.0 * 512 * shape['batch_size'] * shape['num_heads']}


def _mla_bmm(table, shape, names):
  """Per head, tokens x 128 times 128 x 512 ('pre'), or back ('post')."""
  kinds = table.one_of('op_name', ('mla_gen_pre', 'mla_gen_post'))
  width = np.where(kinds == 'mla_gen_pre', 512.0, 128.0)
  size = np.array([formats.number_format(n).activation_B for n in names])
  tokens = shape.pop('num_tokens')
  return {
    'stored': size * width * tokens * shape['num_heads'],
    'm': tokens,
    'n': width,
    'k': 640.0 - width,
  }


def _moe(table, shape, names):
  """Experts of one device: num_experts / moe_ep_size of them."""
  tensor, expert = (
    table.counts(name) for name in ('moe_tp_size', 'moe_ep_size')
  )
  size = np.array([formats.number_format(n).activation_B for n in names])
  routed = shape['num_tokens'] * shape['topk'] / expert
  hidden = size * shape['inter_size'] / tensor
  stored = routed * (2.0 * shape['hidden_size'] + hidden)
  spare = table.numbers('bytes_moved') - table.numbers('weight_bytes')
  return {
    'stored': np.minimum(stored, np.maximum(spare, 0.0)),
    'tensor_shards': tensor,
    'expert_shards': expert,
    'gated': table.bools('gated').astype(float),
    'routing_skew': _skew(table),
  }


def _skew(table: tables.Table) -> np.ndarray:
  """The exponent of 'power_law_1.2'; 0 of 'balanced'."""
  names = table.texts('distribution')
  found = np.zeros(len(names))
  for i, name in enumerate(names):
    if name == 'balanced':
      continue
    try:
      found[i] = float(name.removeprefix('power_law_'))
    except ValueError:
      raise table.refuse(
        'distribution', i, 'balanced or power_law_<exponent>'
      ) from None
  return found


def _cast(table, shape, names):
  """Two bytes in, one out."""
  return {'stored': shape['m'] * shape['k']}


_OWN = {
  'gemm': _gemm,
  'prefill_attention': _attention,
  'decode_attention': _attention,
  'mla_prefill': _mla_prefill,
  'mla_decode': _mla_decode,
  'mla_bmm': _mla_bmm,
  'moe': _moe,
  'cast': _cast,
}
