"""Rows of measured energy, read as runs of serving; what a run moves.

Columns are those of `ml_energy.csv`. Bytes are those of a decode step: weights
once, experts that its tokens touch, keys and values, and the state of linear
attention, which is read and written in 32 bits.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from diffmem import errors
from diffmem.runs.offload_rows import machine_of
from diffmem.workloads import Transformer, find_workload
from diffmem.workloads.formats import value_B

# Format of the matrices by the word in the table; what is not of experts in
# an mxfp4 model stays in 16 bits (OpenAI, gpt-oss model card, 2025).
_FORMATS = {
  'bfloat16': ('bfloat16', 'bfloat16'),
  'fp8': ('fp8_block', 'fp8_block'),
  'mxfp4': ('bfloat16', 'mxfp4'),
}
# Mamba-2 state of Nemotron-Nano and Qwen3-Next: float32, read and written.
_STATE_B = 8.0
# Assumption: tokens of a prompt where the table gives none.
_PROMPTS = {
  'lm-arena-chat': 150.0, 'gpqa': 300.0, 'image-chat': 1200.0,
  'video-chat': 6000.0, 'sourcegraph-fim': 400.0,
}  # fmt: skip
_HOST_BOUND = ('image-chat', 'video-chat')


class EnergyRun(NamedTuple):
  """A measured run of serving.

  Attributes:
    index: 0-based row of the input.
    model: the transformer.
    machine: name in the catalog or in the folder of checkpoints.
    precision: 'bfloat16', 'fp8' or 'mxfp4'.
    gpus: accelerators.
    data: ranks that each have attention weights of their own.
    batch: sequences that decode together, mean.
    context: tokens of a sequence while it decodes, prompt included, mean.
    tokens_per_s: generated, all accelerators together.
    decode_share: of the time.
    host_bound: whether images or video are prepared on the host.
    observed: energy of a token [J]; NaN where none is given.
  """

  index: int
  model: Transformer
  machine: str
  precision: str
  gpus: int
  data: int
  batch: float
  context: float
  tokens_per_s: float
  decode_share: float
  host_bound: bool
  observed: float


def read_row(row: Mapping[str, Any], index: int) -> EnergyRun:
  """Reads one row with the columns of `ml_energy.csv`.

  Raises:
    SpecError: an unknown model or accelerator, or an incomplete row.
  """
  model = find_workload(str(row.get('model_id') or ''))
  precision = str(row.get('weight_precision') or 'bfloat16')
  if precision not in _FORMATS:
    raise errors.SpecError(
      f'incomplete configuration: weight_precision {precision!r}; expected one '
      f'of {", ".join(_FORMATS)}'
    )
  task = str(row.get('task') or '')
  batch, rate = number(row, 'avg_batch'), number(row, 'tokens_per_s')
  step_s = number(row, 'median_itl_ms', 0.0) * 1e-3
  share = rate / batch * step_s if step_s else 1.0
  prompt = _PROMPTS.get(task, _PROMPTS['lm-arena-chat'])
  return EnergyRun(
    index=index,
    model=model,
    machine=machine_of(str(row.get('gpu') or '')),
    precision=precision,
    gpus=int(number(row, 'num_gpus', 1.0)),
    data=int(number(row, 'dp', 1.0)),
    batch=batch,
    context=prompt + number(row, 'mean_decode_pos', 512.0),
    tokens_per_s=rate,
    decode_share=min(max(share, 0.02), 1.0),
    host_bound=task in _HOST_BOUND,
    observed=number(row, 'energy_per_token_J', math.nan),
  )


def family_of(model: Transformer) -> str:
  """Family of a model's name: 'llama-3' of 'llama-3.1-70b'."""
  return re.match(r'[a-z]+\d*(-\d(?=[.-]|$))?', model.name).group(0)


def near_Bps(run: EnergyRun) -> float:
  """Bytes of near memory that one board moves each second while decoding."""
  model, count = run.model, run.model.parameters()
  dense, sparse = (value_B(f) for f in _FORMATS[run.precision])
  touched = 1.0
  if model.experts:
    touched -= (1.0 - model.experts.top_k / model.experts.count) ** run.batch
  attention = count.attention * dense * (run.gpus if run.data > 1 else 1.0)
  weights_B = attention + (count.mlp + count.router) * dense
  weights_B += touched * count.experts * sparse
  weights_B += 2.0 * model.vocab * model.d_model
  state = model.linear.layers * model.linear.state_values if model.linear else 0
  cached_B = 2.0 * (model.cache_values(run.context) - state) + _STATE_B * state
  steps_per_s = run.tokens_per_s / run.batch
  return (steps_per_s * weights_B + run.tokens_per_s * cached_B) / run.gpus


def token_flops(run: EnergyRun) -> float:
  """FLOPs of a decoded token in 16 bits' worth: half for 8-bit products."""
  model = run.model
  count, head = model.parameters(), model.vocab * model.d_model
  flops = 2.0 * (model.active_parameters() - count.embeddings + head)
  return flops / 2.0 if run.precision == 'fp8' else flops


def number(
  row: Mapping[str, Any], name: str, fill: float | None = None
) -> float:
  """A column as a number, or `fill`; SpecError where there is neither."""
  text = str(row.get(name, '') if row.get(name) is not None else '').strip()
  try:
    value = float(text) if text else math.nan
  except ValueError:
    value = math.nan
  if not math.isnan(value):
    return value
  if fill is None:
    raise errors.SpecError(f'incomplete configuration: no {name}')
  return fill
