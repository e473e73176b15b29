"""Tables of a document that a program rewrites."""

import pathlib
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table in Markdown."""
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def replace(path: pathlib.Path, parts: dict[str, str]) -> None:
  """Puts each part between its marks, `<!-- name -->` and `<!-- end -->`.

  Raises:
    ValueError: the document lacks a mark.
  """
  text = path.read_text(encoding='utf-8')
  for name, part in parts.items():
    mark, end = f'<!-- {name} -->', '<!-- end -->'
    before, found, after = text.partition(mark)
    _, closed, rest = after.partition(end)
    if not (found and closed):
      raise ValueError(f'{path}: no {mark} ... {end}')
    text = f'{before}{mark}\n\n{part}\n\n{end}{rest}'
  path.write_text(text, encoding='utf-8')
