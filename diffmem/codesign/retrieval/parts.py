"""Machines, drives and indexes that retrieval is built of, with sources.

Numbers of machines come from `parts.toml`; memory, drives and
bandwidths from the catalog or a checkpoint; prices from `cost.prices`.
"""

import functools
import os
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import numpy as np
import pydantic

from diffmem import errors
from diffmem.cost import Demand, predict_jit
from diffmem.cost.prices import Prices
from diffmem.system import System
from diffmem.workloads import recall

_FILE = pathlib.Path(__file__).with_name('parts.toml')
_CONFIG = pydantic.ConfigDict(frozen=True, extra='forbid')
_Positive = Annotated[float, pydantic.Field(gt=0)]
_Share = Annotated[float, pydantic.Field(gt=0, le=1)]
_SECTOR_B = 4096.0
_SECONDS_PER_YEAR = 365.25 * 86400.0
_J_PER_KWH = 3.6e6


class Figure(pydantic.BaseModel):
  """A number and where it is from.

  Attributes:
    value: in the unit of its name.
    sd: spread of its logarithm, from what it missed on other data sets.
    source: where it was read or how it was fitted.
  """

  model_config = _CONFIG

  value: _Positive
  sd: Annotated[float, pydantic.Field(ge=0)] = 0.0
  source: Annotated[str, pydantic.Field(min_length=3)]


class Host(pydantic.BaseModel):
  """A server; times are of one of its threads.

  Attributes:
    system: catalog name or checkpoint of socket and memory.
    drive: of its drives.
    threads: hardware threads.
    usd: price without memory and drives [USD].
    most_drives: slots.
    module_B: a memory module [B].
    most_memory_B: all slots filled [B].
    idle_W: power at rest, without memory and drives [W].
    busy_W: power with all threads at work [W].
    disk_compare_s: a comparison of a graph search on drives [s].
    memory_compare_s: of one in memory, per 256 bytes of vector [s].
    list_query_s: of a query on inverted lists, once [s].
    list_candidate_s: per candidate of the search for the nearest lists [s].
    rerank_s: per vector that is read whole from a drive [s].
    list_code_s: per code of 32 bytes [s].
  """

  model_config = _CONFIG

  system: str
  drive: str
  threads: Figure
  usd: Figure
  most_drives: Figure
  module_B: Figure
  most_memory_B: Figure
  idle_W: Figure
  busy_W: Figure
  disk_compare_s: Figure
  memory_compare_s: Figure
  list_query_s: Figure
  list_candidate_s: Figure
  rerank_s: Figure
  list_code_s: Figure


class Accelerator(pydantic.BaseModel):
  """A rented accelerator with its share of a host; times are of all of it.

  Attributes:
    system: catalog name or checkpoint.
    memory_compare_s: a comparison of a graph search [s].
    list_code_s: a code of 32 bytes [s].
    in_flight: queries that keep it busy.
    usable: share of its memory for the index.
    host_memory_B: memory of the host that comes with it [B].
    graph_W: power of a graph search, host's share included [W].
    list_W: power of a search of inverted lists [W].
  """

  model_config = _CONFIG

  system: str
  memory_compare_s: Figure
  list_code_s: Figure
  in_flight: Figure
  usable: Figure
  host_memory_B: Figure
  graph_W: Figure
  list_W: Figure


class Drive(pydantic.BaseModel):
  """What the catalog does not say of drives and modules.

  Attributes:
    base_memory_B: of a machine, for everything but the index [B].
    size_B: capacity of a drive [B].
    active_W: power of a drive [W].
    module_W_per_GB: power of memory [W/GB].
  """

  model_config = _CONFIG

  base_memory_B: Figure
  size_B: Figure
  active_W: Figure
  module_W_per_GB: Figure


class GraphLaw(pydantic.BaseModel):
  """How a graph over 1e9 vectors finds.

  Attributes:
    ceiling: of `recall.RecallLaw`.
    half_work: of the same, in reads.
    compares: comparisons of a query with one read.
    code_B: bytes of the codes that led it [B]; by default those of the
      DiskANN runs (t3/diskann-bare-metal/algos.yaml: 50 GB for 1e9).
  """

  model_config = _CONFIG

  ceiling: _Share
  half_work: _Positive
  compares: _Positive = 90.0
  code_B: _Positive = 50.0


class ListLaw(pydantic.BaseModel):
  """`recall.ListsLaw` with codes of 32 bytes and no re-ranking."""

  model_config = _CONFIG

  ceiling: _Share
  half_probes: _Positive
  half_candidates: _Positive


class Corpus(pydantic.BaseModel):
  """How hard an index is to search.

  Attributes:
    dimension: components of a vector.
    component_B: bytes of each [B].
    graph: None where no graph was measured.
    lists: None where no inverted lists were.
    source: of the laws.
  """

  model_config = _CONFIG

  dimension: _Positive
  component_B: _Positive
  graph: GraphLaw | None = None
  lists: ListLaw | None = None
  source: str

  @property
  def vector_B(self) -> float:
    """Bytes of a whole vector [B]."""
    return self.dimension * self.component_B


