"""Sections of the co-design: what memory to build, buy and place."""

from collections.abc import Sequence

from diffmem.report import (
  account_figures,
  front_figures,
  plane_figures,
  scales,
  search_figures,
  supply_figures,
  tier_figures,
  worth_figures,
)
from diffmem.report.codesign_data import (
  Account,
  CodesignData,
  Measurement,
  MixRow,
  Search,
  Tornado,
  WhatIf,
)
from diffmem.report.figure import Size
from diffmem.report.page import Section
from diffmem.report.plane_data import (
  Front,
  KvCapacity,
  Retrieval,
  Sensitivity,
)
from diffmem.report.scales import Kind
from diffmem.report.supply_data import Supply


def codesign_sections(data: CodesignData | None) -> list[Section]:
  """The sections of all parts that are there, in reading order.

  Args:
    data: parts that are None or empty have no section.
  """
  if data is None:
    return []
  found = [
    _mix(data.mix),
    _accounts(data.accounts),
    _worth(data.tornados),
    _what_ifs(data.what_ifs),
    _fronts(data.fronts),
    _maps(data.maps),
    _search(data.search),
    _supply(data.supply),
    _kv(data.kv),
    _retrieval(data.retrieval),
    _measurements(data.measurements),
  ]
  return [section for section in found if section is not None]


def _mix(rows: Sequence[MixRow]) -> Section | None:
  if not rows:
    return None
  said = 'Each workload runs at the plan that is best for it alone.'
  busy = [r.accelerators for r in rows if r.accelerators is not None]
  if len(busy) == len(rows):
    total = scales.compact(sum(busy), 3)
    said = f'Together they keep {total} accelerators busy. {said}'
  return Section(
    'mix-section', 'The mix of workloads', said,
    [account_figures.mix_table(rows)],
  )  # fmt: skip


def _accounts(accounts: Sequence[Account]) -> Section | None:
  accounts = [a for a in accounts if a.parts]
  if not accounts:
    return None
  odd = len(accounts) % 2 == 1
  figures = [
    account_figures.waterfall(a, i, Size.FULL if odd and i == 1 else Size.HALF)
    for i, a in enumerate(accounts, 1)
  ]
  return Section(
    'accounts', 'What a token costs', account_figures.account_lead(accounts),
    figures,
  )  # fmt: skip


def _worth(tornados: Sequence[Tornado]) -> Section | None:
  blocks = []
  tornados = [t for t in tornados if t.rows]
  for i, part in enumerate(tornados, 1):
    blocks += [
      worth_figures.tornado(part, i), worth_figures.worth_table(part, i)
    ]  # fmt: skip
  blocks = [b for b in blocks if b is not None]
  if not blocks:
    return None
  return Section(
    'worth', 'What each parameter is worth',
    worth_figures.tornado_lead(tornados[0]), blocks,
  )  # fmt: skip


def _what_ifs(found: Sequence[WhatIf]) -> Section | None:
  if not found:
    return None
  lead = (
    'Named changes of the hardware, each with its own optimal plan. Whiskers '
    'are 90 % intervals over the ensemble of the fit.'
  )
  return Section(
    'what-if', 'What if', lead,
    [*worth_figures.what_if_charts(found), worth_figures.what_if_table(found)],
  )  # fmt: skip


def _fronts(fronts: Sequence[Front]) -> Section | None:
  fronts = [f for f in fronts if f.designs]
  if not fronts:
    return None
  size = Size.HALF if len(fronts) > 1 else Size.FULL
  said = []
  for front in fronts:
    knee = front_figures.knee_of(front)
    if knee is not None:
      said.append(
        f'{front.designs[knee].name} is the knee of {front.y.label.lower()} '
        f'against {front.x.label.lower()}: beyond it, one metric gives little '
        'for much of the other.'
      )
  lead = ' '.join(said) or (
    'Designs that no other one beats in both metrics are joined.'
  )
  return Section(
    'fronts', 'Trade-offs', lead,
    [front_figures.front_plot(f, i, size) for i, f in enumerate(fronts, 1)],
  )  # fmt: skip


