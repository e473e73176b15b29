"""Figures and tables of parts over quarters."""

from collections.abc import Mapping

import numpy as np

from diffmem.report import scales
from diffmem.report.figure import Data, Size
from diffmem.report.scales import Kind
from diffmem.report.supply_data import PartSupply, Service, Supply
from diffmem.report.table import (
  Cell,
  Column,
  Table,
  percent,
  quantity,
  words,
)
from diffmem.report.timeline import Arrow, Layer, Strand, Timeline

# Workloads that the lead names.
_MOST_NAMED = 3


def part_timeline(
  supply: Supply, part: PartSupply, i: int, size: Size
) -> Timeline:
  """Deliveries on top of what is held, what is unmet, orders and prices.

  Args:
    supply: for the names of the quarters.
    part: to show.
    i: number of the figure, for its id.
    size: width on a wide page.
  """
  strands = []
  if part.price is not None:
    one = part.unit.removesuffix('s')
    strands.append(Strand(f'Price of one {one}', 'USD', part.price))
  if part.worth is not None and np.nanmax(part.worth, initial=0.0) > 0:
    strands.append(Strand('One more would save', 'USD', part.worth))
  need, label = part.busy, 'at work'
  if part.unmet is not None:
    need, label = part.need, 'needed'
  return Timeline(
    f'supply-{i}', part.name,
    f'{part.name}: {part.unit} in service, delivered and missing in every '
    'quarter; arrows lead from order to delivery.',
    supply.quarters, 'In service', part.unit,
    [Layer('in service before', part.held, 0),
     Layer('delivered', part.delivered, 1)],
    _data(supply, part), need, part.unmet,
    [Arrow(o.ordered, o.delivered, scales.compact(o.amount, 3))
     for o in part.orders if o.delivered > o.ordered],
    strands, size, label,
  )  # fmt: skip


def _data(supply: Supply, part: PartSupply) -> Data:
  """One row per quarter; orders that are placed in it, by lead time."""
  columns = ['quarter', 'held', 'delivered', 'unmet', 'needed', 'busy',
             'price_USD', 'worth_USD', 'ordered', 'lead_quarters']  # fmt: skip
  rows = []
  for q, name in enumerate(supply.quarters):
    placed = [o for o in part.orders if o.ordered == q]
    rows.append((
      name, part.held[q], part.delivered[q],
      None if part.unmet is None else part.unmet[q],
      None if part.unmet is None else part.need[q],
      None if part.busy is None else part.busy[q],
      None if part.price is None else part.price[q],
      None if part.worth is None else part.worth[q],
      sum(o.amount for o in placed),
      ' '.join(str(o.delivered - o.ordered) for o in placed),
    ))  # fmt: skip
  return Data(columns, rows)


def moves_table(supply: Supply) -> Table | None:
  """Which workload a shortage sends where, and what that costs."""
  if not supply.moves:
    return None
  rows = [
    [
      words(m.workload), words(m.quarter), words(m.from_part),
      words(m.to_part or 'not served'),
      percent(None if m.share is None else 100 * m.share),
      quantity(m.usd, 'USD'),
    ]
    for m in supply.moves
  ]  # fmt: skip
  columns = [
    Column('Workload'), Column('Quarter'), Column('From'), Column('To'),
    Column('Share', True), Column('Cost', True),
  ]  # fmt: skip
  data = Data(
    ['workload', 'quarter', 'from', 'to', 'share', 'cost_USD'],
    [(m.workload, m.quarter, m.from_part, m.to_part, m.share, m.usd)
     for m in supply.moves],
  )  # fmt: skip
  return Table('moves', 'What shortages move', columns, rows, data, cards=True)


def supply_lead(supply: Supply) -> str:
  """What is missing most, when, and what the scenario costs."""
  said = [f'Scenario: {supply.scenario}.'] if supply.scenario else []
  short = [p for p in supply.parts if p.unmet is not None and p.unmet.any()]
  if short:
    missing = ', '.join(_worst(supply, part) for part in short)
    said.append(f'Missing at the worst: {missing}.')
  dropped = [s for s in supply.services if s.unmet.any()]
  if dropped:
    unserved = ', '.join(_unserved(supply, s) for s in dropped[:_MOST_NAMED])
    more = len(dropped) - _MOST_NAMED
    said.append(f'Not served at the worst: {unserved}'
                + (f' and of {more} more.' if more > 0 else '.'))  # fmt: skip
  elif supply.services:
    said.append('All that is asked for is served.')
  if supply.extra_usd is not None:
    usd = scales.label(abs(supply.extra_usd), 'USD', Kind.LINEAR, 3)
    ways = 'more' if supply.extra_usd >= 0 else 'less'
    said.append(f'It costs {usd} {ways} than {supply.base or "the base plan"}.')
  return ' '.join(said) or 'Parts and their orders, quarter by quarter.'


def _worst(supply: Supply, part: PartSupply) -> str:
  q = int(np.argmax(part.unmet))
  return (
    f'{scales.compact(part.unmet[q], 3)} {part.unit} of {part.name} in '
    f'{supply.quarters[q]}'
  )


def _unserved(supply: Supply, service: Service) -> str:
  asked = np.maximum(service.asked, np.finfo(float).tiny)
  share = service.unmet / asked
  q = int(np.argmax(share))
  said = scales.percent_of(float(share[q]))
  return f'{said} of {service.workload} in {supply.quarters[q]}'


def service_timeline(
  supply: Supply, service: Service, styles: Mapping[str, int], i: int
) -> Timeline:
  """What a workload is served by, place upon place, and what is not served.

  Args:
    supply: for the names of the quarters.
    service: of the workload.
    styles: place -> style, the same in all figures.
    i: number of the figure, for its id.
  """
  layers = [
    Layer(place, values, styles[place])
    for place, values in service.places.items()
    if values.any()
  ]
  places = list(service.places)
  rows = [
    (name, *(service.places[p][q] for p in places), service.unmet[q])
    for q, name in enumerate(supply.quarters)
  ]
  return Timeline(
    f'service-{i}', f'{service.workload}: where it runs',
    f'Tokens per second of {service.workload} by where it runs; hatched: not '
    'served.',
    supply.quarters, 'Served', 'tokens/s', layers,
    Data(['quarter', *places, 'unmet'], rows), None, service.unmet,
    size=Size.THIRD,
  )  # fmt: skip


def service_timelines(supply: Supply) -> list[Timeline]:
  """All workloads, with one style for each place."""
  places = dict.fromkeys(p for s in supply.services for p in s.places)
  styles = {place: k for k, place in enumerate(places)}
  return [
    service_timeline(supply, service, styles, i)
    for i, service in enumerate(supply.services, 1)
    if service.asked.any()
  ]


def value_table(supply: Supply) -> Table | None:
  """What one more part would save in each quarter."""
  parts = [p for p in supply.parts if p.worth is not None]
  if not parts:
    return None
  columns = [Column('Part'), *(Column(q, True) for q in supply.quarters)]
  rows = [
    [words(p.name), *(Cell(scales.money(v, 3), v) for v in p.worth)]
    for p in parts
  ]
  data = Data(
    ['part', *(f'{q}_USD' for q in supply.quarters)],
    [(p.name, *p.worth) for p in parts],
  )
  return Table(
    'part-values', 'What one more part would save', columns, rows, data,
    folded=True,
  )  # fmt: skip
