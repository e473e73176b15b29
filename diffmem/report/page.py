"""The page: sections of figures and tables in one file without network."""

import dataclasses
import functools
import pathlib
import re
import urllib.parse
from collections.abc import Sequence

from diffmem.report import bars, heat_map, plot, region_map, table, timeline
from diffmem.report.figure import (
  PHONE,
  Data,
  Plot,
  RowChart,
  Size,
  StackChart,
)
from diffmem.report.heat_map import HeatMap
from diffmem.report.markup import Markup, escape, join, tag
from diffmem.report.region_map import RegionMap
from diffmem.report.table import Table
from diffmem.report.timeline import Timeline

_HERE = pathlib.Path(__file__).parent

Figure = Plot | RowChart | StackChart | HeatMap | RegionMap | Timeline

_DRAW = {
  Plot: plot.draw,
  RowChart: bars.draw_rows,
  StackChart: bars.draw_stacks,
  HeatMap: heat_map.draw,
  RegionMap: region_map.draw,
  Timeline: timeline.draw,
}


@dataclasses.dataclass(frozen=True)
class Banner:
  """A notice that must not be overlooked."""

  heading: str
  text: str


@dataclasses.dataclass(frozen=True)
class Section:
  """One part of the report.

  Attributes:
    id: anchor, unique on the page.
    heading: short.
    lead: one or two sentences: what this shows, and so what.
    blocks: figures, tables, banners and ready markup, in order; figures that
      follow each other share rows where they are narrow enough.
  """

  id: str
  heading: str
  lead: str
  blocks: Sequence[Figure | Table | Banner | Markup]


def render(title: str, header: Markup, sections: Sequence[Section]) -> str:
  """The whole page as text."""
  contents = tag(
    'nav',
    tag('ol', *(
      tag('li', tag('a', s.heading, href=f'#{s.id}')) for s in sections
    )),
    aria_label='Contents',
  )  # fmt: skip
  values = {
    'title': escape(title),
    'style': _asset('page.css'),
    'header': header,
    'contents': contents if len(sections) > 1 else '',
    'sections': join(*(_section(s) for s in sections)),
  }
  template = _asset('page.html')
  return re.sub(r'\{\{(\w+)\}\}', lambda m: values[m[1]], template)


@functools.cache
def _asset(name: str) -> str:
  return (_HERE / name).read_text(encoding='utf-8')


def _section(section: Section) -> Markup:
  body, row = [], []
  for block in section.blocks:
    if isinstance(block, Figure):
      row.append(block)
      continue
    body += [_figures(row), _block(block)]
    row = []
  body.append(_figures(row))
  return tag(
    'section', tag('h2', section.heading),
    tag('p', section.lead, class_='lead'), *body,
    id=section.id,
  )  # fmt: skip


def _figures(figures: Sequence[Figure]) -> Markup | None:
  if not figures:
    return None
  return tag('div', *(_figure(f) for f in figures), class_='figures')


def _figure(figure: Figure) -> Markup:
  """Two drawings, one for a wide page and one for a phone."""
  caption = tag(
    'figcaption', tag('h3', figure.title), download(figure.id, figure.data)
  )
  wide = draw(figure, figure.size, f'{figure.id}-w')
  phone = draw(figure, PHONE, f'{figure.id}-p')
  return tag(
    'figure', caption, tag('div', wide, class_='wide'),
    tag('div', phone, class_='phone'), id=figure.id,
    class_=Size(figure.size).name.lower(),
  )  # fmt: skip


def draw(figure: Figure, width: float, name: str) -> Markup:
  """Draws any figure at a width; `name` prefixes its ids."""
  return _DRAW[type(figure)](figure, width, name)


def _block(block: Table | Banner | Markup) -> Markup:
  if isinstance(block, Banner):
    return tag(
      'div', tag('strong', block.heading), ' ', block.text,
      class_='banner', role='note',
    )  # fmt: skip
  if isinstance(block, Markup):
    return block
  link = download(block.id, block.data) if block.data else None
  drawn = table.draw(block)
  if block.folded:
    summary = tag('summary', block.caption)
    return tag('details', summary, link, drawn, class_='table')
  head = tag('div', tag('h3', block.caption), link, class_='caption')
  return tag('div', head, drawn, class_='table')


def download(name: str, data: Data) -> Markup:
  """A link that saves the numbers as CSV: a data URL, so it works offline."""
  text = urllib.parse.quote(data.to_csv(), safe=',.')
  return tag(
    'a', 'CSV', href=f'data:text/csv;charset=utf-8,{text}',
    download=f'{name}.csv', class_='csv', title=f'Download {name}.csv',
  )  # fmt: skip
