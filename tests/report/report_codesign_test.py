"""The co-design part of the page: what it shows is what it was given."""

import csv
import dataclasses
import html
import html.parser
import io
import itertools
import math
import re
import urllib.parse
import xml.etree.ElementTree as ET

import codesign_demo as demo
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from diffmem import report
from diffmem.report import codesign_data as cd
from diffmem.report import (
  contours,
  figure,
  front_figures,
  grid_frame,
  heat_map,
  page,
  plane_figures,
  point_labels,
  scales,
  search_figures,
  svg,
  worth_figures,
)

_EVIL = '<script>alert("1")</script>&\''
_PARTS = {
  'mix': 'mix-section', 'accounts': 'accounts', 'tornados': 'worth',
  'what_ifs': 'what-if', 'fronts': 'fronts', 'maps': 'maps',
  'search': 'search-section', 'supply': 'supply', 'kv': 'kv',
  'retrieval': 'retrieval', 'measurements': 'measure',
}  # fmt: skip


class _Reader(html.parser.HTMLParser):
  """Ids, sections, links and texts outside of scripts."""

  def __init__(self):
    super().__init__()
    self.ids, self.sections, self.links, self.texts = [], [], [], []
    self.scripts, self.quiet = 0, False

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.quiet = tag in ('script', 'style')
    self.scripts += tag == 'script'
    self.ids += [attrs['id']] if 'id' in attrs else []
    self.sections += [attrs['id']] if tag == 'section' else []
    self.links += [attrs[k] for k in ('href', 'src') if k in attrs]

  def handle_data(self, data):
    if not self.quiet:
      self.texts.append(data)


def _read(text):
  reader = _Reader()
  reader.feed(text)
  reader.close()
  return reader


@pytest.fixture(scope='module')
def whole():
  return report.render_report(demo.report_data())


def _saved(text, name):
  link = re.search(rf'href="(data:[^"]*)" download="{name}.csv"', text)[1]
  body = html.unescape(link).partition(',')[2]
  return list(csv.reader(io.StringIO(urllib.parse.unquote(body))))


def _figures(data):
  return [
    block
    for section in report.codesign_sections(data)
    for block in section.blocks
    if isinstance(block, page.Figure)
  ]


def test_sections_are_there_in_order_with_unique_ids(whole):
  reader = _read(whole)
  assert reader.sections == list(_PARTS.values())
  assert len(set(reader.ids)) == len(reader.ids)


def test_the_page_fetches_nothing_and_says_no_nan(whole):
  reader = _read(whole)
  assert reader.scripts == 1  # the page's own, for tooltips and sorting
  assert all(li.startswith(('#', 'data:text/csv')) for li in reader.links)
  for text in reader.texts:
    assert not re.search(r'\b(nan|inf|None)\b', text)


def test_every_drawing_is_xml_and_finite(whole):
  drawings = re.findall(r'<svg .*?</svg>', whole, re.S)
  assert len(drawings) == 2 * len(_figures(demo.codesign_data()))
  for text in drawings:
    for element in ET.fromstring(text).iter():
      for name in ('d', 'x', 'y', 'width', 'height', 'transform', 'viewBox'):
        assert not re.search('nan|inf', element.get(name, ''), re.I)


def test_every_figure_can_be_downloaded(whole):
  for shown in _figures(demo.codesign_data()):
    head, *rows = _saved(whole, shown.id)
    assert len(rows) == len(shown.data.rows) > 0
    assert len(head) == len(set(head)) == len(rows[0])


@pytest.mark.parametrize('part', _PARTS)
def test_each_part_stands_alone(part):
  data = cd.CodesignData(**{part: getattr(demo.codesign_data(), part)})
  found = report.codesign_sections(data)
  assert [section.id for section in found] == [_PARTS[part]]


def test_nothing_is_invented():
  assert report.codesign_sections(None) == []
  assert report.codesign_sections(cd.CodesignData()) == []
  empty = cd.CodesignData(
    accounts=[cd.Account('Cost', 'USD', 'token', [], 0.0)],
    tornados=[cd.Tornado('cost', [])],
    fronts=[cd.Front(cd.Metric('a', '1'), cd.Metric('b', '1'), [])],
    kv=cd.KvCapacity(), search=cd.Search('cost', 'USD', []),
    supply=cd.Supply([], []),
  )  # fmt: skip
  assert report.codesign_sections(empty) == []


