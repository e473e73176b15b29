"""Names beside points, without one over the other.

Every name tries places around its point, near ones first, and takes the first
where it covers no marker, no other name and no edge; a name without such a
place is left out (the tooltip and the download have it). Finding the largest
set of names is NP-hard (Marks and Shieber 1991); the greedy order, here the
caller's, is the usual answer.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from diffmem.report import svg

_LINE = 7.0  # half the height of a line of text, px
_REACH = (9.0, 20.0, 34.0)  # distances that are tried, px
_MARKER = 5.0  # half the room of a marker, px
_STEP = 6.0  # between the boxes along a line, px


class Box(NamedTuple):
  """A rectangle in pixels."""

  left: float
  top: float
  right: float
  bottom: float

  def hits(self, other: 'Box') -> bool:
    """Whether the two share more than an edge."""
    return (
      self.left < other.right
      and other.left < self.right
      and self.top < other.bottom
      and other.top < self.bottom
    )

  def within(self, other: 'Box') -> bool:
    """Whether this lies inside the other."""
    return (
      self.left >= other.left
      and self.right <= other.right
      and self.top >= other.top
      and self.bottom <= other.bottom
    )


class Placed(NamedTuple):
  """Where a name stands: its left end on the baseline.

  Attributes:
    x: left end, px.
    y: baseline, px.
    leader: end of the line that leads to its point; None where it is near.
  """

  x: float
  y: float
  leader: tuple[float, float] | None


def along(x: np.ndarray, y: np.ndarray) -> list[Box]:
  """Small boxes along a line, in pixels [n]; gaps in it are left free."""
  found = []
  for k in range(len(x) - 1):
    ends = np.array([[x[k], y[k]], [x[k + 1], y[k + 1]]], np.float64)
    if not np.isfinite(ends).all():
      continue
    count = int(np.hypot(*(ends[1] - ends[0])) / _STEP) + 2
    for px, py in np.linspace(ends[0], ends[1], count):
      found.append(Box(px - 1, py - 1, px + 1, py + 1))
  return found


def place(
  points: Sequence[tuple[float, float]],
  names: Sequence[str],
  edges: Box,
  *,
  taken: Sequence[Box] = (),
) -> list[Placed | None]:
  """Places for names; None for an empty one and where there is no room.

  Args:
    points: (x, y) in pixels.
    names: one per point; earlier ones choose first.
    edges: what names have to stay within.
    taken: what else they must not cover.
  """
  markers = [
    Box(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER) for x, y in points
  ]
  found: list[Box] = [*taken, *markers]
  result: list[Placed | None] = []
  for (x, y), name in zip(points, names, strict=True):
    best = next(
      (
        (placed, box)
        for placed, box in _candidates(x, y, svg.text_width(name))
        if name and box.within(edges) and not any(map(box.hits, found))
      ),
      None,
    )
    result.append(best[0] if best else None)
    if best:
      found.append(best[1])
  return result


def _candidates(
  x: float, y: float, wide: float
) -> Iterator[tuple[Placed, Box]]:
  """Right, left, above, below and between, then farther away."""
  for reach in _REACH:
    slant = 0.75 * reach
    for dx, dy in (
      (1, 0), (-1, 0), (0.7, -1), (0.7, 1), (-0.7, -1), (-0.7, 1), (0, -1),
      (0, 1),
    ):  # fmt: skip
      middle = y + dy * (slant + 3)
      start = x + dx * reach
      left = x - wide / 2 if dx == 0 else start if dx > 0 else start - wide
      box = Box(left - 2, middle - _LINE, left + wide + 2, middle + _LINE)
      near = reach == _REACH[0]
      end = None if near else (min(max(x, left), left + wide), middle)
      yield Placed(left, middle + 4, end), box
