"""What a kernel asks of a device: the common form of all kernel laws."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

# Columns of the trace schema, by name, each an array [op]; a column that the
# caller does not know is missing, a value that it does not know is NaN.
# 'element_B' and 'kv_B' are the bytes of one operand and one cached value.
Shape = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """Kernels of one operation; arrays [op], totals of one device.

  Attributes:
    flops: operations that the tiles really do: tiles are padded, and a last
      wave that does not fill the device costs as much as a full one.
    read_B: bytes read from the home tier, re-reads included [B].
    write_B: bytes written [B].
    working_set_B: bytes that repeated calls go over [B].
    occupancy: share of the compute units with work, in (0, 1]; bytes in
      flight grow with it.
    features: what the residual may look at beside the cost: dimensionless or
      logarithms of the shape, by name.
    starts: kernels that run one after the other.
  """

  flops: np.ndarray
  read_B: np.ndarray
  write_B: np.ndarray
  working_set_B: np.ndarray
  occupancy: np.ndarray
  features: Mapping[str, np.ndarray]
  starts: np.ndarray | float = 1.0


@dataclasses.dataclass(frozen=True)
class Law:
  """One kernel law.

  Attributes:
    unit: the engine that does its arithmetic: engine '<unit>:<dtype>'.
    columns: columns of the trace schema that `work` needs.
    work: (shape, compute units of the device) -> `Work`.
  """

  unit: str
  columns: tuple[str, ...]
  work: Callable[[Shape, int], Work]


def column(shape: Shape, name: str, fill: np.ndarray | float) -> np.ndarray:
  """An optional column; `fill` where it is missing or NaN."""
  values = np.asarray(shape.get(name, np.nan), float)
  return np.where(np.isnan(values), fill, values)


def tile_share(count: np.ndarray, tile: float) -> np.ndarray:
  """Useful share of tiles of that size, in (0, 1]."""
  return count / (np.ceil(count / tile) * tile)


def waves(tiles: np.ndarray, units: int) -> tuple[np.ndarray, np.ndarray]:
  """Full waves that the tiles need, and the share of them that is useful."""
  full = np.ceil(tiles / units)
  return full, tiles / (full * units)


def wave_features(
  name: str, tiles: np.ndarray, units: int
) -> dict[str, np.ndarray]:
  """Waves as the residual sees them: how many, how full, how much of one."""
  full, share = waves(tiles, units)
  return {
    f'{name} wave share': share,
    f'log {name} waves': np.log(full),
    f'log {name} tiles per unit': np.log(np.minimum(tiles / units, 4.0)),
  }
