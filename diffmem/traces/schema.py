"""The trace schema: one row, one observation, SI units.

A column has a kind, a unit and a plausible range; a value outside it is
refused, because it is a unit mistake more often than a fast machine.
"""

import enum
from typing import NamedTuple


class Kind(enum.StrEnum):
  """What a column holds."""

  TEXT = 'text'
  NUMBER = 'number'
  COUNT = 'whole number'


class Column(NamedTuple):
  """One column of a trace.

  Attributes:
    name: with its unit, as in the file.
    kind: text, number or whole number.
    unit: SI unit, '1' for counts, '' for text.
    low: smallest plausible value.
    high: largest plausible value.
    help: one line.
    required: whether every row must have it.
  """

  name: str
  kind: Kind
  unit: str
  low: float
  high: float
  help: str
  required: bool = False


def _text(name: str, help: str, required: bool = False) -> Column:
  return Column(name, Kind.TEXT, '', 0, 0, help, required)


def _count(name: str, help: str, low: float = 0, high: float = 1e12) -> Column:
  return Column(name, Kind.COUNT, '1', low, high, help)


def _number(name, unit, low, high, help) -> Column:
  return Column(name, Kind.NUMBER, unit, low, high, help)


COLUMNS = (
  _text('system', 'machine that was measured', required=True),
  _text('op', 'operation, see OPS', required=True),
  _text('tier', 'tier where the data lives; null: the main memory'),
  _text('dtype', 'number format of the operands'),
  _text('kv_dtype', 'number format of the cached keys and values'),
  _text('quantization', 'how operands are stored, where dtype does not tell'),
  _text('model', 'model that a whole step belongs to'),
  _text('variant', 'what ran: library, version, kernel, engine, mode'),
  # What was asked: totals over everything that time_s covers.
  _number('bytes_read', 'B', 0, 1e18, 'bytes read'),
  _number('bytes_written', 'B', 0, 1e18, 'bytes written'),
  _number('flops', 'FLOP', 0, 1e24, 'floating-point operations'),
  _number('granule_bytes', 'B', 1, 1e15, 'run of consecutive addresses'),
  _number('in_flight_bytes', 'B', 1, 1e15, 'bytes in flight'),
  _count('participants', 'threads, SMs or ranks at work', 1),
  _number('working_set_bytes', 'B', 1, 1e18, 'bytes gone over repeatedly'),
  _count('launches', 'framework launches within time_s'),
  _number('message_bytes', 'B', 1, 1e15, 'payload of a collective'),
  _number('weight_bytes', 'B', 0, 1e18, 'weights among bytes_read'),
  # Shapes of kernels.
  _count('m', 'GEMM rows (tokens)', 1),
  _count('n', 'GEMM columns (output features)', 1),
  _count('k', 'GEMM depth (input features)', 1),
  _count('batch_size', 'sequences', 1),
  _count('seq_len', 'query tokens per sequence', 1),
  _count('kv_len', 'cached tokens per sequence'),
  _count('num_heads', 'query heads', 1),
  _count('num_kv_heads', 'key-value heads', 1),
  _count('head_dim', 'width of a head', 1),
  _count('window_size', 'sliding window; 0 for none'),
  _count('num_tokens', 'tokens routed', 1),
  _count('hidden_size', 'width of the model', 1),
  _count('inter_size', 'width of an expert', 1),
  _count('num_experts', 'experts', 1),
  _count('topk', 'experts per token', 1),
  _number('routing_skew', '1', 0, 10, 'exponent of the experts load; 0: even'),
  _count('gated', 'whether an expert has a gate matrix: 1 or 0', 0, 1),
  # How the work is spread over devices; time_s and power_W are of one device.
  _count('tensor_shards', 'devices that share a matrix', 1),
  _count('expert_shards', 'devices that share the experts', 1),
  _count('pipeline_shards', 'devices that share the layers', 1),
  _count('data_shards', 'replicas', 1),
  _count('ranks_per_node', 'ranks of a collective in one node', 1),
  _count('sms', 'SMs that move the message', 1),
  # What was observed: one of them at least.
  _number('time_s', 's', 1e-12, 1e8, 'wall time, robust over repeats'),
  _number('cpu_time_s', 's', 1e-12, 1e8, 'thread CPU time, mean over threads'),
  _number('bandwidth_Bps', 'B/s', 1, 1e14, 'bytes read and written over time'),
  _number('latency_s', 's', 1e-11, 1e4, 'time of one access'),
  _number('power_W', 'W', 1e-3, 1e5, 'mean power of the device'),
  _number('energy_J', 'J', 1e-12, 1e12, 'energy of the device'),
  # How well.
  _count('repeats', 'repetitions behind the median', 1),
  _number('rel_std', '1', 0, 10, 'robust relative deviation of the repeats'),
  _text('source', 'who measured it'),
  _text('note', 'what to know, such as noise'),
)

BY_NAME = {column.name: column for column in COLUMNS}
REQUIRED = tuple(c.name for c in COLUMNS if c.required)
OBSERVED = ('time_s', 'bandwidth_Bps', 'latency_s', 'power_W', 'energy_J')

OPS = {
  'pointer_chase': 'dependent loads over a random cycle',
  'stream': 'sequential read',
  'copy': 'sequential read and write, one to one',
  'triad': 'a = b + s c: two reads, one write',
  'loaded_latency': 'a pointer chase beside a load of known bandwidth',
  'random_read': 'reads of one granule at random addresses',
  'sequential_read': 'reads of one granule after the other',
  'random_write': 'writes of one granule at random addresses',
  'sequential_write': 'writes of one granule after the other',
  'random_mix': 'reads and writes of one granule at random addresses',
  'sequential_mix': 'reads and writes of one granule after the other',
  'stream_mix': 'sequential reads and writes in a given ratio',
  'roofline': 'sequential read with a chosen number of FMAs per element',
  'gemm': 'matrix product',
  'gemm_chain': 'matrix products that feed each other, one launch',
  'reduce': 'sum over an array',
  'stream_reduce': 'largest element of an array',
  'cast': 'streaming change of number format',
  'prefill_attention': 'attention over a prompt',
  'decode_attention': 'attention of one new token over a cache',
  'mla_prefill': 'latent attention over a prompt',
  'mla_decode': 'latent attention of one new token',
  'mla_bmm': 'batched projections of latent attention',
  'moe': 'routed experts',
  'all_reduce': 'collective',
  'all_gather': 'collective',
  'reduce_scatter': 'collective',
  'all_to_all': 'collective',
  'send_recv': 'point to point',
  'expert_dispatch': 'tokens to the devices of their experts',
  'expert_combine': 'results of experts back to the tokens',
  'idle': 'nothing: the power is the static one',
  'kernel': 'one operation of a compiled program, named in variant',
  'decode_step': 'one token for every running sequence of a server',
  'step': 'a whole step of a program',
}
