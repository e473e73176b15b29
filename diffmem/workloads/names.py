"""Help with names that do not exist."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str:
  """`; did you mean 'x'?` with the nearest of `names`, or ''."""
  near = difflib.get_close_matches(name, list(names), 1, 0.4)
  return f'; did you mean {near[0]!r}?' if near else ''
