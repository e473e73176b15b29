"""The page: well-formed, self-contained, honest about what is missing."""

import csv
import dataclasses
import html.parser
import io
import math
import pathlib
import re
import subprocess
import sys
import urllib.parse
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import report_demo as demo

from diffmem import report
from diffmem.report import figure, markup, page, svg

_VOID = {'meta', 'br', 'link', 'img', 'input', 'hr'}
_EVIL = '<script>alert("1")</script>&\''


class _Checker(html.parser.HTMLParser):
  """Balanced tags, unique ids, and what the page would fetch."""

  def __init__(self):
    super().__init__()
    self.open, self.ids, self.links, self.sections = [], [], [], []
    self.scripts = 0
    self.texts = []

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    if tag not in _VOID:
      self.open.append(tag)
    self.scripts += tag == 'script'
    if 'id' in attrs:
      self.ids.append(attrs['id'])
    if tag == 'section':
      self.sections.append(attrs['id'])
    self.links += [attrs[k] for k in ('href', 'src') if k in attrs]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)


def _check(text):
  checker = _Checker()
  checker.feed(text)
  checker.close()
  assert checker.open == []
  assert len(set(checker.ids)) == len(checker.ids)
  return checker


@pytest.fixture(scope='module')
def whole():
  return report.render_report(demo.report_data())


def _drawings(text):
  return re.findall(r'<svg .*?</svg>', text, re.S)


def test_page_is_well_formed_and_complete(whole):
  assert _check(whole).sections == [
    'memory-latency', 'memory-bandwidth', 'loaded', 'disk', 'roofline-section',
    'held-out-section', 'programs-section', 'plan', 'parameters-section',
    'provenance',
  ]  # fmt: skip


def test_page_fetches_nothing(whole):
  bare = whole.replace('xmlns="http://www.w3.org/2000/svg"', '')
  assert not re.search(r'https?://|@import|<link|<img|<iframe', bare)
  for link in _check(whole).links:
    assert link.startswith(('#', 'data:text/csv'))


def test_every_drawing_is_xml_with_a_name_and_finite(whole):
  drawings = _drawings(whole)
  assert len(drawings) == 2 * 13
  for text in drawings:
    root = ET.fromstring(text)
    space = '{http://www.w3.org/2000/svg}'
    ids = {e.get('id') for e in root.iter() if e.get('id')}
    assert set(root.get('aria-labelledby').split()) <= ids
    assert root.find(f'{space}title').text
    assert root.find(f'{space}desc').text
    for element in root.iter():
      for name in ('d', 'x', 'y', 'transform', 'width', 'viewBox'):
        assert not re.search('nan|inf', element.get(name, ''), re.I)


def test_every_text_is_escaped():
  data = demo.report_data()
  plan = dataclasses.replace(
    data.plan, system=_EVIL, workload=_EVIL, memory={_EVIL: {_EVIL: 1e9}},
    breakdown={_EVIL: 1.0},
    document={**data.plan.document, 'elasticities': {_EVIL: -0.5},
              'shadow_prices': {_EVIL: {'value': 1.0, 'note': _EVIL}}},
  )  # fmt: skip
  curve = dataclasses.replace(data.latency.curves[0], label=_EVIL)
  curves = report.CurveSet([curve, curve], _EVIL, {_EVIL: 1e6})
  machine = dataclasses.replace(
    data.machine, name=_EVIL, facts={_EVIL: _EVIL}, noise=_EVIL
  )
  text = report.render_report(report.ReportData(
    title=_EVIL, machine=machine, latency=curves, bandwidth=[curves],
    held_out=[{**data.held_out[0], 'op': _EVIL, 'tier': _EVIL}],
    programs=[report.Program(_EVIL, _EVIL, 1.0, 2.0)], plan=plan,
    parameters=[report.Parameter(_EVIL, 1.0, '1', 0.1, 1.0, 'fitted', _EVIL)],
    provenance=report.Provenance({_EVIL: _EVIL}, {_EVIL: _EVIL}, _EVIL),
  ))  # fmt: skip
  checker = _check(text)
  assert checker.scripts == 1
  assert _EVIL not in text
  assert _EVIL in ''.join(checker.texts)
  for drawing in _drawings(text):
    ET.fromstring(drawing)


@pytest.mark.parametrize(
  'part', [f.name for f in dataclasses.fields(report.ReportData)][1:-1]
)
def test_each_part_stands_alone(part):
  data = report.ReportData(**{part: getattr(demo.report_data(), part)})
  text = report.render_report(data)
  assert len(_check(text).sections) == (0 if part == 'machine' else 1)


def test_an_empty_report_invents_nothing():
  checker = _check(report.render_report(report.ReportData()))
  assert checker.sections == []
  assert not _drawings(report.render_report(report.ReportData()))