def test_texts_are_escaped():
  data = cd.CodesignData(
    mix=[cd.MixRow(_EVIL, mesh=_EVIL, placement=_EVIL)],
    accounts=[cd.Account(_EVIL, 'USD', _EVIL,
                         [cd.AccountPart(_EVIL, 1.0, _EVIL)], 1.0)],
    tornados=[cd.Tornado(_EVIL, [
      cd.Elasticity(_EVIL, -1.0, worth=1.0, worth_unit='USD', note=_EVIL)
    ])],
    what_ifs=[cd.WhatIf(_EVIL, cd.Change(1.0), plan=_EVIL, note=_EVIL)],
    fronts=[cd.Front(cd.Metric(_EVIL, '1'), cd.Metric(_EVIL, '1'),
                     [cd.Design(_EVIL, 1.0, 1.0, note=_EVIL)])],
    maps=[cd.Sensitivity(_EVIL, '1', _EVIL, '1', [1, 2], _EVIL, '1', [1, 2],
                         [[1, 2], [3, 4]])],
    supply=cd.Supply([_EVIL], [cd.PartSupply(_EVIL, [1], [1], _EVIL)],
                     [cd.Move(_EVIL, _EVIL, _EVIL, _EVIL)], _EVIL),
    measurements=[cd.Measurement(_EVIL, 1.0, tells=_EVIL, command=_EVIL)],
  )  # fmt: skip
  text = report.render_report(report.ReportData(codesign=data))
  assert _EVIL not in text
  assert _read(text).scripts == 1
  for drawing in re.findall(r'<svg .*?</svg>', text, re.S):
    ET.fromstring(drawing)


def test_a_waterfall_adds_up_to_its_total(whole):
  for i, account in enumerate(demo.accounts(), 1):
    rows = _saved(whole, f'account-{i}')[1:]
    parts, total = rows[:-1], rows[-1]
    begin = 0.0
    for row, part in zip(parts, account.parts, strict=True):
      assert float(row[2]) == part.value
      assert float(row[3]) == begin
      begin = float(row[4])
    assert math.isclose(begin, float(total[2]), rel_tol=1e-12)
    assert float(total[2]) == account.total


def test_bars_of_a_waterfall_begin_where_the_last_one_ended():
  chart = _figures(cd.CodesignData(accounts=demo.accounts()))[1]
  for one, other in itertools.pairwise(chart.rows[:-1]):
    assert other.start == one.value
  drawn = page.draw(chart, 508, 'x')
  bars = [
    (float(r.get('x')), float(r.get('width')))
    for r in ET.fromstring(drawn).iter('{http://www.w3.org/2000/svg}rect')
    if 'rx' in r.attrib and float(r.get('height')) == 13
  ]  # fmt: skip
  negative = [part.value < 0 for part in demo.accounts()[1].parts]
  at = bars[0][0]
  for (left, wide), less in zip(bars[:-1], negative, strict=True):
    assert math.isclose(left + wide if less else left, at, abs_tol=0.02)
    at = left if less else left + wide
  total = bars[-1]
  assert math.isclose(total[0] + total[1], at, abs_tol=0.02)


def test_an_account_that_does_not_balance_is_refused():
  parts = [cd.AccountPart('a', 1.0), cd.AccountPart('b', 2.0)]
  cd.Account('Cost', 'USD', 'token', parts, 3.0 * (1 + 0.9e-9))
  for total in (3.0 * (1 + 2e-9), math.nan):
    with pytest.raises(ValueError, match='add up to 3.0 USD'):
      cd.Account('Cost', 'USD', 'token', parts, total)


def test_a_tornado_is_sorted_and_its_csv_is_whole(whole):
  rows = demo.tornados()[0].rows
  head, *saved = _saved(whole, 'tornado-1')
  assert {r[0]: float(r[1]) for r in saved} == {
    e.parameter: e.value for e in rows
  }
  sizes = [abs(float(r[1])) for r in saved]
  assert sizes == sorted(sizes, reverse=True)
  at = {name: i for i, name in enumerate(head)}
  hbm = next(r for r in saved if r[0] == 'HBM.read_Bps')
  assert hbm[at['kind']] == 'rate'
  assert float(hbm[at['worth']]) == 4210.0


def test_the_lead_of_a_tornado_adds_rates_only():
  rows = [
    cd.Elasticity('HBM.read_Bps', -0.75),
    cd.Elasticity('m.rate_FLOPps', -0.25),
    cd.Elasticity('HBM.latency_s', 0.5),
  ]
  said = worth_figures.tornado_lead(cd.Tornado('cost per token', rows))
  assert 'All rates together: \N{MINUS SIGN}1.000.' in said
  assert 'HBM.read_Bps lowers the cost per token by 0.75 %' in said


