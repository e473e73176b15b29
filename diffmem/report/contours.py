"""Lines of equal value over a grid, by marching squares.

Every cell between four values is crossed where linear interpolation along its
edges meets the level; a saddle is split by the mean of its corners (Lorensen
and Cline 1987, in two dimensions).
"""

import numpy as np

# One segment: x1, y1, x2, y2, in units of the given coordinates.
Segment = tuple[float, float, float, float]


def segments(
  x: np.ndarray, y: np.ndarray, values: np.ndarray, level: float
) -> list[Segment]:
  """Pieces of the line `values == level`.

  Args:
    x: coordinates of the columns [n].
    y: coordinates of the rows [m].
    values: [m, n]; squares with a corner that is not finite are left out.
    level: of the line.
  """
  found: list[Segment] = []
  for i in range(len(y) - 1):
    for j in range(len(x) - 1):
      corners = values[[i, i, i + 1, i + 1], [j, j + 1, j + 1, j]]
      if not np.isfinite(corners).all():
        continue
      places = ((x[j], y[i]), (x[j + 1], y[i]), (x[j + 1], y[i + 1]),
                (x[j], y[i + 1]))  # fmt: skip
      found += _square(places, corners, level)
  return found


def _square(places, corners: np.ndarray, level: float) -> list[Segment]:
  """Segments within one square; corners are in order around it."""
  above = corners >= level
  crossings = []
  for k in range(4):
    a, b = k, (k + 1) % 4
    if above[a] != above[b]:
      share = (level - corners[a]) / (corners[b] - corners[a])
      crossings.append(tuple(
        float(p + share * (q - p))
        for p, q in zip(places[a], places[b], strict=True)
      ))  # fmt: skip
  if len(crossings) == 2:
    return [crossings[0] + crossings[1]]
  if len(crossings) < 4:
    return []
  # A saddle: corner 0 is cut off unless the middle is on its side.
  first, second, third, fourth = crossings
  if above[0] == (corners.mean() >= level):
    return [first + second, third + fourth]
  return [fourth + first, second + third]
