"""Galvatron's cost model: time and memory of a layer under every strategy.

Miao et al., PVLDB 16(3), 2022, sections 3.3 and 3.4, with the repository's
constants. A strategy gives a layer pipeline stages, tensor ranks and data
ranks (plain or fully sharded), tensor ranks beside each other or not; layers
of one model may differ in all but the stages. Overlapped computation and
communication slow each other down:

    overlapped = max(a, b) + (slowdown - 1) min(a, b).
"""

import itertools
import math
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_FILE = pathlib.Path(__file__).with_suffix('.toml')


class Strategy(NamedTuple):
  """How one layer is spread.

  Attributes:
    stages: of the pipeline.
    tensor: ranks that share matrices.
    data: ranks that share the batch.
    is_sharded: whether the data ranks share weights and states.
    is_near: whether tensor ranks are beside each other.
  """

  stages: int
  tensor: int
  data: int
  is_sharded: bool = False
  is_near: bool = True

  def __str__(self) -> str:
    data = f'd{self.data}{"s" if self.is_sharded else ""}'
    tensor = f't{self.tensor}{"" if self.is_near else " apart"}'
    return f'p{self.stages} {tensor} {data}'

  @property
  def is_mixed(self) -> bool:
    """Whether both kinds of ranks are there, so that nearness matters."""
    return self.tensor > 1 and self.data > 1


class Costs(NamedTuple):
  """Layers of one stage under the strategies of one depth and batch.

  Attributes:
    strategies: all with the same stages.
    layers: of a stage.
    time_s: of a layer, its share of the pipeline's bubble included [strategy].
    memory_MB: of a layer, whole [strategy].
    reshard_s: between layers, from a strategy to another [from, to].
    room_MB: what is left for the layers at no budget at all: negative.
  """

  strategies: tuple[Strategy, ...]
  layers: int
  time_s: np.ndarray
  memory_MB: np.ndarray
  reshard_s: np.ndarray
  room_MB: float


def load() -> list[dict[str, Any]]:
  """Reads galvatron.toml: one document for each model."""
  document = tomllib.loads(_FILE.read_text())
  return [{**document, 'model': model} for model in document['model']]


def strategies(gpus: int, stages: int) -> tuple[Strategy, ...]:
  """Every strategy with so many stages; tensor ranks are powers of two."""
  ranks = gpus // stages
  found = []
  for power in range(ranks.bit_length()):
    tensor = 2**power
    data = ranks // tensor
    nearness = (False, True) if tensor > 1 and data > 1 else (True,)
    shardings = (False, True) if data > 1 else (False,)
    for is_near, is_sharded in itertools.product(nearness, shardings):
      found.append(Strategy(stages, tensor, data, is_sharded, is_near))
  return tuple(found)


def costs(published: Mapping[str, Any], stages: int, batch: int) -> Costs:
  """Time, memory and resharding of one depth at one batch.

  Args:
    published: one of `load`.
    stages: of the pipeline.
    batch: samples of a step.
  """
  gpus = published['machine']['gpus']
  found = strategies(gpus, stages)
  model, software = published['model'], published['software']
  ranks = gpus // stages
  other_MB = (
    model['other_states_MB']
    + model['other_activations_MB'] * batch / ranks
    + software['context_MB']
  )
  return Costs(
    found,
    model['layers'] // stages,
    np.array([layer_s(published, s, batch) for s in found]),
    np.array([math.ceil(layer_MB(published, s, batch)) for s in found], float),
    np.array(
      [[reshard_s(published, a, b, batch) for b in found] for a in found]
    ),
    -float(math.ceil(other_MB)),
  )