@pytest.mark.parametrize('suffix, kind', [
  ('read_Bps', 'rate'), ('rate_FLOPps', 'rate'), ('capacity_B', 'size'),
  ('latency_s', 'latency'), ('device_J_per_B', 'energy'),
  ('energy_J_per_FLOP', 'energy'), ('static_W', 'energy'),
  ('queue_p', 'other'),
])  # fmt: skip
def test_kinds_of_parameters(suffix, kind):
  assert cd.kind_of(f'HBM.{suffix}').value == kind


def test_what_ifs_say_better_worse_and_open():
  found = [
    cd.WhatIf('a', usd_per_token=cd.Change(-5.0, -8.0, -2.0)),
    cd.WhatIf('b', usd_per_token=cd.Change(5.0, 2.0, 8.0)),
    cd.WhatIf('c', usd_per_token=cd.Change(1.0, -1.0, 2.0)),
    cd.WhatIf('d'),
  ]
  (chart,) = worth_figures.what_if_charts(found)
  assert [key.label for key in chart.keys] == [
    'better', 'worse', 'open, or no change'
  ]  # fmt: skip
  assert [row.style for row in chart.rows] == [k.style for k in chart.keys]
  assert [row.label for row in chart.rows] == ['a', 'b', 'c']


def _front(points, more=False):
  x, y = cd.Metric('x', '1', more), cd.Metric('y', '1')
  designs = [cd.Design(str(i), *p) for i, p in enumerate(points)]
  return cd.Front(x, y, designs)


@hypothesis.given(
  st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1,
           max_size=12), st.booleans(),
)  # fmt: skip
def test_a_front_holds_what_nothing_dominates(points, more):
  kept = front_figures.front_of(_front(points, more))
  sign = -1 if more else 1

  def dominated(p):
    return any(
      sign * q[0] <= sign * p[0] and q[1] <= p[1] and q != p for q in points
    )

  assert {points[i] for i in kept} == {p for p in points if not dominated(p)}
  assert len({points[i] for i in kept}) == len(kept)


def test_the_knee_is_the_farthest_from_the_chord():
  assert front_figures.knee_of(_front([(0, 10), (1, 2), (4, 1), (9, 0)])) == 1
  assert front_figures.knee_of(_front([(0, 1), (1, 0)])) is None
  assert front_figures.knee_of(_front([(0, 2), (1, 1), (2, 0)])) is None


def test_maps_keep_their_numbers_and_gaps(whole):
  part = demo.maps()[0]
  rows = _saved(whole, 'map-1')[1:]
  values = [float(r[2]) if r[2] else math.nan for r in rows]
  np.testing.assert_array_equal(
    np.reshape(values, part.values.shape), part.values
  )
  assert np.isnan(values).sum() == 2
  assert plane_figures.best_of(part) == (6e12, 96e9)
  assert 'nothing fits' in whole


def test_shades_never_get_lighter_with_the_value():
  values = np.geomspace(1e-3, 4e2, 200)
  steps = heat_map.levels(values)
  shades = [heat_map.shade(v, steps) for v in values]
  assert shades == sorted(shades)
  assert shades[0] == 0 and shades[-1] == heat_map.SHADES - 1
  assert heat_map.levels(np.full((2, 2), 3.0)).size == 0


def test_contours_of_a_cone_are_circles():
  x = np.linspace(-1, 1, 41)
  values = np.hypot(*np.meshgrid(x, x))
  found = np.array(contours.segments(x, x, values, 0.6))
  ends = found.reshape(-1, 2)
  np.testing.assert_allclose(np.hypot(*ends.T), 0.6, atol=1e-3)
  length = np.hypot(*(found[:, :2] - found[:, 2:]).T).sum()
  assert math.isclose(length, 2 * math.pi * 0.6, rel_tol=2e-3)


def test_contours_split_saddles_and_skip_gaps():
  saddle = np.array([[1.0, 0.0], [0.0, 1.0]])
  at = np.array([0.0, 1.0])
  for level in (0.4, 0.6):
    found = contours.segments(at, at, saddle, level)
    assert len(found) == 2
    # At 0.6 the middle (0.5) is below: both high corners stand alone.
    corner = min(math.hypot(*s[:2]) + math.hypot(*s[2:]) for s in found)
    assert (corner < 1) == (level == 0.6)
  saddle[0, 0] = math.nan
  assert contours.segments(at, at, saddle, 0.5) == []