def _maps(maps: Sequence[Sensitivity]) -> Section | None:
  if not maps:
    return None
  size = Size.HALF if len(maps) > 1 else Size.FULL
  said = []
  for part in maps:
    best = plane_figures.best_of(part)
    if best is None:
      continue
    x, y = (
      scales.label(v, unit, Kind.LINEAR)
      for v, unit in zip(best, (part.x_unit, part.y_unit), strict=True)
    )
    said.append(
      f'{part.metric} is best at {part.x_label} {x}, {part.y_label} {y}.'
    )
  return Section(
    'maps', 'Sensitivity maps', ' '.join(said) or 'Nothing fits anywhere.',
    [plane_figures.sensitivity_map(m, i, size) for i, m in enumerate(maps, 1)],
  )  # fmt: skip


def _search(search: Search | None) -> Section | None:
  if search is None or not search.methods:
    return None
  lead = '' if search.help else f'The best {search.objective.lower()} so far.'
  if search.best_known is not None:
    lead = _how_soon(search)
  blocks = [
    *search_figures.text_tables(search),
    search_figures.search_plot(search),
  ]
  if search.best_known is not None or len(search.methods) > 1:
    blocks.append(search_figures.search_table(search))
  said = f'{_sentence(search.help)} {lead}'.strip()
  return Section('search-section', 'Design search', said, blocks)


def _how_soon(search: Search) -> str:
  """Which method came close first."""
  needed = {
    s.label: search_figures.evaluations_needed(search, s)
    for s in search.methods
  }
  found = {k: v for k, v in needed.items() if v is not None}
  close = f'within {100 * search.within:g} % of the best design known'
  if not found:
    return f'No method came {close}.'
  first = min(found, key=found.get)
  return f'{first} is {close} after {found[first]:.0f} evaluations.'


def _sentence(text: str) -> str:
  """With a capital and a full stop."""
  if not text:
    return ''
  return text[:1].upper() + text[1:] + ('' if text.endswith('.') else '.')


def _supply(supply: Supply | None) -> Section | None:
  if supply is None or not supply.parts or not supply.quarters:
    return None
  size = Size.HALF if len(supply.parts) > 1 else Size.FULL
  blocks = [
    supply_figures.part_timeline(supply, part, i, size)
    for i, part in enumerate(supply.parts, 1)
  ]
  blocks += supply_figures.service_timelines(supply)
  tables = [
    supply_figures.moves_table(supply), supply_figures.value_table(supply)
  ]  # fmt: skip
  return Section(
    'supply', 'Supply', supply_figures.supply_lead(supply),
    [*blocks, *(t for t in tables if t is not None)],
  )  # fmt: skip


def _kv(kv: KvCapacity | None) -> Section | None:
  figures = tier_figures.kv_figures(kv) if kv else []
  if not figures:
    return None
  return Section('kv', 'KV capacity', tier_figures.kv_lead(kv), figures)


def _retrieval(found: Sequence[Retrieval]) -> Section | None:
  found = [r for r in found if r.curves or r.rows]
  if not found:
    return None
  lead = (
    'How much of a vector index stays in which tier, and what a query then '
    'costs; measured points are public results.'
  )
  said = ' '.join(dict.fromkeys(r.lead for r in found if r.lead))
  tables = [
    tier_figures.retrieval_table(part, i) for i, part in enumerate(found, 1)
  ]
  return Section(
    'retrieval', 'Retrieval', _sentence(said) or lead,
    [*tier_figures.retrieval_figures(found), *(t for t in tables if t)],
  )  # fmt: skip


def _measurements(found: Sequence[Measurement]) -> Section | None:
  if not found:
    return None
  best = max(found, key=lambda m: m.reduction)
  lead = (
    f'{best.name} would narrow this decision most: by '
    f'{best.reduction:.2g} % on expectation.'
  )
  together = sum(m.after for m in found if m.after is not None)
  if together:
    lead += f' All of them, one after the other: by {together:.2g} %.'
  blocks = [
    search_figures.measurement_chart(found),
    search_figures.measurement_table(found),
  ]
  return Section(
    'measure', 'What to measure next', lead,
    [b for b in blocks if b is not None],
  )  # fmt: skip