def test_null_keys_of_a_plan_are_left_out(whole):
  assert '$/Mtoken' not in whole
  assert 'Rounding loss' not in whole
  bare = report.Plan({'plans': [{'mesh': None, 'predicted': None}]})
  text = report.render_report(report.ReportData(plan=bare))
  _check(text)
  assert 'Elasticity' not in text and 'Catalog prior' not in text
  assert not _drawings(text)


def test_banners_mark_priors_and_hypotheses(whole):
  assert 'Catalog prior.' in whole
  assert 'Hypothetical workload.' in whole


def test_doubtful_parameters_are_marked(whole):
  assert whole.count('>◐ unidentified<') == 2
  assert whole.count('>○ prior only<') == 2
  assert 'RAPL needs root' in whole


def _saved(text, name):
  link = re.search(rf'href="(data:[^"]*)" download="{name}.csv"', text)[1]
  head, _, body = html.unescape(link).partition(',')
  assert head == 'data:text/csv;charset=utf-8'
  return list(csv.reader(io.StringIO(urllib.parse.unquote(body))))


def test_csv_gives_back_every_bit(whole):
  curve = demo.report_data().latency.curves[0]
  head, *rows = _saved(whole, 'latency')
  assert head[1:4] == ['working_set_B', 'measured_s', 'fitted_s']
  np.testing.assert_array_equal([float(r[1]) for r in rows], curve.x)
  np.testing.assert_array_equal([float(r[2]) for r in rows], curve.measured)
  np.testing.assert_array_equal([float(r[3]) for r in rows], curve.fitted)


def test_csv_quotes_and_leaves_nulls_empty():
  data = figure.Data(['a', 'b'], [('x, "y"\nz', math.nan), (None, 0.1)])
  rows = list(csv.reader(io.StringIO(data.to_csv())))
  assert rows == [['a', 'b'], ['x, "y"\nz', ''], ['', '0.1']]


def test_gaps_in_the_data_are_not_drawn():
  curve = report.Curve(
    '', [4096, 8192, 16384, 32768], [1e-9, np.nan, 0.0, 4e-9],
    [1e-9, 2e-9, np.nan, np.inf],
  )  # fmt: skip
  text = report.render_report(
    report.ReportData(latency=report.CurveSet([curve]))
  )
  _check(text)
  assert not re.search(r'\b(nan|inf)\b', ''.join(_drawings(text)), re.I)


def test_curves_of_nothing_have_no_section():
  curve = report.Curve('', [1.0], [np.nan])
  data = report.ReportData(latency=report.CurveSet([curve]))
  assert _check(report.render_report(data)).sections == []


def test_unequal_lengths_are_refused():
  with pytest.raises(ValueError, match=r'Curve\.fitted has shape'):
    report.Curve('', [1.0, 2.0], [1.0, 2.0], [1.0])


def test_what_is_not_finite_cannot_be_drawn():
  with pytest.raises(ValueError, match='cannot be drawn'):
    markup.tag('path', x=math.nan)


def test_labels_are_moved_apart_in_order():
  placed = svg.spread([50, 52, 51, 10], 15, 0, 60)
  assert sorted(placed) == [placed[i] for i in (3, 0, 2, 1)]
  assert np.diff(sorted(placed)).min() >= 15 - 1e-9


def test_many_groups_share_one_style_each():
  groups = {f'g{i}': 1e9 + i for i in range(12)}
  plan = dataclasses.replace(demo.report_data().plan, memory={'HBM': groups})
  text = report.render_report(report.ReportData(plan=plan))
  assert '>other<' in text
  assert len(_saved(text, 'plan-memory')) == 13


def test_write_report_replaces_the_file(tmp_path):
  path = tmp_path / 'runs' / 'report.html'
  assert report.write_report(path, report.ReportData(title='one')) == path
  report.write_report(path, demo.report_data())
  assert 'demo-xeon' in path.read_text(encoding='utf-8')
  assert [p.name for p in path.parent.iterdir()] == ['report.html']


def test_page_does_not_need_matplotlib(tmp_path):
  code = (
    'import sys; from diffmem import report; '
    f'report.write_report({str(tmp_path / "r.html")!r}, report.ReportData()); '
    'sys.exit("matplotlib" in sys.modules)'
  )
  root = pathlib.Path(__file__).parents[2]
  assert subprocess.run([sys.executable, '-c', code], cwd=root).returncode == 0


def test_assets_have_no_open_placeholder(whole):
  assert not re.search(r'\{\{\w+\}\}', whole)
  assert page.render('{{style}}', markup.Markup(''), []).count('{{style}}') == 1