def test_cells_meet_half_way():
  np.testing.assert_allclose(
    grid_frame.edges([1.0, 2.0, 4.0], scales.Kind.LINEAR), [0.5, 1.5, 3, 5]
  )
  np.testing.assert_allclose(
    grid_frame.edges([1.0, 4.0, 16.0], scales.Kind.LOG10), [0.5, 2, 8, 32]
  )


@hypothesis.given(st.lists(
  st.tuples(st.floats(0, 400), st.floats(0, 300)), min_size=1, max_size=15
))  # fmt: skip
def test_names_cover_neither_each_other_nor_points(points):
  edges = point_labels.Box(0, 0, 400, 300)
  names = [f'design {i}' for i in range(len(points))]
  boxes = []
  for name, at in zip(names, point_labels.place(points, names, edges),
                      strict=True):  # fmt: skip
    if at:
      wide = svg.text_width(name)
      box = point_labels.Box(at.x, at.y - 9, at.x + wide, at.y + 2)
      assert box.within(edges)
      assert not any(map(box.hits, boxes))
      assert not any(
        box.hits(point_labels.Box(x - 1, y - 1, x + 1, y + 1))
        for x, y in points
      )
      boxes.append(box)


def test_supply_keeps_orders_and_needs(whole):
  part = demo.supply().parts[0]
  head, *rows = _saved(whole, 'supply-1')
  at = {name: i for i, name in enumerate(head)}
  assert [r[0] for r in rows] == demo.QUARTERS
  needed = [float(r[at['needed']]) for r in rows]
  np.testing.assert_allclose(needed, part.held + part.delivered + part.unmet)
  assert [r[at['lead_quarters']] for r in rows] == ['6', '6'] + [''] * 6
  assert float(rows[0][at['ordered']]) == 1400
  assert 'Missing at the worst: 700 stacks of HBM4 36 GB in 2028 Q1' in whole


def test_supply_says_what_is_not_served():
  supply = demo.supply()
  bare = dataclasses.replace(supply, parts=[
    dataclasses.replace(p, unmet=None) for p in supply.parts
  ])  # fmt: skip
  data = cd.CodesignData(supply=bare)
  (section,) = report.codesign_sections(data)
  asked = 3.1e6
  assert f'Not served at the worst: {100 * 2.5e5 / asked:.2g} % of' in (
    section.lead
  )
  assert 'It costs $12.7M more than full supply.' in section.lead
  drawn = {figure.id: figure for figure in _figures(data)}
  assert drawn['supply-1'].need is None
  for service in supply.services:
    np.testing.assert_allclose(
      service.asked, service.unmet + sum(service.places.values())
    )
  rows = drawn['service-2'].data.rows
  np.testing.assert_allclose(
    [row[1] + row[2] for row in rows], supply.services[1].asked
  )
  # A place has the same look in every figure.
  styles = {
    (layer.label, layer.style)
    for i in (1, 2, 3)
    for layer in drawn[f'service-{i}'].layers
  }
  assert len(styles) == 2


def test_supply_refuses_what_cannot_be():
  with pytest.raises(ValueError, match=r'PartSupply\.unmet of a is negative'):
    cd.PartSupply('a', [1.0], [1.0], unmet=[-1.0])
  with pytest.raises(ValueError, match=r'delivered of a has shape \(2,\)'):
    cd.PartSupply('a', [1.0], [1.0, 2.0])
  with pytest.raises(ValueError, match='a has 1 quarters, the fleet has 2'):
    cd.Supply(['q', 'r'], [cd.PartSupply('a', [1.0], [1.0])])
  with pytest.raises(ValueError, match=r'Service.places of w on HBM has shape'):
    cd.Service('w', {'HBM': [1.0]}, [0.0, 0.0])
  with pytest.raises(ValueError, match=r'Sensitivity\.x has to ascend'):
    cd.Sensitivity('m', '1', 'x', '1', [2, 1], 'y', '1', [1], [[1, 2]])
  with pytest.raises(ValueError, match=r'Regions\.choice has shape'):
    cd.Regions('r', 'x', '1', [1, 2], 'y', '1', [1, 2], ['a'], [[0, 0]])


def test_the_search_counts_evaluations(whole):
  search = cd.Search('cost', 'USD', [
    cd.Series('fast', [1, 10, 20], [2.0, 1.005, 1.0]),
    cd.Series('slow', [1, 10, 20], [2.0, 1.5, 1.2]),
  ], 1.0)  # fmt: skip
  needed = [search_figures.evaluations_needed(search, m)
            for m in search.methods]  # fmt: skip
  assert needed == [10, None]
  assert 'fast is within 1 % of the best design known after 10' in (
    report.codesign_sections(cd.CodesignData(search=search))[0].lead
  )
  rows = _saved(whole, 'search')[1:]
  assert all(float(r[2]) >= 0.01 for r in rows)
  (table,) = demo.search().tables
  assert _saved(whole, 'design-1') == [
    list(r) for r in (table.head, *table.rows)
  ]