class Parts(pydantic.BaseModel):
  """Everything of the file, by name."""

  model_config = _CONFIG

  hosts: Mapping[str, Host]
  accelerators: Mapping[str, Accelerator]
  drive: Drive
  corpora: Mapping[str, Corpus]


def load_parts(path: str | os.PathLike | None = None) -> Parts:
  """Reads a parts file; the shipped one without a path.

  Raises:
    SpecError: unreadable, or a field that does not fit, with its path.
  """
  return _shipped() if path is None else read_toml(pathlib.Path(path), Parts)


@functools.cache
def _shipped() -> Parts:
  return read_toml(_FILE, Parts)


def read_toml(path: pathlib.Path, model: type[pydantic.BaseModel]):
  """A TOML file as a pydantic model.

  Raises:
    SpecError: file, path of the field, value and what was expected.
  """
  try:
    return model.model_validate(tomllib.loads(path.read_text(encoding='utf-8')))
  except OSError as error:
    raise errors.SpecError(f'{path}: {error.strerror or error}') from None
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise errors.SpecError(f'{path}: not TOML: {error}') from None
  except pydantic.ValidationError as error:
    lines = [
      f'{path}: {".".join(str(p) for p in e["loc"])} = {e.get("input")!r}: '
      f'{e["msg"]}'
      for e in error.errors()
    ]
    raise errors.SpecError('\n'.join(lines)) from None


def corpus_of(
  vector_B: float,
  points: list[tuple[float, float]],
  compares: float = 90.0,
  code_B: float = 50.0,
) -> Corpus:
  """An index of one's own, from measured (reads, recall) of its graph.

  Args:
    vector_B: bytes of a vector [B].
    points: at least two of different reads, at 1e9 vectors or scaled there.
    compares: comparisons of a query with one read; 84 to 93 in the public
      runs, of graphs with 100 neighbours.
    code_B: bytes of the codes that it was measured with [B].

  Raises:
    SpecError: fewer points than the law needs.
  """
  if len(points) < 2:
    raise errors.SpecError('points: expected at least two (reads, recall)')
  law = recall.fit_recall(*zip(*points, strict=True))
  return Corpus(
    dimension=vector_B,
    component_B=1,
    graph=GraphLaw(
      ceiling=law.ceiling,
      half_work=law.half_work,
      compares=compares,
      code_B=code_B,
    ),
    source='measured points of the user',
  )


class Store(NamedTuple):
  """A drive under random reads of one sector.

  Attributes:
    reads_per_s: with a long queue [1/s].
    latency_s: of a read alone [s].
    queue_p: sharpness of the knee between them.
    size_B: capacity [B].
    usd: price [USD].
    active_W: power [W].
  """

  reads_per_s: float
  latency_s: float
  queue_p: float
  size_B: float
  usd: float
  active_W: float

  def loaded_s(self, busy: np.ndarray) -> np.ndarray:
    """Latency at a share of the drive's reads per second [s].

    The open form of `cost.service`; defined below a share of 1.
    """
    return self.latency_s * (1.0 - busy**self.queue_p) ** (-1.0 / self.queue_p)


def store_of(system: System, drive: Drive, prices: Prices) -> Store:
  """A drive as retrieval sees it, from the fitted tier 'SSD'."""
  idle, full = (
    predict_jit(
      system,
      Demand.of(
        system,
        read_B={'SSD': _SECTOR_B},
        granule_B={'SSD': _SECTOR_B},
        in_flight_B={'SSD': in_flight_B},
      ),
    )
    for in_flight_B in (_SECTOR_B, 1e12)
  )
  size_B = drive.size_B.value
  return Store(
    reads_per_s=float(1.0 / full.time_s),
    latency_s=float(idle.tier_latency_s[..., system.tier_names.index('SSD')]),
    queue_p=float(system.tier('SSD').queue_p),
    size_B=size_B,
    usd=size_B / 1e9 * prices.of('memory_usd_per_GB', 'SSD'),
    active_W=drive.active_W.value,
  )


def second_of(usd: float, prices: Prices) -> float:
  """What a purchase costs per second of a service that never rests [USD/s].

  Unlike an accelerator that waits for jobs, an index is held all the time:
  the share of hours used is not divided by.
  """
  years = prices.facility.years_of_service.value
  return usd / (years * _SECONDS_PER_YEAR)


def joule_usd(prices: Prices, contract: str = 'grid') -> float:
  """What a joule at the machine costs, with the site's own [USD/J]."""
  site = prices.facility.energy_over_device_energy.value
  return site * prices.of('energy_usd_per_kWh', contract) / _J_PER_KWH
