"""ML.ENERGY tables of language model serving (ml-energy/leaderboard).

One row is one benchmark run of a server (vLLM) in steady state: `model_id`,
`gpu`, `num_gpus`, `tp`, `pp`, `ep`, `dp`, `max_batch`, `avg_batch` running
sequences over all replicas, `tokens_per_s` of output, `energy_per_token_J` and
`avg_power_W` of all GPUs, `power_per_gpu_W`.

It becomes a row `decode_step`: one output token for each of the running
sequences, so that

    time_s = avg_batch / tokens_per_s,
    power_W = power_per_gpu_W,
    energy_J = energy_per_token_J x avg_batch / num_gpus = power_W x time_s,

all of one GPU and all means over the same window. time_s therefore includes
the prefills of sequences that replace finished ones; `median_itl_ms`, the
median time between tokens (dataset v3), does not, and is in the note. Short
answers and long prompts (image and video chat) pull the two far apart.
batch_size is avg_batch, rounded. kv_len is `mean_decode_pos`, the mean position
of the decoded token (prompt not counted by all versions; absent in v2).
"""

import pathlib

import numpy as np

from diffmem.traces.readers import formats, tables
from diffmem.traces.readers.ledger import Imported, Ledger, Options

_NOT_NEEDED = (
  'avg_power_W', 'energy_per_request_J', 'p90_itl_ms', 'p95_itl_ms',
  'p99_itl_ms', 'licence', 'architecture', 'params_b', 'active_params_b',
)  # fmt: skip


def read(path: pathlib.Path, options: Options) -> Imported:
  """Reads `ml_energy.csv`.

  Raises:
    TraceError: a missing column, or a value that makes no sense.
  """
  table = tables.read(path)
  ledger = Ledger(path, options)
  table.use(*_NOT_NEEDED)
  gpus = table.counts('num_gpus')
  batch = table.positive('avg_batch')
  time_s = batch / table.positive('tokens_per_s', '1/s')
  names = table.texts('weight_precision')
  ledger.add_columns(
    {
      'system': [ledger.system(name) for name in table.texts('gpu')],
      'op': 'decode_step',
      'tier': ledger.tier(),
      'dtype': [formats.dtype(name) for name in names],
      'quantization': [formats.quantization(name) for name in names],
      'model': table.texts('model_id'),
      'variant': _variant(table),
      'participants': gpus,
      'batch_size': np.maximum(np.round(batch), 1.0),
      'seq_len': 1,
      'kv_len': np.round(table.numbers('mean_decode_pos', nullable=True)),
      'tensor_shards': table.counts('tp'),
      'pipeline_shards': table.counts('pp'),
      'expert_shards': table.counts('ep'),
      'data_shards': table.counts('dp'),
      'time_s': time_s,
      'power_W': table.positive('power_per_gpu_W', 'W'),
      'energy_J': table.positive('energy_per_token_J', 'J') * batch / gpus,
      'source': table.texts('source', 'ml-energy/leaderboard'),
      'note': _note(table),
    }
  )
  if table.unused():
    ledger.remark(f'columns without use: {", ".join(table.unused())}')
  return ledger.done()


def _variant(table: tables.Table) -> list[str]:
  parts = [table.texts(n, '') for n in ('engine', 'dataset', 'task')]
  return [' '.join(p for p in row if p) for row in zip(*parts, strict=True)]


def _note(table: tables.Table) -> list[str]:
  """What has no column: the batch limit, answer length, time per token."""
  between = table.numbers('median_itl_ms', 'ms', nullable=True)
  mean = table.numbers('mean_tpot_ms', 'ms', nullable=True)
  limit = table.numbers('max_batch', nullable=True)
  length = table.numbers('avg_output_len', nullable=True)
  labelled = (
    ('max batch', limit, '', 0), ('answer', length, ' tokens', 0),
    ('median between tokens', between, ' ms', 3),
    ('mean per token', mean, ' ms', 3),
  )  # fmt: skip
  return [
    ', '.join(
      f'{label} {values[i]:.{digits}f}{unit}'
      for label, values, unit, digits in labelled
      if np.isfinite(values[i])
    )
    for i in range(len(table))
  ]