def test_hit_rates_are_shown_in_percent(whole):
  rows = _saved(whole, 'kv-hit-rate')[1:]
  first = demo.kv().hit_rates[0]
  np.testing.assert_allclose(
    [float(r[2]) for r in rows if r[0] == first.label], 100 * first.y
  )
  assert 'the next GB pays in HBM, host DRAM, CXL.' in whole


def test_money_reads_like_money():
  assert scales.labels([0, 0.5, 1], 'USD', scales.Kind.LINEAR) == (
    ['$0', '$0.50', '$1.00'], ''
  )  # fmt: skip
  assert scales.labels([10, 20], 'USD per GB', scales.Kind.LINEAR) == (
    ['$10', '$20'], 'per GB'
  )  # fmt: skip
  assert scales.label(-1234567, 'USD', scales.Kind.LINEAR) == (
    '\N{MINUS SIGN}$1.235M'
  )


def test_a_flat_or_single_cell_map_can_be_drawn():
  part = cd.Sensitivity('m', 'USD', 'x', 'B', [8e9], 'y', '1', [3.0], [[2.0]])
  shown = plane_figures.sensitivity_map(part, 1, figure.Size.HALF)
  for width in (figure.Size.HALF, figure.PHONE):
    ET.fromstring(page.draw(shown, width, 'x'))
  bare = dataclasses.replace(part, values=[[math.nan]])
  shown = plane_figures.sensitivity_map(bare, 1, figure.Size.HALF)
  assert 'nothing fits' in page.draw(shown, figure.Size.HALF, 'x')


def test_a_band_breaks_where_a_bound_is_missing():
  x = np.arange(6.0)
  lo, hi = np.zeros(6), np.array([1.0, 1.0, math.nan, 1.0, 1.0, 1.0])
  drawn = ET.fromstring(svg.area(x, lo, hi, 0))
  assert drawn.get('d').count('M') == 2
  assert not svg.area(x[1:4], lo[1:4], hi[1:4], 0)


def _luminance(colour):
  """Relative luminance (WCAG 2.2)."""
  parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  linear = np.where(
    parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4
  )
  return float(linear @ [0.2126, 0.7152, 0.0722])


def _contrast(one, other):
  low, high = sorted((_luminance(one), _luminance(other)))
  return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize('mode', [0, 1], ids=['light', 'dark'])
def test_shades_read_without_colour_and_letters_stand_out(mode):
  css = page._asset('page.css')
  root = re.findall(r':root \{(.*?)\}', css, re.S)[mode]
  colours = dict(re.findall(r'--([\w-]+): (#\w{6})', root))
  shades = [colours[f'h{i}'] for i in range(heat_map.SHADES)]
  lights = [_luminance(c) for c in shades]
  assert lights == sorted(lights, reverse=mode == 0)
  for i, shade in enumerate(shades):
    letters = 'over-dark' if i >= heat_map._DARK else 'over-light'
    assert _contrast(shade, colours[letters]) >= 4.5
  for i in range(svg.STYLES):
    assert _contrast(colours[f'c{i}'], colours['paper']) >= 3


def test_measurements_in_order_show_what_each_adds():
  found = [
    cd.Measurement('a', 9.0, after=9.0), cd.Measurement('b', 9.0, after=1.0),
    cd.Measurement('c', 5.0, after=4.0),
  ]  # fmt: skip
  chart = search_figures.measurement_chart(found)
  assert [row.label for row in chart.rows] == ['a', 'b', 'c']
  assert [row.value for row in chart.rows] == [9.0, 1.0, 4.0]
  (section,) = report.codesign_sections(cd.CodesignData(measurements=found))
  assert 'one after the other: by 14 %' in section.lead
  alone = [dataclasses.replace(m, after=None) for m in found[::-1]]
  chart = search_figures.measurement_chart(alone)
  assert [row.value for row in chart.rows] == [9.0, 9.0, 5.0]


def test_a_break_even_below_nothing_is_no_price():
  what_if = cd.WhatIf('a', break_even_usd_per_GB=cd.Change(-0.4))
  table = worth_figures.what_if_table([what_if])
  assert 'at no price' in {cell.shown for cell in table.rows[0]}