def layer_s(
  published: Mapping[str, Any], strategy: Strategy, batch: int
) -> float:
  """Forward and backward of a layer, bubble and exchanges included [s]."""
  model, software = published['model'], published['software']
  local = batch / strategy.data
  forward_ms = model['forward_ms'] * local / strategy.tensor
  backward_ms = forward_ms * model['backward_over_forward']
  gradients_ms = (
    _ring(strategy.data) * model['parameters_MB'] / strategy.tensor
  ) * _ms_per_MB(published, strategy, 'data')
  hidden_MB = local * model['tokens'] * model['d_model'] * model['value_B']
  hidden_MB *= software['all_reduces'] / 2**20
  tensor_ms = (
    _ring(strategy.tensor)
    * hidden_MB
    * _ms_per_MB(published, strategy, 'tensor')
  )
  total_ms = (forward_ms + backward_ms + tensor_ms) * _filled(
    model, strategy, local
  )
  if strategy.data > 1:
    total_ms += _exposed_ms(software, strategy, backward_ms, gradients_ms)
    total_ms += model['overhead_ms']
  if strategy.is_sharded:
    # Weights are gathered once more than gradients are scattered.
    total_ms += 0.5 * gradients_ms
  return total_ms * software['margin'] / 1e3


def layer_MB(
  published: Mapping[str, Any], strategy: Strategy, batch: int
) -> float:
  """States and activations of a layer on one GPU [MB]."""
  model, software = published['model'], published['software']
  states_MB = (
    software['states_per_parameter'] * model['parameters_MB'] / strategy.tensor
  )
  if strategy.is_sharded:
    states_MB *= 1.0 / strategy.data + software['sharded_extra']
  activations_MB = model['activations_MB'][str(strategy.tensor)]
  return states_MB + activations_MB * batch / strategy.data


def reshard_s(
  published: Mapping[str, Any], before: Strategy, after: Strategy, batch: int
) -> float:
  """What it takes to hand the hidden values on [s]."""
  software = published['software']
  if before != after and before._replace(is_sharded=False) == after:
    return software['order_s']
  both = before.is_mixed and after.is_mixed
  moved = both and before.is_near != after.is_near
  if not (
    after.tensor > before.tensor
    or (moved and after.tensor == before.tensor)
    or (moved and (before.tensor, after.tensor) == (4, 2))
  ):
    return 0.0
  sent_MB = software['reshard_MB'] * batch / after.data
  sent_MB *= (after.tensor - 1.0) / after.tensor
  return sent_MB * _ms_per_MB(published, after, 'tensor') / 1e3


def _ring(ranks: int) -> float:
  """Share of the data that an all-reduce sends, times two."""
  return 2.0 * (ranks - 1.0) / ranks


def _ms_per_MB(published, strategy: Strategy, axis: str) -> float:
  ranks = getattr(strategy, axis)
  if ranks == 1:
    return 0.0
  table = published['machine']['ms_per_MB'][str(strategy.stages)]
  if not strategy.is_mixed:
    return table[str(ranks)]
  is_near = strategy.is_near == (axis == 'tensor')
  return table[f'{ranks}_{"near" if is_near else "far"}']


def _filled(
  model: Mapping[str, Any], strategy: Strategy, local: float
) -> float:
  """Time of a layer in a pipeline of micro-batches, per stage."""
  stages = strategy.stages
  if stages == 1:
    return 1.0
  if model['chunks'] == 'two':
    chunks = 1.0 if local == 8.0 else 2.0
  elif strategy.tensor > 1 and strategy.data == 1:
    chunks = local / 4.0
  else:
    chunks = local / 2.0 if local < 6.0 else local / 8.0 + 2.0
  return (stages + chunks - 1.0) / (stages * chunks)


def _exposed_ms(
  software, strategy: Strategy, backward_ms: float, gradients_ms: float
) -> float:
  """What the exchange of gradients adds to the backward pass."""
  slowdown = software['overlap_slowdown']
  # With two data ranks beside tensor ranks, half of the backward overlaps.
  is_half = strategy.is_mixed and strategy.data == 2
  hidden_ms = backward_ms * (0.5 if is_half else 1.0)
  if (
    strategy.stages > 1 and strategy.tensor == 1 and not strategy.is_sharded
    and gradients_ms > hidden_ms
  ):  # fmt: skip
    # The other stages' rest passes beside the pipeline.
    rest_ms = (gradients_ms - hidden_ms) / strategy.stages
    return (slowdown - 1.0) * hidden_ms + rest_ms
  longer, shorter = sorted([hidden_ms, gradients_ms], reverse=True)
  return longer + (slowdown - 1.0) * shorter - hidden_ms
