"""FlexGen's published constants, limits, policies and measurements."""

import pathlib
import tomllib
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.peers.flexgen import Hardware, Job, tokens_per_s

GB = 2.0**30
TERA = 1e12
_FILE = pathlib.Path(__file__).with_name('flexgen.toml')
_rate = jax.jit(tokens_per_s)


class Case(NamedTuple):
  """A published policy and what was measured with it.

  Attributes:
    name: of the model.
    job: the requests.
    fractions: [tensor, place].
    gpu_batch: sequences of one block's batch.
    blocks: batches that share a layer's weights.
    measured_tokens_per_s: as published.
  """

  name: str
  job: Job
  fractions: np.ndarray
  gpu_batch: int
  blocks: int
  measured_tokens_per_s: float


class Published(NamedTuple):
  """What flexgen.toml holds; `room_B` is [GPU, host, disk], usable part."""

  hardware: Hardware
  room_B: np.ndarray
  cases: tuple[Case, ...]


def load() -> Published:
  """Reads flexgen.toml."""
  document = tomllib.loads(_FILE.read_text())
  limits = document['limits']
  room_GB = [limits[f'{place}_GB'] for place in ('gpu', 'host', 'disk')]
  return Published(
    Hardware(**dict(map(_si, document['hardware'].items()))),
    GB * limits['usable'] * np.array(room_GB, float),
    tuple(_case(row, document['models']) for row in document['case']),
  )


def predict(case: Case, hardware: Hardware) -> float:
  """Tokens per second of a published policy, in double precision."""
  with jax.enable_x64(True):
    return float(
      _rate(
        case.fractions,
        case.job,
        hardware,
        np.float64(case.gpu_batch),
        np.float64(case.blocks),
      )
    )


def _si(item: tuple[str, Any]) -> tuple[str, Any]:
  name, value = item
  if name.endswith('_GBps'):
    return name.replace('_GBps', '_Bps'), value * GB
  if name.endswith('_TFLOPps'):
    return name.replace('_TFLOPps', '_FLOPps'), value * TERA
  return name, value


def _case(row: dict[str, Any], models: dict[str, Any]) -> Case:
  pairs = np.array(row['percent'], float).reshape(3, 2) / 100.0
  return Case(
    row['model'],
    Job(
      **{k: float(v) for k, v in models[row['model']].items()},
      prompt=float(row['prompt']),
      generated=float(row['generated']),
    ),
    np.column_stack([pairs, 1.0 - pairs.sum(1)]),
    row['gpu_batch'],
    row['blocks'],
    row['measured_tokens_per_s'],
  )
